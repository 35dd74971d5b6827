"""A plan made callable on a GPU: arrays over, kernels in order, results back.

Inputs and variables are copied to the device for every call and updated variables back after it,
when everything has been computed: a call that fails leaves all variables as they were. Constants
are copied once. The host walks the steps; where the plan branches it reads the predicate, one byte,
and goes on with the branch taken.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from staticgraph.codegen.cudaselect import CudaLaunch
from staticgraph.errors import NumericError, TargetError
from staticgraph.kernels import source_file
from staticgraph.plan import Plan, Ref, Step


@functools.cache
def device() -> ModuleType:
    """The file that talks to `numba.cuda`; raises TargetError where this machine has nothing."""
    try:
        from staticgraph import cudadevice  # here, because it imports numba.cuda
    except ImportError as error:
        raise TargetError(
            f"compile: target='cuda' needs numba.cuda ({error}); pip install 'numba-cuda[cu13]'"
        ) from error
    cudadevice.state()
    return cudadevice


@dataclass(frozen=True)
class CudaKernel:
    """A kernel of a function for target 'cuda': its source and launch."""

    name: str
    source: str
    blocks: int
    threads: int
    dtypes: tuple[str, ...]

    @property
    def path(self) -> Path:
        """A file with the source."""
        key = hashlib.sha256(self.source.encode()).hexdigest()
        return source_file(self.name, key, self.source)

    def ptx(self, cc: tuple[int, int] = (9, 0)) -> str:
        """PTX for a compute capability, where there is a CUDA toolkit."""
        return device().ptx(self.name, self.source, self.path, self.dtypes, cc)


def link(plan: Plan) -> CudaExecutable:
    """Compile the kernels of a plan, where there is something to run them on."""
    kernels = []
    for launch in plan.launches:
        assert isinstance(launch, CudaLaunch)
        kernels.append(
            CudaKernel(launch.name, launch.text, launch.tiles, launch.width, launch.dtypes)
        )
    return CudaExecutable(plan, kernels)


class CudaExecutable:
    """Kernels and the device memory that calls draw from."""

    def __init__(self, plan: Plan, kernels: list[CudaKernel]):
        self.plan, self.kernels = plan, kernels
        self.frames: list[_Frame] = []
        self.constants: list[Any] | None = None
        changed = {id(v) for v, _ in plan.graph.updates}
        self.updated = [k for k, v in enumerate(plan.variables) if id(v) in changed]
        self.code = []
        if device().state() != "toolkit":
            self.code = [device().compiled(k.name, k.source, k.path, k.dtypes) for k in kernels]

    def constant_buffers(self) -> list[Any]:
        """Constants on the device, copied there once."""
        if self.constants is None:
            gpu, made = device(), []
            for t in self.plan.constants:
                made.append(gpu.allocate(t.type.nbytes))
                gpu.upload(
                    t.node.attrs["value"], gpu.part(made[-1], 0, t.type.nbytes, t.type.dtype)
                )
            self.constants = made
        return self.constants

    def run(
        self, arrays: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None
    ) -> list[np.ndarray]:
        """Run once. `arrays` are checked and contiguous; `outputs` may give the memory to fill."""
        if device().state() == "toolkit":
            raise TargetError(
                "call: compiled for CUDA, but this machine has no NVIDIA GPU to run it;"
                " fn.kernels[k].ptx() shows the code, NUMBA_ENABLE_CUDASIM=1 simulates it"
            )
        try:
            frame = self.frames.pop()
        except IndexError:
            frame = _Frame(self)
        try:
            return frame.run(arrays, outputs)
        finally:
            self.frames.append(frame)


class _Frame:
    """The device memory of one call at a time, and the steps bound to it."""

    def __init__(self, executable: CudaExecutable):
        self.gpu = gpu = device()
        self.plan = plan = executable.plan
        graph = plan.graph
        self.types = {
            "input": [t.type for t in graph.inputs],
            "output": [t.type for t in graph.outputs],
            "variable": [v.spec for v in plan.variables],
            "constant": [t.type for t in plan.constants],
        }
        self.buffers = {
            space: [gpu.allocate(t.nbytes) for t in types]
            for space, types in self.types.items()
            if space != "constant"
        }
        self.buffers["constant"] = executable.constant_buffers()
        self.arena = gpu.allocate(plan.arena_bytes)
        self.updated = executable.updated
        code = iter(zip(executable.kernels, executable.code, strict=True))
        self.steps = [self.bind(step, code) for step in plan.steps]

    def view(self, ref: Ref, dtype: str, nbytes: int | None = None) -> Any:
        """The elements at a place of the plan."""
        if ref.space == "arena":
            b = self.plan.buffers[ref.index]
            return self.gpu.part(
                self.arena, b.offset + ref.offset, (b.size if nbytes is None else nbytes), dtype
            )
        whole = self.types[ref.space][ref.index].nbytes
        return self.gpu.part(
            self.buffers[ref.space][ref.index],
            ref.offset,
            (whole - ref.offset if nbytes is None else nbytes),
            dtype,
        )

    def whole(self, space: str) -> list[Any]:
        return [self.view(Ref(space, k), t.dtype) for k, t in enumerate(self.types[space])]

    def bind(self, step: Step, code) -> Callable[[], int | None]:
        """A step as a function that returns the number of the next step, None for the one after."""
        if step.kind == "kernel":
            kernel, compiled = next(code)
            views = [self.view(ref, d) for ref, d in zip(step.refs, kernel.dtypes, strict=True)]
            return self.gpu.bound(compiled, kernel.blocks, kernel.threads, views)
        if step.kind == "copy":
            source, target = (self.view(ref, "uint8", step.nbytes) for ref in step.refs)
            return (lambda: target.copy_to_device(source)) if step.nbytes else lambda: None
        if step.kind == "jump":
            return lambda: step.target
        if step.kind == "jump_if_false":
            flag = self.view(step.refs[0], "bool", 1)
            return lambda: None if flag.copy_to_host()[0] else step.target
        if step.kind == "check":
            status = self.view(step.refs[0], "int64", 8)
            return lambda: self.fail(step) if status.copy_to_host()[0] else None
        return lambda: None  # commit: the host's variables change after the last step anyway

    def fail(self, step: Step) -> None:
        raise NumericError(step.message, step.node.where if step.node is not None else None)

    def run(
        self, arrays: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None
    ) -> list[np.ndarray]:
        gpu, variables = self.gpu, self.plan.variables
        for array, target in zip(arrays, self.whole("input"), strict=True):
            gpu.upload(array, target)
        state = self.whole("variable")
        for v, target in zip(variables, state, strict=True):
            gpu.upload(v.storage, target)
        at = 0
        while at < len(self.steps):
            after = self.steps[at]()
            at = at + 1 if after is None else after
        types = self.types["output"]
        results = [np.empty(t.shape, t.dtype) for t in types] if outputs is None else list(outputs)
        for source, result in zip(self.whole("output"), results, strict=True):
            gpu.download(source, result)
        fresh = [
            (variables[k].storage, gpu.download(state[k], np.empty_like(variables[k].storage)))
            for k in self.updated
        ]
        try:
            _assign(fresh)
        except BaseException:  # Ctrl-C between two variables: finish, then say so
            _assign(fresh)
            raise
        return results


def _assign(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    for target, new in pairs:
        target[...] = new
