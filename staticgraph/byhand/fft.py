"""Fourier transforms along one axis of an array (outer, n, inner), of any length n.

- Small prime factors: see `fftplan`.
- With a prime factor too large for a transform by definition, n goes over a convolution with the
  chirp e^(i pi j^2 / n), by transforms of a length that has small factors (Bluestein).
- Pairs of real numbers are complex ones, so a real transform of an even n is a complex one of n / 2
  and a pass over its result, in the same kernel for rows that fit its memory; an odd n takes a
  whole complex one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi

from staticgraph.byhand.fftlines import COMPLEX, LARGEST, Lines, Pair, Port, primes
from staticgraph.byhand.fftplan import Job, Plan, Ref, up
from staticgraph.byhand.source import cut
from staticgraph.codegen.spec import Kernels
from staticgraph.types import TensorType

#: angles in a table of the passes over real spectra
FINE = 512


def fft(
    types: Sequence[TensorType],
    out: Sequence[TensorType],
    *,
    name: str,
    axis: int,
    inverse: bool,
    scale: float,
) -> Kernels:
    made = _Plan(out[0], axis, name)
    if out[0].size:
        outer, n, inner = made.around
        made.transform(("in", 0), ("out", 0), outer, n, inner, inverse=inverse, scale=scale)
    return made.kernels()


def rfft(
    types: Sequence[TensorType],
    out: Sequence[TensorType],
    *,
    name: str,
    axis: int,
    scale: float,
) -> Kernels:
    made = _Plan(types[0], axis, name)
    if out[0].size:
        made.real_forward(scale)
    return made.kernels()


def irfft(
    types: Sequence[TensorType],
    out: Sequence[TensorType],
    *,
    name: str,
    axis: int,
    n: int,
    scale: float,
) -> Kernels:
    made = _Plan(out[0], axis, name)
    if out[0].size:
        made.real_backward(scale)
    return made.kernels()


class _Plan(Plan):
    """The kernels of one node."""

    def transform(
        self,
        source: Ref,
        target: Ref,
        outer: int,
        n: int,
        inner: int,
        *,
        inverse: bool,
        scale: float = 1.0,
        kind: str = "complex",
        result: str = "complex",
    ) -> None:
        """A complex transform; `kind` and `result` are those of the `Port` at either end."""
        if inner == 1:
            kind, result = ("complex" if k == "pairs" else k for k in (kind, result))
        job = Job(source, target, outer, n, inner, inverse, scale, kind, result)
        if max(primes(n), default=1) > LARGEST:
            self._chirped(job)
        else:
            self.smooth(job)

    # -- convolution with a chirp -----------------------------------------------------------------

    def _chirped(self, job: Job) -> None:
        """y[k] = c[k] sum_j (x[j] c[j]) / c[k - j] with c[j] = e^(-pi i j^2 / n)."""
        outer, n, inner = job.outer, job.n, job.inner
        size = min(f << ((2 * n - 2) // f).bit_length() for f in (1, 3, 5, 9, 15))
        wide = up(n)
        chirp, kernel, response = self.work(2 * wide), self.work(2 * size), self.work(2 * size)
        signal, spectrum = (self.work(2 * outer * size * inner) for _ in range(2))
        self._chirp(chirp, kernel, n, size)
        self.transform(kernel, response, 1, size, 1, inverse=False)

        there = f"(o * {size} + k) * {inner} + i"
        s = self.lines(x=job.source, chirp=chirp, y=signal)
        with self.sweep(s, outer, size, inner) as tiles:
            s(f"z_re = {s.const(0.0)}", f"z_im = {s.const(0.0)}")
            with s.loop(f"if k < {n}:"):
                s(f"inside = m & lanes({n} - k)" if inner == 1 else "inside = m")
                z = s.times(
                    job.entry(s, "o", "i", inner, "inside").load(s, "k"),
                    self.factor(s, "chirp", "k", wide, inner),
                )
                # Behind the last row the table holds anything.
                s(f"z_re = select(inside, {z[0]}, z_re)", f"z_im = select(inside, {z[1]}, z_im)")
            Port("y", there, inner, mask="m").store(s, "0", ("z_re", "z_im"))
        self.add(s, tiles, job.elements)
        self.transform(signal, spectrum, outer, size, inner, inverse=False)

        s = self.lines(x=spectrum, r=response, y=signal)
        with self.sweep(s, outer, size, inner) as tiles:
            z = Port("x", there, inner, mask="m").load(s, "0")
            if inner == 1:
                w = Port("r", "k", 1, mask="m").load(s, "0")
            else:
                at = ("2 * k", "2 * k + 1")
                w = tuple(s.let(f"splat_{self.code}(ld_{self.code}(r, {k}))") for k in at)
            Port("y", there, inner, mask="m").store(s, "0", s.times(z, w))
        self.add(s, tiles, job.elements)
        self.transform(signal, spectrum, outer, size, inner, inverse=True, scale=1.0 / size)

        s = self.lines(x=spectrum, chirp=chirp, y=job.target)
        with self.sweep(s, outer, n, inner) as tiles:
            z = Port("x", there, inner, mask="m").load(s, "0")
            z = s.times(z, self.factor(s, "chirp", "k", wide, inner))
            job.exit(s, "o", "i", inner, "m").store(s, "k", z)
        self.add(s, tiles, job.elements)

    def _chirp(self, chirp: Ref, kernel: Ref, n: int, size: int) -> None:
        """c[j] in two planes, and 1 / c[j] at j and -j of a circle of `size` places."""
        wide, code = up(n), COMPLEX[self.code]
        s = self.lines(chirp=chirp, b=kernel)
        with self.blocks(s, 1, n, 1) as tiles:
            s("j = splat_i64(c) + iota()")
            s(f"n = {2 * n}", f"unit = splat_f64({pi / 8 / n!r})")
            pair = s.turn("(j * j) % splat_i64(n)")
            re, im = (s.let(f"cast_{self.code}({part})") for part in pair)
            s(f"vst_{self.code}(chirp, c, {re})", f"vst_{self.code}(chirp, {wide} + c, {im})")
            back = s.let(f"complex_({re}, -{im})")
            s(f"vstm_{code}(b, c, {back}, m)")
            s(f"vscatter_{code}(b, splat_i64({size}) - j, {back}, m & (j > splat_i64(0)))")
        with s.loop("for tile in range(lo, hi):"):
            low, high = cut(size + 1 - 2 * n, "tile", tiles)
            with s.loop(f"for c in range({low}, {high}, 16):"):
                s(f"vstm_{code}(b, {n} + c, splat_{code}(0), lanes({high} - c))")
        self.add(s, tiles, 4 * n)

    # -- real numbers -----------------------------------------------------------------------------

    def _fine_tables(self, n: int) -> tuple[int, int]:
        return self.table(1, FINE, 0, 1, n), self.table(1, n // 2 // FINE + 1, 0, FINE, n)

    def _fine(self, s: Lines, n: int, inner: int) -> Pair:
        """e^(-2 pi i k / n) for the rows k of a sweep, as a product of two from tables."""
        fine, coarse = self._fine_tables(n)
        b = self.factor(s, "tables", f"{fine} + k % {FINE}", FINE, inner)
        a = self.factor(s, "tables", f"{coarse} + k // {FINE}", up(n // 2 // FINE + 1), 0)
        return s.times(a, b)

    def _mirrored(self, s: Lines, rows: int, at: int, inner: int, mask: str) -> Port:
        """Rows at - k of x, an array (outer, rows, inner), those of 0 in place of `rows`."""
        if inner > 1:
            s(f"back_at = (o * {rows} + ({at} - k) % {rows}) * {inner} + i")
            return Port("x", "back_at", inner, mask=mask)
        s(f"back = splat_i64({at} - k) - iota()")
        s(f"back = select(back == splat_i64({rows}), splat_i64(0), back)")
        s(f"back = back + splat_i64(o * {rows})")
        return Port("x", "back", 1, mask=mask, gather=True)

    def _real_rows(self, *, inverse: bool, scale: float) -> bool:
        """Rows of an even length by one kernel, if they are contiguous and fit scratch memory.

        Elements k and n / 2 - k of Z and of X make each other, so that half a pass does it.
        """
        outer, n, inner = self.around
        half = n // 2
        job = Job(("in", 0), ("out", 0), outer, half, inner, inverse, scale if inverse else 1.0,
                  "complex", "complex")  # fmt: skip
        if max(primes(half), default=1) > LARGEST:
            return False
        code, both = self.code, COMPLEX[self.code]
        self._fine_tables(n)

        def pair(s: Lines, ahead: Pair, behind: Pair) -> tuple[Pair, Pair]:
            """a = ahead + conj(behind) and w^k or w^-k times ahead - conj(behind)"""
            a = s.let(f"{ahead[0]} + {behind[0]}"), s.let(f"{ahead[1]} - {behind[1]}")
            b = s.let(f"{ahead[0]} - {behind[0]}"), s.let(f"{ahead[1]} + {behind[1]}")
            w = self._fine(s, n, 1)
            return a, s.times(b, (w[0], f"(-{w[1]})") if inverse else w)

        def back(s: Lines, z: Pair) -> Pair:
            return tuple(s.let(f"mirror({part})") for part in z)

        def after(s: Lines, line: int) -> None:
            for part in (0, line):
                s(f"st_{code}(line, {part + half}, ld_{code}(line, {part}))")
            with s.loop(f"for k in range(0, {half // 2 + 1}, 16):"):
                ends = ("k", f"{half - 15} - k")
                ahead, behind = (Port("line", at, 1, "split", line).load(s, "0") for at in ends)
                a, b = pair(s, ahead, back(s, behind))
                x = s.scale(s.behind(a, b), 0.5 * scale)
                s(f"vst_{both}(y, row * {half + 1} + k, complex_({x[0]}, {x[1]}))")
                x = back(s, s.scale(s.ahead(a, b), 0.5 * scale))
                s(f"vst_{both}(y, (row + 1) * {half + 1} - 16 - k, complex_({x[0]}, -{x[1]}))")

        def before(s: Lines, line: int) -> None:
            with s.loop(f"for k in range(0, {half // 2 + 1}, 16):"):
                s("real_ones = lanes(1 - k)")
                ends = (f"row * {half + 1} + k", f"(row + 1) * {half + 1} - 16 - k")
                ahead, behind = (Port("x", at, 1).load(s, "0") for at in ends)
                x = [
                    (re, s.let(f"select(real_ones, {s.const(0.0)}, {im})"))
                    for re, im in (ahead, back(s, behind))
                ]
                a, b = pair(s, *x)
                Port("line", "k", 1, "split", line).store(s, "0", s.ahead(a, b))
                re, im = back(s, s.behind(a, b))
                Port("line", f"{half - 15} - k", 1, "split", line).store(s, "0", (re, f"-{im}"))

        return self.matrix(job, before if inverse else None, None if inverse else after)

    def real_forward(self, scale: float) -> None:
        """X[k] = E[k] - i w^k O[k], E and O the transforms of the even and odd elements.

        Those are the even and odd part of that of the pairs: 2 E[k] = Z[k] + conj Z[-k].
        """
        outer, n, inner = self.around
        half, even = n // 2, n % 2 == 0
        if even and self._real_rows(inverse=False, scale=scale):
            return
        rows, kind = (half, "pairs") if even else (n, "real")
        work = self.work(2 * outer * rows * inner)
        self.transform(("in", 0), work, outer, rows, inner, inverse=False, kind=kind)
        if even:
            self._fine_tables(n)
        s = self.lines(x=work, y=("out", 0))
        with self.sweep(s, outer, half + 1, inner) as tiles:
            if even:
                mirrored = self._mirrored(s, half, half, inner, "m")
                z, back = self._wrapped(s, half, inner), mirrored.load(s, "0")
                a = s.let(f"{z[0]} + {back[0]}"), s.let(f"{z[1]} - {back[1]}")
                b = s.let(f"{z[0]} - {back[0]}"), s.let(f"{z[1]} + {back[1]}")
                z = s.behind(a, s.times(b, self._fine(s, n, inner)))
                z = s.scale(z, 0.5 * scale)
            else:
                z = Port("x", f"(o * {n} + k) * {inner} + i", inner, mask="m").load(s, "0")
                z = s.scale(z, scale)
            Port("y", f"(o * {half + 1} + k) * {inner} + i", inner, mask="m").store(s, "0", z)
        self.add(s, tiles, 4 * outer * n * inner)

    def _wrapped(self, s: Lines, rows: int, inner: int) -> Pair:
        """Rows k of x, those of 0 in place of `rows`."""
        if inner > 1:
            at = f"(o * {rows} + k % {rows}) * {inner} + i"
            return Port("x", at, inner, mask="m").load(s, "0")
        s(f"inside = lanes({rows} - k)")
        z = Port("x", f"o * {rows} + k", 1, mask="inside").load(s, "0")
        first = (f"splat_{self.code}(ld_{self.code}(x, o * {2 * rows} + {p}))" for p in (0, 1))
        return tuple(s.let(f"select(inside, {a}, {b})") for a, b in zip(z, first, strict=True))

    def real_backward(self, scale: float) -> None:
        """Z[k] = X[k] + conj X[h-k] + i w^-k (X[k] - conj X[h-k]) with h = n / 2: pairs of results.

        For an odd n, the whole spectrum; its second half are conjugates of the first.
        """
        outer, n, inner = self.around
        half, even = n // 2, n % 2 == 0
        if even and self._real_rows(inverse=True, scale=scale):
            return
        rows, kind = (half, "pairs") if even else (n, "real")
        if even:
            self._fine_tables(n)
        work = self.work(2 * outer * rows * inner)
        s = self.lines(x=("in", 0), y=work)
        with self.sweep(s, outer, rows, inner) as tiles:
            s("rows = splat_i64(k) + iota()" if inner == 1 else "rows = splat_i64(k)")
            z = self._spectrum(s, "ahead", "rows", half + 1, inner, n)
            if even:
                back = self._spectrum(s, "back", f"splat_i64({half}) - rows", half + 1, inner, n)
                a = s.let(f"{z[0]} + {back[0]}"), s.let(f"{z[1]} - {back[1]}")
                b = s.let(f"{z[0]} - {back[0]}"), s.let(f"{z[1]} + {back[1]}")
                w = self._fine(s, n, inner)
                z = s.ahead(a, s.times(b, (w[0], f"(-{w[1]})")))
            Port("y", f"(o * {rows} + k) * {inner} + i", inner, mask="m").store(s, "0", z)
        self.add(s, tiles, 4 * outer * n * inner)
        self.transform(work, ("out", 0), outer, rows, inner, inverse=True, scale=scale, result=kind)

    def _spectrum(self, s: Lines, name: str, row: str, stored: int, inner: int, n: int) -> Pair:
        """Elements of the spectrum of real numbers, of which `stored` rows are there."""
        s(f"{name} = {row}", f"{name}_far = {name} >= splat_i64({stored})")
        s(f"{name} = select({name}_far, splat_i64({n}) - {name}, {name})")
        s(f"{name}_real = ({name} == splat_i64(0)) | ({name} * splat_i64(2) == splat_i64({n}))")
        if inner == 1:
            s(f"{name} = {name} + splat_i64(o * {stored})")
        else:
            s(f"{name} = ({name} + splat_i64(o * {stored})) * splat_i64({inner})"
              " + splat_i64(i) + iota()")  # fmt: skip
        re, im = Port("x", name, 1, mask="m", gather=True).load(s, "0")
        im = s.let(f"select({name}_real, {s.const(0.0)}, select({name}_far, -{im}, {im}))")
        return re, im
