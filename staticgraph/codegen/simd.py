"""Values of sixteen lanes inside an LLVM function, with Python's operators.

The intrinsics of `vector` and the algorithms of `vecmath` are written on `V`, so that they read
like the formulas they are. A `V` is an LLVM value, the builder that emits after it and a type code;
every operator emits exactly the instructions named here: no fast-math flag, no contraction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from llvmlite import ir

LANES = 16


class Lane(NamedTuple):
    """What one lane holds. `kind` is one of b (bool), i, u (integers), f (float)."""

    code: str
    kind: str
    bits: int
    llvm: ir.Type
    vector: ir.Type


def _lane(code: str, scalar: ir.Type) -> Lane:
    return Lane(code, code[0], int(code[1:]), scalar, ir.VectorType(scalar, LANES))


LANE = {
    lane.code: lane
    for lane in (
        _lane("b1", ir.IntType(1)),
        *(_lane(f"{sign}{bits}", ir.IntType(bits)) for sign in "iu" for bits in (8, 16, 32, 64)),
        _lane("f32", ir.FloatType()),
        _lane("f64", ir.DoubleType()),
    )
}
MANTISSA = {"f32": 23, "f64": 52}
BIAS = {"f32": 127, "f64": 1023}


class Splat(ir.Constant):
    """A constant with the same value in every lane, printed short (a sixteenth of the text)."""

    def __init__(self, vector: ir.VectorType, scalar: ir.Constant):
        super().__init__(vector, [scalar] * vector.count)
        self.scalar = scalar

    def _get_reference(self) -> str:
        return f"splat ({self.scalar})"


def splat_constant(code: str, value: int | float | bool) -> ir.Constant:
    lane = LANE[code]
    if lane.kind == "f":
        value = float(value)
    elif lane.kind == "b":
        value = bool(value)
    else:
        value = int(value) & ((1 << lane.bits) - 1)
    return Splat(lane.vector, ir.Constant(lane.llvm, value))


def mangled(typ: ir.Type) -> str:
    """The suffix of an overloaded LLVM intrinsic for this type."""
    if isinstance(typ, ir.VectorType):
        return f"v{typ.count}{mangled(typ.element)}"
    if isinstance(typ, ir.PointerType):
        return "p0"
    return typ.intrinsic_name


def call(b: ir.IRBuilder, name: str, ret: ir.Type, args: list[ir.Value]) -> ir.Value:
    """Call the function `name`, declared on first use."""
    callee = b.module.globals.get(name)
    if callee is None:
        callee = ir.Function(b.module, ir.FunctionType(ret, [a.type for a in args]), name)
    return b.call(callee, args)


class V:
    """Sixteen lanes of one type code."""

    __slots__ = ("b", "code", "v")

    def __init__(self, b: ir.IRBuilder, v: ir.Value, code: str):
        self.b = b
        self.v = v
        self.code = code

    # -- construction ---------------------------------------------------------------------------
    @property
    def lane(self) -> Lane:
        return LANE[self.code]

    @property
    def kind(self) -> str:
        return self.code[0]

    def like(self, v: ir.Value) -> V:
        return V(self.b, v, self.code)

    def const(self, value: int | float | bool) -> V:
        """A constant of this value's own type."""
        return self.like(splat_constant(self.code, value))

    def _operand(self, other: V | int | float) -> V:
        return other if isinstance(other, V) else self.const(other)

    def _emit(self, emit: str, other: V | int | float) -> V:
        other = self._operand(other)
        if other.code != self.code:
            raise TypeError(f"operands of different lanes: {self.code} and {other.code}")
        return self.like(getattr(self.b, emit)(self.v, other.v))

    def bits(self, code: str) -> V:
        """The same bits, read as another type of the same width."""
        if self.lane.llvm == LANE[code].llvm:
            return V(self.b, self.v, code)
        return V(self.b, self.b.bitcast(self.v, LANE[code].vector), code)

    @property
    def int_code(self) -> str:
        return f"i{self.lane.bits}"

    def as_int(self) -> V:
        return self.bits(self.int_code)

    def as_float(self) -> V:
        return self.bits(f"f{self.lane.bits}")

    # -- arithmetic -----------------------------------------------------------------------------
    def __add__(self, other):
        return self._emit({"f": "fadd", "b": "or_"}.get(self.kind, "add"), other)

    def __sub__(self, other):
        return self._emit("fsub" if self.kind == "f" else "sub", other)

    def __mul__(self, other):
        return self._emit({"f": "fmul", "b": "and_"}.get(self.kind, "mul"), other)

    def __truediv__(self, other):
        return self._emit("fdiv", other)

    def __radd__(self, other):
        return self._operand(other) + self

    def __rsub__(self, other):
        return self._operand(other) - self

    def __rmul__(self, other):
        return self._operand(other) * self

    def __rtruediv__(self, other):
        return self._operand(other) / self

    def __neg__(self):
        return self.like(self.b.fneg(self.v)) if self.kind == "f" else self.const(0) - self

    def __and__(self, other):
        return self._emit("and_", other)

    def __or__(self, other):
        return self._emit("or_", other)

    def __xor__(self, other):
        return self._emit("xor", other)

    def __invert__(self):
        return self ^ self.const(True if self.kind == "b" else -1)

    def __lshift__(self, other):
        return self._emit("shl", other)

    def __rshift__(self, other):
        return self._emit("ashr" if self.kind == "i" else "lshr", other)

    # -- comparisons: ordered, except != (as in C and NumPy) -------------------------------------
    def _compare(self, op: str, other: V | int | float) -> V:
        other = self._operand(other)
        if self.kind == "f":
            emit = self.b.fcmp_unordered if op == "!=" else self.b.fcmp_ordered
        else:
            emit = self.b.icmp_signed if self.kind == "i" else self.b.icmp_unsigned
        return V(self.b, emit(op, self.v, other.v), "b1")

    def __lt__(self, other):
        return self._compare("<", other)

    def __le__(self, other):
        return self._compare("<=", other)

    def __gt__(self, other):
        return self._compare(">", other)

    def __ge__(self, other):
        return self._compare(">=", other)

    def eq(self, other) -> V:
        return self._compare("==", other)

    def ne(self, other) -> V:
        return self._compare("!=", other)

    def isnan(self) -> V:
        if self.kind != "f":
            return V(self.b, splat_constant("b1", False), "b1")
        return V(self.b, self.b.fcmp_unordered("uno", self.v, self.v), "b1")

    # -- functions that are one instruction -----------------------------------------------------
    def intrinsic(self, name: str, *others: V) -> V:
        args = [self.v, *(o.v for o in others)]
        full = f"llvm.{name}.{mangled(self.v.type)}"
        return self.like(call(self.b, full, self.v.type, args))

    def fma(self, mul: V | float, add: V | float) -> V:
        """self * mul + add with one rounding."""
        return self.intrinsic("fma", self._operand(mul), self._operand(add))

    def abs(self) -> V:
        if self.kind == "f":
            return self.intrinsic("fabs")
        if self.kind == "i":
            return select(self < 0, -self, self)
        return self

    def sqrt(self) -> V:
        return self.intrinsic("sqrt")

    def rint(self) -> V:
        return self.intrinsic("rint")

    def floor(self) -> V:
        return self.intrinsic("floor")

    def trunc(self) -> V:
        return self.intrinsic("trunc")

    def copysign(self, sign: V | float) -> V:
        return self.intrinsic("copysign", self._operand(sign))

    def sign_bit(self) -> V:
        """The lanes whose sign bit is set (-0.0 and -nan too)."""
        if self.kind == "f":
            return self.as_int() < 0
        return self < 0 if self.kind == "i" else V(self.b, splat_constant("b1", False), "b1")

    def any(self) -> ir.Value:
        """One bit: does any lane of this mask hold?"""
        word = self.b.bitcast(self.v, ir.IntType(LANES))
        return self.b.icmp_unsigned("!=", word, ir.Constant(word.type, 0))

    # -- conversions that are one instruction and cannot be poison by the caller's promise --------
    def to_int(self, code: str | None = None) -> V:
        """Truncation toward zero; the value must fit."""
        code = code or self.int_code
        emit = self.b.fptosi if code[0] == "i" else self.b.fptoui
        return V(self.b, emit(self.v, LANE[code].vector), code)

    def to_float(self, code: str | None = None) -> V:
        code = code or f"f{self.lane.bits}"
        emit = self.b.sitofp if self.kind == "i" else self.b.uitofp
        return V(self.b, emit(self.v, LANE[code].vector), code)


def select(mask: V, yes: V | float, no: V | float) -> V:
    if not isinstance(yes, V):
        yes = no.const(yes)
    no = yes._operand(no)
    return yes.like(mask.b.select(mask.v, yes.v, no.v))


def maximum(a: V, b: V) -> V:
    """The larger one; nan if either is nan."""
    if a.kind == "b":
        return a | b
    larger = select(a > b, a, b)
    return select(a.isnan(), a, larger) if a.kind == "f" else larger


def minimum(a: V, b: V) -> V:
    """The smaller one; nan if either is nan."""
    if a.kind == "b":
        return a & b
    smaller = select(a < b, a, b)
    return select(a.isnan(), a, smaller) if a.kind == "f" else smaller


def cast(x: V, code: str) -> V:
    """`numpy.astype` on x86, defined for every input.

    A float outside the range of the integer gives what the conversion instructions give: the
    integer of smallest value, cut to the target's width; unsigned ones first fold their upper half.
    """
    b, source, target = x.b, x.lane, LANE[code]
    if source.code == code:
        return x
    if target.kind == "b":
        return x.ne(0)
    if target.kind == "f":
        if source.kind == "f":
            emit = b.fpext if target.bits > source.bits else b.fptrunc
            return V(b, emit(x.v, target.vector), code)
        return x.to_float(code)
    if source.kind == "f":
        wide = 64 if target.bits == 64 else 32
        half = 2.0 ** (wide - 1)
        folded = x
        if target.kind == "u" and target.bits == wide:
            upper = x >= half
            folded = select(upper, x - half, x)
        fits = (folded >= -half) & (folded < half)
        whole = select(fits, folded, 0.0).to_int(f"i{wide}")
        whole = select(fits, whole, -(1 << (wide - 1)))
        if folded is not x:
            whole = whole ^ select(upper, whole.const(-(1 << (wide - 1))), 0)
        return cast(whole.bits(f"{target.kind}{wide}"), code)
    if source.bits == target.bits:
        return V(b, x.v, code)
    if source.bits > target.bits:
        return V(b, b.trunc(x.v, target.vector), code)
    emit = b.sext if source.kind == "i" else b.zext
    return V(b, emit(x.v, target.vector), code)


def rarely(mask: V, compute: Callable[[], list[V]], usual: list[V]) -> list[V]:
    """`usual` with the lanes of `mask` taken from `compute()`, which runs only if there are any."""
    b = mask.b
    entry = b.block
    rare, done = b.append_basic_block("rare"), b.append_basic_block("usual")
    b.cbranch(mask.any(), rare, done).set_weights([1, 1 << 20])
    b.position_at_end(rare)
    repaired = [select(mask, new, old) for new, old in zip(compute(), usual, strict=True)]
    leaves = b.block
    b.branch(done)
    b.position_at_end(done)
    merged = []
    for new, old in zip(repaired, usual, strict=True):
        phi = b.phi(old.v.type)
        phi.add_incoming(old.v, entry)
        phi.add_incoming(new.v, leaves)
        merged.append(old.like(phi))
    return merged


# A function of more instructions than this is called where it is used more than once.
_LONG = 45


def call_once_emitted(name: str, body: Callable[..., V], args: Sequence[V]) -> V:
    """body(*args) as a private function of the module, written at its first use.

    A single use is inlined, and so is a short function; copies of a long one would cost compile
    time without making the loop faster.
    """
    b = args[0].b
    symbol = f"staticgraph.{name}.{args[0].code}"
    fn = b.module.globals.get(symbol)
    if fn is None:
        vector = args[0].lane.vector
        fn = ir.Function(b.module, ir.FunctionType(vector, [vector] * len(args)), symbol)
        fn.linkage = "internal"
        fn.attributes.add("nounwind")
        inner = ir.IRBuilder(fn.append_basic_block("entry"))
        result = body(*(V(inner, v, a.code) for v, a in zip(fn.args, args, strict=True)))
        inner.ret(result.v)
    elif sum(len(block.instructions) for block in fn.blocks) > _LONG:
        fn.attributes.add("noinline")
    return args[0].like(b.call(fn, [a.v for a in args]))
