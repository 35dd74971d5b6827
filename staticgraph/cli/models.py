"""A model of the command line made ready to run: a compiled function and arrays for its inputs.

The name means a compiled function, a function to trace with the types of `-i`, a factory that
returns (function, inputs) or anything else of this list, tensors, a graph, or a file of one.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from staticgraph import cudarun, tree
from staticgraph.cli.inputs import Given, arrays_for
from staticgraph.cli.naming import Found, locate, user_code
from staticgraph.cli.problems import Problem, failed, meant
from staticgraph.compile import Function, as_pipeline, compile, load
from staticgraph.errors import StaticGraphError, TargetError
from staticgraph.frontend import Traced, function
from staticgraph.gradient import grad
from staticgraph.ir import Graph, Variable
from staticgraph.ops import sum as total
from staticgraph.optim import sgd
from staticgraph.passmanager import Pipeline
from staticgraph.profiling.report import Report
from staticgraph.tensor import Tensor
from staticgraph.textreader import parse
from staticgraph.types import TensorType, is_float

_STEP = 1e-3  # learning rate of --mode step: small, so that any number of runs stays finite


@dataclass(frozen=True)
class Request:
    """What was asked for, as plain data: a fresh process makes the same model of it."""

    model: str
    define: tuple[str, ...] = ()
    mode: str | None = None
    threads: int | None = None
    pin: bool = False
    device: str = "cpu"
    without: tuple[str, ...] = ()
    memory_budget: str | None = None
    inputs: tuple[str, ...] = ()
    inputs_file: str | None = None
    seed: int = 0

    @classmethod
    def of(cls, o: Any, model: str) -> Request:
        """From the options of a command."""
        return cls(model, **{f.name: getattr(o, f.name) for f in fields(cls)[1:]})


@dataclass(frozen=True)
class Model:
    """A function, arrays to run it on, and what to say about both."""

    name: str  # as on the command line
    label: str
    function: Function
    arrays: list[np.ndarray]
    origins: list[str]  # where each array comes from

    def run(self) -> list[np.ndarray]:
        """One call, for its results."""
        with user_code(self.label, "while it ran"):
            return tree.flatten(self.function(*self.arrays))[0]

    def profile(self, **options: Any) -> Report:
        """`Function.profile` on these arrays; the report says whose model and inputs they are."""
        with user_code(self.label, "while it ran"):
            report = self.function.profile(*self.arrays, **options)
        report.model.name = self.label
        rows = zip(report.model.inputs, self.origins, strict=True)
        report.model.inputs = [replace(row, origin=origin) for row, origin in rows]
        report.advice = [
            replace(a, command=a.command.replace("MODEL", self.name)) for a in report.advice
        ]
        return report


def load_model(request: Request) -> Model:
    """The model that a request names; Problem where there is none or it does not work."""
    if request.device == "cuda":
        check_gpu()
    if request.pin:
        pin(request.threads)
    given = Given.read(request.inputs, request.inputs_file, request.seed)
    found = locate(request.model)
    made = _Loader(found, request, given)
    try:
        fn = made.function()
        arrays, origins = arrays_for(
            fn.names, fn.types, made.given, made.examples(fn), found.label, made.cure(fn)
        )
    except StaticGraphError as error:
        raise failed(f"{found.label}: {error.summary}") from error
    return Model(request.model, found.label, fn, arrays, origins)


def check_gpu() -> None:
    """Refuse `--device cuda` where times would mean nothing."""
    try:
        state = cudarun.device().state()
    except TargetError:
        state = ""
    if state == "simulator":
        raise failed("--device cuda: NUMBA_ENABLE_CUDASIM is set; a simulator's times mean nothing")
    if state != "device":
        raise failed("--device cuda: numba.cuda finds no GPU")


def pin(threads: int | None) -> None:
    """Keep this process on as many of its cores as it has threads."""
    if not hasattr(os, "sched_setaffinity"):
        raise Problem("--pin: this system cannot bind a process to cores")
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: threads or len(cores)])


class _Loader:
    """From what was found to a Function with the options asked for."""

    def __init__(self, found: Found, request: Request, given: Given):
        self.found = found
        self.request = request
        self.given = given
        self.own: Any = None  # inputs that a factory returned
        self.parameters: Mapping[str, inspect.Parameter] = {}

    def function(self) -> Function:
        found = self.found
        if found.path is not None and found.path.suffix == ".sg":
            text = found.path.read_text()
            fn = _of_graph(parse(text, source=str(found.path)))
        elif found.path is not None:
            fn = load(found.path)
        else:
            fn = self.compiled(self.value())
        return self.adapted(fn)

    def value(self) -> Any:
        """What the name means, with the instance of a method made and a factory called."""
        value, owner = self.found.value, self.found.owner
        if isinstance(value, type):
            raise Problem(
                f"{self.found.label} is a class; name a method of it: {self.found.label}.METHOD"
            )
        arguments = self.arguments()
        if owner is not None and _needs_self(owner, value.__name__):
            made = self.called(owner, _take(owner, arguments))
            value = getattr(made, value.__name__)
        if isinstance(value, (Function, Graph, Tensor)):
            self.refuse(arguments, ())
            return value
        if isinstance(value, Traced) or callable(value):
            return self.call_or_trace(value, arguments)
        return value

    def call_or_trace(self, value: Any, arguments: dict[str, Any]) -> Any:
        """Trace with the types of `-i`; call where no parameter is left that needs one.

        `-i n=128` is the number where the parameter has a default or is an `int`; else it is a
        vector, or where the function takes none, the number.
        """
        self.parameters = inspect.signature(value).parameters
        numbers = {
            n: s.integer
            for n, s in self.given.specs.items()
            if s.integer is not None and n in self.parameters and not isinstance(value, Traced)
        }
        sure = {n: k for n, k in numbers.items() if _is_number(self.parameters[n])}
        given = self.given
        try:
            return self.with_numbers(value, arguments | sure, set(sure))
        except Problem as problem:
            if sure == numbers:
                raise
            self.given = given
            with contextlib.suppress(Problem):
                return self.compiled(self.with_numbers(value, arguments | numbers, set(numbers)))
            raise problem from problem.__cause__

    def with_numbers(self, value: Any, arguments: dict[str, Any], numbers: set[str]) -> Any:
        """Trace or call, with all that is no tensor in `arguments`."""
        self.given = self.given.without(numbers)
        self.refuse(arguments, self.parameters)
        free = [n for n, p in self.parameters.items() if n not in arguments and p.kind in _NAMED]
        typed = {n: t for n in free if (t := self.given.type_of(n)) is not None}
        needed = [n for n in free if self.parameters[n].default is inspect.Parameter.empty]
        missing = [n for n in needed if n not in typed]
        if missing:
            raise Problem(
                f"{self.found.label} needs {' and '.join(missing)}: give each a type,"
                f" -i {missing[0]}=128x784xf32, or a value, -D {missing[0]}=128"
            )
        if typed or isinstance(value, Traced):
            return self.traced(value, typed, arguments)
        return self.called(value, arguments)

    def traced(
        self, value: Any, typed: Mapping[str, TensorType], arguments: Mapping[str, Any]
    ) -> Function:
        with user_code(self.found.source, "while building the graph"):
            inner = value.function if isinstance(value, Traced) else value
            options = value.options if isinstance(value, Traced) else {}
            # Bound, so that numbers of -D are numbers there and no inputs.
            bound = functools.partial(inner, **arguments)
            bound.__name__ = inner.__name__  # type: ignore[attr-defined]  # for messages
            return Traced(bound, options).lower(**typed)

    def called(self, value: Callable, arguments: Mapping[str, Any]) -> Any:
        with user_code(self.found.source, "while building the graph"):
            return value(**arguments)

    def arguments(self) -> dict[str, Any]:
        """What `-D` says."""
        made = {}
        for text in self.request.define:
            name, equals, word = text.partition("=")
            if not equals or not name.isidentifier():
                raise Problem(f"-D {text}: write -D NAME=VALUE")
            try:
                made[name] = ast.literal_eval(word)
            except (ValueError, SyntaxError):
                made[name] = word
        return made

    def refuse(self, arguments: Mapping[str, Any], known: Any) -> None:
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in self.parameters.values()):
            return
        for name in arguments:
            if name not in known:
                raise Problem(f"{self.found.label} takes no argument {name!r}{meant(name, known)}")

    def compiled(self, value: Any) -> Function:
        """A Function of whatever a name or a factory gave."""
        if isinstance(value, Function):
            return value
        if isinstance(value, Graph):
            return _of_graph(value)
        if isinstance(value, Traced) or (callable(value) and not isinstance(value, Tensor)):
            return self.call_on(value)
        if isinstance(value, tuple) and len(value) == 2:
            first, second = value
            if isinstance(second, dict) and any(isinstance(k, Variable) for k in second):
                return self.compile(first, second)
            leaves, _ = tree.flatten(second)
            if leaves and not any(isinstance(t, Tensor) for t in leaves):
                self.own = second
                return self.compiled(first)
        leaves, _ = tree.flatten(value)
        if leaves and all(isinstance(t, Tensor) for t in leaves):
            return self.compile(value, None)
        verb = "returned" if callable(self.found.value) else "is"
        raise Problem(
            f"{self.found.label} {verb} {_said(value)}; a model is a compiled function,"
            " tensors, a function of tensors, or a factory that returns (function, inputs)"
        )

    def compile(self, outputs: Any, updates: Mapping[Variable, Tensor] | None) -> Function:
        with user_code(self.found.source, "while building the graph"):
            return compile(outputs, updates=updates)

    def call_on(self, value: Any) -> Function:
        """Trace a function that a factory returned, with the inputs it returned beside it."""
        if self.own is None:
            raise Problem(
                f"{self.found.label} returned a function without inputs for it;"
                " return (function, inputs)"
            )
        with user_code(self.found.source, "while building the graph"):
            traced = value if isinstance(value, Traced) else function(value)
            if isinstance(self.own, dict):
                return traced.lower(**self.own)
            return traced.lower(*(self.own if isinstance(self.own, (list, tuple)) else [self.own]))

    def examples(self, fn: Function) -> dict[str, np.ndarray]:
        """The factory's own inputs by the names of the function's."""
        if isinstance(self.own, dict) and set(self.own) <= set(fn.names):
            return {n: np.asarray(a) for n, a in self.own.items()}
        leaves, _ = tree.flatten(self.own)
        return {n: np.asarray(a) for n, a in zip(fn.names, leaves, strict=False)}

    def cure(self, fn: Function) -> str:
        """`-D batch=` where an argument of the factory has the size of a declared axis."""
        for name, spec in self.given.specs.items():
            if name not in fn.names or spec.shape is None:
                continue
            declared = fn.types[fn.names.index(name)].shape
            for was, now in zip(declared, spec.shape, strict=False):
                for parameter in self.parameters.values():
                    if was != now and parameter.default == was and parameter.kind in _NAMED:
                        return f"-D {parameter.name}={now}"
        return ""

    # -- what the options change ------------------------------------------------------------------

    def adapted(self, fn: Function) -> Function:
        """The function as the options want it; itself where they change nothing."""
        request = self.request
        changed: dict[str, Any] = {}
        if request.without:
            changed["pipeline"] = without(fn.options["pipeline"], request.without)
        if request.threads is not None:
            changed["threads"] = request.threads
        if request.device != fn.options["target"] and request.device == "cuda":
            changed["target"] = request.device
        if request.memory_budget is not None:
            changed["memory_budget"] = request.memory_budget
        graph, form = fn.graph, fn.form
        if request.mode in ("grad", "step"):
            graph = differentiated(graph, request.mode, self.found.label)
            form = (list, (tree.LEAF,) * len(graph.outputs))
        if changed or graph is not fn.graph:
            return Function(graph, form, {**fn.options, **changed})
        return fn


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _of_graph(graph: Graph) -> Function:
    return Function(graph, (list, (tree.LEAF,) * len(graph.outputs)), {})


def _needs_self(owner: type, name: str) -> bool:
    return inspect.isfunction(inspect.getattr_static(owner, name))


def _said(value: Any) -> str:
    """'nothing', '3 (int)', 'a dict'."""
    if value is None:
        return "nothing"
    return (
        f"{value!r} ({type(value).__name__})" if np.isscalar(value) else f"a {type(value).__name__}"
    )


def _is_number(parameter: inspect.Parameter) -> bool:
    empty = parameter.default is inspect.Parameter.empty
    return not empty or parameter.annotation in (int, "int")


def _take(owner: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that making an instance takes; they are taken out."""
    taken = [n for n in inspect.signature(owner).parameters if n in arguments]
    return {n: arguments.pop(n) for n in taken}


def without(pipeline: Any, names: Sequence[str]) -> Pipeline:
    """A pipeline with passes left out."""
    full = as_pipeline(pipeline)
    known = [p.name for p in full.passes]
    for name in names:
        if name not in known:
            raise Problem(f"--without {name}: no such pass{meant(name, known)}")
    return Pipeline([p for p in full.passes if p.name not in names], verify=full.verify)


def differentiated(graph: Graph, mode: str, label: str) -> Graph:
    """The graph with gradients of its first output, or with an update by them."""
    loss = next((t for t in graph.outputs if is_float(t.type.dtype)), None)
    if loss is None:
        raise Problem(f"--mode {mode}: {label} has no output of floats")
    if loss.shape:
        loss = total(loss)
    variables = [v for v in graph.variables if is_float(v.type.dtype)]
    if mode == "grad":
        inputs = [t for t in graph.inputs if is_float(t.type.dtype)]
        if not inputs + variables:
            raise Problem(f"--mode grad: {label} has no inputs or variables of floats")
        return Graph(graph.inputs, [*graph.outputs, *grad(loss, inputs + variables)], graph.updates)
    if graph.updates:
        raise Problem(f"--mode step: {label} updates its variables already")
    if not variables:
        raise Problem(f"--mode step: {label} has no variables; --mode grad differentiates inputs")
    return Graph(graph.inputs, graph.outputs, sgd(loss, variables, lr=_STEP))
