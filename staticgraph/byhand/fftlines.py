"""Source lines of Fourier transforms: small ones in registers, and columns of any smooth length.

Sixteen lanes are sixteen transforms beside each other, so that no line here moves data between
lanes. A transform of m rows goes through stages (Stockham's: the result comes out in order), each
from one buffer to the other; the first reads and the last writes through a `Port`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi, prod, sin, sqrt

from staticgraph.byhand.source import Source

#: real and imaginary part, as source
Pair = tuple[str, str]
COMPLEX = {"f32": "c64", "f64": "c128"}
BYTES = {"f32": 4, "f64": 8}
#: the largest prime whose transform is computed by its definition
LARGEST = 47
_FIXED = (2, 3, 4, 5, 8)
LANES = 16


def primes(n: int) -> list[int]:
    """The prime factors of n, each as often as it divides n."""
    found, p = [], 2
    while p * p <= n:
        while n % p == 0:
            found.append(p)
            n //= p
        p += 1
    return found + [n] * (n > 1)


def radices(n: int, code: str) -> list[int]:
    """The lengths of the stages of a transform of length n; one of 1 is one of no length."""
    factors = primes(n)
    twos = factors.count(2)
    # Eight complex numbers of f32 fill half of the 32 registers, four of f64 as many.
    eights = (twos // 3 - (twos % 3 == 1 and twos > 1)) if code == "f32" else twos % 2 * (twos > 2)
    fours, rest = divmod(twos - 3 * eights, 2)
    small = [2] * rest + [4] * fours + [p for p in factors if p in (3, 5)] + [8] * eights
    # Those by definition read their operands again and again: rather from a buffer.
    return small[:1] + [p for p in factors if p > 5] + small[1:]


class Lines(Source):
    """Source with fresh names and arithmetic on pairs."""

    def __init__(self, code: str, **pointers: tuple[str, int]):
        super().__init__(**pointers)
        self.code, self.counter, self.depth = code, 0, 0

    def __call__(self, *lines: str) -> None:
        self.emit(self.depth, *lines)

    def loop(self, head: str) -> Lines:
        """`with s.loop("for ..."):` indents what follows by one level."""
        self(head)
        self.depth += 1
        return self

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.depth -= 1

    def let(self, value: str) -> str:
        self.counter += 1
        self(f"t{self.counter} = {value}")
        return f"t{self.counter}"

    def const(self, value: float) -> str:
        return f"splat_{self.code}({value!r})"

    def add(self, a: Pair, b: Pair) -> Pair:
        return self.let(f"{a[0]} + {b[0]}"), self.let(f"{a[1]} + {b[1]}")

    def sub(self, a: Pair, b: Pair) -> Pair:
        return self.let(f"{a[0]} - {b[0]}"), self.let(f"{a[1]} - {b[1]}")

    def ahead(self, a: Pair, b: Pair) -> Pair:
        """a + i b"""
        return self.let(f"{a[0]} - {b[1]}"), self.let(f"{a[1]} + {b[0]}")

    def behind(self, a: Pair, b: Pair) -> Pair:
        """a - i b"""
        return self.let(f"{a[0]} + {b[1]}"), self.let(f"{a[1]} - {b[0]}")

    def scale(self, a: Pair, factor: float) -> Pair:
        return tuple(self.let(f"{x} * {self.const(factor)}") for x in a)

    def more(self, a: Pair, b: Pair, factor: float) -> Pair:
        """a + factor b"""
        return tuple(
            self.let(f"fma({y}, {self.const(factor)}, {x})") for x, y in zip(a, b, strict=True)
        )

    def times(self, a: Pair, w: Pair) -> Pair:
        return (
            self.let(f"fma({a[0]}, {w[0]}, -({a[1]} * {w[1]}))"),
            self.let(f"fma({a[0]}, {w[1]}, {a[1]} * {w[0]})"),
        )

    # -- transforms in registers ------------------------------------------------------------------

    def dft(self, a: Sequence[Pair]) -> list[Pair]:
        return getattr(self, f"_dft{len(a)}")(*a)

    def _dft2(self, a: Pair, b: Pair) -> list[Pair]:
        return [self.add(a, b), self.sub(a, b)]

    def _dft4(self, a: Pair, b: Pair, c: Pair, d: Pair) -> list[Pair]:
        p, q, r, s = self.add(a, c), self.sub(a, c), self.add(b, d), self.sub(b, d)
        return [self.add(p, r), self.behind(q, s), self.sub(p, r), self.ahead(q, s)]

    def _dft8(self, *a: Pair) -> list[Pair]:
        even, odd = self._dft4(*a[::2]), self._dft4(*a[1::2])
        one, three = odd[1], odd[3]
        half = sqrt(0.5)
        one = self.let(f"{one[0]} + {one[1]}"), self.let(f"{one[1]} - {one[0]}")
        three = self.let(f"{three[1]} - {three[0]}"), self.let(f"{three[0]} + {three[1]}")
        low = [self.add(even[0], odd[0]), self.more(even[1], one, half)]
        high = [self.sub(even[0], odd[0]), self.more(even[1], one, -half)]
        low.append(self.behind(even[2], odd[2]))
        high.append(self.ahead(even[2], odd[2]))
        for found, sign in ((low, half), (high, -half)):
            re, im = even[3]
            found.append(
                (
                    self.let(f"fma({three[0]}, {self.const(sign)}, {re})"),
                    self.let(f"fma({three[1]}, {self.const(-sign)}, {im})"),
                )
            )
        return low + high

    def _dft3(self, a: Pair, b: Pair, c: Pair) -> list[Pair]:
        total = self.add(b, c)
        turn = self.scale(self.sub(b, c), sqrt(0.75))
        middle = self.more(a, total, -0.5)
        return [self.add(a, total), self.behind(middle, turn), self.ahead(middle, turn)]

    def _dft5(self, a: Pair, b: Pair, c: Pair, d: Pair, e: Pair) -> list[Pair]:
        near, far = self.add(b, e), self.add(c, d)
        dn, df = self.sub(b, e), self.sub(c, d)
        c1, c2, s1, s2 = (f(k * pi / 5) for f in (cos, sin) for k in (2, 4))
        m1 = self.more(self.more(a, near, c1), far, c2)
        m2 = self.more(self.more(a, near, c2), far, c1)
        t1 = self.more(self.scale(dn, s1), df, s2)
        t2 = self.more(self.scale(dn, s2), df, -s1)
        first = self.add(a, self.add(near, far))
        return [first, self.behind(m1, t1), self.behind(m2, t2), self.ahead(m2, t2),
                self.ahead(m1, t1)]  # fmt: skip

    # -- angles -----------------------------------------------------------------------------------

    def turn(self, numerator: str) -> Pair:
        """e^(-2 pi i j / n) in float64 for a vector 0 <= j < n of int64; `unit` is pi / 4 / n.

        j goes to the first eighth of the circle as an integer, so that nothing is lost there.
        """
        self(f"v = ({numerator}) * splat_i64(8)")
        for mask, eighths in (("m0", 8), ("m1", 4), ("m2", 2)):
            self(f"{mask} = v > splat_i64({eighths // 2} * n)")
            self(f"v = select({mask}, splat_i64({eighths} * n) - v, v)")
        self("u = cast_f64(v) * unit", "z = u * u")
        self(f"sn = fma(u * z, {_poly('z', _SIN)}, u)")
        self(f"cs = fma(z * z, {_poly('z', _COS)}, fma(z, splat_f64(-0.5), splat_f64(1.0)))")
        re, im = self.let("select(m2, sn, cs)"), self.let("select(m2, cs, sn)")
        return self.let(f"select(m1, -{re}, {re})"), self.let(f"select(m0, {im}, -{im})")


def _poly(x: str, coefficients: Sequence[float]) -> str:
    text = f"splat_f64({coefficients[0]!r})"
    for c in coefficients[1:]:
        text = f"fma({text}, {x}, splat_f64({c!r}))"
    return text


#: Cephes, for |x| <= pi / 4: sin x = x + x^3 p(x^2), cos x = 1 - x^2 / 2 + x^4 p(x^2)
_SIN = (
    1.58962301576546568060e-10, -2.50507477628578072866e-8, 2.75573136213857245213e-6,
    -1.98412698295895385996e-4, 8.33333333332211858878e-3, -1.66666666666666307295e-1,
)  # fmt: skip
_COS = (
    -1.13585365213876817300e-11, 2.08757008419747316778e-9, -2.75573141792967388112e-7,
    2.48015872888517045348e-5, -1.38888888888730564116e-3, 4.16666666666665929218e-2,
)  # fmt: skip


@dataclass(frozen=True)
class Port:
    """Where the rows of sixteen columns stand: row r of the lanes at index `at + r * step`.

    `kind` is "complex"; "real" (imaginary parts 0); "pairs": from 2 r steps on, parts `plane`
    elements apart; or "split": parts in two planes, `plane` apart. `at` is the source of an index,
    or with `gather` of an int64 vector of them; `mask` names the lanes that exist, if not all do.
    With `swap` the parts change places, which makes an inverse transform of a forward one.
    """

    address: str
    at: str
    step: int
    kind: str = "complex"
    plane: int = 0
    mask: str = ""
    gather: bool = False
    swap: bool = False
    scale: float = 1.0

    def _index(self, row: str, extra: int) -> str:
        rows = f"({row}) * {self.step} + {extra}"
        return f"{self.at} + splat_i64({rows})" if self.gather else f"{self.at} + {rows}"

    def _read(self, code: str, row: str, extra: int) -> str:
        place = f"{self.address}, {self._index(row, extra)}"
        if self.gather:
            return f"vgather_{code}({place}, {self.mask})"
        return f"vldm_{code}({place}, {self.mask})" if self.mask else f"vld_{code}({place})"

    def load(self, s: Lines, row: str) -> Pair:
        code = s.code
        if self.kind == "complex":
            both = s.let(self._read(COMPLEX[code], row, 0))
            pair = s.let(f"real({both})"), s.let(f"imag({both})")
        elif self.kind == "real":
            pair = s.let(self._read(code, row, 0)), s.const(0.0)
        elif self.kind == "pairs":
            pair = tuple(s.let(self._read(code, f"2 * ({row})", k)) for k in (0, self.plane))
        else:
            pair = tuple(s.let(self._read(code, row, k)) for k in (0, self.plane))
        return pair[::-1] if self.swap else pair

    def _write(self, s: Lines, code: str, row: str, extra: int, value: str) -> None:
        place = f"{self.address}, {self._index(row, extra)}, {value}"
        if self.gather:
            s(f"vscatter_{code}({place}, {self.mask})")
        else:
            s(f"vstm_{code}({place}, {self.mask})" if self.mask else f"vst_{code}({place})")

    def store(self, s: Lines, row: str, pair: Pair) -> None:
        code = s.code
        pair = pair[::-1] if self.swap else pair
        if self.scale != 1.0:
            pair = s.scale(pair, self.scale)
        if self.kind == "complex":
            self._write(s, COMPLEX[code], row, 0, f"complex_({pair[0]}, {pair[1]})")
        elif self.kind == "real":
            self._write(s, code, row, 0, pair[0])
        elif self.kind == "pairs":
            for part, k in zip(pair, (0, self.plane), strict=True):
                self._write(s, code, f"2 * ({row})", k, part)
        else:
            for part, k in zip(pair, (0, self.plane), strict=True):
                self._write(s, code, row, k, part)


#: called with k (a number or a name) and q: the factor of row q + k (rows / radix) of the result
Twist = Callable[[Lines, str, str], Pair]


@dataclass(frozen=True)
class Columns:
    """A transform of `rows` rows: `buffers` are the addresses of two buffers of `planes` elements
    for each part, `table` that of e^(-2 pi i j / rows) in two planes.
    """

    rows: int
    code: str
    buffers: tuple[str, str]
    plane: int
    table: str

    @property
    def stages(self) -> list[int]:
        return radices(self.rows, self.code)

    @property
    def needs_table(self) -> bool:
        return self.stages != [] and self.stages not in [[r] for r in _FIXED]

    def buffer(self, number: int) -> Port:
        return Port(self.buffers[number % 2], "0", 16, "split", self.plane)

    def emit(self, s: Lines, source: Port, target: Port, twist: Twist | None = None) -> None:
        stages = self.stages
        if not stages:
            target.store(s, "0", source.load(s, "0"))
        for i, radix in enumerate(stages):
            taken = source if i == 0 else self.buffer(i - 1)
            given = target if i == len(stages) - 1 else self.buffer(i)
            ready = prod(stages[:i])
            left = self.rows // ready // radix
            with s.loop(f"for p in range({left}):"):
                if radix in _FIXED:
                    weights = self._weights(s, radix, ready) if left > 1 else None
                    with s.loop(f"for q in range({ready}):"):
                        self._fixed(s, radix, ready, taken, given, weights,
                                    twist if left == 1 else None)  # fmt: skip
                else:
                    with s.loop(f"for q in range({ready}):"):
                        self._prime(s, radix, ready, taken, given, twist if left == 1 else None)

    def _weight(self, s: Lines, index: str) -> Pair:
        return tuple(
            s.let(f"splat_{s.code}(ld_{s.code}({self.table}, {plane} + {index}))")
            for plane in (0, -(-self.rows // 16) * 16)
        )

    def _weights(self, s: Lines, radix: int, ready: int) -> list[Pair]:
        return [self._weight(s, f"p * {k * ready}") for k in range(1, radix)]

    def _fixed(self, s, radix, ready, taken, given, weights, twist) -> None:
        apart = self.rows // radix
        a = [taken.load(s, f"q + p * {ready} + {j * apart}") for j in range(radix)]
        for k, b in enumerate(s.dft(a)):
            if weights and k:
                b = s.times(b, weights[k - 1])
            if twist:
                b = s.times(b, twist(s, f"{k}", "q"))
            given.store(s, f"q + p * {ready * radix} + {k * ready}", b)

    def _prime(self, s, radix, ready, taken, given, twist) -> None:
        """By definition, one result after the other."""
        apart = self.rows // radix
        with s.loop(f"for k in range({radix}):"):
            first = taken.load(s, f"q + p * {ready}")
            s(f"re = {first[0]}", f"im = {first[1]}", "e = 0")
            with s.loop(f"for j in range(1, {radix}):"):
                s("e += k", f"if e >= {radix}:", f"    e -= {radix}")
                x = taken.load(s, f"q + p * {ready} + j * {apart}")
                w = self._weight(s, f"e * {apart}")
                s(f"re = fma({x[0]}, {w[0]}, fma({x[1]}, -{w[1]}, re))")
                s(f"im = fma({x[0]}, {w[1]}, fma({x[1]}, {w[0]}, im))")
            b = s.times(("re", "im"), self._weight(s, f"p * k * {ready}"))
            if twist:
                b = s.times(b, twist(s, "k", "q"))
            given.store(s, f"q + p * {ready * radix} + k * {ready}", b)
