"""Panes of generated source and assembly, as many as a page has room for."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import NamedTuple

from staticgraph.profiling import assembly
from staticgraph.profiling.rows import Profile


class Code(NamedTuple):
    """What there is to see of a kernel."""

    source: str
    asm: str


def panes(report: Profile, codes: dict[str, Code], room: int) -> Iterator[str]:
    """Sources and assembly, the dearest kernels first, in so many bytes."""
    rows = sorted((r for r in report.kernels if r.key), key=lambda r: -r.share)
    known = [r for r in rows if r.key in codes]
    if not known:
        yield (
            '<p class="note">The kernels are not in the kernel cache of the machine that wrote this'
            " page.</p>"
        )
        return
    room -= 400 * len(rows) + 1000
    sources, room = _fitting({r.key: codes[r.key].source for r in known}, room)
    asms, _ = _fitting({r.key: codes[r.key].asm for r in known}, room)
    yield (
        '<p class="note">The Python that was generated for each kernel, and the machine code that'
        " LLVM made of it. Kernels are explicit SIMD.</p>"
    )
    shown: dict[str, int] = {}
    for r in rows:
        name = f"#{r.index} {escape(r.name)} <small>{escape(r.label)}</small>"
        if r.key in shown:
            first = shown[r.key]
            same = f'the code of <a href="#c{first}">#{first}</a>'
            yield f'<p class="note same" id="c{r.index}">{name} is {same}.</p>'
            continue
        shown[r.key] = r.index
        panes = _pane("Source", sources.get(r.key)) + _assembly(asms.get(r.key))
        missing = (
            '<p class="note">Left out to keep this page small: staticgraph explain shows it.</p>'
        )
        yield f'<details id="c{r.index}"><summary>{name}</summary>{panes or missing}</details>\n'


def _fitting(texts: dict[str, str], room: int) -> tuple[dict[str, str], int]:
    """As many texts as there is room for, escaped; what is left of it."""
    found = {}
    for key, text in texts.items():
        made = escape(text, quote=False)
        if text and len(made.encode()) <= room:
            found[key] = made
            room -= len(made.encode())
    return found, room


def _pane(title: str, text: str | None) -> str:
    if not text:
        return ""
    lines = text.count("\n") + 1
    return (
        f"<details><summary>{title} <small>{lines} lines</small></summary>"
        f"<pre>{text}</pre></details>"
    )


def _assembly(text: str | None) -> str:
    if not text:
        return ""
    w = assembly.widths(text)
    title = "Assembly"
    if w is not None and w.total:
        title += (
            f" <small>{100 * w.packed:.0f} % of its floating-point instructions are packed: zmm"
            f" {w.zmm}, ymm {w.ymm}, xmm {w.xmm}, scalar {w.scalar};</small>"
        )
    return _pane(title, text)
