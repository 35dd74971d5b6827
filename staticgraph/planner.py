"""From an optimised graph to its plan: steps, buffers and the addresses of all values.

A buffer is live from the step that first writes it to the step that last reads it; steps are
numbered straight through, branches of a `cond` one after the other, so branches share memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import NamedTuple

from staticgraph import destinations, offsets, schedule
from staticgraph.codegen.select import Code, code_for, code_of, kernel_name
from staticgraph.destinations import Destinations
from staticgraph.errors import InternalError
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node
from staticgraph.plan import ALIGN, Buffer, Plan, Ref, Step
from staticgraph.schedule import is_free, owner
from staticgraph.tensor import Tensor
from staticgraph.types import ITEMSIZE


def build(graph: Graph, generate: Callable[[Node, str], Code] = code_of) -> Plan:
    """The plan of an optimised graph; `generate` makes the kernels of a node, by its name."""
    return Planner(graph, generate).run()


class Scope(NamedTuple):
    """What is known of a graph, or of a body in it, while its steps are emitted."""

    #: where results go that are written where they end
    targets: dict[Tensor, Ref]
    #: the place of the last reader of each value in the order of the nodes
    last: dict[Tensor, float]
    #: whether it is the whole graph
    top: bool


class Planner:
    """Emits the steps of a graph; a subclass may add its own behind those of a node."""

    def __init__(self, graph: Graph, generate: Callable[[Node, str], Code]):
        self.graph = graph
        self.generate = generate
        self.steps: list[Step] = []
        self.buffers: list[Buffer] = []
        self.variables = {v: Ref("variable", k) for k, v in enumerate(graph.variables)}
        self.constants: dict[Tensor, Ref] = {}
        self.places = {t: Ref("input", k) for k, t in enumerate(graph.inputs)}
        self.codes: dict[Node, Code] = {}
        self.writers: set[Node] = set()
        self.committed = False

    def run(self) -> Plan:
        graph = self.graph
        ends = destinations.of_graph(graph, self.replaces)
        self.writers = {t.node for t in ends.variables}
        targets = {t: Ref("output", k) for t, k in ends.outputs.items()}
        targets.update((t, self.variables[v]) for t, v in ends.variables.items())
        order = schedule.order(graph, ends.after)
        self.emit(graph, order, targets, top=True)
        self.emit_end(ends)
        blocks = [offsets.Block(b.size, b.start, b.stop) for b in self.buffers]
        layout = offsets.assign(blocks, align=ALIGN)
        for b, at in zip(self.buffers, layout.offsets, strict=True):
            b.offset = at
        return Plan(
            graph,
            self.steps,
            self.buffers,
            layout.peak,
            layout.lower_bound,
            tuple(self.variables),
            tuple(self.constants),
            layout=layout.method,
            places=self.places,
            codes=self.codes,
            after=ends.after,
        )

    # -- where values lie -------------------------------------------------------------------------

    def replaces(self, node: Node, t: Tensor, old: set[Tensor]) -> bool:
        """Whether the node may write its result t over the memory that the old tensors show."""
        return destinations.replaces(node, t, old, self.code)

    def code(self, node: Node) -> Code:
        """The kernels of a node; equal bodies, such as the layers of a deep network, share them."""
        found = self.codes.get(node)
        if found is None:
            found = self.codes[node] = code_for(node, self.generate)
        return found

    def place(self, t: Tensor) -> Ref:
        """Where a value lies; leaves and views get their place on demand."""
        found = self.places.get(t)
        if found is not None:
            return found
        node = t.node
        if node.op is CONSTANT:
            return self.constants.setdefault(t, Ref("constant", len(self.constants)))
        if node.op is VARIABLE:
            return self.variables[node.attrs["variable"]]
        if is_free(node) and node.operands:
            return self.place(node.operands[0])
        raise InternalError(f"plan: {node} is read before it is computed")

    def new_buffer(self, size: int, what: str, where: tuple[str, int] | None) -> Ref:
        """Room in the arena from the next step on."""
        at = len(self.steps)
        self.buffers.append(Buffer(max(size, 1), at, at + 1, what, where))
        return Ref("arena", len(self.buffers) - 1)

    def keep(self, refs: Iterable[Ref], steps: int) -> None:
        """Buffers stay live over so many steps of the plan."""
        for ref in refs:
            if ref.space == "arena":
                b = self.buffers[ref.index]
                b.stop = max(b.stop, steps)

    def step(self, step: Step) -> None:
        self.keep(step.refs, len(self.steps) + 1)
        self.steps.append(step)

    def copy(self, source: Ref, target: Ref, nbytes: int) -> None:
        if source != target:
            self.step(Step("copy", (source, target), nbytes=nbytes))

    # -- steps ------------------------------------------------------------------------------------

    def emit(
        self, graph: Graph, order: Sequence[Node], targets: dict[Tensor, Ref], *, top: bool
    ) -> None:
        """Steps of a graph or a body; `targets` says which results are written where they end."""
        last: dict[Tensor, float] = {owner(t): i for i, n in enumerate(order) for t in n.operands}
        last.update((owner(t), inf) for t in graph.roots)
        scope = Scope(targets, last, top)
        for i, node in enumerate(order):
            if node.op.name == "check":
                where, message = self.place(node.operands[1]), node.attrs["message"]
                self.step(Step("check", (where,), node=node, message=message))
            elif node.op.name == "cond":
                self.emit_cond(node, i, scope)
            elif not is_free(node):
                self.emit_kernels(node, i, scope)

    def emit_kernels(self, node: Node, i: int, scope: Scope) -> None:
        """The launches of node i of a graph."""
        code, name = self.code(node), kernel_name(node)
        self.commit(node, scope)
        taken: set[int] = set()
        for r in node.results:
            self.places[r] = (
                scope.targets.get(r)
                or self.reuse(node, r, code.inplace, i, scope, taken)
                or self.new_buffer(r.type.nbytes, name, node.where)
            )
        work = [self.new_buffer(n, f"workspace of {name}", node.where) for n in code.workspace]
        for launch in code.launches:
            refs = tuple(self.address(node, code, work, kind, k) for kind, k in launch.buffers)
            self.step(Step("kernel", refs, launch, node))
        # What a node is given stays alive until its last kernel, what it makes from its first on.
        self.keep(map(self.place, (*node.operands, *node.results)), len(self.steps))

    def address(self, node: Node, code: Code, work: Sequence[Ref], kind: str, k: int) -> Ref:
        """Where buffer ("in" | "out" | "work" | "start", k) of a launch begins."""
        if kind == "in":
            return self.place(node.operands[k])
        if kind == "out":
            return self.places[node.results[k]]
        if kind == "work":
            return work[k]
        operand, start = code.starts[k]
        t = node.operands[operand]
        base = self.place(t)
        return base._replace(offset=base.offset + start * ITEMSIZE[t.type.dtype])

    def reuse(
        self,
        node: Node,
        r: Tensor,
        pairs: frozenset[tuple[int, int]],
        i: int,
        scope: Scope,
        taken: set[int],
    ) -> Ref | None:
        """The buffer of an operand that nobody reads again, where the kernel may write over it.

        `pairs` are the (result, operand) that may share memory, `taken` the buffers that other
        results of the node already have.
        """
        owners = [owner(t) for t in node.operands]
        for operand in sorted(k for result, k in pairs if result == r.index):
            base = owners[operand]
            ref = self.places.get(base)
            if ref is None or ref.space != "arena" or ref.index in taken:
                continue
            unread = scope.last.get(base, 0) == i and base.node.op is not INPUT
            fits = self.buffers[ref.index].size == max(r.type.nbytes, 1)
            if unread and fits and sum(o is base for o in owners) == 1:
                taken.add(ref.index)
                return ref
        return None

    def emit_cond(self, node: Node, i: int, scope: Scope) -> None:
        """Jump over the branch not taken; both write their results to the same places."""
        self.commit(node, scope)
        results: list[Ref] = []
        taken: set[int] = set()
        for r in node.results:
            ref = scope.targets.get(r)
            if ref is None:
                pairs = destinations.handed_on(node, r, self.replaces)
                ref = self.reuse(node, r, pairs, i, scope, taken)
            self.places[r] = ref or self.new_buffer(r.type.nbytes, "cond", node.where)
            results.append(self.places[r])
        branch = Step("jump_if_false", (self.place(node.operands[0]),), node=node)
        self.step(branch)
        self.emit_body(node.attrs["then"], node.operands[1:], results)
        leave = Step("jump", node=node)
        self.step(leave)
        branch.target = len(self.steps)
        self.emit_body(node.attrs["orelse"], node.operands[1:], results)
        if self.steps[-1] is leave:  # nothing to jump over
            self.steps.pop()
            branch.target = len(self.steps)
        leave.target = len(self.steps)
        self.keep(results, len(self.steps))

    def emit_body(self, body: Graph, operands: Sequence[Tensor], results: Sequence[Ref]) -> None:
        """Steps of a branch. Bodies may share nodes with each other, so their places are local."""
        given = [self.place(t) for t in operands]
        local = [t for n in body.nodes for t in n.results]
        hidden = {t: self.places.pop(t) for t in local if t in self.places}
        self.places.update(zip(body.inputs, given, strict=True))
        ends = [{x for x in body.inputs if self.places[x] == ref} for ref in results]
        direct, after = destinations.of_branch(body, ends, self.replaces)
        targets = {t: results[k] for t, k in direct.items()}
        self.emit(body, schedule.order(body, after), targets, top=False)
        for t, ref in zip(body.outputs, results, strict=True):
            if t.node.op.name != "nothing":
                self.copy(self.place(t), ref, t.type.nbytes)
        for t in local:
            self.places.pop(t, None)
        self.places.update(hidden)

    def commit(self, node: Node, scope: Scope) -> None:
        """The point of no return, once, before the first node that writes a variable."""
        if scope.top and node in self.writers and not self.committed:
            self.committed = True
            self.step(Step("commit"))

    def emit_end(self, ends: Destinations) -> None:
        """Copies to outputs and variables of what was not written there."""
        moved = []
        for v, t in ends.late:
            source, target = self.place(t), self.variables[v]
            if source == target:
                continue
            if source.space == "variable":  # its old value may be overwritten before we get there
                held = self.new_buffer(t.type.nbytes, f"held {v.name}", t.node.where)
                self.copy(source, held, t.type.nbytes)
                source = held
            moved.append((source, target, t.type.nbytes))
        # Outputs may show variables as they were before the updates below.
        for k, t in enumerate(self.graph.outputs):
            self.copy(self.place(t), Ref("output", k), t.type.nbytes)
        if moved and not self.committed:
            self.step(Step("commit"))
        for source, target, nbytes in moved:
            self.copy(source, target, nbytes)
