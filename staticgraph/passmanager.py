"""Passes and pipelines: a pass is a function from graph to graph."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from staticgraph.errors import GraphTypeError, InternalError, shorten
from staticgraph.ir import Graph, Node
from staticgraph.verify import verify

#: every pass by name
PASSES: dict[str, Pass] = {}


class Pass:
    """A named function `Graph -> Graph`; options are keyword arguments, fixed by `with_options`.

    One that takes a keyword `report` is given a list there and may add a `Note` for what it did.
    """

    def __init__(self, function: Callable[..., Graph], options: dict[str, Any] | None = None):
        if not callable(function):
            raise GraphTypeError(
                "graph_pass: a pass is a Python function from Graph to Graph,"
                f" got {type(function).__name__}"
            )
        functools.update_wrapper(self, function)
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self.options = options or {}
        self.reports = "report" in inspect.signature(function).parameters

    def __call__(self, graph: Graph, **options: Any) -> Graph:
        if not isinstance(graph, Graph):
            raise GraphTypeError(f"pass {self.name!r}: needs a Graph, got {type(graph).__name__}")
        made = self.function(graph, **{**self.options, **options})
        if not isinstance(made, Graph):
            raise GraphTypeError(
                f"pass {self.name!r}: must return a Graph, returned {type(made).__name__}"
            )
        return made

    def with_options(self, **options: Any) -> Pass:
        """The same pass with options given."""
        return Pass(self.function, {**self.options, **options})

    def __repr__(self) -> str:
        given = ", ".join(f"{k}={v!r}" for k, v in self.options.items())
        return f"{self.name}({given})" if given else self.name


def graph_pass(function: Callable[..., Graph]) -> Pass:
    """Make a function from Graph to Graph a pass, to be used alone or in a Pipeline.

    Its keyword arguments are options of the pass, fixed by `with_options`. A call of the pass
    raises GraphTypeError where it is given, or returns, anything but a Graph.
    """
    return Pass(function)


def in_bodies(function: Callable[..., Graph]) -> Callable[..., Graph]:
    """Make a pass enter the bodies of nodes (branches of a `cond`), innermost first.

    @graph_pass
    @in_bodies
    def cse(graph): ...
    """

    @functools.wraps(function)
    def run(graph: Graph, **options: Any) -> Graph:
        if any(node.op.bodies for node in graph.nodes):
            graph = graph.rebuild(
                lambda node, operands: map_bodies(node.with_operands(operands), run, **options)
            )
        return function(graph, **options)

    return run


def map_bodies(node: Node, function: Callable[..., Graph], **options: Any) -> Node:
    """The node with each of its bodies replaced by what the function makes of it."""
    made = {name: function(node.attrs[name], **options) for name in node.op.bodies}
    same = all(made[name] is node.attrs[name] for name in made)
    return node if same else node.with_attrs(**made)


def register_pass(made: Pass) -> Pass:
    """Enter one of the project's own passes under its name."""
    if made.name in PASSES:
        raise InternalError(f"pass {made.name!r} is declared twice")
    PASSES[made.name] = made
    return made


@dataclass(frozen=True)
class Note:
    """One thing a pass did: what became of what, why, and the user's line it came from."""

    what: str
    why: str
    where: tuple[str, int] | None = None

    def __str__(self) -> str:
        return f"{shorten(self.where) or '?'}: {self.what}: {self.why}"


@dataclass(frozen=True)
class PassRecord:
    """What one pass did: its name, seconds, nodes before and after, and what it reports."""

    name: str
    seconds: float
    before: int
    after: int
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Pipeline:
    """Passes in order; `compile(..., pipeline=...)` takes one, and `+` joins two.

    `verify=True` checks the graph after each pass, and raises InternalError that names the pass
    which broke it. An error of a pass carries a note that says which one ran.
    """

    passes: tuple[Pass, ...]
    verify: bool = False

    def __init__(
        self, passes: Iterable[Pass | Callable[[Graph], Graph]] = (), *, verify: bool = False
    ):
        made = tuple(p if isinstance(p, Pass) else graph_pass(p) for p in passes)
        object.__setattr__(self, "passes", made)
        object.__setattr__(self, "verify", verify)

    def __call__(self, graph: Graph, *, record: list[PassRecord] | None = None) -> Graph:
        """Run the passes; `record` receives what each did."""
        for p in self.passes:
            before, start = len(graph), time.perf_counter()
            try:
                notes: list[Note] = []
                after = p(graph, report=notes) if p.reports else p(graph)
                if self.verify:
                    verify(after)
            except Exception as error:
                error.add_note(f"while running pass {p.name!r} on a graph of {before} nodes")
                raise
            if record is not None:
                record.append(
                    PassRecord(
                        p.name, time.perf_counter() - start, before, len(after), tuple(notes)
                    )
                )
            graph = after
        return graph

    def __add__(self, other: Pipeline | Sequence[Pass]) -> Pipeline:
        more = other.passes if isinstance(other, Pipeline) else tuple(other)
        return Pipeline((*self.passes, *more), verify=self.verify)

    def __repr__(self) -> str:
        return f"Pipeline([{', '.join(map(repr, self.passes))}])"
