"""Complex lanes: a pair of float vectors and its arithmetic (functions: `vecmath_complex`)."""

from __future__ import annotations

from llvmlite import ir

from staticgraph.codegen.simd import LANE, V, select

FLOAT_OF = {"c64": "f32", "c128": "f64"}
COMPLEX_OF = {"f32": "c64", "f64": "c128"}


def pair_type(code: str) -> ir.LiteralStructType:
    """How an LLVM value of sixteen complex lanes is typed."""
    part = LANE[FLOAT_OF[code]].vector
    return ir.LiteralStructType([part, part])


class C:
    """Sixteen complex lanes."""

    __slots__ = ("im", "re")

    def __init__(self, re: V, im: V):
        self.re = re
        self.im = im

    @property
    def code(self) -> str:
        return COMPLEX_OF[self.re.code]

    @classmethod
    def unpack(cls, b: ir.IRBuilder, value: ir.Value, code: str) -> C:
        part = FLOAT_OF[code]
        return cls(V(b, b.extract_value(value, 0), part), V(b, b.extract_value(value, 1), part))

    def pack(self) -> ir.Value:
        b = self.re.b
        value = ir.Constant(pair_type(self.code), ir.Undefined)
        return b.insert_value(b.insert_value(value, self.re.v, 0), self.im.v, 1)

    def __add__(self, other: C) -> C:
        return C(self.re + other.re, self.im + other.im)

    def __sub__(self, other: C) -> C:
        return C(self.re - other.re, self.im - other.im)

    def __mul__(self, other: C) -> C:
        return C(
            self.re * other.re - self.im * other.im,
            self.re * other.im + self.im * other.re,
        )

    def __truediv__(self, other: C) -> C:
        """Smith's algorithm, as NumPy: no overflow of the squared modulus."""
        tall = other.im.abs() > other.re.abs()
        big, small = select(tall, other.im, other.re), select(tall, other.re, other.im)
        zero = big.eq(0.0)
        ratio = select(zero, 0.0, small / big)
        scale = 1.0 / (big + small * ratio)
        re, im = select(tall, self.im, self.re), select(tall, self.re, self.im)
        quotient_im = im - re * ratio
        return C(
            (re + im * ratio) * scale,
            select(tall, -quotient_im, quotient_im) * scale,
        )

    def __neg__(self) -> C:
        return C(-self.re, -self.im)

    def eq(self, other: C) -> V:
        return self.re.eq(other.re) & self.im.eq(other.im)

    def ne(self, other: C) -> V:
        return self.re.ne(other.re) | self.im.ne(other.im)

    def isnan(self) -> V:
        return self.re.isnan() | self.im.isnan()


def select_complex(mask: V, yes: C, no: C) -> C:
    return C(select(mask, yes.re, no.re), select(mask, yes.im, no.im))
