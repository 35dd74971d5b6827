"""Asking for memory ahead of a region's rows.

A row swept in several stages is a short stream of memory: the processor's own prefetching starts
anew in every row and ends with the page, and the stage that waits has little to compute meanwhile.
So the stage that computes most asks for what is needed next: the same places of the operands in the
next row, and the places in this row that later stages write.

A long map asks for the lines it will write, or, where its results are larger than caches, writes
past them: then no line is read only to be overwritten.
"""

from __future__ import annotations

from math import prod
from typing import Protocol

from staticgraph import scalar as s
from staticgraph.codegen.affine import affine
from staticgraph.codegen.region import Region, position
from staticgraph.codegen.saved import DEAR
from staticgraph.codegen.tiles import Tiles
from staticgraph.scalar import Expr
from staticgraph.types import ITEMSIZE, SHORT

LINE = 64
#: rows longer than this are streams of their own, and two of them would not stay in a cache
LONGEST_ROW = 1 << 17
#: bytes of a map's results from which on it asks for their lines, and writes past the caches
CLAIMED, PAST = 1 << 20, 1 << 25
_REACH = 2048  # bytes ahead
_FUNCTION = 16  # what a function costs, in additions


class Rows(Protocol):
    """What the generator of a region tells about it."""

    region: Region
    v: int
    mask: str | None
    tiles: Tiles
    saved: dict[Expr, tuple[int, int]]
    strides: list[tuple[int, ...]]

    def deps(self, e: Expr) -> frozenset[int]: ...
    def pointer(self, kind: str, k: int) -> str: ...
    def integer(self, e: Expr) -> str: ...


def busiest(g: Rows) -> int | None:
    """The stage that computes most, where rows are short, along one axis, in several stages."""
    longest = max(ITEMSIZE[t.dtype] for t in (*g.region.types, *g.region.results))
    if g.region.inner != (g.v,) or not g.tiles.row_axes or g.tiles.columns * longest > LONGEST_ROW:
        return None
    costs = {level: _cost(g, level, roots) for level, roots in g.region.roots().items()}
    return max(costs, key=lambda level: (costs[level], level)) if len(costs) > 1 else None


def _cost(g: Rows, level: int, roots: list[Expr]) -> int:
    cost, stack, seen = 0, list(roots), set()
    while stack:
        e = stack.pop()
        kept = e in g.saved and g.saved[e][1] < level
        if e not in seen and g.v in g.deps(e) and not kept:
            seen.add(e)
            cost += _FUNCTION if e.name in DEAR else 1
            stack.extend(e.args)
    return cost


def requests(g: Rows, level: int, lanes: int) -> list[str]:
    """Lines for the innermost loop of that stage, which advances by `lanes` elements."""
    found: list[str] = []
    row = g.tiles.row_axes[-1]
    for e in s.postorder([e for roots in g.region.roots().values() for e in roots]):
        if e.name == "load" and not s.is_guarded(e):
            operand = e.value[0]  # type: ignore[index]
            place = position(e.args, g.strides[operand])
            stride = _along(place, g.v) == 1 and _along(place, row)
            if stride:
                found += _lines(g, "fetch", ("in", operand), e.dtype, place, stride, lanes)
    for st in g.region.stores:
        if st.inner and _along(st.index, g.v) == 1:
            stride = 0 if st.level > level else _along(st.index, row)
            dtype = g.region.results[st.result].dtype
            found += _lines(g, "claim", ("out", st.result), dtype, st.index, stride, lanes)
    return list(dict.fromkeys(found))


def result_bytes(region: Region) -> int:
    return sum(prod(t.shape) * ITEMSIZE[t.dtype] for t in region.results)


def past(region: Region, mask: str | None, result: int) -> bool:
    """Whether a map writes this result past the caches: whole lines of results larger than them."""
    return (
        not region.inner
        and mask is None
        and ITEMSIZE[region.results[result].dtype] >= 4
        and result_bytes(region) >= PAST
    )


def streams(g: Rows, lanes: int) -> list[str]:
    """Lines for the loop of a long map, which advances by `lanes` elements."""
    region, total = g.region, result_bytes(g.region)
    if region.inner or total < CLAIMED:
        return []
    found: list[str] = []
    for st in region.stores:
        dtype = region.results[st.result].dtype
        reach = _REACH // ITEMSIZE[dtype]
        if _along(st.index, g.v) == 1 and not past(region, g.mask, st.result):
            found += _lines(g, "claim", ("out", st.result), dtype, st.index, reach, lanes)
    if total < PAST:
        return found
    for e in s.postorder([st.value for st in region.stores]):
        if e.name == "load" and not s.is_guarded(e):
            operand = e.value[0]  # type: ignore[index]
            place = position(e.args, g.strides[operand])
            if _along(place, g.v) == 1:
                reach = _REACH // ITEMSIZE[e.dtype]
                found += _lines(g, "fetch", ("in", operand), e.dtype, place, reach, lanes)
    return list(dict.fromkeys(found))


def _along(place: Expr, axis: int) -> int:
    form = affine(place)
    return 0 if form is None else form[0].get(axis, 0)


def _lines(
    g: Rows,
    name: str,
    buffer: tuple[str, int],
    dtype: str,
    place: Expr,
    offset: int,
    lanes: int,
) -> list[str]:
    """One request for each cache line of a vector."""
    line = LINE // ITEMSIZE[dtype]
    start = f"{g.pointer(*buffer)}, {g.integer(place)}"
    offsets = range(offset, offset + lanes, line)
    return [f"{name}_{SHORT[dtype]}({start}{f' + {k}' if k else ''})" for k in offsets]
