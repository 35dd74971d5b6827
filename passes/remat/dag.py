"""What a memory study needs to know of a graph: what each node costs, and how many bytes it holds.

A `Dag` knows nothing of tensors. It may come from one of our own graphs, from a JSON file
(`dagjson`), or be written by hand; everything in `passes.remat` works on it alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from staticgraph.errors import DagError

_MOST_BYTES = 1 << 60  # sums of bytes are kept in 64 bits


@dataclass(frozen=True)
class Dag:
    """Nodes 0..n-1 in a topological order, each computing one value.

    cost: what running the node costs, in any one unit (seconds, flops, 1 each).
    size: bytes of the node's value.
    inputs: for each node, the nodes whose values it reads; all of them stand before it.
    names: one for each node, for messages and pictures; "" becomes the node's number.
    outputs: the nodes whose values must be held at the end.
    extra: bytes of temporary memory while the node runs (none if not given).
    inplace: for each node, the operands whose memory its value may take over where that is their
        last use; None (or an empty set) for none.
    fixed: the nodes that may not be run a second time.
    name: of the whole graph.

    Raises DagError where this does not describe such a graph.
    """

    cost: tuple[float, ...]
    size: tuple[int, ...]
    inputs: tuple[tuple[int, ...], ...]
    names: tuple[str, ...] = ()
    outputs: frozenset[int] = frozenset()
    extra: tuple[int, ...] = ()
    inplace: tuple[frozenset[int] | None, ...] = ()
    fixed: frozenset[int] = frozenset()
    name: str = ""

    def __post_init__(self) -> None:
        n = len(self.cost)
        put = object.__setattr__  # the dataclass is frozen
        put(self, "cost", tuple(float(c) for c in self.cost))
        put(self, "size", tuple(_whole(b, "size") for b in self.size))
        put(self, "inputs", tuple(tuple(int(u) for u in ops) for ops in self.inputs))
        put(self, "names", _named(self.names, n))
        put(self, "outputs", frozenset(self.outputs))
        put(self, "extra", tuple(_whole(b, "extra") for b in self.extra) or (0,) * n)
        put(self, "inplace", tuple(frozenset(s or ()) or None for s in self.inplace) or (None,) * n)
        put(self, "fixed", frozenset(self.fixed))
        self._check()

    def _check(self) -> None:
        n = len(self)
        if n == 0:
            raise DagError("a Dag needs at least one node")
        for field in ("size", "inputs", "names", "extra", "inplace"):
            if len(getattr(self, field)) != n:
                raise DagError(
                    f"{field} has {len(getattr(self, field))} entries, cost has {n}: "
                    "one for each node is required"
                )
        for v in range(n):
            self._check_node(v)
        if sum(self.size) + sum(self.extra) > _MOST_BYTES:
            raise DagError(f"size and extra sum to more than {_MOST_BYTES} bytes")
        for field in ("outputs", "fixed"):
            strange = [v for v in getattr(self, field) if v not in range(n)]
            if strange:
                raise DagError(f"{field} names node {strange[0]}, the nodes are 0..{n - 1}")

    def _check_node(self, v: int) -> None:
        if not (math.isfinite(self.cost[v]) and self.cost[v] >= 0):
            raise DagError(f"{self.label(v)}: cost must be finite and >= 0, is {self.cost[v]}")
        for field in ("size", "extra"):
            if getattr(self, field)[v] < 0:
                raise DagError(
                    f"{self.label(v)}: {field} must be >= 0 bytes, is {getattr(self, field)[v]}"
                )
        for u in self.inputs[v]:
            if not 0 <= u < v:
                raise DagError(
                    f"{self.label(v)} reads node {u}: inputs must stand before their reader "
                    "(nodes are numbered in a topological order)"
                )
        if len(set(self.inputs[v])) != len(self.inputs[v]):
            raise DagError(f"{self.label(v)} names an input twice: {list(self.inputs[v])}")
        if not (self.inplace[v] or frozenset()) <= set(self.inputs[v]):
            raise DagError(
                f"{self.label(v)}: inplace {sorted(self.inplace[v] or ())} is not among its "
                f"inputs {list(self.inputs[v])}"
            )

    def __len__(self) -> int:
        return len(self.cost)

    def label(self, v: int) -> str:
        """The node in a message: its number, and its name where that says more."""
        return f"node {v}" if self.names[v] == str(v) else f"node {v} ({self.names[v]})"

    @cached_property
    def uses(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the nodes that read its value, in ascending order."""
        readers: list[list[int]] = [[] for _ in self.cost]
        for v, operands in enumerate(self.inputs):
            for u in operands:
                readers[u].append(v)
        return tuple(map(tuple, readers))

    @cached_property
    def total(self) -> float:
        """The cost of running every node once, to which overheads and gaps relate."""
        return math.fsum(self.cost)

    def working_set(self, v: int) -> int:
        """Bytes without which the node cannot run: its inputs, its value, its temporaries."""
        held = sum(self.size[u] for u in self.inputs[v]) + self.size[v] + self.extra[v]
        # An output may be taken over too, and computed again for the end.
        lasting = self.outputs & self.fixed
        shared = [self.size[u] for u in self.inplace[v] or () if u not in lasting]
        return held - min(self.size[v], max(shared, default=0))


def topological(names: Sequence[str], inputs: Sequence[Iterable[int]]) -> list[int]:
    """The nodes with inputs before readers, otherwise in the order given.

    Raises DagError naming a cycle where there is one.
    """
    order: list[int] = []
    state = [0] * len(names)  # 0 not met, 1 on the path, 2 placed
    for root in range(len(names)):
        path = [root] if state[root] == 0 else []
        while path:
            v = path[-1]
            state[v] = 1
            ahead = [u for u in inputs[v] if state[u] != 2]
            on_path = [u for u in ahead if state[u] == 1]
            if on_path:
                cycle = path[path.index(on_path[0]) :]
                # The path runs from readers to inputs.
                raise DagError("cyclic: " + " <- ".join(names[u] for u in [*cycle, cycle[0]]))
            if ahead:
                path.append(ahead[0])
            else:
                state[path.pop()] = 2
                order.append(v)
    return order


def _whole(value: int, field: str) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise DagError(f"{field} must be whole bytes, is {value}")
    return int(value)


def _named(names: Sequence[str], n: int) -> tuple[str, ...]:
    return tuple(str(name) or str(v) for v, name in enumerate(names or [""] * n))
