"""The graph: Op, Node, Tensor, Graph.

A `Node` applies an op to tensors; a `Tensor` is one result of a node. Nodes are immutable, so a
graph is a set of shared trees and a pass builds new nodes. Bodies of regions (`cond`, fusion) are
Graphs held as attributes of a node.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from staticgraph.errors import GraphTypeError, InternalError, ShapeError, user_frame
from staticgraph.types import TensorType


class Op:
    """Base of all op declarations. One instance per op name; subclasses are final."""

    name: str = ""
    #: another call with equal operands may give another result or have an effect
    pure: bool = True
    #: attributes that hold graphs which run as part of a node: passes enter them
    bodies: tuple[str, ...] = ()

    def infer(self, *types: TensorType, **attrs: Any) -> TensorType | tuple[TensorType, ...]:
        """Result type, or several; raises ShapeError or GraphTypeError on operands it refuses."""
        raise NotImplementedError

    def vjp(self, node: Node, cotangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Cotangent of each operand as graph, None where it is zero."""
        raise NotImplementedError

    def jvp(self, node: Node, tangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Tangent of each result; NotImplemented lets the gradient transpose the vjp."""
        return NotImplemented

    def simplify(self, node: Node) -> Sequence[Tensor] | None:
        """Simpler tensors with the same values, inf and nan included; None where there are none."""
        return None

    def __repr__(self) -> str:
        return f"<op {self.name}>"


_context = threading.local()
_serial = itertools.count()


@contextmanager
def building(
    *,
    where: tuple[str, int] | None = None,
    hook: Callable[[Node], Sequence[Tensor] | None] | None = None,
    clone: int | None = None,
) -> Iterator[None]:
    """While active, new nodes carry `where` and `clone`; `hook` may offer tensors instead."""
    old = (
        getattr(_context, "where", None),
        getattr(_context, "hook", None),
        getattr(_context, "clone", 0),
    )
    _context.where = where or old[0]
    _context.hook = hook or old[1]
    _context.clone = old[2] if clone is None else clone
    try:
        yield
    finally:
        _context.where, _context.hook, _context.clone = old


def mark() -> int:
    """A number below the serials of all nodes made from now on."""
    return next(_serial)


def offered(node: Node) -> Sequence[Tensor]:
    """The results of a new node, or what the active hook offers in their place."""
    hook = getattr(_context, "hook", None)
    return (hook(node) if hook else None) or node.results


#: ops whose two operands may change places without changing a bit
COMMUTATIVE = frozenset(
    ("add", "multiply", "maximum", "minimum", "equal", "not_equal",
     "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor")
)  # fmt: skip


class Node:
    """An op applied to operands. `where` is the user's (file, line); it is outside equality."""

    __slots__ = ("__weakref__", "attrs", "clone", "op", "operands", "results", "serial", "where")

    def __init__(
        self,
        op: Op,
        operands: tuple[Tensor, ...],
        attrs: Mapping[str, Any],
        types: tuple[TensorType, ...],
        where: tuple[str, int] | None,
        clone: int = 0,
    ):
        self.op = op
        self.operands = operands
        self.attrs = dict(attrs)
        self.where = where
        #: recomputation identity: nodes of different clones are never merged, 0 is the original
        self.clone = clone
        #: grows with every node made: tells what a function built from what it found
        self.serial = next(_serial)
        self.results = tuple(Tensor(self, i, t) for i, t in enumerate(types))

    @property
    def types(self) -> tuple[TensorType, ...]:
        return tuple(r.type for r in self.results)

    def with_operands(self, operands: Sequence[Tensor], *, clone: int | None = None) -> Node:
        """The same application on operands of the same types; itself where nothing changes."""
        clone = self.clone if clone is None else clone
        if clone == self.clone and all(
            a is b for a, b in zip(operands, self.operands, strict=True)
        ):
            return self
        return Node(self.op, tuple(operands), self.attrs, self.types, self.where, clone)

    def with_attrs(self, **changes: Any) -> Node:
        """The same application with other attributes that leave the types as they are."""
        attrs = {**self.attrs, **changes}
        return Node(self.op, self.operands, attrs, self.types, self.where, self.clone)

    def key(self) -> tuple:
        """Two nodes with equal keys compute equal values."""
        operands = tuple((id(t.node), t.index) for t in self.operands)
        return (
            self.op.name,
            self.clone,
            tuple(sorted(operands)) if self.op.name in COMMUTATIVE else operands,
            tuple((k, freeze(v)) for k, v in sorted(self.attrs.items())),
        )

    def __repr__(self) -> str:
        operands = ", ".join(str(t.type) for t in self.operands)
        return f"{self.op.name}({operands}) -> {', '.join(map(str, self.types))}"


def freeze(value: Any) -> Any:
    """A hashable stand-in of an attribute."""
    if isinstance(value, np.ndarray):
        return (
            (value.dtype.str, value.shape, value.tobytes())
            if value.size <= 64
            else ("array", id(value))
        )
    if isinstance(value, (tuple, list)):
        return tuple(freeze(v) for v in value)
    if isinstance(value, dict):
        return tuple((k, freeze(v)) for k, v in sorted(value.items()))
    if isinstance(value, Graph):
        return ("graph", id(value))
    if isinstance(value, float):
        return ("f", repr(value))
    return (type(value).__name__, value)


def apply(op: Op, *operands: Tensor, clone: int | None = None, **attrs: Any) -> Any:
    """Build a node: infer its types, and return its result, or the tuple of its results."""
    where = getattr(_context, "where", None) or user_frame()
    inferred = op.infer(*(t.type for t in operands), **attrs)
    several = not isinstance(inferred, TensorType)
    types = tuple(inferred) if several else (inferred,)  # type: ignore[arg-type]
    if clone is None:
        # What has no operands costs nothing to have once for all clones.
        clone = getattr(_context, "clone", 0) if operands else 0
    results = offered(Node(op, operands, attrs, types, where, clone))
    return tuple(results) if several else results[0]


# Public functions of ops/, by name: what the operators and methods of Tensor call.
FUNCTIONS: dict[str, Callable] = {}


_UFUNCS = {
    "true_divide": "divide", "absolute": "abs", "fabs": "abs", "conjugate": "conj",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arctan2": "atan2", "arcsinh": "asinh",
    "arccosh": "acosh", "arctanh": "atanh", "rint": "round", "invert": "bitwise_invert",
    "float_power": "power", "mod": "remainder",
}  # fmt: skip


def _binary(name: str, swap: bool = False) -> Callable:
    def method(self: Tensor, other: object):
        if not is_tensor_like(other):
            return NotImplemented
        return FUNCTIONS[name](other, self) if swap else FUNCTIONS[name](self, other)

    return method


def _method(name: str, doc: str) -> Callable:
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return FUNCTIONS[name](self, *args, **kwargs)

    method.__doc__ = doc
    method.__name__ = name
    return method


def is_tensor_like(x: object) -> bool:
    """What an operator takes beside a tensor: scalars, arrays, nested sequences of them."""
    return isinstance(x, (Tensor, bool, int, float, complex, np.ndarray, np.generic, list, tuple))


class Tensor:
    """A value of the graph: dtype and static shape are known, the numbers come when it runs."""

    __slots__ = ("__weakref__", "index", "node", "type")

    def __init__(self, node: Node, index: int, type: TensorType):
        self.node = node
        self.index = index
        self.type = type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.type.dtype)

    @property
    def ndim(self) -> int:
        return len(self.type.shape)

    @property
    def size(self) -> int:
        return self.type.size

    @property
    def T(self) -> Tensor:
        """The axes in reverse order."""
        return FUNCTIONS["transpose"](self)

    @property
    def mT(self) -> Tensor:
        """The last two axes swapped."""
        if self.ndim < 2:
            raise ShapeError(f"mT: needs at least 2 axes, got {self.type}")
        return FUNCTIONS["transpose"](self, (*range(self.ndim - 2), self.ndim - 1, self.ndim - 2))

    __add__, __radd__ = _binary("add"), _binary("add", True)
    __sub__, __rsub__ = _binary("subtract"), _binary("subtract", True)
    __mul__, __rmul__ = _binary("multiply"), _binary("multiply", True)
    __truediv__, __rtruediv__ = _binary("divide"), _binary("divide", True)
    __floordiv__, __rfloordiv__ = _binary("floor_divide"), _binary("floor_divide", True)
    __mod__, __rmod__ = _binary("remainder"), _binary("remainder", True)
    __pow__, __rpow__ = _binary("power"), _binary("power", True)
    __matmul__, __rmatmul__ = _binary("matmul"), _binary("matmul", True)
    __and__, __rand__ = _binary("bitwise_and"), _binary("bitwise_and", True)
    __or__, __ror__ = _binary("bitwise_or"), _binary("bitwise_or", True)
    __xor__, __rxor__ = _binary("bitwise_xor"), _binary("bitwise_xor", True)
    __lshift__, __rlshift__ = _binary("left_shift"), _binary("left_shift", True)
    __rshift__, __rrshift__ = _binary("right_shift"), _binary("right_shift", True)
    __lt__, __le__ = _binary("less"), _binary("less_equal")
    __gt__, __ge__ = _binary("greater"), _binary("greater_equal")
    __eq__, __ne__ = _binary("equal"), _binary("not_equal")  # type: ignore[assignment]
    # Elementwise == like NumPy, so identity is what a tensor hashes by.
    __hash__ = object.__hash__

    def __neg__(self) -> Tensor:
        return FUNCTIONS["negative"](self)

    def __pos__(self) -> Tensor:
        return self

    def __abs__(self) -> Tensor:
        return FUNCTIONS["abs"](self)

    def __invert__(self) -> Tensor:
        return FUNCTIONS["bitwise_invert"](self)

    def __getitem__(self, key: Any) -> Tensor:
        return FUNCTIONS["index"](self, key)

    sum = _method("sum", "Sum over `axis`; see sg.ops.sum.")
    mean = _method("mean", "Mean over `axis`; see sg.ops.mean.")
    max = _method("max", "Maximum over `axis`; see sg.ops.max.")
    min = _method("min", "Minimum over `axis`; see sg.ops.min.")
    prod = _method("prod", "Product over `axis`; see sg.ops.prod.")
    var = _method("var", "Variance over `axis`; see sg.ops.var.")
    std = _method("std", "Standard deviation over `axis`; see sg.ops.std.")
    all = _method("all", "Whether all are true over `axis`; see sg.ops.all.")
    any = _method("any", "Whether any is true over `axis`; see sg.ops.any.")
    argmax = _method("argmax", "Index of the first maximum; see sg.ops.argmax.")
    argmin = _method("argmin", "Index of the first minimum; see sg.ops.argmin.")
    astype = _method("astype", "The tensor in another dtype; see sg.ops.astype.")
    clip = _method("clip", "Limit to [min, max]; see sg.ops.clip.")
    squeeze = _method("squeeze", "Drop axes of size 1; see sg.ops.squeeze.")
    conj = _method("conj", "Complex conjugate; see sg.ops.conj.")
    swapaxes = _method("swapaxes", "Two axes swapped; see sg.ops.swapaxes.")
    round = _method("round", "Nearest integer, half to even; see sg.ops.round.")
    exp = _method("exp", "e to the x; see sg.ops.exp.")
    log = _method("log", "Natural logarithm; see sg.ops.log.")
    sqrt = _method("sqrt", "Square root; see sg.ops.sqrt.")
    tanh = _method("tanh", "Hyperbolic tangent; see sg.ops.tanh.")
    flatten = _method("flatten", "One axis; see sg.ops.flatten.")
    dot = _method("matmul", "Matrix product; see sg.ops.matmul.")

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in another shape; one size may be -1."""
        return FUNCTIONS["reshape"](self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Tensor:
        """The axes in another order; reversed when none is given."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return FUNCTIONS["transpose"](self, order or None)

    def __bool__(self) -> bool:
        raise GraphTypeError(
            f"a tensor ({self.type}) has no truth value while the graph is built:"
            " its numbers come when it runs; choose between values with sg.ops.where,"
            " between computations with sg.cond"
        )

    def __iter__(self) -> Iterator[Tensor]:
        raise GraphTypeError(
            f"a tensor ({self.type}) cannot be iterated over; take x[i] for each i you need,"
            " or sg.ops.unstack(x, axis=0)"
        )

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise GraphTypeError(
            f"a tensor ({self.type}) has no numbers while the graph is built: compile it with"
            " sg.compile(tensor) and call the result, or use the functions of sg.ops instead of"
            " NumPy's"
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *operands: Any, **kwargs: Any) -> Any:
        """`array + tensor` and `np.exp(tensor)` build graph, as the op of that name does."""
        name = _UFUNCS.get(ufunc.__name__, ufunc.__name__)
        if method != "__call__" or kwargs or name not in FUNCTIONS:
            raise GraphTypeError(
                f"np.{ufunc.__name__} has no numbers to work on while the graph is built;"
                " use the functions of sg.ops"
            )
        return FUNCTIONS[name](*operands)

    def __float__(self) -> float:
        raise GraphTypeError(
            f"a tensor ({self.type}) is no Python number; compile it and call the result"
        )

    __int__ = __index__ = __complex__ = __float__  # type: ignore[assignment]

    def __len__(self) -> int:
        if not self.shape:
            raise GraphTypeError("a 0-d tensor has no len()")
        return self.shape[0]

    def __repr__(self) -> str:
        name = self.node.attrs.get("name") if not self.node.operands else None
        return f"<Tensor {name or self.node.op.name}: {self.type}>"


def postorder(roots: Iterable[Tensor], stop: Callable[[Node], bool] | None = None) -> list[Node]:
    """The nodes that the tensors need, operands first, in a deterministic order."""
    order: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(t.node, False) for t in reversed(list(roots))]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            if stop is None or not stop(node):
                stack.extend(
                    (t.node, False) for t in reversed(node.operands) if id(t.node) not in seen
                )
    return order


class Input(Op):
    """A placeholder: an input of a graph or of a body."""

    name = "input"

    def infer(self, *, name: str, type: TensorType) -> TensorType:
        return type


class Constant(Op):
    """An array known while building."""

    name = "constant"

    def infer(self, *, value: np.ndarray) -> TensorType:
        return TensorType(value.dtype.name, value.shape)


class VariableRead(Op):
    """The value a variable has when the call begins."""

    name = "variable"

    def infer(self, *, variable: Variable) -> TensorType:
        return variable.spec


INPUT, CONSTANT, VARIABLE = Input(), Constant(), VariableRead()


class Variable(Tensor):
    """State that outlives a call; as a tensor it is the value at the start of the call."""

    __slots__ = ("_array", "lock", "name", "spec")

    def __init__(self, value: np.ndarray, name: str, where: tuple[str, int] | None):
        self.spec = TensorType(value.dtype.name, value.shape)
        self._array = value
        self.name = name
        self.lock = threading.RLock()
        node = Node(VARIABLE, (), {"variable": self}, (self.spec,), where)
        node.results = (self,)
        super().__init__(node, 0, self.spec)

    @property
    def value(self) -> np.ndarray:
        """A copy of the current value; assign an array of the same shape to change it."""
        with self.lock:
            return self._array.copy()

    @value.setter
    def value(self, new: object) -> None:
        array = np.asarray(new)
        if array.shape != self.spec.shape or not np.can_cast(
            array.dtype, self.spec.dtype, "same_kind"
        ):
            raise ShapeError(
                f"variable {self.name!r} is {self.spec};"
                f" it cannot take {array.dtype}{list(array.shape)}"
            )
        with self.lock:
            self._array[...] = array

    @property
    def storage(self) -> np.ndarray:
        """The buffer itself: what compiled functions read and write."""
        return self._array

    def __repr__(self) -> str:
        return f"<Variable {self.name}: {self.spec}>"


class Graph:
    """Inputs, outputs and updates of variables; everything between is reached from the outputs."""

    __slots__ = ("_nodes", "inputs", "is_scheduled", "outputs", "updates")

    def __init__(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        updates: Mapping[Variable, Tensor] | Sequence[tuple[Variable, Tensor]] = (),
    ):
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.updates = tuple(updates.items() if isinstance(updates, Mapping) else updates)
        for t in (*self.inputs, *self.roots):
            if not isinstance(t, Tensor):
                raise GraphTypeError(
                    f"Graph: inputs, outputs and updates are tensors, got {type(t).__name__}"
                )
        self._nodes: list[Node] | None = None
        self.is_scheduled = False

    def scheduled(self, nodes: Sequence[Node]) -> Graph:
        """The same graph whose nodes run in this order, which names operands before readers."""
        made = Graph(self.inputs, self.outputs, self.updates)
        made._nodes = list(nodes)
        made.is_scheduled = True
        if not set(postorder((*made.inputs, *made.roots))) <= set(made._nodes):
            raise InternalError("scheduled: the order leaves out a node that is needed")
        return made

    @property
    def nodes(self) -> list[Node]:
        """All nodes, operands first; inputs come first and in order."""
        if self._nodes is None:
            self._nodes = postorder((*self.inputs, *self.roots))
        return self._nodes

    @property
    def roots(self) -> tuple[Tensor, ...]:
        """What must be computed: outputs, then new values of variables."""
        return (*self.outputs, *(t for _, t in self.updates))

    @property
    def variables(self) -> tuple[Variable, ...]:
        """Variables that are read or updated, in order of first use."""
        found = {n.attrs["variable"]: None for n in self.nodes if n.op is VARIABLE}
        found.update({v: None for v, _ in self.updates})
        return tuple(found)

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """The tensors whose numbers are known, in order of first use."""
        return tuple(n.results[0] for n in self.nodes if n.op is CONSTANT)

    def with_roots(self, roots: Sequence[Tensor]) -> Graph:
        """The same inputs and updated variables with other tensors in place of `roots`."""
        k = len(self.outputs)
        return Graph(
            self.inputs, roots[:k], tuple(zip((v for v, _ in self.updates), roots[k:], strict=True))
        )

    def rebuild(
        self, visit: Callable[[Node, tuple[Tensor, ...]], Sequence[Tensor] | Node | None]
    ) -> Graph:
        """Visit nodes operands first with their new operands; the visitor returns the replacement.

        It may return a node, a sequence of tensors (one per result), or None to keep the node as it
        is on the new operands. Inputs are kept.
        """
        new: dict[Tensor, Tensor] = {t: t for t in self.inputs}
        for node in self.nodes:
            if node.op is INPUT:
                continue
            operands = tuple(new.get(t, t) for t in node.operands)
            made = visit(node, operands)
            if made is None:
                made = node.with_operands(operands)
            results = made.results if isinstance(made, Node) else tuple(made)
            if len(results) != len(node.results):
                raise InternalError(f"rebuild: {node} was replaced by {len(results)} results")
            for old, t in zip(node.results, results, strict=True):
                if old.type != t.type:
                    raise InternalError(f"rebuild: {node} of {old.type} was replaced by {t.type}")
                new[old] = t
        return self.with_roots([new.get(t, t) for t in self.roots])

    def users(self) -> dict[Tensor, list[Node]]:
        """The nodes that read each tensor, in order."""
        found: dict[Tensor, list[Node]] = {}
        for node in self.nodes:
            for t in dict.fromkeys(node.operands):
                found.setdefault(t, []).append(node)
        return found

    def inline(self, operands: Sequence[Tensor], *, clone: int = 0) -> tuple[Tensor, ...]:
        """The outputs with the inputs replaced by other tensors of the same types.

        `clone` is the identity of the copied nodes that have none. New nodes pass the active hook.
        """
        new: dict[Tensor, Tensor] = dict(zip(self.inputs, operands, strict=True))
        for node in self.nodes:
            if node.op is INPUT:
                continue
            identity = node.clone or clone if node.operands else node.clone
            made = node.with_operands([new.get(t, t) for t in node.operands], clone=identity)
            new.update(
                zip(node.results, made.results if made is node else offered(made), strict=True)
            )
        return tuple(new.get(t, t) for t in self.outputs)

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        return (
            f"<Graph of {len(self)} nodes, {len(self.inputs)} inputs, {len(self.outputs)} outputs>"
        )


def constant_of(t: Tensor) -> np.ndarray | None:
    """The array of a constant tensor, else None."""
    return t.node.attrs["value"] if t.node.op is CONSTANT else None


def scalar_of(t: Tensor) -> Any:
    """The one value of a constant whose elements are all equal, else None (cheap: size <= 1)."""
    value = constant_of(t)
    return value.item() if value is not None and value.size == 1 else None
