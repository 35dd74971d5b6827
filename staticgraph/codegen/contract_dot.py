"""One row times a matrix whose columns are contiguous along k: dot products at memory speed."""

from dataclasses import replace

from staticgraph.codegen.contract_matmul import TILE_FLOPS, TILES, batch_offset
from staticgraph.codegen.contract_parts import (
    ITEM,
    LANES,
    Source,
    Steps,
    Store,
    combine_kernel,
    finish_columns,
    load_pointers,
    machine,
    up,
)
from staticgraph.codegen.contract_shapes import Dots

DEPTH = 4096  # longest run of one set of sums: bounds the rounding error and the copy of A
CHAINS = 8  # sums at a time that hide the latency of one multiply-add
GROUP = 256  # columns per round: their sums wait in scratch


def dot_matmul(p, epilogue):
    """Steps of a normalised product with m = 1 and b_k = 1."""
    width, _, fused = machine()
    lanes = width // ITEM[p.code]
    cols = min(lanes, p.n)
    wanted = max(1, min(TILES // p.count, p.flops // TILE_FLOPS // p.count))
    groups = -(-p.n // cols)
    col_tiles = max(min(wanted, groups), -(-p.n // GROUP))
    splits = max(1, min(wanted // col_tiles, p.k // DEPTH))
    chunk = up(-(-p.k // splits), LANES)
    splits = -(-p.k // chunk)
    final = epilogue or Store(p.code)
    target = final if splits == 1 else Store(p.code, ("ws", 0))
    unroll = max(1, CHAINS // cols)
    dots = Dots(p.code, cols, lanes, unroll, p.b_col, fused)
    kernel = _dot_kernel(p, dots, col_tiles, splits, chunk, target)
    view = (p.count, 1, p.n)
    if splits == 1:
        return Steps((kernel,), (), view)
    last = combine_kernel(p.code, *view, splits, final)
    return Steps((kernel, last), (splits * p.count * p.n * ITEM[p.code],), view)


def _dot_kernel(p, dots, col_tiles, splits, chunk, epilogue):
    """Tiles are ranges of groups of columns, in one part of k."""
    s, size, code = Source(), ITEM[p.code], p.code
    buffers = load_pointers(s, epilogue, dict(zip(p.operands, ("a_all", "b_all"), strict=True)))
    depth, tail = min(DEPTH, chunk), p.n % dots.cols
    groups = -(-p.n // dots.cols)
    pitch = up(-(-groups // col_tiles) * dots.cols, LANES) + LANES
    copied = up(depth, LANES) * size if p.a_k != 1 else 0
    with s.open("for t in range(lo, hi)"):
        s(
            f"tn = t % {col_tiles}",
            f"part = t // {col_tiles} % {splits}",
            f"batch = t // {col_tiles * splits}",
            f"col0 = tn * {groups} // {col_tiles} * {dots.cols}",
            f"col1 = min((tn + 1) * {groups} // {col_tiles} * {dots.cols}, {p.n})",
            f"pa = a_all + {batch_offset('batch', p.batch, p.a_batch, size)}",
            f"pb = b_all + {batch_offset('batch', p.batch, p.b_batch, size)}",
            f"ke = min((part + 1) * {chunk}, {p.k})",
            f"sums = scratch + {copied}",
        )
        with s.open(f"for from_k in range(part * {chunk}, ke, {depth})"):
            s(f"kc = min(ke - from_k, {depth})")
            if copied:
                s("ai = scratch")
                with s.open("for i in range(kc)"):
                    s(f"st_{code}(ai, i, ld_{code}(pa, (from_k + i) * {p.a_k}))")
            else:
                s(f"ai = pa + from_k * {size}")
            arguments = (
                f"(ai, pb + (col * {p.b_col} + from_k) * {size}, sums + (col - col0) * {size}, "
                f"kc, from_k - part * {chunk})"
            )
            with s.open(f"for col in range(col0, col1 - {dots.cols - 1}, {dots.cols})"):
                s(s.dots(dots) + arguments)
            if tail:
                with s.open(f"if col1 == {p.n}"):
                    s(f"col = {p.n - tail}", s.dots(replace(dots, cols=tail)) + arguments)
        s("row = 0", f"line = sums - col0 * {size}", f"flat = (part * {p.count} + batch) * {p.n}")
        finish_columns(s, code, epilogue, tail=p.n % LANES)
    about = f"{code} dot products {p.batch} x 1 x {p.n} x {p.k}"
    return s.step(
        "dot",
        about,
        epilogue,
        ntiles=p.count * splits * col_tiles,
        buffers=buffers,
        scratch=copied + pitch * size,
        flops=p.flops,
    )
