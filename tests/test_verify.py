"""Every invariant of a graph, broken once."""

from unittest import mock

import numpy as np
import pytest

from staticgraph import fusion, ops
from staticgraph.errors import InternalError
from staticgraph.ir import CONSTANT, INPUT, Graph, Node, Op, Variable, apply
from staticgraph.operands import constant
from staticgraph.registry import OPS
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, spec
from staticgraph.verify import verify

F2 = spec((2,))


def leaf(*shape, dtype="float32", name="x"):
    return apply(INPUT, name=name, type=spec(shape, dtype))


def variable(*shape, name="w"):
    return Variable(np.ones(shape, "f"), name, None)


def node(op, *operands, types=(F2,), clone=0, **attrs):
    """A node as a faulty pass would make it: no type rule is asked."""
    return Node(OPS[op] if isinstance(op, str) else op, operands, attrs, types, ("m.py", 3), clone)


def result(*args, **kwargs):
    return node(*args, **kwargs).results[0]


X = leaf(2)
W = variable(2)


def cycle():
    first = node("exp", X)
    second = node("exp", first.results[0])
    first.operands = second.results
    return Graph([X], second.results)


def stolen():
    thief = node("exp", X)
    thief.results = node("log", X).results
    return Graph([X], [Tensor(thief, 0, F2)])


def foreign():
    return Graph([X], [Tensor(node("exp", X), 0, F2)])


def edited(**changes):
    graph = Graph([X], [ops.exp(X)])
    for name, value in changes.items():
        setattr(graph, name, value)
    return graph


def call(body, *operands):
    types = tuple(t.type for t in body.outputs)
    return Graph([X], node("fusion", *operands, types=types, body=body).results)


def writable():
    return result(CONSTANT, value=np.zeros(2, "f"))


class Stranger(Op):
    name = "exp"

    def infer(self, *types):
        return types[0]


P = leaf(2, name="p0")
BROKEN = {
    "input twice": (lambda: Graph([X, X], []), "an input is listed twice"),
    "no input": (lambda: edited(inputs=(ops.exp(X),)), "exp is listed as an input"),
    "stray input": (lambda: Graph([], [ops.exp(X)]), "input 'x' is used but not among the inputs"),
    "no tensor": (lambda: edited(outputs=(3,)), "a graph is made of tensors, got int"),
    "operand": (lambda: Graph([X], [result("exp", X.node)]), "operand 0 of exp is no tensor"),
    "cycle": (cycle, "operand 0 of exp(f32[2]) -> f32[2] is not defined before it"),
    "stolen result": (stolen, "result 0 of exp belongs to another node"),
    "foreign root": (foreign, "a root <Tensor exp: f32[2]> is no result of its node"),
    "wrong type": (
        lambda: Graph([X], [result("exp", X, types=(spec((3,)),))]),
        "exp(f32[2]) -> f32[3] should give f32[2]",
    ),
    "two results": (
        lambda: Graph([X], [result("exp", X, types=(F2, F2))]),
        "exp(f32[2]) -> f32[2], f32[2] should give f32[2]",
    ),
    "refused": (
        lambda: Graph([X], [result("add", X, leaf(3))]),
        "input 'x' is used but not among the inputs",
    ),
    "rule": (
        lambda: Graph([X], [result("sum", X, types=(spec(()),), axes=(3,))]),
        "sum(f32[2]) -> f32[] does not fit its op's type rule: sum: axes (3,) must be ascending"
        " axes of f32[2]",
    ),
    "attrs": (
        lambda: Graph([X], [result("exp", X, alpha=1)]),
        "exp(f32[2]) -> f32[2] does not fit its op's type rule: call() got an unexpected keyword"
        " argument 'alpha'",
    ),
    "list": (
        lambda: Graph([X], [result("reshape", X, shape=[2])]),
        "attribute shape of reshape holds a list",
    ),
    "NumPy scalar": (
        lambda: Graph([X], [result("reshape", X, shape=(np.int64(2),))]),
        "attribute shape of reshape holds a int64",
    ),
    "NumPy shape": (
        lambda: Graph([X], [result("exp", X, types=(TensorType("float32", (np.int64(2),)),))]),
        "result 0 of exp has the type TensorType(dtype='float32', shape=(np.int64(2),))",
    ),
    "dtype": (
        lambda: Graph([X], [result("exp", X, types=(TensorType("f4", (2,)),))]),
        "result 0 of exp has the type TensorType(dtype='f4', shape=(2,))",
    ),
    "clone": (lambda: Graph([X], [result("exp", X, clone=-1)]), "exp has clone -1"),
    "unregistered": (
        lambda: Graph([X], [result(Stranger(), X)]),
        "op 'exp' is not registered",
    ),
    "no results": (
        lambda: Graph([X], [Tensor(node("exp", X, types=()), 0, F2)]),
        "exp has no results",
    ),
    "writable": (lambda: Graph([], [writable()]), "the array of a constant can be written to"),
    "update type": (
        lambda: Graph([], [], {W: constant([1.0, 2.0, 3.0])}),
        "variable 'w' is f32[2], its update is f32[3]",
    ),
    "update twice": (
        lambda: Graph([], [], [(W, W + 1), (W, W + 2)]),
        "variable 'w' is updated twice",
    ),
    "update of an input": (
        lambda: Graph([X], [], [(X, X)]),
        "an update of Tensor, not of a variable",
    ),
    "open body": (
        lambda: call(Graph([P], [P + ops.exp(X)]), X),
        "in a body of fusion: input 'x' is used but not among the inputs",
    ),
    "variable in a body": (
        lambda: call(Graph([P], [P + W]), X),
        "in a body of fusion: a body reads a variable that is no operand of its node",
    ),
    "update in a body": (
        lambda: call(Graph([P], [P], {W: P}), X),
        "in a body of fusion: a body updates a variable",
    ),
    "deep": (
        lambda: call(Graph([P], call(Graph([], [P]), P).outputs), X),
        "in a body of fusion: fusion(f32[2]) -> f32[2] does not fit its op's type rule: fusion:"
        " operands and inputs of the body differ in type",
    ),
}


@pytest.mark.parametrize(("make", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_graph_is_named(make, message):
    with pytest.raises(InternalError) as caught:
        verify(make())
    assert caught.value.summary == f"verify: {message}"
    assert caught.value.__notes__


def test_the_note_is_the_graph_with_lines():
    bad = result("exp", X, types=(spec((3,)),))
    with pytest.raises(InternalError) as caught:
        verify(Graph([X], [bad]))
    assert caught.value.where == ("m.py", 3)
    assert caught.value.__notes__ == [
        "graph main(%x: f32[2]) {\n  %0: f32[3] = exp(%x)  # m.py:3\n  return %0\n}"
    ]


def test_a_graph_too_broken_to_print_is_still_named():
    with pytest.raises(InternalError) as caught:
        verify(edited(outputs=(3,)))
    assert caught.value.__notes__[0].startswith("(the graph is too broken to print: ")


def test_whole_graphs_pass():
    x, w = leaf(2, 3), variable(3, 4)
    y = ops.relu(x @ w).sum()
    graph = Graph([x, leaf(5, name="unused")], [y, x], {w: w * 2.0})
    assert verify(graph) is graph
    body = Graph([P], [ops.exp(P), P])
    assert verify(call(body, X))
    rule = {"exp2": mock.Mock(wraps=Stranger(), infer=lambda *t, rule: t[0])}
    rule["exp2"].name = "exp2"
    with mock.patch.dict(OPS, rule):
        verify(Graph([X], [result("exp2", X, rule=leaf)]))


def test_fusion_is_an_op():
    assert OPS["fusion"] is fusion.FUSION
