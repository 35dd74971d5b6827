"""The times of a report by op, source line or function instead of by kernel.

A fused kernel's time is divided among its ops by what they cost, so these times are estimates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from staticgraph.profiling.rows import OpRow, Profile


@dataclass
class Group:
    """All ops of one name, or all that come from one line or one function."""

    name: str
    seconds: float = 0.0
    share: float = 0.0
    cum: float = 0.0
    bytes: int = 0
    flops: int = 0
    count: int = 0
    kernels: list[int] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The lines it comes from, or the ops that the line or function has."""
        first = ", ".join(self.lines[:3])
        return first + (" ..." if len(self.lines) > 3 else "")


def grouped(report: Profile, by: str, select: str | None = None) -> list[Group]:
    """Groups by 'op', 'line' or 'scope', the dearest first; `select` is a pattern on names."""
    found: dict[str, Group] = {}
    for op in report.ops:
        line = _line(op)
        other = line if by == "op" else op.name
        name = {"op": op.name, "line": line, "scope": op.scope}[by] or "?"
        if select is not None and not fnmatchcase(name, select):
            continue
        group = found.setdefault(name, Group(name))
        group.seconds += op.seconds
        group.share += op.share
        group.bytes += op.bytes
        group.flops += op.flops
        group.count += 1
        for known, new in ((group.kernels, op.kernel), (group.lines, other)):
            if new not in known:
                known.append(new)
    rows = sorted(found.values(), key=lambda g: -g.seconds)
    running = 0.0
    for group in rows:
        running += group.share
        group.cum = running
    return rows


def _line(op: OpRow) -> str:
    """'mlp.py:14', and '(grad)' for work that the derivative of that line needs."""
    place = op.forward_where or op.where
    return f"{place} (grad)" if op.is_gradient and place else str(place or "")
