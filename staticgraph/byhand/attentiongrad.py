"""The derivative of attention, written with the words of `attention`.

It computes the scores of a block again from the logarithm of each row's sum and adds to the
gradients of keys and values, block after block in a fixed order; heads are independent, and where
there are few of them the blocks of a head are shared out in parts whose sums are joined in order.
"""

from __future__ import annotations

from collections.abc import Sequence

from staticgraph.byhand.attention import PADDING, Heads, Writer, about, heads_of
from staticgraph.codegen.contract_parts import LANES, up
from staticgraph.codegen.spec import Kernels, KernelSpec
from staticgraph.types import TensorType


def attention_grad(
    types: Sequence[TensorType], results: Sequence[TensorType], *, name: str, scale: float,
    causal: bool,
) -> Kernels:  # fmt: skip
    """Cotangents of q, k and v from those of the result, with the scores computed again.

    Operands q, k, v, result, logarithms of the sums, cotangent of the result, and perhaps the mask.
    """
    h = heads_of([*types[:3], *types[6:]], scale, causal)
    s = Writer(h)
    joined = h.parts > 1
    key_bytes, value_bytes = h.keys * h.depth * h.size, h.keys * h.wide * h.size
    names = ["q_all", "k_all", "v_all", "y_all", "sums_all", "g_all"]
    names += [*(["mask"] if h.mask else []), "dq_all", "dk_all", "dv_all"]
    buffers = [("in", k) for k in range(len(types))]
    buffers += [("out", 0), *([("work", 0), ("work", 1)] if joined else [("out", 1), ("out", 2)])]
    s(*(f"{n} = ptr(bufs, {k})" for k, n in enumerate(names)))
    _gradient_tiles(s, key_bytes, value_bytes)
    work = h.heads * h.rows * h.keys * (3 * h.depth + 2 * h.wide)
    steps = [s.spec(name, about(h), h.heads * h.parts, buffers, work)]
    if not joined:
        return Kernels(steps)
    for k, per_head in enumerate((h.keys * h.depth, h.keys * h.wide)):
        steps.append(_join(h, f"{name}_join", per_head, k))
    return Kernels(steps, [h.heads * h.parts * key_bytes, h.heads * h.parts * value_bytes])


def _gradient_tiles(s: Writer, key_bytes: int, value_bytes: int) -> None:
    """Each tile adds the blocks of its part to its own gradients of keys and values."""
    h, code = s.h, s.h.code
    depth, wide = up(h.depth, LANES), up(h.wide, LANES)
    s.scratch("keys", h.panels * depth * h.score.panel)
    s.scratch("values", h.panels * wide * h.score.panel)
    s.scratch("query", h.block * depth)
    s.scratch("given", h.block * wide)
    s.scratch("scores", h.block * h.pitch)
    s.scratch("slopes", h.block * h.pitch)
    s.scratch("result", h.block * depth)
    s(
        f"scale = splat_{code}({h.scale!r})",
        f"nowhere = splat_{code}(-inf)",
        f"zero = splat_{code}(0)",
    )
    with s.tiles(h.parts):
        s(
            f"k = k_all + head * {key_bytes}",
            f"v = v_all + head * {value_bytes}",
            f"dk = dk_all + t * {key_bytes}",
            f"dv = dv_all + t * {value_bytes}",
        )
        for name, count in (("dk", h.keys * h.depth), ("dv", h.keys * h.wide)):
            with s.open(f"for j in range(0, {count}, 16)"):
                s(f"vstm_{code}({name}, j, zero, lanes({count} - j))")
        s.pack("k", "keys", h.depth)
        s.pack("v", "values", h.wide)
        with s.blocks(h.parts):
            s.rows_of("q_all", "query", h.depth, depth, "scale")
            s.rows_of("g_all", "given", h.wide, wide)
            s.scores("query", "keys", "scores", h.depth, depth)
            s.scores("given", "values", "slopes", h.wide, wide)
            _slopes(s)
            s.gathered("slopes", "k", "result", h.depth, depth)
            _query_rows(s, depth)
            s.scattered("slopes", "query", "dk", h.depth, depth)
            s.scattered("scores", "given", "dv", h.wide, wide)


def _slopes(s: Writer) -> None:
    """The block's scores become probabilities p, its slopes p (d - inner), d the cotangent of p.

    Both are zero where a row does not look and in rows past the last: the products that follow run
    over whole register tiles.
    """
    h, code = s.h, s.h.code
    with s.open(f"for r in range({h.block})"):
        s(f"past = {_reached('seen')}", "limit = 0")
        with s.open("if r < count"):
            s.limit()
            s.mask_row()
            _inner(s)
            s(s.shift())
            with s.open("for j in range(0, limit, 16)"):
                s.score_of()
                s(
                    "p = exp(s - top)",
                    f"d = vld_{code}(slopes, r * {h.pitch} + j)",
                    "d = select(some, p * (d - inner), zero)",
                    f"vst_{code}(scores, r * {h.pitch} + j, p)",
                    f"vst_{code}(slopes, r * {h.pitch} + j, d)",
                )
        with s.open("for j in range((limit + 15) // 16 * 16, past, 16)"):
            s(
                f"vst_{code}(scores, r * {h.pitch} + j, zero)",
                f"vst_{code}(slopes, r * {h.pitch} + j, zero)",
            )


def _inner(s: Writer) -> None:
    """`inner`: row r of the result times its cotangent; `top`: the logarithm of the row's sum."""
    h, code = s.h, s.h.code
    s(f"at = head * {h.rows} + first + r", "inner = zero")
    with s.open(f"for j in range(0, {h.wide}, 16)"):
        s(
            f"some = lanes({h.wide} - j)",
            f"y = vldm_{code}(y_all, at * {h.wide} + j, some)",
            f"inner = inner + y * vldm_{code}(g_all, at * {h.wide} + j, some)",
        )
    s("inner = hsum(inner)", f"top = splat_{code}(ld_{code}(sums_all, at))")


def _query_rows(s: Writer, depth: int) -> None:
    """Write the block's rows of the gradient of q."""
    h, code = s.h, s.h.code
    with s.open("for r in range(count)"), s.open(f"for j in range(0, {h.depth}, 16)"):
        s(
            f"y = vld_{code}(result, r * {depth} + j) * scale",
            f"at = (head * {h.rows} + first + r) * {h.depth} + j",
            f"vstm_{code}(dq_all, at, y, lanes({h.depth} - j))",
        )


def _join(h: Heads, name: str, count: int, k: int) -> KernelSpec:
    """Add the parts of each head in order."""
    s, code = Writer(h), h.code
    s("w = ptr(bufs, 0)", "y = ptr(bufs, 1)")
    with s.open("for head in range(lo, hi)"), s.open(f"for j in range(0, {count}, 16)"):
        s(
            f"some = lanes({count} - j)",
            f"a = vldm_{code}(w, head * {h.parts * count} + j, some)",
        )
        with s.open(f"for part in range(1, {h.parts})"):
            s(f"a = a + vldm_{code}(w, (head * {h.parts} + part) * {count} + j, some)")
        s(f"vstm_{code}(y, head * {count} + j, a, some)")
    elements = h.heads * h.parts * count
    return s.spec(name, about(h), h.heads, [("work", k), ("out", 1 + k)], elements)


def _reached(seen: str) -> str:
    """Columns that the register tiles over the keys may touch."""
    return f"({seen} + 15) // 16 * 16 + {PADDING - 16}"
