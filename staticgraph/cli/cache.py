"""`staticgraph cache ls|stats|clear`: the compiled kernels on disk."""

from __future__ import annotations

import json
import time
from typing import Any

from staticgraph import kernelcache
from staticgraph.cli.columns import Column
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.terminal import Terminal
from staticgraph.kernelcache import KernelCache, Stored
from staticgraph.profiling import units

_FILES = {"json": ".json"}
_COLUMNS = [
    Column("kernel", "<", cut="right"),
    Column("key", "<"),
    Column("code"),
    Column("compile", drop=2),
    Column("used", drop=1),
]


def run(o: Any) -> int:
    """The command."""
    terminal = Terminal(o)
    outputs = Outputs(o, "cache", _FILES)
    cache = KernelCache(kernelcache.directory(), kernelcache.limit_bytes())
    if o.action == "clear":
        return _clear(cache, o, terminal)
    stored = sorted(cache.stored(), key=lambda e: -e.used)
    files, held = cache.usage()
    document = {
        "schema": "staticgraph.cache/1",
        "directory": str(cache.root),
        "files": files,
        "bytes": held,
        "limit": cache.limit,
        "kernels": [e._asdict() for e in stored],
    }
    outputs.write("json", lambda: json.dumps(document))
    if outputs.stdout_taken:
        return 0
    if o.action == "ls":
        terminal.table(_COLUMNS, [_row(e) for e in stored[: o.top or None]])
        if o.top and len(stored) > o.top:
            terminal.line(f"... {len(stored) - o.top} more (--top 0 shows all)")
        return 0
    spent = sum(e.seconds for e in stored)
    terminal.facts("directory", str(cache.root))
    terminal.facts("kernels", f"{len(stored)}   compiled in {units.seconds(spent)}")
    terminal.facts("size", f"{units.size(held)} of {units.size(cache.limit)}, {files} files")
    return 0


def _clear(cache: KernelCache, o: Any, terminal: Terminal) -> int:
    files, held = cache.usage()
    cache.clear()
    left, _ = cache.usage()
    terminal.line(f"removed {files - left} files, {units.size(held)}, from {cache.root}")
    return 0


def _row(e: Stored) -> list[str]:
    return [e.name, e.key[:12], units.size(e.size), units.seconds(e.seconds), _ago(e.used)]


def _ago(when: float) -> str:
    age = max(0.0, time.time() - when)
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if age >= size:
            return f"{age // size:.0f} {name} ago"
    return "just now"
