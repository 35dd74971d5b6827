"""From tensors to a callable: the whole path, in reading order."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from staticgraph import archive, arguments, cudarun, tree
from staticgraph.budget import POLICY, Recomputation, within
from staticgraph.checkedplan import build_checked, check_kinds
from staticgraph.codegen.cudaselect import cuda_code
from staticgraph.codegen.select import Code, code_of
from staticgraph.cudarun import CudaExecutable, CudaKernel
from staticgraph.errors import (
    GraphTypeError,
    InputError,
    NumericError,
    TargetError,
)
from staticgraph.findings import Finding
from staticgraph.ir import INPUT, Graph, Node, Variable, postorder
from staticgraph.kernels import Kernel
from staticgraph.operands import as_tensor
from staticgraph.passes import MEANING, PIPELINES
from staticgraph.passmanager import Note, Pass, PassRecord, Pipeline
from staticgraph.plan import Memory, Plan
from staticgraph.planner import build
from staticgraph.runtime import Executable, link
from staticgraph.tensor import Tensor
from staticgraph.threads import caller, check_threads
from staticgraph.verify import verify

if TYPE_CHECKING:
    from staticgraph.profiling.explanation import Explanation
    from staticgraph.profiling.report import Report

#: how each target makes kernels of a node, and a plan callable
TARGETS: dict[str, tuple[Callable[[Node, str], Code], Callable[[Plan], Any]]] = {
    "cpu": (code_of, link),
    "cuda": (cuda_code, cudarun.link),
}
#: options of a function that was saved without them, or made by hand
DEFAULTS: dict[str, Any] = {
    "pipeline": "default",
    "threads": None,
    "target": "cpu",
    "memory_budget": None,
    "policy": POLICY,
    "check_numerics": False,
}


@dataclass(frozen=True)
class CompileTimes:
    """Seconds spent in each stage of compiling one function."""

    passes: tuple[PassRecord, ...]
    plan: float
    kernels: float
    total: float


class Function:
    """A compiled graph. Call it with arrays, by position or by the names of the inputs.

    Attributes: `graph` (as built), `optimized`, `plan`, `kernels`, `memory`, `times`, `report`.
    """

    def __init__(self, graph: Graph, form: Any, options: dict[str, Any]):
        start = time.perf_counter()
        options = {**DEFAULTS, **options}
        checks = check_kinds(options["check_numerics"])
        if checks and options["target"] != "cpu":
            raise TargetError("compile: check_numerics needs target='cpu'")
        verify(graph)
        if options["target"] == "cuda":
            cudarun.device()  # before work is put in: there may be none
        self.graph = graph
        self.form = form
        self.options = options
        self.threads = None if options["threads"] is None else check_threads(options["threads"])
        records: list[PassRecord] = []
        self.optimized: Graph = as_pipeline(options["pipeline"])(MEANING(graph), record=records)
        planned = time.perf_counter()
        generate, bind = TARGETS[options["target"]]

        def planned_of(graph: Graph) -> Plan:
            return build_checked(graph, checks, generate) if checks else build(graph, generate)

        self.plan: Plan = planned_of(self.optimized)
        linked = time.perf_counter()
        #: how values are computed again to keep `memory_budget`; None where nothing is
        self.recomputation: Recomputation | None = None
        if options["memory_budget"] is not None:
            self.recomputation = within(
                self.optimized, self.plan, options["memory_budget"], options["policy"], planned_of
            )
        if self.recomputation is not None:
            self.optimized, self.plan = self.recomputation.graph, self.recomputation.plan
        self.executable: Executable | CudaExecutable = bind(self.plan)
        end = time.perf_counter()
        self.times = CompileTimes(tuple(records), linked - planned, end - linked, end - start)
        self.names = [t.node.attrs["name"] for t in graph.inputs]
        self.types = [t.type for t in graph.inputs]
        self._plain = [(np.dtype(t.dtype), t.shape) for t in self.types]
        self._locks = [v.lock for v in sorted(self.plan.variables, key=id)]
        self._single = form == tree.LEAF
        self._run = self.executable.run
        self._twins: dict[int, Function] = {}  # by what they check

    @property
    def kernels(self) -> list[Kernel] | list[CudaKernel]:
        """The compiled kernels in the order of the plan: `.source`, `.asm`, `.path`, ..."""
        return self.executable.kernels

    @property
    def report(self) -> tuple[Note, ...]:
        """What the passes removed or moved, and why: `print(*fn.report, sep="\\n")`."""
        return tuple(note for record in self.times.passes for note in record.notes)

    @property
    def memory(self) -> Memory:
        """What one call allocates, and the least that any placement could."""
        return self.plan.memory

    def __call__(self, *arrays: Any, out: Any = None, **named: Any) -> Any:
        """Run with NumPy arrays; returns arrays in the form of the outputs.

        `out` gives arrays to write the outputs to, in the same form. Raises InputError for
        missing, surplus, misnamed or unfit arrays before anything runs.
        """
        given: Sequence[Any] = arrays
        if named or len(arrays) != len(self.types):
            given = arguments.bind(self.names, self.types, arrays, named)
        for k, (dtype, shape) in enumerate(self._plain):
            a = given[k]
            if not (
                type(a) is ndarray
                and a.dtype is dtype
                and a.shape == shape
                and a.flags.c_contiguous
            ):
                converted = arguments.convert(self.names[k], self.types[k], a)
                given = [*given[:k], converted, *given[k + 1 :]]
        outputs = None
        if out is not None:
            outputs = arguments.results(self.form, self.graph.outputs, out)
            given = arguments.apart(given, outputs)
        if self._locks or self.threads is not None:
            results = self._guarded(given, outputs)
        else:
            results = self._run(given, outputs)
        return results[0] if self._single else tree.unflatten(self.form, results)

    def _guarded(
        self, arrays: Sequence[np.ndarray], outputs: list[np.ndarray] | None
    ) -> list[np.ndarray]:
        """Run with the variables locked and the thread budget set."""
        budget = caller.budget
        taken = 0
        try:
            for lock in self._locks:
                lock.acquire()
                taken += 1
            if self.threads is not None:
                caller.budget = self.threads
            return self._run(arrays, outputs)
        finally:
            caller.budget = budget
            for lock in self._locks[:taken]:
                lock.release()

    def arguments(self, arrays: Sequence[Any], named: Mapping[str, Any]) -> list[np.ndarray]:
        """Arrays of a call in the order of the inputs, each contiguous and of the right type."""
        bound = arguments.bind(self.names, self.types, arrays, named)
        return list(map(arguments.convert, self.names, self.types, bound))

    def profile(self, *arrays: Any, **options: Any) -> Report:
        """Measure calls with these arrays: time, bytes and operations of every kernel, memory.

        Without arrays the inputs are random. Variables have their values back afterwards. Arrays
        may also be given by the names of the inputs.

        Options:
            runs: stamped runs, each beside one without stamps; by default what fits in `seconds`
            seconds: time for measuring, after the warm-up; by default 2000 runs, at most 1 second
            warmup: calls before that; by default until times no longer fall
            seed: of the random inputs
            roofs: True holds kernels against this machine's measured limits (measured once, kept on
                disk), False leaves that out; a `Machine` is used as it is
            on_round: called with (rounds done, rounds wanted or None)

        Ctrl-C gives the report of the rounds done. Raises TargetError for target="cuda".
        """
        from staticgraph.profiling.profiler import profile

        chosen = {k: v for k, v in options.items() if k not in self.names}
        named = {k: v for k, v in options.items() if k in self.names}
        return profile(self, arrays, named, **chosen)

    def explain(self, kernel: int | None = None, *, diff: bool = False) -> Explanation:
        """Say why this function is as it is; `print` it, or read its fields.

        What each pass did (with `diff`, the lines of the graph it changed), which ops are one
        kernel or not and by which rule, where values lie, what a memory budget computes again.
        `kernel`, numbered from 1 as in a profile, adds that kernel's LLVM, assembly, the width of
        its arithmetic, and LLVM's remarks, which a child process of half a second collects.

        Raises InputError where there is no such kernel, TargetError for target="cuda".
        """
        from staticgraph.profiling.explain import explain

        return explain(self, kernel, diff=diff)

    def check_numerics(
        self, *arrays: Any, kinds: bool | str = True, **named: Any
    ) -> Finding | None:
        """Run once, with checks, and say where NaN or Inf first appears; None where none does.

        Kernels and results are those of an ordinary call; variables keep their values. An op is
        named where its result holds NaN and no operand does, or Inf and no operand holds Inf or
        NaN: a mask of -inf that is passed on is no finding. NaN in inputs and variables is one.
        Values that never leave a kernel, and so harm nothing, are not looked at: compile with
        pipeline="none" to see every op. `kinds="nan"` looks for NaN alone.

        Raises InputError for arrays that do not fit, TargetError for target="cuda".
        """
        if self.options["target"] != "cpu":
            raise TargetError("check_numerics: needs target='cpu'")
        given = self.arguments(arrays, named)
        try:
            self._checked(check_kinds(kinds))._guarded(given, None)
        except NumericError as error:
            if error.finding is None:
                raise
            return error.finding
        return None

    def _checked(self, kinds: int) -> Function:
        """This function with checks, and with new values of variables returned, not written."""
        made = self._twins.get(kinds)
        if made is None:
            graph = self.optimized
            pure = Graph(graph.inputs, graph.roots)
            if graph.is_scheduled:
                pure = pure.scheduled(graph.nodes)
            made = self.replanned(pure, build_checked(pure, kinds))
            self._twins[kinds] = made
        return made

    def replanned(self, graph: Graph, plan: Plan) -> Function:
        """The same function by another plan of an equal graph; it shares variables and options."""
        made = copy.copy(self)
        made.optimized, made.plan = graph, plan
        made.executable = TARGETS[self.options["target"]][1](plan)
        made._run = made.executable.run
        return made

    def save(self, path: str | os.PathLike) -> None:
        """Write graph, variables and options to one file, for `sg.load`.

        Raises InputError for what a file cannot hold, OSError where it cannot be written; what was
        there before stays.
        """
        archive.save_graph(
            path,
            self.graph,
            {
                "form": self.form,
                # Pipelines and policies may be code of the user's, which a file does not hold.
                "options": {
                    k: v for k, v in self.options.items() if k != "pipeline" and not callable(v)
                },
            },
        )

    def __repr__(self) -> str:
        given = ", ".join(f"{n}: {t}" for n, t in zip(self.names, self.types, strict=True))
        return (
            f"<Function ({given}) of {len(self.plan.launches)} kernels, {self.plan.arena_bytes} B>"
        )


def load(path: str | os.PathLike, **options: Any) -> Function:
    """A function written by `Function.save`; options replace those it was compiled with.

    Variables have the values that they had when it was saved; they are new ones. A pipeline or
    policy that was code of the user's is not in the file: give it again.

    Raises InputError for a file that is missing, damaged or of another version.
    """
    graph, extra = archive.load_graph(path)
    return Function(
        graph,
        extra["form"],
        {**extra["options"], **options},
    )


def as_pipeline(pipeline: object) -> Pipeline:
    """A pipeline by name, as an object, or as a list of passes."""
    if isinstance(pipeline, Pipeline):
        return pipeline
    if isinstance(pipeline, str):
        if pipeline not in PIPELINES:
            raise GraphTypeError(
                f"compile: there is no pipeline {pipeline!r};"
                f" there are {', '.join(map(repr, PIPELINES))}"
            )
        return PIPELINES[pipeline]
    if isinstance(pipeline, (list, tuple)):
        return Pipeline(pipeline)
    if isinstance(pipeline, Pass):
        return Pipeline([pipeline])
    raise GraphTypeError(
        "compile: pipeline is a name, a Pipeline or a list of passes,"
        f" got {type(pipeline).__name__}"
    )


def compile(
    outputs: Any,
    inputs: Sequence[Tensor] | None = None,
    *,
    updates: Mapping[Variable, Tensor] | None = None,
    target: str = "cpu",
    pipeline: object = "default",
    memory_budget: int | str | None = None,
    policy: str | Callable[..., Sequence[int]] = POLICY,
    threads: int | None = None,
    check_numerics: bool | str = False,
) -> Function:
    """Compile tensors into a function.

    Arguments:
        outputs: a Tensor or any nesting of list, tuple and dict of them; calls return that form
        inputs: the order of positional arguments; by default that in which inputs were made
        updates: new values of variables, written when the call has computed everything. Ctrl-C
            leaves all as they were or, once the last kernel is writing them, all updated
        target: "cpu" or "cuda"; without a GPU, "cuda" compiles (`fn.kernels[k].ptx()`) or is
            simulated, and raises TargetError where there is nothing for either
        pipeline: "default", "none", a Pipeline, or a list of passes
        memory_budget: limit on the arena (`fn.memory.peak_bytes`): bytes, "120MiB", or "40%" of
            what it is without a limit. Values are computed again where needed, with the same bits;
            BudgetError names the least that can be reached
        policy: who decides what is computed again: a name of
            `staticgraph.passes.remat.STRATEGIES`, or a function (dag, budget) that returns the
            numbers of the nodes in the order they run, some of them again. The dag has for each
            node `cost` (nominal seconds), `size` (bytes), `flops`, `inputs`, `names` and `where`;
            budgets from the floor up to what is asked for are tried, and the cheapest plan is taken
        threads: threads of this function; by default the budget of the caller (`sg.threads`)
        check_numerics: True makes every call look for NaN and Inf behind every kernel, "nan" for
            NaN alone. NumericError then names the first op that gave one, see
            `Function.check_numerics`; variables keep their values. The arena grows, for what was
            read stays there until the result is checked; `memory_budget` holds for all of it

    Raises InputError for inputs that are missing, given twice or of one name, GraphTypeError and
    ShapeError for updates that do not fit their variables, TargetError, and BudgetError.
    """
    if target not in TARGETS:
        raise TargetError(f"compile: target is 'cpu' or 'cuda', got {target!r}")
    leaves, form = tree.flatten(outputs)
    roots = [as_tensor(t) for t in leaves]
    changes = arguments.check_updates(updates)
    needed = [n.results[0] for n in postorder([*roots, *(t for _, t in changes)]) if n.op is INPUT]
    if inputs is None:
        ordered = sorted(needed, key=lambda t: t.node.serial)
    else:
        ordered = arguments.check_inputs(inputs, needed)
    names = [t.node.attrs["name"] for t in ordered]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"compile: two inputs are named {name!r}; names must differ")
    graph = Graph(ordered, roots, changes)
    options = {
        "pipeline": pipeline,
        "threads": threads,
        "target": target,
        "memory_budget": memory_budget,
        "policy": policy,
        "check_numerics": check_numerics,
    }
    return Function(graph, form, options)
