"""What a profile says, as plain data. Units: seconds, bytes, operations; shares are fractions of 1.

Everything here is a dataclass of numbers, texts and lists of such, so that a profile is also a JSON
document (`encode`, `decode`). Fields are only ever added.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True)
class Place:
    """A line of the user's code; its text is 'mlp.py:14'."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{PurePath(self.file).name}:{self.line}"


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a median."""

    low: float
    high: float
    confidence: float = 0.99


@dataclass(frozen=True)
class Input:
    """One input of the profiled function; `origin` is 'given' or 'random'."""

    name: str
    type: str
    origin: str


@dataclass
class Model:
    """What was profiled. `name` is empty until someone who knows it (the CLI) writes it."""

    name: str
    description: str
    target: str
    threads: int
    dtypes: list[str]
    nodes: int
    kernels: int
    gradient: bool
    inputs: list[Input]
    passes: str
    kernel_mix: dict[str, int]
    versions: dict[str, str]


@dataclass(frozen=True)
class PassRow:
    """One pass: seconds, and nodes before and after it."""

    name: str
    seconds: float
    before: int
    after: int


@dataclass
class Compile:
    """Seconds of compiling. `origins` counts where kernels came from: memory, disk, absent, ..."""

    total: float
    passes: list[PassRow]
    plan: float
    kernels: float
    cache_hits: int
    cache_misses: int
    origins: dict[str, int]


@dataclass
class Wall:
    """Time of a whole call without stamps. `samples` holds one list per process."""

    median: float
    ci: Interval
    min: float
    p95: float
    mean: float
    iqr: float
    runs: int
    processes: int
    warmup: int
    stable: bool
    outliers: int
    samples: list[list[float]]

    @property
    def ci_low(self) -> float:
        return self.ci.low

    @property
    def ci_high(self) -> float:
        return self.ci.high


@dataclass
class KernelRow:
    """One kernel of the plan, in the order in which they run.

    `where` is the user's line; for kernels of a derivative the line that asked for it, and
    `forward_where` the line they are the derivative of. `share` is of the stamped wall time, `cum`
    its running sum from the dearest kernel on. Rates divide the exact `bytes` and `flops` by
    `repeat` where it was measured (kernels of a few microseconds), else by `median`.
    """

    index: int
    name: str
    step: int
    kind: str  # kernel | copy
    ops: list[str]
    where: Place | None
    forward_where: Place | None
    is_gradient: bool
    recomputed: bool
    lines: list[Place]
    shapes: list[str]
    median: float
    ci: Interval
    minimum: float
    mean: float
    calls: float
    runs: int
    total: float
    share: float
    cum: float
    timing: str  # stamps | repeat
    repeat: float | None
    bytes: int
    bytes_read: int
    bytes_written: int
    flops: int
    transcendentals: int
    gbps: float
    gflops: float
    intensity: float
    working_set: int
    roof_level: str | None = None
    roof_percent: float | None = None
    roof_low: float | None = None
    roof_high: float | None = None
    bound: str | None = None
    could_save: float | None = None
    threads_busy: list[float] = field(default_factory=list)
    workers: float = 1.0
    imbalance: float = 0.0
    tiles: int = 0
    parallel: bool = False
    compile_seconds: float = 0.0
    cache_hit: bool = True
    origin: str = ""
    inplace: bool = False
    key: str = ""
    source_lines: int = 0
    #: where operands come from ('#3' another kernel, 'input x', 'variable w') and results end
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """'mlp.py:14', 'mlp.py:14 (grad)' or 'mlp.py:15-17': where the work comes from."""
        if not self.lines:
            return ""
        first, *more = self.lines
        text = str(first)
        last = max((p.line for p in more if p.file == first.file), default=first.line)
        if last > first.line:
            text += f"-{last}"
        return text + " (grad)" if self.is_gradient else text

    @property
    def seconds(self) -> float:
        """What the rates divide by."""
        return self.median if self.repeat is None else self.repeat


@dataclass
class OpRow:
    """The part of one op in a kernel: of a fused one by what its ops cost, so an estimate.

    `scope` is the function of the user's that its line stands in, such as 'mlp.py:Net.loss'.
    """

    name: str
    kernel: int
    where: Place | None
    forward_where: Place | None
    is_gradient: bool
    seconds: float
    share: float
    flops: int
    bytes: int
    estimated: bool
    scope: str = ""


@dataclass
class GapRow:
    """Time of the stamped runs in which no kernel ran: call, between kernels, return."""

    name: str
    median: float
    total: float
    share: float


@dataclass
class Coverage:
    """Kernels and gaps as parts of the stamped wall time: wall_ns == kernel_ns + gap_ns."""

    wall_ns: int
    kernel_ns: int
    gap_ns: int
    kernels: float
    gaps: float


@dataclass
class Overhead:
    """What the stamps cost: medians of the stamped and the plain runs between them."""

    stamped_median: float
    plain_median: float
    fraction: float
    stamp_seconds: float
    repeat_timed: bool
    note: str


@dataclass
class LiveRow:
    """A buffer of the arena: alive from step `born` to step `dies`, both included.

    kind: activation (forward, read by the derivative) | gradient | temporary | workspace
    """

    what: str
    type: str
    bytes: int
    offset: int
    born: int
    dies: int
    kind: str
    where: Place | None
    forward_where: Place | None
    is_gradient: bool


@dataclass
class Memory:
    """Bytes of one call. `lower_bound` is the largest sum alive at one step of this order.

    Both it and `peak` count buffers in units of 64 bytes, `timeline` (one sum per step) exactly.
    """

    peak: int
    lower_bound: int
    inputs: int
    outputs: int
    state: int
    constants: int
    scratch: int
    peak_step: int
    peak_kernel: int | None
    live: list[LiveRow]
    by_kind: dict[str, int]
    timeline: list[int]
    steps: list[str]
    buffers: list[LiveRow]


@dataclass
class Noise:
    """How quiet the machine was: differences below `resolvable` cannot be told from noise."""

    load: float
    cores: int
    cv: float
    iqr_fraction: float
    resolvable: float
    note: str


@dataclass
class Advice:
    """What to look at, what it could save, and the command that shows more."""

    text: str
    command: str
    kernel: int | None = None
    seconds: float | None = None


@dataclass
class Roof:
    """A measured limit (bytes/s or flop/s): the best of some rounds; `low` is their median."""

    value: float
    low: float
    high: float
    cv: float
    samples: list[float]


@dataclass
class Level:
    """One level of memory: what it holds (0: DRAM), and its bandwidth over `working_set` bytes."""

    name: str
    size: int
    working_set: int
    read: Roof
    triad: Roof


@dataclass
class Machine:
    """This machine's measured roofs: those of `threads` threads, and (`_one`) of one.

    `fma` is by dtype, `math` too: calls of `exp` per second, which stands for all functions of its
    kind. `sgemm` is this package's float32 matrix product, `blas` that of NumPy. `busy` says why
    the roofs may be too low, '' where nothing did.
    """

    cpu: str
    cores: int
    threads: int
    date: str
    versions: dict[str, str]
    levels: list[Level]
    levels_one: list[Level]
    fma: dict[str, Roof]
    fma_one: dict[str, Roof]
    sgemm: Roof
    blas: Roof
    seconds: float
    math: dict[str, Roof] = field(default_factory=dict)
    math_one: dict[str, Roof] = field(default_factory=dict)
    load: float = 0.0
    busy: str = ""


@dataclass
class Span:
    """One thread's part of an event, in seconds from the begin of the run."""

    thread: int
    begin: float
    end: float
    tiles: int


@dataclass
class Event:
    """One execution of kernel `kernel` (0: a step that is no row)."""

    kernel: int
    begin: float
    end: float
    threads: list[Span]


@dataclass
class Run:
    """One stamped run, in seconds from its begin."""

    end: float
    events: list[Event]


SCHEMA = "staticgraph.profile/1"


@dataclass
class Profile:
    """A profile of one compiled function; `created` is a date and time in ISO 8601.

    `counters` holds what the processor counted per call, where that was asked for.
    """

    created: str
    model: Model
    machine: Machine | None
    compile: Compile
    wall: Wall
    kernels: list[KernelRow]
    ops: list[OpRow]
    gaps: list[GapRow]
    coverage: Coverage
    overhead: Overhead
    memory: Memory
    noise: Noise
    advice: list[Advice] = field(default_factory=list)
    timeline: list[Run] = field(default_factory=list)
    interrupted: bool = False
    schema: str = SCHEMA
    counters: dict[str, float] = field(default_factory=dict)


# ---------------------------------------------------------------------------- as plain data


def encode(value: Any) -> Any:
    """Dataclasses as dicts of their fields, for JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(v) for v in value]
    return value


def decode(kind: Any, data: Any) -> Any:
    """The value of a type from what `encode` made; fields that this version lacks are left out."""
    if is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{k: decode(hints[k], v) for k, v in data.items() if k in hints})
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        inner = next(a for a in args if a is not types.NoneType)
        return None if data is None else decode(inner, data)
    if origin is list:
        return [decode(args[0], v) for v in data]
    if origin is dict:
        return {k: decode(args[1], v) for k, v in data.items()}
    return float(data) if kind is float else data


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
