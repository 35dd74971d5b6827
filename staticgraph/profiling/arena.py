"""Who is alive when: the memory part of a report, from the plan alone."""

from __future__ import annotations

from collections import Counter

from staticgraph.compile import Function
from staticgraph.ir import Node
from staticgraph.plan import Buffer, Plan
from staticgraph.profiling.kernelrows import asked_for, forward_line, is_gradient, members, place
from staticgraph.profiling.rows import KernelRow, LiveRow, Memory


def memory_of(fn: Function, rows: list[KernelRow]) -> Memory:
    """Peak, timeline, and what every buffer of the arena is."""
    plan, known = fn.plan, fn.memory
    buffers = [_row(plan, k, b) for k, b in enumerate(plan.buffers)]
    peak = max(range(len(plan.steps)), key=known.timeline.__getitem__, default=0)
    live = sorted((b for b in buffers if b.born <= peak <= b.dies), key=lambda b: -b.bytes)
    by_kind: Counter[str] = Counter()
    for b in live:
        by_kind[b.kind] += b.bytes
    return Memory(
        peak=known.peak_bytes,
        lower_bound=known.lower_bound_bytes,
        inputs=known.input_bytes,
        outputs=known.output_bytes,
        state=known.state_bytes,
        constants=known.constant_bytes,
        scratch=known.scratch_bytes,
        peak_step=peak,
        peak_kernel=next((r.index for r in rows if r.step == peak), None),
        live=live,
        by_kind=dict(by_kind),
        timeline=list(known.timeline),
        steps=[s.launch.name if s.launch is not None else s.kind for s in plan.steps],
        buffers=buffers,
    )


def _row(plan: Plan, index: int, buffer: Buffer) -> LiveRow:
    writer, result = _writer(plan, index)
    readers = [
        s.node
        for s in plan.steps[buffer.start : buffer.stop]
        if s.node is not None and s.node is not writer and _mentions(s.refs, index)
    ]
    if writer is None:
        return LiveRow(
            buffer.what, f"{buffer.size} B", buffer.size, buffer.offset, buffer.start,
            buffer.stop - 1, "temporary", place(buffer.where), None, False,
        )  # fmt: skip
    derived = all(is_gradient(n) for n in members(writer))
    if result is None:
        kind = "workspace"
    elif derived:
        kind = "gradient"
    elif any(is_gradient(n) for r in readers for n in members(r)):
        kind = "activation"
    else:
        kind = "temporary"
    type_ = str(writer.results[result].type) if result is not None else f"{buffer.size} B"
    return LiveRow(
        buffer.what, type_, buffer.size, buffer.offset, buffer.start, buffer.stop - 1, kind,
        asked_for(writer), forward_line(writer), derived,
    )  # fmt: skip


def _writer(plan: Plan, index: int) -> tuple[Node | None, int | None]:
    """The node that first writes a buffer, and which of its results; None for workspace."""
    buffer = plan.buffers[index]
    for step in plan.steps[buffer.start : buffer.stop]:
        if step.launch is None:
            continue
        for (kind, k), ref in zip(step.launch.buffers, step.refs, strict=True):
            if (ref.space, ref.index) == ("arena", index) and kind in ("out", "work"):
                return step.node, k if kind == "out" else None
    return None, None


def _mentions(refs: tuple, index: int) -> bool:
    return any((ref.space, ref.index) == ("arena", index) for ref in refs)
