"""Every error a user can meet, as one tree.

StaticGraphError
├── GraphTypeError   (TypeError)          wrong dtype, wrong kind of argument
├── ShapeError       (ValueError)         shapes, axes, indices that do not fit
├── InputError       (ValueError)         a call with missing, surplus or unfit arrays
├── GradientError    (ValueError)         a derivative that does not exist
├── BudgetError      (ValueError)         a memory budget below the floor
├── NumericError     (ArithmeticError)    bad numbers met while running
├── ParseError       (ValueError)         text that is not a graph
├── DagError         (ValueError)         costs and bytes, or a plan for them, that make no sense
├── ReportError      (ValueError)         a file that holds no profile this version reads
├── TargetError      (RuntimeError)       a target this machine does not have
└── InternalError    (RuntimeError)       our fault: an invariant broke

The message says what was required and what was given, and ends with the user's own file and line.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
# With the checkout layout (ops/ and passes/ beside staticgraph/) the package spans three folders.
_ROOTS = tuple(
    os.path.join(base, part) + os.sep
    for base, part in (
        (os.path.dirname(_HERE), "staticgraph"),
        (os.path.dirname(_HERE), "ops"),
        (os.path.dirname(_HERE), "passes"),
    )
)


_COMMAND_LINE = os.path.join(_HERE, "cli") + os.sep


def is_ours(filename: str) -> bool:
    """Whether a file belongs to this package."""
    return filename.startswith(_ROOTS)


def user_frame() -> tuple[str, int] | None:
    """File and line of the innermost caller outside this package, or None."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_COMMAND_LINE):
            return None  # what called the command line, click and Python, is no line of the user's
        if not is_ours(name) and not name.startswith("<"):
            return name, frame.f_lineno
        frame = frame.f_back
    return None


class GradientLine(tuple):
    """The (file, line) of an op whose derivative a node is part of.

    `by` is the line that asked for the derivative.
    """

    by: tuple[str, int]

    def __new__(cls, where: tuple[str, int], by: tuple[str, int]):
        made = super().__new__(cls, where)
        made.by = by
        return made

    def __getnewargs__(self):
        return tuple(self), self.by


def gradient_line(
    where: tuple[str, int] | None, by: tuple[str, int] | None
) -> tuple[str, int] | None:
    """Where a node made while differentiating comes from, as far as anything is known."""
    return GradientLine(where or by, by or where) if where or by else None


def shorten(where: tuple[str, int] | None) -> str:
    """'model.py:12' from (path, line)."""
    return f"{os.path.basename(where[0])}:{where[1]}" if where else ""


class StaticGraphError(Exception):
    """Base of all errors; `where` is the user's (file, line) that led to it."""

    def __init__(self, message: str, where: tuple[str, int] | None = None):
        self.where = where or user_frame()
        self.summary = message
        super().__init__(f"{message}  [{shorten(self.where)}]" if self.where else message)


class GraphTypeError(StaticGraphError, TypeError):
    """A dtype or a kind of argument that the operation does not take."""


class ShapeError(StaticGraphError, ValueError):
    """Shapes, axes or indices that do not fit."""


class InputError(StaticGraphError, ValueError):
    """A call of a compiled function with arrays that do not fit its inputs."""


class GradientError(StaticGraphError, ValueError):
    """A derivative that was asked for but does not exist."""


class BudgetError(StaticGraphError, ValueError):
    """A memory budget below what any plan needs."""


class NumericError(StaticGraphError, ArithmeticError):
    """Numbers met while running that the operation cannot take, such as an index out of range.

    `finding` says what a function compiled with check_numerics met, and is None elsewhere.
    """

    def __init__(
        self, message: str, where: tuple[str, int] | None = None, finding: Any | None = None
    ):
        super().__init__(message, where)
        self.finding = finding
        if finding is not None:
            self.args = (f"{self}\n{finding.details}",)


class ParseError(StaticGraphError, ValueError):
    """Text that is not a graph."""


class DagError(StaticGraphError, ValueError):
    """A graph of costs and bytes, or a plan for one, that makes no sense."""


class ReportError(StaticGraphError, ValueError):
    """A file that holds no profile, or one of a newer schema."""


class TargetError(StaticGraphError, RuntimeError):
    """A compilation target that this machine does not have."""


class InternalError(StaticGraphError, RuntimeError):
    """An invariant of this package broke; please report it with the graph."""
