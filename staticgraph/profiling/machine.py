"""This machine's roofs, measured with kernels of our own: bandwidth of each level of memory, peak
of fused multiply-adds and of exp, matrix products. A measurement costs some seconds and is kept on
disk. One made while other programs ran is made again later, until the machine was free once.

Bandwidths count the bytes a program names, as the rows of a profile do: a triad a = b + s c moves
three arrays, whatever the caches bring in before writing.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from staticgraph import kernelcache, native
from staticgraph.codegen import launchwords as w
from staticgraph.codegen.spec import HEADER
from staticgraph.compile import compile as compile_graph
from staticgraph.frontend import input as graph_input
from staticgraph.kernels import KernelSource, compile_kernels
from staticgraph.launch import Frame, Program
from staticgraph.ops.matmul import matmul
from staticgraph.profiling.rows import Level, Machine, Roof, decode, encode
from staticgraph.threads import default_threads, threads

SCHEMA = "staticgraph.machine/2"
#: rounds are short, so that some fall between the time slices of other programs, and many
ROUND_SECONDS = 0.001
LEAST_ROUNDS, MOST_ROUNDS = 9, 200
ROOF_SECONDS = 0.12
#: the DRAM test may take this part of main memory, and no more than this
DRAM_PART, DRAM_MOST = 8, 1 << 28
GEMM = 768
#: the machine was busy where more than this part of its cores was, or where half of the rounds of a
#: peak of arithmetic, which nothing but other programs slows down, stayed this far below the best
BUSY_LOAD, BUSY_PART = 0.6, 0.85
#: seconds until roofs of a busy machine are measured again
AGAIN_SECONDS = 900

#: bytes between the arrays of a triad: at equal places of a page, loads would wait for stores
GAP = 448
#: room for the gaps, and for starting at a cache line
SLACK = 1024

# Buffers of all three: data, elements of one thread's part, repetitions, results.
_TRIAD = f"""
def k(lo, hi, bufs, scratch):
    n = ptr(bufs, 1)
    s = splat_f32(0.5)
    for t in range(lo, hi):
        a = ptr(bufs, 0) + t * (n * 12 + {SLACK})
        b = a + n * 4 + {GAP}
        c = b + n * 4 + {GAP}
        for r in range(ptr(bufs, 2)):
            for i in range(0, n, 64):
                vst_f32(a, i, fma(vld_f32(c, i), s, vld_f32(b, i)))
                vst_f32(a, i + 16, fma(vld_f32(c, i + 16), s, vld_f32(b, i + 16)))
                vst_f32(a, i + 32, fma(vld_f32(c, i + 32), s, vld_f32(b, i + 32)))
                vst_f32(a, i + 48, fma(vld_f32(c, i + 48), s, vld_f32(b, i + 48)))
"""
_SUMS = 8
_TOTAL = " + ".join(f"s{j}" for j in range(_SUMS))


def _read_source() -> str:
    """A sum with independent partial sums: one load per addition."""
    return "\n".join([
        "def k(lo, hi, bufs, scratch):",
        "    n = ptr(bufs, 1)",
        "    for t in range(lo, hi):",
        "        a = ptr(bufs, 0) + t * n * 4",
        *(f"        s{j} = splat_f32(0.0)" for j in range(_SUMS)),
        "        for r in range(ptr(bufs, 2)):",
        f"            for i in range(0, n, {16 * _SUMS}):",
        *(f"                s{j} = s{j} + vld_f32(a, i + {16 * j})" for j in range(_SUMS)),
        f"        vst_f32(ptr(bufs, 3), t * 16, {_TOTAL})\n",
    ])  # fmt: skip


def _fma_source(code: str) -> str:
    """Independent chains, as many as latency times ports of today's cores ask for."""
    return "\n".join([
        "def k(lo, hi, bufs, scratch):",
        "    for t in range(lo, hi):",
        f"        x = vld_{code}(ptr(bufs, 0), 0)",
        f"        y = vld_{code}(ptr(bufs, 0), 16)",
        *(f"        s{j} = splat_{code}({j}.0)" for j in range(_SUMS)),
        "        for r in range(ptr(bufs, 2)):",
        *(f"            s{j} = fma(s{j}, x, y)" for j in range(_SUMS)),
        f"        vst_{code}(ptr(bufs, 3), t * 16, {_TOTAL})\n",
    ])  # fmt: skip


def _exp_source(code: str) -> str:
    """Independent values that stay near 1."""
    return "\n".join([
        "def k(lo, hi, bufs, scratch):",
        "    for t in range(lo, hi):",
        f"        x = vld_{code}(ptr(bufs, 0), 0)",
        *(f"        s{j} = x" for j in range(_SUMS)),
        "        for r in range(ptr(bufs, 2)):",
        *(f"            s{j} = exp(s{j} - x)" for j in range(_SUMS)),
        f"        vst_{code}(ptr(bufs, 3), t * 16, {_TOTAL})\n",
    ])  # fmt: skip


class Probe:
    """A kernel with one tile per thread, timed for some number of inner repetitions."""

    def __init__(self, name: str, text: str, data: np.ndarray, elements: int, count: int):
        (kernel,) = compile_kernels([KernelSource(name, HEADER + text)])
        self.count = count
        step = np.array([[w.KERNEL, kernel.address, count, 0, 1, 0, 0, 0]])
        # Entry 2 of the table holds the repetitions; a program fixes it, so each has its own.
        self.make = lambda repetitions: Program(
            step, np.array([0, -1, -1, 1]), np.array([0, elements, repetitions, 0]), bases=2
        )
        self.data, self.sums = data, np.zeros((count + 1) * 16, np.float64)
        self.frames: dict[int, Frame] = {}

    def seconds(self, repetitions: int) -> float:
        """Seconds of one run; None of it is Python's."""
        frame = self.frames.get(repetitions)
        if frame is None:
            frame = self.frames[repetitions] = Frame(self.make(repetitions))
            frame.bases[0] = -(-self.data.ctypes.data // 64) * 64
            frame.bases[1] = self.sums.ctypes.data
            frame.record(1, self.count)
        with threads(self.count):
            frame.run()
        ((_, begin, end, *_),) = frame.rows()[0].tolist()
        return (end - begin) * 1e-9

    def rate(self, work: float) -> Roof:
        """Work per second, where one repetition of all threads does `work`."""
        repetitions = 1
        while self.seconds(repetitions) < ROUND_SECONDS / 2 and repetitions < 1 << 30:
            repetitions *= 2
        return roof(lambda: work * repetitions / self.seconds(repetitions))


def roof(once: Callable[[], float]) -> Roof:
    """What some rounds reached: the best, as STREAM reports, since others only slow one down.

    `low` is the median: where the two are far apart, the machine was not free, as `cv` says too.
    """
    samples: list[float] = []
    limit = time.perf_counter() + ROOF_SECONDS
    while len(samples) < LEAST_ROUNDS or (
        len(samples) < MOST_ROUNDS and time.perf_counter() < limit
    ):
        samples.append(once())
    high, spread = max(samples), float(np.std(samples) / np.mean(samples))
    return Roof(high, float(np.median(samples)), high, spread, samples)


def best(wide: Roof, narrow: Roof) -> Roof:
    """The higher of two."""
    return wide if wide.value >= narrow.value else narrow


# ---------------------------------------------------------------------------- levels of memory


def cache_sizes() -> list[tuple[str, int, bool]]:
    """(name, bytes, shared between cores) of the data caches, as Linux tells them."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level = int((folder / "level").read_text())
            kind = (folder / "type").read_text().strip()
            text = (folder / "size").read_text().strip()
            shared = (folder / "shared_cpu_list").read_text().strip()
        except (OSError, ValueError):
            continue
        if kind != "Instruction":
            unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1], 1)
            size = int(text.rstrip("KM")) * unit
            found.append((f"L{level}", size, "," in shared or "-" in shared))
    return found or [("L1", 32 << 10, False), ("L2", 1 << 20, False)]


def measure_levels(count: int) -> list[Level]:
    """Bandwidth of each level for so many threads, each with a part of its own."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    largest = min(DRAM_MOST, memory // DRAM_PART)
    found, below = [], 0
    for name, size, shared in cache_sizes():
        whole = size if shared else size * count
        # Half of a level, but clearly beyond the one below it.
        working = max(whole // 2, 2 * below)
        if working <= whole and working <= largest // 2:
            found.append(_level(name, whole, working, count))
        below = whole
    # A cache may be larger than what we may take (a share of a host's): then this is its bandwidth.
    found.append(_level("DRAM", 0, largest, count))
    return found


def _level(name: str, size: int, working: int, count: int) -> Level:
    step = 16 * _SUMS
    read_n = max(step, working // count // 4 // step * step)
    triad_n = max(64, working // count // 12 // 64 * 64)
    data = np.ones(count * (max(read_n, 3 * triad_n) + SLACK), np.float32)
    read = Probe("roof_read", _read_source(), data, read_n, count)
    triad = Probe("roof_triad", _TRIAD, data, triad_n, count)
    return Level(
        name, size, working, read.rate(count * read_n * 4.0), triad.rate(count * triad_n * 12.0)
    )


def measure_fma(count: int) -> dict[str, Roof]:
    """flop/s of fused multiply-adds by dtype."""
    return _arithmetic("fma", _fma_source, 2, count)


def measure_exp(count: int) -> dict[str, Roof]:
    """Calls of exp per second by dtype."""
    return _arithmetic("exp", _exp_source, 1, count)


def _arithmetic(name: str, source: Callable[[str], str], work: int, count: int) -> dict[str, Roof]:
    """`work` operations of a repetition in each of its lanes."""
    found = {}
    for dtype, code in (("float32", "f32"), ("float64", "f64")):
        data = np.full(64, 0.5, dtype)
        probe = Probe(f"roof_{name}_{code}", source(code), data, 0, count)
        found[dtype] = probe.rate(count * 16.0 * _SUMS * work)
    return found


def measure_gemm(count: int) -> tuple[Roof, Roof]:
    """flop/s of this package's float32 matrix product and of NumPy's, in turns."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((GEMM, GEMM)).astype(np.float32) for _ in range(2))
    x, y = graph_input("a", a.shape), graph_input("b", b.shape)
    ours = compile_graph(matmul(x, y), [x, y], threads=count)
    out = np.empty_like(a)

    def timed(run: Callable[[], object]) -> Callable[[], float]:
        def once() -> float:
            begin = time.perf_counter()
            run()
            return 2.0 * GEMM**3 / (time.perf_counter() - begin)

        once()
        return once

    return roof(timed(lambda: ours(a, b, out=out))), roof(timed(lambda: np.matmul(a, b, out=out)))


# ---------------------------------------------------------------------------- the whole, kept


def machine(refresh: bool = False) -> Machine:
    """The roofs of this machine, from disk where they were measured before (see `Machine.date`).

    `refresh` forgets those. Roofs of a busy machine are measured again after a while, and the
    higher ones stay: other programs can only lower them.
    """
    path = machine_file()
    known = None if refresh else _read(path)
    if known is not None and not is_due():
        return known
    made = measure()
    if known is not None:
        made = highest(made, known)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.tmp")
        aside.write_text(json.dumps({"schema": SCHEMA, "machine": encode(made)}))
        os.replace(aside, path)
    except OSError:
        pass  # a cache that takes no files costs a measurement the next time
    return made


def is_due() -> bool:
    """Whether `machine` will measure: nothing is kept, or what a busy machine gave long ago."""
    path = machine_file()
    known = _read(path)
    if known is None:
        return True
    return bool(known.busy) and time.time() - path.stat().st_mtime > AGAIN_SECONDS


def measure() -> Machine:
    """Measure all roofs now."""
    begin, load = time.perf_counter(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    count = default_threads()
    levels_one, fma_one, math_one = measure_levels(1), measure_fma(1), measure_exp(1)
    levels, fma, math = levels_one, fma_one, math_one
    if count > 1:
        levels, fma, math = measure_levels(count), measure_fma(count), measure_exp(count)
    sgemm, blas = measure_gemm(count)
    made = Machine(
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        threads=count,
        date=datetime.date.today().isoformat(),
        versions=versions(),
        levels=levels,
        levels_one=levels_one,
        fma=fma,
        fma_one=fma_one,
        sgemm=sgemm,
        blas=blas,
        seconds=time.perf_counter() - begin,
        math=math,
        math_one=math_one,
        load=load,
    )
    made.busy = _busy(made)
    return _widened(made)


def _busy(made: Machine) -> str:
    """Whether other programs ran meanwhile: by the load, and by how steady arithmetic was."""
    if made.load > BUSY_LOAD * made.cores:
        return f"load {made.load:.1f} on {made.cores} cores"
    peaks = [*made.fma.values(), *made.fma_one.values()]
    steady = min((r.low / r.value for r in peaks), default=1.0)
    return f"half of the rounds below {100 * steady:.0f} %" if steady < BUSY_PART else ""


def _widened(made: Machine) -> Machine:
    """The roof of all threads: not below that of one, where others kept a core from us."""
    both = zip(made.levels, made.levels_one, strict=True)
    levels = [
        replace(wide, read=best(wide.read, one.read), triad=best(wide.triad, one.triad))
        for wide, one in both
    ]
    fma = {dtype: best(r, made.fma_one[dtype]) for dtype, r in made.fma.items()}
    math = {dtype: best(r, made.math_one[dtype]) for dtype, r in made.math.items()}
    return replace(made, levels=levels, fma=fma, math=math)


def highest(new: Machine, old: Machine) -> Machine:
    """The roofs that one of two measurements reached; as busy as the new one was."""
    one, other = encode(new), encode(old)
    return decode(Machine, _highest(one, other))


def _highest(new: Any, old: Any) -> Any:
    """Of equal trees of plain data with roofs in them."""
    if isinstance(new, dict) and "samples" in new:
        return new if new["value"] >= old["value"] else old
    if isinstance(new, dict):
        return {k: _highest(v, old[k]) if k in old else v for k, v in new.items()}
    if isinstance(new, list) and len(new) == len(old):
        return [_highest(*pair) for pair in zip(new, old, strict=True)]
    return new


def machine_file() -> Path:
    """Where the roofs are kept: a file per CPU and number of threads in the cache directory."""
    name = "".join(c if c.isalnum() else "-" for c in cpu_name())
    return kernelcache.directory() / "machine" / f"{name}-{default_threads()}.json"


def _read(path: Path) -> Machine | None:
    try:
        data = json.loads(path.read_text())
        return decode(Machine, data["machine"]) if data["schema"] == SCHEMA else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def cpu_name() -> str:
    """The model name the system gives, with LLVM's name of its kind."""
    host = native.host()[0]
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{' '.join(line.partition(':')[2].split())} ({host})"
    except OSError:
        pass
    return str(host)


def versions() -> dict[str, str]:
    """Versions of what shapes the code."""
    found = {}
    for package in ("staticgraph", "numba", "llvmlite", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "?"
    return found
