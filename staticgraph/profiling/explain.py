"""`Function.explain`: why a compiled function is as it is.

Passes and what they changed, what became one kernel and by which rule, where values lie, what was
computed again, and for one kernel its code.
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Iterator, Sequence

from staticgraph import schedule
from staticgraph.arraytext import digest
from staticgraph.compile import Function, as_pipeline
from staticgraph.errors import InputError, TargetError
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node
from staticgraph.kernels import Kernel
from staticgraph.passes import fuse, guard, inline
from staticgraph.passes.edges import Edge
from staticgraph.passmanager import Pass
from staticgraph.plan import Plan, Ref, Step
from staticgraph.profiling import assembly
from staticgraph.profiling.arena import memory_of
from staticgraph.profiling.explanation import (
    Again,
    Arena,
    Argument,
    Code,
    Explanation,
    KernelPart,
    Member,
    Pair,
    PassPart,
    Recomputing,
)
from staticgraph.profiling.kernelrows import asked_for, forward_line, is_gradient, members, place
from staticgraph.profiling.remarks import remarks
from staticgraph.schedule import is_free
from staticgraph.text import graph_text

#: lines of the graph shown around a change
CONTEXT = 1
_LEAVES = (INPUT, CONSTANT, VARIABLE)


def explain(fn: Function, kernel: int | None = None, *, diff: bool = False) -> Explanation:
    """See `Function.explain`."""
    if fn.options["target"] != "cpu":
        raise TargetError(f"explain: describes target='cpu', this is {fn.options['target']!r}")
    rows = _kernels(fn)
    if kernel is not None:
        if not 1 <= kernel <= len(rows):
            raise InputError(f"explain: kernels are 1 to {len(rows)}, got {kernel}")
        _detail(fn, rows[kernel - 1])
    parts, edges, graph = _passes(fn, diff)
    return Explanation(
        model="",
        nodes=len(fn.graph),
        passes=parts,
        plan_seconds=fn.times.plan,
        kernel_seconds=fn.times.kernels,
        total_seconds=fn.times.total,
        pairs=_pairs(fn, edges, graph, rows),
        kernels=rows,
        arena=_arena(fn),
        recomputing=_recomputing(fn),
        kernel=kernel,
    )


# ---------------------------------------------------------------------------- passes


def _passes(fn: Function, diff: bool) -> tuple[list[PassPart], list[Edge], Graph]:
    """Run the passes once more, this time to see what each does; times are those of compiling."""
    known = iter(fn.times.passes)
    edges: list[Edge] = []
    parts = []
    graph = fn.graph
    for p in (inline, guard, *as_pipeline(fn.options["pipeline"]).passes):
        begin = time.perf_counter()
        fuses = isinstance(p, Pass) and p.function is fuse.function
        after = p(graph, edges=edges) if fuses else p(graph)
        seconds, notes = time.perf_counter() - begin, []
        if p not in (inline, guard):
            record = next(known)
            seconds, notes = record.seconds, [str(n) for n in record.notes]
        changes = difference(graph, after) if diff else None
        parts.append(PassPart(p.name, seconds, len(graph), len(after), notes, changes))
        graph = after
    return parts, edges, graph


def difference(before: Graph, after: Graph) -> list[str]:
    """Lines of the graphs' texts that differ. Values are numbered anew by each pass: a line is
    the same where it is but for its numbers."""
    old, new = (graph_text(g, lines=True, pack=digest).splitlines() for g in (before, after))
    plain = [[re.sub(r"%\d+", "%", line) for line in lines] for lines in (old, new)]
    made = []
    matcher = difflib.SequenceMatcher(None, *plain, autojunk=False)
    for group in matcher.get_grouped_opcodes(CONTEXT):
        for tag, a, b, c, d in group:
            if tag == "equal":
                made += [f" {line}" for line in new[c:d]]
                continue
            made += [f"-{line}" for line in old[a:b]]
            made += [f"+{line}" for line in new[c:d]]
    return made


# ---------------------------------------------------------------------------- fusion


def _pairs(
    fn: Function, edges: Sequence[Edge], graph: Graph, rows: Sequence[KernelPart]
) -> list[Pair]:
    """The decisions on edges; `graph` is what the passes made when asked for the reasons."""
    planned, origin = fn.optimized, {}
    if fn.recomputation is not None:
        again = fn.recomputation
        planned = again.units.graph
        runs = [n for n in fn.optimized.nodes if not is_free(n)]
        order = again.units.gathered(again.sequence, again.peak)
        origin = dict(zip(runs, again.units.origins(order), strict=True))
    twin = dict(_twins(graph, planned))
    numbers: dict[Node, list[int]] = {}
    for row in rows:
        node = fn.plan.steps[row.step].node
        if node is not None:
            numbers.setdefault(origin.get(node, node), []).append(row.index)

    def where(nodes: Sequence[Node]) -> list[int]:
        return sorted({k for n in nodes if n in twin for k in numbers.get(twin[n], ())})

    return [
        Pair(
            maker=e.value.node.op.name,
            reader=e.reader.op.name,
            type=str(e.value.type),
            fused=e.fused,
            rule=e.rule,
            bytes=e.nbytes,
            maker_where=place(e.value.node.where),
            reader_where=place(e.reader.where),
            is_gradient=is_gradient(e.reader),
            made_in=where(e.makers),
            read_in=where(e.homes),
        )
        for e in edges
    ]


def _twins(a: Graph, b: Graph) -> Iterator[tuple[Node, Node]]:
    """Equal nodes of two graphs that one pipeline made, those of branches too."""
    for x, y in zip(a.nodes, b.nodes, strict=True):
        yield x, y
        if x.op.name == "cond":
            for branch in ("then", "orelse"):
                yield from _twins(x.attrs[branch], y.attrs[branch])


# ---------------------------------------------------------------------------- kernels


def _steps(plan: Plan) -> Iterator[tuple[int, Step]]:
    return ((k, s) for k, s in enumerate(plan.steps) if s.kind in ("kernel", "copy"))


def _kernels(fn: Function) -> list[KernelPart]:
    compiled: Iterator[Kernel] = iter(fn.kernels)
    rows = []
    for number, step in _steps(fn.plan):
        row = KernelPart(len(rows) + 1, "copy", step.kind, number)
        if step.kind == "kernel":
            _launched(row, fn.plan, step, next(compiled))
        else:
            size = step.nbytes
            row.arguments = [
                Argument(name, _lies(fn.plan, ref), f"{size} B", size)
                for name, ref in zip(("in 0", "out 0"), step.refs, strict=True)
            ]
        rows.append(row)
    return rows


def _launched(row: KernelPart, plan: Plan, step: Step, made: Kernel) -> None:
    node, launch = step.node, step.launch
    assert node is not None
    assert launch is not None
    row.name = launch.name
    row.members = [_member(n) for n in members(node)]
    row.arguments = list(_arguments(plan, step))
    row.in_place = _in_place(plan, row.step)
    row.tiles, row.parallel, row.scratch = launch.tiles, launch.parallel, launch.scratch
    row.origin, row.cache_hit, row.key = made.origin, made.cache_hit, made.key
    row.compile_seconds, row.code_bytes = made.compile_seconds, made.code_bytes
    row.source = made.source


def _member(node: Node) -> Member:
    attrs = ", ".join(f"{k}={v}" for k, v in sorted(node.attrs.items()) if len(str(v)) <= 40)
    forward = forward_line(node)
    asked = asked_for(node)
    return Member(
        op=node.op.name,
        type=", ".join(str(t.type) for t in node.results),
        attrs=attrs,
        where=forward or asked,
        asked_at=asked if forward is not None else None,
        is_gradient=is_gradient(node),
        recomputed=bool(node.clone),
    )


def _arguments(plan: Plan, step: Step) -> Iterator[Argument]:
    node, launch = step.node, step.launch
    assert node is not None
    assert launch is not None
    for (kind, k), ref in zip(launch.buffers, step.refs, strict=True):
        lies = _lies(plan, ref)
        if kind == "work":
            size = plan.buffers[ref.index].size
            yield Argument(f"work {k}", lies, f"{size} B", size)
            continue
        if kind == "start":
            kind, k = "in", plan.codes[node].starts[k][0]
        type_ = (node.results if kind == "out" else node.operands)[k].type
        yield Argument(f"{kind} {k}", lies, str(type_), type_.nbytes)


def _lies(plan: Plan, ref: Ref) -> str:
    """'arena 3 [0:4096]', 'input x', 'variable w', 'output 0', 'constant 1'."""
    if ref.space == "arena":
        b = plan.buffers[ref.index]
        return f"arena {ref.index} [{b.offset}:{b.offset + b.size}]"
    if ref.space == "input":
        return f"input {plan.graph.inputs[ref.index].node.attrs['name']}"
    if ref.space == "variable":
        return f"variable {plan.variables[ref.index].name}"
    return f"{ref.space} {ref.index}"


def _detail(fn: Function, row: KernelPart) -> None:
    """The code of one kernel; its remarks take a child process and half a second."""
    if row.kind != "kernel":
        return
    step = fn.plan.steps[row.step]
    assert step.launch is not None
    made = next(k for k in fn.kernels if k.key == row.key)
    asm = made.asm
    row.code = Code(
        made.llvm, asm, assembly.widths(asm), assembly.calls(asm),
        remarks(row.source, step.launch.entry),
    )  # fmt: skip


# ---------------------------------------------------------------------------- memory


def _in_place(plan: Plan, number: int) -> str:
    """Whether a kernel writes over what it reads, and if not, why."""
    step = plan.steps[number]
    node, launch = step.node, step.launch
    assert node is not None
    assert launch is not None
    named = list(zip(launch.buffers, step.refs, strict=True))
    read = {ref[:2]: k for (kind, k), ref in named if kind == "in"}
    over = [(k, read[ref[:2]]) for (kind, k), ref in named if kind == "out" and ref[:2] in read]
    if over:
        return "yes: " + ", ".join(f"result {r} over operand {o}" for r, o in over)
    pairs = plan.codes[node].inplace
    if not pairs:
        return "no: every operand has another size, or is read after the result is written"
    return "no: " + "; ".join(
        dict.fromkeys(_kept(plan, node, number, r, o) for r, o in sorted(pairs))
    )


def _kept(plan: Plan, node: Node, number: int, result: int, operand: int) -> str:
    """Why the result does not take the memory of this operand."""
    t = node.operands[operand]
    base = schedule.owner(t)
    ref = plan.places.get(base)
    if base.node.op in _LEAVES or ref is None or ref.space != "arena":
        return f"operand {operand} is the caller's or lasts beyond the call"
    if plan.places.get(node.results[result], ref).space != "arena":
        return f"result {result} is written where the caller gets it"
    last = _last_read(plan, ref)
    if last > number:
        return f"operand {operand} is read again at step {last}"
    if t.type.nbytes != node.results[result].type.nbytes:
        return f"operand {operand} has another size"
    return f"operand {operand} is read several times"


def _last_read(plan: Plan, ref: Ref) -> int:
    return max(
        (k for k, s in enumerate(plan.steps) if any(r[:2] == ref[:2] for r in s.refs)), default=-1
    )


def _arena(fn: Function) -> Arena:
    memory = memory_of(fn, [])
    rows = memory.buffers
    takes = []
    for b in rows:
        end = b.offset + b.bytes
        earlier = [
            k
            for k, o in enumerate(rows)
            if o.dies < b.born and o.offset < end and b.offset < o.offset + o.bytes
        ]
        takes.append(earlier)
    return Arena(
        memory.peak, sum(b.bytes for b in rows), memory.lower_bound, fn.plan.layout, rows, takes
    )


def _recomputing(fn: Function) -> Recomputing | None:
    made = fn.recomputation
    if made is None:
        return None
    again = [Again(r.what, r.times, place(r.where)) for r in made.recomputed]
    return Recomputing(
        made.policy, made.budget, made.plan.arena_bytes, made.predicted, made.extra, made.gap, again
    )
