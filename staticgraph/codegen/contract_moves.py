"""How operands get into scratch: copies, transposes and the gathering of convolution patches."""

from llvmlite import ir

from staticgraph.codegen.contract_ir import (
    BYTES,
    ELEMENT,
    I64,
    constant_lanes,
    declare,
    first_lanes,
    least,
    load,
    masked_gather,
    masked_load,
    number,
    offset,
    outlined,
    repeat,
    scaled,
    store,
)
from staticgraph.codegen.contract_shapes import LANES, Gather, name_of
from staticgraph.codegen.microkernel import exchange


def block_copy(code, src_row, dst_row, width):
    """f(src, dst, rows, cols): copy a block, rows `src_row` and `dst_row` elements apart.

    Whole vectors are stored: the destination has room for 16 elements beyond the last. Blocks that
    are `width` columns wide (a multiple of 16) are copied without an inner loop.
    """
    size, vector = BYTES[code], ir.VectorType(ELEMENT[code], LANES)
    piece = LANES * size

    def body(builder, args):
        src, dst, rows, cols = args
        fits = builder.icmp_signed("==", cols, number(width))
        with builder.if_else(fits) as (then, otherwise):
            with then, repeat(builder, rows) as r:
                a = builder.add(src, scaled(builder, r, src_row * size))
                b = builder.add(dst, scaled(builder, r, dst_row * size))
                for j in range(0, width * size, piece):
                    store(builder, load(builder, offset(builder, a, j), vector, size),
                          offset(builder, b, j), size)  # fmt: skip
            with otherwise:
                whole = builder.sdiv(cols, number(LANES))
                rest = builder.srem(cols, number(LANES))
                mask = first_lanes(builder, rest, LANES)
                end = scaled(builder, whole, piece)
                with repeat(builder, rows) as r:
                    a = builder.add(src, scaled(builder, r, src_row * size))
                    b = builder.add(dst, scaled(builder, r, dst_row * size))
                    with repeat(builder, whole) as j:
                        at = scaled(builder, j, piece)
                        store(builder, load(builder, offset(builder, a, at), vector, size),
                              offset(builder, b, at), size)  # fmt: skip
                    with builder.if_then(builder.icmp_signed(">", rest, number(0))):
                        last = masked_load(builder, offset(builder, a, end), vector, mask, size)
                        store(builder, last, offset(builder, b, end), size)

    return outlined(f"sg_copy_{code}_{name_of(src_row, dst_row, width)}", 4, body)


def block_transpose(code, lanes, src_row, dst_row):
    """f(src, dst, rows, cols): dst[c, r] = src[r, c], in blocks of lanes x lanes.

    Whole blocks are stored, zero outside: columns of the destination have room for that.
    """
    size = BYTES[code]

    def body(builder, args):
        src, dst, rows, cols = args
        block = declare(
            builder.module,
            f"sg_transpose_{code}_{lanes}_{name_of(src_row, dst_row)}",
            4,
            lambda inner, params: build_transpose(code, lanes, src_row, dst_row, inner, params),
        )
        up = number(lanes - 1)
        count_r = builder.sdiv(builder.add(rows, up), number(lanes))
        count_c = builder.sdiv(builder.add(cols, up), number(lanes))
        with repeat(builder, count_r) as r, repeat(builder, count_c) as c:
            row, col = scaled(builder, r, lanes), scaled(builder, c, lanes)
            a = builder.add(row_of(builder, src, row, src_row, size), scaled(builder, col, size))
            b = builder.add(row_of(builder, dst, col, dst_row, size), scaled(builder, row, size))
            builder.call(block, [a, b, builder.sub(rows, row), builder.sub(cols, col)])

    return outlined(f"sg_transposes_{code}_{lanes}_{name_of(src_row, dst_row)}", 4, body)


def row_of(builder, base, row, stride, size):
    return builder.add(base, scaled(builder, row, stride * size))


def build_transpose(code, lanes, src_row, dst_row, builder, args):
    """One block: log2(lanes) rounds that exchange off-diagonal blocks of 1, 2, 4, ... lanes."""
    src, dst, rows, cols = args
    size, vector = BYTES[code], ir.VectorType(ELEMENT[code], lanes)
    full = number(lanes)
    whole = builder.and_(
        builder.icmp_signed(">=", rows, full), builder.icmp_signed(">=", cols, full)
    )
    versions = []
    with builder.if_else(whole) as (then, otherwise):
        with then:
            rows_in = [
                load(builder, offset(builder, src, r * src_row * size), vector, size)
                for r in range(lanes)
            ]
            versions.append((rows_in, builder.block))
        with otherwise:
            inside = first_lanes(builder, cols, lanes)
            none = ir.Constant(inside.type, None)
            rows_in = []
            for r in range(lanes):
                mask = builder.select(builder.icmp_signed("<", number(r), rows), inside, none)
                address = offset(builder, src, r * src_row * size)
                rows_in.append(masked_load(builder, address, vector, mask, size))
            versions.append((rows_in, builder.block))
    block = []
    for r in range(lanes):
        phi = builder.phi(vector)
        for values, origin in versions:
            phi.add_incoming(values[r], origin)
        block.append(phi)
    reach = 1
    while reach < lanes:
        for r in range(lanes):
            if not r & reach:
                pair = exchange(builder, block[r], block[r + reach], reach)
                block[r], block[r + reach] = pair
        reach *= 2
    for r, value in enumerate(block):
        store(builder, value, offset(builder, dst, r * dst_row * size), size)


def patch_gather(g: Gather):
    """f(x, table, packed, channels, lines, t0, span, shift, taps_0, ..., taps_last).

    Row (c, taps) and column (line, t) of `packed` becomes channel c of `x` at the position that
    output t of the line meets at that tap, zero outside. `table` holds for every line the offset
    of its image and the source position of tap 0 along each outer axis.
    """
    size, vector, rank = BYTES[g.code], ir.VectorType(ELEMENT[g.code], LANES), g.rank
    plane = 1
    for n in g.sources:
        plane *= n

    def body(builder, args):
        x, table, packed, channels, lines, t0, span, shift, *taps = args
        inner = taps[-1]
        rows = inner
        for count in taps[:-1]:
            rows = builder.mul(rows, count)
        zero = ir.Constant(vector, None)

        def line_entry(line, k):
            place = builder.add(scaled(builder, line, rank * 8), number(8 * k))
            return load(builder, builder.add(table, place), I64, 8)

        def visit(k, source, row, starts, inside):
            """Loop over the taps of outer axis k; `row` is the patch row so far."""
            if k == rank - 1:
                at = builder.add(
                    packed_line, scaled(builder, builder.mul(row, inner), g.pitch * size)
                )
                fill_line(builder, g, source, at, inside, zero, (t0, span, shift, inner))
                return
            with repeat(builder, taps[k]) as j:
                position = builder.add(starts[k], scaled(builder, j, g.hops[k]))
                good = builder.icmp_unsigned("<", position, number(g.sources[k]))
                good = good if inside is None else builder.and_(inside, good)
                stride = size
                for n in g.sources[k + 1 :]:
                    stride *= n
                below = builder.add(source, scaled(builder, position, stride))
                count = builder.add(builder.mul(row, taps[k]), j)
                visit(k + 1, below, count, starts, good)

        with repeat(builder, channels) as c, repeat(builder, lines) as line:
            where = builder.add(line_entry(line, 0), scaled(builder, c, plane))
            image = builder.add(x, scaled(builder, where, size))
            starts = [line_entry(line, 1 + k) for k in range(rank - 1)]
            packed_line = builder.add(packed, scaled(builder, line, g.width * size))
            visit(0, image, c, starts, None)

    return outlined(g.symbol, 8 + rank, body)


def fill_line(builder, g, source, target, inside, zero, runtime):
    """All taps along the last axis for one line: rows `pitch` apart from `target` on."""
    if inside is None:
        copy_line(builder, g, source, target, runtime)
        return
    with builder.if_else(inside) as (then, otherwise):
        with then:
            copy_line(builder, g, source, target, runtime)
        with otherwise, repeat(builder, runtime[-1]) as j:
            at = builder.add(target, scaled(builder, j, g.pitch * BYTES[g.code]))
            for t in range(0, g.width, LANES) if g.width <= 8 * LANES else ():
                store(builder, zero, offset(builder, at, t * BYTES[g.code]), BYTES[g.code])
            if g.width > 8 * LANES:
                with repeat(builder, -(-g.width // LANES)) as t:
                    place = builder.add(at, scaled(builder, t, LANES * BYTES[g.code]))
                    store(builder, zero, place, BYTES[g.code])


def copy_line(builder, g, source, target, runtime):
    """The part of `fill_line` for a source row that exists."""
    size, vector = BYTES[g.code], ir.VectorType(ELEMENT[g.code], LANES)
    t0, span, shift, inner = runtime

    def read(address, mask):
        if g.step == 1:
            return masked_load(builder, address, vector, mask, size)
        return masked_gather(builder, address, g.step * size, vector, mask, size)

    if g.written_out:
        for j in range(g.taps):
            first = g.shift + j * g.hops[-1]
            for t in range(0, g.width, LANES):
                good = [
                    i - t
                    for i in range(t, min(t + LANES, g.width))
                    if 0 <= i * g.step + first < g.sources[-1]
                ]
                value = ir.Constant(vector, None)
                if len(good) == LANES and g.step == 1:
                    value = load(builder, offset(builder, source, (first + t) * size), vector, size)
                elif good:
                    mask = constant_lanes(good[0], good[-1] + 1, LANES)
                    value = read(offset(builder, source, (first + t * g.step) * size), mask)
                store(builder, value, offset(builder, target, (j * g.pitch + t) * size), size)
        return
    start = builder.add(shift, scaled(builder, t0, g.step))
    with repeat(builder, inner) as j:
        first = builder.add(start, scaled(builder, j, g.hops[-1]))
        low = rounded_up(builder, builder.neg(first), g.step)
        high = rounded_up(builder, builder.sub(number(g.sources[-1]), first), g.step)
        high = least(builder, high, span)
        at = builder.add(target, scaled(builder, j, g.pitch * size))
        begin = builder.add(source, scaled(builder, first, size))
        with repeat(builder, -(-g.width // LANES)) as part:
            t = scaled(builder, part, LANES)
            before = first_lanes(builder, builder.sub(low, t), LANES)
            valid = first_lanes(builder, builder.sub(high, t), LANES)
            valid = builder.and_(valid, builder.not_(before))
            value = read(builder.add(begin, scaled(builder, t, g.step * size)), valid)
            store(builder, value, builder.add(at, scaled(builder, t, size)), size)


def rounded_up(builder, value, step):
    """ceil(max(value, 0) / step)."""
    value = builder.select(builder.icmp_signed("<", value, number(0)), number(0), value)
    if step == 1:
        return value
    return builder.sdiv(builder.add(value, number(step - 1)), number(step))
