"""How lanes and scalars get to and from memory: the emitters behind `vector`'s loads and stores.

Each factory takes a type code and gives an emitter for Numba, called with the LLVM values of the
intrinsic's arguments. Addresses are int64, indices count elements. In memory a bool is a byte and a
complex number two floats.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from staticgraph.codegen import lanewise, simd
from staticgraph.codegen.simd import LANE, LANES, V
from staticgraph.codegen.veccomplex import FLOAT_OF, C

Emit = Callable[..., ir.Value]
LINE = 64


def address(b: ir.IRBuilder, base: ir.Value, index: ir.Value, code: str) -> ir.Value:
    """Pointer to element `index` of the array at address `base`."""
    cell = _cell(code)
    return b.gep(b.inttoptr(base, ir.PointerType()), [index], source_etype=cell)


def _cell(code: str) -> ir.Type:
    """How one element lies in memory: a bool takes a byte."""
    if code in FLOAT_OF:
        part = LANE[FLOAT_OF[code]].llvm
        return ir.ArrayType(part, 2)
    return ir.IntType(8) if code == "b1" else LANE[code].llvm


def _align(code: str) -> int:
    return max(1, LANE[FLOAT_OF.get(code, code)].bits // 8)


def _shuffle(b: ir.IRBuilder, one: ir.Value, two: ir.Value, order: list[int]) -> ir.Value:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
    return b.shuffle_vector(one, two, mask)


def _interleave(b: ir.IRBuilder, even: ir.Value, odd: ir.Value) -> ir.Value:
    return _shuffle(b, even, odd, [k // 2 + LANES * (k % 2) for k in range(2 * LANES)])


def _from_cells(b: ir.IRBuilder, cells: ir.Value, code: str) -> ir.Value:
    """Registers from the vector of memory cells (a complex one comes as 32 floats)."""
    if code == "b1":
        return b.icmp_unsigned("!=", cells, simd.splat_constant("u8", 0))
    if code in FLOAT_OF:
        part = FLOAT_OF[code]
        re, im = (_shuffle(b, cells, cells, list(range(k, 2 * LANES, 2))) for k in (0, 1))
        return C(V(b, re, part), V(b, im, part)).pack()
    return cells


def _to_cells(b: ir.IRBuilder, value: ir.Value, code: str) -> ir.Value:
    if code == "b1":
        return b.zext(value, LANE["u8"].vector)
    if code in FLOAT_OF:
        return _interleave(b, b.extract_value(value, 0), b.extract_value(value, 1))
    return value


def _cells_type(code: str) -> ir.VectorType:
    if code in FLOAT_OF:
        return ir.VectorType(LANE[FLOAT_OF[code]].llvm, 2 * LANES)
    return ir.VectorType(_cell(code), LANES)


def _cells_mask(b: ir.IRBuilder, mask: ir.Value, code: str) -> ir.Value:
    return _interleave(b, mask, mask) if code in FLOAT_OF else mask


def _align_constant(code: str) -> ir.Constant:
    return ir.Constant(ir.IntType(32), _align(code))


def load_vector(code: str) -> Emit:
    def emit(_, b, sig, args):
        pointer = address(b, args[0], args[1], code)
        return _from_cells(b, b.load(pointer, align=_align(code), typ=_cells_type(code)), code)

    return emit


def store_vector(code: str) -> Emit:
    def emit(context, b, sig, args):
        pointer = address(b, args[0], args[1], code)
        b.store(_to_cells(b, args[2], code), pointer, align=_align(code))
        return context.get_dummy_value()

    return emit


def store_past(code: str) -> Emit:
    """Store past the caches where whole lines are written, as usual elsewhere. What other threads
    read needs `settle` first."""

    def emit(context, b, sig, args):
        pointer, cells = address(b, args[0], args[1], code), _to_cells(b, args[2], code)
        whole = ir.IntType(64)
        beyond = b.and_(b.ptrtoint(pointer, whole), ir.Constant(whole, LINE - 1))
        with b.if_else(b.icmp_unsigned("==", beyond, ir.Constant(whole, 0)), likely=True) as (
            then,
            otherwise,
        ):
            with then:
                stored = b.store(cells, pointer, align=LINE)
                one = b.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
                stored.set_metadata("nontemporal", one)
            with otherwise:
                b.store(cells, pointer, align=_align(code))
        return context.get_dummy_value()

    return emit


def settle(context, b, sig, args):
    """Stores past the caches are in memory before what follows."""
    b.fence("seq_cst")
    return context.get_dummy_value()


def bring(write: bool) -> Callable[[str], Emit]:
    """Ask for the cache line of an element, to read or to write it soon. No address can fault."""

    def emitter(code: str) -> Emit:
        def emit(context, b, sig, args):
            pointer = address(b, args[0], args[1], code)
            near, data = 2, 1  # the second-level cache is near enough, and holds more
            options = [ir.Constant(ir.IntType(32), n) for n in (int(write), near, data)]
            simd.call(b, "llvm.prefetch.p0", ir.VoidType(), [pointer, *options])
            return context.get_dummy_value()

        return emit

    return emitter


def load_masked(code: str) -> Emit:
    def emit(_, b, sig, args):
        cells = _cells_type(code)
        pointer = address(b, args[0], args[1], code)
        mask = _cells_mask(b, args[2], code)
        zero = ir.Constant(cells, None)
        name = f"llvm.masked.load.{simd.mangled(cells)}.p0"
        got = simd.call(b, name, cells, [pointer, _align_constant(code), mask, zero])
        return _from_cells(b, got, code)

    return emit


def load_second(code: str) -> Emit:
    """Every second element: contiguous loads and a shuffle are faster than a gather."""
    part = FLOAT_OF.get(code, code)
    width = 2 if code in FLOAT_OF else 1
    cells = ir.VectorType(_cell(part), 2 * width * LANES)
    # Elements in between are not read: the one after the last may lie outside the array.
    lanes = [k // (2 * width) + LANES * (k // width % 2) for k in range(cells.count)]
    kept = [k for k in range(cells.count) if k // width % 2 == 0]

    def emit(_, b, sig, args):
        pointer = address(b, args[0], args[1], code)
        mask = _shuffle(b, args[2], ir.Constant(args[2].type, None), lanes)
        name = f"llvm.masked.load.{simd.mangled(cells)}.p0"
        zero = ir.Constant(cells, None)
        got = simd.call(b, name, cells, [pointer, _align_constant(code), mask, zero])
        return _from_cells(b, _shuffle(b, got, got, kept), code)

    return emit


def store_masked(code: str) -> Emit:
    def emit(context, b, sig, args):
        cells = _to_cells(b, args[2], code)
        pointer = address(b, args[0], args[1], code)
        mask = _cells_mask(b, args[3], code)
        name = f"llvm.masked.store.{simd.mangled(cells.type)}.p0"
        simd.call(b, name, ir.VoidType(), [cells, pointer, _align_constant(code), mask])
        return context.get_dummy_value()

    return emit


def store_packed(code: str) -> Emit:
    """The lanes of a mask, one after the other; nothing behind them is touched."""

    def emit(context, b, sig, args):
        cells = _to_cells(b, args[2], code)
        pointer = address(b, args[0], args[1], code)
        mask = _cells_mask(b, args[3], code)
        name = f"llvm.masked.compressstore.{simd.mangled(cells.type)}"
        simd.call(b, name, ir.VoidType(), [cells, pointer, mask])
        return context.get_dummy_value()

    return emit


def _pointers(b: ir.IRBuilder, base: ir.Value, index: ir.Value, code: str, part: int) -> ir.Value:
    """Sixteen element pointers; `part` 1 is the imaginary half of a complex element."""
    size = _align(code)
    stride = 2 * size if code in FLOAT_OF else size
    wide = LANE["i64"].vector
    start = b.add(base, ir.Constant(base.type, part * size)) if part else base
    offset = b.mul(index, simd.splat_constant("i64", stride)) if stride > 1 else index
    total = b.add(lanewise.broadcast(b, start, "i64"), offset)
    return b.inttoptr(total, ir.VectorType(ir.PointerType(), wide.count))


def gather(code: str) -> Emit:
    def emit(_, b, sig, args):
        base, index, mask = args
        part = FLOAT_OF.get(code, code)
        cells = ir.VectorType(_cell(part), LANES)
        name = f"llvm.masked.gather.{simd.mangled(cells)}.v{LANES}p0"

        def gather(half):
            pointers = _pointers(b, base, index, code, half)
            zero = ir.Constant(cells, None)
            return simd.call(b, name, cells, [pointers, _align_constant(code), mask, zero])

        if code in FLOAT_OF:
            return C(V(b, gather(0), part), V(b, gather(1), part)).pack()
        return _from_cells(b, gather(0), code)

    return emit


def scatter(code: str) -> Emit:
    def emit(context, b, sig, args):
        base, index, value, mask = args

        def scatter(cells, half):
            pointers = _pointers(b, base, index, code, half)
            name = f"llvm.masked.scatter.{simd.mangled(cells.type)}.v{LANES}p0"
            simd.call(b, name, ir.VoidType(), [cells, pointers, _align_constant(code), mask])

        if code in FLOAT_OF:
            scatter(b.extract_value(value, 0), 0)
            scatter(b.extract_value(value, 1), 1)
        else:
            scatter(_to_cells(b, value, code), 0)
        return context.get_dummy_value()

    return emit


def load_scalar(code: str) -> Emit:
    def emit(context, b, sig, args):
        pointer = address(b, args[0], args[1], code)
        if code in FLOAT_OF:
            number = context.make_complex(b, sig.return_type)
            pair = b.load(pointer, align=_align(code), typ=_cell(code))
            number.real, number.imag = b.extract_value(pair, 0), b.extract_value(pair, 1)
            return number._getvalue()
        got = b.load(pointer, align=_align(code), typ=_cell(code))
        return b.icmp_unsigned("!=", got, ir.Constant(got.type, 0)) if code == "b1" else got

    return emit


def store_scalar(code: str) -> Emit:
    def emit(context, b, sig, args):
        pointer = address(b, args[0], args[1], code)
        value = args[2]
        if code in FLOAT_OF:
            number = context.make_complex(b, sig.args[2], value)
            pair = ir.Constant(_cell(code), ir.Undefined)
            value = b.insert_value(b.insert_value(pair, number.real, 0), number.imag, 1)
        elif code == "b1":
            value = b.zext(value, ir.IntType(8))
        b.store(value, pointer, align=_align(code))
        return context.get_dummy_value()

    return emit
