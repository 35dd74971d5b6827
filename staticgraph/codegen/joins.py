"""Joins of partial results: two vectors, the lanes of one, and those that the tiles left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from staticgraph import scalar as s
from staticgraph.codegen.region import Reduction
from staticgraph.codegen.spec import HEADER, LANES, KernelSpec, call, indent, literal
from staticgraph.codegen.tiles import Tiles
from staticgraph.nest import identity
from staticgraph.scalar import Expr
from staticgraph.types import SHORT

BLOCK = 512  # columns that a tile joins
_TWO = {
    "sum": "{0} + {1}", "prod": "{0} * {1}", "max": "maximum({0}, {1})", "min": "minimum({0}, {1})",
    "any": "{0} | {1}", "all": "{0} & {1}",
}  # fmt: skip


def start(r: Reduction) -> str:
    """What a reduction begins with, as a vector."""
    return f"splat_{SHORT[r.body.dtype]}({literal(identity(r.combine, r.body.dtype))})"


def joined(r: Reduction, first: str, second: str) -> str:
    """Two vectors of partial results as one."""
    return _TWO[r.combine].format(first, second)


def across(r: Reduction, vector: str) -> str:
    """All lanes of a vector as one, in every lane."""
    return f"h{r.combine}({vector})"


def finished(r: Reduction, total: str, fresh: Callable[[str], str]) -> tuple[list[str], str]:
    """What is delivered of a total, a vector: lines that compute it, and its name."""
    lines: list[str] = []
    names: dict[Expr, str] = {r.leaf: total}
    for e in s.postorder([r.finish]):  # type: ignore[list-item]
        code, args = SHORT[e.dtype], [names[a] for a in e.args]
        if e is r.leaf:
            continue
        if e.name == "const":
            names[e] = f"splat_{code}({literal(e.value)})"
            continue
        names[e] = fresh("f")
        spelling = f"cast_{code}" if e.name == "cast" else s.PRIMS[e.name].cpu
        lines.append(f"{names[e]} = {call(spelling, args)}")
    return lines, names[r.finish]  # type: ignore[index]


@dataclass
class Sink:
    """A reduction over rows: result `result`, and the buffer of the tiles' partial results."""

    result: int
    reduction: Reduction
    size: int  # elements of the result
    #: with one tile they are the result
    buffer: tuple[str, int]

    @property
    def whole(self) -> bool:
        """Whether all is joined to one number."""
        return self.reduction.kind == "all"

    @property
    def join_tiles(self) -> int:
        """Tiles of the kernel that joins the partial results."""
        return 1 if self.whole else -(-self.size // BLOCK)


def join_kernel(
    name: str, sinks: list[Sink], tiles: Tiles, fresh: Callable[[str], str]
) -> KernelSpec:
    """Join the partial results that a region's tiles left, in the order of the tiles.

    All joins of a region are one kernel: its tiles are those of the first result, then those of the
    second, and so on.
    """
    pointers = []
    for k in range(len(sinks)):
        pointers += [f"w{k} = ptr(bufs, {2 * k})", f"y{k} = ptr(bufs, {2 * k + 1})"]
    first, parts = 0, []
    for k, sink in enumerate(sinks):
        parts.append((_join(k, sink, first, tiles, fresh), first + sink.join_tiles))
        first += sink.join_tiles
    lines = parts[0][0]
    if len(parts) > 1:
        tests = [f"if t < {end}:" for _, end in parts[:-1]]
        heads = [tests[0], *(f"el{test}" for test in tests[1:]), "else:"]
        lines = [
            x for head, (part, _) in zip(heads, parts, strict=True) for x in (head, *indent(part))
        ]
    body = [*pointers, "for t in range(lo, hi):", *indent(lines)]
    text = HEADER + "\n".join(["def k(lo, hi, bufs, scratch):", *indent(body)]) + "\n"
    buffers = tuple(b for sink in sinks for b in (sink.buffer, ("out", sink.result)))
    elements = sum(tiles.count if sink.whole else sink.size * tiles.down for sink in sinks)
    return KernelSpec(name, text, first, buffers, 0, elements)


def _join(k: int, sink: Sink, first: int, tiles: Tiles, fresh: Callable[[str], str]) -> list[str]:
    """Lines that join into result number k of the kernel, whose tiles begin with `first`."""
    r, size = sink.reduction, sink.size
    code, out = SHORT[r.body.dtype], SHORT[r.finish.dtype]  # type: ignore[union-attr]
    a = f"a{k}"  # results differ in dtype, and a name has one
    finish, total = finished(r, across(r, a) if sink.whole else a, fresh)
    if sink.whole:
        value = f"select(m, vldm_{code}(w{k}, i, m), {start(r)})"
        return [
            f"{a} = {start(r)}",
            f"for i in range(0, {tiles.count}, {LANES}):",
            f"    m = lanes({tiles.count} - i)",
            f"    {a} = {joined(r, a, value)}",
            *finish,
            f"st_{out}(y{k}, 0, lane0_{out}({total}))",
        ]
    value = f"vldm_{code}(w{k}, i * {size} + c, m)"
    return [
        f"b = t - {first}" if first else "b = t",
        f"for c in range(b * {BLOCK}, min((b + 1) * {BLOCK}, {size}), {LANES}):",
        f"    m = lanes({size} - c)",
        f"    {a} = {start(r)}",
        f"    for i in range({tiles.down}):",
        f"        {a} = {joined(r, a, value)}",
        *indent(finish),
        f"    vstm_{out}(y{k}, c, {total}, m)",
    ]
