"""The weight gradient of a convolution: dw[m, (c, kappa)] = sum over (n, o) of dy[n, m, o] times
the patch value x[n, c, o * stride - low + kappa * dilation].

It is the product of the patch matrix of the convolution itself, with rows (c, kappa), and dy
transposed. Few outputs and very many products: the positions are split into parts, whose results
are added in order by a second kernel.
"""

from math import prod

from staticgraph.codegen.contract_conv import gather_patches, write_table
from staticgraph.codegen.contract_parts import (
    ITEM,
    LANES,
    Source,
    Steps,
    Store,
    combine_kernel,
    finish_columns,
    load_pointers,
    tile_shape,
    up,
)
from staticgraph.codegen.contract_shapes import Column, Tile

POSITIONS = 256  # products of one block
ROWS = 288  # rows (c, kappa) of one tile: whole channels
TILES = 16
TILE_FLOPS = 500_000


class GradLayout:
    """Sizes of the tiles; what `contract_conv.gather_patches` reads has the same names there."""

    def __init__(self, p):
        size, last = ITEM[p.code], p.axes[-1]
        self.p, self.inner = p, 1
        self.segments = -(-last.out // POSITIONS)
        self.width = last.out if self.segments == 1 else up(-(-last.out // self.segments), LANES)
        self.segments = -(-last.out // self.width)
        self.lines = max(1, POSITIONS // self.width) if self.segments == 1 else 1
        self.units = p.images * prod(a.out for a in p.axes[:-1]) * self.segments
        self.pitch = up(self.lines * self.width, LANES) + LANES
        self.channels = max(1, min(p.summed, ROWS // p.taps))
        self.channel_tiles = -(-p.summed // self.channels)
        self.channels = -(-p.summed // self.channel_tiles)
        self.rows = self.channels * p.taps
        tiles = p.groups * self.channel_tiles
        positions = p.images * p.plane
        parts = min(TILES // tiles, p.flops // TILE_FLOPS // tiles, positions // 512)
        blocks = -(-self.units // self.lines)
        self.blocks_per_part = -(-blocks // max(1, parts))
        self.parts = -(-blocks // self.blocks_per_part)
        self.shape = tile_shape(p.code, self.rows, p.rows)
        self.columns = up(p.rows, self.shape.panel)
        self.across = up(self.rows, LANES) + LANES  # row length of the transposed result
        self.b_panel = (self.lines * self.width + LANES) * self.shape.panel
        self.table = 8 * up(self.lines * len(p.axes), 8)
        self.areas = (
            self.table,
            up(self.rows * self.pitch * size, 64),
            self.columns // self.shape.panel * self.b_panel * size,
            up(self.rows * self.columns * size, 64),
            (up(p.rows, LANES) * self.across + LANES) * size,
        )
        self.ntiles = tiles * self.parts


def pack_gradient(s, y):
    """Transpose dy of positions first .. end into column panels, image by image."""
    p, size, shape = y.p, ITEM[y.p.code], y.shape
    plane = p.plane
    with s.open(f"for n in range(first // {plane}, (end - 1) // {plane} + 1)"):
        s(
            f"begin = max(n * {plane} - first, 0)",
            f"stop = min((n + 1) * {plane}, end) - first",
            f"image = dy + (n * {p.groups * p.rows * plane} + first - n * {plane}) * {size}",
        )
        panels = -(-p.rows // shape.panel)
        with s.open(f"for q in range({panels})"):
            s(
                f"src = image + (q * {shape.panel * plane} + begin) * {size}",
                f"dst = packed_b + (q * {y.b_panel} + begin * {shape.panel}) * {size}",
                f"{s.transpose(p.code, shape.lanes, plane, shape.panel)}"
                f"(src, dst, min({p.rows} - q * {shape.panel}, {shape.panel}), stop - begin)",
            )


def run_product(s, y):
    """sums[(c, kappa), m] (+)= patches times dy over the block's positions."""
    p, size, shape = y.p, ITEM[y.p.code], y.shape
    panels = -(-y.rows // shape.rows)
    rows, extra = divmod(y.rows, panels)
    last = -(-p.rows // shape.panel) - 1
    tail = -(-(p.rows - last * shape.panel) // shape.lanes)

    def run(vectors):
        tile = Tile(
            p.code, rows, vectors, shape.lanes, y.pitch, 1, shape.panel, y.columns,
            vectors * shape.lanes, add=y.blocks_per_part > 1, fused=shape.fused,
        )  # fmt: skip
        s(
            f"into = sums + q * {shape.panel * size}",
            f"{s.column(Column(tile, extra > 0))}(packed, packed_b + q * {y.b_panel * size}, into, "
            f"end - first, unit - start, {extra}, {panels - extra})",
        )

    with s.open(f"for q in range({last + 1})"):
        if tail == shape.vectors or not last:
            run(tail)
        else:
            with s.open(f"if q < {last}"):
                run(shape.vectors)
            with s.open("else"):
                run(tail)


def transpose_result(s, y):
    """result[m, (c, kappa)] from sums[(c, kappa), m]."""
    move = s.transpose(y.p.code, y.shape.lanes, y.columns, y.across)
    s(f"{move}(sums, result, {y.rows}, {y.p.rows})")


def gradient_kernel(p, y, epilogue):
    """Tiles are (part of the positions, block of channels, group)."""
    s, size = Source(), ITEM[p.code]
    buffers = load_pointers(s, epilogue, {"a": "x_all", "b": "dy_all"})
    for k, area in enumerate(("table", "packed", "packed_b", "sums", "result")):
        s(f"{area} = scratch + {sum(y.areas[:k])}")
    last, rank = p.axes[-1], len(p.axes)
    for k, axis in enumerate(p.axes):
        phase = axis.phases[0]
        s(f"count_{k} = {phase.count}", f"taps_{k} = {phase.taps}", f"shift0_{k} = {phase.shift0}")
    columns = p.summed * p.taps
    with s.open("for t in range(lo, hi)"):
        s(
            f"ct = t % {y.channel_tiles}",
            f"part = t // {y.channel_tiles} % {y.parts}",
            f"group = t // {y.channel_tiles * y.parts}",
            f"from_c = ct * {y.channels}",
            f"cc = min({p.summed} - from_c, {y.channels})",
            f"x = x_all + group * {p.summed * p.source * size}",
            f"dy = dy_all + group * {p.rows * p.plane * size}",
            f"start = part * {y.blocks_per_part * y.lines}",
        )
        stop = f"min(start + {y.blocks_per_part * y.lines}, {y.units})"
        with s.open(f"for unit in range(start, {stop}, {y.lines})"):
            s(
                f"line0 = unit // {y.segments}",
                f"start_t = unit % {y.segments} * {y.width}",
                f"nlines = min({y.units // y.segments} - line0, {y.lines})",
                f"span = min({last.out} - start_t, {y.width})",
                f"first = line0 * {last.out} + start_t",
                f"end = first + (nlines - 1) * {last.out} + span",
            )
            write_table(s, y)
            gather_patches(s, y)
            pack_gradient(s, y)
            run_product(s, y)
        transpose_result(s, y)
        s("batch = 0", f"col0 = from_c * {p.taps}", f"col1 = col0 + cc * {p.taps}")
        with s.open(f"for r in range({p.rows})"):
            s(
                f"row = group * {p.rows} + r",
                f"line = result + (r * {y.across} - col0) * {size}",
                f"flat = (part * {p.groups * p.rows} + row) * {columns}",
            )
            finish_columns(s, p.code, epilogue, tail=True)
    about = f"{p.code} weight gradient of the convolution {p}, {rank} axes"
    name = "conv_weight_grad"
    return s.step(
        name,
        about,
        epilogue,
        ntiles=y.ntiles,
        buffers=buffers,
        scratch=sum(y.areas),
        flops=p.flops,
    )


def weight_grad_steps(p, epilogue):
    """Steps of the weight gradient of the (forward) patches product `p`."""
    view = (1, p.groups * p.rows, p.summed * p.taps)
    y, final = GradLayout(p), epilogue or Store(p.code)
    if y.parts == 1:
        return Steps((gradient_kernel(p, y, final),), (), view)
    first = gradient_kernel(p, y, Store(p.code, ("ws", 0)))
    last = combine_kernel(p.code, *view, y.parts, final)
    return Steps((first, last), (y.parts * view[1] * view[2] * ITEM[p.code],), view)
