"""top_k: one pass over a row that keeps what is better than the k-th best so far.

Candidates gather in a buffer with room for 4 k; when it is full it is sorted, the best k stay, and
the worst of them is the bound that others must beat. In a row of random order that soon lets
few through, so that the pass reads at the speed of memory. A long row that is alone is cut into
chunks, whose best are sorted together.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from staticgraph.byhand.source import MANY_ROWS, TILE_WORK, Source
from staticgraph.byhand.words import Words
from staticgraph.codegen.spec import Kernels, KernelSpec
from staticgraph.types import TensorType

#: candidates that the buffer holds at least
_ROOM = 32
#: words of all chunks together, beyond which sorting them would cost more than the pass
_JOINED = 4096


def top_k(
    types: Sequence[TensorType], out: Sequence[TensorType], *, name: str, k: int, largest: bool
) -> Kernels:
    """Indices of the k best elements of each row, the best first."""
    (x,) = types
    if out[0].size == 0:
        return Kernels([])
    n, rows = x.shape[-1], prod(x.shape[:-1])
    chunks = min(n // TILE_WORK, _JOINED // k)
    if rows >= MANY_ROWS or chunks < 2:
        return Kernels([_select(x, n, rows, k, largest, name, 1)])
    joined = Words(x.dtype, chunks * k, descending=largest)
    steps = [_select(x, n, rows, k, largest, name, chunks), _join(joined, rows, k, chunks, name)]
    return Kernels(steps, [rows * joined.nbytes])


def _select(
    x: TensorType, n: int, rows: int, k: int, largest: bool, name: str, chunks: int
) -> KernelSpec:
    """Of each chunk: its best words to the workspace, or for one chunk their indices."""
    capacity = min(max(4 * k, _ROOM), -(-n // 16) * 16) + 16
    words = Words(x.dtype, capacity, descending=largest)
    target = {"work": ("work", 0)} if chunks > 1 else {"p": ("out", 0)}
    s = Source(x=("in", 0), **target)
    each = max(1, TILE_WORK // n)
    s.emit(0, "for tile in range(lo, hi):")
    s.emit(1, f"part = tile % {chunks}")
    s.emit(1, f"row0 = tile // {chunks} * {each}")
    s.emit(1, f"for row in range(row0, min(row0 + {each}, {rows})):")
    s.emit(2, f"x_row = x + row * {n * words.bits // 8}")
    s.emit(2, f"i = part * {n} // {chunks}", f"stop = (part + 1) * {n} // {chunks}")
    s.emit(2, "a = scratch", f"b = scratch + {words.nbytes}")
    s.emit(2, f"h = scratch + {2 * words.nbytes}", "n = 0")
    code = f"u{words.bits}"
    s.emit(2, "anything = splat_b1(True)", f"bound = splat_{code}(0)")
    s.emit(2, "while i < stop:")
    s.emit(3, f"while i < stop and n <= {capacity - 16}:")
    s.emit(4, "m = lanes(stop - i)", f"raw = vldm_{words.code}(x_row, i, m)")
    words.encode(s, 4)
    s.emit(4, f"better = m & (anything | (cast_{code}(key) < bound))")
    s.emit(4, "if count(better) > 0:")
    words.append(s, 5, "splat_i64(i) + iota()", "better")
    s.emit(4, "i += 16")
    s.emit(3, "m = lanes(n % 16)", "if n % 16 != 0:")
    s.emit(4, "vstm_i64(a, n - n % 16, splat_i64(-1), ~m)")
    words.sort(s, 3)
    s.emit(3, f"if n >= {k}:")
    s.emit(4, f"n = {k}", "anything = splat_b1(False)")
    words.unpack(s, 4, str(k - 1))
    s.emit(4, f"bound = first(cast_{code}(key))")
    if chunks == 1:
        _write(s, words, 2, k)
    else:
        _hand_over(s, words, 2, n, k, chunks)
    tiles = -(-rows // each) * chunks
    return s.kernel(name, tiles, 2 * rows * n, 2 * words.nbytes + words.sort_bytes)


def _write(s: Source, words: Words, d: int, k: int) -> None:
    s.emit(d, f"for i in range(0, {k}, 16):")
    words.unpack(s, d + 1, "i")
    s.emit(d + 1, f"vstm_i64(p, row * {k} + i, index, lanes({k} - i))")


def _hand_over(s: Source, words: Words, d: int, n: int, k: int, chunks: int) -> None:
    """The k words of a chunk, one array for all chunks of a row."""
    joined = Words(words.dtype, chunks * k, descending=words.descending)
    s.emit(d, f"to = work + row * {joined.nbytes}")
    s.emit(d, f"for i in range(0, {k}, 16):", f"    m = lanes({k} - i)")
    s.emit(d + 1, f"vstm_i64(to, part * {k} + i, vld_i64(a, i), m)")
    if words.wide:
        index = f"vld_i64(a, {words.room} + i)"
        s.emit(d + 1, f"vstm_i64(to, {joined.room} + part * {k} + i, {index}, m)")


def _join(joined: Words, rows: int, k: int, chunks: int, name: str) -> KernelSpec:
    """Sort the words of all chunks of a row; chunks come in order, so equal keys do too."""
    s = Source(work=("work", 0), p=("out", 0))
    n = chunks * k
    s.emit(0, "for row in range(lo, hi):")
    s.emit(1, f"n = {n}", f"a = work + row * {joined.nbytes}", "b = scratch")
    s.emit(1, f"h = scratch + {joined.nbytes}")
    if n % 16:
        s.emit(1, f"vstm_i64(a, {n - n % 16}, splat_i64(-1), ~lanes({n % 16}))")
    joined.sort(s, 1)
    _write(s, joined, 1, k)
    return s.kernel(f"{name}_join", rows, rows * n, joined.nbytes + joined.sort_bytes)
