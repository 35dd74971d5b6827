"""Numbers as unsigned integers of the same order, and sorting those by digits.

An element to be sorted is a *word*: an int64 with the key in its upper half and the index in its
lower half, so that words are all different and their order is the stable one. Keys of 64 bits have
their indices in an array of their own behind that of the keys.

Floats become integers by their bits: those of negative numbers are inverted, of others the sign is.
-0.0 is 0.0 and every nan is the same, the largest number; where it matters which one it was, it is
read again through the index. For a descending order all bits are inverted.
"""

from __future__ import annotations

from staticgraph.byhand.source import Source
from staticgraph.codegen.spec import literal
from staticgraph.types import ITEMSIZE, SHORT

#: up to so many words are ranked by counting the smaller ones, sixteen at a time
RANKED = 96
#: values of a digit; more of them would miss the first-level cache
RADIX, DIGIT = 256, 8


class Words:
    """The words of an array of `dtype`, of which one sort sees at most `n`."""

    def __init__(self, dtype: str, n: int, *, descending: bool):
        self.dtype, self.descending = dtype, descending
        self.bits = 8 * ITEMSIZE[dtype]
        self.code = f"i{self.bits}"
        self.wide = self.bits == 64 or n > 1 << 32
        self.room = -(-n // 16) * 16
        self.floating = dtype.startswith("float")
        self.digits = self.bits // DIGIT
        #: the lowest bit of the key in a word
        self.base = 0 if self.wide else 32
        #: bytes of one array of words
        self.nbytes = self.room * 8 * (2 if self.wide else 1)

    # -- keys -------------------------------------------------------------------------------------

    def _const(self, value: int) -> str:
        return f"splat_{self.code}({literal(value)})"

    @property
    def _lowest(self) -> int:
        return -(1 << (self.bits - 1))

    def encode(self, s: Source, d: int) -> None:
        """Vector `key` of unsigned order from the vector `raw` of the elements' bits."""
        low = self._const(self._lowest)
        if self.floating:
            exponent = 0x7F800000 if self.bits == 32 else 0x7FF0000000000000
            s.emit(d, f"raw = select(raw == {low}, {self._const(0)}, raw)")
            s.emit(d, f"key = raw ^ ((raw >> {self._const(self.bits - 1)}) | {low})")
            magnitude = f"(raw & {self._const(-1 - self._lowest)})"
            s.emit(
                d, f"key = select({magnitude} > {self._const(exponent)}, {self._const(-1)}, key)"
            )
        elif SHORT[self.dtype][0] == "i":
            s.emit(d, f"key = raw ^ {low}")
        else:
            s.emit(d, "key = raw")
        if self.descending:
            s.emit(d, "key = ~key")

    def decode(self, s: Source, d: int, x: str, where: str) -> None:
        """Vector `raw` from `key`; `where` is the vector of the elements' indices from `x` on."""
        low = self._const(self._lowest)
        if self.descending:
            s.emit(d, "key = ~key")
        if self.floating:
            s.emit(d, f"raw = key ^ ((~key >> {self._const(self.bits - 1)}) | {low})")
            s.emit(d, f"m2 = (key == {low}) | (key == {self._const(-1)})")
            s.emit(d, "if count(m2) > 0:")
            s.emit(d + 1, f"raw = select(m2, vgather_{self.code}({x}, {where}, m & m2), raw)")
        elif SHORT[self.dtype][0] == "i":
            s.emit(d, f"raw = key ^ {low}")
        else:
            s.emit(d, "raw = key")

    # -- words ------------------------------------------------------------------------------------

    def pack(self, s: Source, d: int, at: str, index: str) -> None:
        """Store sixteen words at place `at` of `a` from `key` and the vector `index`.

        Lanes outside of the mask `m` become the largest words.
        """
        wide = f"cast_i64(cast_u{self.bits}(key))"
        if self.wide:
            s.emit(d, f"vst_i64(a, {at}, select(m, {wide}, splat_i64(-1)))")
            s.emit(d, f"vst_i64(a, {self.room} + {at}, {index})")
        else:
            word = f"({wide} << splat_i64(32)) | ({index})"
            s.emit(d, f"vst_i64(a, {at}, select(m, {word}, splat_i64(-1)))")

    def append(self, s: Source, d: int, index: str, taken: str) -> None:
        """Store the words of the lanes in the mask `taken` behind the `n` words at `a`."""
        wide = f"cast_i64(cast_u{self.bits}(key))"
        if self.wide:
            s.emit(d, f"vpack_i64(a, n, {wide}, {taken})")
            s.emit(d, f"vpack_i64(a, {self.room} + n, {index}, {taken})")
        else:
            s.emit(d, f"vpack_i64(a, n, ({wide} << splat_i64(32)) | ({index}), {taken})")
        s.emit(d, f"n += count({taken})")

    def unpack(self, s: Source, d: int, at: str) -> None:
        """Vectors `key` and `index` from the sixteen words at place `at` of `a`."""
        s.emit(d, f"both = vld_i64(a, {at})")
        if self.wide:
            s.emit(d, f"index = vld_i64(a, {self.room} + {at})")
            s.emit(d, f"key = cast_{self.code}(both)")
        else:
            s.emit(d, f"index = both & splat_i64({(1 << 32) - 1})")
            s.emit(d, f"key = cast_{self.code}(both >> splat_i64(32))")

    def digit(self, word: str, shift: str) -> str:
        return f"(({word} >> ({shift})) & {RADIX - 1})"

    def copy(self, s: Source, d: int, to: str, at: str) -> None:
        """Move a word `w` that came from place `at` of `a` to place `to` of `b`."""
        s.emit(d, f"st_i64(b, {to}, w)")
        if self.wide:
            s.emit(d, f"st_i64(b, {self.room} + {to}, ld_i64(a, {self.room} + {at}))")

    @property
    def sort_bytes(self) -> int:
        """Scratch that `sort` needs at `h`."""
        return self.digits * RADIX * 8

    def sort(self, s: Source, d: int) -> None:
        """Sort the `n` words at `a`; `b` has as much room. Then `a` says where they are.

        The source uses the names e, j, q, g, w, v, to, at, here, shift, turn and other.

        The last vector of words must be filled up with the largest ones.
        """
        s.emit(d, f"if n <= {RANKED}:")
        self._by_rank(s, d + 1)
        s.emit(d, "else:")
        self._by_digits(s, d + 1)

    def _by_rank(self, s: Source, d: int) -> None:
        s.emit(d, "for e in range(n):")
        s.emit(d + 1, "w = ld_i64(a, e)", "v = splat_u64(ld_u64(a, e))", "to = 0")
        s.emit(d + 1, "for j in range(0, n, 16):")
        below = "vld_u64(a, j) < v"
        if self.wide:
            below = f"({below}) | ((vld_u64(a, j) == v) & lanes(e - j))"
        s.emit(d + 2, f"to += count({below})")
        self.copy(s, d + 1, "to", "e")
        s.emit(d, "other = a", "a = b", "b = other")

    def _by_digits(self, s: Source, d: int) -> None:
        """Least significant digit first; a digit that is the same in all words is passed over."""
        total = self.digits * RADIX
        s.emit(d, f"for q in range(0, {total}, 16):", "    vst_i64(h, q, splat_i64(0))")
        s.emit(d, "for e in range(n):", "    w = ld_i64(a, e)")
        for p in range(self.digits):
            q = f"{p * RADIX} + {self.digit('w', str(self.base + p * DIGIT))}"
            s.emit(d + 1, f"q = {q}", "st_i64(h, q, ld_i64(h, q) + 1)")
        s.emit(d, f"for turn in range({self.digits}):")
        d += 1
        s.emit(d, f"shift = {self.base} + turn * {DIGIT}", f"g = h + turn * {RADIX * 8}")
        s.emit(d, "w = ld_i64(a, 0)", f"if ld_i64(g, {self.digit('w', 'shift')}) == n:")
        s.emit(d + 1, "continue")
        s.emit(d, "at = 0", f"for q in range({RADIX}):")
        s.emit(d + 1, "here = ld_i64(g, q)", "st_i64(g, q, at)", "at += here")
        s.emit(d, "for e in range(n):")
        s.emit(d + 1, "w = ld_i64(a, e)", f"q = {self.digit('w', 'shift')}")
        s.emit(d + 1, "to = ld_i64(g, q)", "st_i64(g, q, to + 1)")
        self.copy(s, d + 1, "to", "e")
        s.emit(d, "other = a", "a = b", "b = other")
