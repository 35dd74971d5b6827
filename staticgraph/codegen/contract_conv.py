"""Kernels of convolution and its input gradient: products with patches gathered tile by tile.

A tile is some lines along the last axis, or a segment of one; it gathers a block of the patch
matrix into scratch, multiplies, and hands the finished sums to the epilogue in runs of outputs.
"""

from math import prod

from staticgraph.codegen.contract_parts import (
    ITEM,
    LANES,
    Source,
    Store,
    finish_columns,
    hand_over,
    load_pointers,
    starts,
    tile_shape,
    up,
)
from staticgraph.codegen.contract_shapes import Column, Gather, Tile

DEPTH = 288  # products in one block: whole channels, as many as fit
COLUMNS = 512
ROWS = 264
TILES = 6  # at least; each further one gathers patches or fetches weights again
TILE_FLOPS = 500_000


class Layout:
    """Sizes of the tiles of one `Patches` product; they follow from its shapes alone."""

    def __init__(self, p):
        size, last = ITEM[p.code], p.axes[-1]
        self.p = p
        self.inner = len(last.phases)
        longest = last.phases[0].count
        most = max(LANES, COLUMNS // self.inner)
        self.shape = tile_shape(p.code, p.rows, max(1, min(most, longest * p.lines)))
        self.row_panels = -(-p.rows // self.shape.rows)
        self.segments = -(-longest // most)
        self.width = longest if self.segments == 1 else up(-(-longest // self.segments), LANES)
        self.segments = -(-longest // self.width)
        self.row_tiles, self.lines = self.choose_grid(most)
        others = p.groups * self.row_tiles * p.outer_phases * self.segments
        self.blocks = -(-p.lines // self.lines)
        self.channels = max(1, min(p.summed, DEPTH // p.most_taps))
        self.channels = -(-p.summed // -(-p.summed // self.channels))
        self.depth = self.channels * p.most_taps
        columns = up(self.lines * self.width, self.shape.panel)
        self.columns = columns
        self.pitch = columns + LANES  # not a power of two: neighbours in k go to different sets
        self.pack_a = p.transposed
        self.tile_rows = -(-self.row_panels // self.row_tiles) * -(-p.rows // self.row_panels)
        self.a_pitch = self.depth + LANES
        self.plane = self.tile_rows * columns
        rank = len(p.axes)
        self.table = 8 * up(self.lines * rank, 8)
        self.order = 8 * up(self.width * self.inner + LANES, 8) if self.inner > 1 else 0
        self.a_bytes = up(self.pack_a * (self.tile_rows * self.a_pitch + LANES) * size, 64)
        self.b_bytes = up(self.depth * self.pitch * size, 64)
        self.ntiles = others * self.blocks

    def choose_grid(self, most):
        """(tiles along the rows, lines per tile): enough tiles, and the least work around the
        products: gathering patches costs in proportion to 1/rows, fetching W to 1/columns, and
        the columns beyond the last line are computed in vain."""
        p, panel = self.p, self.shape.panel
        wanted = max(1, min(TILES, p.flops // TILE_FLOPS))
        weight = 16 if p.transposed else 10
        best = None
        for row_tiles in range(-(-p.rows // ROWS), self.row_panels + 1):
            rows = -(-self.row_panels // row_tiles) * self.shape.rows
            others = p.groups * row_tiles * p.outer_phases * self.segments
            least = min(p.lines, -(-wanted // others))
            cap = min(max(1, most // self.width), p.lines // least) if self.segments == 1 else 1
            for lines in range(max(1, cap // 2), cap + 1):
                columns = up(lines * self.width, panel)
                vain = columns * -(-p.lines // lines) / (self.width * p.lines)
                cost = vain * (1 + 10 / rows + weight / columns)
                if best is None or cost < best[0]:
                    best = cost, row_tiles, lines
            if others >= wanted:
                break
        return best[1:]

    @property
    def scratch_bytes(self):
        sums = self.plane * self.inner * ITEM[self.p.code]
        return self.table + self.order + self.a_bytes + self.b_bytes + sums


def set_axis(s, axis, name, index):
    """Set count, taps, first tap and first shift of the current phase of one axis."""
    for field in ("count", "taps", "tap0", "shift0"):
        values = [getattr(phase, field) for phase in axis.phases]
        s(f"{field}_{name} = {values[0]}")
        for k, value in enumerate(values):
            if value != values[0]:
                with s.open(f"if {index} == {k}"):
                    s(f"{field}_{name} = {value}")


def write_table(s, y):
    """For every line of the tile: where its image starts, then its source positions."""
    p, outer = y.p, y.p.axes[:-1]
    rank = len(p.axes)
    with s.open("for l in range(nlines)"):
        s("left = line0 + l")
        for d in reversed(range(len(outer))):
            s(
                f"at = left % count_{d} * {outer[d].step} + shift0_{d}",
                f"st_i64(table, l * {rank} + {1 + d}, at)",
                f"left = left // count_{d}",
            )
        s(f"st_i64(table, l * {rank}, left * {p.groups * p.summed * p.source})")


def gather_patches(s, y):
    """Write the block's patches: row (c, taps) of `packed`, columns (line, t)."""
    p, last, d = y.p, y.p.axes[-1], len(y.p.axes) - 1
    known = y.inner == 1 and y.segments == 1
    gather = Gather(
        p.code,
        tuple(a.source for a in p.axes),
        tuple(a.hop_shift for a in p.axes),
        last.step,
        y.width,
        y.pitch,
        last.phases[0].taps if known else None,
        last.phases[0].shift0 if known else None,
    )
    taps = ", ".join(f"taps_{k}" for k in range(d + 1))
    image = f"x + from_c * {p.source * ITEM[p.code]}"
    s(f"{s.gather(gather)}({image}, table, packed, cc, nlines, start_t, span, shift0_{d}, {taps})")


def pack_kernel(s, y):
    """Copy the block's part of W to `rows_a`, one row per output channel, for the current taps."""
    p, size, axes, code = y.p, ITEM[y.p.code], y.p.axes, y.p.code
    if p.whole:
        with s.open("for c in range(cc)"):
            s(
                f"src = w + ((from_c + c) * {p.rows} + row0) * {p.taps * size}",
                f"{s.copy(code, p.taps, y.a_pitch, LANES)}"
                f"(src, rows_a + c * {p.taps * size}, row1 - row0, {p.taps})",
            )
        return
    with s.open("for c in range(cc)"), s.open("for r in range(row1 - row0)"):
        s(
            f"src = w + ((from_c + c) * {p.rows} + row0 + r) * {p.taps * size}",
            f"dst = rows_a + (r * {y.a_pitch} + c * taps) * {size}",
        )
        depth = s.depth
        s("i = 0")
        for k, axis in enumerate(axes):
            stride = prod(a.kernel for a in axes[k + 1 :])
            s.begin(f"for nth{k} in range(taps_{k})")
            base = f"tap{k - 1} + " if k else ""
            s(f"tap{k} = {base}(tap0_{k} + nth{k} * {axis.hop_tap}) * {stride}")
        s(f"st_{code}(dst, i, ld_{code}(src, tap{len(axes) - 1}))", "i += 1")
        s.depth = depth


def run_product(s, y):
    """Register tiles over the block: column panels outside, row panels inside."""
    p, shape, size = y.p, y.shape, ITEM[y.p.code]
    rows, extra = divmod(p.rows, y.row_panels)
    a_row = y.a_pitch if y.pack_a else p.summed * p.taps
    base = "rows_a" if y.pack_a else f"w + (row0 * {p.summed} + from_c) * {p.taps * size}"

    def run(vectors):
        tile = Tile(
            p.code, rows, vectors, shape.lanes, a_row, 1, y.pitch, y.columns,
            vectors * shape.lanes, add=y.channels < p.summed, fused=shape.fused,
        )  # fmt: skip
        s(
            f"{s.column(Column(tile, extra > 0))}(aq, packed + q * {size}, sums + q * {size}, "
            "cc * taps, from_c, tall, rp1 - rp0 - tall)"
        )

    s(f"aq = {base}")
    tail = y.lines * y.width % shape.panel
    with s.open(f"for q in range(0, nlines * {y.width}, {shape.panel})"):
        half = shape.panel // 2 // shape.lanes
        if 0 < tail <= shape.panel // 2 and half:
            with s.open(f"if nlines * {y.width} - q > {half * shape.lanes}"):
                run(shape.vectors)
            with s.open("else"):
                run(half)
        else:
            run(shape.vectors)


def finish_whole(s, y, epilogue):
    """One phase: the tile's columns are a run of outputs, image after image."""
    p, code = y.p, y.p.code
    plane, size = p.plane, ITEM[code]
    s(f"first = line0 * {p.axes[-1].out} + start_t", "end = first + (nlines - 1) * "
      f"{p.axes[-1].out} + span")  # fmt: skip
    with s.open(f"for batch in range(first // {plane}, (end - 1) // {plane} + 1)"):
        s(
            f"col0 = max(first - batch * {plane}, 0)",
            f"col1 = min(end - batch * {plane}, {plane})",
            f"shift = batch * {plane} - first",
        )
        with s.open("for r in range(row0, row1)"):
            s(
                f"row = group * {p.rows} + r",
                f"line = sums + ((r - row0) * {y.columns} + shift) * {size}",
                f"flat = (batch * {p.groups * p.rows} + row) * {plane}",
            )
            finish_columns(s, code, epilogue, tail=True)


def finish_phases(s, y, epilogue):
    """Several phases: line by line, lanes collected from the phases of the last axis."""
    p, code, outer, last = y.p, y.p.code, y.p.axes[:-1], y.p.axes[-1]
    size, plane = ITEM[code], p.plane
    with s.open("for l in range(nlines)"):
        s("left = line0 + l", "place = 0")
        for d in reversed(range(len(outer))):
            stride = prod(a.out for a in p.axes[d + 1 :])
            s(
                f"place += (left % count_{d} * {outer[d].hop} + ph{d}) * {stride}",
                f"left = left // count_{d}",
            )
        s(
            "batch = left",
            f"begin = start_t * {last.hop}",
            f"stop = min(begin + {y.width * last.hop}, {last.out})",
        )
        with s.open("for r in range(row0, row1)"):
            s(
                f"row = group * {p.rows} + r",
                f"line = sums + ((r - row0) * {y.columns} + l * {y.width}) * {size}",
                f"flat = (batch * {p.groups * p.rows} + row) * {plane}",
            )
            with s.open(f"for q in range(begin, stop, {LANES})"):
                s(
                    "col = place + q",
                    "index = flat + col",
                    "edge = lanes(stop - q)",
                    f"acc = vgather_{code}(line, vld_i64(order, q - begin), edge)"
                    if y.inner > 1
                    else f"acc = vldm_{code}(line, q - begin, edge)",
                )
                hand_over(s, epilogue, "edge")


def patches_kernel(name, p, operands, epilogue):
    """The kernel of a `Patches` product; `operands` are the references of (source, W)."""
    y, s, size = Layout(p), Source(), ITEM[p.code]
    epilogue = epilogue or Store(p.code)
    buffers = load_pointers(s, epilogue, dict(zip(operands, ("x_all", "w_all"), strict=True)))
    last, d = p.axes[-1], len(p.axes) - 1
    areas = (y.table, y.order, y.a_bytes, y.b_bytes)
    names = ("table", "order", "rows_a", "packed", "sums_all")
    for k, area in enumerate(names):
        s(f"{area} = scratch + {sum(areas[:k])}")
    s(f"zero = splat_{p.code}(0)")
    if y.order:
        with s.open(f"for q in range({y.width * y.inner + LANES})"):
            s(f"st_i64(order, q, q % {last.hop} * {y.plane} + q // {last.hop})")
    w_group = p.rows * p.summed * p.taps
    with s.open("for t in range(lo, hi)"):
        s(f"block = t % {y.blocks}", f"left = t // {y.blocks}")
        for var, count in (("segment", y.segments), ("phase", p.outer_phases), ("tm", y.row_tiles)):
            s(f"{var} = left % {count}", f"left = left // {count}")
        s(
            "group = left",
            f"rp0 = tm * {y.row_panels} // {y.row_tiles}",
            f"rp1 = (tm + 1) * {y.row_panels} // {y.row_tiles}",
            f"tall = max(min(rp1, {p.rows % y.row_panels}) - rp0, 0)",
            f"row0 = {starts('rp0', *divmod(p.rows, y.row_panels))}",
            f"row1 = {starts('rp1', *divmod(p.rows, y.row_panels))}",
            f"x = x_all + group * {p.summed * p.source * size}",
            f"w = w_all + group * {w_group * size}",
            f"start_t = segment * {y.width}",
        )
        for k, axis in reversed(list(enumerate(p.axes[:-1]))):
            s(f"ph{k} = phase % {len(axis.phases)}", f"phase = phase // {len(axis.phases)}")
            set_axis(s, axis, k, f"ph{k}")
        per_image = " * ".join(f"count_{k}" for k in range(d)) or "1"
        s(
            f"line0 = block * {y.lines}",
            f"nlines = min({p.images} * {per_image} - line0, {y.lines})",
        )
        with s.open("if nlines > 0"):
            write_table(s, y)
            with s.open(f"for ph{d} in range({y.inner})"):
                set_axis(s, last, d, f"ph{d}")
                s(
                    f"span = min(count_{d} - start_t, {y.width})",
                    f"taps = {' * '.join(f'taps_{k}' for k in range(d + 1))}",
                    f"sums = sums_all + ph{d} * {y.plane * size}",
                )
                with s.open(f"for from_c in range(0, {p.summed}, {y.channels})"):
                    s(f"cc = min({p.summed} - from_c, {y.channels})")
                    gather_patches(s, y)
                    clear_rest(s, y)
                    if y.pack_a:
                        pack_kernel(s, y)
                    run_product(s, y)
            s("sums = sums_all")
            (finish_whole if p.adjacent else finish_phases)(s, y, epilogue)
    about = f"{p.code} {name}: {p}"
    return s.step(
        name,
        about,
        epilogue,
        ntiles=y.ntiles,
        buffers=buffers,
        scratch=y.scratch_bytes,
        flops=p.flops,
    )


def clear_rest(s, y):
    """Zero the columns between the last line and the end of its panel: they are computed too, and
    what old scratch holds could be denormal and slow."""
    panel = y.shape.panel
    s(
        f"columns = nlines * {y.width}",
        f"padded = (columns + {panel - 1}) // {panel} * {panel}",
    )
    with s.open("for i in range(cc * taps)"):
        s(f"dst = packed + i * {y.pitch * ITEM[y.p.code]}")
        with s.open(f"for j in range(columns, padded, {LANES})"):
            s(f"vst_{y.p.code}(dst, j, zero)")
