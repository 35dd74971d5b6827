"""Matrix products of floats: tiling, packing, and the kernel around the register tiles.

Every output element is, for each block of k, one chain of fused multiply-adds with k ascending;
the blocks are added in order. Block sizes follow from the shapes alone, so neither threads nor the
place of an element in a tile can change a bit.
"""

from dataclasses import dataclass, replace
from math import prod

from staticgraph.codegen.contract_parts import (
    ITEM,
    LANES,
    Shape,
    Source,
    Steps,
    Store,
    combine_kernel,
    finish_columns,
    load_pointers,
    starts,
    tile_shape,
    up,
)  # fmt: skip
from staticgraph.codegen.contract_shapes import Column, Tile

BLOCK_BYTES, BLOCK_K = 40 << 10, 512  # a panel of B stays in the first-level cache
STREAM_K = 16  # block for one or two rows: B passes once, in long runs
BLOCK_ROWS, BLOCK_COLS = 264, 512  # A and C of one tile stay in the second level
TILES = 16  # enough for many threads; half as many where bigger tiles save repeated packing
BIG_FLOPS = 1 << 29
NEAR_BYTES, FAR_BYTES = 1 << 18, 1 << 23
TILE_FLOPS = 1_000_000  # smaller tiles are not worth a thread's attention


@dataclass(frozen=True)
class Product:
    """out[b, i, j] = sum_k A[b, i, k] B[b, k, j]; strides in elements, out contiguous."""

    code: str
    batch: tuple[int, ...]
    m: int
    n: int
    k: int
    a_batch: tuple[int, ...]
    a_row: int
    a_k: int
    b_batch: tuple[int, ...]
    b_k: int
    b_col: int
    operands: tuple[str, str] = ("a", "b")

    @property
    def count(self):
        return prod(self.batch)

    @property
    def flops(self):
        return 2 * self.count * self.m * self.n * self.k


def normalise(p):
    """An equal product with fewer batch axes, no meaningless strides and lanes along the columns.

    Batch axes that walk both operands like one axis merge; a batch axis under which B stays fixed
    and A continues its rows becomes rows; one column turns into one row of the transpose.
    """
    axes = []
    for size, sa, sb in zip(p.batch, p.a_batch, p.b_batch, strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1] == size * sa and axes[-1][2] == size * sb:
            axes[-1] = (axes[-1][0] * size, sa, sb)
        else:
            axes.append((size, sa, sb))
    m, a_row = p.m, p.a_row
    while axes and axes[-1][2] == 0 and (m == 1 or axes[-1][1] == m * a_row):
        size, sa, _ = axes.pop()
        m, a_row = m * size, sa if m == 1 else a_row
    batch, a_batch, b_batch = zip(*axes, strict=True) if axes else ((), (), ())
    q = replace(p, batch=batch, m=m, a_batch=a_batch, a_row=a_row, b_batch=b_batch)
    if q.n == 1 and q.m > 1:
        q = replace(q, m=1, n=q.m, a_batch=q.b_batch, b_batch=q.a_batch, a_row=q.b_col,
                    a_k=q.b_k, b_k=q.a_k, b_col=q.a_row, operands=("b", "a"))  # fmt: skip
    if q.k == 1:
        q = replace(q, a_k=1, b_k=1)
    if q.n == q.m == 1 and q.a_k == 1:  # a dot product: the contiguous vector second
        q = replace(q, a_batch=q.b_batch, b_batch=q.a_batch, a_k=q.b_k, b_k=q.a_k,
                    operands=q.operands[::-1])  # fmt: skip
    if q.n == 1:
        q = replace(q, b_col=0 if q.b_k == 1 else 1)
    return replace(q, a_row=1) if q.m == 1 else q


@dataclass(frozen=True)
class Tiling:
    """All the numbers of one tiled product; everything follows from shapes and strides."""

    p: Product
    shape: Shape
    row_panels: int
    col_panels: int
    row_tiles: int
    col_tiles: int
    splits: int  # parts of k that become partial results
    chunk: int  # k of one part
    depth: int  # k of one block within a part
    pack_a: bool  # copied to scratch block by block, or read in place
    pack_b: bool
    direct: bool  # register tiles store to the output, or to scratch for an epilogue

    @property
    def rows(self):
        """Balanced split of the rows into panels: (rows, number of panels with one more)."""
        return divmod(self.p.m, self.row_panels)

    @property
    def panel_rows(self):
        return -(-self.p.m // self.row_panels)

    @property
    def tail(self):
        """Columns of the last panel."""
        return self.p.n - (self.col_panels - 1) * self.shape.panel

    @property
    def tile_rows(self):
        return -(-self.row_panels // self.row_tiles) * self.panel_rows

    @property
    def tile_cols(self):
        return -(-self.col_panels // self.col_tiles) * self.shape.panel

    @property
    def ntiles(self):
        return self.p.count * self.splits * self.row_tiles * self.col_tiles

    @property
    def a_strides(self):
        """(row, k) strides of A as the register tiles see it."""
        if not self.pack_a:
            return self.p.a_row, self.p.a_k
        return (self.depth + LANES, 1) if self.p.a_k == 1 else (1, up(self.tile_rows, LANES))

    @property
    def a_block(self):
        """Elements of a packed block of A, with room for a vector stored past its end."""
        row, k = self.a_strides
        return up((self.tile_rows if k == 1 else self.depth) * max(row, k) + LANES, LANES)

    @property
    def b_panel(self):
        """Elements of one packed column panel of B."""
        return self.depth * self.shape.panel

    @property
    def scratch(self):
        """Bytes of packed A, packed B and finished sums."""
        size, cols = ITEM[self.p.code], self.tile_cols
        return (
            self.pack_a * self.a_block * size,
            self.pack_b * self.b_panel * size,
            (not self.direct) * self.tile_rows * cols * size,
        )


def choose_grid(p, shape, panels_m, panels_n):
    """(tiles along the rows, tiles along the columns): depends on shapes only.

    Packing B costs in proportion to 1/rows of a tile, fetching A to 1/columns; among the grids
    that give enough tiles of a useful size the cheapest wins.
    """
    least_m = -(-panels_m * shape.rows // BLOCK_ROWS)
    least_n = -(-panels_n * shape.panel // BLOCK_COLS)
    wanted = TILES if p.flops < BIG_FLOPS else TILES // 2
    wanted = -(-min(wanted, max(1, p.flops // TILE_FLOPS)) // max(1, p.count))
    best = None
    for tm in range(min(least_m, panels_m), panels_m + 1):
        tn = min(panels_n, max(least_n, -(-wanted // tm)))
        rows, cols = -(-panels_m // tm) * shape.rows, -(-panels_n // tn) * shape.panel
        padded = rows * tm * cols * tn / (panels_m * shape.rows * panels_n * shape.panel)
        cost = (1.0 / rows + 1.0 / cols + 0.03) * padded
        if best is None or cost < best[0]:
            best = (cost, tm, tn)
        if tm >= wanted and tm > least_m:
            break
    return best[1:]


def make_tiling(p, direct):
    """The tiling of a normalised product."""
    shape, size = tile_shape(p.code, p.m, p.n, vectors=4), ITEM[p.code]
    row_panels, col_panels = -(-p.m // shape.rows), -(-p.n // shape.panel)
    stream = p.m <= 2 and p.b_col == 1
    if stream:
        row_tiles, col_tiles = 1, -(-p.n // 4096)
    else:
        row_tiles, col_tiles = choose_grid(p, shape, row_panels, col_panels)
    tiles = p.count * row_tiles * col_tiles
    least = 128 if stream else 512
    least = max(least, p.m * p.n // 128)  # partial results are traffic too
    splits = max(1, min(TILES // tiles, p.flops // TILE_FLOPS // tiles, p.k // least))
    chunk = max(LANES, up(-(-p.k // splits), LANES))
    splits = max(1, -(-p.k // chunk))
    blocks = max(1, -(-chunk // min(BLOCK_K, BLOCK_BYTES // (shape.panel * size))))
    depth = STREAM_K if stream else max(LANES, up(-(-chunk // blocks), LANES))
    # Straight to the output where that is written once, or stays in the cache; sums over several
    # blocks, and rows far apart in a large output, are better kept in scratch and written in runs.
    out_bytes = p.count * p.m * p.n * size
    at_hand = stream or out_bytes <= NEAR_BYTES or (depth >= chunk and out_bytes <= FAR_BYTES)
    panels = -(-row_panels // row_tiles), -(-col_panels // col_tiles)
    reused = p.a_k == 1 and panels[1] * shape.panel >= BLOCK_COLS
    far_rows = p.a_k * size >= 2048 and panels[1] >= 4
    return Tiling(p, shape, row_panels, col_panels, row_tiles, col_tiles, splits, chunk, depth,
                  pack_a=not stream and (reused or far_rows),
                  pack_b=p.b_col != 1 or panels[0] > 2,
                  direct=(direct or splits > 1) and at_hand)  # fmt: skip


def batch_offset(index, batch, strides, size):
    """Source of the byte offset of matrix `index` of an operand."""
    terms, inner = [], 1
    for axis in reversed(range(len(batch))):
        where = f"{index} // {inner}" if inner > 1 else index
        if axis:
            where = f"{where} % {batch[axis]}"
        if strides[axis]:
            terms.append(f"({where}) * {strides[axis] * size}")
        inner *= batch[axis]
    return " + ".join(terms) or "0"


def pack_columns(s, t):
    """Copy `kc` rows of B from from_k on into `bq`: the columns of panel q, row after row."""
    p, size, wide, code = t.p, ITEM[t.p.code], t.shape.panel, t.p.code
    s(
        f"src = pb + (from_k * {p.b_k} + q * {wide * p.b_col}) * {size}",
        f"cols = min({p.n} - q * {wide}, {wide})",
    )
    if p.b_col == 1:
        s(f"{s.copy(code, p.b_k, wide, wide)}(src, bq, kc, cols)")
    elif p.b_k == 1:
        s(f"{s.transpose(code, t.shape.lanes, p.b_col, wide)}(src, bq, cols, kc)")
    else:
        with s.open("for i in range(kc)"), s.open(f"for c in range(0, {wide}, {LANES})"):
            s(
                f"at = src + (c * {p.b_col} + i * {p.b_k}) * {size}",
                f"row = vgather_{code}(at, iota() * splat_i64({p.b_col}), lanes(cols - c))",
                f"vst_{code}(bq, i * {wide} + c, row)",
            )


def pack_rows(s, t):
    """Copy the tile's rows of A, `kc` columns from from_k on, into `rows_a`: row by row where k is
    contiguous, else k by k."""
    p, size, code, pitch = t.p, ITEM[t.p.code], t.p.code, max(t.a_strides)
    s(
        f"src = pa + (row0 * {p.a_row} + from_k * {p.a_k}) * {size}",
        "rows = row1 - row0",
    )
    if p.a_k == 1:
        s(f"{s.copy(code, p.a_row, pitch, up(t.depth, LANES))}(src, rows_a, rows, kc)")
    elif p.a_row == 1:
        s(f"{s.copy(code, p.a_k, pitch, pitch)}(src, rows_a, kc, rows)")
    else:
        with s.open("for j in range(kc)"), s.open(f"for r in range(0, rows, {LANES})"):
            s(
                f"at = src + (r * {p.a_row} + j * {p.a_k}) * {size}",
                f"row = vgather_{code}(at, iota() * splat_i64({p.a_row}), lanes(rows - r))",
                f"vst_{code}(rows_a, j * {pitch} + r, row)",
            )


def run_tiles(s, t):
    """All register tiles of the current block: the column panel outside, so that it stays in the
    first-level cache while the rows pass by."""
    p, shape, size, last = t.p, t.shape, ITEM[t.p.code], t.col_panels - 1
    with s.open("for q in range(cp0, cp1)"):
        if t.pack_b:
            s("bq = packed")
            pack_columns(s, t)
        else:
            s(f"bq = pb + (from_k * {p.b_k} + q * {shape.panel}) * {size}")
        s(f"cq = sums + (q - cp0) * {shape.panel * size}")
        if column_of(t, shape.panel) == column_of(t, t.tail) or not last:
            run_column(s, t, t.tail)
        else:
            with s.open(f"if q < {last}"):
                run_column(s, t, shape.panel)
            with s.open("else"):
                run_column(s, t, t.tail)


def run_column(s, t, cols):
    s(f"{s.column(column_of(t, cols))}(aq, bq, cq, kc, from_k - ks, tall, rp1 - rp0 - tall)")


def column_of(t, cols):
    """The register tiles of one panel of `cols` columns."""
    p, shape = t.p, t.shape
    rows, extra = t.rows
    vectors = -(-cols // shape.lanes)
    tile = Tile(
        p.code,
        rows,
        vectors,
        shape.lanes,
        *t.a_strides,
        shape.panel if t.pack_b else p.b_k,
        c_row=p.n if t.direct else t.tile_cols,
        cols=cols if t.direct or not t.pack_b else vectors * shape.lanes,
        mask_b=not t.pack_b and cols < vectors * shape.lanes,
        add=t.depth < t.chunk,
        fused=shape.fused,
    )
    return Column(tile, extra > 0)


def tiled_kernel(t, epilogue):
    """The kernel that computes tiles of the product (or of parts of it)."""
    p, size, s = t.p, ITEM[t.p.code], Source()
    operands = dict(zip(p.operands, ("a_all", "b_all"), strict=True))
    buffers = load_pointers(s, epilogue, operands)
    tiles = t.row_tiles * t.col_tiles
    with s.open("for t in range(lo, hi)"):
        s(
            f"tm = t % {t.row_tiles}",
            f"tn = t // {t.row_tiles} % {t.col_tiles}",
            f"part = t // {tiles} % {t.splits}",
            f"batch = t // {tiles * t.splits}",
            f"rp0 = tm * {t.row_panels} // {t.row_tiles}",
            f"rp1 = (tm + 1) * {t.row_panels} // {t.row_tiles}",
            f"cp0 = tn * {t.col_panels} // {t.col_tiles}",
            f"cp1 = (tn + 1) * {t.col_panels} // {t.col_tiles}",
            f"tall = max(min(rp1, {t.rows[1]}) - rp0, 0)",
            f"row0 = {starts('rp0', *t.rows)}",
            f"row1 = {starts('rp1', *t.rows)}",
            f"pa = a_all + {batch_offset('batch', p.batch, p.a_batch, size)}",
            f"pb = b_all + {batch_offset('batch', p.batch, p.b_batch, size)}",
            f"ks = part * {t.chunk}",
            f"ke = min(ks + {t.chunk}, {p.k})",
            "rows_a = scratch",
            f"packed = scratch + {t.scratch[0]}",
            f"first_row = (part * {p.count} + batch) * {p.m}",
        )
        if t.direct:
            matrix = f"(first_row + row0) * {p.n} + cp0 * {t.shape.panel}"
            s(f"sums = {epilogue.pointer} + ({matrix}) * {size}")
        else:
            s(f"sums = scratch + {t.scratch[0] + t.scratch[1]}")
        with s.open(f"for from_k in range(ks, ke, {t.depth})" if p.k else "for from_k in range(1)"):
            s(f"kc = min(ke - from_k, {t.depth})")
            if t.pack_a:
                pack_rows(s, t)
                s("aq = rows_a")
            else:
                s(f"aq = pa + (row0 * {p.a_row} + from_k * {p.a_k}) * {size}")
            run_tiles(s, t)
        if not t.direct:
            s(f"col0 = cp0 * {t.shape.panel}", f"col1 = min(cp1 * {t.shape.panel}, {p.n})")
            with s.open("for row in range(row0, row1)"):
                s(
                    f"line = sums + ((row - row0) * {t.tile_cols} - col0) * {size}",
                    f"flat = (first_row + row) * {p.n}",
                )
                finish_columns(s, p.code, epilogue, tail=p.n % LANES)
    about = f"{p.code} product {p.batch} x {p.m} x {p.n} x {p.k}"
    return s.step(
        "matmul",
        about,
        epilogue,
        ntiles=t.ntiles,
        buffers=buffers,
        scratch=sum(t.scratch),
        flops=p.flops,
    )


def float_matmul(p, epilogue):
    """Steps of a normalised product of f32 or f64."""
    t = make_tiling(p, epilogue is None)
    final, view = epilogue or Store(p.code), (p.count, p.m, p.n)
    if t.splits == 1:
        return Steps((tiled_kernel(t, final),), (), view)
    first = tiled_kernel(t, Store(p.code, ("ws", 0)))
    last = combine_kernel(p.code, *view, t.splits, final)
    return Steps((first, last), (t.splits * p.count * p.m * p.n * ITEM[p.code],), view)
