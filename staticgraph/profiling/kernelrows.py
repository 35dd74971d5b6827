"""From stamps to rows: which kernel took how long, what it computes and moves, and for whom.

Bytes of a launch: operands of the node as far as it touches them, results and workspace whole, each
once. Flops of a node stand on its dearest launch; packing, and the joining of partial results, get
none, so that the rows sum to the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from staticgraph import count
from staticgraph.codegen import launchwords as w
from staticgraph.codegen.select import Launch
from staticgraph.compile import Function
from staticgraph.errors import GradientLine
from staticgraph.fusion import FUSION, VIEWS
from staticgraph.ir import CONSTANT, INPUT, Node
from staticgraph.plan import Plan, Step
from staticgraph.profiling import stats
from staticgraph.profiling.measure import Recording
from staticgraph.profiling.rows import Coverage, GapRow, KernelRow, OpRow, Place
from staticgraph.profiling.scopes import scope

NS = 1e-9
GAPS = ("call", "between kernels", "return")


def place(where: tuple[str, int] | None) -> Place | None:
    return Place(where[0], where[1]) if where else None


def asked_for(node: Node) -> Place | None:
    """The user's line that made a node: of a derivative, the one that asked for it."""
    where = node.where
    return place(where.by if isinstance(where, GradientLine) else where)


def forward_line(node: Node) -> Place | None:
    """For a node of a derivative, the line it is the derivative of."""
    return place(node.where) if isinstance(node.where, GradientLine) else None


def is_gradient(node: Node) -> bool:
    return isinstance(node.where, GradientLine)


def members(node: Node) -> list[Node]:
    """The nodes that a kernel computes; views count only where there is nothing else."""
    if node.op is not FUSION:
        return [node]
    inside = [n for n in node.attrs["body"].nodes if n.op is not INPUT and n.op is not CONSTANT]
    return [n for n in inside if n.op.name not in VIEWS and n.op.name != "iota"] or inside


def chief_of(inside: Sequence[Node]) -> Node:
    """The op that a kernel is named by: its contraction, else the last that has a line."""
    known = [n for n in inside if n.where] or inside
    return next((n for n in inside if n.op.name in count.CONTRACTIONS), known[-1])


# ---------------------------------------------------------------------------- times


@dataclass
class Times:
    """Seconds of the stamped runs that count: `kernel[step]` is an array over the runs."""

    wall: np.ndarray
    kernel: dict[int, np.ndarray]
    calls: dict[int, np.ndarray]
    gaps: dict[str, np.ndarray]
    coverage: Coverage


def times_of(recording: Recording) -> Times:
    """Add up the stamps of each run; runs that something disturbed are left out."""
    walls = np.array([s.end - s.begin for s in recording.stamped])
    kept = [s for s, out in zip(recording.stamped, stats.outliers(walls), strict=True) if not out]
    runs = len(kept)
    kernel: dict[int, np.ndarray] = {}
    calls: dict[int, np.ndarray] = {}
    gaps = {name: np.zeros(runs, np.int64) for name in GAPS}
    for k, sample in enumerate(kept):
        begin, end = sample.rows[:, w.STAMP_BEGIN], sample.rows[:, w.STAMP_END]
        for step, length in zip(sample.rows[:, w.STAMP_STEP].tolist(), end - begin, strict=True):
            kernel.setdefault(step, np.zeros(runs, np.int64))[k] += length
            calls.setdefault(step, np.zeros(runs, np.int64))[k] += 1
        if len(begin) == 0:
            gaps["call"][k] = sample.end - sample.begin
            continue
        gaps["call"][k] = begin[0] - sample.begin
        gaps["between kernels"][k] = (begin[1:] - end[:-1]).sum()
        gaps["return"][k] = sample.end - end[-1]
    wall = np.array([s.end - s.begin for s in kept], np.int64)
    busy = int(sum(v.sum() for v in kernel.values()))
    idle = int(sum(v.sum() for v in gaps.values()))
    whole = int(wall.sum())
    coverage = Coverage(whole, busy, idle, busy / whole, idle / whole)
    return Times(wall, kernel, calls, gaps, coverage)


def gap_rows(times: Times) -> list[GapRow]:
    whole = times.coverage.wall_ns
    return [
        GapRow(name, float(np.median(v)) * NS, int(v.sum()) * NS, int(v.sum()) / whole)
        for name, v in times.gaps.items()
    ]


# ---------------------------------------------------------------------------- kernels


def kernel_rows(fn: Function, recording: Recording, times: Times) -> list[KernelRow]:
    """A row for each kernel and copy of the plan, in its order."""
    plan = fn.plan
    compiled = iter(fn.kernels)
    rows: list[KernelRow] = []
    traffic = Traffic(plan)
    for number, step in enumerate(plan.steps):
        if step.kind not in ("kernel", "copy"):
            continue
        row = _timed(len(rows) + 1, number, step, times)
        row.bytes_read, row.bytes_written, row.working_set = traffic.of(number)
        row.bytes = row.bytes_read + row.bytes_written
        if step.node is not None:
            _described(row, step.node)
        if step.kind == "kernel":
            assert step.node is not None
            assert step.launch is not None
            _launched(row, plan, step.node, step.launch)
            row.inplace = traffic.in_place(number)
            made = next(compiled)
            row.compile_seconds, row.key = made.compile_seconds, made.key
            row.cache_hit, row.origin = made.cache_hit, made.origin
            row.source_lines = made.source.count("\n")
        _rated(row, recording)
        rows.append(row)
    _joined(rows, plan)
    _threads(rows, recording)
    running = 0.0
    for row in sorted(rows, key=lambda r: -r.share):
        running += row.share
        row.cum = running
    return rows


#: who wrote each place of memory last; several where branches did
Makers = dict[tuple[str, int], tuple[str, ...]]


def _joined(rows: Sequence[KernelRow], plan: Plan) -> None:
    """Which kernels hand each other values; behind branches that write one place, each of them."""
    names = {"input": [t.node.attrs["name"] for t in plan.graph.inputs],
             "variable": [v.name for v in plan.variables]}  # fmt: skip
    by_step = {row.step: row for row in rows}
    ahead: dict[int, list[Makers]] = {}  # what holds where a jump arrives
    made: Makers | None = {}
    for number, step in enumerate(plan.steps):
        made = _merged([*ahead.pop(number, []), *([] if made is None else [made])])
        if step.kind == "jump_if_false":
            ahead.setdefault(step.target, []).append(made)
        elif step.kind == "jump":
            ahead.setdefault(step.target, []).append(made)
            made = None
        elif number in by_step:
            made = _handed(by_step[number], step, made, names)


def _merged(states: Sequence[Makers]) -> Makers:
    places = dict.fromkeys(place for state in states for place in state)
    return {
        place: tuple(dict.fromkeys(who for state in states for who in state.get(place, ())))
        for place in places
    }


def _handed(row: KernelRow, step: Step, made: Makers, names: dict[str, list[str]]) -> Makers:
    """Fill in what a row reads and writes; who made what after it."""
    kinds = step.launch.buffers if step.launch is not None else (("in", 0), ("out", 0))
    reads: dict[str, None] = {}
    writes: dict[str, None] = {}
    after = dict(made)
    for (kind, _), ref in zip(kinds, step.refs, strict=True):
        space, index = ref[:2]
        named = names[space][index] if space in names else index
        if kind != "out" and (space != "arena" or (space, index) in made):
            reads |= dict.fromkeys(made.get((space, index), (f"{space} {named}",)))
        elif space != "arena":
            writes[f"{space} {named}"] = None
        if kind in ("out", "work"):
            after[space, index] = (f"#{row.index}",)
    row.reads, row.writes = list(reads), list(writes)
    return after


def _timed(index: int, number: int, step: Step, times: Times) -> KernelRow:
    """The part of a row that comes from stamps."""
    samples = times.kernel.get(number, np.zeros(0, np.int64))
    ran = times.calls.get(number, samples) > 0
    seen = samples[ran] * NS
    total = int(samples.sum())
    return KernelRow(
        index=index,
        name=step.launch.name if step.launch is not None else "copy",
        step=number,
        kind=step.kind,
        ops=[], where=None, forward_where=None, is_gradient=False, recomputed=False,
        lines=[], shapes=[],
        median=float(np.median(seen)) if len(seen) else 0.0,
        ci=stats.median_interval(seen),
        minimum=float(seen.min()) if len(seen) else 0.0,
        mean=float(seen.mean()) if len(seen) else 0.0,
        calls=float(times.calls[number].mean()) if len(seen) else 0.0,
        runs=len(seen),
        total=total * NS,
        share=total / times.coverage.wall_ns,
        cum=0.0,
        timing="stamps",
        repeat=None,
        bytes=0, bytes_read=0, bytes_written=0, flops=0, transcendentals=0,
        gbps=0.0, gflops=0.0, intensity=0.0, working_set=0,
    )  # fmt: skip


def _described(row: KernelRow, node: Node) -> None:
    """Which ops, and whose lines."""
    inside = members(node)
    chief = chief_of(inside)
    row.ops = [n.op.name for n in inside]
    row.is_gradient = is_gradient(chief)
    row.recomputed = any(n.clone for n in inside)
    row.where = asked_for(chief)
    row.forward_where = forward_line(chief)
    found = {place(n.where) for n in inside if n.where}
    row.lines = sorted(found, key=lambda p: (p.file, p.line))
    row.shapes = [str(t.type) for t in (*node.operands, *node.results)]


def _launched(row: KernelRow, plan: Plan, node: Node, launch: Launch) -> None:
    row.tiles, row.parallel = launch.tiles, launch.parallel
    launches = [s.launch for s in plan.steps if s.node is node and s.launch is not None]
    # Where none says what it computes, it is the one that makes the result.
    if launch is max(launches, key=lambda each: (each.flops, _makes_results(each))):
        row.flops, row.transcendentals = count.operations(node)


def _makes_results(launch: Launch) -> bool:
    return any(kind == "out" for kind, _ in launch.buffers)


def _rated(row: KernelRow, recording: Recording) -> None:
    repeat = recording.repeats.get(row.step)
    if repeat:
        row.timing, row.repeat = "repeat", repeat * NS
    row.intensity = row.flops / row.bytes if row.bytes else 0.0
    once = row.seconds / max(row.calls, 1.0) if row.repeat is None else row.repeat
    if once > 0:
        row.gbps = row.bytes / once * 1e-9
        row.gflops = row.flops / once * 1e-9


def _threads(rows: Sequence[KernelRow], recording: Recording) -> None:
    """How busy each thread was during each kernel, and how unevenly."""
    if not recording.stamped:
        return
    table = np.concatenate([s.rows for s in recording.stamped])
    seats = table[:, w.STAMP_WORDS :].reshape(len(table), -1, w.SEAT_WORDS)
    busy = (seats[:, :, w.SEAT_END] - seats[:, :, w.SEAT_BEGIN]) * (seats[:, :, w.SEAT_TILES] > 0)
    length = table[:, w.STAMP_END] - table[:, w.STAMP_BEGIN]
    for row in rows:
        mine = table[:, w.STAMP_STEP] == row.step
        whole = int(length[mine].sum())
        if whole == 0:
            continue
        row.threads_busy = (busy[mine].sum(0) / whole).tolist()
        row.workers = float((busy[mine] > 0).sum(1).mean())
        if row.parallel and row.tiles > 1 and recording.threads > 1:
            seated = min(recording.threads, row.tiles)
            mean = busy[mine].sum(1) / seated
            slowest = busy[mine].max(1)
            row.imbalance = float(np.median(slowest / np.maximum(mean, 1)) - 1)


class Traffic:
    """Which memory each step reads and writes: (space, index) -> bytes."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.reads: dict[int, dict[tuple[str, int], int]] = {}
        self.writes: dict[int, dict[tuple[str, int], int]] = {}
        filled: set[tuple[int, int]] = set()
        for number, step in enumerate(plan.steps):
            self.reads[number], self.writes[number] = {}, {}
            if step.kind == "copy":
                source, target = (ref[:2] for ref in step.refs)
                self.reads[number][source] = self.writes[number][target] = step.nbytes
            elif step.kind == "kernel":
                self._kernel(number, step, filled)

    def _kernel(self, number: int, step: Step, filled: set[tuple[int, int]]) -> None:
        node, launch = step.node, step.launch
        assert node is not None
        assert launch is not None
        read = count.reads(node)
        for (kind, k), ref in zip(launch.buffers, step.refs, strict=True):
            where = (ref.space, ref.index)
            if kind == "out":
                self.writes[number][where] = node.results[k].type.nbytes
            elif kind == "work":
                # Whoever has a workspace first fills it; the steps after that read it.
                size = self.plan.buffers[ref.index].size
                first = (id(node), ref.index) not in filled
                (self.writes if first else self.reads)[number][where] = size
                filled.add((id(node), ref.index))
            else:
                operand = self.plan.codes[node].starts[k][0] if kind == "start" else k
                size = read[node.operands[operand]]
                old = self.reads[number].get(where, 0)
                self.reads[number][where] = max(old, size)

    def of(self, step: int) -> tuple[int, int, int]:
        """(bytes read, bytes written, bytes of distinct memory) of a step."""
        read, written = self.reads[step], self.writes[step]
        distinct = sum(max(read.get(b, 0), written.get(b, 0)) for b in read.keys() | written.keys())
        return sum(read.values()), sum(written.values()), distinct

    def in_place(self, step: int) -> bool:
        return bool(self.reads[step].keys() & self.writes[step].keys())


# ---------------------------------------------------------------------------- ops


def op_rows(fn: Function, rows: Iterable[KernelRow]) -> list[OpRow]:
    """A row per op of each kernel; the time of a fused kernel is split by flops and bytes."""
    found = []
    for row in rows:
        node = fn.plan.steps[row.step].node
        if node is None or row.kind != "kernel":
            continue
        inside = members(node)
        costs = [count.cost(n) for n in inside]
        # A function call is worth some twenty operations, a byte about one.
        weights = [c.flops + 20 * c.transcendentals + c.bytes + 1 for c in costs]
        whole = sum(weights)
        for n, c, weight in zip(inside, costs, weights, strict=True):
            part = weight / whole
            op = OpRow(
                name=n.op.name,
                kernel=row.index,
                where=asked_for(n),
                forward_where=forward_line(n),
                is_gradient=is_gradient(n),
                seconds=row.median * part,
                share=row.share * part,
                flops=c.flops if row.flops else 0,
                bytes=c.bytes,
                estimated=len(inside) > 1,
            )
            line = op.forward_where or op.where
            op.scope = scope(line.file, line.line) if line is not None else ""
            found.append(op)
    return found
