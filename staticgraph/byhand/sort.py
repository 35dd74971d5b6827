"""sort: short rows one per thread in its scratch, long rows shared by all threads.

Both are stable radix sorts (see `words`). A long row is cut into chunks, as many as its length
says: for each digit the chunks are counted, the counts become places, and each chunk moves its
words there, so that the result does not depend on who did what.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from staticgraph.byhand.source import MANY_ROWS, TILE_WORK, Source
from staticgraph.byhand.words import DIGIT, RADIX, Words
from staticgraph.codegen.spec import Kernels, KernelSpec
from staticgraph.types import SHORT, TensorType

#: rows up to this length are sorted in scratch
SHORT_ROW = 1 << 15
_CHUNKS = 64
_STATE = 3  # words per row: the digit, which of the two arrays holds the words, whether to move


def sort(
    types: Sequence[TensorType], out: Sequence[TensorType], *, name: str, descending: bool
) -> Kernels:
    (x,) = types
    if x.size == 0:
        return Kernels([])
    n, rows = x.shape[-1], prod(x.shape[:-1])
    words = Words(x.dtype, n, descending=descending)
    if n <= SHORT_ROW or rows >= MANY_ROWS:
        return Kernels([_rows(words, n, rows, name)])
    return _LongRows(words, n, rows, name).kernels()


def _read(words: Words, s: Source, d: int, x: str, at: str, count: str) -> None:
    """Store the words of elements `at`, ... of a row that begins at address `x`."""
    s.emit(d, f"m = lanes({count} - {at})", f"raw = vldm_{words.code}({x}, {at}, m)")
    words.encode(s, d)
    words.pack(s, d, at, f"splat_i64({at}) + iota()")


def _write(words: Words, s: Source, d: int, at: str, count: str) -> None:
    """Store the sorted elements `at`, ... and their indices."""
    s.emit(d, f"m = lanes({count} - {at})")
    words.unpack(s, d, at)
    words.decode(s, d, "x_row", "index")
    s.emit(d, f"vstm_{words.code}(y_row, {at}, raw, m)", f"vstm_i64(p_row, {at}, index, m)")


def _rows(words: Words, n: int, rows: int, name: str) -> KernelSpec:
    s = Source(x=("in", 0), y=("out", 0), p=("out", 1))
    each = max(1, TILE_WORK // (4 * n))
    s.emit(0, "for tile in range(lo, hi):")
    s.emit(1, f"for row in range(tile * {each}, min((tile + 1) * {each}, {rows})):")
    size = words.bits // 8
    s.emit(2, f"x_row = x + row * {n * size}", f"y_row = y + row * {n * size}")
    s.emit(2, f"p_row = p + row * {n * 8}")
    s.emit(2, f"n = {n}", "a = scratch", f"b = scratch + {words.nbytes}")
    s.emit(2, f"h = scratch + {2 * words.nbytes}")
    s.emit(2, "for i in range(0, n, 16):")
    _read(words, s, 3, "x_row", "i", "n")
    words.sort(s, 2)
    s.emit(2, "for i in range(0, n, 16):")
    _write(words, s, 3, "i", "n")
    scratch = 2 * words.nbytes + words.sort_bytes
    return s.kernel(name, -(-rows // each), 8 * rows * n, scratch)


class _LongRows:
    """The steps that sort long rows; `a` and `b` are rows of two work arrays."""

    def __init__(self, words: Words, n: int, rows: int, name: str):
        self.words, self.n, self.rows, self.name = words, n, rows, name
        self.chunks = max(1, min(_CHUNKS, n // TILE_WORK))
        self.size = words.bits // 8

    def kernels(self) -> Kernels:
        steps = [self.read()]
        for p in range(self.words.digits):
            steps += [self.tally(p), self.places(p), self.move(p)]
        counts = self.rows * self.chunks * RADIX * 8
        work = [self.rows * self.words.nbytes] * 2 + [counts, self.rows * _STATE * 8]
        return Kernels([*steps, self.write()], work)

    def source(self, *, chunked: bool = True, **operands: tuple[str, int]) -> Source:
        """A kernel with a tile per chunk or row: its counts at `c`, the state of its row at `s`."""
        work = {k: ("work", n) for n, k in enumerate(("first", "second", "counts", "state"))}
        s = Source(**operands, **work)
        s.emit(0, "for tile in range(lo, hi):")
        if chunked:
            s.emit(1, f"row = tile // {self.chunks}", f"chunk = tile % {self.chunks}")
            # Whole vectors, so that two chunks never write to one.
            step = -(-self.n // (self.chunks * 16)) * 16
            s.emit(1, f"e0 = chunk * {step}", f"e1 = min(e0 + {step}, {self.n})")
            s.emit(1, f"c = counts + tile * {RADIX * 8}")
        else:
            s.emit(1, "row = tile", f"c = counts + row * {self.chunks * RADIX * 8}")
        s.emit(1, f"s = state + row * {_STATE * 8}")
        return s

    def arrays(self, s: Source, flag: str) -> None:
        """`a` holds the words and `b` is free; `flag` of the state says which is which."""
        nbytes = self.words.nbytes
        s.emit(1, f"a = first + row * {nbytes}", f"b = second + row * {nbytes}")
        s.emit(1, f"if {flag} != 0:", f"    a = second + row * {nbytes}")
        s.emit(1, f"    b = first + row * {nbytes}")

    def kernel(self, s: Source, name: str, *, chunked: bool = True) -> KernelSpec:
        tiles = self.rows * (self.chunks if chunked else 1)
        elements = self.rows * (self.n if chunked else self.chunks * RADIX)
        return s.kernel(f"{self.name}_{name}", tiles, elements)

    def read(self) -> KernelSpec:
        s = self.source(x=("in", 0))
        s.emit(1, f"a = first + row * {self.words.nbytes}")
        s.emit(1, f"x_row = x + row * {self.n * self.size}")
        s.emit(1, "if chunk == 0:", "    st_i64(s, 0, 0)", "    st_i64(s, 1, 0)")
        s.emit(1, "for i in range(e0, e1, 16):")
        _read(self.words, s, 2, "x_row", "i", str(self.n))
        return self.kernel(s, "read")

    def tally(self, p: int) -> KernelSpec:
        """Count the digits of each chunk. The digit is in the state, so one kernel serves all."""
        s = self.source()
        self.arrays(s, "ld_i64(s, 1)")
        s.emit(1, f"shift = {self.words.base} + ld_i64(s, 0) * {DIGIT}")
        s.emit(1, f"for q in range(0, {RADIX}, 16):", "    vst_i64(c, q, splat_i64(0))")
        s.emit(1, "for e in range(e0, e1):")
        s.emit(2, "w = ld_i64(a, e)", f"q = {self.words.digit('w', 'shift')}")
        s.emit(2, "st_i64(c, q, ld_i64(c, q) + 1)")
        return self.kernel(s, f"tally{p}")

    def places(self, p: int) -> KernelSpec:
        """Turn counts into places: by digit, then by chunk. Move only what differs."""
        s = self.source(chunked=False)
        s.emit(1, "at = 0", "moves = 1")
        s.emit(1, f"for q in range({RADIX}):")
        s.emit(2, "before = at")
        s.emit(2, f"for k in range(q, {self.chunks * RADIX}, {RADIX}):")
        s.emit(3, "here = ld_i64(c, k)", "st_i64(c, k, at)", "at += here")
        s.emit(2, f"if at - before == {self.n}:", "    moves = 0")
        s.emit(1, "st_i64(s, 0, ld_i64(s, 0) + 1)", "st_i64(s, 2, moves)")
        s.emit(1, "if moves != 0:", "    st_i64(s, 1, 1 - ld_i64(s, 1))")
        return self.kernel(s, f"places{p}", chunked=False)

    def move(self, p: int) -> KernelSpec:
        s = self.source()
        s.emit(1, "if ld_i64(s, 2) == 0:", "    continue")
        self.arrays(s, "1 - ld_i64(s, 1)")
        s.emit(1, f"shift = {self.words.base} + (ld_i64(s, 0) - 1) * {DIGIT}")
        s.emit(1, "for e in range(e0, e1):")
        s.emit(2, "w = ld_i64(a, e)", f"q = {self.words.digit('w', 'shift')}")
        s.emit(2, "to = ld_i64(c, q)", "st_i64(c, q, to + 1)")
        self.words.copy(s, 2, "to", "e")
        return self.kernel(s, f"move{p}")

    def write(self) -> KernelSpec:
        s = self.source(x=("in", 0), y=("out", 0), p=("out", 1))
        self.arrays(s, "ld_i64(s, 1)")
        for address, size in (("x", self.size), ("y", self.size), ("p", 8)):
            s.emit(1, f"{address}_row = {address} + row * {self.n * size}")
        s.emit(1, "for i in range(e0, e1, 16):")
        _write(self.words, s, 2, "i", str(self.n))
        return self.kernel(s, "write")


def unsort(types: Sequence[TensorType], out: Sequence[TensorType], *, name: str) -> Kernels:
    """Each element to the place that its index names, row by row."""
    x, _ = types
    if x.size == 0:
        return Kernels([])
    n, rows, code = x.shape[-1], prod(x.shape[:-1]), SHORT[x.dtype]
    chunks = max(1, n // TILE_WORK) if rows < MANY_ROWS else 1
    each = max(1, TILE_WORK // n)
    s = Source(x=("in", 0), p=("in", 1), y=("out", 0))
    s.emit(0, "for tile in range(lo, hi):")
    s.emit(1, f"row0 = tile // {chunks} * {each}", f"chunk = tile % {chunks}")
    s.emit(1, f"for row in range(row0, min(row0 + {each}, {rows})):")
    s.emit(2, f"for e in range(row * {n} + chunk * {n} // {chunks},")
    s.emit(2, f"               row * {n} + (chunk + 1) * {n} // {chunks}):")
    s.emit(3, f"st_{code}(y, row * {n} + ld_i64(p, e), ld_{code}(x, e))")
    return Kernels([s.kernel(name, -(-rows // each) * chunks, 4 * x.size)])
