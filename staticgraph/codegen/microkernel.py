"""Register-tile kernels of the contraction template, emitted as explicit LLVM vector code.

A register tile keeps `rows x vectors` partial sums in vector registers and walks k once:
`C[r, :] (+)= sum_k A[r, k] * B[k, :]`. Each output element is ONE chain of fused multiply-adds
with k ascending, so its bits depend neither on the tile's size nor on its place in the matrix.
All strides are compile-time constants: shapes are static, and constant offsets let every
broadcast of A be an addressing mode instead of a pointer in a register.

Python loops unrolled by LLVM would give the same arithmetic, but not a dependable register
allocation; that is why this one piece is written as IR.
"""

from dataclasses import dataclass

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

I1, I8, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
ELEMENT = {"f32": ir.FloatType(), "f64": ir.DoubleType()}
BYTES = {"f32": 4, "f64": 8}


@dataclass(frozen=True)
class Tile:
    """One register tile: its shape, the strides it is specialised for (elements), its masks.

    `cols` counts valid columns; lanes from there on are neither stored nor, with `mask_b`,
    loaded. With `add` the kernel takes a flag: 0 overwrites C, otherwise C is added to.
    """

    code: str
    rows: int
    vectors: int
    lanes: int
    a_row: int
    a_k: int
    b_k: int
    c_row: int
    cols: int
    mask_b: bool = False
    add: bool = False
    fused: bool = True

    def __post_init__(self):
        if not (self.vectors - 1) * self.lanes < self.cols <= self.vectors * self.lanes:
            raise ValueError(f"{self.cols} columns do not need {self.vectors} x {self.lanes} lanes")

    @property
    def symbol(self):
        flags = f"{int(self.mask_b)}{int(self.add)}{int(self.fused)}"
        numbers = (self.rows, self.vectors, self.lanes, self.a_row, self.a_k, self.b_k, self.c_row)
        return f"sg_tile_{self.code}_{'_'.join(map(str, numbers))}_{self.cols}_{flags}"


def declare(module, name, signature, body):
    """The internal function `name` of `module`, built by `body(builder, args)` on first use.

    Out of line on purpose: one copy per kernel keeps compile time and register pressure
    independent of how many places call it.
    """
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, signature, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    # llvmlite only knows keyword attributes; the base class's add takes the string ones.
    set.add(function.attributes, '"prefer-vector-width"="512"')
    body(ir.IRBuilder(function.append_basic_block("entry")), function.args)
    return function


def offset(builder, address, amount):
    return address if amount == 0 else builder.add(address, ir.Constant(I64, amount))


def pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


def load(builder, address, kind, align):
    out = builder.load(pointer(builder, address, kind))
    out.align = align
    return out


def store(builder, value, address, align):
    builder.store(value, pointer(builder, address, value.type)).align = align


def mask_constant(count, lanes):
    return ir.Constant(ir.VectorType(I1, lanes), [int(lane < count) for lane in range(lanes)])


def suffix(vector):
    return f"v{vector.count}f{64 if isinstance(vector.element, ir.DoubleType) else 32}"


def masked_load(builder, address, vector, mask, align):
    name = f"llvm.masked.load.{suffix(vector)}.p0"
    kinds = [vector.as_pointer(), I32, mask.type, vector]
    function = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(vector, kinds), name
    )
    zero = ir.Constant(vector, None)
    return builder.call(
        function, [pointer(builder, address, vector), ir.Constant(I32, align), mask, zero]
    )


def masked_store(builder, value, address, mask, align):
    name = f"llvm.masked.store.{suffix(value.type)}.p0"
    kinds = [value.type, value.type.as_pointer(), I32, mask.type]
    function = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(ir.VoidType(), kinds), name
    )
    target = pointer(builder, address, value.type)
    builder.call(function, [value, target, ir.Constant(I32, align), mask])


def prefetch(builder, address):
    """Ask for a cache line that will be written soon."""
    name, byte = "llvm.prefetch.p0", I8.as_pointer()
    function = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32]), name
    )
    hints = [ir.Constant(I32, hint) for hint in (1, 3, 1)]
    builder.call(function, [builder.inttoptr(address, byte), *hints])


def fma(builder, a, b, c, fused):
    """a * b + c with one rounding where the target has the instruction."""
    if not fused:
        return builder.fadd(builder.fmul(a, b), c)
    name = f"llvm.fma.{suffix(a.type)}"
    function = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(a.type, [a.type] * 3), name
    )
    return builder.call(function, [a, b, c])


def splat(builder, value, lanes):
    kind = ir.VectorType(value.type, lanes)
    undef = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undef, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undef, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def build_tile(tile, builder, args):
    """Body of one register tile: zero the sums, one k loop, store or add to C."""
    a_start, b_start, c_start, depth = args[:4]
    size, element = BYTES[tile.code], ELEMENT[tile.code]
    vector = ir.VectorType(element, tile.lanes)
    if tile.add:
        # C comes from far away and is wanted only after the loop: ask for it now.
        for r in range(tile.rows):
            for v in range(0, tile.vectors * tile.lanes * size, 64):
                prefetch(builder, offset(builder, c_start, r * tile.c_row * size + v))
    entry, function = builder.block, builder.function
    loop, done = function.append_basic_block("loop"), function.append_basic_block("done")
    some = builder.icmp_signed(">", depth, ir.Constant(I64, 0))
    builder.cbranch(some, loop, done)

    zero = ir.Constant(vector, None)
    masks = [
        mask_constant(tile.cols - v * tile.lanes, tile.lanes) if tile.cols < (v + 1) * tile.lanes
        else None
        for v in range(tile.vectors)
    ]
    cells = [(r, v) for r in range(tile.rows) for v in range(tile.vectors)]

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
    following = builder.sub(k, ir.Constant(I64, 1))
    steps = [(k, depth, following), (a, a_start, offset(builder, a, tile.a_k * size)),
             (b, b_start, offset(builder, b, tile.b_k * size))]
    for phi, start, stepped in steps:
        phi.add_incoming(start, entry)
        phi.add_incoming(stepped, loop)
    for cell in cells:
        sums[cell].add_incoming(zero, entry)
        sums[cell].add_incoming(after[cell], loop)
    builder.cbranch(builder.icmp_signed(">", following, ir.Constant(I64, 0)), loop, done)

    builder.position_at_end(done)
    results = {}
    for cell in cells:
        results[cell] = builder.phi(vector)
        results[cell].add_incoming(zero, entry)
        results[cell].add_incoming(after[cell], loop)

    def finish(adding):
        for r, v in cells:
            address = offset(builder, c_start, (r * tile.c_row + v * tile.lanes) * size)
            value, mask = results[r, v], masks[v]
            if mask is None:
                if adding:
                    value = builder.fadd(load(builder, address, vector, size), value)
                store(builder, value, address, size)
            else:
                if adding:
                    old = masked_load(builder, address, vector, mask, size)
                    value = builder.fadd(old, value)
                masked_store(builder, value, address, mask, size)
        builder.ret_void()

    if tile.add:
        adding = builder.icmp_signed("!=", args[4], ir.Constant(I64, 0))
        yes, no = function.append_basic_block("add"), function.append_basic_block("set")
        builder.cbranch(adding, yes, no)
        builder.position_at_end(yes)
        finish(True)
        builder.position_at_end(no)
    finish(False)


def register_tile(tile):
    """The intrinsic of a `Tile`: call it as f(a, b, c, k) or, with `add`, f(a, b, c, k, flag)."""
    count = 5 if tile.add else 4
    shape = ir.FunctionType(ir.VoidType(), [I64] * count)

    def codegen(context, builder, signature, args):
        function = declare(
            builder.module, tile.symbol, shape, lambda inner, params: build_tile(tile, inner, params)
        )
        builder.call(function, args)
        return context.get_dummy_value()

    result = types.void(*[types.int64] * count)
    if tile.add:

        @intrinsic
        def kernel(typing, a, b, c, k, flag):
            return result, codegen
    else:

        @intrinsic
        def kernel(typing, a, b, c, k):
            return result, codegen

    return kernel


def build_transpose(code, lanes, builder, args):
    """dst[c, r] = src[r, c] of one lanes x lanes block; rows and columns outside count as zero.

    log2(lanes) rounds exchange off-diagonal blocks of 1, 2, 4, ... lanes, which are two-register
    shuffles. All lanes x lanes results are stored.
    """
    src, src_row, dst, dst_row, rows, cols = args
    size, vector = BYTES[code], ir.VectorType(ELEMENT[code], lanes)
    function = builder.function
    whole, part, work = (function.append_basic_block(n) for n in ("whole", "part", "work"))
    full = ir.Constant(I64, lanes)
    both = builder.and_(builder.icmp_signed(">=", rows, full), builder.icmp_signed(">=", cols, full))
    builder.cbranch(both, whole, part)
    addresses = {}
    for block in (whole, part):
        builder.position_at_end(block)
        addresses[block] = [
            builder.add(src, builder.mul(src_row, ir.Constant(I64, r))) for r in range(lanes)
        ]
    builder.position_at_end(whole)
    direct = [load(builder, address, vector, size) for address in addresses[whole]]
    builder.branch(work)
    builder.position_at_end(part)
    count = ir.Constant(ir.VectorType(I64, lanes), list(range(lanes)))
    inside = builder.icmp_signed("<", count, splat(builder, cols, lanes))
    none = ir.Constant(inside.type, None)
    masked = []
    for r, address in enumerate(addresses[part]):
        valid = builder.icmp_signed("<", ir.Constant(I64, r), rows)
        mask = builder.select(valid, inside, none)
        masked.append(masked_load(builder, address, vector, mask, size))
    builder.branch(work)
    builder.position_at_end(work)
    block = []
    for one, other in zip(direct, masked, strict=True):
        phi = builder.phi(vector)
        phi.add_incoming(one, whole)
        phi.add_incoming(other, part)
        block.append(phi)
    reach = 1
    while reach < lanes:
        upper = [i if not i & reach else lanes + i - reach for i in range(lanes)]
        lower = [lanes + i if i & reach else i + reach for i in range(lanes)]
        order = ir.VectorType(I32, lanes)
        for r in range(lanes):
            if not r & reach:
                a, b = block[r], block[r + reach]
                block[r] = builder.shuffle_vector(a, b, ir.Constant(order, upper))
                block[r + reach] = builder.shuffle_vector(a, b, ir.Constant(order, lower))
        reach *= 2
    for r, value in enumerate(block):
        store(builder, value, builder.add(dst, builder.mul(dst_row, ir.Constant(I64, r))), size)
    builder.ret_void()


def transposer(code, lanes):
    """f(src, src_row, dst, dst_row, rows, cols), strides in bytes: see `build_transpose`."""
    shape = ir.FunctionType(ir.VoidType(), [I64] * 6)

    def codegen(context, builder, signature, args):
        function = declare(
            builder.module,
            f"sg_transpose_{code}_{lanes}",
            shape,
            lambda inner, params: build_transpose(code, lanes, inner, params),
        )
        builder.call(function, args)
        return context.get_dummy_value()

    @intrinsic
    def kernel(typing, src, src_row, dst, dst_row, rows, cols):
        return types.void(*[types.int64] * 6), codegen

    return kernel


@dataclass(frozen=True)
class Dots:
    """`cols` dot products at once: C[j] (+)= sum_k A[k] B[k, j], k contiguous in both operands.

    Lane l of a sum takes the products with k = l modulo the lanes, in ascending order; the lanes
    are then added as a fixed tree, in one pass for all columns.
    """

    code: str
    cols: int
    lanes: int
    b_col: int
    fused: bool

    @property
    def unroll(self):
        """Sums per column: enough independent chains to hide the latency of one."""
        return max(1, 8 // self.cols)


def build_dots(dots, builder, args):
    """Body of `Dots`: blocks of unroll x lanes products, then single vectors, then a masked rest."""
    a_start, b_start, c, depth, flag = args
    size, element, lanes = BYTES[dots.code], ELEMENT[dots.code], dots.lanes
    vector, function = ir.VectorType(element, lanes), builder.function
    cells = [(j, u) for j in range(dots.cols) for u in range(dots.unroll)]
    zero = ir.Constant(vector, None)

    def step(at, sums, units, mask):
        """The sums after products at..at + units * lanes."""
        new = dict(sums)
        place = builder.mul(at, ir.Constant(I64, size))
        for u in range(units):
            shift = u * lanes * size
            fetch = [builder.add(a_start, place)]
            fetch += [builder.add(offset(builder, b_start, j * dots.b_col * size), place)
                      for j in range(dots.cols)]  # fmt: skip
            got = [
                load(builder, offset(builder, address, shift), vector, size) if mask is None
                else masked_load(builder, address, vector, mask, size)
                for address in fetch
            ]
            for j in range(dots.cols):
                new[j, u] = fma(builder, got[0], got[1 + j], sums[j, u], dots.fused)
        return new

    def loop(name, begin, sums, units):
        """Take whole steps while they fit; returns where it stopped and the sums."""
        before = builder.block
        head, body, after = (function.append_basic_block(f"{name}_{n}") for n in ("head", "body", "end"))
        builder.branch(head)
        builder.position_at_end(head)
        at = builder.phi(I64)
        phis = {cell: builder.phi(vector) for cell in cells}
        following = builder.add(at, ir.Constant(I64, units * lanes))
        builder.cbranch(builder.icmp_signed("<=", following, depth), body, after)
        builder.position_at_end(body)
        new = step(at, phis, units, None)
        builder.branch(head)
        for phi, start, stepped in ((at, begin, following), *((phis[x], sums[x], new[x]) for x in cells)):
            phi.add_incoming(start, before)
            phi.add_incoming(stepped, body)
        builder.position_at_end(after)
        return at, phis

    at, sums = loop("wide", ir.Constant(I64, 0), dict.fromkeys(cells, zero), dots.unroll)
    if dots.unroll > 1:
        at, sums = loop("single", at, sums, 1)
    left = builder.sub(depth, at)
    lane = ir.Constant(ir.VectorType(I64, lanes), list(range(lanes)))
    mask = builder.icmp_signed("<", lane, splat(builder, left, lanes))
    sums = step(at, sums, 1, mask)
    columns = []
    for j in range(dots.cols):
        total = sums[j, 0]
        for u in range(1, dots.unroll):
            total = builder.fadd(total, sums[j, u])
        columns.append(total)
    columns += [zero] * (lanes - dots.cols)
    reach = lanes // 2
    while reach:
        upper = [i if not i & reach else lanes + i - reach for i in range(lanes)]
        lower = [lanes + i if i & reach else i + reach for i in range(lanes)]
        order = ir.VectorType(I32, lanes)
        columns = [
            builder.fadd(builder.shuffle_vector(x, y, ir.Constant(order, upper)),
                         builder.shuffle_vector(x, y, ir.Constant(order, lower)))
            for x, y in zip(columns[:reach], columns[reach:], strict=True)
        ]  # fmt: skip
        reach //= 2
    inside = mask_constant(dots.cols, lanes)
    adding = splat(builder, builder.icmp_signed("!=", flag, ir.Constant(I64, 0)), lanes)
    wanted = builder.and_(adding, inside)
    old = masked_load(builder, c, vector, wanted, size)
    value = builder.select(wanted, builder.fadd(old, columns[0]), columns[0])
    masked_store(builder, value, c, inside, size)
    builder.ret_void()


def dot_products(dots):
    """The intrinsic of `Dots`: f(a, b, c, k, flag); flag 0 overwrites C, otherwise it is added to."""
    name = f"sg_dots_{dots.code}_{dots.cols}_{dots.lanes}_{dots.b_col}_{int(dots.fused)}"
    shape = ir.FunctionType(ir.VoidType(), [I64] * 5)

    def codegen(context, builder, signature, args):
        function = declare(
            builder.module, name, shape, lambda inner, params: build_dots(dots, inner, params)
        )
        builder.call(function, args)
        return context.get_dummy_value()

    @intrinsic
    def kernel(typing, a, b, c, k, flag):
        return types.void(*[types.int64] * 5), codegen

    return kernel
