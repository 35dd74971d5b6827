"""LLVM's own remarks on a kernel.

llvmlite hands them to nobody, but LLVM prints them to stderr when told so by options that hold for
the whole process: a child process compiles the kernel once more, alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

SECONDS = 60
#: what every compilation says once; where it is missing, this LLVM does not speak
_CONTROL = re.compile(r"\d+ instructions in function")
_REMARK = re.compile(r"^remark: [^ ]+:\d+:\d+: (.*)$", re.M)
_SPILLS = re.compile(r"(\d+) ((?:folded )?(?:spills|reloads)) ")
_DROPPED = re.compile(r"BasicBlock:|\d+ instructions in function|0 stack bytes")


def remarks(source: str, entry: str) -> list[str] | None:
    """What LLVM says on the function `entry` of a kernel's source; None where it says nothing."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "staticgraph.profiling.remarkchild", entry],
            input=source,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parsed(done.stderr) if done.returncode == 0 else None


def parsed(text: str) -> list[str] | None:
    """The remarks in what a compilation printed, each once; None without the control remark."""
    if not _CONTROL.search(text):
        return None
    found = Counter(filter(None, map(_said, _REMARK.findall(text))))
    return [message if n == 1 else f"{message} ({n} times)" for message, n in found.items()]


def _said(message: str) -> str:
    """A remark in brief; '' for those that help nobody."""
    if _DROPPED.match(message):
        return ""
    if "generated in" not in message:
        return message.strip()
    spilled = ", ".join(f"{n} {what}" for n, what in _SPILLS.findall(message))
    where = "a loop" if message.rstrip().endswith("loop") else "the whole function"
    return f"registers did not suffice: {spilled} in {where}" if spilled else ""
