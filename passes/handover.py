"""Values that one cond hands over to a later one on the same predicate.

The derivative of a cond computes again what its branches computed. Both run the same branch, so
the first one can give what the second one needs; in the branch that has nothing to give stands
`nothing`, which costs nothing, because the reader is not run either.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from staticgraph.closure import inputs_read, placeholder
from staticgraph.control import SIDES, Cond, Nothing
from staticgraph.ir import CONSTANT, INPUT, Graph, Node, apply
from staticgraph.op import Elementwise
from staticgraph.passes.values import BRANCH, Values
from staticgraph.passmanager import Note
from staticgraph.rewrite import is_exact
from staticgraph.tensor import Tensor

_VIEWS = ("broadcast_to", "iota", "reshape", "transpose", "flip", "slice", "stop_gradient", "late")


def hand_over(graph: Graph, notes: list[Note]) -> Graph:
    """Replace what a cond computes again by a result of an earlier cond on the same predicate.

    before   %0 = cond(%p, %x, then={ sum(exp(%x)) })
             %1 = cond(%p, %x, %g, then={ %g * exp(%x) })
    after    %0, %1 = cond(%p, %x, then={ %e = exp(%x)   sum(%e), %e })
             %2 = cond(%p, %g, %1, then={ %g * %1 })

    Views and cheap arithmetic are computed again: that costs less than keeping the result.
    """
    groups: dict[Tensor, list[Node]] = {}
    for node in graph.nodes:
        if node.op is Cond:
            groups.setdefault(node.operands[0], []).append(node)
    if all(len(conds) == 1 for conds in groups.values()):
        return graph
    changes: dict[int, _Change] = {}
    values, numbers = Values(), {}
    for conds in groups.values():
        if len(conds) > 1:
            _match(conds, values, numbers, changes)
    if not any(c.imports[side] for c in changes.values() for side in SIDES):
        return graph
    return _rebuilt(graph, changes, notes)


@dataclass
class _Change:
    """What becomes of one cond: values of its branches that leave it, and those that come in."""

    node: Node
    exports: dict[str, list[Tensor]] = field(default_factory=lambda: {side: [] for side in SIDES})
    #: by value of the branch: the cond it comes from and the value of that cond's branch
    imports: dict[str, dict[Tensor, tuple[int, Tensor]]] = field(
        default_factory=lambda: {side: {} for side in SIDES}
    )

    def slots(self) -> list[tuple[Tensor | None, Tensor | None]]:
        """The further results: of each branch one value, both of one type."""
        waiting = list(self.exports["orelse"])
        found: list[tuple[Tensor | None, Tensor | None]] = []
        for a in self.exports["then"]:
            k = next((k for k, b in enumerate(waiting) if b.type == a.type), None)
            found.append((a, None if k is None else waiting.pop(k)))
        return found + [(None, b) for b in waiting]


def _match(
    conds: list[Node], values: Values, numbers: dict[Tensor, int], changes: dict[int, _Change]
) -> None:
    """Find what the conds of one predicate compute more than once."""
    for side in SIDES:
        have: dict[int, tuple[int, Tensor]] = {}
        for node in conds:
            change = changes.setdefault(id(node), _Change(node))
            body: Graph = node.attrs[side]
            scope = {
                inner: values.of(t, numbers)
                for inner, t in zip(body.inputs, node.operands[1:], strict=True)
            }
            given = set(scope.values())
            pending = list(body.outputs)
            seen: set[Tensor] = set()
            while pending:
                t = pending.pop()
                if t in seen or t.node.op in (INPUT, CONSTANT):
                    continue
                seen.add(t)
                source = have.get(values.of(t, scope))
                if source is None or _cheap(t.node):
                    pending.extend(t.node.operands)
                    continue
                change.imports[side][t] = source
                giver = changes[source[0]]
                known = (*giver.node.attrs[side].outputs, *giver.exports[side])
                if not any(source[1] is e for e in known):
                    giver.exports[side].append(source[1])
            for n in body.nodes:
                for r in n.results:
                    number = values.of(r, scope)
                    if n.op not in (INPUT, CONSTANT) and number not in given:
                        have.setdefault(number, (id(node), r))


def _cheap(node: Node) -> bool:
    return node.op.name in _VIEWS or (isinstance(node.op, Elementwise) and is_exact(node))


def _rebuilt(graph: Graph, changes: dict[int, _Change], notes: list[Note]) -> Graph:
    #: for a value of a branch of a cond, the result that shows it outside
    shown: dict[tuple[int, str, Tensor], Tensor] = {}

    def visit(node: Node, operands: tuple[Tensor, ...]) -> list[Tensor] | None:
        change = changes.get(id(node))
        if change is None:
            return None
        more: dict[Tensor, int] = {}
        incoming = {
            side: {
                t: more.setdefault(shown[cond, side, value], len(more))
                for t, (cond, value) in change.imports[side].items()
            }
            for side in SIDES
        }
        slots = change.slots()
        bodies = []
        for k, side in enumerate(SIDES):
            extra = [placeholder(f"kept{j}", t.type, t.node.where) for j, t in enumerate(more)]
            inside = {t: extra[j] for t, j in incoming[side].items()}
            old: Graph = node.attrs[side]
            wanted = [slot[k] for slot in slots]
            made = _replaced(old, inside, [t for t in wanted if t is not None])
            given = iter(made[len(old.outputs) :])
            filled = [
                apply(Nothing, type=_type(slot)) if slot[k] is None else next(given)
                for slot in slots
            ]
            bodies.append(Graph([*old.inputs, *extra], [*made[: len(old.outputs)], *filled]))
            if inside:
                what = f"{len(inside)} value{'s' if len(inside) > 1 else ''} of its {BRANCH[side]}"
                why = "an earlier cond on this predicate computes the same"
                notes.append(Note(f"cond: {what} handed over", why, node.where))
        made = _cond(node, [*operands, *more], bodies)
        old = zip(*(node.attrs[side].outputs for side in SIDES), strict=True)
        for r, pair in zip(made.results, (*old, *slots), strict=True):
            for side, t in zip(SIDES, pair, strict=True):
                if t is not None:
                    shown.setdefault((id(node), side, t), r)
        return list(made.results[: len(node.results)])

    return graph.rebuild(visit)


def _type(slot: tuple[Tensor | None, Tensor | None]):
    return next(t.type for t in slot if t is not None)


def _replaced(body: Graph, inside: dict[Tensor, Tensor], more: list[Tensor]) -> list[Tensor]:
    """The outputs of a body, and `more` of its values, with some values replaced."""
    new = dict(inside)
    for node in body.nodes:
        if node.op is not INPUT:
            made = node.with_operands([new.get(t, t) for t in node.operands])
            for r, t in zip(node.results, made.results, strict=True):
                new.setdefault(r, t)
    return [new.get(t, t) for t in (*body.outputs, *more)]


def _cond(node: Node, operands: list[Tensor], bodies: list[Graph]) -> Node:
    """The cond with these bodies, without the operands that they do not read."""
    read = inputs_read(bodies[0]) | inputs_read(bodies[1])
    kept = [k for k in range(len(operands) - 1) if any(b.inputs[k] in read for b in bodies)]
    closed = [Graph([b.inputs[k] for k in kept], b.outputs) for b in bodies]
    types = tuple(t.type for t in closed[0].outputs)
    given = (operands[0], *(operands[k + 1] for k in kept))
    return Node(Cond, given, dict(zip(SIDES, closed, strict=True)), types, node.where, node.clone)
