"""Tables of a given width: columns are dropped, not wrapped; a path is cut from the left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GAP = 2
LEAST = 16  # characters that a cut column keeps


@dataclass(frozen=True)
class Column:
    """A column: `drop` says when it goes (highest first, 0 never), `cut` which end may be lost."""

    title: str
    align: str = ">"
    drop: int = 0
    cut: str = ""  # '' | left | right


def lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """The header and the rows, no line longer than `width`."""
    chosen = list(range(len(columns)))
    sizes = [
        max([len(c.title), *(len(row[k]) for row in rows)], default=0)
        for k, c in enumerate(columns)
    ]

    def total() -> int:
        return sum(sizes[k] for k in chosen) + GAP * (len(chosen) - 1)

    def slack() -> int:
        return sum(max(0, sizes[k] - LEAST) for k in chosen if columns[k].cut)

    while total() - slack() > width and any(columns[k].drop for k in chosen):
        chosen.remove(max(chosen, key=lambda k: columns[k].drop))
    for k in chosen:
        if columns[k].cut and total() > width:
            sizes[k] = max(LEAST, sizes[k] - (total() - width))
    made = []
    for cells in ([c.title for c in columns], *rows):
        parts = [
            f"{_cut(cells[k], sizes[k], columns[k].cut):{columns[k].align}{sizes[k]}}"
            for k in chosen
        ]
        made.append((" " * GAP).join(parts).rstrip())
    return made


def _cut(text: str, size: int, end: str) -> str:
    if len(text) <= size or not end:
        return text
    return f"…{text[len(text) - size + 1 :]}" if end == "left" else f"{text[: size - 1]}…"


def records(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """`--plain`: one record per line, a tab between fields."""
    return ["\t".join(c.title for c in columns), *("\t".join(row) for row in rows)]
