"""The same op tables as `test_ops_reference`, through compiled kernels.

Values against the row's own oracle; gradients of both orders against the interpreter, which
`test_ops_reference` holds to finite differences; and the two pipelines against each other, bit by
bit.
"""

from __future__ import annotations

import numpy as np
import pytest
from samples import SAMPLES
from test_ops_reference import TOLERANCE, by_id, inputs_for, results

import staticgraph as sg
from staticgraph.interpret import run
from staticgraph.ir import Graph

# An op's own tolerance in units of the dtype's is 1; kernels add in another order than NumPy.
SLACK = {"float32": 30.0, "complex64": 30.0, "float64": 100.0, "complex128": 100.0}


def close(got: np.ndarray, want: np.ndarray, dtype: str) -> None:
    assert got.shape == want.shape
    if got.dtype.kind not in "fc":
        np.testing.assert_array_equal(got, want)
        return
    tolerance = TOLERANCE[got.dtype.name] * SLACK[got.dtype.name]
    largest = np.abs(want[np.isfinite(want)]).max(initial=0.0)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * max(largest, 0.05))


def derivatives(sample, inputs: list, outputs: list) -> list:
    """Gradient of a weighted sum of the float results, and the gradient of a sum of its squares."""
    floats = [inputs[k] for k in sample.floats if np.dtype(inputs[k].dtype).kind == "f"]
    real = [t for t in outputs if np.dtype(t.dtype).kind == "f" and t.size]
    if not floats or not real or not sample.orders:
        return []
    total = sg.ops.add_n(
        [
            (
                t
                * (1.0 + 0.5 * sg.ops.cos(sg.ops.iota((t.size,)).reshape(t.shape).astype(t.dtype)))
            ).sum()
            for t in real
        ]
    )
    first = sg.grad(total, floats)
    if sample.orders < 2:
        return list(first)
    again = sg.ops.add_n([(g * g).sum() for g in first])
    return [*first, *sg.grad(again, floats)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sample", SAMPLES, ids=by_id)
def test_kernels(sample, dtype):
    arrays = sample.arrays(dtype)
    inputs = inputs_for(arrays)
    outputs = results(sample.build(*inputs))
    extra = derivatives(sample, inputs, outputs)
    got = sg.compile([*outputs, *extra], inputs)(*arrays)
    for a, b in zip(got, sample.wanted(arrays), strict=False):
        assert a.dtype == sample.dtype_of(b, dtype)
        close(a, b, dtype)
    if extra:
        wide = sample.arrays("float64")
        exact = inputs_for(wide)
        reference = run(
            Graph(exact, derivatives(sample, exact, results(sample.build(*exact)))), wide
        )
        for a, b in zip(got[len(outputs) :], reference, strict=True):
            close(a, b, dtype)


#: rows whose sums run in another order without fusion: a product by a vector picks its order by
#: the layout that the view before it leaves, a sum over several axes by those that join
ANOTHER_ORDER = {
    "matmul-4xbyx4x2",
    "matmul-3x4xbyx4",
    "einsum-outer",
    "einsum-ellipsis",
    "einsum-network",
    "tensordot-axes",
    "rnn_cell-relu",
    "conv-all",
    "depthwise_conv",
    "conv_transpose2d",
    "group_norm",
    "layer_norm-shape",
    "instance_norm",
    "instance_norm-mvn",
}


@pytest.mark.slow
@pytest.mark.parametrize("sample", SAMPLES, ids=by_id)
def test_no_pass_changes_a_bit(sample):
    arrays = sample.arrays("float32")
    inputs = inputs_for(arrays)
    outputs = results(sample.build(*inputs))
    outputs += derivatives(sample, inputs, outputs)
    fused = sg.compile(outputs, inputs)(*arrays)
    plain = sg.compile(outputs, inputs, pipeline="none")(*arrays)
    for a, b in zip(fused, plain, strict=True):
        if sample.id in ANOTHER_ORDER:
            close(a, b, "float32")
        else:
            np.testing.assert_array_equal(a, b)
