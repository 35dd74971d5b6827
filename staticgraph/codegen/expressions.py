"""Expressions of a region as lines of source: vectors of 16 lanes, and integers for places.

Lanes are neighbours along one axis, the last of the domain. Every expression is emitted once, in
the outermost loop that knows its indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from staticgraph import scalar as s
from staticgraph.codegen import ahead
from staticgraph.codegen.affine import affine, slope
from staticgraph.codegen.region import Region, Store, position
from staticgraph.codegen.spec import LANES, call, literal
from staticgraph.codegen.turned import Turned
from staticgraph.scalar import Expr
from staticgraph.types import ITEMSIZE, SHORT


@dataclass
class Scope:
    """Code at one loop depth: the axes known there, what was emitted, the lines."""

    axes: set[int]
    names: dict[tuple, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


class Expressions:
    """Emits a region's expressions and stores into `scopes`, the outermost first."""

    def __init__(self, region: Region):
        self.region = region
        self.sizes = region.sizes or (1,)
        self.v = len(self.sizes) - 1  # the axis of the lanes
        self.strides = [tuple(prod(t.shape[k + 1 :]) for k in range(t.ndim)) for t in region.types]
        self.scopes: list[Scope] = []
        self.mask: str | None = None  # the name of the lanes that exist, where not all do
        self.level = 0
        #: expression -> (scratch element offset, first level): what stages keep in a scratch row
        self.saved: dict[Expr, tuple[int, int]] = {}
        self.turned: Turned | None = None
        self.settles = False  # whether stores past the caches have to be waited for
        self.buffers: list[tuple[str, int]] = []
        self.counter = 0
        self.deps_memo: dict[Expr, frozenset[int]] = {}

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

    def scope_of(self, deps: frozenset[int]) -> Scope:
        return next(sc for sc in self.scopes if deps <= sc.axes)

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

    # -- vectors ----------------------------------------------------------------------------------

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
            text = call(s.PRIMS[e.name].cpu, [self.name_of(a) for a in e.args])
        name = self.bind(key, deps, text)
        if e in self.saved and self.saved[e][1] == self.level:
            self.scope_of(deps).lines.append(
                f"vst_{code}(scratch, {self.saved[e][0]} + i{self.v}, {name})"
            )

    def name_of(self, e: Expr) -> str:
        name = self.known(("vec", e))
        return name if name is not None else self.vector(e)

    # -- loads and places -------------------------------------------------------------------------

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

    def store_all(self, stores: list[Store], body: Scope) -> None:
        """Compute all values before writing one: a result may lie where an operand was."""
        for st in stores:
            self.vector(st.value)
        for st in stores:
            self.store(st, body)

    def past(self, result: int) -> bool:
        """Whether a result goes past the caches; whose kernel this is waits for it at the end."""
        return ahead.past(self.region, self.mask, result)

    def store(self, st: Store, body: Scope) -> None:
        t = self.region.results[st.result]
        y, code = self.pointer("out", st.result), SHORT[t.dtype]
        value = self.vector(st.value)
        form = affine(st.index)
        assert form is not None
        step = form[0].get(self.v, 0)
        place = self.integer(st.index)
        if step == 1 and self.past(st.result):
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

    def inplace(self) -> frozenset[tuple[int, int]]:
        """(result, input) pairs that may share memory: every read of the input is at the position
        and not in a later stage than where the result is written."""
        region, found = self.region, set()
        for st in region.stores:
            result = region.results[st.result]
            for k, t in enumerate(region.types):
                alike = t.nbytes == result.nbytes and ITEMSIZE[t.dtype] == ITEMSIZE[result.dtype]
                if alike and self.only_reads_at(k, st):
                    found.add((st.result, k))
        return frozenset(found)

    def only_reads_at(self, k: int, st: Store) -> bool:
        """Whether input k is read nowhere but where a store writes, and no later."""
        target = affine(st.index)
        placed = [(r.level, r.body) for r in self.region.reductions]
        placed += [(x.level, x.value) for x in self.region.stores]
        for level, e in placed:
            for x in s.postorder([e]):
                if x.name == "load" and x.value[0] == k:  # type: ignore[index]
                    at = x.args[:-1] if s.is_guarded(x) else x.args
                    if level > st.level or affine(position(at, self.strides[k])) != target:
                        return False
        return True
