"""Scans along an axis: cumulative sums, products, extremes, and the linear recurrence.

An array is (outer, n, inner) around the axis. Where inner > 1, lanes are neighbours on the inner
axes, and each runs along the axis by itself. Otherwise sixteen elements in a row are combined in a
register, each lane with those 1, 2, 4 and 8 before it, and then with what came before them. A long
row that is alone is cut into chunks: all their totals first, then each chunk from its start.

Which form it is, and so the order of operations, follows from the shape alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import ClassVar

from staticgraph.byhand.source import MANY_ROWS, TILE_WORK, Source
from staticgraph.codegen.cpu import Kernels, KernelSpec, literal
from staticgraph.nest import identity
from staticgraph.types import ITEMSIZE, SHORT, TensorType, is_complex, is_float

_COMBINE = {
    "cumsum": "{0} + {1}",
    "cumprod": "{0} * {1}",
    "cummax": "maximum({0}, {1})",
    "cummin": "minimum({0}, {1})",
    "logcumsumexp": "logaddexp({0}, {1})",
}
_NEUTRAL = {"cumsum": "sum", "cumprod": "prod", "cummax": "max", "cummin": "min"}
_CHUNKS, _TILES, _COLUMN_BYTES = 64, 32, 512
#: products of sixteen factors between 1/b and b, or 0, are exact in their exponent
_FACTOR = {"float32": 2.0**7, "float64": 2.0**63}


def scan(name_of_op: str):
    """The generator for an op of one operand."""

    def generate(
        types: Sequence[TensorType],
        out: Sequence[TensorType],
        *,
        name: str,
        axis: int,
        exclusive: bool,
        reverse: bool,
    ) -> Kernels:
        return _Scan(name_of_op, out[0], axis, exclusive, reverse, name).kernels()

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
    made = _Linear("linear_scan", out[0], axis, False, reverse, name)
    made.late = late
    return made.kernels()


class _Scan:
    """Generates the kernels of a scan with an associative combination."""

    operands: ClassVar = {"x": ("in", 0)}

    def __init__(
        self, op: str, t: TensorType, axis: int, exclusive: bool, reverse: bool, name: str
    ):
        self.op, self.exclusive, self.reverse, self.name = op, exclusive, reverse, name
        self.dtype, self.code = t.dtype, SHORT[t.dtype]
        self.outer, self.n, self.inner = (
            prod(t.shape[:axis]), t.shape[axis], prod(t.shape[axis + 1 :])
        )  # fmt: skip
        self.size, self.nbytes = t.size, ITEMSIZE[t.dtype]
        self.way = "down" if reverse else "up"

    def combine(self, earlier: str, later: str) -> str:
        return _COMBINE[self.op].format(earlier, later)

    def neutral(self) -> str:
        if self.op == "logcumsumexp":
            return f"splat_{self.code}(-inf)"
        return f"splat_{self.code}({literal(identity(_NEUTRAL[self.op], self.dtype))})"

    @property
    def by_steps(self) -> bool:
        """Whether only the order of the elements themselves gives the right products.

        The partial products of a register may overflow or vanish where those from the start on do
        neither, as in 0, 1e30, 1e30.
        """
        return self.op in ("cumprod", "linear_scan") and is_float(self.dtype)

    @property
    def divisible(self) -> bool:
        """Whether the total of a chunk says all that the chunks after it need."""
        return not self.by_steps and not is_complex(self.dtype)

    def kernels(self) -> Kernels:
        if self.size == 0:
            return Kernels([])
        if self.inner > 1:
            return Kernels([self.columns()])
        chunks = min(_CHUNKS, self.n // TILE_WORK)
        if self.outer >= MANY_ROWS or chunks < 2 or not self.divisible:
            return Kernels([self.rows(1)])
        totals = -(-self.outer * chunks * self.nbytes // 64) * 64
        return Kernels([self.totals(chunks), self.rows(chunks)], [totals])

    # -- lanes beside each other ------------------------------------------------------------------

    def columns(self) -> KernelSpec:
        """A tile is some vectors of columns, from one end of the axis to the other."""
        vectors = -(-self.inner // 16)
        width = _COLUMN_BYTES // (16 * self.nbytes) or 1
        width = max(1, min(width, vectors, vectors * self.outer // _TILES))
        groups = -(-vectors // width)
        s = Source(**self.operands, y=("out", 0))
        s.emit(0, "for tile in range(lo, hi):")
        s.emit(1, f"column = tile % {groups} * {16 * width}")
        s.emit(1, f"base = tile // {groups} * {self.n * self.inner} + column")
        for v in range(width):
            s.emit(1, f"m{v} = lanes({self.inner} - column - {16 * v})", f"c{v} = {self.neutral()}")
        s.emit(1, f"for k in range({self.n}):")
        k = f"({self.n - 1} - k)" if self.reverse else "k"
        s.emit(2, f"at = base + {k} * {self.inner}")
        for v in range(width):
            self.column_step(s, 2, v)
        return s.kernel(self.name, self.outer * groups, 2 * self.size)

    def column_step(self, s: Source, d: int, v: int) -> None:
        place, new = f"at + {16 * v}", f"vldm_{self.code}(x, at + {16 * v}, m{v})"
        if self.exclusive:
            s.emit(d, f"vstm_{self.code}(y, {place}, c{v}, m{v})")
        s.emit(d, f"c{v} = {self.combine(f'c{v}', new)}")
        if not self.exclusive:
            s.emit(d, f"vstm_{self.code}(y, {place}, c{v}, m{v})")

    # -- lanes one after the other ----------------------------------------------------------------

    def place(self, chunks: int) -> tuple[list[str], int]:
        """Lines that set the part `e0`..`e1` of the row at `base`; how many rows a tile has."""
        if chunks == 1:
            each = max(1, TILE_WORK // self.n)
            loop = f"for row in range(tile * {each}, min((tile + 1) * {each}, {self.outer})):"
            return [loop, f"    base = row * {self.n}", "    e0 = 0", f"    e1 = {self.n}"], each
        step = -(-self.n // (chunks * 16)) * 16
        return [
            "for _ in range(1):",
            f"    chunk = tile % {chunks}",
            f"    base = tile // {chunks} * {self.n}",
            f"    e0 = chunk * {step}",
            f"    e1 = min(e0 + {step}, {self.n})",
        ], 1

    def rows(self, chunks: int) -> KernelSpec:
        work = {"w": ("work", 0)} if chunks > 1 else {}
        s = Source(**self.operands, y=("out", 0), **work)
        lines, each = self.place(chunks)
        s.emit(0, "for tile in range(lo, hi):")
        s.emit(1, *lines)
        if is_complex(self.dtype):
            self.sequence(s, 2, "e0", "e1", start=True)
        else:
            s.emit(2, f"carry = {self.neutral()}")
            if chunks > 1:
                others = f"chunk + 1, {chunks}" if self.reverse else "chunk"
                s.emit(2, f"for k in range({others}):")
                # Backwards, the chunks on the right are joined from the left: in one fixed order.
                total = f"splat_{self.code}(ld_{self.code}(w, tile - chunk + k))"
                s.emit(3, f"carry = {self.combine('carry', total)}")
            self.vectors(s, 2)
        return s.kernel(self.name, -(-self.outer // each) * chunks, 2 * self.size)

    def vectors(self, s: Source, d: int) -> None:
        s.emit(d, f"for i in range({self.sweep('e0', 'e1')}):")
        s.emit(d + 1, "m = lanes(e1 - i)")
        self.load(s, d + 1)
        if not self.by_steps:
            self.register(s, d + 1)
            return
        s.emit(d + 1, f"if {self.safe()}:")
        self.register(s, d + 2)
        s.emit(d + 1, "else:")
        s.emit(d + 2, f"r = lane0_{self.code}(carry)")
        self.sequence(s, d + 2, "i", "min(i + 16, e1)", start=False)
        s.emit(d + 2, f"carry = splat_{self.code}(r)")

    def sweep(self, low: str, high: str) -> str:
        if not self.reverse:
            return f"{low}, {high}, 16"
        return f"{low} + ({high} - {low} - 1) // 16 * 16, {low} - 1, -16"

    def load(self, s: Source, d: int) -> None:
        s.emit(d, f"v = select(m, vldm_{self.code}(x, base + i, m), {self.neutral()})")

    def register(self, s: Source, d: int) -> None:
        """Scan sixteen lanes, join `carry` and store."""
        for step in (1, 2, 4, 8):
            s.emit(d, f"v = {self.combine(f'{self.way}{step}(v, {self.neutral()})', 'v')}")
        s.emit(d, f"v = {self.combine('carry', 'v')}")
        value = f"{self.way}1(v, carry)" if self.exclusive else "v"
        s.emit(d, f"vstm_{self.code}(y, base + i, {value}, m)")
        s.emit(d, f"carry = {'first' if self.reverse else 'last'}(v)")

    def safe(self) -> str:
        """Whether the factors `v` are such that no product of them leaves the floats' range."""
        return self.tame("v")

    def tame(self, factors: str) -> str:
        big = _FACTOR[self.dtype]
        c = f"splat_{self.code}"
        inside = f"(abs_({factors}) <= {c}({big})) & (abs_({factors}) >= {c}({1 / big}))"
        return f"count(({inside}) | ({factors} == {c}(0))) == 16"

    def sequence(self, s: Source, d: int, low: str, high: str, *, start: bool) -> None:
        """Elements one by one; `r` is the result before them, with `start` that of none."""
        j = f"({low} + {high} - 1 - j)" if self.reverse else "j"
        if start:
            s.emit(d, f"r = lane0_{self.code}({self.neutral()})")
        s.emit(d, f"for j in range({low}, {high}):", f"    at = base + {j}")
        if self.exclusive:
            s.emit(d + 1, f"st_{self.code}(y, at, r)")
        self.element(s, d + 1)
        if not self.exclusive:
            s.emit(d + 1, f"st_{self.code}(y, at, r)")

    def element(self, s: Source, d: int) -> None:
        s.emit(d, f"r = {self.combine('r', f'ld_{self.code}(x, at)')}")

    def totals(self, chunks: int) -> KernelSpec:
        s = Source(**self.operands, w=("work", 0))
        lines, _ = self.place(chunks)
        s.emit(0, "for tile in range(lo, hi):")
        s.emit(1, *lines)
        s.emit(2, f"total = {self.neutral()}", "for i in range(e0, e1, 16):")
        s.emit(3, "m = lanes(e1 - i)")
        self.load(s, 3)
        s.emit(3, f"total = {self.combine('total', 'v')}")
        for step in (1, 2, 4, 8):
            s.emit(2, f"total = {self.combine(f'up{step}(total, {self.neutral()})', 'total')}")
        s.emit(2, f"st_{self.code}(w, tile, lane0_{self.code}(last(total)))")
        return s.kernel(f"{self.name}_totals", self.outer * chunks, self.size)


class _Linear(_Scan):
    """The recurrence r[k] = a[k] + b[k] r[k-1], from 0 on; the first b has no effect.

    Lanes hold what r is made of by the elements so far, v + f r: first one each, then 2, 4, 8, 16.
    """

    operands: ClassVar = {"x": ("in", 0), "b": ("in", 1)}
    divisible = False
    #: whether the factor of a step stands where the step comes from
    late = False

    def neutral(self) -> str:
        return f"splat_{self.code}(0)"

    def factor(self, at: str) -> str:
        """Where the factor of the step to the element at a place stands."""
        if not self.late:
            return at
        return f"{at} {'+' if self.reverse else '-'} {self.inner}"

    def column_step(self, s: Source, d: int, v: int) -> None:
        at = f"at + {16 * v}"
        s.emit(d, f"v = vldm_{self.code}(x, {at}, m{v})")
        s.emit(d, "if k > 0:")
        s.emit(d + 1, f"v = v + vldm_{self.code}(b, {self.factor(at)}, m{v}) * c{v}")
        s.emit(d, f"c{v} = v", f"vstm_{self.code}(y, {at}, v, m{v})")

    def load(self, s: Source, d: int) -> None:
        s.emit(d, f"v = vldm_{self.code}(x, base + i, m)", "steps = m")
        if self.late:
            # The first element has none before it.
            inside = "lanes(e1 - 1 - i)" if self.reverse else "iota() + splat_i64(i) > splat_i64(0)"
            s.emit(d, f"steps = m & ({inside})")
        b = f"vldm_{self.code}(b, {self.factor('base + i')}, steps)"
        s.emit(d, f"f = select(steps, {b}, splat_{self.code}(1))")

    def safe(self) -> str:
        return self.tame("f")

    def register(self, s: Source, d: int) -> None:
        for step in (1, 2, 4, 8):
            s.emit(d, f"v = v + f * {self.way}{step}(v, {self.neutral()})")
            s.emit(d, f"f = f * {self.way}{step}(f, splat_{self.code}(1))")
        s.emit(d, "v = v + f * carry")
        s.emit(d, f"vstm_{self.code}(y, base + i, v, m)")
        s.emit(d, f"carry = {'first' if self.reverse else 'last'}(v)")

    def element(self, s: Source, d: int) -> None:
        start = f"base + {self.n - 1}" if self.reverse else "base"
        s.emit(d, f"if at == {start}:", f"    r = ld_{self.code}(x, at)", "else:")
        step = f"ld_{self.code}(b, {self.factor('at')}) * r"
        s.emit(d, f"    r = ld_{self.code}(x, at) + {step}")
