"""What a plan is: steps in order over one arena, with every address known, and its text form."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from staticgraph.codegen.select import Code, Launch
from staticgraph.errors import shorten
from staticgraph.ir import Graph, Node, Variable
from staticgraph.tensor import Tensor

#: bytes that addresses in the arena are multiples of: a cache line
ALIGN = 64


class Ref(NamedTuple):
    """Where a value lies: `offset` bytes into buffer `index` of a space."""

    space: str  # arena | input | output | variable | constant
    index: int  # type: ignore[assignment]
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.space}{self.index}" + (f"+{self.offset}" if self.offset else "")


@dataclass
class Buffer:
    """A piece of the arena, live over steps start..stop-1."""

    size: int
    start: int
    stop: int
    what: str
    where: tuple[str, int] | None
    offset: int = -1


@dataclass
class Step:
    """One step: a kernel launch, a jump, a copy, a check or the commit point.

    A `numerics` check refers to its verdict, then to operands and results of the node; `labels`
    say what the operands are.
    """

    kind: str  # kernel | jump_if_false | jump | copy | check | numerics | commit
    refs: tuple[Ref, ...] = ()
    launch: Launch | None = None
    node: Node | None = None
    target: int = 0
    nbytes: int = 0
    message: str = ""
    labels: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.launch is not None:
            refs = ", ".join(map(str, self.refs))
            where = f"  [{shorten(self.node.where)}]" if self.node and self.node.where else ""
            split = "parallel " if self.launch.parallel else ""
            return f"{self.launch.name:<28} tiles {self.launch.tiles:<5}{split}({refs}){where}"
        if self.kind == "jump_if_false":
            return f"jump to {self.target} if not {self.refs[0]}"
        if self.kind == "jump":
            return f"jump to {self.target}"
        if self.kind == "copy":
            return f"copy {self.refs[0]} -> {self.refs[1]}  {self.nbytes} B"
        if self.kind in ("check", "numerics"):
            return f"{self.kind} {self.refs[0]}"
        return self.kind


@dataclass(frozen=True)
class Memory:
    """Bytes of one call.

    `peak_bytes` is the arena that is allocated for intermediate values, `lower_bound_bytes` the
    largest sum of bytes alive at one step, `timeline` that sum for every step, `scratch_bytes` the
    private memory of one thread.
    """

    peak_bytes: int
    lower_bound_bytes: int
    input_bytes: int
    state_bytes: int
    output_bytes: int
    constant_bytes: int
    scratch_bytes: int
    timeline: tuple[int, ...]


@dataclass
class Plan:
    """Steps, buffers and sizes. `str(plan)` is its text form."""

    graph: Graph
    steps: list[Step]
    buffers: list[Buffer]
    arena_bytes: int
    lower_bound: int
    variables: tuple[Variable, ...]
    constants: tuple[Tensor, ...]
    layout: str = ""
    #: where each value lies, the kernels of each node, and pairs (first, then) beyond dependence
    places: dict[Tensor, Ref] = field(default_factory=dict)
    codes: dict[Node, Code] = field(default_factory=dict)
    after: list[tuple[Node, Node]] = field(default_factory=list)

    @property
    def launches(self) -> list[Launch]:
        return [s.launch for s in self.steps if s.launch is not None]

    @property
    def scratch_bytes(self) -> int:
        """Private memory of one thread."""
        return max((launch.scratch for launch in self.launches), default=0)

    @property
    def memory(self) -> Memory:
        """What one call allocates, and the least that any placement could."""
        changes = [0] * (len(self.steps) + 1)
        for b in self.buffers:
            changes[b.start] += b.size
            changes[min(b.stop, len(self.steps))] -= b.size
        return Memory(
            peak_bytes=self.arena_bytes,
            lower_bound_bytes=self.lower_bound,
            input_bytes=sum(t.type.nbytes for t in self.graph.inputs),
            state_bytes=sum(v.spec.nbytes for v in self.variables),
            output_bytes=sum(t.type.nbytes for t in self.graph.outputs),
            constant_bytes=sum(t.type.nbytes for t in self.constants),
            scratch_bytes=self.scratch_bytes,
            timeline=tuple(accumulate(changes[:-1])),
        )

    def __str__(self) -> str:
        lines = [
            f"plan ({len(self.launches)} kernels, arena {self.arena_bytes} B,"
            f" live {self.lower_bound} B)"
        ]
        for i, step in enumerate(self.steps):
            lines.append(f"  step {i:<3} {step}")
        for i, b in enumerate(self.buffers):
            place = f"[{b.offset}:{b.offset + b.size}]"
            lines.append(f"  buffer arena{i} {place} steps {b.start}..{b.stop - 1}  {b.what}")
        return "\n".join(lines) + "\n"
