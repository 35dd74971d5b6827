"""Loops of a region below its rows: one sweep over the inner axes per stage, and its reductions.

A reduction along rows is complete when its sweep ends, and later stages read it. What is reduced
over the rows themselves is added to the partial results of the tile.

Names in the source: `a`, `e` accumulators (`o` the one just added to), `t` their sum over several
loops, `r` the value of a row, `s` that of a tile, `z` where the partial results of a tile begin.
"""

from __future__ import annotations

from math import prod

from staticgraph import scalar as s
from staticgraph.codegen import ahead, saved, turned
from staticgraph.codegen.expressions import Expressions, Scope
from staticgraph.codegen.joins import Sink, across, joined, start
from staticgraph.codegen.region import Reduction, Region, position
from staticgraph.codegen.spec import LANES, indent
from staticgraph.codegen.tiles import tiles_of
from staticgraph.nest import identity
from staticgraph.types import SHORT

LONG_ROW = 256  # columns from which on their last few are worth code of their own
#: a sum along a row starts a new partial sum after this many elements
BLOCK = 8192


class Sweep(Expressions):
    """Emits the stages of a region's rows into the scopes of the kernel, of a row and, where rows
    are vectors along the lanes themselves, of such a vector."""

    def __init__(self, region: Region, shape: tuple[int, ...], sinks: list[Sink]):
        super().__init__(region)
        self.sinks = sinks
        self.turned = turned.plan(self)
        self.tiles = tiles_of(region, shape, self.turned)
        self.mask = None if self.tiles.columns % LANES == 0 else "m"
        self.saved, self.scratch = saved.choose(region, self.deps)
        if self.turned:
            self.scratch = self.turned.scratch
        #: whether lanes run along the rows' own loops, or each lane is a row
        self.along = self.v in region.inner
        self.blocked = bool(region.inner) and not self.along
        row = set(self.tiles.row_axes) | (set() if self.blocked else {-1})
        self.scopes = [Scope(set()), Scope(row)]
        if self.blocked:
            self.scopes.append(Scope(row | {self.v, -1}))

    def stages(self) -> None:
        base, busiest = self.scopes[-1], ahead.busiest(self)
        for level in range(self.region.levels + 1):
            self.stage(level, base, level == busiest)

    def stage(self, level: int, base: Scope, ask_ahead: bool) -> None:
        """One sweep over the inner axes (or the one loop of a region without them)."""
        region, v = self.region, self.v
        self.level = level
        reductions = [r for r in region.reductions if r.level == level]
        here = [st for st in region.stores if st.level == level]
        stores = [st for st in here if st.inner or not region.inner]
        flat = [st for st in here if region.inner and not st.inner]
        if reductions or stores:
            loops = [k for k in region.inner if k != v] + ([] if self.blocked else [v])
            opened = []
            for k in loops:
                opened.append(Scope(self.scopes[-1].axes | {k}))
                self.scopes.append(opened[-1])
            body = self.scopes[-1]
            rows = [r for r in reductions if r.kind in ("rows", "blocks")]
            for r in rows:
                self.accumulate_row(r, body)
            for r in reductions:
                if r not in rows:
                    self.accumulate_tile(r, body)
            self.store_all(stores, body)
            if ask_ahead:
                body.lines += ahead.requests(self, level, LANES)
            body.lines += ahead.streams(self, LANES)
            for _ in opened:
                self.scopes.pop()
            self.close(loops, opened, rows, base)
        self.store_all(flat, base)

    # -- loops ------------------------------------------------------------------------------------

    def close(
        self, loops: list[int], opened: list[Scope], reductions: list[Reduction], base: Scope
    ) -> None:
        """Nest the opened scopes into loops, with accumulators around them."""
        columns = self.tiles.columns
        deep = len(loops) > 1 or (self.along and columns > BLOCK)
        totals = deep and self.along  # of several loops over vectors
        lines = opened[-1].lines
        for depth in range(len(loops) - 1, -1, -1):
            k = loops[depth]
            if k == self.v:
                lines = self.vector_loop(deep, lines)
                if totals:
                    fold = [f"{t} = {joined(r, t, self.both(r))}" for t, r in _totals(reductions)]
                    lines = [*self.accumulators(reductions), *lines, *fold]
                    if columns > BLOCK:
                        lines = [f"for b in range(0, {columns}, {BLOCK}):", *indent(lines)]
            else:
                lines = [f"for i{k} in range({self.sizes[k]}):", *indent(lines)]
            lines = self.delivered(depth, loops, lines)
            if depth:
                lines = [*opened[depth - 1].lines, *lines]
        rows = [r for r in reductions if r.kind == "rows"]
        if totals:
            base.lines.extend(f"{t} = {start(r)}" for t, r in _totals(rows))
        else:
            base.lines.extend(self.accumulators(rows))
        base.lines.extend(lines)
        for r in rows:
            n = r.leaf.value
            value = f"a{n}"
            if self.along:
                value = across(r, f"t{n}" if deep else self.both(r))
            base.lines.append(f"r{n} = {value}")
            base.names[("vec", r.leaf)] = f"r{n}"

    def delivered(self, depth: int, loops: list[int], lines: list[str]) -> list[str]:
        """Around the loops from a depth on: the sums that end with them, and where they go."""
        for k, r in self.region.blocks.items():
            if r.level == self.level and depth == sum(1 for i in loops if i in r.kept):
                n, code, y = r.leaf.value, SHORT[r.body.dtype], self.pointer("out", k)
                total = f"lane0_{code}({across(r, f't{n}')})"
                store = f"st_{code}({y}, {self.kept_place(r)}, {total})"
                lines = [f"t{n} = {start(r)}", *lines, store]
        return lines

    def vector_loop(self, deep: bool, lines: list[str]) -> list[str]:
        """The loop over vectors of the last axis; of a long row, the last few lanes by themselves,
        so that no other vector needs a mask."""
        v, columns, split = self.v, self.tiles.columns, self.tiles.width and not self.along
        first, last = self.tiles.bounds(str(columns)) if split else ("0", str(columns))
        if self.along and deep and columns > BLOCK:
            first, last = "b", f"min(b + {BLOCK}, {columns})"
        if not self.mask:
            return [f"for i{v} in range({first}, {last}, {LANES}):", *indent(lines)]
        whole = columns // LANES * LANES
        if first != "b" and whole >= LONG_ROW:
            rest = [f"i{v} = {whole}", f"m = lanes({columns - whole})", *lines]
            if self.tiles.width:
                last, rest = f"min(vhi, {whole})", [f"if vhi > {whole}:", *indent(rest)]
            else:
                last = str(whole)
            return [
                f"for i{v} in range({first}, {last}, {LANES}):",
                *indent([f"m = lanes({LANES})", *lines]),
                *rest,
            ]
        masked = [f"m = lanes({columns} - i{v})", *lines]
        return [f"for i{v} in range({first}, {last}, {LANES}):", *indent(masked)]

    # -- reductions -------------------------------------------------------------------------------

    def accumulate_row(self, r: Reduction, body: Scope) -> None:
        """Add into the accumulators of a row."""
        n = r.leaf.value
        value = joined(r, f"a{n}", self.masked(self.vector(r.body), r))
        if self.along:
            # Two partial results take turns: one would make each vector wait for the last.
            body.lines += [f"o{n} = {value}", f"a{n} = e{n}", f"e{n} = o{n}"]
        else:
            body.lines.append(f"a{n} = {value}")

    def accumulate_tile(self, r: Reduction, body: Scope) -> None:
        """Add into the partial results of this tile."""
        code = SHORT[r.body.dtype]
        value = self.vector(r.body)
        n = r.leaf.value
        if r.kind == "all":
            # One vector per row, added to the tile's after the row, in every pipeline.
            body.lines.append(f"a{n} = {joined(r, f'a{n}', self.masked(value, r))}")
            return
        w = self.pointer(*next(sink.buffer for sink in self.sinks if sink.reduction is r))
        place = f"{self.kept_place(r)} + z{n}"
        if self.mask:
            total = joined(r, f"vldm_{code}({w}, {place}, m)", value)
            body.lines.append(f"vstm_{code}({w}, {place}, {total}, m)")
        else:
            total = joined(r, f"vld_{code}({w}, {place})", value)
            body.lines.append(f"vst_{code}({w}, {place}, {total})")

    def accumulators(self, reductions: list[Reduction]) -> list[str]:
        """Start the accumulators of rows."""
        letters = "ae" if self.along else "a"
        return [f"{x}{r.leaf.value} = {start(r)}" for r in reductions for x in letters]

    def both(self, r: Reduction) -> str:
        """The two accumulators of a row as one."""
        n = r.leaf.value
        return joined(r, f"a{n}", f"e{n}")

    def masked(self, value: str, r: Reduction) -> str:
        """A value that changes nothing in the lanes beyond the last column."""
        if not self.mask:
            return value
        nothing = self.constant(identity(r.combine, r.body.dtype), r.body.dtype)
        return f"select(m, {value}, {nothing})"

    def kept_place(self, r: Reduction) -> str:
        """Position among a reduction's results."""
        sizes = [self.sizes[k] for k in r.kept]
        strides = [prod(sizes[k + 1 :]) for k in range(len(sizes))]
        return self.integer(position([s.axis(k) for k in r.kept], strides))


def _totals(reductions: list[Reduction]) -> list[tuple[str, Reduction]]:
    return [(f"t{r.leaf.value}", r) for r in reductions]
