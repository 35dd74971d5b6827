"""Work that only one branch of a `cond` needs moves into it.

What the same branch of several conds on one predicate needs, as a branch and its derivative do,
moves into each of them; then the first one computes it and hands it over.
"""

from __future__ import annotations

from staticgraph.closure import input_names, placeholder
from staticgraph.control import SIDES, Cond
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node, postorder
from staticgraph.passes.handover import hand_over
from staticgraph.passes.values import BRANCH, COPIED
from staticgraph.passmanager import Note, graph_pass
from staticgraph.tensor import Tensor

#: views that show all of their source: reading the source through them inside costs nothing
_VIEWS = ("broadcast_to", "iota", "reshape", "transpose", "flip")


@graph_pass
def sink(graph: Graph, *, report: list[Note] | None = None) -> Graph:
    """Compute in a branch what only this branch reads; nothing ever moves out of one.

    before   %0 = exp(%x)   %1 = cond(%p, %0, then={ %p0 }, orelse={ 0.0 })
    after    %0 = cond(%p, %x, then={ exp(%x) }, orelse={ 0.0 })

    Views and small constants are copied into every branch that reads them, where they need no
    memory. What a later cond on the same predicate computes again is handed over to it, unless it
    costs less than keeping it. `report` receives how much moved where.
    """
    return _sunk(graph, [] if report is None else report)


def _sunk(graph: Graph, notes: list[Note]) -> Graph:
    if not any(n.op is Cond for n in graph.nodes):
        return graph
    return hand_over(_Sinker(graph, notes).run(), notes)


Places = set[tuple[int, str] | None]


class _Sinker:
    def __init__(self, graph: Graph, notes: list[Note]):
        self.graph = graph
        self.notes = notes
        #: for each cond and side, the inputs that the branch reads
        self.read = {
            (id(n), side): {m.results[0] for m in postorder(n.attrs[side].outputs) if m.op is INPUT}
            for n in graph.nodes
            if n.op is Cond
            for side in SIDES
        }
        self.predicate = {id(n): n.operands[0] for n in graph.nodes if n.op is Cond}
        #: nodes that move, each with the conds, all on one predicate, and the side it moves to
        self.home: dict[int, set[tuple[int, str]]] = {}

    def run(self) -> Graph:
        self.find()
        new: dict[Tensor, Tensor] = {}
        for node in self.graph.nodes:
            if node.op is INPUT or id(node) in self.home:
                continue
            made = (
                self.filled(node, new)
                if node.op is Cond
                else node.with_operands([new.get(t, t) for t in node.operands])
            )
            new.update(zip(node.results, made.results, strict=True))
        return self.graph.with_roots([new.get(t, t) for t in self.graph.roots])

    def find(self) -> None:
        """From the last node on, so that readers are settled before what they read."""
        roots = set(self.graph.roots)
        users = self.graph.users()
        for node in reversed(self.graph.nodes):
            if (
                node.op in (INPUT, VARIABLE, CONSTANT)
                or not node.op.pure
                or any(r in roots for r in node.results)
            ):
                continue
            places = {
                place
                for r in node.results
                for user in users.get(r, ())
                for place in self.places(r, user)
            }
            if places and None not in places:
                known = {(self.predicate[cond], side) for cond, side in places}  # type: ignore[misc]
                if len(known) == 1:
                    self.home[id(node)] = places  # type: ignore[assignment]

    def places(self, t: Tensor, user: Node) -> Places:
        """Where a reader of a tensor runs: None is outside of all branches."""
        if user.op is not Cond:
            return self.home.get(id(user), {None})  # type: ignore[return-value]
        found: Places = {None} if user.operands[0] is t else set()
        for k, o in enumerate(user.operands[1:]):
            if o is t:
                found |= {
                    (id(user), side)
                    for side in SIDES
                    if user.attrs[side].inputs[k] in self.read[id(user), side]
                }
        return found

    def moves(self, t: Tensor, node: Node, side: str) -> bool:
        """Whether a branch of `node` computes `t` itself."""
        if t.node.op is CONSTANT:
            return t.size <= COPIED
        return t.node.op.name in _VIEWS or (id(node), side) in self.home.get(id(t.node), ())

    def filled(self, node: Node, new: dict[Tensor, Tensor]) -> Node:
        """The cond with what moves into its branches."""
        operands = node.operands[1:]
        wanted = {
            side: [
                t
                for t, inner in zip(operands, node.attrs[side].inputs, strict=True)
                if inner in self.read[id(node), side]
            ]
            for side in SIDES
        }
        inner = {
            side: postorder(ts, lambda n, s=side: not self.moves(n.results[0], node, s))
            for side, ts in wanted.items()
        }
        captured: dict[Tensor, None] = {}
        for side in SIDES:
            for t in (
                *(
                    t
                    for n in inner[side]
                    if self.moves(n.results[0], node, side)
                    for t in n.operands
                ),
                *wanted[side],
            ):
                if not self.moves(t, node, side):
                    captured[t] = None
        names = input_names(list(captured))
        bodies = {side: self.body(node, side, inner[side], captured, names) for side in SIDES}
        given = [new.get(t, t) for t in (node.operands[0], *captured)]
        return Node(Cond, tuple(given), bodies, node.types, node.where, node.clone)

    def body(
        self,
        node: Node,
        side: str,
        order: list[Node],
        captured: dict[Tensor, None],
        names: list[str],
    ) -> Graph:
        old = node.attrs[side]
        value = {
            t: placeholder(name, t.type, t.node.where)
            for t, name in zip(captured, names, strict=True)
        }
        inputs = list(value.values())
        moved = [n for n in order if self.moves(n.results[0], node, side)]
        for n in moved:
            value.update(
                zip(n.results, n.with_operands([value[t] for t in n.operands]).results, strict=True)
            )
        work = sum(1 for n in moved if n.op is not CONSTANT and n.op.name not in _VIEWS)
        if work:
            what = f"{work} op{'s' if work > 1 else ''} moved into its {BRANCH[side]}"
            why = "nothing else reads the results"
            self.notes.append(Note(f"cond: {what}", why, node.where))
        given = [
            value.get(t, inner) for t, inner in zip(node.operands[1:], old.inputs, strict=True)
        ]
        return _sunk(Graph(inputs, old.inline(given)), self.notes)
