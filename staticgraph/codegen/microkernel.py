"""Register tiles of the contraction template, emitted as explicit LLVM vector code.

A register tile keeps `rows x vectors` partial sums in vector registers and walks k once:
`C[r, :] (+)= sum_k A[r, k] * B[k, :]`. Each output element is ONE chain of fused multiply-adds
with k ascending, so its bits depend neither on the tile's size nor on its place in the matrix.
All strides are compile-time constants: shapes are static, and constant offsets let every
broadcast of A be an addressing mode instead of a pointer in a register.
"""

from dataclasses import replace

from llvmlite import ir
from numba.core import cgutils

from staticgraph.codegen.contract_ir import (
    BYTES,
    ELEMENT,
    I32,
    I64,
    constant_lanes,
    declare,
    first_lanes,
    fma,
    load,
    masked_load,
    masked_store,
    number,
    offset,
    outlined,
    prefetch,
    scaled,
    splat,
    store,
)
from staticgraph.codegen.contract_shapes import Column, Dots, Tile


def build_tile(tile: Tile, builder, args):
    """Body of one register tile (a, b, c, k, flag): sums from zero, one k loop, store or add."""
    a_start, b_start, c_start, depth, flag = args
    size, element = BYTES[tile.code], ELEMENT[tile.code]
    vector = ir.VectorType(element, tile.lanes)
    cells = [(r, v) for r in range(tile.rows) for v in range(tile.vectors)]
    places = {(r, v): (r * tile.c_row + v * tile.lanes) * size for r, v in cells}
    masks = [
        constant_lanes(0, tile.cols - v * tile.lanes, tile.lanes)
        if tile.cols < (v + 1) * tile.lanes
        else None
        for v in range(tile.vectors)
    ]
    if tile.add:
        # C comes from far away and is wanted only after the loop: ask for it now.
        for place in places.values():
            prefetch(builder, offset(builder, c_start, place))
    entry, function = builder.block, builder.function
    loop, done = function.append_basic_block("loop"), function.append_basic_block("done")
    builder.cbranch(builder.icmp_signed(">", depth, number(0)), loop, done)

    zero = ir.Constant(vector, None)
    builder.position_at_end(loop)
    k, a, b = (builder.phi(I64) for _ in range(3))
    sums = {cell: builder.phi(vector) for cell in cells}
    row_of_b = []
    for v in range(tile.vectors):
        address = offset(builder, b, v * tile.lanes * size)
        if tile.mask_b and masks[v] is not None:
            row_of_b.append(masked_load(builder, address, vector, masks[v], size))
        else:
            row_of_b.append(load(builder, address, vector, size))
    after = {}
    for r in range(tile.rows):
        scalar = load(builder, offset(builder, a, r * tile.a_row * size), element, size)
        wide = splat(builder, scalar, tile.lanes)
        for v in range(tile.vectors):
            after[r, v] = fma(builder, wide, row_of_b[v], sums[r, v], tile.fused)
    left = builder.sub(k, number(1))
    following = offset(builder, a, tile.a_k * size), offset(builder, b, tile.b_k * size)
    steps = [(k, depth, left), (a, a_start, following[0]), (b, b_start, following[1])]
    for phi, start, stepped in (*steps, *((sums[cell], zero, after[cell]) for cell in cells)):
        phi.add_incoming(start, entry)
        phi.add_incoming(stepped, loop)
    builder.cbranch(builder.icmp_signed(">", left, number(0)), loop, done)

    builder.position_at_end(done)
    results = {cell: builder.phi(vector) for cell in cells}
    for cell, phi in results.items():
        phi.add_incoming(zero, entry)
        phi.add_incoming(after[cell], loop)

    def finish(adding):
        for (r, v), value in results.items():
            address, mask = offset(builder, c_start, places[r, v]), masks[v]
            if mask is None:
                if adding:
                    value = builder.fadd(load(builder, address, vector, size), value)
                store(builder, value, address, size)
            else:
                if adding:
                    value = builder.fadd(masked_load(builder, address, vector, mask, size), value)
                masked_store(builder, value, address, mask, size)

    if not tile.add:
        finish(False)
        return
    with builder.if_else(builder.icmp_signed("!=", flag, number(0))) as (then, otherwise):
        with then:
            finish(True)
        with otherwise:
            finish(False)


def build_column(column: Column, builder, args):
    """Body of a column: (a, b, c, k, flag, taller ones, others)."""
    a, b, c, k, flag, tall, others = args
    size = BYTES[column.tile.code]
    groups = [(others, column.tile)]
    if column.taller:
        groups.insert(0, (tall, replace(column.tile, rows=column.tile.rows + 1)))
    for count, tile in groups:
        body = lambda inner, params, tile=tile: build_tile(tile, inner, params)  # noqa: E731
        step_a = tile.rows * tile.a_row * size
        step_c = tile.rows * tile.c_row * size
        function = declare(builder.module, tile.symbol, 5, body)
        with cgutils.for_range(builder, count, intp=I64) as loop:
            at_a = builder.add(a, scaled(builder, loop.index, step_a))
            at_c = builder.add(c, scaled(builder, loop.index, step_c))
            builder.call(function, [at_a, b, at_c, k, flag])
        a = builder.add(a, scaled(builder, count, step_a))
        c = builder.add(c, scaled(builder, count, step_c))


def column_of_tiles(column):
    """f(a, b, c, k, flag, taller ones, others): see `Column`."""
    return outlined(column.symbol, 7, lambda builder, args: build_column(column, builder, args))


def build_dots(dots: Dots, builder, args):
    """Body (a, b, c, k, flag): blocks of unroll x lanes products, single vectors, a masked rest."""
    a_start, b_start, c, depth, flag = args
    size, element, lanes = BYTES[dots.code], ELEMENT[dots.code], dots.lanes
    vector, function = ir.VectorType(element, lanes), builder.function
    cells = [(j, u) for j in range(dots.cols) for u in range(dots.unroll)]
    zero = ir.Constant(vector, None)

    def step(at, sums, units, mask=None):
        """The sums after products at .. at + units * lanes."""
        new, place = dict(sums), scaled(builder, at, size)
        starts = [
            a_start,
            *(offset(builder, b_start, j * dots.b_col * size) for j in range(dots.cols)),
        ]
        places = [builder.add(start, place) for start in starts]
        for u in range(units):
            got = []
            for address in places:
                at_u = offset(builder, address, u * lanes * size)
                got.append(
                    load(builder, at_u, vector, size)
                    if mask is None
                    else masked_load(builder, at_u, vector, mask, size)
                )
            for j in range(dots.cols):
                new[j, u] = fma(builder, got[0], got[1 + j], sums[j, u], dots.fused)
        return new

    def loop(begin, sums, units):
        """Take whole steps while they fit; returns where that ended and the sums."""
        before = builder.block
        head, body, after = (function.append_basic_block(n) for n in ("head", "body", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        at, phis = builder.phi(I64), {cell: builder.phi(vector) for cell in cells}
        following = offset(builder, at, units * lanes)
        builder.cbranch(builder.icmp_signed("<=", following, depth), body, after)
        builder.position_at_end(body)
        new = step(at, phis, units)
        builder.branch(head)
        steps = [(phis[cell], sums[cell], new[cell]) for cell in cells]
        for phi, start, stepped in ((at, begin, following), *steps):
            phi.add_incoming(start, before)
            phi.add_incoming(stepped, body)
        builder.position_at_end(after)
        return at, phis

    at, sums = loop(number(0), dict.fromkeys(cells, zero), dots.unroll)
    if dots.unroll > 1:
        at, sums = loop(at, sums, 1)
    sums = step(at, sums, 1, first_lanes(builder, builder.sub(depth, at), lanes))
    columns = []
    for j in range(dots.cols):
        total = sums[j, 0]
        for u in range(1, dots.unroll):
            total = builder.fadd(total, sums[j, u])
        columns.append(total)
    columns += [zero] * (lanes - dots.cols)
    reach = lanes // 2
    while reach:
        pairs = zip(columns[:reach], columns[reach:], strict=True)
        halves = [exchange(builder, x, y, reach) for x, y in pairs]
        columns = [builder.fadd(upper, lower) for upper, lower in halves]
        reach //= 2
    inside = constant_lanes(0, dots.cols, lanes)
    adding = splat(builder, builder.icmp_signed("!=", flag, number(0)), lanes)
    wanted = builder.and_(adding, inside)
    old = masked_load(builder, c, vector, wanted, size)
    value = builder.select(wanted, builder.fadd(old, columns[0]), columns[0])
    masked_store(builder, value, c, inside, size)


def exchange(builder, a, b, reach):
    """Swap the off-diagonal blocks of `reach` lanes of two vectors: one round of a transpose."""
    lanes = a.type.count
    upper = [i if not i & reach else lanes + i - reach for i in range(lanes)]
    lower = [lanes + i if i & reach else i + reach for i in range(lanes)]
    order = ir.VectorType(I32, lanes)
    return tuple(
        builder.shuffle_vector(a, b, ir.Constant(order, pattern)) for pattern in (upper, lower)
    )


def dot_products(dots):
    """f(a, b, c, k, flag), flag 0 overwrites C, otherwise C is added to: see `Dots`."""
    return outlined(dots.symbol, 5, lambda builder, args: build_dots(dots, builder, args))
