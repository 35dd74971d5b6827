"""How wide the arithmetic of a kernel's machine code is, and what it calls: from its assembly."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_INSTRUCTION = re.compile(r"^\s+([a-z][a-z0-9]*)\s*(.*)$")
# Arithmetic of x86 by its stem; what only moves, shuffles or tests bits is not counted.
_ARITHMETIC = re.compile(
    r"^v?(?:add|sub|mul|div|sqrt|min|max|cmp|u?comi|round|rndscale|rcp(?:14)?|rsqrt(?:14)?|scalef"
    r"|getexp|getmant|reduce|range|fixupimm|h?addsub|hadd|hsub|dp"
    r"|fn?m(?:add|sub)(?:132|213|231)|fm(?:addsub|subadd)(?:132|213|231))[a-z]*?(p|s)(s|d|h)$"
)
_REGISTER = re.compile(r"%([xyz])mm\d")


@dataclass(frozen=True)
class Widths:
    """Instructions of floating-point arithmetic by the registers they work on.

    `scalar` ones compute one number, whatever the register. They are counted as they stand in the
    text: those of a loop's body once, however often it runs.
    """

    zmm: int
    ymm: int
    xmm: int
    scalar: int

    @property
    def total(self) -> int:
        return self.zmm + self.ymm + self.xmm + self.scalar

    @property
    def packed(self) -> float:
        """The fraction that computes several numbers at once."""
        return 1 - self.scalar / self.total if self.total else 0.0


def widths(asm: str) -> Widths | None:
    """The histogram of x86 assembly in AT&T syntax; None for that of another machine."""
    found: Counter[str] = Counter()
    known = False
    for line in asm.splitlines():
        made = _INSTRUCTION.match(line)
        if made is None:
            continue
        mnemonic, operands = made.groups()
        known = known or mnemonic == "retq"  # x86: others return by another word
        stem = _ARITHMETIC.match(mnemonic)
        if stem is None:
            continue
        registers = set(_REGISTER.findall(operands))
        if not registers:
            continue
        wide = next(kind for kind in "zyx" if kind in registers)
        found["scalar" if stem[1] == "s" else f"{wide}mm"] += 1
    if not known:
        return None
    return Widths(found["zmm"], found["ymm"], found["xmm"], found["scalar"])


def calls(asm: str) -> list[str]:
    """The functions outside the kernel that it calls, in order of first use."""
    found = re.findall(r"^\s+(?:callq?|jmp)\s+\*?([A-Za-z_][\w.$]*)(?:@PLT)?", asm, re.M)
    own = set(re.findall(r"^([\w.$]+):", asm, re.M))
    return [name for name in dict.fromkeys(found) if name not in own]
