"""A report in the cell of a notebook."""

from __future__ import annotations

from html import escape

from staticgraph.profiling import units
from staticgraph.profiling.rows import Profile

#: kernels shown, the dearest
ROWS = 10


def small(report: Profile) -> str:
    """A table for a notebook's cell: no script, no style sheet."""
    m, w = report.model, report.wall
    rows = sorted(report.kernels, key=lambda r: -r.share)
    shown = rows[:ROWS]
    heads = ["#", "kernel", "median", "%", "GB/s", "GFLOP/s", "roof", "bound", "where"]
    cells = [
        (
            str(r.index),
            escape(r.name),
            units.seconds(r.median) if r.calls else "not run",
            units.percent(r.share),
            units.digits(r.gbps),
            units.digits(r.gflops),
            "" if r.roof_percent is None else f"{r.roof_percent:.0f} %",
            r.bound or "",
            escape(r.label),
        )
        for r in shown
    ]
    left = (1, 7, 8)
    top, *made = (
        "<tr>" + "".join(
            f'<{tag} style="text-align:{"left" if k in left else "right"}">{cell}</{tag}>'
            for k, cell in enumerate(row)
        ) + "</tr>"
        for tag, row in [("th", heads), *(("td", row) for row in cells)]
    )  # fmt: skip
    rest = rows[len(shown) :]
    more = (
        f"{len(rest)} more kernels, {units.percent(sum(r.share for r in rest))} %" if rest else ""
    )
    return (
        f"<p><b>{escape(m.name or 'model')}</b> {units.seconds(w.median)}"
        f" [{units.seconds(w.ci.low)}, {units.seconds(w.ci.high)}], {m.kernels} kernels take"
        f" {units.percent(report.coverage.kernels)} %, memory peak {units.size(report.memory.peak)}"
        f"</p><table><thead>{top}</thead><tbody>{''.join(made)}</tbody></table><p>{more}</p>"
    )
