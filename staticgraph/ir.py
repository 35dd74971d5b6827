"""The graph: Op, Node, the leaves, Graph.

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
from staticgraph.registry import add_op
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType


class Op:
    """Base of all op declarations. One instance per op name; subclasses are final."""

    name: str = ""
    #: another call with equal operands may give another result or have an effect
    pure: bool = True
    #: attributes that hold graphs which run as part of a node: passes enter them
    bodies: tuple[str, ...] = ()

    def infer(self, *types: Any, **attrs: Any) -> TensorType | tuple[TensorType, ...]:
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
    if isinstance(value, (float, complex)):  # 0.0 equals -0.0, and nan nothing
        return (type(value).__name__, repr(value))
    return (type(value).__name__, value)


def apply(op: Op, *operands: Tensor, clone: int | None = None, **attrs: Any) -> Any:
    """Build a node: infer its types, and return its result, or the tuple of its results."""
    where = getattr(_context, "where", None) or user_frame()
    inferred = op.infer(*(t.type for t in operands), **attrs)
    types = (inferred,) if isinstance(inferred, TensorType) else tuple(inferred)
    if clone is None:
        # What has no operands costs nothing to have once for all clones.
        clone = getattr(_context, "clone", 0) if operands else 0
    results = offered(Node(op, operands, attrs, types, where, clone))
    return results[0] if isinstance(inferred, TensorType) else tuple(results)


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


INPUT, CONSTANT, VARIABLE = map(add_op, (Input(), Constant(), VariableRead()))


class Variable(Tensor):
    """State that outlives a call; as a tensor it is the value at the start of the call.

    Made by `sg.variable`. `.value` is a copy of what it holds; assigning to it casts within one
    kind of dtype, and raises ShapeError for another shape or kind.
    """

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
        fits = np.can_cast(array.dtype, self.spec.dtype, "same_kind")
        if array.dtype.kind in "iu" and self._array.dtype.kind in "iu":  # nothing wraps around
            fits = bool((array.astype(self._array.dtype) == array).all())
        if array.shape != self.spec.shape or not fits:
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
    """Inputs, outputs and updates of variables; everything between is reached from the outputs.

    `str(graph)` is its text, which `sg.parse` reads; `graph.nodes` are the nodes, operands first;
    `graph.rebuild` makes another graph. Graphs with equal texts are equal. It is never changed.

    Raises GraphTypeError where an output or update is no tensor, or an input is not one made by
    `sg.input`.
    """

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
        for t in self.inputs:
            if t.node.op is not INPUT:
                raise GraphTypeError(f"Graph: inputs are tensors made by sg.input, got {t!r}")
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
