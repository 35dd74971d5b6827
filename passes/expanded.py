"""Values that are much larger than what they are computed from, such as x[:, None] - y[None, :].

A reduction reads such a value once, so that it need never be in memory. `unroll` writes out short
axes, over which points have their coordinates: what is left loops over pairs alone. `spread` gives
reductions that loop differently (over the rows of all pairs, over the columns) copies of the value
of their own, so that fusion has nothing to store for the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node, building
from staticgraph.op import Elementwise
from staticgraph.operands import constant
from staticgraph.ops.create import iota
from staticgraph.ops.elementwise import add, logical_and, logical_or, maximum, minimum, multiply
from staticgraph.ops.join import stack
from staticgraph.ops.reduce import Reduce
from staticgraph.ops.reduce import sum as sum_over
from staticgraph.ops.shape import broadcast_to, reshape, transpose
from staticgraph.ops.slices import slice_
from staticgraph.passmanager import graph_pass, in_bodies
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, is_differentiable

#: elements from which on a value counts, and how much larger it is than what it is made of
LEAST, RATIO = 1 << 14, 8
#: longest axis that is written out
SHORT = 8
#: tensors that one value is computed from
SUPPORTS = 32

_VIEWS = ("reshape", "transpose", "broadcast_to")
_JOIN = {
    "sum": add, "prod": multiply, "max": maximum, "min": minimum,
    "any": logical_or, "all": logical_and,
}  # fmt: skip


@dataclass
class Expanded:
    """The expanded values of a graph, each with the tensors in memory that it is computed from.

    With `places`, so are values made of positions alone: masks such as iota == labels.
    """

    graph: Graph
    places: bool = False
    supports: dict[Tensor, frozenset[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        users = self.graph.users()
        roots = set(self.graph.roots)
        for node in self.graph.nodes:
            computes = isinstance(node.op, Elementwise) or node.op.name in (*_VIEWS, "iota")
            if not computes and not _is_outer(node):
                continue
            result = node.results[0]
            found: set[Tensor] = set()
            for t in node.operands:
                alone = self.places and t.node.op.name == "iota" and t in self.supports
                found |= self.supports.get(t) or (set() if alone else self._behind(t))
            size = sum(t.size for t in found)
            if len(found) > SUPPORTS or result.size < max(LEAST, RATIO * size):
                continue
            if result in roots or not all(_streams(u) for u in users.get(result, ())):
                continue
            self.supports[result] = frozenset(found)

    def _behind(self, t: Tensor) -> set[Tensor]:
        """A tensor in memory, behind its views; constants of one number are none."""
        while t.node.op.name in (*_VIEWS, "slice") and t.node.operands[0].size >= t.size:
            t = t.node.operands[0]
        return set() if t.node.op is CONSTANT and t.size == 1 else {t}

    def __contains__(self, t: object) -> bool:
        return t in self.supports


def _streams(node: Node) -> bool:
    """Whether a node reads each element once, where it is computed."""
    return isinstance(node.op, (Elementwise, Reduce)) or node.op.name in _VIEWS or _is_narrow(node)


def _is_product(node: Node) -> bool:
    return node.op.name == "matmul" and is_differentiable(node.results[0].type.dtype)


def _is_outer(node: Node) -> bool:
    """A matrix product over a short axis: each element is a few products."""
    return _is_product(node) and node.operands[0].shape[-1] <= SHORT


def _is_narrow(node: Node) -> bool:
    """A matrix product with few rows or columns: a few weighted sums over the long operand."""
    return _is_product(node) and min(node.results[0].shape[-2:]) <= SHORT


# ---------------------------------------------------------------------------- short axes


@graph_pass
@in_bodies
def unroll(graph: Graph) -> Graph:
    """Write out reductions of expanded values along or beside an axis of up to 8 elements.

    before   %0 = subtract(%x, %y)                 f32[n, n, 2], from f32[n, 1, 2] and f32[1, n, 2]
             %1 = multiply(%0, %0)   %2 = sum(%1, axes=(2,))
    after    %0, %1 = subtract, multiply of %x[:, :, 0] and %y[:, :, 0]; %2, %3 the same of 1
             %4 = add(%1, %3)

    It is part of what a graph means, whatever the pipeline: a sum written out has another order.
    """
    if not any(isinstance(n.op, Reduce) for n in graph.nodes):
        return graph
    while True:
        made = _unrolled(graph)
        if made is graph:
            return graph
        graph = made


def _unrolled(graph: Graph) -> Graph:
    expanded = Expanded(graph)
    if not expanded.supports:
        return graph
    changed = False

    def visit(node: Node, operands: tuple[Tensor, ...]):
        nonlocal changed
        made = None
        with building(where=node.where, clone=node.clone):
            if node.op.name == "matmul":
                made = _written_out(node, operands, expanded)
            elif isinstance(node.op, Reduce) and node.operands[0] in expanded:
                axis = _short_axis(node)
                made = None if axis is None else _without(node, operands[0], axis)
        changed |= made is not None
        return made

    made = graph.rebuild(visit)
    return made if changed else graph


def _written_out(node: Node, operands: tuple[Tensor, ...], expanded: Expanded):
    """A matrix product that makes or reads an expanded value, as products and sums."""
    a, b = operands
    if node.results[0] in expanded and _is_outer(node):
        products = [multiply(_line(a, -1, k), _line(b, -2, k)) for k in range(a.shape[-1])]
        return [_tree(add, products)] if products else None
    if not _is_narrow(node) or not any(t in expanded for t in node.operands):
        return None
    if b.shape[-1] <= SHORT and node.operands[0] in expanded:
        columns = [_weighted(a, _line(b, -1, c)) for c in range(b.shape[-1])]
        return [stack(columns, axis=-1)]
    if a.shape[-2] <= SHORT and node.operands[1] in expanded:
        rows = [_weighted(b.mT, _line(a.mT, -1, r)) for r in range(a.shape[-2])]
        return [stack(rows, axis=-2)]
    return None


def _weighted(t: Tensor, w: Tensor) -> Tensor:
    """t w for one column w, which loops over t as it is, not over its transpose."""
    source = t
    while source.node.op.name == "transpose":
        axes = source.node.attrs["axes"]
        if axes != (*range(t.ndim - 2), t.ndim - 1, t.ndim - 2):
            break
        source = source.node.operands[0]
        if source.node.op.name != "transpose":
            return sum_over(multiply(source, w), axis=-2)
        source = source.node.operands[0]
    return sum_over(multiply(source, w.mT), axis=-1)


def _line(t: Tensor, axis: int, k: int) -> Tensor:
    """Place k of an axis, which stays with size 1."""
    axis += t.ndim
    if t.shape[axis] == 1:
        return t
    start = [k if a == axis else 0 for a in range(t.ndim)]
    size = [1 if a == axis else n for a, n in enumerate(t.shape)]
    return slice_(t, start, size, [1] * t.ndim)


def _short_axis(node: Node) -> int | None:
    """A short axis beside a long one, one that is reduced first."""
    shape, axes = node.operands[0].shape, node.attrs["axes"]
    short = [a for a, n in enumerate(shape) if 1 < n <= SHORT]
    if not short or max(shape) <= SHORT:
        return None
    return min(short, key=lambda a: (a not in axes, -a))


def _without(node: Node, t: Tensor, axis: int) -> list[Tensor] | None:
    """The reduction put together from its parts at each place of an axis."""
    axes = node.attrs["axes"]
    rest = tuple(a - (a > axis) for a in axes if a != axis)
    at = [_at(t, axis, k, {}) for k in range(t.shape[axis])]
    if any(p is None for p in at):
        return None
    parts = [_reduced(node, p, rest) for p in at]
    if axis in axes:
        return [_tree(_JOIN[node.op.name], parts)]
    place = axis - sum(a < axis for a in axes)
    return [stack(parts, axis=place)]


def _reduced(node: Node, t: Tensor, axes: tuple[int, ...]) -> Tensor:
    if not axes:
        return t
    kept = tuple(n for a, n in enumerate(t.shape) if a not in axes)
    made = Node(node.op, (t,), {"axes": axes}, (TensorType(t.type.dtype, kept),), node.where,
                node.clone)  # fmt: skip
    return made.results[0]


def _tree(join, parts: list[Tensor]) -> Tensor:
    """Halves against each other, as the lanes of a vector are joined."""
    while len(parts) > 1:
        half = 1 << (len(parts) - 1).bit_length() - 1
        rest = parts[half:]
        parts = [join(p, q) for p, q in zip(parts, rest, strict=False)] + parts[len(rest) : half]
    return parts[0]


def _at(t: Tensor, axis: int, k: int, known: dict) -> Tensor | None:
    """t without an axis, at place k of it, computed from slices of what t is computed from."""
    found = known.get((t, axis))
    if found is not None:
        return found
    shape = tuple(n for a, n in enumerate(t.shape) if a != axis)
    node = t.node
    if t.shape[axis] == 1:
        made = reshape(t, shape)
    elif isinstance(node.op, Elementwise):
        operands = [_operand(o, axis - (t.ndim - o.ndim), k, known) for o in node.operands]
        if any(o is None for o in operands):
            return None
        kind = TensorType(t.type.dtype, shape)
        made = Node(node.op, tuple(operands), node.attrs, (kind,), node.where, node.clone).results[
            0
        ]
    elif node.op.name == "broadcast_to":
        (o,) = node.operands
        inner = _operand(o, axis - (t.ndim - o.ndim), k, known)
        made = None if inner is None else broadcast_to(inner, shape)
    elif node.op.name == "transpose":
        axes = node.attrs["axes"]
        inner = _at(node.operands[0], axes[axis], k, known)
        order = [a - (a > axes[axis]) for a in axes if a != axes[axis]]
        made = None if inner is None else transpose(inner, tuple(order))
    elif node.op.name == "reshape" and (a := _same_axis(node, axis)) is not None:
        inner = _at(node.operands[0], a, k, known)
        made = None if inner is None else reshape(inner, shape)
    elif node.op.name == "iota":
        if node.attrs["axis"] == axis:
            made = broadcast_to(constant(k, t.type.dtype), shape)
        else:
            made = iota(shape, axis=node.attrs["axis"] - (node.attrs["axis"] > axis),
                        dtype=t.type.dtype)  # fmt: skip
    else:
        start = [k if a == axis else 0 for a in range(t.ndim)]
        size = [1 if a == axis else n for a, n in enumerate(t.shape)]
        made = reshape(slice_(t, start, size, [1] * t.ndim), shape)
    if made is not None:
        known[t, axis] = made
    return made


def _operand(o: Tensor, axis: int, k: int, known: dict) -> Tensor | None:
    """An operand that is broadcast: it may lack the axis."""
    return o if axis < 0 else _at(o, axis, k, known)


def _same_axis(node: Node, axis: int) -> int | None:
    """The axis of a reshape's operand that is this one, where only axes of size 1 come or go."""
    old, new = node.operands[0].shape, node.results[0].shape
    if [n for n in old if n != 1] != [n for n in new if n != 1]:
        return None
    rank = sum(n != 1 for n in new[:axis])
    return [a for a, n in enumerate(old) if n != 1][rank]


# ---------------------------------------------------------------------------- other loops


@graph_pass
@in_bodies
def spread(graph: Graph) -> Graph:
    """Give each way of looping over an expanded value a copy of what computes it.

    before   %0 = exp(%d)   %1 = sum(%0, axes=(0,))   %2 = sum(%0, axes=(1,))
    after    %0 = exp(%d)   %1 = sum(%0, axes=(0,))   %2 = exp(%d)   %3 = sum(%2, axes=(1,))

    before and after, %d is f32[n, n] computed from f32[n] alone, and is copied as well.
    """
    expanded = Expanded(graph, places=True)
    readers = [n for n in graph.nodes if isinstance(n.op, Reduce) and n.operands[0] in expanded]
    loops = _loops(graph, readers)
    if len(set(loops.values())) < 2:
        return graph
    first = next(iter(loops.values()))
    clone = max(n.clone for n in graph.nodes) + 1
    numbers = {loop: clone + k for k, loop in enumerate(dict.fromkeys(loops.values()))}
    copies: dict[tuple[Tensor, int], Tensor] = {}

    def copy(t: Tensor, old: Tensor, number: int, new: dict[Tensor, Tensor]) -> Tensor:
        if old not in expanded:
            return t
        found = copies.get((old, number))
        if found is None:
            node = old.node
            operands = [copy(new.get(o, o), o, number, new) for o in node.operands]
            found = copies[old, number] = node.with_operands(operands, clone=number).results[0]
        return found

    new: dict[Tensor, Tensor] = {}

    def visit(node: Node, operands: tuple[Tensor, ...]) -> Node:
        if node in loops and loops[node] != first:
            operands = (copy(operands[0], node.operands[0], numbers[loops[node]], new),)
            made = node.with_operands(operands, clone=numbers[loops[node]])
        else:
            made = node.with_operands(operands)
        new.update(zip(node.results, made.results, strict=True))
        return made

    return graph.rebuild(visit)


def _loops(graph: Graph, readers: list[Node]) -> dict[Node, tuple]:
    """How each reduction loops: shape, axes, and the round in which it can run.

    Reductions of one loop may read each other's results, row by row; those of another loop must be
    done before, so that there are rounds.
    """
    chosen = set(readers)
    rounds: dict[Node, dict[tuple, int]] = {}
    loops: dict[Node, tuple] = {}
    for node in graph.nodes:
        if node.op in (INPUT, VARIABLE, CONSTANT):
            continue
        reached: dict[tuple, int] = {}
        for t in node.operands:
            for key, turn in rounds.get(t.node, {}).items():
                reached[key] = max(reached.get(key, 0), turn)
        if node in chosen:
            key = (node.operands[0].shape, node.attrs["axes"])
            turn = max([reached.get(key, 0), *(n + 1 for k, n in reached.items() if k != key)])
            reached[key] = turn
            loops[node] = (*key, turn)
        elif not _streams(node):
            # What no region computes between its rows ends it.
            reached = {key: turn + 1 for key, turn in reached.items()}
        rounds[node] = reached
    return loops
