"""Operators and methods of a tensor mean what they mean for an array, in either order."""

from __future__ import annotations

import operator

import numpy as np
import pytest

import staticgraph as sg
from staticgraph.interpret import run
from staticgraph.ir import Graph

ops = sg.ops

FLOATS = np.array([[2.5, -1.25], [0.5, 3.0]])
INTEGERS = np.array([[5, -3], [2, 7]])
SHIFTS = np.array([[1, 2], [0, 3]])
BOOLS = np.array([[True, False], [True, True]])
ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "matmul")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
#: operators, their left operand and their right one
BINARY = {
    **{name: (FLOATS, FLOATS.T + 0.25) for name in (*ARITHMETIC, *COMPARISONS)},
    "pow": (np.abs(FLOATS), FLOATS.T),
    **{name: (INTEGERS, SHIFTS) for name in ("and_", "or_", "xor", "lshift", "rshift")},
}


def value(function, *arrays, shown=()):
    """What the function of tensors computes; operands numbered in `shown` stay arrays."""
    inputs = [sg.input(f"x{k}", a.shape, a.dtype) for k, a in enumerate(arrays)]
    given = [a if k in shown else t for k, (t, a) in enumerate(zip(inputs, arrays, strict=True))]
    result = function(*given)
    assert isinstance(result, sg.Tensor)
    (found,) = run(Graph(inputs, [result]), arrays)
    return found


@pytest.mark.parametrize("shown", [(), (0,), (1,)], ids=["tensors", "array first", "array last"])
@pytest.mark.parametrize("name", BINARY)
def test_binary_operators(name, shown):
    function = getattr(operator, name)
    expected = function(*BINARY[name])
    found = value(function, *BINARY[name], shown=shown)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", [n for n in BINARY if n != "matmul"])
def test_numbers_on_either_side(name):
    function, (x, y) = getattr(operator, name), BINARY[name]
    left, right = x.flat[0].item(), y.flat[0].item()
    np.testing.assert_allclose(value(lambda t: function(left, t), y), function(left, y), rtol=1e-12)
    np.testing.assert_allclose(
        value(lambda t: function(t, right), x), function(x, right), rtol=1e-12
    )


def test_unary_operators():
    for function in (operator.neg, operator.pos, operator.abs):
        np.testing.assert_array_equal(value(function, FLOATS), function(FLOATS))
    for x in (INTEGERS, BOOLS):
        np.testing.assert_array_equal(value(operator.invert, x), ~x)


METHODS = {
    "sum": (1,), "mean": (0,), "max": (1,), "min": (0,), "prod": (1,), "var": (0,), "std": (1,),
    "argmax": (1,), "argmin": (0,), "clip": (-1.0, 1.0), "swapaxes": (0, 1), "round": (),
    "reshape": (4, 1), "transpose": (1, 0), "flatten": (), "dot": (FLOATS,), "conj": (),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_those_of_arrays(name):
    found = value(lambda t: getattr(t, name)(*METHODS[name]), FLOATS)
    np.testing.assert_allclose(found, getattr(FLOATS, name)(*METHODS[name]), rtol=1e-12)


@pytest.mark.parametrize("name", ["exp", "log", "sqrt", "tanh"])
def test_methods_are_functions_of_numpy(name):
    positive = np.abs(FLOATS)
    expected = getattr(np, name)(positive)
    np.testing.assert_allclose(value(lambda t: getattr(t, name)(), positive), expected, rtol=1e-12)
    np.testing.assert_allclose(value(getattr(np, name), positive), expected, rtol=1e-12)


def test_views():
    x = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(value(lambda t: t.T, x), x.T)
    np.testing.assert_array_equal(value(lambda t: t.mT, x), np.swapaxes(x, 1, 2))
    np.testing.assert_array_equal(value(lambda t: t[1, :, ::2], x), x[1, :, ::2])
    np.testing.assert_array_equal(value(lambda t: t.reshape((6, -1)), x), x.reshape(6, -1))
    np.testing.assert_array_equal(value(lambda t: t.transpose(), x), x.T)
    np.testing.assert_array_equal(value(lambda t: t[:1].squeeze(0), x), x[0])
    assert value(lambda t: t.astype("int64"), x).dtype == np.int64
    assert value(lambda t: (t > 3.0).all(), x) == np.False_
    assert value(lambda t: (t > 3.0).any(), x) == np.True_
    with pytest.raises(sg.ShapeError, match="mT: needs at least 2 axes"):
        _ = sg.input("x", (3,)).mT


def test_what_a_tensor_says_of_itself():
    x = sg.input("x", (2, 3), "int32")
    assert (x.shape, x.dtype, x.ndim, x.size, len(x)) == ((2, 3), np.dtype("int32"), 2, 6, 2)
    assert repr(x) == "<Tensor x: i32[2, 3]>"
    assert repr(x + 1) == "<Tensor add: i32[2, 3]>"
    assert {x: 1}[x] == 1
    assert x + 1 not in {x: 1}
