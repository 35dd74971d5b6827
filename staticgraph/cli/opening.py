"""`show --open` and `--open-trace`: a report in the user's browser."""

from __future__ import annotations

import json
import tempfile
import webbrowser
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from staticgraph.cli.problems import failed
from staticgraph.cli.terminal import Terminal
from staticgraph.profiling.report import Report

#: the one place that ui.perfetto.dev may fetch a trace from; pages of files may not hand it over
PERFETTO, PORT = "https://ui.perfetto.dev", 9001


def open_page(report: Report, terminal: Terminal, source: bool) -> None:
    """Write the page to a temporary file, which the browser reads after we have ended."""
    folder = Path(tempfile.mkdtemp(prefix="staticgraph-"))
    place = folder / "profile.html"
    place.write_text(report.to_html(source=source), encoding="utf-8")
    terminal.remark(f"wrote {place}")
    _browse(place.as_uri(), terminal)


def open_trace(report: Report, terminal: Terminal) -> None:
    """Serve the trace on this machine, to Perfetto's page alone, until it was fetched once."""
    text = json.dumps(report.to_trace()).encode()
    try:
        server = HTTPServer(("127.0.0.1", PORT), partial(_Once, text))
    except OSError as error:
        raise failed(f"--open-trace: port {PORT} of 127.0.0.1: {error.strerror}") from None
    with server:
        server.fetched = False  # type: ignore[attr-defined]
        _browse(f"{PERFETTO}/#!/?url=http://127.0.0.1:{PORT}/trace.json", terminal)
        terminal.remark("waiting for the browser to fetch the trace; Ctrl-C ends it")
        while not server.fetched:  # type: ignore[attr-defined]
            server.handle_request()


def _browse(url: str, terminal: Terminal) -> None:
    if not webbrowser.open(url):
        terminal.problem(f"no browser found; open {url}")


class _Once(BaseHTTPRequestHandler):
    """Answers /trace.json, and says that it did."""

    def __init__(self, text: bytes, *given: object):
        self.text = text
        super().__init__(*given)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self.path != "/trace.json":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.text)))
        self.send_header("Access-Control-Allow-Origin", PERFETTO)
        self.end_headers()
        self.wfile.write(self.text)
        self.server.fetched = True  # type: ignore[attr-defined]

    def log_message(self, *given: object) -> None:
        """Nothing of this is for the terminal."""
