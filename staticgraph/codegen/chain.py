"""The kernels of several parts of a body, one after another as the kernels of one node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from staticgraph.codegen.tail import split_tail
from staticgraph.fusion import VIEWS, make
from staticgraph.ir import CONSTANT, INPUT, Graph
from staticgraph.passes.fuse import fuse
from staticgraph.tensor import Tensor

#: what generates the code of a body that is one sweep over a domain
Generator = Callable[[Graph, str], Any]


def with_tail(body: Graph, name: str, code_of: Generator) -> Any:
    """The code of a body: of one sweep over its domain, and of what follows when that is done."""
    main, tail = split_tail(body)
    if tail is None:
        return code_of(body, name)
    chain = _Chain(body)
    chain.add(code_of(main, name), main.inputs, main.outputs)
    for t, given in zip(tail.graph.inputs, tail.given, strict=True):
        chain.place[t] = chain.at(given)
    fused = fuse(tail.graph)
    late = [t for t in body.outputs if t in tail.late]
    for t, old in zip(fused.outputs, late, strict=True):
        chain.place.setdefault(t, chain.place[old])
    for node in fused.nodes:
        if node.op not in (INPUT, CONSTANT):
            made = with_tail(node.attrs["body"], f"{name}_join", code_of)
            chain.add(made, node.operands, node.results)
    return chain.code()


def one_by_one(body: Graph, name: str, code_of: Generator) -> Any:
    """The code of a body whose every node is kernels of its own."""
    chain, outputs = _Chain(body), set(body.outputs)
    for k, node in enumerate(body.nodes):
        viewed = node.op.name in VIEWS and outputs.isdisjoint(node.results)
        if node.op not in (INPUT, CONSTANT) and not viewed:
            alone, _ = make([node], node.results)
            chain.add(code_of(alone.attrs["body"], f"{name}_{k}"), alone.operands, node.results)
    return chain.code()


class _Chain:
    """Kernels so far, and where each value lies: where readers expect it, or in workspace."""

    def __init__(self, body: Graph):
        self.place = {t: ("in", k) for k, t in enumerate(body.inputs)}
        for k, t in reversed(list(enumerate(body.outputs))):
            self.place[t] = ("out", k)
        self.workspace: list[int] = []
        self.parts: list[Any] = []

    def at(self, t: Tensor) -> tuple[str, int]:
        if t not in self.place:
            self.place[t] = ("work", len(self.workspace))
            self.workspace.append(t.type.nbytes)
        return self.place[t]

    def add(self, code: Any, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        """A part, its buffers named as those of the whole."""
        names = {("in", k): self.at(t) for k, t in enumerate(operands)}
        names.update({("out", k): self.at(t) for k, t in enumerate(results)})
        first = len(self.workspace)
        self.workspace += code.workspace
        names.update({("work", k): ("work", first + k) for k in range(len(code.workspace))})
        launches = []
        for launch in code.launches:
            pairs = ((names["out", o], names["in", i]) for o, i in launch.inplace)
            inplace = frozenset((o, i) for (x, o), (y, i) in pairs if (x, y) == ("out", "in"))
            buffers = tuple(names[b] for b in launch.buffers)
            launches.append(replace(launch, buffers=buffers, inplace=inplace))
        self.parts.append(replace(code, launches=launches))

    def code(self) -> Any:
        """All parts as one. A result replaces an operand only where no later part reads that."""
        launches: list[Any] = []
        read: set[tuple[str, int]] = set()
        for part in reversed(self.parts):
            kept = [
                replace(x, inplace=frozenset(p for p in x.inplace if ("in", p[1]) not in read))
                for x in part.launches
            ]
            read.update(b for x in part.launches for b in x.buffers)
            launches = kept + launches
        return replace(self.parts[0], launches=launches, workspace=self.workspace)
