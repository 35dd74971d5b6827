"""What an explanation says, as plain data: see `staticgraph.profiling.explain`, which makes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from staticgraph.profiling import explaintext
from staticgraph.profiling.assembly import Widths
from staticgraph.profiling.rows import LiveRow, Place

SCHEMA = "staticgraph.explain/1"


@dataclass
class PassPart:
    """One pass: seconds, nodes before and after, what it reports, and what it changed (on demand).

    Lines of `diff` begin with '-', '+' or a blank, like those of `diff -u`.
    """

    name: str
    seconds: float
    before: int
    after: int
    notes: list[str]
    diff: list[str] | None = None


@dataclass
class Pair:
    """A value that one op hands to another: one kernel or two, by which rule.

    `bytes` is the memory traffic that being one kernel saves, or would save. `made_in` and
    `read_in` are numbers of kernels.
    """

    maker: str
    reader: str
    type: str
    fused: bool
    rule: str
    bytes: int
    maker_where: Place | None
    reader_where: Place | None
    is_gradient: bool
    made_in: list[int]
    read_in: list[int]


@dataclass
class Member:
    """One op of a kernel. `where` is the user's line, for a derivative that of the op it is of;
    `asked_at` the line that asked for the derivative."""

    op: str
    type: str
    attrs: str
    where: Place | None
    asked_at: Place | None
    is_gradient: bool
    recomputed: bool


@dataclass
class Argument:
    """A buffer that a kernel is given: 'in 0', 'out 0' or 'work 0', and where it lies."""

    name: str
    place: str
    type: str
    bytes: int


@dataclass
class Code:
    """What LLVM made of a kernel. None: this machine's assembly, or this LLVM, cannot be read."""

    llvm: str
    asm: str
    widths: Widths | None
    calls: list[str]
    remarks: list[str] | None


@dataclass
class KernelPart:
    """One kernel or copy of the plan, numbered as in a profile."""

    index: int
    name: str
    kind: str  # kernel | copy
    step: int
    members: list[Member] = field(default_factory=list)
    arguments: list[Argument] = field(default_factory=list)
    in_place: str = ""
    tiles: int = 0
    parallel: bool = False
    scratch: int = 0
    origin: str = ""
    cache_hit: bool = True
    compile_seconds: float = 0.0
    key: str = ""
    code_bytes: int = 0
    source: str = ""
    code: Code | None = None


@dataclass
class Arena:
    """Memory of intermediate values: `sum` bytes of buffers in `bytes`.

    `least` is the largest sum alive at one step; `takes[k]` are the buffers whose bytes buffer k
    has after them.
    """

    bytes: int
    sum: int
    least: int
    layout: str
    buffers: list[LiveRow]
    takes: list[list[int]]


@dataclass
class Again:
    """A kernel that runs `times` times."""

    what: str
    times: int
    where: Place | None


@dataclass
class Recomputing:
    """What a memory budget costs; see `staticgraph.budget.Recomputation`."""

    policy: str
    budget: int
    peak: int
    predicted: float
    extra: float
    gap: float
    again: list[Again]


@dataclass
class Explanation:
    """All of it; `str` is the text, `staticgraph.profiling.rows.encode` makes plain data of it."""

    model: str
    nodes: int
    passes: list[PassPart]
    plan_seconds: float
    kernel_seconds: float
    total_seconds: float
    pairs: list[Pair]
    kernels: list[KernelPart]
    arena: Arena
    recomputing: Recomputing | None
    kernel: int | None = None
    schema: str = SCHEMA

    def __str__(self) -> str:
        return explaintext.render(self)
