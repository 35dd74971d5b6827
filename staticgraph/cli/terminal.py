"""What the user sees: data on stdout, progress and remarks on stderr, colour where it is wanted."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from staticgraph.cli import columns as c
from staticgraph.profiling import table

#: told how much is done, of how much (None: unknown)
Advance = Callable[[int, int | None], None]


def wants_colour(stream: TextIO, choice: str) -> bool:
    """`--color` decides, then NO_COLOR, then FORCE_COLOR, then what the terminal is."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.environ.get("TERM") not in ("dumb", "unknown") and stream.isatty()


def _console(stream: TextIO, choice: str) -> Console:
    colour = wants_colour(stream, choice)
    return Console(
        file=stream,
        force_terminal=colour or None,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
        markup=False,
        emoji=False,
    )


class Terminal:
    """Both streams of one command."""

    def __init__(self, o: Any):
        self.plain: bool = o.plain
        self.quiet: bool = o.quiet
        self.verbose: bool = o.verbose
        choice = "never" if o.plain else o.color
        self.out = _console(sys.stdout, choice)
        self.err = _console(sys.stderr, choice)
        # rich leaves a column free on old Windows terminals only; elsewhere it asks COLUMNS first.
        self.width = self.out.width

    def line(self, text: str = "", style: str = "") -> None:
        """A line of data. It is never wrapped."""
        if self.plain:  # rich would make spaces of tabs
            print(text, file=self.out.file)
            return
        self.out.print(Text(text, style), soft_wrap=True)

    def facts(self, label: str, text: str, style: str = "") -> None:
        """A label and facts, three spaces apart, on as many lines as they need."""
        parts = text.split("   ")
        if self.plain:
            self.line("\t".join([label, *parts]))
            return
        for line in table.flowed([(label, *parts)], self.width):
            begin = min(table.WORD, len(line)) if line.startswith(label) else 0
            self.out.print(
                Text.assemble((line[:begin], "cyan"), (line[begin:], style)), soft_wrap=True
            )

    def table(self, columns: Sequence[c.Column], rows: Sequence[Sequence[str]]) -> None:
        """A table in the width there is."""
        made = c.records(columns, rows) if self.plain else c.lines(columns, rows, self.width)
        for k, line in enumerate(made):
            self.line(line, "" if self.plain or k else "bold")

    def report(self, text: str) -> None:
        """A report's own text: the labels at the begin of its lines are coloured."""
        for line in text.rstrip("\n").split("\n"):
            if self.plain:
                self.line(line)
                continue
            label = line.partition(" ")[0]
            tinted = Text(line)
            if label.isalpha() and line[len(label) : len(label) + 2] == "  ":
                tinted.stylize("yellow" if label == "advice" else "cyan", 0, len(label))
            self.out.print(tinted, soft_wrap=True)

    def remark(self, text: str) -> None:
        """Something worth knowing that is no data."""
        if not self.quiet:
            self.err.print(Text(text, "dim"), soft_wrap=True)

    def problem(self, text: str) -> None:
        """Something that decides the exit code."""
        self.err.print(Text(text), soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Advance]:
        """A bar on a terminal's stderr, nothing elsewhere; lines where one asked for them."""
        if self.verbose:
            yield self._told(what)
            return
        if self.quiet or self.plain or not self.err.is_terminal or not sys.stderr.isatty():
            yield lambda done, total: None
            return
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            console=self.err,
            transient=True,
        )
        with bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def _told(self, what: str) -> Advance:
        """At most one line a second, and one at the end."""
        begin = last = time.perf_counter()

        def advance(done: int, total: int | None) -> None:
            nonlocal last
            now = time.perf_counter()
            if now - last >= 1 or done == total:
                last = now
                of = "" if total is None else f" of {total}"
                self.remark(f"{now - begin:5.1f} s  {what}: {done}{of}")

        return advance
