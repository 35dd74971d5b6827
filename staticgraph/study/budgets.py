"""Budgets as people write them: "100%..20%", "120MiB", "90%,60%,200MB"."""

from __future__ import annotations

import re
from collections.abc import Iterable

from staticgraph.bytesize import budget_bytes
from staticgraph.errors import BudgetError

STEPS = 9  # budgets of a range, where nothing is said
_MOST = 200


def budgets_of(budgets: int | str | Iterable[int | str], whole: int) -> list[int]:
    """Budgets in bytes, the largest first, each once.

    `A..B` is a range of 9 budgets, `A..B:N` one of N; texts may hold several between commas;
    percentages are of `whole` bytes. Raises BudgetError for anything else, and for none at all.
    """
    given = [budgets] if isinstance(budgets, (int, str)) else list(budgets)
    found: set[int] = set()
    for item in given:
        parts = item.split(",") if isinstance(item, str) else [item]
        for part in parts:
            found.update(_range(part, whole) if ".." in str(part) else [_one(part, whole)])
    if not found:
        raise BudgetError("budgets: there is none")
    return sorted(found, reverse=True)


def _one(text: int | str, whole: int) -> int:
    try:
        made = budget_bytes("study", text, whole)
    except BudgetError:
        made = 0
    if made <= 0:
        raise BudgetError(
            f"budgets: {str(text).strip()!r} is no budget; write bytes, '120MiB', '40%'"
            " or a range such as '100%..20%' or '100%..20%:9'"
        )
    return made


def _range(text: str, whole: int) -> list[int]:
    found = re.fullmatch(r"\s*(.+?)\s*\.\.\s*(.+?)\s*(?::\s*(\d+)\s*)?", text)
    if found is None:
        raise BudgetError(f"budgets: {text.strip()!r} is no range; write '100%..20%' or A..B:N")
    first, last = _one(found[1], whole), _one(found[2], whole)
    steps = int(found[3] or STEPS)
    if not 2 <= steps <= _MOST:
        raise BudgetError(f"budgets: {text.strip()!r} has {steps} budgets; 2 to {_MOST} will do")
    return [round(first + (last - first) * k / (steps - 1)) for k in range(steps)]
