"""Matrix products of every other dtype (bool, integers, complex): a plain vector loop."""

from staticgraph.codegen.contract_matmul import TILE_FLOPS, TILES, batch_offset
from staticgraph.codegen.contract_parts import (
    ITEM,
    LANES,
    Source,
    Steps,
    Store,
    hand_over,
    load_pointers,
)  # fmt: skip


def any_matmul(p, epilogue):
    """Steps of a normalised product: 16 columns at a time, k ascending, one sum."""
    s, size, code, final = Source(), ITEM[p.code], p.code, epilogue or Store(p.code)
    buffers = load_pointers(s, final, dict(zip(p.operands, ("a_all", "b_all"), strict=True)))
    rows = p.count * p.m
    tiles = max(1, min(rows, 2 * TILES, p.flops // TILE_FLOPS))
    if p.b_col != 1:
        s(f"columns = iota() * splat_i64({p.b_col})")
    with s.open(f"for line in range(lo * {rows} // {tiles}, hi * {rows} // {tiles})"):
        s(
            f"batch = line // {p.m}",
            f"row = line - batch * {p.m}",
            f"pa = a_all + {batch_offset('batch', p.batch, p.a_batch, size)}",
            f"pa += row * {p.a_row * size}",
            f"pb = b_all + {batch_offset('batch', p.batch, p.b_batch, size)}",
        )
        with s.open(f"for col in range(0, {p.n}, {LANES})"):
            s(f"some = lanes({p.n} - col)", f"index = line * {p.n} + col", f"acc = splat_{code}(0)")
            with s.open(f"for i in range({p.k})"):
                if p.b_col == 1:
                    s(f"b = vldm_{code}(pb, i * {p.b_k} + col, some)")
                else:
                    at = f"pb + (i * {p.b_k} + col * {p.b_col}) * {size}"
                    s(f"b = vgather_{code}({at}, columns, some)")
                s(f"acc = acc + splat_{code}(ld_{code}(pa, i * {p.a_k})) * b")
            hand_over(s, final, "some")
    about = f"{code} product {p.batch} x {p.m} x {p.n} x {p.k}"
    kernel = s.step("matmul", about, final, ntiles=tiles, buffers=buffers, flops=p.flops, weight=4)
    return Steps((kernel,), (), (p.count, p.m, p.n))
