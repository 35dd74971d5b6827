"""`--fail-if`: comparisons of what was measured, with honest answers near the edge.

    median>10ms    peak>2GiB    k3.roof<40%    b>1.03*a    median>1.2*min

Names stand for intervals (a median and its confidence interval; exact numbers have no width). A
comparison that holds for one end of an interval and not for the other is undecided: exit code 4.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from staticgraph.cli.problems import CHECK, INCONCLUSIVE, Problem, meant
from staticgraph.cli.quantity import UNITS

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)(?P<unit>[A-Za-z]+|%)?"
    r"|(?P<name>[A-Za-z_][\w.]*)|(?P<sign><=|>=|==|!=|[-+*/()<>]))"
)


@dataclass(frozen=True)
class Range:
    """A number known to lie between two."""

    low: float
    high: float

    @classmethod
    def exact(cls, x: float) -> Range:
        return cls(x, x)


#: what a name stands for; None where it was not measured
Metrics = Mapping[str, Range | float | None]


def _combine(function: Callable[[float, float], float], x: Range, y: Range) -> Range:
    ends = [function(p, q) for p in (x.low, x.high) for q in (y.low, y.high)]
    return Range(min(ends), max(ends))


_COMPARE = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


class Check:
    """One expression, parsed; `holds(metrics)` is True, False or None for undecided."""

    def __init__(self, text: str):
        self.text = text
        self.tokens = self._tokens()
        self.at = 0
        self.left = self._sum()
        self.sign = self._take()[1]
        if self.sign not in _COMPARE:
            raise self._wrong()
        self.right = self._sum()
        if self.at < len(self.tokens):
            raise self._wrong()

    def _wrong(self) -> Problem:
        return Problem(f"--fail-if {self.text!r}: write NAME>VALUE, such as 'median>10ms'")

    def _tokens(self) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        at = 0
        text = self.text.rstrip()
        while at < len(text):
            m = _TOKEN.match(text, at)
            if m is None:
                raise self._wrong()
            at = m.end()
            if m["number"]:
                unit = m["unit"] or ""
                if unit and unit not in UNITS:
                    raise Problem(f"--fail-if {text!r}: no unit {unit!r}{meant(unit, UNITS, 16)}")
                found.append(("number", float(m["number"]) * UNITS.get(unit, 1.0)))
            else:
                kind = "name" if m["name"] else "sign"
                found.append((kind, m[kind]))
        return found

    def _take(self) -> tuple[str, Any]:
        if self.at >= len(self.tokens):
            raise self._wrong()
        self.at += 1
        return self.tokens[self.at - 1]

    def _next_is(self, signs: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at][1] in tuple(signs)

    def _sum(self) -> Any:
        made = self._product()
        while self._next_is("+-"):
            sign = self._take()[1]
            made = (operator.add if sign == "+" else operator.sub, made, self._product())
        return made

    def _product(self) -> Any:
        made = self._factor()
        while self._next_is("*/"):
            sign = self._take()[1]
            made = (operator.mul if sign == "*" else operator.truediv, made, self._factor())
        return made

    def _factor(self) -> Any:
        kind, value = self._take()
        if kind == "number":
            return Range.exact(value)
        if kind == "name":
            return value
        if value == "-":
            return (operator.sub, Range.exact(0.0), self._factor())
        if value != "(":
            raise self._wrong()
        made = self._sum()
        if self._take()[1] != ")":
            raise self._wrong()
        return made

    # -- with numbers -----------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """The names that it asks for."""
        return [value for kind, value in self.tokens if kind == "name"]

    def holds(self, metrics: Metrics) -> bool | None:
        """Whether the comparison is true; None where the noise, or a missing number, hides it."""
        x, y = self._value(self.left, metrics), self._value(self.right, metrics)
        if x is None or y is None:
            return None
        compare = _COMPARE[self.sign]
        answers = {compare(p, q) for p in (x.low, x.high) for q in (y.low, y.high)}
        return answers.pop() if len(answers) == 1 else None

    def _value(self, tree: Any, metrics: Metrics) -> Range | None:
        if isinstance(tree, Range):
            return tree
        if isinstance(tree, str):
            found = metrics[tree]
            return found if isinstance(found, Range) or found is None else Range.exact(found)
        function, left, right = tree
        x, y = self._value(left, metrics), self._value(right, metrics)
        if x is None or y is None or (function is operator.truediv and y.low <= 0 <= y.high):
            return None
        return _combine(function, x, y)


def parse_checks(texts: Sequence[str], known: Sequence[str]) -> list[Check]:
    """The checks of a command line, refused before any work is done.

    `known` are the names a command measures; `k#.x` stands for `x` of every kernel.
    """
    checks = [Check(text) for text in texts]
    for check in checks:
        for name in check.names:
            if re.sub(r"^k\d+\.", "k#.", name) not in known:
                raise Problem(f"--fail-if {check.text!r}: no {name!r}{meant(name, known, 20)}")
    return checks


def verdict(checks: Sequence[Check], metrics: Metrics, tell: Callable[[str], None]) -> int:
    """The exit code: 0, 3 where a check holds, 4 where one is undecided. Says which."""
    code = 0
    for check in checks:
        for name in check.names:
            if name not in metrics:
                raise Problem(f"--fail-if {check.text!r}: there is no kernel {name.split('.')[0]}")
        found = check.holds(metrics)
        if found:
            tell(f"failed: {check.text}")
            code = CHECK
        elif found is None:
            tell(f"undecided: {check.text} (within the noise, or not measured)")
            code = code or INCONCLUSIVE
    return code
