"""A generated kernel as data, and the words its source is written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isinf, isnan

LANES = 16

HEADER = "from math import inf, nan\n\nfrom staticgraph.codegen.vector import *  # noqa: F403\n\n\n"


@dataclass
class KernelSpec:
    """One generated kernel, and how a plan runs it."""

    name: str
    text: str
    tiles: int
    #: ("in", k) input, ("out", k) result, ("work", k) workspace buffer
    buffers: tuple[tuple[str, int], ...]
    scratch: int
    elements: int
    #: result k may be written where input j was: same positions, read before written
    inplace: frozenset[tuple[int, int]] = frozenset()


@dataclass
class Kernels:
    """The kernels of a region in order, and the bytes of the workspace buffers between them."""

    steps: list[KernelSpec]
    workspace: list[int] = field(default_factory=list)


def literal(value: object) -> str:
    """A number as Python source."""
    if isinstance(value, complex):
        return f"complex({literal(value.real)}, {literal(value.imag)})"
    if isinstance(value, float):
        if isnan(value):
            return "nan"
        if isinf(value):
            return "inf" if value == inf else "-inf"
    if isinstance(value, int) and value >= 1 << 63:
        value -= 1 << 64  # the same bits, within int64
    if value == -(1 << 63):
        return f"({value + 1} - 1)"  # its digits alone are beyond int64
    return repr(value)


def call(spelling: str, args: Sequence[str]) -> str:
    """A primitive of arguments: a function or an operator."""
    if spelling[0].isalpha():
        return f"{spelling}({', '.join(args)})"
    return f"{spelling}{args[0]}" if len(args) == 1 else f"{args[0]} {spelling} {args[1]}"


def indent(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]
