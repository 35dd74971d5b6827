"""The report inside its page: written, found and read again."""

from __future__ import annotations

import base64
import gzip
import re

from staticgraph.errors import ReportError

#: reports larger than this are compressed in the page
PLAIN_BYTES = 200_000


def embedded(text: str) -> tuple[str, str]:
    """(MIME type, content) of the script element with the report. '<' cannot end it early."""
    if len(text) <= PLAIN_BYTES:
        return "application/json", text.replace("<", "\\u003c")
    return "application/gzip", base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


_ELEMENT = re.compile(
    r'<script type="(application/\w+)" id="staticgraph-report">(.*?)</script>', re.S
)


def is_page(text: str) -> bool:
    """Whether a file's text is HTML."""
    return text.lstrip()[:15].lower().startswith(("<!doctype html", "<html"))


def report_in(text: str, name: str) -> str:
    """The JSON of the report in a page."""
    found = _ELEMENT.search(text)
    if found is None:
        raise ReportError(f"{name} is a page without a profile of staticgraph in it")
    if found[1] == "application/json":
        return found[2]
    try:
        return gzip.decompress(base64.b64decode(found[2])).decode()
    except (ValueError, OSError, EOFError) as error:
        raise ReportError(f"{name} is a damaged profile: {error}") from None
