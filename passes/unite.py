"""Make one region of two that read the same values and need nothing of each other."""

from __future__ import annotations

from math import prod

from staticgraph.codegen.lower import lower
from staticgraph.codegen.region import CannotLower
from staticgraph.codegen.tail import split_tail
from staticgraph.fusion import make
from staticgraph.ir import CONSTANT, INPUT, VARIABLE
from staticgraph.passes.fuserules import can_stand_together
from staticgraph.passes.groups import OPERANDS, Group, Groups
from staticgraph.passes.regions import external, outputs_of
from staticgraph.tensor import Tensor

#: how much smaller than its region a value is that may wait in memory until others are computed
SMALL = 8


def unite(gs: Groups) -> None:
    """Merge regions over one domain that load the same values, where no value lives longer.

    A loss and its derivative, or an activation and its, often share nothing but their operands. The
    later one may run where the earlier one does: all it loads is there, or was never to be freed,
    and what it stores is a result of the graph or small. So the values are read once.
    """
    numbers = sorted(n for n, g in gs.groups.items() if not g.contraction)
    loads = {n: _loads(gs, gs.groups[n]) for n in numbers}
    readers: dict[Tensor, list[int]] = {}
    for n in numbers:
        for t in loads[n]:
            if not _small(t, gs.groups[n]):
                readers.setdefault(t, []).append(n)
    for found in readers.values():
        kept: list[int] = []
        for n in found:
            if n not in gs.groups:
                continue
            host = next((k for k in kept if _fits(gs, k, n, loads)), None)
            if host is None:
                kept.append(n)
            else:
                gs.merge(gs.groups[host], gs.groups[n])
                loads[host] = _loads(gs, gs.groups[host])


def _loads(gs: Groups, g: Group) -> dict[Tensor, None]:
    return dict.fromkeys(external(gs, g.nodes))


def _small(t: Tensor, g: Group) -> bool:
    return t.size * SMALL <= prod(g.shape)


def _fits(gs: Groups, first: int, second: int, loads: dict[int, dict[Tensor, None]]) -> bool:
    """Whether two regions may become one, and some order of the two keeps no value longer."""
    if first not in gs.groups:
        return False
    a, b = gs.groups[first], gs.groups[second]
    if len(loads[first].keys() | loads[second].keys()) > OPERANDS:
        return False
    if gs.clones(a) != gs.clones(b) or not can_stand_together(a, b):
        return False
    if not any(_joins(gs, x, y, loads) for x, y in ((a, b), (b, a))):
        return False
    nodes = sorted({*a.nodes, *b.nodes}, key=gs.order.__getitem__)
    made, _ = make(nodes, outputs_of(gs, nodes))
    try:
        lower(split_tail(made.attrs["body"])[0])
    except CannotLower:
        return False
    return True


def _joins(gs: Groups, host: Group, guest: Group, loads: dict[int, dict[Tensor, None]]) -> bool:
    """Whether the guest can run when the host does: what it loads is there, what it stores waits
    nowhere."""

    def there(t: Tensor) -> bool:
        lasting = t in loads[host.number] or t.node.op in (INPUT, VARIABLE, CONSTANT)
        return lasting or (_small(t, guest) and not gs.before(t) & ~host.before)

    # A small value may have readers, which wait for the host with all that they read.
    together = not host.before & ~guest.before
    stored = outputs_of(gs, guest.nodes)
    return all(map(there, loads[guest.number])) and all(
        t in gs.roots or (together and _small(t, guest)) for t in stored
    )
