"""A study as one HTML file: no network, no script, and the study itself as JSON in it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path

from staticgraph.profiling import layout, units
from staticgraph.profiling.pagedata import embedded
from staticgraph.study import pictures, text
from staticgraph.study.rows import Study

_PLANS = {
    "memory": "What is live at each step, the largest values of the fullest step by name.",
    "grid": "A row for each value, a column for each step: what is computed and kept when.",
}


@cache
def _style() -> str:
    return (Path(layout.__file__).parent / "page.css").read_text(encoding="utf-8")


def page(study: Study) -> str:
    """See `Study.to_html`."""
    name = escape(study.name or "plain dag")
    kind, data = embedded(study.to_json())
    body = "\n".join([_curves(study), _table(study), *_plans(study)])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="staticgraph">
<title>{name}: memory or recomputation</title>
<style>
{_style()}
.frame svg {{ max-width: 100%; height: auto; background: #fff; }}
</style>
</head>
<body>
<header>
<p class="brand">staticgraph memory study</p>
<h1>{name}</h1>
<p class="lead">{escape(_lead(study))}</p>
</header>
<main>
{body}
</main>
<script type="{kind}" id="staticgraph-study">{data}</script>
</body>
</html>
"""


def _lead(study: Study) -> str:
    parts = [f"{units.size(study.peak)} without a budget", f"{len(study.dag)} values"]
    parts.append(f"no plan below {units.size(study.floor)}")
    if study.predicted is not None:
        parts.append(f"a call takes {units.seconds(study.predicted)}")
    if study.threads:
        parts.append(f"{study.threads} thread{'s' * (study.threads != 1)}")
    if study.interrupted:
        parts.append("interrupted: not all points are there")
    return "  ·  ".join(parts)


def _section(title: str, note: str, inner: str) -> str:
    return f'<section><h2>{escape(title)}</h2>\n<p class="note">{escape(note)}</p>{inner}</section>'


def _curves(study: Study) -> str:
    note = "Extra time over memory; in the shaded region no plan exists, whatever the strategy."
    return _section("Trade-off", note, f'<div class="frame">{pictures.pareto(study)}</div>')


def _table(study: Study) -> str:
    chosen = text.titles(study)
    head = "".join(f"<th{_left(t)}>{escape(t)}</th>" for t in chosen)
    rows = "\n".join(
        "<tr>" + "".join(_cell(t, row[t]) for t in chosen) + "</tr>"
        for row in (text.cells(study, p) for p in study.points)
    )
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>"
    note = "A row for each strategy and budget. The gap is what a better plan could save at most."
    return _section("Plans", note, f'<div class="wide">{table}</div>')


def _left(title: str) -> str:
    return ' class="left"' if title in text.LEFT else ""


def _cell(title: str, value: str) -> str:
    return f"<td{_left(title)}>{escape(value)}</td>"


def _plans(study: Study) -> Sequence[str]:
    """The pictures of the plan of least bytes of each strategy, the first ones open."""
    made = []
    for strategy in study.strategies:
        try:
            point = study.find(strategy)
        except LookupError:
            continue
        at = f"{strategy} within {units.size(point.budget)}"
        for picture, note in _PLANS.items():
            drawn = study.to_svg(picture, strategy=strategy)
            opened = "" if made[2:] else " open"
            made.append(
                f"<section><details{opened}><summary>{escape(at)}: {picture}</summary>"
                f'<p class="note">{note}</p><div class="frame">{drawn}</div></details></section>'
            )
    return made
