"""A study as a table and as CSV."""

from __future__ import annotations

import csv as csvfile
import io

from staticgraph.profiling import units
from staticgraph.study.rows import Point, Study

TITLES = (
    "strategy", "budget", "planned", "allocated", "measured", "predicted", "time", "slower",
    "extra flops", "extra cost", "gap", "bits", "recomputed",
)  # fmt: skip
#: what a column shows, where that may be unknown
_SHOWN = {
    "allocated": "allocated", "measured": "measured", "predicted": "predicted", "time": "seconds",
    "slower": "slowdown", "extra flops": "extra_flops", "bits": "equal",
}  # fmt: skip
_FIELDS = (
    "strategy", "budget", "status", "planned", "allocated", "measured", "extra", "bound", "gap",
    "predicted", "seconds", "base_seconds", "extra_flops", "equal", "plan_seconds",
)  # fmt: skip
#: columns of words
LEFT = ("strategy", "bits", "recomputed")
_NAMES = 4


def titles(study: Study) -> tuple[str, ...]:
    """The columns that have something to say."""

    def says(title: str) -> bool:
        if title == "predicted" and study.flops is None:
            return False  # costs of a plain dag are in units of its own
        field = _SHOWN.get(title)
        return field is None or any(getattr(p, field) is not None for p in study.points)

    return tuple(filter(says, TITLES))


def cells(study: Study, point: Point) -> dict[str, str]:
    """A row, by the titles of its columns."""
    share = f" {100 * point.budget / study.peak:.0f}%" if study.peak else ""
    row = dict.fromkeys(TITLES, "-")
    row |= {"strategy": point.strategy, "budget": f"{units.size(point.budget)}{share}"}
    if not point.ok:
        why = point.status.removeprefix(f"{point.strategy}: ")
        return row | {"recomputed": why if why.startswith("no plan") else f"no plan: {why}"}
    for title, value in (
        ("planned", point.planned), ("allocated", point.allocated), ("measured", point.measured),
    ):  # fmt: skip
        row[title] = "-" if value is None else units.size(value)
    for title, value in (("predicted", point.predicted), ("time", point.seconds)):
        row[title] = "-" if value is None else units.seconds(value)
    for title, value in (("extra cost", point.extra), ("gap", point.gap)):
        row[title] = "-" if value is None else f"{100 * value:.2f}%"
    if point.slowdown is not None:
        row["slower"] = f"{100 * (point.slowdown - 1):+.1f}%"
    if point.extra_flops is not None and study.flops:
        row["extra flops"] = f"{100 * point.extra_flops / study.flops:+.1f}%"
    row["bits"] = {True: "equal", False: "DIFFER", None: "-"}[point.equal]
    row["recomputed"] = _names(point.recomputed)
    return row


def _names(found: list[str]) -> str:
    more = f" +{len(found) - _NAMES}" if len(found) > _NAMES else ""
    return (" ".join(s.replace(" x", "x") for s in found[:_NAMES]) + more) or "none"


def table(study: Study) -> str:
    """Columns of equal width, numbers to the right."""
    chosen = titles(study)
    rows = [chosen, *([cells(study, p)[t] for t in chosen] for p in study.points)]
    sizes = [max(len(row[k]) for row in rows) for k in range(len(chosen))]
    lines = []
    for row in rows:
        parts = [
            c.ljust(size) if title in LEFT else c.rjust(size)
            for c, size, title in zip(row, sizes, chosen, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines) + "\n"


def csv(study: Study) -> str:
    """A line for each point, in bytes and seconds; what is unknown is empty."""
    file = io.StringIO()
    writer = csvfile.writer(file, lineterminator="\n")
    writer.writerow([*_FIELDS, "recomputed"])
    for p in study.points:
        writer.writerow([*(getattr(p, f) for f in _FIELDS), " ".join(p.recomputed)])
    return file.getvalue()
