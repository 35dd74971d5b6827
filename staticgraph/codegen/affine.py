"""Index expressions as affine forms: what makes a load contiguous, strided or a gather."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from staticgraph import scalar as s
from staticgraph.scalar import Expr


def affine(e: Expr) -> tuple[dict[int, int], int] | None:
    """(coefficient per axis, constant) of an integer expression, or None."""
    if e.name == "const":
        return {}, int(e.value)  # type: ignore[call-overload]
    if e.name == "axis":
        return {e.value: 1}, 0  # type: ignore[dict-item]
    if e.name in ("add", "subtract"):
        a, b = affine(e.args[0]), affine(e.args[1])
        if a is None or b is None:
            return None
        sign = 1 if e.name == "add" else -1
        total = dict(a[0])
        for k, c in b[0].items():
            total[k] = total.get(k, 0) + sign * c
        return {k: c for k, c in total.items() if c}, a[1] + sign * b[1]
    if e.name == "multiply":
        a, b = affine(e.args[0]), affine(e.args[1])
        if a is None or b is None or (a[0] and b[0]):
            return None
        scale, form = (a[1], b) if not a[0] else (b[1], a)
        return {k: c * scale for k, c in form[0].items() if c * scale}, form[1] * scale
    if e.name == "negative":
        a = affine(e.args[0])
        return None if a is None else ({k: -c for k, c in a[0].items()}, -a[1])
    return None


def slope(e: Expr, k: int) -> int | None:
    """The coefficient of axis k where e is linear in it, whatever else it holds; None elsewhere."""
    form = affine(e)
    if form is not None:
        return form[0].get(k, 0)
    if e.name in ("add", "subtract"):
        a, b = slope(e.args[0], k), slope(e.args[1], k)
        if a is None or b is None:
            return None
        return a + b if e.name == "add" else a - b
    if e.name == "multiply" and e.args[1].name == "const":
        a = slope(e.args[0], k)
        return None if a is None else a * int(e.args[1].value)  # type: ignore[call-overload]
    return None if any(x.name == "axis" and x.value == k for x in s.postorder([e])) else 0


def build(coefficients: Mapping[int, int], offset: int) -> Expr:
    """The expression of an affine form."""
    total: Expr = s.const(offset, "int64")
    for k in sorted(coefficients):
        total = s.axis(k) * coefficients[k] + total
    return total


def bounds(e: Expr, sizes: Sequence[int]) -> tuple[int, int] | None:
    """Smallest and largest value over the loop ranges, None where unknown."""
    form = affine(e)
    if form is None:
        if e.name == "remainder" and e.args[1].name == "const" and e.args[1].value > 0:  # type: ignore[operator]
            return 0, e.args[1].value - 1  # type: ignore[operator]
        if e.name == "floor_divide" and e.args[1].name == "const" and e.args[1].value > 0:  # type: ignore[operator]
            inner = bounds(e.args[0], sizes)
            d = e.args[1].value
            return None if inner is None else (inner[0] // d, inner[1] // d)  # type: ignore[operator]
        if e.name == "add":
            a, b = bounds(e.args[0], sizes), bounds(e.args[1], sizes)
            return None if a is None or b is None else (a[0] + b[0], a[1] + b[1])
        if e.name == "multiply" and e.args[1].name == "const" and e.args[1].value >= 0:  # type: ignore[operator]
            a = bounds(e.args[0], sizes)
            c = e.args[1].value
            return None if a is None else (a[0] * c, a[1] * c)  # type: ignore[operator]
        return None
    low = high = form[1]
    for k, c in form[0].items():
        reach = c * (sizes[k] - 1)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high


def divide(e: Expr, d: int, sizes: Sequence[int]) -> tuple[Expr, Expr]:
    """(e // d, e % d) with what loop bounds prove taken out."""
    form = affine(e)
    if form is not None:
        whole = {k: c // d for k, c in form[0].items() if c % d == 0}
        rest = {k: c for k, c in form[0].items() if c % d}
        remainder = build(rest, form[1] % d)
        span = bounds(remainder, sizes)
        quotient = build(whole, form[1] // d)
        if span is not None and span[0] >= 0 and span[1] < d:
            return quotient, remainder
        if whole and span is not None and span[0] >= 0:
            return quotient + remainder // d, remainder % d
    span = bounds(e, sizes)
    if span is not None and span[0] >= 0 and span[1] < d:
        return s.const(0, "int64"), e
    return e // d, e % d


def simplify(e: Expr, sizes: Sequence[int]) -> Expr:
    """An index expression with divisions and comparisons that the loop bounds decide taken out."""
    memo: dict[int, Expr] = {}
    for x in s.postorder([e]):
        args = tuple(memo[id(a)] for a in x.args)
        made = x if all(a is b for a, b in zip(args, x.args, strict=True)) else s.rebuild(x, args)
        if (
            made.name in ("floor_divide", "remainder")
            and made.dtype == "int64"
            and made.args[1].name == "const"
        ):
            d = made.args[1].value
            if isinstance(d, int) and d > 0:
                made = divide(made.args[0], d, sizes)[0 if made.name == "floor_divide" else 1]
        elif made.name in ("less", "greater_equal") and made.args[0].dtype == "int64":
            span = bounds(made.args[0] - made.args[1], sizes)
            if span is not None and (span[1] < 0 or span[0] >= 0):
                made = s.const((span[1] < 0) == (made.name == "less"), "bool")
        memo[id(x)] = made
    return memo[id(e)]
