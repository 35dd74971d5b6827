"""What the functions that contraction kernels call are written with: LLVM code on int64 addresses.

These functions stay out of line and are emitted once per kernel module. They are LLVM code rather
than Python source for two reasons: registers are allocated as written here, and one such call costs
Numba far less compile time than the loops it stands for.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

I1, I8, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
ELEMENT = {"f32": ir.FloatType(), "f64": ir.DoubleType()}
BYTES = {"f32": 4, "f64": 8}


def outlined(symbol, arity, body):
    """An intrinsic of `arity` int64s that calls the internal function `symbol`, which
    `body(builder, args)` fills where a module needs it first."""
    names = ", ".join(f"p{k}" for k in range(arity))
    result = types.void(*[types.int64] * arity)

    def codegen(context, builder, signature, args):
        builder.call(declare(builder.module, symbol, arity, body), args)
        return context.get_dummy_value()

    scope = {"rule": (result, codegen)}
    exec(f"def function(typing_context, {names}):\n    return rule", scope)
    return intrinsic(scope["function"])


def declare(module, symbol, arity, body):
    """The function `symbol` of `module`, built on first use."""
    if symbol in module.globals:
        return module.globals[symbol]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * arity), symbol)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    # llvmlite only knows keyword attributes; the base class's add takes the string ones.
    set.add(function.attributes, '"prefer-vector-width"="512"')
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    body(builder, function.args)
    builder.ret_void()
    return function


def number(value):
    return ir.Constant(I64, value)


def offset(builder, address, amount):
    """address + amount bytes; `amount` is an int or an LLVM value."""
    if isinstance(amount, int):
        return address if amount == 0 else builder.add(address, number(amount))
    return builder.add(address, amount)


def scaled(builder, value, factor):
    return value if factor == 1 else builder.mul(value, number(factor))


def repeat(builder, count):
    """`with repeat(builder, count) as index:` loops over 0 .. count - 1."""
    return _Repeat(builder, number(count) if isinstance(count, int) else count)


class _Repeat:
    """cgutils.for_range, giving the index itself."""

    def __init__(self, builder, count):
        self.context = cgutils.for_range(builder, count, intp=I64)

    def __enter__(self):
        return self.context.__enter__().index

    def __exit__(self, *error):
        return self.context.__exit__(*error)


def pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


def load(builder, address, kind, align):
    out = builder.load(pointer(builder, address, kind))
    out.align = align
    return out


def store(builder, value, address, align):
    builder.store(value, pointer(builder, address, value.type)).align = align


def least(builder, a, b):
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def first_lanes(builder, count, lanes):
    """The mask lane < count."""
    low, high = number(0), number(lanes)
    count = builder.select(builder.icmp_signed("<", count, low), low, least(builder, count, high))
    index = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
    return builder.icmp_signed("<", index, splat(builder, builder.trunc(count, I32), lanes))


def constant_lanes(first, last, lanes):
    """The constant mask first <= lane < last."""
    return ir.Constant(ir.VectorType(I1, lanes), [int(first <= k < last) for k in range(lanes)])


def splat(builder, value, lanes):
    kind = ir.VectorType(value.type, lanes)
    undef = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undef, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undef, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def suffix(vector):
    bits = 64 if isinstance(vector.element, ir.DoubleType) else 32
    return f"v{vector.count}f{bits}"


def intrinsic_call(builder, name, result, args):
    """Call the LLVM intrinsic `name`, declared on first use."""
    function = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(result, [a.type for a in args]), name
    )
    return builder.call(function, args)


def masked_load(builder, address, vector, mask, align):
    args = [
        pointer(builder, address, vector),
        ir.Constant(I32, align),
        mask,
        ir.Constant(vector, None),
    ]
    return intrinsic_call(builder, f"llvm.masked.load.{suffix(vector)}.p0", vector, args)


def masked_store(builder, value, address, mask, align):
    args = [value, pointer(builder, address, value.type), ir.Constant(I32, align), mask]
    intrinsic_call(builder, f"llvm.masked.store.{suffix(value.type)}.p0", ir.VoidType(), args)


def masked_gather(builder, address, stride, vector, mask, align):
    """Lanes from address + lane * stride bytes."""
    steps = ir.Constant(ir.VectorType(I64, vector.count), [k * stride for k in range(vector.count)])
    places = builder.add(splat(builder, address, vector.count), steps)
    targets = builder.inttoptr(places, ir.VectorType(vector.element.as_pointer(), vector.count))
    args = [targets, ir.Constant(I32, align), mask, ir.Constant(vector, None)]
    name = f"llvm.masked.gather.{suffix(vector)}.v{vector.count}p0"
    return intrinsic_call(builder, name, vector, args)


def prefetch(builder, address):
    """Ask for a cache line that will be written soon."""
    hints = [ir.Constant(I32, hint) for hint in (1, 3, 1)]
    args = [builder.inttoptr(address, I8.as_pointer()), *hints]
    intrinsic_call(builder, "llvm.prefetch.p0", ir.VoidType(), args)


def fma(builder, a, b, c, fused):
    """a * b + c, with one rounding where the target has the instruction."""
    if not fused:
        return builder.fadd(builder.fmul(a, b), c)
    return intrinsic_call(builder, f"llvm.fma.{suffix(a.type)}", a.type, [a, b, c])
