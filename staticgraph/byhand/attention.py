"""Attention without the matrix of scores: a block of query rows at a time, for one head.

A block holds the scores of its rows against all keys in scratch, a few hundred kilobytes, so the
softmax is the plain one, not an online one. Keys and values are packed once per tile; the products
run through the register tiles of the contraction kernels. `attentiongrad` is the derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from staticgraph.codegen.contract_parts import ITEM, LANES, Shape, Source, tile_shape, up
from staticgraph.codegen.contract_shapes import Column, Tile
from staticgraph.codegen.spec import Kernels, KernelSpec
from staticgraph.types import SHORT, TensorType

#: bytes of one block's scores, and the rows a block has where that allows
SCORE_BYTES, BLOCK_ROWS = 1 << 18, 48
DEPTH = 256  # keys whose values stay in the first-level cache
TILES = 16  # enough for many threads
PADDING = 64  # columns beyond a block's keys that are zero for the tiles that reach over


@dataclass(frozen=True)
class Heads:
    """Sizes of one call: queries (heads, rows, depth), keys (.., keys, depth), values (.., wide).

    `steps` are the elements from one row of the mask to the next along each leading axis and along
    the rows, with the sizes of the leading axes; None without a mask.
    """

    code: str
    heads: int
    rows: int
    keys: int
    depth: int
    wide: int
    scale: float
    causal: bool
    lead: tuple[int, ...] = ()
    steps: tuple[int, ...] | None = None
    mask: str = ""

    @property
    def size(self) -> int:
        return ITEM[self.code]

    @cached_property
    def block(self) -> int:
        """Rows of a block: whole register tiles."""
        fits = SCORE_BYTES // (self.size * self.keys)
        unit = tile_shape(self.code, min(self.rows, BLOCK_ROWS), self.keys).rows
        return min(up(self.rows, unit), max(unit, min(BLOCK_ROWS, fits) // unit * unit))

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.block)

    @property
    def parts(self) -> int:
        """Tiles of one head; each takes every parts-th block, since causal ones differ in size."""
        return min(self.blocks, -(-TILES // self.heads))

    @cached_property
    def score(self) -> Shape:
        return tile_shape(self.code, self.block, self.keys)

    @property
    def panels(self) -> int:
        return -(-self.keys // self.score.panel)

    @property
    def pitch(self) -> int:
        """Elements from one row of scores to the next."""
        return self.panels * self.score.panel + PADDING


class Writer(Source):
    """Source text of one attention kernel."""

    def __init__(self, h: Heads):
        super().__init__()
        self.h = h
        self.used = 0

    def scratch(self, name: str, elements: int) -> None:
        """A piece of scratch, named; vectors may be stored past its end."""
        self(f"{name} = scratch + {self.used}")
        self.used += up((elements + PADDING) * self.h.size, 64)

    def pack(self, source: str, target: str, width: int) -> None:
        """The keys' (or values') transpose, panel after panel of `score.panel` columns."""
        h, shape = self.h, self.h.score
        turn = self.transpose(h.code, shape.lanes, width, shape.panel)
        room = up(width, LANES) * shape.panel * h.size
        with self.open(f"for q in range({h.panels})"):
            self(
                f"{turn}({source} + q * {shape.panel * width * h.size}, {target} + q * {room},"
                f" min({h.keys} - q * {shape.panel}, {shape.panel}), {width})"
            )

    def scores(self, a: str, packed: str, c: str, width: int, pitch: int) -> None:
        """c[block, keys] = a[block, width] times the packed transpose, over `reach` panels."""
        h, shape = self.h, self.h.score
        tile = Tile(h.code, shape.rows, shape.vectors, shape.lanes, pitch, 1, shape.panel, h.pitch,
                    shape.vectors * shape.lanes, fused=shape.fused)  # fmt: skip
        call = self.column(Column(tile, False))
        room = up(width, LANES) * shape.panel * h.size
        with self.open("for q in range(reach)"):
            self(
                f"{call}({a}, {packed} + q * {room}, {c} + q * {shape.panel * h.size}, {width},"
                f" 0, 0, {h.block // shape.rows})"
            )

    def gathered(self, a: str, b: str, c: str, width: int, pitch: int) -> None:
        """c[block, width] = a[block, keys] b[keys, width], keys up to `seen`."""
        h, shape = self.h, tile_shape(self.h.code, self.h.block, width)
        rows = max(r for r in range(1, shape.rows + 1) if h.block % r == 0)
        with self.open(f"for k0 in range(0, seen, {DEPTH})"):
            self._panels(
                shape, rows, width,
                lambda cols: Tile(h.code, rows, -(-cols // shape.lanes), shape.lanes, h.pitch, 1,
                                  width, pitch, cols, mask_b=cols % shape.lanes > 0, add=True,
                                  fused=shape.fused),
                f"{a} + k0 * {h.size}", f"{b} + k0 * {width * h.size}", c,
                f"min({DEPTH}, seen - k0), k0, 0, {h.block // rows}",
            )  # fmt: skip

    def scattered(self, a: str, b: str, c: str, width: int, pitch: int) -> None:
        """c[keys, width] += a[block, keys]^T b[block, width], keys up to `seen`."""
        h, shape = self.h, tile_shape(self.h.code, self.h.keys, width)
        panels = -(-h.keys // shape.rows)
        rows, extra = divmod(h.keys, panels)
        tall = f"min({extra}, (seen + {rows}) // {rows + 1})"
        self(f"tall = {tall}", f"others = (max(0, seen - {extra * (rows + 1)})"
             f" + {rows - 1}) // {rows}")  # fmt: skip
        self._panels(
            shape, rows, width,
            lambda cols: Tile(h.code, rows, -(-cols // shape.lanes), shape.lanes, 1, h.pitch,
                              pitch, width, cols, add=True, fused=shape.fused),
            a, b, c, f"{h.block}, 1, tall, others", taller=extra > 0,
        )  # fmt: skip

    def _panels(self, shape, rows, width, tile, a, b, c, rest, taller=False) -> None:
        """One call for each panel of columns, the last one narrower."""
        step = shape.panel * self.h.size
        whole, tail = divmod(width, shape.panel)
        if whole:
            call = self.column(Column(tile(shape.panel), taller))
            with self.open(f"for q in range({whole})"):
                self(f"{call}({a}, {b} + q * {step}, {c} + q * {step}, {rest})")
        if tail:
            call = self.column(Column(tile(tail), taller))
            self(f"{call}({a}, {b} + {whole * step}, {c} + {whole * step}, {rest})")

    def tiles(self, parts: int):
        """The loop over tiles: `head`, and `part` of its blocks."""
        loop = self.open("for t in range(lo, hi)")
        self(f"head = t // {parts}", f"part = t % {parts}")
        return loop

    def blocks(self, parts: int):
        """The loop over the blocks of a part: rows first .. first + count, keys up to `seen`."""
        h = self.h
        loop = self.open(f"for block in range(part, {h.blocks}, {parts})")
        self(f"first = block * {h.block}", f"count = min({h.block}, {h.rows} - first)")
        seen = f"min({h.keys}, first + count)" if h.causal else f"{h.keys}"
        self(f"seen = {seen}", f"reach = (seen + {h.score.panel - 1}) // {h.score.panel}")
        return loop

    def rows_of(self, source: str, target: str, width: int, pitch: int, factor: str = "") -> None:
        """Copy the block's rows to scratch, times a factor; rows past the last are zero."""
        h = self.h
        with self.open(f"for r in range({h.block})"), self.open(f"for j in range(0, {width}, 16)"):
            self(
                f"some = lanes(min({width} - j, (count - r) * {width}))",
                f"x = vldm_{h.code}({source}, (head * {h.rows} + first + r) * {width} + j, some)",
                f"vst_{h.code}({target}, r * {pitch} + j, {f'x * {factor}' if factor else 'x'})",
            )

    def mask_row(self) -> None:
        """`line`: the element of the mask where row `first + r` begins."""
        h = self.h
        if h.steps is None:
            return
        terms, inner = [], 1
        for axis in reversed(range(len(h.lead))):
            if h.steps[axis]:
                terms.append(f"(head // {inner} % {h.lead[axis]}) * {h.steps[axis]}")
            inner *= h.lead[axis]
        if h.steps[-1]:
            terms.append(f"(first + r) * {h.steps[-1]}")
        self(f"line = {' + '.join(terms) or '0'}")

    def score_of(self) -> None:
        """`s`: 16 scores of row r from key j on, -inf where the row does not look."""
        h = self.h
        self("some = lanes(limit - j)", f"s = vld_{h.code}(scores, r * {h.pitch} + j)")
        if h.mask == "b1":
            self("some = some & vldm_b1(mask, line + j, some)")
        elif h.mask:
            self(f"s = s + vldm_{h.code}(mask, line + j, some)")
        self("s = select(some, s, nowhere)")

    @staticmethod
    def shift() -> str:
        """A row that sees nothing has only scores of -inf: less 0, not less -inf, exp gives 0."""
        return "top = select(top == nowhere, zero, top)"

    def limit(self) -> None:
        """`limit`: keys before it are seen by row r."""
        self("limit = min(seen, first + r + 1)" if self.h.causal else "limit = seen")

    def spec(self, name: str, about: str, tiles: int, buffers: Sequence, elements: int):
        text = self.text("k", about, ("from math import inf",))
        return KernelSpec(name, text, tiles, tuple(buffers), self.used, elements)


def heads_of(types: Sequence[TensorType], scale: float, causal: bool) -> Heads:
    """The sizes of a call from the types of q, k, v and perhaps the mask."""
    q, k, v = types[:3]
    lead = q.shape[:-2]
    mask, steps = "", None
    if len(types) > 3:
        m = types[3]
        mask = SHORT[m.dtype]
        sizes = m.shape
        strides = [prod(sizes[a + 1 :]) for a in range(len(sizes))]
        steps = tuple(0 if sizes[a] == 1 else strides[a] for a in range(len(sizes) - 1))
    return Heads(SHORT[q.dtype], prod(lead), q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1],
                 scale, causal, lead, steps, mask)  # fmt: skip


def attention(
    types: Sequence[TensorType], results: Sequence[TensorType], *, name: str, scale: float,
    causal: bool,
) -> Kernels:  # fmt: skip
    """softmax(scale q k^T + mask) v, and the logarithm of each row's sum of exponentials."""
    h = heads_of(types, scale, causal)
    s, code, size = Writer(h), h.code, h.size
    wide, depth = up(h.wide, LANES), up(h.depth, LANES)
    names = ["q_all", "k_all", "v_all", *(["mask"] if h.mask else []), "y_all", "sums_all"]
    buffers = [("in", k) for k in range(len(types))] + [("out", 0), ("out", 1)]
    s(*(f"{n} = ptr(bufs, {k})" for k, n in enumerate(names)))
    s.scratch("packed", h.panels * depth * h.score.panel)
    s.scratch("query", h.block * depth)
    s.scratch("scores", h.block * h.pitch)
    s.scratch("result", h.block * wide)
    s(f"scale = splat_{code}({h.scale!r})", f"nowhere = splat_{code}(-inf)")
    s(f"zero = splat_{code}(0)", f"one = splat_{code}(1)")
    with s.tiles(h.parts):
        s(f"v = v_all + head * {h.keys * h.wide * size}")
        s.pack(f"k_all + head * {h.keys * h.depth * size}", "packed", h.depth)
        with s.blocks(h.parts):
            s.rows_of("q_all", "query", h.depth, depth, "scale")
            s.scores("query", "packed", "scores", h.depth, depth)
            with s.open("for r in range(count)"):
                s.limit()
                s.mask_row()
                s("top = nowhere")
                with s.open("for j in range(0, seen, 16)"):
                    s.score_of()
                    s(f"vst_{code}(scores, r * {h.pitch} + j, s)", "top = maximum(top, s)")
                s("top = hmax(top)", "total = zero", s.shift())
                with s.open("for j in range(0, seen, 16)"):
                    # Beyond `seen` in the last vector stands -inf: exp gives 0.
                    s(
                        f"p = exp(vld_{code}(scores, r * {h.pitch} + j) - top)",
                        f"vst_{code}(scores, r * {h.pitch} + j, p)",
                        "total = total + p",
                    )
                s(
                    "total = hsum(total)",
                    "whole = select(total == zero, one, total)",
                    f"at = head * {h.rows} + first + r",
                    f"st_{code}(sums_all, at, lane0_{code}(top + log(total)))",
                    f"st_{code}(scores, r * {h.pitch} + {h.pitch - 1}, lane0_{code}(whole))",
                )
            s.gathered("scores", "v", "result", h.wide, wide)
            with s.open("for r in range(count)"):
                s(f"total = splat_{code}(ld_{code}(scores, r * {h.pitch} + {h.pitch - 1}))")
                with s.open(f"for j in range(0, {h.wide}, 16)"):
                    s(
                        f"y = vld_{code}(result, r * {wide} + j) / total",
                        f"at = (head * {h.rows} + first + r) * {h.wide} + j",
                        f"vstm_{code}(y_all, at, y, lanes({h.wide} - j))",
                    )
    work = h.heads * h.rows * h.keys * (h.depth + h.wide)
    return Kernels([s.spec(name, about(h), h.heads * h.parts, buffers, work)])


def about(h: Heads) -> str:
    return f"{h.code} attention of {h.heads} heads, {h.rows} x {h.keys} x {h.depth}, {h.wide} wide"
