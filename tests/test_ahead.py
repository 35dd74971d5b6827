"""Rows in several stages ask for memory ahead: which lines of source do, and that results stay."""

import re

import numpy as np
import pytest

import staticgraph as sg
from staticgraph.codegen.ahead import LONGEST_ROW

ops = sg.ops


def requests(*outputs):
    """The requests of the only kernel, each with the stage (of the row's loops) that makes it."""
    source = sg.compile(outputs).kernels[0].source
    stages = source.split("for i1 in range(0, ")[1:]
    return [
        (level, *found)
        for level, text in enumerate(stages)
        for found in re.findall(r"(fetch|claim)_\w+\((\w+), (.*)\)", text)
    ]


def test_the_stage_that_computes_most_asks():
    """Softmax: the maximum, the exponentials and their sum, the quotients."""
    x = sg.input("x", (300, 160))
    assert requests(ops.softmax(x)) == [
        (1, "fetch", "x0", "i0 * 160 + i1 + 160"),
        (1, "claim", "y0", "i0 * 160 + i1"),
    ]


def test_two_lines_of_wide_numbers():
    x = sg.input("x", (300, 160), "float64")
    assert requests(ops.softmax(x)) == [
        (1, "fetch", "x0", "i0 * 160 + i1 + 160"),
        (1, "fetch", "x0", "i0 * 160 + i1 + 168"),
        (1, "claim", "y0", "i0 * 160 + i1"),
        (1, "claim", "y0", "i0 * 160 + i1 + 8"),
    ]


def test_what_every_row_reads_stays_near_by_itself():
    x, scale = sg.input("x", (300, 160)), sg.input("scale", (160,))
    asked = requests(ops.layer_norm(x, scale, scale))
    assert {place for _, _, _, place in asked} <= {"i0 * 160 + i1", "i0 * 160 + i1 + 160"}
    assert [name for _, name, _, _ in asked] == ["fetch", "claim"]


@pytest.mark.parametrize(
    ("function", "columns"),
    [
        (lambda x: ops.sum(x, axis=1), 160),
        (ops.exp, 160),
        (ops.softmax, LONGEST_ROW // 4 + 16),
    ],
    ids=["one stage", "no row", "long rows"],
)
def test_streams_need_no_requests(function, columns):
    assert requests(function(sg.input("x", (300, columns)))) == []


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 100, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_at_all_widths(columns, dtype, rng):
    """Two partial results per row, one of which may be empty; nothing beyond the last row."""
    x = sg.input("x", (7, columns), dtype)
    found = sg.compile([ops.sum(x, axis=1), ops.max(x, axis=1), ops.var(x, axis=1)])
    values = rng.standard_normal((7, columns)).astype(dtype)
    total, largest, spread = found(values)
    eps = np.finfo(dtype).eps
    wide = values.astype("float64")
    np.testing.assert_allclose(total, wide.sum(1), atol=columns * eps)
    np.testing.assert_array_equal(largest, values.max(1))
    np.testing.assert_allclose(spread, wide.var(1), atol=columns * eps)
