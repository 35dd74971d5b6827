"""The loops of a region as data, and what decides which loops a node takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from staticgraph.codegen.affine import affine, build
from staticgraph.ir import CONSTANT, Graph, Node
from staticgraph.op import Elementwise, NestOp
from staticgraph.ops.reduce import Reduce
from staticgraph.scalar import Expr
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType

# Tiles of a reduction over leading axes (or all) must not depend on what is fused with it, or
# results would change with the pipeline: they are a function of the reduced shape only.
TILE_ELEMENTS = 1 << 15


def reduction_rows(shape: Sequence[int]) -> int:
    """Rows (all axes but the last) whose partial results are summed in one tile."""
    columns = max(1, shape[-1])
    rows = prod(shape[:-1])
    # At most 64 tiles: their partial results are memory that must not grow with the rows.
    return max(1, TILE_ELEMENTS // columns, min(64, -(-rows // 16)), -(-rows // 64))


def mode(shape: Sequence[int], over: Sequence[int]) -> str:
    """How a reduction runs: 'rows' (a sweep per kept index), 'partials' (tile by tile) or 'all'."""
    kept = [k for k in range(len(shape)) if k not in over and shape[k] != 1]
    if not kept:
        return "all"
    over = [k for k in over if shape[k] != 1]
    if over and max(over) < min(kept):
        return "partials"
    return "rows"


def long_axes(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """Those axes that are loops: of more than one element."""
    return tuple(a for a in axes if shape[a] != 1)


def is_block(shape: Sequence[int], over: Sequence[int], inner: Sequence[int]) -> bool:
    """Whether a sum over some axes ends several times within a sweep that has more before them."""
    short, long = long_axes(shape, over), long_axes(shape, inner)
    n = len(short)
    last = max(long_axes(shape, range(len(shape))), default=-1)
    return 0 < n < len(long) and long[-n:] == short and short[-1] == last


def is_other(shape: Sequence[int], over: Sequence[int], inner: Sequence[int]) -> bool:
    """Whether a sum over some axes is another loop than a sweep over `inner`."""
    return long_axes(shape, over) != long_axes(shape, inner)


def swept(body: Graph) -> tuple[int, ...]:
    """The axes that the rows of a body's domain are reduced over: the most that one node names."""
    shape, found = domain_of(body), ()
    for node in body.nodes:
        if is_reduction(node) and node.operands[0].shape == shape:
            over = tuple(node.attrs["axes"])
            more = len(long_axes(shape, over)) > len(long_axes(shape, found))
            if mode(shape, over) == "rows" and more:
                found = over
    return found


class CannotLower(Exception):
    """The body is no single region; fusion must not build it."""


@dataclass
class Reduction:
    """A reduction inside the region; `leaf` stands for its value."""

    node: Node
    body: Expr
    kind: str  # rows | blocks | partials | all
    level: int
    kept: tuple[int, ...]  # domain axes of the result
    combine: str
    leaf: Expr
    #: what is delivered of a total of partial results, as an expression of `leaf`
    finish: Expr | None = None


@dataclass
class Store:
    """A result of the region: `value` at `index` (row-major position in the result)."""

    result: int
    value: Expr
    index: Expr
    level: int
    inner: bool  # varies along the inner axes


@dataclass
class Region:
    """Loops of a region. Axes are numbered as in `sizes`; `inner` are swept once per stage."""

    sizes: tuple[int, ...]
    inner: tuple[int, ...]
    types: tuple[TensorType, ...]  # of the inputs
    results: tuple[TensorType, ...]
    reductions: list[Reduction] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    #: result number -> reduction that delivers it by partial results
    sinks: dict[int, Reduction] = field(default_factory=dict)
    #: result number -> reduction over the last of the inner axes, delivered within the sweep
    blocks: dict[int, Reduction] = field(default_factory=dict)

    @property
    def outer(self) -> tuple[int, ...]:
        return tuple(k for k in range(len(self.sizes)) if k not in self.inner)

    def roots(self) -> dict[int, list[Expr]]:
        """What each stage computes within its sweep."""
        found: dict[int, list[Expr]] = {}
        for r in self.reductions:
            found.setdefault(r.level, []).append(r.body)
        for st in self.stores:
            if st.inner:
                found.setdefault(st.level, []).append(st.value)
        return found

    @property
    def levels(self) -> int:
        return max([r.level for r in self.reductions] + [st.level for st in self.stores], default=0)


def is_reduction(node: Node) -> bool:
    """Whether a node joins several elements of its operand into one."""
    return isinstance(node.op, Reduce) and any(
        node.operands[0].shape[a] != 1 for a in node.attrs["axes"]
    )


def finishes(node: Node, t: Tensor) -> bool:
    """Whether a node is made of `t`, element by element, and of single numbers known by now."""
    return (
        isinstance(node.op, Elementwise)
        and node.results[0].shape == t.shape
        and all(o is t or (o.node.op is CONSTANT and o.size == 1) for o in node.operands)
    )


def is_window(node: Node) -> bool:
    """Whether a node's nest reduces in a way of its own."""
    if not isinstance(node.op, NestOp) or isinstance(node.op, (Elementwise, Reduce)):
        return False
    nest = node.op.nest([o.type for o in node.operands], node.results[0].type, **node.attrs)
    return nest.combine is not None and prod(nest.reduced) != 1


def domain_of(body: Graph) -> tuple[int, ...]:
    """The shape the region loops over: of its largest reduction's operand, or of its results."""
    reduced = [n.operands[0].shape for n in body.nodes if is_reduction(n)]
    if reduced:
        # Rows have fewer axes than what they are made of, also where that has no element.
        return max(reduced, key=lambda x: (prod(max(n, 1) for n in x), len(x)))
    return max((t.shape for t in body.outputs), key=lambda x: (prod(x), len(x)), default=())


def position(index: Sequence[Expr], strides: Sequence[int]) -> Expr:
    """Element position of an index in row-major memory."""
    form: dict[int, int] = {}
    offset = 0
    rest: Expr | None = None
    for i, stride in zip(index, strides, strict=True):
        part = affine(i)
        if part is None:
            term = i * stride
            rest = term if rest is None else rest + term
        else:
            offset += part[1] * stride
            for k, c in part[0].items():
                form[k] = form.get(k, 0) + c * stride
    e = build({k: c for k, c in form.items() if c}, offset)
    return e if rest is None else e + rest
