"""What generators of kernels by hand share: lines of source, strides, splits into tiles."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from staticgraph.codegen.spec import HEADER, KernelSpec

#: with so many rows there is work for all threads without cutting one
MANY_ROWS = 16
#: elements that a tile should have at least, so that handing it out costs nothing beside its work
TILE_WORK = 1 << 14


class Source:
    """The text of one kernel `k(lo, hi, bufs, scratch)`, written line by line.

    `pointers` names the buffers in the order of `bufs`: each becomes a local variable that holds
    the address.
    """

    def __init__(self, **pointers: tuple[str, int]):
        self.buffers = tuple(pointers.values())
        self.lines = [f"{name} = ptr(bufs, {n})" for n, name in enumerate(pointers)]

    def emit(self, depth: int, *lines: str) -> None:
        self.lines += ["    " * depth + line for line in lines]

    def block(self, depth: int, text: str) -> None:
        """Several lines that keep their indentation against each other."""
        self.emit(depth, *(line for line in text.strip("\n").split("\n") if line.strip()))

    def kernel(self, name: str, tiles: int, elements: int, scratch: int = 0) -> KernelSpec:
        """`elements` counts what is read and written: the choice of one thread or several."""
        body = "\n".join(f"    {line}" for line in self.lines)
        text = f"{HEADER}def k(lo, hi, bufs, scratch):\n{body}\n"
        return KernelSpec(name, text, tiles, self.buffers, scratch, elements)


def strides(shape: Sequence[int]) -> list[int]:
    """Elements from one index to the next along each axis of a contiguous array."""
    return [prod(shape[a + 1 :]) for a in range(len(shape))]


def dot(axes: Sequence[int], steps: dict[int, int]) -> str:
    """Source of the offset of the places a0, a1, ... on some axes."""
    return " + ".join(f"a{v} * {steps[v]}" for v in axes if v in steps) or "0"


def cut(total: int, index: str, pieces: int) -> tuple[str, str]:
    """Source of the bounds of piece `index` of a balanced split."""
    if pieces == 1:
        return "0", f"{total}"
    return f"{index} * {total} // {pieces}", f"({index} + 1) * {total} // {pieces}"
