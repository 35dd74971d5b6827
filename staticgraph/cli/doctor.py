"""`staticgraph doctor`: what this installation has, and whether it computes right."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import threadpoolctl

from staticgraph import cudarun, kernelcache, native
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.problems import FAILED
from staticgraph.cli.terminal import Terminal
from staticgraph.compile import compile
from staticgraph.errors import TargetError
from staticgraph.frontend import input as graph_input
from staticgraph.gradient import grad
from staticgraph.kernelcache import KernelCache
from staticgraph.ops import tanh
from staticgraph.profiling import units
from staticgraph.profiling.machine import cpu_name, machine_file, versions
from staticgraph.profiling.rows import encode
from staticgraph.registry import OPS
from staticgraph.threads import default_threads, layer

_FILES = {"json": ".json"}
_WIDTHS = (("avx512f", 512), ("avx2", 256), ("avx", 256), ("sse2", 128), ("neon", 128))


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ok, note (worth knowing), or bad."""

    name: str
    state: str
    text: str


def run(o: Any) -> int:
    """The command."""
    terminal = Terminal(o)
    outputs = Outputs(o, "doctor", _FILES)
    if o.ops:
        for name in sorted(OPS):
            terminal.line(name)
        return 0
    found = findings()
    document = {"schema": "staticgraph.doctor/1", "findings": [encode(f) for f in found]}
    outputs.write("json", lambda: json.dumps(document))
    if not outputs.stdout_taken:
        for f in found:
            style = {"ok": "", "note": "yellow", "bad": "bold red"}[f.state]
            terminal.facts(f.name, f"{f.state}   {f.text}", style)
    return FAILED if any(f.state == "bad" for f in found) else 0


def findings() -> list[Finding]:
    """Everything that is looked at. What fails to be looked at is a finding too."""
    return [_looked(name, look) for name, look in _LOOKS]


def _looked(name: str, look: Callable[[], tuple[str, str]]) -> Finding:
    try:
        return Finding(name, *look())
    except Exception as error:  # a check that breaks must not hide the others
        return Finding(name, "bad", f"{type(error).__name__}: {error}")


def _versions() -> tuple[str, str]:
    known = "   ".join(f"{k} {v}" for k, v in versions().items())
    return "ok", f"{known}   Python {platform.python_version()}"


def _cpu() -> tuple[str, str]:
    physical = psutil.cpu_count(logical=False) or "?"
    return (
        "ok",
        f"{cpu_name()}   {physical} cores, {os.cpu_count()} threads, {sys.byteorder}-endian",
    )


def _vectors() -> tuple[str, str]:
    features = native.host()[1].split(",")
    for feature, width in _WIDTHS:
        if f"+{feature}" in features:
            fma = "with" if {"+fma", "+neon"} & set(features) else "without"
            return ("ok" if width >= 256 else "note"), f"{width} bits ({feature}), {fma} FMA"
    return "note", "no vector unit that this program knows"


def _pool() -> tuple[str, str]:
    held = layer()
    text = f"own {held.name}, {default_threads()} threads"
    return ("note", f"{text}: {held.note}") if held.note else ("ok", text)


def _blas() -> tuple[str, str]:
    held = [i for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas"]
    if not held:
        return "note", "NumPy's BLAS is not one that threadpoolctl knows; ours does not need it"
    names = [
        f"{i['internal_api']} {i.get('version') or ''}, {i['num_threads']} threads" for i in held
    ]
    return "ok", "   ".join([*names, "NumPy's; our own products use none"])


def _cache() -> tuple[str, str]:
    root, limit = kernelcache.directory(), kernelcache.limit_bytes()
    if limit == 0:
        return "note", f"{root} is off (STATICGRAPH_CACHE_SIZE=0): every process compiles again"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root, suffix=".sgk.tmp"):
            pass
    except OSError as error:
        return "note", f"{root} takes no files ({error.strerror}); set STATICGRAPH_CACHE_DIR"
    files, held = KernelCache(root, limit).usage()
    return "ok", f"{root}   {files} files, {units.size(held)} of {units.size(limit)}"


def _roofs() -> tuple[str, str]:
    path = machine_file()
    if not path.exists():
        return "note", "not measured yet -> staticgraph machine"
    day = time.strftime("%Y-%m-%d", time.localtime(path.stat().st_mtime))
    return "ok", f"measured {day} -> staticgraph machine"


def _cuda() -> tuple[str, str]:
    try:
        state = cudarun.device().state()
    except TargetError:
        return "note", "numba.cuda finds no GPU, no toolkit and no simulator"
    words = {
        "device": "a GPU is there",
        "toolkit": "no GPU; kernels can be compiled",
        "simulator": "Numba's simulator (NUMBA_ENABLE_CUDASIM)",
    }
    return ("ok" if state == "device" else "note"), words[state]


def _clock() -> tuple[str, str]:
    ticks = [time.perf_counter_ns() for _ in range(2000)]
    cost = float(np.median(np.diff(ticks)))
    return ("ok" if cost < 1000 else "note"), f"perf_counter_ns takes {cost:.0f} ns"


def _noise() -> tuple[str, str]:
    load, cores = psutil.getloadavg()[0], os.cpu_count() or 1
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    text = f"load {load:.1f} on {cores}"
    if governor.exists():
        text += f"   frequency governor {governor.read_text().strip()}"
    if load > 0.6 * cores:
        return "note", f"{text}: others use the cores, times will scatter"
    return "ok", text


def _self_test() -> tuple[str, str]:
    """Value and gradient of a small function, compiled, against NumPy."""
    begin = time.perf_counter()
    x, w = graph_input("x", (33, 17)), graph_input("w", (17, 5))
    y = (tanh(x @ w) ** 2).sum()
    fn = compile([y, grad(y, w)], [x, w])
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(t.shape).astype("f") for t in (x, w))
    value, slope = fn(a, b)
    h = np.tanh(a.astype("d") @ b.astype("d"))
    expected = a.T.astype("d") @ (2 * h * (1 - h * h))
    worst = max(
        abs(float(value) / float((h**2).sum()) - 1),
        float(np.abs(slope - expected).max() / np.abs(expected).max()),
    )
    took = units.seconds(time.perf_counter() - begin)
    text = f"value and gradient within {worst:.1e} of NumPy, {len(fn.kernels)} kernels in {took}"
    return ("ok" if worst < 1e-4 else "bad"), text


_LOOKS: list[tuple[str, Callable[[], tuple[str, str]]]] = [
    ("versions", _versions),
    ("cpu", _cpu),
    ("vectors", _vectors),
    ("threads", _pool),
    ("blas", _blas),
    ("cache", _cache),
    ("roofs", _roofs),
    ("cuda", _cuda),
    ("clock", _clock),
    ("noise", _noise),
    ("self-test", _self_test),
]
