"""Recomputation of what is really executed: an optimised graph as a Dag, and a sequence as a graph.

The unit is one value that a kernel writes. A fused region whose results are functions of each
other has a unit for each of them, so that a plan may keep an activation and compute its sigmoid
again; each is then a region of its own, cut out of the body where other results already hold what
it needs. A region that reduces is not cut, only results nobody reads are left out: another loop
could change the order of a sum, and with it bits. The results of a `cond` are units too, so that
each is live as long as it is read, but only all of them can be computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from staticgraph import count, schedule
from staticgraph.codegen.select import kernel_name
from staticgraph.errors import DagError, shorten
from staticgraph.fusion import CONTRACTIONS, FUSION
from staticgraph.ir import INPUT, Graph, Node
from staticgraph.nominal import seconds
from staticgraph.op import NestOp
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.simulate import simulate
from staticgraph.plan import Plan, Ref
from staticgraph.schedule import is_free, may_fail
from staticgraph.tensor import Tensor

_JUMPS = ("jump_if_false", "jump")


@dataclass(frozen=True)
class Unit:
    """One node of the Dag: result `index` of a node, or all of its results (None)."""

    node: Node
    index: int | None

    @property
    def results(self) -> tuple[Tensor, ...]:
        return self.node.results if self.index is None else (self.node.results[self.index],)


@dataclass(frozen=True)
class UnitDag(Dag):
    """The Dag of a function: the cost model that a policy sees.

    cost: seconds of each unit, on the nominal machine or as measured. flops: its floating-point
    operations. where: the user's line, as "model.py:12".
    """

    flops: tuple[int, ...] = ()
    where: tuple[str, ...] = ()


class Units:
    """The units of an optimised graph, in the order of its plan, and its Dag.

    `plan` is the plan without recomputation: it says what lies in the arena and what does not.
    """

    def __init__(self, graph: Graph, plan: Plan):
        self.graph = graph
        self.plan = plan
        order = schedule.order(graph, plan.after)
        self.units: list[Unit] = []
        self.number: dict[Tensor, int] = {}
        for node in order:
            if is_free(node):
                continue
            for index in _by_dependence(node) if _divides(node) else (None,):
                unit = Unit(node, index)
                self.number.update((t, len(self.units)) for t in unit.results)
                self.units.append(unit)
        self.dag = self._dag()

    def _dag(self) -> UnitDag:
        plan = self.plan
        needs = [self.needs(u.node, u.results, u.results) for u in self.units]
        return UnitDag(
            cost=tuple(map(self.cost, self.units)),
            size=tuple(
                sum(t.type.nbytes for t in u.results if plan.places[t].space == "arena")
                for u in self.units
            ),
            inputs=tuple(tuple(sorted(n)) for n in needs),
            names=tuple(kernel_name(u.node) for u in self.units),
            outputs=frozenset(self.number[t] for t in self._ends()),
            extra=tuple(map(self._extra, self.units)),
            inplace=tuple(self._inplace(u, n) for u, n in zip(self.units, needs, strict=True)),
            fixed=frozenset(k for k, u in enumerate(self.units) if _once(u.node)),
            flops=tuple(map(self.flops, self.units)),
            where=tuple(shorten(u.node.where) or "" for u in self.units),
        )

    def _extra(self, unit: Unit) -> int:
        """Temporary bytes while a unit runs; those of a node are counted once."""
        node, order = unit.node, _by_dependence(unit.node)
        if node.op.name == "cond":  # with its last result, when all of them are there
            return self._within(node) if unit.index in (None, order[-1]) else 0
        leads = node in self.plan.codes and unit.index in (None, order[0])
        return self.plan.codes[node].workspace_bytes if leads else 0

    def _within(self, node: Node) -> int:
        """The most bytes live at once of values that do not leave the branches of a cond."""
        plan = self.plan
        jumps = [k for k, s in enumerate(plan.steps) if s.node is node and s.kind in _JUMPS]
        first, end = jumps[0], max(plan.steps[k].target for k in jumps)
        results = {plan.places[r] for r in node.results}
        inside = [
            b
            for k, b in enumerate(plan.buffers)
            if first <= b.start and b.stop <= end and Ref("arena", k) not in results
        ]
        return max(sum(b.size for b in inside if b.start <= k < b.stop) for k in range(first, end))

    def _ends(self) -> list[Tensor]:
        owners = [schedule.owner(t) for t in self.graph.roots]
        return [t for t in owners if t in self.number]

    def needs(self, node: Node, used: Sequence[Tensor], group: Sequence[Tensor]) -> set[int]:
        """The units that the results `used` of a node read when it computes `group` together."""
        return {k for t in part(node, used, group).operands for k in self.behind(t)}

    def behind(self, t: Tensor) -> list[int]:
        """The units that a tensor stands for: behind views, with what a check looks at."""
        found: list[int] = []
        while is_free(t.node) and t.node.operands:
            if t.node.op.name == "check":
                found += self.behind(t.node.operands[1])
            t = t.node.operands[0]
        return [*found, self.number[t]] if t in self.number else found

    def cost(self, unit: Unit) -> float:
        """Nominal seconds of a unit by itself."""
        node = part(unit.node, unit.results, unit.results)
        if unit.index is not None and unit.node.op is not FUSION:
            return seconds(node) / self._shared(unit)
        return seconds(node, self._shared(unit))

    def flops(self, unit: Unit) -> int:
        """Operations of a unit by itself."""
        node = part(unit.node, unit.results, unit.results)
        return count.cost(node).flops // self._shared(unit)

    def _shared(self, unit: Unit) -> int:
        """How many units its work is for: what cannot be cut is computed once for all results."""
        node = unit.node
        cut = unit.index is None or (node.op is FUSION and not _reduces(node.attrs["body"]))
        return 1 if cut else len(node.results)

    def _inplace(self, unit: Unit, needs: set[int]) -> frozenset[int]:
        """Operands over which the kernel may write this value."""
        if unit.node not in self.plan.codes:
            return frozenset()
        pairs = self.plan.codes[unit.node].inplace
        found: set[int] = set()
        for result, operand in pairs:
            if unit.index in (None, result):
                t = schedule.owner(unit.node.operands[operand])
                if t in self.number and t.type.nbytes == unit.results[0].type.nbytes:
                    found.add(self.number[t])
        return frozenset(found & needs)

    def gathered(self, sequence: Sequence[int], peak: int) -> list[int]:
        """The sequence with units of one node side by side, where `peak` is not exceeded.

        The Dag counts every unit by itself; side by side they are one kernel.
        """
        found = list(sequence)
        for place in range(1, len(found)):
            unit = self.units[found[place]]
            if unit.index is None or self.units[found[place - 1]].node is unit.node:
                continue
            before = next(
                (k for k in range(place - 1, -1, -1) if self.units[found[k]].node is unit.node),
                None,
            )
            if before is None:
                continue
            moved = [*found[: before + 1], found[place], *found[before + 1 : place]]
            moved += found[place + 1 :]
            try:
                if simulate(self.dag, moved).peak <= peak:
                    found = moved
            except DagError:
                continue
        return found

    # -- a sequence as a graph ---------------------------------------------------------------------

    def realise(self, sequence: Sequence[int]) -> Graph:
        """The graph that computes the units in this order; `graph.nodes` is the order.

        Units of one node that follow each other are one kernel. A value computed again is a node
        with an identity of its own, which no pass merges with another.
        """
        made = _Maker(self.graph)
        for launch in self._launches(sequence):
            made.launch(launch)
        return made.finish()

    def origins(self, sequence: Sequence[int]) -> list[Node]:
        """Which node of this graph each node that works in the graph of a sequence is of."""
        return [launch.node for launch in self._launches(sequence)]

    def _launches(self, sequence: Sequence[int]) -> list[_Launch]:
        """What to run: nodes with the results that something reads before they come again."""
        groups: list[tuple[Node, dict[Tensor, None]]] = []
        for k in sequence:
            unit = self.units[k]
            joins = groups and groups[-1][0] is unit.node and unit.index is not None
            if joins and unit.results[0] not in groups[-1][1]:
                groups[-1][1].update(dict.fromkeys(unit.results))
            else:
                groups.append((unit.node, dict.fromkeys(unit.results)))
        wanted = {self.number[t] for t in self._ends()}
        kept: list[_Launch] = []
        for node, group in reversed(groups):
            used = [t for t in node.results if t in group and self.number[t] in wanted]
            if not used and not _once(node):
                continue
            used = used or list(node.results)
            wanted -= {self.number[t] for t in group}
            wanted |= self.needs(node, used, list(group))
            kept.append(_Launch(node, used, list(group)))
        return kept[::-1]


@dataclass(frozen=True)
class _Launch:
    """A node to run for the results `used`; it computes those of `group` by itself."""

    node: Node
    used: list[Tensor]
    group: list[Tensor]


class _Maker:
    """Builds the new graph, one launch after the other."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.order: list[Node] = [t.node for t in graph.inputs]
        self.seen: set[Node] = set(self.order)
        self.now: dict[Tensor, Tensor] = {}
        self.checked: set[Node] = set()
        self.clones = max((n.clone for n in graph.nodes), default=0)

    def add(self, node: Node) -> Node:
        if node not in self.seen:
            self.seen.add(node)
            self.order.append(node)
        return node

    def current(self, t: Tensor) -> Tensor:
        """What stands for a tensor of the old graph at this moment."""
        node = t.node
        if t in self.now:
            return self.now[t]
        if not node.operands:
            self.add(node)
            return t
        if node.op.name == "late" or node in self.checked:
            return self.current(node.operands[0])
        if node.op.name == "check":
            self.checked.add(node)
        operands = [self.current(o) for o in node.operands]
        return self.add(node.with_operands(operands)).results[t.index]

    def launch(self, launch: _Launch) -> None:
        node, used = launch.node, launch.used
        if any(t in self.now for t in used):
            self.clones += 1
            clone = self.clones
        else:
            clone = node.clone
        if len(used) == len(node.results) or node.op is not FUSION:
            used, made = list(node.results), node
        else:
            made = part(node, used, launch.group)
        made = self.add(made.with_operands([self.current(t) for t in made.operands], clone=clone))
        self.now.update(zip(used, made.results, strict=True))

    def finish(self) -> Graph:
        roots = [self.current(t) for t in self.graph.roots]
        return self.graph.with_roots(roots).scheduled(self.order)


# ---------------------------------------------------------------------------- regions


def _divides(node: Node) -> bool:
    """Whether the results of a node are units of their own."""
    return len(node.results) > 1 and (node.op is FUSION or not _once(node))


def _once(node: Node) -> bool:
    return not node.op.pure or may_fail(node)


def _by_dependence(node: Node) -> list[int]:
    """The results of a node, each after those it is computed from."""
    if node.op is not FUSION:
        return list(range(len(node.results)))
    body = node.attrs["body"]
    place = {n: k for k, n in enumerate(body.nodes)}
    return sorted(range(len(body.outputs)), key=lambda k: (place[body.outputs[k].node], k))


def _reduces(body: Graph) -> bool:
    """Whether a body has a reduction that is not a contraction's."""
    for n in body.nodes:
        if isinstance(n.op, NestOp) and n.op.name not in CONTRACTIONS:
            types = [t.type for t in n.operands]
            if n.op.nest(types, n.results[0].type, **n.attrs).combine is not None:
                return True
    return False


def part(node: Node, used: Sequence[Tensor], group: Sequence[Tensor]) -> Node:
    """A region that computes `used` of a node's results, together with what else is in `group`.

    Its operands are tensors of the same graph: operands of the node, and results of it outside
    `group`. A node that is no region is itself the part.
    """
    if node.op is not FUSION or len(node.results) == 1:
        return node
    body = node.attrs["body"]
    outer = dict(zip(reversed(body.outputs), reversed(node.results), strict=True))
    cuts = set() if _reduces(body) else set(outer) - {body.outputs[t.index] for t in group}
    outer.update(zip(body.inputs, node.operands, strict=True))
    wanted = [body.outputs[t.index] for t in used]
    inside, reached = _walk(wanted, cuts)
    new: dict[Tensor, Tensor] = {}
    for k, t in enumerate(reached):
        attrs = {"name": f"p{k}", "type": t.type}
        new[t] = Node(INPUT, (), attrs, (t.type,), node.where).results[0]
    inputs = list(new.values())
    for n in inside:
        made = n.with_operands([new.get(t, t) for t in n.operands])
        for a, b in zip(n.results, made.results, strict=True):
            new.setdefault(a, b)
    small = Graph(inputs, [new[t] for t in wanted])
    operands = tuple(outer[t] for t in reached)
    return Node(FUSION, operands, {"body": small}, tuple(t.type for t in wanted), node.where)


def _walk(wanted: Sequence[Tensor], cuts: set[Tensor]) -> tuple[list[Node], list[Tensor]]:
    """The nodes of a body that compute `wanted`, and the inputs and cuts that they read."""
    inside: list[Node] = []
    reached: dict[Tensor, None] = {}
    seen: set[Node] = set()

    def visit(t: Tensor) -> None:
        if t in cuts or t.node.op is INPUT:
            reached[t] = None
        elif t.node not in seen:
            seen.add(t.node)
            for o in t.node.operands:
                visit(o)
            inside.append(t.node)

    for t in wanted:
        visit(t)
    return inside, list(reached)
