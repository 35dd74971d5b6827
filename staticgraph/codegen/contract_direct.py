"""Convolutions with next to no channels per group (depthwise above all), without matrix products.

With one or two products per tap there is nothing to reuse that packing could pay for. One plane of
the source is copied to scratch with its border of zeros; every tap is then one unmasked vector
load and one multiply-add.
"""

from math import prod

from staticgraph.codegen.contract_parts import (
    ITEM,
    LANES,
    Source,
    Steps,
    Store,
    combine_kernel,
    finish_columns,
    hand_over,
    load_pointers,
    up,
)

BAND = 1 << 14  # output elements of one tile's band of a plane
WRITTEN = 9  # taps along the last axis that are written out at once
TILES = 16


def direct_pays(p):
    """Whether a `Patches` product is too thin for register tiles."""
    return p.groups > 1 and p.rows * p.summed <= 4 and p.whole


class Band:
    """The part of a plane that a tile works on: `count` outputs along the first axis."""

    def __init__(self, p):
        self.p, self.axes, first = p, p.axes, p.axes[0]
        rest = max(1, p.plane // max(1, first.out))
        self.count = max(1, min(first.out, BAND // rest))
        self.bands = -(-first.out // self.count)
        outs = [self.count, *(a.out for a in p.axes[1:])]
        self.outs = outs
        reach = [(a.kernel - 1) * a.hop_shift for a in p.axes]
        self.low = [
            a.phases[0].shift0 + min(0, r) for a, r in zip(p.axes, reach, strict=True)
        ]  # source position of element 0 of the copy
        self.extent = [
            (n - 1) * a.step + abs(r) + 1 for n, a, r in zip(outs, p.axes, reach, strict=True)
        ]
        self.extent[-1] = up(self.extent[-1], LANES) + LANES * p.axes[-1].step
        self.strides = [prod(self.extent[k + 1 :]) for k in range(len(outs))]
        self.elements = prod(self.extent)

    def tap(self, k, index):
        """Source of how far tap `index` of axis k lies from the start of the copy's window."""
        axis = self.axes[k]
        begin = max(0, -(axis.kernel - 1) * axis.hop_shift)
        return f"({begin} + {index} * {axis.hop_shift}) * {self.strides[k]}"


def copy_band(s, band):
    """Copy the band of the plane at `plane` to `copy`, zeros outside the plane."""
    size, code, axes = ITEM[band.p.code], band.p.code, band.axes
    depth, last = s.depth, len(axes) - 1
    for k in range(last):
        s.begin(f"for pos{k} in range({band.extent[k]})")
        s(f"at{k} = pos{k} + {band.low[k]}" + (f" + first * {axes[0].step}" if k == 0 else ""))
    inside = " and ".join(f"0 <= at{k} < {axes[k].source}" for k in range(last)) or "True"
    source = " + ".join(f"at{k} * {prod(a.source for a in axes[k + 1 :])}" for k in range(last))
    target = " + ".join(f"pos{k} * {band.strides[k]}" for k in range(last))
    s(f"dst = copy + ({target or '0'}) * {size}")
    shift = f"{band.low[last]}" + (f" + first * {axes[0].step}" if last == 0 else "")
    with s.open(f"if {inside}"):
        s(f"src = plane + ({source or '0'}) * {size}")
        with s.open(f"for e in range(0, {band.extent[last]}, {LANES})"):
            s(
                f"at = e + {shift}",
                f"valid = lanes({axes[last].source} - at) & ~lanes(-at)",
                f"vst_{code}(dst, e, vldm_{code}(src, at, valid))",
            )
    if last:
        with s.open("else"), s.open(f"for e in range(0, {band.extent[last]}, {LANES})"):
            s(f"vst_{code}(dst, e, zero)")
    s.depth = depth


def open_lines(s, band):
    """Loops over the lines of the band: `line` is where the line's windows start in the copy,
    `place` the line's flat place in the output plane. The caller restores the depth."""
    axes = band.axes
    for k in range(len(axes) - 1):
        s.begin(f"for out{k} in range({'count' if k == 0 else band.outs[k]})")
    place, line = [], []
    for k in range(len(axes) - 1):
        out = "(first + out0)" if k == 0 else f"out{k}"
        place.append(f"{out} * {prod(a.out for a in axes[k + 1 :])}")
        line.append(f"out{k} * {axes[k].step * band.strides[k]}")
    s(f"place = {' + '.join(place) or 'first'}")
    s(f"line = copy + ({' + '.join(line) or '0'}) * {ITEM[band.p.code]}")


def window(band, address, at):
    """Source of the 16 source values that outputs at .. at + 15 of a line meet at one tap."""
    code, step = band.p.code, band.axes[-1].step
    if step == 1:
        return f"vld_{code}({address}, {at})"
    return f"vgather_{code}({address} + ({at}) * {step * ITEM[code]}, hops, every)"


def prepare(s, epilogue, band, operands):
    """The start of a kernel."""
    buffers = load_pointers(s, epilogue, operands)
    s("copy = scratch", f"zero = splat_{band.p.code}(0)")
    if band.axes[-1].step > 1:
        s(f"hops = iota() * splat_i64({band.axes[-1].step})", f"every = lanes({LANES})")
    return buffers


def set_band(s, band):
    """Outputs of the band along the first axis."""
    s(
        f"first = band * {band.count}",
        f"count = min({band.axes[0].out} - first, {band.count})",
    )


def direct_kernel(name, p, epilogue):
    """Tiles are (image, group, band): all outputs of one group in one band of one image."""
    s, size, code, epilogue = Source(), ITEM[p.code], p.code, epilogue or Store(p.code)
    band, last = Band(p), len(p.axes) - 1
    buffers = prepare(s, epilogue, band, {"a": "x", "b": "w"})
    inner = p.axes[-1].kernel
    with s.open("for t in range(lo, hi)"):
        s(f"band = t % {band.bands}", f"group = t // {band.bands} % {p.groups}",
          f"batch = t // {band.bands * p.groups}")  # fmt: skip
        set_band(s, band)
        with s.open(f"for c in range({p.summed})"):
            s(f"plane = x + ((batch * {p.groups} + group) * {p.summed} + c) * {p.source * size}")
            s(f"copy = scratch + c * {band.elements * size}")
            copy_band(s, band)
        with s.open(f"for r in range({p.rows})"):
            s(
                f"row = group * {p.rows} + r",
                f"flat = (batch * {p.groups * p.rows} + row) * {p.plane}",
                "copy = scratch",
            )
            depth = s.depth
            open_lines(s, band)
            span = "count" if last == 0 else band.outs[last]
            with s.open(f"for at in range(0, {span}, {LANES})"):
                s("acc = zero")
                inside = s.depth
                s.begin(f"for c in range({p.summed})")
                pair = f"c * {p.rows} + r" if p.transposed else f"r * {p.summed} + c"
                s(
                    f"tap = line + c * {band.elements * size}",
                    f"weight = w + (group * {p.rows * p.summed} + {pair}) * {p.taps * size}",
                )
                for k in range(last):
                    s.begin(f"for nth{k} in range({p.axes[k].kernel})")
                outer = [f"nth{k} * {prod(a.kernel for a in p.axes[k + 1 :])}" for k in range(last)]
                away = [band.tap(k, f"nth{k}") for k in range(last)]
                s(f"wi = {' + '.join(outer) or '0'}")
                s(f"here = tap + ({' + '.join(away) or '0'}) * {size}")
                for j in range(inner) if inner <= WRITTEN else ("j",):
                    if j == "j":
                        s.begin(f"for j in range({inner})")
                    shift = band.tap(last, j)
                    address = f"here + ({shift}) * {size}"
                    s(f"acc = fma(splat_{code}(ld_{code}(weight, wi + {j})), "
                      f"{window(band, address, 'at')}, acc)")  # fmt: skip
                s.depth = inside
                s("col = place + at", "index = flat + col")
                with s.open(f"if at + {LANES} <= {span}"):
                    hand_over(s, epilogue, None)
                with s.open("else"):
                    s(f"edge = lanes({span} - at)")
                    hand_over(s, epilogue, "edge")
            s.depth = depth
    return s.step(
        name,
        f"{code} {name}, direct: {p}",
        epilogue,
        ntiles=p.images * p.groups * band.bands,
        buffers=buffers,
        scratch=p.summed * band.elements * size,
        flops=p.flops,
        weight=4,
    )


def direct_steps(name, p, epilogue):
    """Steps of a thin patches product."""
    view = (p.images, p.groups * p.rows, p.plane)
    return Steps((direct_kernel(name, p, epilogue),), (), view)


def direct_grad_steps(p, epilogue):
    """Steps of the weight gradient of a thin convolution."""
    view, final = (1, p.groups * p.rows, p.summed * p.taps), epilogue or Store(p.code)
    parts = max(1, min(p.images, TILES // p.groups))
    if parts == 1:
        return Steps((direct_grad_kernel(p, 1, final),), (), view)
    first = direct_grad_kernel(p, parts, Store(p.code, ("ws", 0)))
    last = combine_kernel(p.code, *view, parts, final)
    return Steps((first, last), (parts * view[1] * view[2] * ITEM[p.code],), view)


def direct_grad_kernel(p, parts, epilogue):
    """Tiles are (part of the images, group). One sum of lanes per tap runs over a band; the bands
    and images are added in order."""
    s, size, code = Source(), ITEM[p.code], p.code
    band, last = Band(p), len(p.axes) - 1
    buffers = prepare(s, epilogue, band, {"a": "x", "b": "dy"})
    inner, columns = p.axes[-1].kernel, p.summed * p.taps
    s(f"sums = scratch + {up(band.elements * size, 64)}")
    with s.open("for t in range(lo, hi)"):
        s(f"part = t % {parts}", f"group = t // {parts}")
        with s.open(f"for i in range({p.rows * columns})"):
            s(f"st_{code}(sums, i, lane0_{code}(zero))")
        images = f"range(part * {p.images} // {parts}, (part + 1) * {p.images} // {parts})"
        with s.open(f"for n in {images}"), s.open(f"for band in range({band.bands})"):
            set_band(s, band)
            with s.open(f"for c in range({p.summed})"):
                s(f"plane = x + ((n * {p.groups} + group) * {p.summed} + c) * {p.source * size}")
                copy_band(s, band)
                with s.open(f"for r in range({p.rows})"):
                    s(
                        f"out_row = (n * {p.groups} + group) * {p.rows} + r",
                        f"from_dy = dy + out_row * {p.plane * size}",
                        f"into = sums + (r * {p.summed} + c) * {p.taps * size}",
                    )
                    taps_of_band(s, band, inner, last)
        s("batch = 0", "col0 = 0", f"col1 = {columns}")
        with s.open(f"for r in range({p.rows})"):
            s(
                f"row = group * {p.rows} + r",
                f"line = sums + r * {columns * size}",
                f"flat = (part * {p.groups * p.rows} + row) * {columns}",
            )
            finish_columns(s, code, epilogue, tail=columns % LANES)
    name = "conv_weight_grad"
    scratch = up(band.elements * size, 64) + (p.rows * columns + LANES) * size
    return s.step(
        name,
        f"{code} {name}, direct: {p}",
        epilogue,
        ntiles=parts * p.groups,
        buffers=buffers,
        scratch=scratch,
        flops=p.flops,
        weight=4,
    )


def taps_of_band(s, band, inner, last):
    """Add dy times the shifted source to the sum of every tap: a pass over the band for each group
    of taps along the last axis."""
    p, size, code = band.p, ITEM[band.p.code], band.p.code
    depth = s.depth
    for k in range(last):
        s.begin(f"for nth{k} in range({p.axes[k].kernel})")
    outer = [f"nth{k} * {prod(a.kernel for a in p.axes[k + 1 :])}" for k in range(last)]
    away = [band.tap(k, f"nth{k}") for k in range(last)]
    s(f"ti = {' + '.join(outer) or '0'}", f"away = ({' + '.join(away) or '0'}) * {size}")
    for group in range(0, inner, WRITTEN):
        taps = range(group, min(group + WRITTEN, inner))
        for j in taps:
            s(f"acc{j} = zero")
        inside = s.depth
        open_lines(s, band)
        span = "count" if last == 0 else band.outs[last]
        with s.open(f"for at in range(0, {span}, {LANES})"):
            s(f"edge = lanes({span} - at)", f"d = vldm_{code}(from_dy, place + at, edge)")
            for j in taps:
                address = f"line + away + ({band.tap(last, j)}) * {size}"
                s(f"acc{j} = fma(d, {window(band, address, 'at')}, acc{j})")
        s.depth = inside
        for j in taps:
            s(f"st_{code}(into, ti + {j}, ld_{code}(into, ti + {j}) + lane0_{code}(hsum(acc{j})))")
    s.depth = depth
