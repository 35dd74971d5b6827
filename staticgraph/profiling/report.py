"""`Report`: the result of a profile, and how it is written and read.

This file and what it imports load neither Numba nor a kernel, so that a saved profile is shown at
once on a machine that could not run it.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from staticgraph.errors import ReportError
from staticgraph.profiling import export, html, notebook, pagedata, table
from staticgraph.profiling.pagecode import Code
from staticgraph.profiling.rows import SCHEMA, Profile, decode, encode


class Report(Profile):
    """A profile that can be shown, written and read; see `staticgraph.profiling.rows`."""

    def to_json(self, indent: int | None = None) -> str:
        """The whole report as one JSON document; the same report gives the same bytes."""
        return json.dumps(encode(self), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, name: str = "profile") -> Report:
        """A report from its JSON. Raises ReportError for other documents and newer schemas."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ReportError(f"{name} is not JSON: {error}") from None
        check_schema(data, name)
        try:
            return decode(cls, data)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ReportError(f"{name} is a damaged profile: {error}") from None

    def save(self, path: str | os.PathLike) -> None:
        """Write JSON to a file, compressed where its name ends in .sgprof."""
        text = self.to_json().encode()
        if Path(path).suffix == ".sgprof":
            text = gzip.compress(text, mtime=0)
        Path(path).write_bytes(text)

    def to_csv(self) -> str:
        """The kernel table, one line per kernel, in the units of the fields."""
        return export.to_csv(self)

    def to_trace(self) -> dict[str, Any]:
        """Chrome's trace event format, for Perfetto: `json.dump` it."""
        return export.to_trace(self)

    def to_speedscope(self) -> dict[str, Any]:
        """speedscope's evented profiles, one per thread: `json.dump` it."""
        return export.to_speedscope(self)

    def to_folded(self) -> str:
        """Folded stacks `place;kernel;thread nanoseconds`, for flame graphs."""
        return export.to_folded(self)

    def table(
        self,
        width: int = 80,
        top: int = 20,
        sort: str = "time",
        *,
        select: str | None = None,
        by: str = "kernel",
    ) -> str:
        """The report as text of `width` columns; sort by time, waste, bytes, name or plan.

        `by` makes a row of each kernel, op, scope or line; `select` is a pattern on the rows'
        names. A width of 0 gives one record per line, with tabs between fields.
        """
        return table.render(self, width, top, sort, select=select, by=by)

    def __str__(self) -> str:
        return self.table()

    def to_html(self, source: bool = True, sections: Sequence[tuple[str, str]] = ()) -> str:
        """One HTML page: no network, readable without its script; `load_report` reads it again.

        `source` adds the kernels' generated code and assembly, as far as this process or the
        kernel cache of this machine still has them. `sections` are more to show, after the memory:
        (title, HTML) each, such as an inline SVG, or `<div class="frame">` around one. The page
        may fetch nothing and runs no script but its own; colours that suit light and dark are its
        variables (--ink, --soft, --rule, --paper, --panel, --accent, --hot). The `<title>` of an
        SVG element is shown at the pointer.
        """
        codes = self._codes() if source else None
        return html.page(self, codes, self.to_json(), sections)

    def _codes(self) -> dict[str, Code]:
        # Here, because it loads LLVM, which nothing else of a report needs.
        from staticgraph.kernels import recalled
        from staticgraph.native import assembly

        found = {}
        for row in self.kernels:
            made = recalled(row.name, row.key) if row.key and row.key not in found else None
            if made is not None:
                source, entry = made
                found[row.key] = Code(source, assembly(entry.bitcode))
        return found

    def _repr_html_(self) -> str:
        return notebook.small(self)

    def __repr__(self) -> str:
        return f"<Report of {len(self.kernels)} kernels, {self.wall.median:.3g} s>"


def check_schema(data: Any, name: str) -> None:
    """Refuse what is no profile, or one that a newer version wrote."""
    family, _, version = SCHEMA.partition("/")
    found = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(found, str) or not found.startswith(f"{family}/"):
        raise ReportError(f"{name} is no profile of staticgraph (no schema {SCHEMA!r} in it)")
    number = found.rpartition("/")[2]
    if not number.isdigit() or int(number) > int(version):
        raise ReportError(
            f"{name} was written by a newer staticgraph (schema {number});"
            f" this one reads schema {version}"
        )


def load_report(path: str | os.PathLike) -> Report:
    """A report that `Report.save` wrote, compressed or not, or a page of `Report.to_html`."""
    name = Path(path).name
    try:
        raw = Path(path).read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        text = raw.decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ReportError(f"{name} cannot be read: {error}") from None
    if pagedata.is_page(text):
        text = pagedata.report_in(text, name)
    return Report.from_json(text, name)
