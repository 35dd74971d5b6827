"""What users get wrong, and the whole message they get for it, with their own file and line."""

import numpy as np
import pytest

import staticgraph as sg
from staticgraph import errors, interpret, ops
from staticgraph.errors import (
    GradientError,
    GraphTypeError,
    InputError,
    ParseError,
    ShapeError,
    StaticGraphError,
)
from staticgraph.gradient import grad, hessian, hvp, jacobian, jvp, vjp
from staticgraph.ir import CONSTANT, INPUT, Graph, Variable, apply, postorder
from staticgraph.operands import constant
from staticgraph.text import parse
from staticgraph.types import promote, spec

FILE = "test_errors.py"


def leaf(*shape, dtype="float32"):
    return apply(INPUT, name="x", type=spec(shape, dtype))


def i64(*shape):
    return leaf(*shape, dtype="int64")


def c64(*shape):
    return leaf(*shape, dtype="complex64")


def b1(*shape):
    return leaf(*shape, dtype="bool")


X = leaf(2, 3)
W = Variable(np.ones((2, 3), "f"), "w", None)
COUNT = Variable(np.zeros(2, "int32"), "count", None)

DTYPES = (
    "bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float32, float64, complex64,"
    " complex128"
)
NO_VALUE = (
    "a tensor ({}) has no truth value while the graph is built: its numbers come when it runs;"
    " choose between values with sg.ops.where, between computations with sg.cond"
)
NO_ITERATION = (
    "a tensor ({}) cannot be iterated over; take x[i] for each i you need,"
    " or sg.ops.unstack(x, axis=0)"
)
NO_NUMBERS = (
    "a tensor ({}) has no numbers while the graph is built: compile it with sg.compile(tensor) and"
    " call the result, or use the functions of sg.ops instead of NumPy's"
)
NO_SCALAR = "a tensor ({}) is no Python number; compile it and call the result"
NO_BROADCAST = "do not broadcast: counted from the right, sizes must be equal or 1"
NO_SLOPE = "and only floats have derivatives; cast it with .astype('float32')"

# what the user writes, the class, the message
# fmt: off
TABLE = [
    # broadcasting
    (lambda: X + leaf(4), ShapeError, f"add: f32[2, 3] and f32[4] {NO_BROADCAST}"),
    (lambda: X * leaf(2, 4), ShapeError, f"multiply: f32[2, 3] and f32[2, 4] {NO_BROADCAST}"),
    (lambda: X - leaf(2), ShapeError,
     f"subtract: f32[2, 3] and f32[2] {NO_BROADCAST}; to add one value per row, give the shorter"
     " one an axis: x[:, None]"),
    (lambda: np.ones((2, 4), "f") * X, ShapeError,
     f"multiply: f32[2, 4] and f32[2, 3] {NO_BROADCAST}"),
    (lambda: ops.where(X > 0, X, leaf(5)), ShapeError,
     f"where: b1[2, 3] and f32[2, 3] and f32[5] {NO_BROADCAST}"),
    (lambda: ops.broadcast_to(X, (2, 4)), ShapeError,
     "broadcast_to: f32[2, 3] does not broadcast to (2, 4)"),
    # dtypes
    (lambda: i64(2) + leaf(2, dtype="uint64"), GraphTypeError,
     "add: no integer dtype holds both int64 and uint64; cast one operand with .astype"),
    (lambda: X & X, GraphTypeError,
     "bitwise_and: needs integers or bools of one dtype, got float32, float32"),
    (lambda: X << 1, GraphTypeError,
     "left_shift: needs integers of one dtype, got float32, float32"),
    (lambda: -b1(2), GraphTypeError, "negative: needs numbers of one dtype, got bool"),
    (lambda: c64(2) < 1, GraphTypeError,
     "less: needs real operands of one dtype, got complex64, complex64"),
    (lambda: ops.floor(c64(2)), GraphTypeError, "floor: needs real numbers, got complex64"),
    (lambda: c64(2).max(), GraphTypeError, "max: complex numbers have no order, got c64[2]"),
    (lambda: i64(3) ** -1, GraphTypeError,
     "power: integers (i64[3]) take no negative exponent (-1); use .astype('float32')"),
    (lambda: X.astype("float16"), GraphTypeError,
     f"dtype 'float16' is not supported; the dtypes are {DTYPES}"),
    (lambda: X.astype(None), GraphTypeError,
     f"a dtype is needed, got None; the dtypes are {DTYPES}"),
    (lambda: spec((2,), object), GraphTypeError,
     f"dtype 'object' is not supported; the dtypes are {DTYPES}"),
    (lambda: leaf(2, dtype="uint8") + 256, GraphTypeError,
     "add: 256 is out of range for uint8; cast the tensor with .astype"),
    (lambda: leaf(2, dtype="uint64") > -1, GraphTypeError,
     "greater: -1 is out of range for uint64; cast the tensor with .astype"),
    (lambda: i64(2) * 2**70, GraphTypeError,
     f"multiply: {2**70} is out of range for int64; cast the tensor with .astype"),
    (lambda: promote("int64", "uint64"), GraphTypeError,
     "no integer dtype holds both int64 and uint64; cast one operand with .astype"),
    # arguments
    (lambda: ops.add(X, None), GraphTypeError,
     "add: operand 1 must be a tensor, array or number, got NoneType"),
    (lambda: X * "2", GraphTypeError,
     "multiply: operand 1 must be a tensor, array or number, got str"),
    (lambda: None - X, GraphTypeError,
     "subtract: operand 0 must be a tensor, array or number, got NoneType"),
    (lambda: ops.exp("x"), GraphTypeError,
     "exp: operand 0 must be a tensor, array or number, got str"),
    (lambda: ops.add(X), GraphTypeError, "add: takes 2 operands (x1, x2), got 1"),
    (lambda: ops.exp(X, out=None), GraphTypeError, "exp: unknown argument 'out'; it takes x"),
    (lambda: ops.relu(X, inplace=True), GraphTypeError,
     "relu: unknown argument 'inplace'; it takes x"),
    (lambda: ops.add(X, X, x1=X), GraphTypeError, "add: 'x1' is given twice"),
    (lambda: ops.sum("x"), GraphTypeError, "sum: x must be a tensor or an array, got str"),
    (lambda: ops.gelu(X, approximate="fast"), GraphTypeError,
     "gelu: approximate is 'none' or 'tanh', got 'fast'"),
    (lambda: constant("abc"), GraphTypeError, "constant: needs numbers, got an array of <U3"),
    (lambda: constant(X), GraphTypeError, "constant: needs numbers, got a tensor (f32[2, 3])"),
    (lambda: constant("abc", "float32"), GraphTypeError,
     "constant: needs numbers, got an array of <U3"),
    (lambda: constant(1j, "float32"), GraphTypeError, "constant: float32 cannot hold 1j"),
    (lambda: constant([1j], "int8"), GraphTypeError,
     "constant: int8 cannot hold an array of complex128"),
    (lambda: constant(float("nan"), "int32"), GraphTypeError, "constant: int32 cannot hold nan"),
    (lambda: constant(np.array(np.inf), "int32"), GraphTypeError,
     "constant: int32 cannot hold inf"),
    (lambda: constant(300, "int8"), GraphTypeError, "constant: int8 cannot hold 300"),
    (lambda: constant([0, -1], "uint8"), GraphTypeError,
     "constant: uint8 cannot hold an array of int64"),
    (lambda: sg.variable(X), GraphTypeError, "variable: needs numbers, got a tensor (f32[2, 3])"),
    (lambda: sg.variable(["a"]), GraphTypeError, "variable: needs numbers, got an array of <U1"),
    (lambda: sg.variable(0, name=5), GraphTypeError, "variable: the name must be a string, got 5"),
    (lambda: ops.arange(0, 3, 0), ShapeError, "arange: step must not be 0"),
    (lambda: ops.add_n([]), GraphTypeError, "add_n: needs at least one tensor"),
    (lambda: Graph([X], [3.0]), GraphTypeError,
     "Graph: inputs, outputs and updates are tensors, got float"),
    (lambda: sg.checkpoint(3), GraphTypeError, "checkpoint: needs a function of tensors, got int"),
    (lambda: sg.custom_gradient(X), GraphTypeError,
     "custom_gradient: needs a function of tensors, got Tensor"),
    (lambda: sg.check_grad(3, [1.0]), GraphTypeError,
     "check_grad: needs a function of tensors, got int"),
    (lambda: sg.graph_pass("cse"), GraphTypeError,
     "graph_pass: a pass is a Python function from Graph to Graph, got str"),
    (lambda: sg.Pipeline([sg.passes.cse, None]), GraphTypeError,
     "graph_pass: a pass is a Python function from Graph to Graph, got NoneType"),
    (lambda: sg.compile(X, updates=[(W, X)]), GraphTypeError,
     "compile: updates= is a dict from variables to tensors, got list"),
    (lambda: sg.compile(X, 3), InputError,
     "compile: inputs= takes tensors made by sg.input, got 3"),
    (lambda: sg.compile(X, threads=0), InputError, "threads must be from 1 to 1024, not 0"),
    (lambda: sg.threads(1.5), InputError, "threads must be a whole number of threads, not 1.5"),
    (lambda: sg.random.bernoulli(sg.random.key(0), 0.3, (5,)), ShapeError,
     "random.bernoulli: the shape comes before p; give p=0.3 by name"),
    # axes
    (lambda: X.sum(axis=2), ShapeError, "sum: axis 2 is out of range for 2 axes"),
    (lambda: X.mean(axis=-3), ShapeError, "mean: axis -3 is out of range for 2 axes"),
    (lambda: X.sum(axis=(0, -2)), ShapeError, "sum: axis (0, -2) names an axis twice"),
    (lambda: X.sum(axis=1.0), GraphTypeError, "sum: an axis is an int, got 1.0"),
    (lambda: X.sum(axis="rows"), GraphTypeError, "sum: an axis is an int, got 'rows'"),
    (lambda: leaf(2, 0).max(axis=1), ShapeError, "max: axis of size 0 in f32[2, 0] has no max"),
    (lambda: X.argmax(axis=5), ShapeError, "argmax: axis 5 is out of range for 2 axes"),
    (lambda: X.transpose(0, 0), ShapeError,
     "transpose: axes (0, 0) are not a permutation of the 2 axes of f32[2, 3]"),
    (lambda: X.transpose(0, 2), ShapeError, "transpose: axis 2 is out of range for 2 axes"),
    (lambda: leaf(2).mT, ShapeError, "mT: needs at least 2 axes, got f32[2]"),
    (lambda: ops.squeeze(X, axis=0), ShapeError, "squeeze: axis 0 of f32[2, 3] has size 2, not 1"),
    (lambda: ops.expand_dims(X, (0, 0)), ShapeError,
     "expand_dims: axis (0, 0) names an axis twice"),
    (lambda: ops.flip(X, 2), ShapeError, "flip: axis 2 is out of range for 2 axes"),
    # shapes
    (lambda: X.reshape(4, 2), ShapeError, "reshape: f32[2, 3] has 6 elements, shape (4, 2) has 8"),
    (lambda: X.reshape(-1, 4), ShapeError,
     "reshape: f32[2, 3] has 6 elements, which shape (-1, 4) does not divide"),
    (lambda: X.reshape(-1, -1), ShapeError, "reshape: only one size may be -1, got (-1, -1)"),
    (lambda: X.reshape(2.0, 3), ShapeError, "a shape holds static ints, got 2.0 in (2.0, 3)"),
    (lambda: ops.zeros((2, -1)), ShapeError, "a shape holds ints >= 0, got (2, -1)"),
    (lambda: ops.zeros(2.5), ShapeError, "a shape is an int or a sequence of ints, got 2.5"),
    (lambda: ops.eye(-1), ShapeError, "a shape holds ints >= 0, got (-1, -1)"),
    (lambda: ops.tile(X, (2.5, 1)), ShapeError,
     "tile: reps is an int >= 0 or a sequence of them, got (2.5, 1)"),
    (lambda: ops.split(leaf(5), 2), ShapeError,
     "split: axis 0 of f32[5] does not divide into 2 equal parts"),
    (lambda: ops.crop(leaf(4), (3,), (2,)), ShapeError,
     "crop: offset (3,) with size (2,) leaves f32[4]"),
    (lambda: ops.pad(X, (1, 2, 3)), ShapeError,
     "pad: pad_width (1, 2, 3) does not fit f32[2, 3]: give an int, a pair, or a pair per axis"),
    (lambda: ops.pad(X, 1.5), ShapeError,
     "pad: pad_width 1.5 does not fit f32[2, 3]: give an int, a pair, or a pair per axis"),
    (lambda: ops.pad(X, -1), ShapeError, "pad: widths must be >= 0, got -1"),
    (lambda: ops.pad(X, 1, mode="mirror"), GraphTypeError,
     "pad: mode is constant, reflect, symmetric, edge or wrap, got 'mirror'"),
    # indices
    (lambda: X[2], ShapeError, "index: index 2 is outside -2..1, axis 0 of f32[2, 3]"),
    (lambda: X[:, [0, 5]], ShapeError, "index: index 5 is outside -3..2, axis 1 of f32[2, 3]"),
    (lambda: X[0, 0, 0], ShapeError, "index: 3 indices for the 2 axes of f32[2, 3]"),
    (lambda: X[1.5], GraphTypeError, "index: indices are integers, got an array of float64"),
    (lambda: X[..., ...], ShapeError, "index: only one ... may stand in an index"),
    (lambda: X[X > 0], GraphTypeError,
     "index: a bool tensor (b1[2, 3]) selects a number of elements that is not known while the"
     " graph is built; use sg.ops.where(mask, x, 0), or a NumPy bool array"),
    # joining
    (lambda: ops.concat([X, leaf(2, 4)]), ShapeError,
     "concat: f32[2, 3] and f32[2, 4] must have equal sizes on all axes but axis 0"),
    (lambda: ops.concat([X, leaf(2)], axis=1), ShapeError,
     "concat: f32[2, 3] and f32[2] must have equal sizes on all axes but axis 1"),
    (lambda: ops.concat([X, X], axis=2), ShapeError, "concat: axis 2 is out of range for 2 axes"),
    (lambda: ops.concat(X), GraphTypeError, "concat: needs a non-empty list of tensors"),
    (lambda: ops.concat([leaf(), leaf()]), ShapeError,
     "concat: 0-d tensors have no axis to join along; use stack"),
    (lambda: ops.stack([X, leaf(3)]), ShapeError,
     "stack: needs tensors of one shape, got f32[2, 3] and f32[3]"),
    (lambda: ops.stack([]), GraphTypeError, "stack: needs a non-empty list of tensors"),
    # products
    (lambda: X @ leaf(2, 3), ShapeError,
     "matmul: f32[2, 3] @ f32[2, 3]: the last axis of the first (3) must equal the last but one"
     " axis of the second (2); did you mean x1 @ x2.T?"),
    (lambda: X @ leaf(4, 5), ShapeError,
     "matmul: f32[2, 3] @ f32[4, 5]: the last axis of the first (3) must equal the last but one"
     " axis of the second (4)"),
    (lambda: X @ leaf(4), ShapeError,
     "matmul: f32[2, 3] @ f32[4]: the last axis of the first (3) must equal the only axis of the"
     " second (4)"),
    (lambda: X @ 2.0, ShapeError,
     "matmul: 0-d operands (f32[2, 3] and f32[]) have no matrix product; use *"),
    (lambda: leaf(2, 2, 3) @ leaf(4, 3, 5), ShapeError,
     "matmul: leading axes of f32[2, 2, 3] and f32[4, 3, 5] do not broadcast"),
    (lambda: ops.linear(X, leaf(3, 4)), ShapeError,
     "linear: x f32[2, 3] needs a weight of shape (out, 3), got f32[3, 4]"),
    # a tensor where Python or NumPy wants numbers
    (lambda: bool(X > 0), GraphTypeError, NO_VALUE.format("b1[2, 3]")),
    (lambda: 1 if leaf() else 0, GraphTypeError, NO_VALUE.format("f32[]")),
    (lambda: X in [leaf(3)], GraphTypeError, NO_VALUE.format("b1[2, 3]")),
    (lambda: not W, GraphTypeError, NO_VALUE.format("f32[2, 3]")),
    (lambda: [*X], GraphTypeError, NO_ITERATION.format("f32[2, 3]")),
    (lambda: sum(X), GraphTypeError, NO_ITERATION.format("f32[2, 3]")),
    (lambda: np.asarray(X), GraphTypeError, NO_NUMBERS.format("f32[2, 3]")),
    (lambda: np.array([X, X]), GraphTypeError, NO_NUMBERS.format("f32[2, 3]")),
    (lambda: np.sum(np.array(W)), GraphTypeError, NO_NUMBERS.format("f32[2, 3]")),
    (lambda: np.sum(X), GraphTypeError,
     "np.sum has no numbers to work on while the graph is built; use sg.ops.sum"),
    (lambda: np.concatenate([X, X]), GraphTypeError,
     "np.concatenate has no numbers to work on while the graph is built; use the functions of"
     " sg.ops"),
    (lambda: X.__setitem__(0, 1.0), GraphTypeError,
     "a tensor (f32[2, 3]) never changes; make another one with sg.ops.where(mask, value, x) or"
     " sg.ops.scatter_add"),
    (lambda: float(leaf()), GraphTypeError, NO_SCALAR.format("f32[]")),
    (lambda: range(i64()), GraphTypeError, NO_SCALAR.format("i64[]")),
    (lambda: len(leaf()), GraphTypeError, "a 0-d tensor has no len()"),
    # gradients
    (lambda: grad(X, X), GradientError,
     "grad: y is f32[2, 3], not a scalar; give cotangent= a tensor of shape (2, 3), or reduce y"
     " (for example y.sum())"),
    (lambda: grad(X.sum().astype("int64"), X), GradientError, f"grad: y is i64[], {NO_SLOPE}"),
    (lambda: grad(X.sum(), i64(2)), GradientError, f"grad: x is i64[2], {NO_SLOPE}"),
    (lambda: grad([X.sum()], X), GradientError,
     "grad: y must be a tensor, got list; for the gradient of a sum, sg.ops.add_n(list)"),
    (lambda: grad(3.0, X), GradientError, "grad: y must be a tensor, got float"),
    (lambda: grad(X.sum(), {"w": 1.0}), GradientError,
     "grad: xs must be tensors of the graph, got float"),
    (lambda: grad(X, X, leaf(3)), ShapeError,
     "grad: the cotangent of f32[2, 3] must have its shape, got f32[3]"),
    (lambda: vjp([X], [X], []), GradientError, "vjp: 1 outputs but 0 cotangents"),
    (lambda: jvp(X, [X], []), GradientError, "jvp: 1 tensors but 0 tangents"),
    (lambda: vjp("y", X, X), GradientError, "vjp: y must be a tensor of the graph, got str"),
    (lambda: jvp("y", X, X), GradientError, "jvp: y must be a tensor of the graph, got str"),
    (lambda: jvp(X, 1.0, X), GradientError, "jvp: x must be a tensor of the graph, got float"),
    (lambda: jacobian(1.0, X), GradientError,
     "jacobian: y must be a tensor of the graph, got float"),
    (lambda: jvp(X, X, leaf(3)), ShapeError,
     "jvp: the tangent of f32[2, 3] must have its shape, got f32[3]"),
    (lambda: hvp(X, X, X), GradientError,
     "grad: y is f32[2, 3], not a scalar; give cotangent= a tensor of shape (2, 3), or reduce y"
     " (for example y.sum())"),
    (lambda: jacobian(X, i64(2)), GradientError, f"jacobian: x is i64[2], {NO_SLOPE}"),
    (lambda: hessian(X, X), GradientError, "hessian: y must be a scalar tensor, got f32[2, 3]"),
    # values of variables, text
    (lambda: setattr(W, "value", np.ones(3)), ShapeError,
     "variable 'w' is f32[2, 3]; it cannot take float64[3]"),
    (lambda: setattr(COUNT, "value", [1, 2**40]), ShapeError,
     "variable 'count' is i32[2]; it cannot take int64[2]"),
    (lambda: setattr(W, "value", np.ones((2, 3), "complex64")), ShapeError,
     "variable 'w' is f32[2, 3]; it cannot take complex64[2, 3]"),
    (lambda: Graph([X + 1], [X]), GraphTypeError,
     "Graph: inputs are tensors made by sg.input, got <Tensor add: f32[2, 3]>"),
    (lambda: parse(3), ParseError, "parse: needs the text of a graph, got int"),
    (lambda: parse("graph"), ParseError,
     "parse: line 1: expected '(', got 'the end'\n  graph\n       ^"),
]
# fmt: on


@pytest.mark.parametrize(
    ("build", "kind", "message"), TABLE, ids=[f"{row[2][:40]}" for row in TABLE]
)
def test_building_mistakes(build, kind, message):
    line = build.__code__.co_firstlineno
    with pytest.raises(StaticGraphError) as caught:
        build()
    assert type(caught.value) is kind
    assert str(caught.value) == f"{message}  [{FILE}:{line}]"


def test_errors_are_the_builtins_one_expects():
    tree = {
        errors.GraphTypeError: TypeError,
        errors.ShapeError: ValueError,
        errors.InputError: ValueError,
        errors.GradientError: ValueError,
        errors.BudgetError: ValueError,
        errors.NumericError: ArithmeticError,
        errors.ParseError: ValueError,
        errors.DagError: ValueError,
        errors.ReportError: ValueError,
        errors.TargetError: RuntimeError,
        errors.InternalError: RuntimeError,
    }
    named = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)}
    classes = named - {StaticGraphError}
    assert classes == set(tree)
    for child, builtin in tree.items():
        assert issubclass(child, (StaticGraphError,))
        assert issubclass(child, builtin)
        assert child.__name__ in errors.__doc__
        assert f"({builtin.__name__})" in errors.__doc__


def test_what_python_itself_refuses():
    with pytest.raises(TypeError, match=r"unsupported operand .* for \+: 'Tensor' and 'object'"):
        X + object()
    with pytest.raises(TypeError, match=r"sum\(\) got an unexpected keyword argument 'dim'"):
        X.sum(dim=1)


def test_gradient_nodes_name_the_line_of_the_forward_node():
    y = ops.tanh(X)
    loss = y.sum()
    known = {id(n) for n in postorder([loss])}
    made = [n for n in postorder([grad(loss, X)]) if id(n) not in known and n.op is not CONSTANT]
    assert made
    assert {n.where for n in made} <= {y.node.where, loss.node.where}


def test_a_tensor_differs_from_what_is_none():
    assert (X == None) is False  # noqa: E711
    assert (X != "x") is True


def test_numpy_may_ask_for_the_shape():
    assert (np.shape(X), np.ndim(X), np.size(X)) == ((2, 3), 2, 6)


@pytest.mark.parametrize(
    ("name", "hint"), [("concatenate", "; did you mean concat?"), ("qqqqqq", "")]
)
def test_an_unknown_op(name, hint):
    with pytest.raises(AttributeError) as caught:
        getattr(ops, name)
    assert str(caught.value) == f"module 'staticgraph.ops' has no attribute {name!r}{hint}"


def test_python_integers_compare_exactly_and_reach_the_ends():
    """NumPy 2: `uint8 < 300` is true everywhere."""
    x, y = leaf(2, dtype="uint8"), leaf(2, dtype="uint64")
    made = [x < 300, x == -1, y + (2**64 - 1)]
    a, b = np.array([0, 255], "uint8"), np.array([0, 1], "uint64")
    got = [interpret.run(Graph([x, y], [t]), [a, b])[0].tolist() for t in made]
    assert got == [[True, True], [False, False], [2**64 - 1, 0]]


def test_a_variable_takes_integers_that_fit():
    v = Variable(np.zeros(2, "uint8"), "v", None)
    v.value = [3, 255]
    assert v.value.tolist() == [3, 255]
    v.value = np.array([1, 0])
    assert v.value.tolist() == [1, 0]
