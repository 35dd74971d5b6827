"""A plan made callable: addresses in, one run of the launcher, arrays out."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from staticgraph import lapack
from staticgraph.codegen import launchwords as w
from staticgraph.errors import NumericError
from staticgraph.findings import finding
from staticgraph.kernels import Kernel, KernelSource, compile_kernels
from staticgraph.launch import Frame, Program
from staticgraph.ops.gather import check_message
from staticgraph.plan import ALIGN, Plan

#: outputs of at least this many bytes reuse memory that nobody holds any more: fresh pages cost
#: more than filling them
RECYCLE_BYTES = 1 << 16
RECYCLE_COUNT = 4
#: a plan with less work than this keeps Python's lock
SHORT_PLAN = 1 << 16


@dataclass
class Executable:
    """Kernels, program and the pools that calls draw from."""

    plan: Plan
    kernels: list[Kernel]
    program: Program

    def __post_init__(self) -> None:
        graph = self.plan.graph
        self.output_types = [t.type for t in graph.outputs]
        self.frames: list[tuple[Frame, np.ndarray]] = []
        self.constants = [np.ascontiguousarray(t.node.attrs["value"]) for t in self.plan.constants]
        self.inputs = len(graph.inputs)
        calls_lapack = any(lapack.uses_lapack(k.source) for k in self.kernels)
        self.start = _without_blas_threads if calls_lapack else Frame.run
        self.makers: list[Callable[[], np.ndarray]] = []
        for t in self.output_types:
            if t.nbytes < RECYCLE_BYTES:
                self.makers.append(partial(np.empty, t.shape, np.dtype(t.dtype)))
            else:
                self.makers.append(partial(self.recycled, t.shape, np.dtype(t.dtype), []))

    # -- frames -----------------------------------------------------------------------------------

    def frame(self) -> tuple[Frame, np.ndarray]:
        """A new frame with an arena of its own."""
        frame = Frame(self.program)
        arena = np.empty(self.plan.arena_bytes + ALIGN, np.uint8)
        frame.bases[0] = -(-arena.ctypes.data // ALIGN) * ALIGN
        at = 1 + self.inputs + len(self.output_types)
        for array in (*(v.storage for v in self.plan.variables), *self.constants):
            frame.bases[at] = array.ctypes.data
            at += 1
        return frame, arena

    def recycled(
        self, shape: tuple[int, ...], dtype: np.dtype, pool: list[np.ndarray]
    ) -> np.ndarray:
        """Memory of an earlier result that no one holds any more, else fresh."""
        for base in pool:
            if sys.getrefcount(base) == 3:  # the pool, the loop variable and the argument here
                return base.view()
        base = np.empty(shape, dtype)
        if len(pool) < RECYCLE_COUNT:
            pool.append(base)
            return base.view()
        return base

    def run(
        self, arrays: Sequence[np.ndarray], outputs: list[np.ndarray] | None
    ) -> list[np.ndarray]:
        """Run once. `arrays` are checked and contiguous; `outputs` may give the memory to fill."""
        try:
            held = self.frames.pop()
        except IndexError:
            held = self.frame()
        frame = held[0]
        if outputs is None:
            outputs = [make() for make in self.makers]
        try:
            if self.start(frame, (*arrays, *outputs)) == w.FAILED:
                self.fail(frame)
        finally:
            self.frames.append(held)
        return outputs

    def fail(self, frame: Frame) -> None:
        step, code = frame.failure
        found = self.plan.steps[step]
        assert found.node is not None
        if found.kind == "numerics":
            arrays = self.seen(frame, step)
            given = len(found.node.operands)
            made = finding(found.node, code, found.labels, arrays[:given], arrays[given:])
            raise made.error()
        raise NumericError(check_message(code, **found.node.attrs), found.node.where)

    def seen(self, frame: Frame, step: int) -> list[np.ndarray]:
        """Copies of what the node of a `numerics` step read and made."""
        node = self.plan.steps[step].node
        assert node is not None
        first = int(self.program.steps[step, 1]) + 1  # behind the verdict
        arrays = []
        for k, t in enumerate((*node.operands, *node.results), first):
            address = frame.bases[int(self.program.slot[k])] + int(self.program.offset[k])
            data = ctypes.string_at(address, t.type.nbytes) if t.type.nbytes else b""
            arrays.append(np.frombuffer(data, t.type.dtype).reshape(t.shape))
        return arrays


def _without_blas_threads(frame: Frame, arrays: tuple[np.ndarray, ...]) -> int:
    with lapack.single_threaded():
        return frame.run(arrays)


def link(plan: Plan) -> Executable:
    """Compile the kernels of a plan and lay its steps out for the launcher."""
    launches = [s.launch for s in plan.steps if s.launch is not None]
    kernels = compile_kernels([KernelSource(x.name, x.text, x.entry) for x in launches])
    graph = plan.graph
    base = {"arena": 0, "input": 1, "output": 1 + len(graph.inputs)}
    base["variable"] = base["output"] + len(graph.outputs)
    base["constant"] = base["variable"] + len(plan.variables)
    count = base["constant"] + len(plan.constants)
    rows: list[list[int]] = []
    slot: list[int] = []
    offset: list[int] = []
    ready = iter(kernels)
    work = 0
    for step in plan.steps:
        first = len(slot)
        for ref in step.refs:
            if ref.space == "arena":
                slot.append(0)
                offset.append(plan.buffers[ref.index].offset + ref.offset)
            else:
                slot.append(base[ref.space] + ref.index)
                offset.append(ref.offset)
        if step.kind == "kernel":
            launch = step.launch
            assert launch is not None
            rows.append(
                [w.KERNEL, next(ready).address, launch.tiles, first, int(launch.parallel), 0, 0, 0]
            )
            work += launch.flops
        elif step.kind == "jump_if_false":
            rows.append([w.JUMP_IF_FALSE, first, step.target, 0, 0, 0, 0, 0])
        elif step.kind == "jump":
            rows.append([w.JUMP, 0, step.target, 0, 0, 0, 0, 0])
        elif step.kind == "copy":
            rows.append([w.COPY, first, first + 1, step.nbytes, 0, 0, 0, 0])
            work += step.nbytes
        elif step.kind in ("check", "numerics"):
            rows.append([w.CHECK, first, 0, 0, 0, 0, 0, 0])
        else:
            rows.append([w.COMMIT, 0, 0, 0, 0, 0, 0, 0])
    program = Program(
        np.array(rows, np.int64).reshape(-1, w.STEP_WORDS),
        np.array(slot, np.int64),
        np.array(offset, np.int64),
        bases=count,
        scratch_bytes=plan.scratch_bytes,
        hold_gil=work < SHORT_PLAN,
    )
    return Executable(plan, kernels, program)
