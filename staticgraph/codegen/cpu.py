"""CPU source of a region: loops over tiles, rows and stages around vector expressions.

The text is Python that Numba compiles; `k(lo, hi, bufs, scratch)` computes tiles lo..hi-1. Values
are vectors of 16 lanes along one axis, the last of the domain. Every expression is emitted once,
in the outermost loop that knows its indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isinf, isnan, prod

from staticgraph import scalar as s
from staticgraph.codegen import ahead, turned
from staticgraph.codegen.affine import affine, slope
from staticgraph.codegen.region import (
    TILE_ELEMENTS,
    Reduction,
    Region,
    Store,
    position,
    reduction_rows,
)
from staticgraph.nest import identity
from staticgraph.scalar import Expr
from staticgraph.types import ITEMSIZE, SHORT

LANES = 16
#: a sum along a row starts a new partial sum after this many elements
LONG_ROW = 256  # columns from which on their last few are worth code of their own
BLOCK = 8192
#: what a scratch row may take, so that it stays in the second-level cache
SCRATCH_LIMIT = 1 << 18
# Worth keeping between two stages of a row rather than computing again.
_DEAR_NAMES = """
    exp exp2 expm1 log log1p log2 log10 sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh
    atanh erf erfc erfinv ndtr npdf sigmoid softplus log_sigmoid silu gelu gelu_tanh power hypot
    logaddexp cbrt left_shift
"""
DEAR = frozenset(_DEAR_NAMES.split())

HEADER = "from math import inf, nan\n\nfrom staticgraph.codegen.vector import *  # noqa: F403\n\n\n"


@dataclass
class KernelSpec:
    """One generated kernel, and how a plan runs it."""

    name: str
    text: str
    tiles: int
    #: ("in", k) input, ("out", k) result, ("work", k) workspace buffer
    buffers: tuple[tuple[str, int], ...]
    scratch: int
    elements: int
    #: result k may be written where input j was: same positions, read before written
    inplace: frozenset[tuple[int, int]] = frozenset()


@dataclass
class Kernels:
    """The kernels of a region in order, and the bytes of the workspace buffers between them."""

    steps: list[KernelSpec]
    workspace: list[int] = field(default_factory=list)


@dataclass
class _Scope:
    """Code at one loop depth: the axes known there, what was emitted, the lines."""

    axes: set[int]
    names: dict[tuple, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def generate(region: Region, name: str, shape: Sequence[int]) -> Kernels:
    """Source of a region whose domain had `shape` before its axes were joined."""
    return _Generator(region, name, tuple(shape)).run()


def literal(value: object) -> str:
    """A number as Python source."""
    if isinstance(value, complex):
        return f"complex({literal(value.real)}, {literal(value.imag)})"
    if isinstance(value, float):
        if isnan(value):
            return "nan"
        if isinf(value):
            return "inf" if value == inf else "-inf"
    if isinstance(value, int) and value >= 1 << 63:
        value -= 1 << 64  # the same bits, within int64
    if value == -(1 << 63):
        return f"({value + 1} - 1)"  # its digits alone are beyond int64
    return repr(value)


class _Generator:
    def __init__(self, region: Region, name: str, shape: tuple[int, ...]):
        self.region, self.name, self.shape = region, name, shape
        self.sizes = region.sizes or (1,)
        self.v = len(self.sizes) - 1
        self.counter = 0
        self.buffers: list[tuple[str, int]] = []
        self.scratch_bytes = 0
        self.saved: dict[
            Expr, tuple[int, int]
        ] = {}  # expression -> (scratch element offset, first level)
        self.turned: turned.Turned | None = None
        self.settles = False  # whether stores past the caches have to be waited for
        self.deps_memo: dict[Expr, frozenset[int]] = {}
        self.workspace: list[int] = []
        self.strides = [tuple(prod(t.shape[k + 1 :]) for k in range(t.ndim)) for t in region.types]

    # -- names and places -------------------------------------------------------------------------

    def fresh(self, letter: str) -> str:
        self.counter += 1
        return f"{letter}{self.counter}"

    def pointer(self, kind: str, k: int) -> str:
        ref = (kind, k)
        if ref not in self.buffers:
            self.buffers.append(ref)
        return {"in": "x", "out": "y", "work": "w"}[kind] + str(k)

    def deps(self, e: Expr) -> frozenset[int]:
        """Axes an expression varies along; -1 stands for the values of rows."""
        found = self.deps_memo.get(e)
        if found is None:
            if e.name == "axis":
                found = frozenset((e.value,))
            elif e.name == "row":
                found = (
                    frozenset((-1, self.v)) if self.v not in self.region.inner else frozenset((-1,))
                )
            else:
                found = (
                    frozenset().union(*(self.deps(a) for a in e.args)) if e.args else frozenset()
                )
            self.deps_memo[e] = found
        return found

    def scope_of(self, deps: frozenset[int]) -> _Scope:
        return next(sc for sc in self.scopes if deps <= sc.axes)

    # -- tiles ------------------------------------------------------------------------------------

    def plan_tiles(self) -> None:
        region, sizes, v = self.region, self.sizes, self.v
        inner = set(region.inner)
        self.row_axes = [k for k in region.outer if k != v]
        self.rows = prod(sizes[k] for k in self.row_axes)
        self.columns = sizes[v]
        work = prod(sizes[k] for k in region.inner if k != v) * self.columns
        partial = [r for r in region.reductions if r.kind in ("partials", "all")]
        self.split = 0  # columns per tile where tiles also cut the vector axis
        if partial:
            self.tile_rows = reduction_rows(self.shape)
            if (
                not inner
                and self.columns > TILE_ELEMENTS
                and all(r.kept in ((), (v,)) for r in partial)
            ):
                self.split = TILE_ELEMENTS
        elif v in inner:
            self.tile_rows = max(1, TILE_ELEMENTS // 2 // max(work, 1))
        elif self.rows == 1 or work > TILE_ELEMENTS:
            self.tile_rows = 1
            per = max(1, TILE_ELEMENTS // 2 // max(1, work // max(self.columns, 1)))
            self.split = min(self.columns, -(-per // LANES) * LANES)
        else:
            self.tile_rows = max(1, TILE_ELEMENTS // 2 // max(work, 1))
        self.tile_rows = max(1, min(self.tile_rows, self.rows))
        self.turned = turned.plan(self)
        if self.turned:
            axis = self.turned.axis
            self.row_axes = [*(k for k in self.row_axes if k != axis), axis]
            self.tile_rows, self.split = self.turned.rows, self.turned.columns
            self.scratch_bytes = self.turned.scratch
        # One tile at least: a sum over nothing has a value too.
        self.row_tiles = max(1, -(-self.rows // self.tile_rows))
        self.column_tiles = -(-self.columns // self.split) if self.split else 1
        self.tiles = self.row_tiles * self.column_tiles

    # -- the kernel -------------------------------------------------------------------------------

    def run(self) -> Kernels:
        region, v = self.region, self.v
        self.plan_tiles()
        inner = set(region.inner)
        top = _Scope(set())
        row = _Scope(set(self.row_axes) | ({-1} if v in inner or not inner else set()))
        self.scopes = [top, row]
        #: result, reduction, and where its partial results go: with one tile they are the result
        self.sinks: list[tuple[int, Reduction, tuple[str, int]]] = []
        for k, r in sorted(region.sinks.items()):
            n = prod(self.sizes[a] for a in r.kept)
            count = self.tiles if r.kind == "all" else self.row_tiles
            if count == 1 and (r.kind == "all" or r.finish.dtype == r.body.dtype):  # type: ignore[union-attr]
                self.sinks.append((k, r, ("out", k)))
            else:
                self.workspace.append(count * n * ITEMSIZE[r.body.dtype])
                self.sinks.append((k, r, ("work", len(self.workspace) - 1)))
        blocked = v not in inner and bool(inner)
        if blocked:
            self.scopes.append(_Scope(row.axes | {v, -1}))
        base = self.scopes[-1]
        self.mask = None if self.columns % LANES == 0 else "m"
        self.choose_saved()
        busiest = ahead.busiest(self, DEAR)
        for level in range(region.levels + 1):
            self.stage(level, base, inner, level == busiest)
        return self.assemble(top, row, base, blocked)

    def choose_saved(self) -> None:
        """What two stages need and is dear to compute is kept in a scratch row.

        Kept are the largest such expressions: each stage after the first then starts from them.
        """
        if self.v not in self.region.inner or len(self.region.inner) != 1:
            return
        roots = self.roots()
        levels: dict[Expr, set[int]] = {}
        dear: dict[Expr, bool] = {}
        for level in sorted(roots):
            for e in s.postorder(roots[level]):
                levels.setdefault(e, set()).add(level)
                dear[e] = e.name in DEAR or any(
                    dear.get(a, False) and self.v in self.deps(a) for a in e.args
                )
        offset = 0
        width = -(-self.columns // LANES) * LANES
        for level in sorted(roots):
            stack, seen = list(roots[level]), set()
            while stack:
                e = stack.pop()
                if e in seen or self.v not in self.deps(e):
                    continue
                seen.add(e)
                if min(levels[e]) < level and dear[e] and e.name != "load":
                    size = -(-width * ITEMSIZE[e.dtype] // 64) * 64
                    if e not in self.saved and offset + size <= SCRATCH_LIMIT:
                        self.saved[e] = (offset // ITEMSIZE[e.dtype], min(levels[e]))
                        offset += size
                    if e in self.saved:
                        continue
                stack.extend(e.args)
        self.scratch_bytes = offset

    def roots(self) -> dict[int, list[Expr]]:
        found: dict[int, list[Expr]] = {}
        for r in self.region.reductions:
            found.setdefault(r.level, []).append(r.body)
        for st in self.region.stores:
            if st.inner:
                found.setdefault(st.level, []).append(st.value)
        return found

    def stage(self, level: int, base: _Scope, inner: set[int], ask_ahead: bool) -> None:
        """One sweep over the inner axes (or the one loop of a region without them)."""
        region, v = self.region, self.v
        self.level = level
        reductions = [r for r in region.reductions if r.level == level]
        stores = [st for st in region.stores if st.level == level and (st.inner or not inner)]
        flat = [st for st in region.stores if st.level == level and inner and not st.inner]
        if reductions or stores:
            loops = [k for k in region.inner if k != v] + ([v] if v in inner or not inner else [])
            opened = []
            for k in loops:
                opened.append(_Scope(self.scopes[-1].axes | {k}))
                self.scopes.append(opened[-1])
            body = self.scopes[-1]
            rows = [r for r in reductions if r.kind in ("rows", "blocks")]
            deep = len(loops) > 1 or (v in inner and self.columns > BLOCK)
            for r in rows:
                n = r.leaf.value
                value = self.combine(r).format(f"a{n}", self.masked(self.vector(r.body), r))
                if v in inner:
                    # Two partial results take turns: one would make each vector wait for the last.
                    body.lines += [f"o{n} = {value}", f"a{n} = e{n}", f"e{n} = o{n}"]
                else:
                    body.lines.append(f"a{n} = {value}")
            for r in reductions:
                if r not in rows:
                    self.accumulate(r, body)
            self.store_all(stores, body)
            if ask_ahead:
                body.lines += ahead.requests(self, level, LANES)
            body.lines += ahead.streams(self, LANES)
            for _ in opened:
                self.scopes.pop()
            self.close(loops, opened, rows, base, deep)
        self.store_all(flat, base)

    def store_all(self, stores: list[Store], body: _Scope) -> None:
        """Compute all values before writing one: a result may lie where an operand was."""
        for st in stores:
            self.vector(st.value)
        for st in stores:
            self.store(st, body)

    def close(
        self,
        loops: list[int],
        opened: list[_Scope],
        rows: list[Reduction],
        base: _Scope,
        deep: bool,
    ) -> None:
        """Nest the opened scopes into loops, with accumulators around them."""
        v = self.v
        lines = opened[-1].lines
        for depth in range(len(loops) - 1, -1, -1):
            k = loops[depth]
            if k == v:
                lines = self.vector_loop(deep, lines)
                if deep and v in self.region.inner:
                    whole = {f"t{r.leaf.value}": r for r in rows}
                    fold = [
                        f"{t} = {self.combine(r).format(t, self.joined(r))}"
                        for t, r in whole.items()
                    ]
                    lines = [*self.partials(rows), *lines, *fold]
                    if self.columns > BLOCK:
                        lines = [f"for b in range(0, {self.columns}, {BLOCK}):", *indent(lines)]
            else:
                lines = [f"for i{k} in range({self.sizes[k]}):", *indent(lines)]
            lines = self.delivered(depth, loops, lines)
            if depth:
                lines = [*opened[depth - 1].lines, *lines]
        rows = [r for r in rows if r.kind == "rows"]
        if deep and v in self.region.inner:
            base.lines.extend(f"t{r.leaf.value} = {self.start(r)}" for r in rows)
        else:
            base.lines.extend(self.partials(rows))
        base.lines.extend(lines)
        for r in rows:
            n = r.leaf.value
            value = f"a{n}"
            if v in self.region.inner:
                value = f"h{_HORIZONTAL[r.combine]}({f't{n}' if deep else self.joined(r)})"
            base.lines.append(f"r{n} = {value}")
            base.names[("vec", r.leaf)] = f"r{n}"

    def delivered(self, depth: int, loops: list[int], lines: list[str]) -> list[str]:
        """Around the loops from a depth on: the sums that end with them, and where they go."""
        for k, r in self.region.blocks.items():
            if r.level == self.level and depth == sum(1 for i in loops if i in r.kept):
                n, code, y = r.leaf.value, SHORT[r.body.dtype], self.pointer("out", k)
                sizes = [self.sizes[i] for i in r.kept]
                strides = [prod(sizes[i + 1 :]) for i in range(len(sizes))]
                place = self.integer(position([s.axis(i) for i in r.kept], strides))
                total = f"lane0_{code}(h{_HORIZONTAL[r.combine]}(t{n}))"
                lines = [f"t{n} = {self.start(r)}", *lines, f"st_{code}({y}, {place}, {total})"]
        return lines

    def partials(self, rows: list[Reduction]) -> list[str]:
        """Start the accumulators of rows."""
        letters = "ae" if self.v in self.region.inner else "a"
        return [f"{x}{r.leaf.value} = {self.start(r)}" for r in rows for x in letters]

    def joined(self, r: Reduction) -> str:
        """The two partial results of a row as one."""
        n = r.leaf.value
        return self.combine(r).format(f"a{n}", f"e{n}")

    def vector_loop(self, deep: bool, lines: list[str]) -> list[str]:
        """The loop over vectors of the last axis; of a long row, the last few lanes by themselves,
        so that no other vector needs a mask."""
        v, columns = self.v, self.columns
        first, last = "0", str(columns)
        if v in self.region.inner:
            if deep and columns > BLOCK:
                first, last = "b", f"min(b + {BLOCK}, {columns})"
        elif self.split:
            first, last = "vlo", "vhi"
        if not self.mask:
            return [f"for i{v} in range({first}, {last}, {LANES}):", *indent(lines)]
        whole = columns // LANES * LANES
        if first != "b" and whole >= LONG_ROW:
            rest = [f"i{v} = {whole}", f"m = lanes({columns - whole})", *lines]
            if self.split:
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

    def start(self, r: Reduction) -> str:
        code = SHORT[r.body.dtype]
        return f"splat_{code}({literal(identity(r.combine, r.body.dtype))})"

    def combine(self, r: Reduction) -> str:
        return _COMBINE[r.combine]

    def masked(self, value: str, r: Reduction) -> str:
        if not self.mask:
            return value
        return (
            f"select(m, {value}, {self.constant(identity(r.combine, r.body.dtype), r.body.dtype)})"
        )

    def accumulate(self, r: Reduction, body: _Scope) -> None:
        """Add into the partial results of this tile."""
        code = SHORT[r.body.dtype]
        value = self.vector(r.body)
        n = r.leaf.value
        if r.kind == "all":
            # One vector per row, added to the tile's after the row, in every pipeline.
            body.lines.append(f"a{n} = {self.combine(r).format(f'a{n}', self.masked(value, r))}")
            return
        w = self.pointer(*next(w for _, x, w in self.sinks if x is r))
        place = self.partial_place(r)
        old = f"vld_{code}({w}, {place})" if not self.mask else f"vldm_{code}({w}, {place}, m)"
        total = self.combine(r).format(old, value)
        body.lines.append(
            f"vst_{code}({w}, {place}, {total})"
            if not self.mask
            else f"vstm_{code}({w}, {place}, {total}, m)"
        )

    def partial_place(self, r: Reduction) -> str:
        index = [s.axis(k) for k in r.kept]
        sizes = [self.sizes[k] for k in r.kept]
        strides = [prod(sizes[k + 1 :]) for k in range(len(sizes))]
        return f"{self.integer(position(index, strides))} + z{r.leaf.value}"

    # -- expressions ------------------------------------------------------------------------------

    def constant(self, value: object, dtype: str) -> str:
        top = self.scopes[0]
        key = ("const", dtype, repr(value))
        if key not in top.names:
            name = self.fresh("c")
            top.names[key] = name
            top.lines.append(f"{name} = splat_{SHORT[dtype]}({literal(value)})")
        return top.names[key]

    def bind(self, key: tuple, deps: frozenset[int], text: str, letter: str = "v") -> str:
        scope = self.scope_of(deps)
        name = self.fresh(letter)
        scope.names[key] = name
        scope.lines.append(f"{name} = {text}")
        return name

    def known(self, key: tuple) -> str | None:
        for sc in self.scopes:
            if key in sc.names:
                return sc.names[key]
        return None

    def vector(self, root: Expr) -> str:
        """Emit an expression as a vector; returns its name."""
        stack = [(root, False)]
        while stack:
            e, ready = stack.pop()
            if self.known(("vec", e)):
                continue
            if not ready:
                stack.append((e, True))
                if e in self.saved and self.saved[e][1] < self.level:
                    continue
                parts = self.needed(e)
                stack.extend((a, False) for a in reversed(parts))
            else:
                self.compute(e)
        return self.known(("vec", root))  # type: ignore[return-value]

    def needed(self, e: Expr) -> Sequence[Expr]:
        """The arguments that are wanted as vectors."""
        if e.name == "load":
            return e.args[-1:] if s.is_guarded(e) else ()
        return () if e.name == "equal" and self.lane_of(*e.args) else e.args

    def compute(self, e: Expr) -> None:
        key, deps = ("vec", e), self.deps(e)
        code = SHORT[e.dtype]
        if e.name == "const":
            self.scopes[0].names[key] = self.constant(e.value, e.dtype)
            return
        if e in self.saved and self.saved[e][1] < self.level:
            place = f"{self.saved[e][0]} + i{self.v}"
            self.bind(key, deps, f"vld_{code}(scratch, {place})")
            return
        if e.name == "axis":
            if e.value == self.v:
                text = f"splat_i64(i{self.v}) + iota()"
            else:
                text = f"splat_i64(i{e.value})"
        elif e.name == "load":
            text = self.load(e)
        elif e.name == "cast":
            text = f"cast_{code}({self.name_of(e.args[0])})"
        elif e.name == "equal" and (place := self.lane_of(*e.args)):
            text = f"lane_at({place})"
        else:
            text = self.call(s.PRIMS[e.name].cpu, [self.name_of(a) for a in e.args])
        name = self.bind(key, deps, text)
        if e in self.saved and self.saved[e][1] == self.level:
            self.scope_of(deps).lines.append(
                f"vst_{code}(scratch, {self.saved[e][0]} + i{self.v}, {name})"
            )

    def name_of(self, e: Expr) -> str:
        name = self.known(("vec", e))
        return name if name is not None else self.vector(e)

    @staticmethod
    def call(spelling: str, args: list[str]) -> str:
        if spelling[0].isalpha():
            return f"{spelling}({', '.join(args)})"
        return f"{spelling}{args[0]}" if len(args) == 1 else f"{args[0]} {spelling} {args[1]}"

    def load(self, e: Expr) -> str:
        if self.turned and e in self.turned.panels:
            return self.turned.read(self, e, SHORT[e.dtype])
        operand = e.value[0]  # type: ignore[index]
        guarded = s.is_guarded(e)
        at = e.args[:-1] if guarded else e.args
        guard = self.name_of(e.args[-1]) if guarded else None
        x, code = self.pointer("in", operand), SHORT[e.dtype]
        place = position(at, self.strides[operand])
        text = self.read(x, code, place, guard)
        fill = e.value[1] if guarded else 0  # type: ignore[index]
        return (
            f"select({guard}, {text}, {self.constant(fill, e.dtype)})" if guarded and fill else text
        )

    def read(self, x: str, code: str, place: Expr, guard: str | None) -> str:
        v = self.v
        if v not in self.deps(place):
            if guard is None:
                return f"splat_{code}(ld_{code}({x}, {self.integer(place)}))"
            # No lane may touch memory where the guard is false.
            zero = self.constant(0, "int64")
            return f"vgather_{code}({x}, {zero} + splat_i64({self.integer(place)}), {guard})"
        step = slope(place, v)
        mask = guard
        if self.mask:
            mask = "m" if guard is None else f"(m & {guard})"
        if step == 1:
            where = self.integer(place)
            return (
                f"vld_{code}({x}, {where})"
                if mask is None
                else f"vldm_{code}({x}, {where}, {mask})"
            )
        if mask is None:
            mask = self.all_lanes()
        if step == 2:
            return f"vld2_{code}({x}, {self.integer(place)}, {mask})"
        return f"vgather_{code}({x}, {self.index_vector(place)}, {mask})"

    def all_lanes(self) -> str:
        top = self.scopes[0]
        key = ("lanes",)
        if key not in top.names:
            top.names[key] = "every"
            top.lines.append(f"every = lanes({LANES})")
        return "every"

    def index_vector(self, place: Expr) -> str:
        step = slope(place, self.v)
        if step is None:
            return self.vector(place)
        return f"splat_i64({self.integer(place)}) + iota() * {self.constant(step, 'int64')}"

    def lane_of(self, a: Expr, b: Expr) -> str | None:
        """The lane in which two int64 values are equal, where only one changes, by one per lane."""
        for moving, fixed in ((a, b), (b, a)):
            form = affine(moving) if moving.dtype == "int64" else None
            if form and form[0].get(self.v) == 1 and self.v not in self.deps(fixed):
                return f"{self.integer(fixed)} - ({self.integer(moving)})"
        return None

    def integer(self, e: Expr) -> str:
        """A scalar int64 expression as text; along the vector axis it is the value of lane 0."""
        form = affine(e)
        if form is not None:
            terms = [f"i{k}" if c == 1 else f"i{k} * {c}" for k, c in sorted(form[0].items())]
            if form[1] or not terms:
                terms.append(str(form[1]))
            return " + ".join(terms)
        known = self.known(("int", e))
        if known:
            return known
        if e.name == "load":
            x, code = self.pointer("in", e.value[0]), SHORT[e.dtype]  # type: ignore[index]
            place = position(e.args[:-1] if s.is_guarded(e) else e.args, self.strides[e.value[0]])  # type: ignore[index]
            text = f"ld_{code}({x}, {self.integer(place)})"
            if s.is_guarded(e):
                # Lane 0 stands for all lanes: the guard has one value.
                vector = self.name_of(e)
                text = f"lane0_{code}({vector})"
        elif e.name in ("add", "subtract", "multiply"):
            sign = {"add": "+", "subtract": "-", "multiply": "*"}[e.name]
            text = f"({self.integer(e.args[0])}) {sign} ({self.integer(e.args[1])})"
        elif e.name in ("floor_divide", "remainder") and e.args[1].name == "const":
            sign = "//" if e.name == "floor_divide" else "%"
            text = f"({self.integer(e.args[0])}) {sign} {e.args[1].value}"
        else:
            text = f"lane0_{SHORT[e.dtype]}({self.vector(e)})"
        return self.bind(("int", e), self.deps(e), text, "n")

    # -- stores -----------------------------------------------------------------------------------

    def store(self, st: Store, body: _Scope) -> None:
        t = self.region.results[st.result]
        y, code = self.pointer("out", st.result), SHORT[t.dtype]
        value = self.vector(st.value)
        form = affine(st.index)
        assert form is not None
        step = form[0].get(self.v, 0)
        place = self.integer(st.index)
        if step == 1 and ahead.past(self, st.result):
            body.lines.append(f"flow_{code}({y}, {place}, {value})")
            self.settles = True
        elif step == 1:
            body.lines.append(
                f"vstm_{code}({y}, {place}, {value}, m)"
                if self.mask
                else f"vst_{code}({y}, {place}, {value})"
            )
        elif step == 0:
            body.lines.append(f"st_{code}({y}, {place}, lane0_{code}({value}))")
        else:
            mask = "m" if self.mask else self.all_lanes()
            body.lines.append(
                f"vscatter_{code}({y}, {self.index_vector(st.index)}, {value}, {mask})"
            )

    # -- text -------------------------------------------------------------------------------------

    def assemble(self, top: _Scope, row: _Scope, base: _Scope, blocked: bool) -> Kernels:
        v = self.v
        if blocked:
            lines = base.lines
            if self.mask:
                lines = [f"m = lanes({self.columns} - i{v})", *lines]
            bounds = f"vlo, vhi, {LANES}" if self.split else f"0, {self.columns}, {LANES}"
            row.lines += [f"for i{v} in range({bounds}):", *indent(lines)]
        # `all` reductions restart their vector in every row and join it to the tile's.
        totals = [r for _, r, _ in self.sinks if r.kind == "all"]
        for r in totals:
            n = r.leaf.value
            row.lines.insert(0, f"a{n} = {self.start(r)}")
            row.lines.append(f"s{n} = {self.combine(r).format(f's{n}', f'a{n}')}")
        tile = self.tile_prologue()
        for r in totals:
            tile.append(f"s{r.leaf.value} = {self.start(r)}")
        for _, r, w in self.sinks:
            if r.kind == "partials":
                tile += self.clear(r, w)
        tile += self.row_loop(row.lines)
        if self.settles:
            tile.append("settle()")
        for _, r, w in self.sinks:
            if r.kind == "partials" and w[0] == "out" and r.finish is not r.leaf:
                tile += self.finish_in_place(r, w)
            if r.kind == "all":
                n, code = r.leaf.value, SHORT[r.body.dtype]
                total = f"h{_HORIZONTAL[r.combine]}(s{n})"
                if w[0] == "out":
                    more, total = self.finished(r, total)
                    tile += more
                    code = SHORT[r.finish.dtype]  # type: ignore[union-attr]
                tile.append(f"st_{code}({self.pointer(*w)}, t, lane0_{code}({total}))")
        body = [
            f"{self.pointer(kind, k)} = ptr(bufs, {n})" for n, (kind, k) in enumerate(self.buffers)
        ]
        body += [*top.lines, "for t in range(lo, hi):", *indent(tile)]
        head = HEADER
        if self.turned:
            head = f"{HEADER.rstrip()}\n{self.turned.head(self)}\n\n\n"
        text = head + "def k(lo, hi, bufs, scratch):\n" + "\n".join(indent(body)) + "\n"
        elements = prod(self.sizes)
        steps = [
            KernelSpec(
                self.name,
                text,
                self.tiles,
                tuple(self.buffers),
                self.scratch_bytes,
                elements,
                self.inplace(),
            )
        ]
        steps += [self.combine_kernel(k, r, w) for k, r, w in self.sinks if w[0] == "work"]
        return Kernels(steps, self.workspace)

    def tile_prologue(self) -> list[str]:
        lines = []
        if self.column_tiles > 1:
            lines += [
                f"vlo = t % {self.column_tiles} * {self.split}",
                f"vhi = min(vlo + {self.split}, {self.columns})",
            ]
            row_tile = f"t // {self.column_tiles}"
        else:
            if self.split:
                lines += ["vlo = 0", f"vhi = {self.columns}"]
            row_tile = "t"
        lines.append(f"tr = {row_tile}")
        return lines

    def clear(self, r: Reduction, w: tuple[str, int]) -> list[str]:
        n, code = r.leaf.value, SHORT[r.body.dtype]
        size = prod(self.sizes[k] for k in r.kept)
        pointer = self.pointer(*w)
        start = self.constant(identity(r.combine, r.body.dtype), r.body.dtype)
        lines = [f"z{n} = tr * {size}"]
        bounds = "vlo, vhi" if self.split else f"0, {size}"
        limit = "vhi" if self.split else str(size)
        lines += [
            f"for z in range({bounds}, {LANES}):",
            f"    vstm_{code}({pointer}, z{n} + z, {start}, lanes({limit} - z))",
        ]
        return lines

    def finish_in_place(self, r: Reduction, w: tuple[str, int]) -> list[str]:
        """Where one tile has all rows, its sums are the totals."""
        n, code = r.leaf.value, SHORT[r.body.dtype]
        size, pointer = prod(self.sizes[k] for k in r.kept), self.pointer(*w)
        bounds, limit = ("vlo, vhi", "vhi") if self.split else (f"0, {size}", str(size))
        finish, total = self.finished(r, "sums")
        return [
            f"for z in range({bounds}, {LANES}):",
            f"    sums = vldm_{code}({pointer}, z{n} + z, lanes({limit} - z))",
            *indent(finish),
            f"    vstm_{code}({pointer}, z{n} + z, {total}, lanes({limit} - z))",
        ]

    def row_loop(self, lines: list[str]) -> list[str]:
        if not self.row_axes:
            return lines
        head: list[str] = []
        if len(self.row_axes) == 1:
            variable = f"i{self.row_axes[0]}"
        else:
            variable = "q"
            for depth, k in enumerate(self.row_axes):
                below = prod(self.sizes[a] for a in self.row_axes[depth + 1 :])
                quotient = f"q // {below}" if below > 1 else "q"
                head.append(
                    f"i{k} = {quotient}" if depth == 0 else f"i{k} = {quotient} % {self.sizes[k]}"
                )
        n = self.tile_rows
        first = [f"{variable} = tr * {n}", *head, *self.turned.fill(self)] if self.turned else []
        return [
            *first,
            f"for {variable} in range(tr * {n}, min((tr + 1) * {n}, {self.rows})):",
            *indent([*head, *lines]),
        ]

    def combine_kernel(self, k: int, r: Reduction, w: tuple[str, int]) -> KernelSpec:
        """Join the partial results of the tiles, in the order of the tiles."""
        code, out = SHORT[r.body.dtype], SHORT[r.finish.dtype]  # type: ignore[union-attr]
        size = prod(self.sizes[a] for a in r.kept)
        start = f"splat_{code}({literal(identity(r.combine, r.body.dtype))})"
        op = self.combine(r)
        whole = "a" if r.kind != "all" else f"h{_HORIZONTAL[r.combine]}(a)"
        finish, total = self.finished(r, whole)
        head = [
            HEADER + "def k(lo, hi, bufs, scratch):",
            "    w0 = ptr(bufs, 0)",
            "    y0 = ptr(bufs, 1)",
        ]
        if r.kind == "all":
            value = f"select(m, vldm_{code}(w0, i, m), {start})"
            body = [
                f"    a = {start}",
                f"    for i in range(0, {self.tiles}, {LANES}):",
                f"        m = lanes({self.tiles} - i)",
                f"        a = {op.format('a', value)}",
                *indent(finish),
                f"    st_{out}(y0, 0, lane0_{out}({total}))",
            ]
            tiles, elements = 1, self.tiles
        else:
            block = 512
            tiles, elements = -(-size // block), size * self.row_tiles
            body = [
                "    for t in range(lo, hi):",
                f"        for c in range(t * {block}, min((t + 1) * {block}, {size}), {LANES}):",
                f"            m = lanes({size} - c)",
                f"            a = {start}",
                f"            for i in range({self.row_tiles}):",
                f"                a = {op.format('a', f'vldm_{code}(w0, i * {size} + c, m)')}",
                *(f"            {line}" for line in finish),
                f"            vstm_{out}(y0, c, {total}, m)",
            ]
        text = "\n".join(head + body) + "\n"
        return KernelSpec(f"{self.name}_join", text, tiles, (w, ("out", k)), 0, elements)

    def finished(self, r: Reduction, total: str) -> tuple[list[str], str]:
        """What is delivered of a total, a vector: lines that compute it, and its name."""
        lines: list[str] = []
        names: dict[Expr, str] = {r.leaf: total}
        for e in s.postorder([r.finish]):  # type: ignore[list-item]
            code, args = SHORT[e.dtype], [names[a] for a in e.args]
            if e is r.leaf:
                continue
            if e.name == "const":
                names[e] = f"splat_{code}({literal(e.value)})"
                continue
            names[e] = self.fresh("f")
            spelling = f"cast_{code}" if e.name == "cast" else s.PRIMS[e.name].cpu
            lines.append(f"{names[e]} = {self.call(spelling, args)}")
        return lines, names[r.finish]  # type: ignore[index]

    def inplace(self) -> frozenset[tuple[int, int]]:
        """(result, input) pairs that may share memory: every read of the input is at the position
        and not in a later stage than where the result is written."""
        found = set()
        for st in self.region.stores:
            for k, t in enumerate(self.region.types):
                result = self.region.results[st.result]
                if t.nbytes != result.nbytes or ITEMSIZE[t.dtype] != ITEMSIZE[result.dtype]:
                    continue
                if self.only_reads_at(k, st):
                    found.add((st.result, k))
        return frozenset(found)

    def only_reads_at(self, k: int, st: Store) -> bool:
        target = affine(st.index)
        for level, e in self.placed():
            for x in s.postorder([e]):
                if x.name == "load" and x.value[0] == k:  # type: ignore[index]
                    at = x.args[:-1] if s.is_guarded(x) else x.args
                    if level > st.level or affine(position(at, self.strides[k])) != target:
                        return False
        return True

    def placed(self) -> list[tuple[int, Expr]]:
        return [(r.level, r.body) for r in self.region.reductions] + [
            (x.level, x.value) for x in self.region.stores
        ]


_COMBINE = {
    "sum": "{0} + {1}", "prod": "{0} * {1}", "max": "maximum({0}, {1})", "min": "minimum({0}, {1})",
    "any": "{0} | {1}", "all": "{0} & {1}",
}  # fmt: skip
_HORIZONTAL = {"sum": "sum", "prod": "prod", "max": "max", "min": "min", "any": "any", "all": "all"}


def indent(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]
