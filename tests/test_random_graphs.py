"""Random graphs: compiled equals interpreted, and no pass changes a bit."""

from __future__ import annotations

import numpy as np
import pytest
from random_graphs import Builder

import staticgraph as sg
from staticgraph import interpret
from staticgraph.ir import Graph
from staticgraph.passes import PIPELINES

TOLERANCE = {"float32": 2e-3, "float64": 1e-9}


def check(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dtype = "float64" if seed % 3 == 0 else "float32"
    builder = Builder(rng, dtype)
    inputs, outputs = builder.build(int(rng.integers(3, 25)), 3)
    arrays = builder.arrays()
    with np.errstate(all="ignore"):
        expected = interpret.run(Graph(inputs, outputs), arrays)
    plain = sg.compile(outputs, inputs, pipeline="none")(*arrays)
    tolerance = TOLERANCE[dtype]
    for want, got in zip(expected, plain, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    passes = PIPELINES["default"].passes
    for stop in (len(passes), seed % len(passes)):
        pipeline = sg.Pipeline(passes[:stop], verify=True)
        for a, b in zip(
            plain, sg.compile(outputs, inputs, pipeline=pipeline)(*arrays), strict=True
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(1000, 1040))
def test_random_graph(seed):
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2000, 2060))
def test_more_random_graphs(seed):
    check(seed)
