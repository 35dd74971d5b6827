"""Memory budgets as people write them."""

from __future__ import annotations

import re
from numbers import Integral

from staticgraph.errors import BudgetError

_UNITS = {
    "": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
}  # fmt: skip


def budget_bytes(op: str, budget: object, whole: int) -> int:
    """A memory budget in bytes, from an int or a text such as "120MiB" or "40%" of `whole`.

    Raises BudgetError for anything else; `op` is who asks.
    """
    if isinstance(budget, Integral) and not isinstance(budget, bool) and budget >= 0:
        return int(budget)
    if isinstance(budget, str):
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*|%)\s*", budget)
        if found and found[2] == "%":
            return int(whole * float(found[1]) / 100)
        if found and (unit := _UNITS.get(found[2].lower())):
            return int(float(found[1]) * unit)
    raise BudgetError(
        f"{op}: memory_budget is a number of bytes or a text such as '120MiB' or '40%',"
        f" got {budget!r}"
    )
