"""Branches that are never taken, and what only they needed."""

from __future__ import annotations

from collections.abc import Sequence

from staticgraph import rewrite
from staticgraph.control import SIDES, Cond
from staticgraph.ir import CONSTANT, INPUT, Graph, Node, building, postorder
from staticgraph.operands import constant
from staticgraph.passes.values import BRANCH, COPIED, Facts, Values
from staticgraph.passmanager import Note, graph_pass
from staticgraph.registry import FUNCTIONS
from staticgraph.rewrite import rewritten
from staticgraph.tensor import Tensor
from staticgraph.types import is_bool

_VIEWS = ("broadcast_to", "reshape", "transpose", "flip")


@graph_pass
def dead_branches(graph: Graph, *, report: list[Note] | None = None) -> Graph:
    """Decide what can be decided now: predicates, masks, equal branches, results nobody reads.

    before   %0 = constant(False)   %1 = cond(%0, %x, then={ exp }, orelse={ sin })
    after    %0 = sin(%x)

    A predicate counts as known where it is constant, where it follows from those of the branches
    around it, and where it is a comparison that contradicts or repeats one of theirs. Updates that
    give a variable its own value vanish. `report` receives what was removed and why.
    """
    notes: list[Note] = [] if report is None else report
    if any(v is t for v, t in graph.updates):
        graph = _without_idle_updates(graph, notes)
    if not any(
        n.op is Cond or (n.op.name == "where" and _constant(n.operands[0])) for n in graph.nodes
    ):
        return graph
    decided = _Decider(notes).top(graph)
    if any(v is t for v, t in decided.updates):
        decided = _without_idle_updates(decided, notes)
    return _Pruner(notes).top(decided)


def report(graph: Graph) -> list[Note]:
    """What `dead_branches` removes from a graph, and why."""
    notes: list[Note] = []
    dead_branches(graph, report=notes)
    return notes


def _source(t: Tensor) -> Tensor:
    while t.node.op.name in _VIEWS:
        t = t.node.operands[0]
    return t


def _constant(t: Tensor) -> bool:
    return _source(t).node.op is CONSTANT


def _without_idle_updates(graph: Graph, notes: list[Note]) -> Graph:
    notes += [
        Note(
            f"the update of variable {v.name!r} is gone",
            "its new value is the old one",
            v.node.where,
        )
        for v, t in graph.updates
        if v is t
    ]
    return Graph(graph.inputs, graph.outputs, [(v, t) for v, t in graph.updates if v is not t])


def _size(body: Graph) -> str:
    """'of 3 ops': what computes in a body, those in bodies inside it included."""

    def count(g: Graph) -> int:
        inner = (count(n.attrs[name]) for n in g.nodes for name in n.op.bodies)
        return sum(1 for n in g.nodes if n.operands) + sum(inner)

    n = count(body)
    return f"of {n} op{'' if n == 1 else 's'}" if n else "without ops"


class _Decider:
    """The walk forward: numbers for all values, facts in branches, and what follows from them."""

    def __init__(self, notes: list[Note]):
        self.notes = notes
        self.values = Values()
        #: values that are what they are in their branch only
        self.assumed: set[Tensor] = set()

    def top(self, graph: Graph) -> Graph:
        roots, _ = _Scope(self, {}).run(graph, {t: t for t in graph.inputs}, graph.roots)
        return graph.with_roots(roots)

    def body(
        self, body: Graph, operands: Sequence[Tensor], numbers: Sequence[int], facts: Facts
    ) -> tuple[Graph, list[int]]:
        """The body with everything decided, and the numbers of its outputs."""
        scope = _Scope(self, facts)
        given: dict[Tensor, Tensor] = {}
        for inner, outer, n in zip(body.inputs, operands, numbers, strict=True):
            scope.numbers[inner] = n
            small = outer.node.op is CONSTANT and outer.size <= COPIED
            given[inner] = outer if small else scope.settled(inner)
        outputs, found = scope.run(body, given, body.outputs)
        return Graph(body.inputs, outputs), found


class _Scope:
    """One graph or body: the new tensors, their numbers, and what is known while it runs."""

    def __init__(self, decider: _Decider, facts: Facts):
        self.decider = decider
        self.values = decider.values
        self.facts = facts
        self.numbers: dict[Tensor, int] = {}
        self.conds: dict[tuple, Sequence[Tensor]] = {}

    def run(
        self, graph: Graph, new: dict[Tensor, Tensor], roots: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[int]]:
        for node in graph.nodes:
            if node.op is not INPUT:
                made = self.visit(node, [new.get(t, t) for t in node.operands])
                new.update(zip(node.results, made, strict=True))
        found = [new.get(t, t) for t in roots]
        return found, [self.number(t) for t in found]

    def number(self, t: Tensor) -> int:
        return self.values.of(t, self.numbers)

    def visit(self, node: Node, operands: Sequence[Tensor]) -> Sequence[Tensor]:
        if node.op is Cond:
            return self.cond(node, operands)
        with building(where=node.where, clone=node.clone):
            if node.op.name == "where" and (known := self.truth(operands[0])) is not None:
                self.note(
                    node,
                    "where: one operand is gone",
                    f"its mask is {self.why(operands[0], known)}",
                )
                chosen = operands[1] if known else operands[2]
                return [self.settled(_full(chosen, node.results[0]))]
            made = rewritten(node.with_operands(operands), _simpler)
            results = [self.settled(t) for t in made]
        if any(t in self.decider.assumed for t in operands):
            self.decider.assumed.update(map(_source, results))
        return results

    def settled(self, t: Tensor) -> Tensor:
        """A bool that is known here as the constant it is."""
        if not is_bool(t.type.dtype) or (t.node.op is CONSTANT and t.size == 1):
            return t
        known = self.truth(t)
        if known is None or (t.node.op.name == "broadcast_to" and _constant(t)):
            return t
        value = constant(known)
        if self.values.truth(self.number(t), {}) is None:
            self.decider.assumed.add(value)
        return _full(value, t)

    def truth(self, t: Tensor) -> bool | None:
        return self.values.truth(self.number(t), self.facts)

    def why(self, t: Tensor, known: bool) -> str:
        fixed = _source(t) not in self.decider.assumed
        if fixed and self.values.truth(self.number(t), {}) is not None:
            return f"constant {known}"
        return f"{known} in the branch around it"

    def note(self, node: Node, what: str, why: str) -> None:
        self.decider.notes.append(Note(what, why, node.where))

    # -- cond -------------------------------------------------------------------------------------

    def cond(self, node: Node, operands: Sequence[Tensor]) -> Sequence[Tensor]:
        pred, *rest = operands
        p = self.number(pred)
        numbers = [self.number(t) for t in rest]
        known = self.truth(pred)
        if known is not None:
            taken, dead = SIDES if known else SIDES[::-1]
            self.note(
                node,
                f"cond: the {BRANCH[dead]} {_size(node.attrs[dead])} is gone",
                f"its predicate is {self.why(pred, known)}",
            )
            return self.inlined(
                node, rest, *self.decider.body(node.attrs[taken], rest, numbers, self.facts)
            )
        sides = []
        for side in SIDES:
            facts = dict(self.facts)
            self.values.assume(p, side == "then", facts)
            sides.append(self.decider.body(node.attrs[side], rest, numbers, facts))
        (then, first), (orelse, second) = sides
        if first == second:
            self.note(
                node, f"cond: one branch {_size(orelse)} is gone", "both branches compute the same"
            )
            return self.inlined(node, rest, then, first)
        key = (p, tuple(first), tuple(second))
        if key not in self.conds:
            made = Node(
                Cond,
                (pred, *rest),
                {"then": then, "orelse": orelse},
                node.types,
                node.where,
                node.clone,
            )
            self.conds[key] = self.joined(made, rest, numbers, p, first, second)
        return self.conds[key]

    def inlined(
        self, node: Node, operands: Sequence[Tensor], body: Graph, found: Sequence[int]
    ) -> Sequence[Tensor]:
        results = body.inline(operands, clone=node.clone)
        self.numbers.update(zip(results, found, strict=True))
        return results

    def joined(
        self,
        made: Node,
        operands: Sequence[Tensor],
        numbers: Sequence[int],
        p: int,
        first: Sequence[int],
        second: Sequence[int],
    ) -> list[Tensor]:
        """The results of a cond; an operand where both branches hand out the same one."""
        results: list[Tensor] = []
        outside = dict(zip(numbers, operands, strict=True))
        for r, out, a, b in zip(
            made.results, made.attrs["then"].outputs, first, second, strict=True
        ):
            if a == b and (a in outside or out.node.op is CONSTANT):
                self.note(
                    made,
                    f"cond: result {r.index} does not go through it",
                    "both branches hand out the same value",
                )
                results.append(outside.get(a, out))
                continue
            self.numbers[r] = self.values.chosen(p, a, b)
            results.append(r)
        return results


def _simpler(node: Node) -> Sequence[Tensor] | None:
    return rewrite.fold(node) or node.op.simplify(node)


def _full(t: Tensor, like: Tensor) -> Tensor:
    return t if t.shape == like.shape else FUNCTIONS["broadcast_to"](t, like.shape)


class _Pruner:
    """The walk backward: results that are read, operands that serve them."""

    def __init__(self, notes: list[Note]):
        self.notes = notes

    def top(self, graph: Graph) -> Graph:
        return self.graph(graph)

    def graph(self, graph: Graph) -> Graph:
        needed = set(graph.roots)
        less: dict[int, tuple[Node, list[int]]] = {}
        for node in reversed(postorder(graph.roots)):
            if not any(r in needed for r in node.results):
                continue
            if node.op is not Cond:
                needed.update(node.operands)
                continue
            kept = [r.index for r in node.results if r in needed]
            made = self.cond(node, kept)
            less[id(node)] = made, kept
            needed.update(made.operands)

        def visit(node: Node, operands: tuple[Tensor, ...]) -> Sequence[Tensor] | None:
            if id(node) not in less:
                return None
            made, kept = less[id(node)]
            new = dict(zip(node.operands, operands, strict=True))
            results = dict(
                zip(kept, made.with_operands([new[t] for t in made.operands]).results, strict=True)
            )
            return [results.get(r.index, r) for r in node.results]

        return graph.rebuild(visit) if less else graph

    def cond(self, node: Node, kept: list[int]) -> Node:
        """The cond with some of its results, and each operand that they need once."""
        for r in node.results:
            if r.index not in kept:
                self.notes.append(
                    Note(f"cond: result {r.index} is gone", "nobody reads it", node.where)
                )
        bodies = [
            self.graph(Graph(b.inputs, [b.outputs[k] for k in kept]))
            for b in (node.attrs[side] for side in SIDES)
        ]
        read = [{n.results[0] for n in postorder(b.outputs) if n.op is INPUT} for b in bodies]
        first: dict[Tensor, int] = {}
        places = []
        for k, t in enumerate(node.operands[1:]):
            if any(b.inputs[k] in inputs for b, inputs in zip(bodies, read, strict=True)):
                places.append((k, first.setdefault(t, len(first))))
        closed = []
        for b in bodies:
            inputs: dict[int, Tensor] = {}
            same: dict[Tensor, Tensor] = {}
            for k, place in places:
                same[b.inputs[k]] = inputs.setdefault(place, b.inputs[k])
            merged = len(inputs) < len(same)
            outputs = b.inline([same.get(t, t) for t in b.inputs]) if merged else b.outputs
            closed.append(Graph(list(inputs.values()), outputs))
        types = tuple(node.types[k] for k in kept)
        attrs = dict(zip(SIDES, closed, strict=True))
        return Node(Cond, (node.operands[0], *first), attrs, types, node.where, node.clone)
