"""Errors as the user of a command line meets them: one line of what, one of cure, an exit code."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable

import click

FAILED = 1  # the model: import, trace, compile, run
USAGE = 2
CHECK = 3  # --fail-if
INCONCLUSIVE = 4
INTERRUPTED = 130


class Problem(click.ClickException):
    """Ends the command with `error: MESSAGE` and an exit code; `detail` is printed below it."""

    def __init__(self, message: str, code: int = USAGE, detail: str = ""):
        super().__init__(message)
        self.exit_code = code
        self.detail = detail


def failed(message: str, detail: str = "") -> Problem:
    """The model itself does not work."""
    return Problem(message, FAILED, detail)


def meant(word: str, words: Iterable[str], also: int = 8) -> str:
    """`; did you mean 'x'? (also: y, z)` for a word that is none of those known."""
    known = list(dict.fromkeys(words))
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    # Of equally close words the one that begins alike is meant.
    close = sorted(near, key=lambda w: -_alike(w, word))[:1]
    others = [w for w in known if w not in close]
    shown = ", ".join(others[:also]) + (", ..." if len(others) > also else "")
    if close:
        return f"; did you mean {close[0]!r}?" + (f" (also: {shown})" if shown else "")
    return f"; there is {shown}" if shown else "; there is none"


def _alike(a: str, b: str) -> int:
    """How many characters two words begin with in common."""
    return sum(1 for _ in itertools.takewhile(lambda p: p[0] == p[1], zip(a, b, strict=False)))
