"""Which results are written where they end: over a variable, in an output, in a branch's result.

A node may write over old values only where nothing reads them afterwards, so a destination asks
that the other readers run first: pairs (first, then), beside those that operands give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from staticgraph.codegen.select import Code
from staticgraph.ir import INPUT, VARIABLE, Graph, Node, Variable
from staticgraph.schedule import is_free, may_fail, owner
from staticgraph.tensor import Tensor

#: whether a node may write its result over the memory that some tensors show
MayReplace = Callable[[Node, Tensor, set[Tensor]], bool]


@dataclass
class Destinations:
    """Results that are written where they end, and the order that this asks for."""

    variables: dict[Tensor, Variable] = field(default_factory=dict)
    outputs: dict[Tensor, int] = field(default_factory=dict)
    after: list[tuple[Node, Node]] = field(default_factory=list)
    #: updates that are copied to their variables at the end instead
    late: list[tuple[Variable, Tensor]] = field(default_factory=list)


def of_graph(graph: Graph, may_replace: MayReplace) -> Destinations:
    """Destinations of updates, then of outputs; no node writes a variable before all checks."""
    made = Destinations()
    checks = [n for n in graph.nodes if may_fail(n)]
    readers = _readers(graph)
    shown = {owner(t) for t in graph.outputs}
    for v, t in graph.updates:
        node, old = t.node, v.node.results[0]
        fits = not is_free(node) and t not in made.variables and old not in shown
        first = [n for n in (*readers.get(old, ()), *checks) if n is not node]
        if fits and may_replace(node, t, {v}) and _can_wait(node, first, made.after):
            made.variables[t] = v
        else:
            made.late.append((v, t))
    for k, t in enumerate(graph.outputs):
        base = owner(t)
        if not is_free(base.node) and base not in made.variables:
            made.outputs.setdefault(base, k)
    return made


def of_branch(
    body: Graph, overwritten: Sequence[set[Tensor]], may_replace: MayReplace
) -> tuple[dict[Tensor, int], list[tuple[Node, Node]]]:
    """Results of a branch that go where they end, by number, and the order that this asks for.

    `overwritten`: for each result, the inputs of the branch that lie where it ends.
    """
    found: dict[Tensor, int] = {}
    after: list[tuple[Node, Node]] = []
    readers = _readers(body)
    for k, (t, old) in enumerate(zip(body.outputs, overwritten, strict=True)):
        node = t.node
        if is_free(node) or t in found or not may_replace(node, t, old):
            continue
        reading = {n: None for x in body.inputs if x in old for n in readers.get(x, ())}
        if _can_wait(node, [n for n in reading if n is not node], after):
            found[t] = k
    return found, after


def replaces(node: Node, t: Tensor, old: set[Tensor], code: Callable[[Node], Code]) -> bool:
    """Whether the node may write its result t over the memory that the old tensors show."""
    reads = [k for k, o in enumerate(node.operands) if owner(o) in old]
    if node.op.name != "cond":
        pairs = code(node).inplace if reads else frozenset()
        return all((t.index, k) in pairs for k in reads)
    if may_fail(node):
        return False
    for body in (node.attrs["then"], node.attrs["orelse"]):
        inside = {body.inputs[k - 1] for k in reads if k}
        for j, o in enumerate(body.outputs):
            base = owner(o)
            # Results that are operands are copied last, when the variable has its new value.
            if base.node.op is INPUT and (base in inside) != (j == t.index):
                return False
    return True


def handed_on(node: Node, r: Tensor, may_replace: MayReplace) -> frozenset[tuple[int, int]]:
    """Operands of a cond that a branch gives back as is: their memory may hold the result."""
    found = set()
    for body in (node.attrs["then"], node.attrs["orelse"]):
        base = owner(body.outputs[r.index])
        for k, inner in enumerate(body.inputs, 1):
            if inner is base and may_replace(node, r, {owner(node.operands[k])}):
                found.add((r.index, k))
    return frozenset(found)


def _readers(graph: Graph) -> Mapping[Tensor, list[Node]]:
    """The nodes that read the memory of each input and variable."""
    found: dict[Tensor, list[Node]] = {}
    for node in graph.nodes:
        if not is_free(node):
            for base in dict.fromkeys(owner(t) for t in node.operands):
                if base.node.op in (INPUT, VARIABLE):
                    found.setdefault(base, []).append(node)
    return found


def _can_wait(node: Node, first: Iterable[Node], after: list[tuple[Node, Node]]) -> bool:
    """Whether a node can run after some others; enters the pairs where it can."""
    asked: dict[Node, list[Node]] = {}
    for earlier, then in after:
        asked.setdefault(then, []).append(earlier)
    others = list(first)
    seen: set[Node] = set()
    stack = list(others)
    while stack:  # all that must run before the others
        n = stack.pop()
        if n is node:
            return False
        if n not in seen:
            seen.add(n)
            stack.extend(t.node for t in n.operands)
            stack.extend(asked.get(n, ()))
    after += [(n, node) for n in others]
    return True
