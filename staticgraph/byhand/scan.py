"""Scans along an axis: cumulative sums, products, extremes, and the linear recurrence.

An array is (outer, n, inner) around the axis. Where inner > 1, lanes are neighbours on the inner
axes, and each runs along the axis by itself. Otherwise sixteen elements in a row are combined in a
register, each lane with those 1, 2, 4 and 8 before it, and then with what came before them. A long
row that is alone is cut into chunks: all their totals first, then each chunk from its start.

Which form it is, and so the order of operations, follows from the shape alone. What is carried
along is float64 for float32, where its rounding errors would add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import ClassVar

from staticgraph.byhand.source import MANY_ROWS, TILE_WORK, Source
from staticgraph.codegen.spec import Kernels, KernelSpec, literal
from staticgraph.nest import identity
from staticgraph.types import ITEMSIZE, SHORT, TensorType, is_complex, is_float

_CHUNKS, _TILES, _COLUMN_BYTES = 64, 32, 512
#: products of sixteen factors that are 0 or between 1/b and b stay in the range of the floats
_FACTOR = {"float32": 2.0**7, "float64": 2.0**63}


def scan(kind: str, combine: str, *, carry: str = "") -> Callable[..., Kernels]:
    """The generator of an associative scan: `kind` in `nest.COMBINERS`, `combine` of two vectors.

    `carry` names what float32 is carried along in, if not in itself.
    """

    def generate(
        types: Sequence[TensorType],
        out: Sequence[TensorType],
        *,
        name: str,
        axis: int,
        exclusive: bool,
        reverse: bool,
    ) -> Kernels:
        t = out[0]
        rounds = is_float(t.dtype) or is_complex(t.dtype)
        made = {"prod": _Product if rounds else _Scan, "": _LogSum}.get(kind, _Scan)
        wide = carry if t.dtype == "float32" else ""
        start = -float("inf") if not kind else identity(kind, t.dtype)
        return made(t, axis, exclusive, reverse, name, combine, start, wide).kernels()

    return generate


def linear_scan(
    types: Sequence[TensorType],
    out: Sequence[TensorType],
    *,
    name: str,
    axis: int,
    reverse: bool,
    late: bool,
) -> Kernels:
    made = _Linear(out[0], axis, False, reverse, name, "", 0, "")
    made.late = late
    return made.kernels()


class _Scan:
    """Generates the kernels of a scan with an associative combination."""

    operands: ClassVar = {"x": ("in", 0)}
    #: whether the total of a chunk says all that the chunks after it need
    divisible = True

    def __init__(
        self,
        t: TensorType,
        axis: int,
        exclusive: bool,
        reverse: bool,
        name: str,
        combine: str,
        start: object,
        carry: str,
    ):
        self.exclusive, self.reverse, self.name = exclusive, reverse, name
        self.dtype, self.code, self.combination = t.dtype, SHORT[t.dtype], combine
        self.outer, self.n = prod(t.shape[:axis]), t.shape[axis]
        self.inner, self.size = prod(t.shape[axis + 1 :]), t.size
        self.carry = carry or self.code
        self.start = f"splat_{self.code}({literal(start)})"
        self.first = f"splat_{self.carry}({literal(start)})"
        self.way, self.end = ("down", "first") if reverse else ("up", "last")

    def combine(self, earlier: str, later: str) -> str:
        return self.combination.format(earlier, later)

    def wide(self, vector: str) -> str:
        return vector if self.carry == self.code else f"cast_{self.carry}({vector})"

    def narrow(self, vector: str) -> str:
        return vector if self.carry == self.code else f"cast_{self.code}({vector})"

    def kernels(self) -> Kernels:
        if self.size == 0:
            return Kernels([])
        if self.inner > 1:
            return Kernels([self.columns()])
        chunks = min(_CHUNKS, self.n // TILE_WORK)
        if self.outer >= MANY_ROWS or chunks < 2 or not self.divisible:
            return Kernels([self.rows(1)])
        return Kernels([self.totals(chunks), self.rows(chunks)], [self.outer * chunks * 16])

    # -- lanes beside each other ------------------------------------------------------------------

    def columns(self) -> KernelSpec:
        """A tile is some vectors of columns, from one end of the axis to the other."""
        vectors = -(-self.inner // 16)
        width = _COLUMN_BYTES // (16 * ITEMSIZE[self.dtype])
        width = max(1, min(width, vectors, vectors * self.outer // _TILES))
        groups = -(-vectors // width)
        s = Source(**self.operands, y=("out", 0))
        s.emit(0, "for tile in range(lo, hi):")
        s.emit(1, f"column = tile % {groups} * {16 * width}")
        s.emit(1, f"base = tile // {groups} * {self.n * self.inner} + column")
        for v in range(width):
            s.emit(1, f"m{v} = lanes({self.inner} - column - {16 * v})", f"c{v} = {self.first}")
        s.emit(1, f"for k in range({self.n}):")
        k = f"({self.n - 1} - k)" if self.reverse else "k"
        s.emit(2, f"at = base + {k} * {self.inner}")
        for v in range(width):
            self.column_step(s, 2, v, f"at + {16 * v}")
        return s.kernel(self.name, self.outer * groups, 2 * self.size)

    def column_step(self, s: Source, d: int, v: int, place: str) -> None:
        store = f"vstm_{self.code}(y, {place}, {self.narrow(f'c{v}')}, m{v})"
        if self.exclusive:
            s.emit(d, store)
        new = self.wide(f"vldm_{self.code}(x, {place}, m{v})")
        s.emit(d, f"c{v} = {self.combine(f'c{v}', new)}")
        if not self.exclusive:
            s.emit(d, store)

    # -- lanes one after the other ----------------------------------------------------------------

    def part(self, s: Source, chunks: int) -> int:
        """Begin the loops: `e0`..`e1` of the row at `base`. Returns how many rows a tile has."""
        s.emit(0, "for tile in range(lo, hi):")
        if chunks == 1:
            each = max(1, TILE_WORK // self.n)
            rows = f"tile * {each}, min((tile + 1) * {each}, {self.outer})"
            s.emit(1, f"for row in range({rows}):")
            s.emit(2, f"base = row * {self.n}", "e0 = 0", f"e1 = {self.n}")
            return each
        step = -(-self.n // (chunks * 16)) * 16
        s.emit(1, f"for row in range(tile // {chunks}, tile // {chunks} + 1):")
        s.emit(2, f"chunk = tile % {chunks}", f"base = row * {self.n}")
        s.emit(2, f"e0 = chunk * {step}", f"e1 = min(e0 + {step}, {self.n})")
        return 1

    def rows(self, chunks: int) -> KernelSpec:
        totals = {"w": ("work", 0)} if chunks > 1 else {}
        s = Source(**self.operands, y=("out", 0), **totals)
        each = self.part(s, chunks)
        s.emit(2, f"carry = {self.first}")
        if chunks > 1:
            s.emit(2, f"for k in range({f'chunk + 1, {chunks}' if self.reverse else 'chunk'}):")
            total = f"splat_{self.carry}(ld_{self.carry}(w, row * {chunks} + k))"
            s.emit(3, f"carry = {self.combine('carry', total)}")
        sweep = "e0, e1, 16"
        if self.reverse:
            sweep = "e0 + (e1 - e0 - 1) // 16 * 16, e0 - 1, -16"
        s.emit(2, f"for i in range({sweep}):", "    m = lanes(e1 - i)")
        self.load(s, 3)
        self.step(s, 3)
        return s.kernel(self.name, -(-self.outer // each) * chunks, 2 * self.size)

    def load(self, s: Source, d: int) -> None:
        s.emit(d, f"v = select(m, vldm_{self.code}(x, base + i, m), {self.start})")

    def step(self, s: Source, d: int) -> None:
        """Scan the sixteen lanes of `v` after what `carry` holds, and store."""
        for k in (1, 2, 4, 8):
            s.emit(d, f"v = {self.combine(f'{self.way}{k}(v, {self.start})', 'v')}")
        s.emit(d, f"r = {self.combine('carry', self.wide('v'))}")
        self.hand_on(s, d)

    def hand_on(self, s: Source, d: int) -> None:
        """Store the results `r`, and keep the last for the next lanes."""
        value = self.narrow(f"{self.way}1(r, carry)" if self.exclusive else "r")
        s.emit(d, f"vstm_{self.code}(y, base + i, {value}, m)", f"carry = {self.end}(r)")

    def totals(self, chunks: int) -> KernelSpec:
        s = Source(**self.operands, w=("work", 0))
        self.part(s, chunks)
        self.total(s, 2)
        s.emit(2, f"st_{self.carry}(w, row * {chunks} + chunk, lane0_{self.carry}(total))")
        return s.kernel(f"{self.name}_totals", self.outer * chunks, self.size)

    def total(self, s: Source, d: int) -> None:
        """All of a chunk combined, in the last lane and then in the first of `total`."""
        s.emit(d, f"total = {self.first}", "for i in range(e0, e1, 16):", "    m = lanes(e1 - i)")
        self.load(s, d + 1)
        s.emit(d + 1, f"total = {self.combine('total', self.wide('v'))}")
        for k in (1, 2, 4, 8):
            s.emit(d, f"total = {self.combine(f'up{k}(total, {self.first})', 'total')}")
        s.emit(d, "total = last(total)")


class _LogSum(_Scan):
    """log of a cumulative sum of e^x.

    Where what came before is larger than all sixteen elements, their sum relative to it adds to it;
    otherwise they are combined in steps. Rounding errors only add up in the first case, so there
    the sum is carried along with more digits.
    """

    def step(self, s: Source, d: int) -> None:
        s.emit(d, f"before = {self.narrow('carry')}", "if count(before > hmax(v)) == 16:")
        s.emit(d + 1, "v = exp(v - before)")
        for k in (1, 2, 4, 8):
            s.emit(d + 1, f"v = v + {self.way}{k}(v, splat_{self.code}(0))")
        s.emit(d + 1, f"r = carry + {self.wide('log1p(v)')}")
        s.emit(d, "else:")
        for k in (1, 2, 4, 8):
            s.emit(d + 1, f"v = {self.combine(f'{self.way}{k}(v, {self.start})', 'v')}")
        s.emit(d + 1, f"r = {self.combine('carry', self.wide('v'))}")
        self.hand_on(s, d)

    def total(self, s: Source, d: int) -> None:
        s.emit(d, f"top = {self.start}", "for i in range(e0, e1, 16):", "    m = lanes(e1 - i)")
        self.load(s, d + 1)
        s.emit(d + 1, "top = maximum(top, v)")
        s.emit(d, "top = hmax(top)", f"top = select(isfinite(top), top, splat_{self.code}(0))")
        zero = f"splat_{self.carry}(0)"
        s.emit(d, f"total = {zero}", "for i in range(e0, e1, 16):", "    m = lanes(e1 - i)")
        self.load(s, d + 1)
        s.emit(d + 1, f"total = total + {self.wide('exp(v - top)')}")
        s.emit(d, f"total = {self.wide('top')} + log(hsum(total))")


class _Product(_Scan):
    """Products of floats: only the order of the elements themselves is safe.

    The partial products of a register may overflow or vanish where those from the start on do
    neither, as in 0, 1e30, 1e30. So a register is used only where none can.
    """

    divisible = False
    #: the vector of what is multiplied
    factors = "v"

    def step(self, s: Source, d: int) -> None:
        if is_complex(self.dtype):
            self.one_by_one(s, d)
            return
        f, c, big = self.factors, f"splat_{self.code}", _FACTOR[self.dtype]
        tame = f"(abs_({f}) <= {c}({big})) & (abs_({f}) >= {c}({1 / big})) | ({f} == {c}(0))"
        s.emit(d, f"if count({tame}) == 16:")
        self.register(s, d + 1)
        s.emit(d, "else:")
        self.one_by_one(s, d + 1)

    def register(self, s: Source, d: int) -> None:
        super().step(s, d)

    def one_by_one(self, s: Source, d: int) -> None:
        s.emit(d, f"c = lane0_{self.carry}(carry)", "for j in range(i, min(i + 16, e1)):")
        j = "(i + min(i + 16, e1) - 1 - j)" if self.reverse else "j"
        s.emit(d + 1, f"at = base + {j}")
        if self.exclusive:
            s.emit(d + 1, f"st_{self.code}(y, at, c)")
        self.element(s, d + 1)
        if not self.exclusive:
            s.emit(d + 1, f"st_{self.code}(y, at, c)")
        s.emit(d, f"carry = splat_{self.carry}(c)")

    def element(self, s: Source, d: int) -> None:
        s.emit(d, f"c = c * ld_{self.code}(x, at)")


class _Linear(_Product):
    """The recurrence r[k] = a[k] + b[k] r[k-1], from 0 on; the first b has no effect.

    Lanes hold what r is made of by the elements so far, v + f r: first one each, then 2, 4, 8, 16.
    """

    operands: ClassVar = {"x": ("in", 0), "b": ("in", 1)}
    factors = "f"
    #: whether the factor of a step stands where the step comes from
    late = False

    def step(self, s: Source, d: int) -> None:
        if is_float(self.dtype) or is_complex(self.dtype):
            super().step(s, d)
        else:
            self.register(s, d)

    def factor(self, at: str) -> str:
        """Where the factor of the step to the element at a place stands."""
        if not self.late:
            return at
        return f"{at} {'+' if self.reverse else '-'} {self.inner}"

    def column_step(self, s: Source, d: int, v: int, place: str) -> None:
        s.emit(d, f"v = vldm_{self.code}(x, {place}, m{v})")
        s.emit(d, "if k > 0:")
        s.emit(d + 1, f"v = v + vldm_{self.code}(b, {self.factor(place)}, m{v}) * c{v}")
        s.emit(d, f"c{v} = v", f"vstm_{self.code}(y, {place}, v, m{v})")

    def load(self, s: Source, d: int) -> None:
        s.emit(d, f"v = vldm_{self.code}(x, base + i, m)", "steps = m")
        if self.late:
            # The first element has none before it.
            inside = "lanes(e1 - 1 - i)" if self.reverse else "iota() + splat_i64(i) > splat_i64(0)"
            s.emit(d, f"steps = m & ({inside})")
        b = f"vldm_{self.code}(b, {self.factor('base + i')}, steps)"
        s.emit(d, f"f = select(steps, {b}, splat_{self.code}(1))")

    def register(self, s: Source, d: int) -> None:
        for k in (1, 2, 4, 8):
            s.emit(d, f"v = v + f * {self.way}{k}(v, splat_{self.code}(0))")
            s.emit(d, f"f = f * {self.way}{k}(f, splat_{self.code}(1))")
        s.emit(d, "r = v + f * carry")
        self.hand_on(s, d)

    def element(self, s: Source, d: int) -> None:
        start = f"base + {self.n - 1}" if self.reverse else "base"
        s.emit(d, f"if at == {start}:", f"    c = ld_{self.code}(x, at)", "else:")
        step = f"ld_{self.code}(b, {self.factor('at')}) * c"
        s.emit(d, f"    c = ld_{self.code}(x, at) + {step}")
