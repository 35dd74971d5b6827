"""What follows a contraction in the same kernel: a region's expressions on each finished vector."""

from __future__ import annotations

from collections.abc import Sequence

from staticgraph.codegen.expressions import Expressions, Scope
from staticgraph.codegen.lower import lower
from staticgraph.codegen.region import CannotLower, Region
from staticgraph.ir import INPUT, Graph, Node
from staticgraph.scalar import Expr
from staticgraph.tensor import Tensor


def split(body: Graph, contraction: Node) -> Graph:
    """The body with the contraction's result as one more input, the last one."""
    result = contraction.results[0]
    stand_in = Node(
        INPUT, (), {"name": "acc", "type": result.type}, (result.type,), contraction.where
    ).results[0]
    new: dict[Tensor, Tensor] = {result: stand_in}
    for node in body.nodes:
        if (
            node is not contraction
            and node.op is not INPUT
            and any(t in new for t in node.operands)
        ):
            made = node.with_operands([new.get(t, t) for t in node.operands])
            new.update(zip(node.results, made.results, strict=True))
    return Graph((*body.inputs, stand_in), [new.get(t, t) for t in body.outputs])


class RegionEpilogue(Expressions):
    """The protocol of `contract_parts.Epilogue` over a region whose axes are batch, row, column."""

    imports = ("from math import inf, nan",)

    def __init__(self, body: Graph, view: tuple[int, int, int]):
        region = lower(body, view)
        super().__init__(region)
        if region.reductions or region.inner:
            raise CannotLower("a reduction after a contraction")
        self.acc_input = len(body.inputs) - 1
        self.acc = ""
        self.letters = self.match(region, view)
        self.scopes = [Scope(set())]
        # Once without output, to learn the constants and the buffers.
        for mask in (None, "m"):
            self.lines_of("acc", mask)

    @staticmethod
    def match(region: Region, view: tuple[int, int, int]) -> dict[int, str]:
        """Which of batch, row and column each axis of the region is."""
        found: dict[int, str] = {}
        sizes = list(region.sizes)
        parts = [(n, name) for n, name in zip(view, ("batch", "row", "col"), strict=True) if n != 1]
        if [n for n in sizes] != [n for n, _ in parts]:
            raise CannotLower(f"axes {sizes} are not batch, row, column {view}")
        for k, (_, name) in enumerate(parts):
            found[k] = name
        return found

    @property
    def buffers(self) -> tuple[tuple[str, int], ...]:  # type: ignore[override]
        return tuple(("ep", j) for j in range(len(self._buffers)))

    @buffers.setter
    def buffers(self, value: list[tuple[str, int]]) -> None:
        self._buffers = value

    def pointer(self, kind: str, k: int) -> str:
        if (kind, k) not in self._buffers:
            self._buffers.append((kind, k))
        return f"e{self._buffers.index((kind, k))}"

    def deps(self, e: Expr) -> frozenset[int]:
        if e.name == "load" and e.value[0] == self.acc_input:  # type: ignore[index]
            return frozenset((-1,))  # known where the sums are, never before
        return super().deps(e)

    def load(self, e: Expr) -> str:
        return self.acc if e.value[0] == self.acc_input else super().load(e)  # type: ignore[index]

    def past(self, result: int) -> bool:
        return False  # the contraction around it would have to wait for its stores

    def prologue(self, names: Sequence[str]) -> list[str]:
        return [*(f"e{j} = {name}" for j, name in enumerate(names)), *self.scopes[0].lines]

    def emit(
        self, indent: str, index: str, batch: str, row: str, col: str, acc: str, mask: str | None
    ) -> list[str]:
        given = {"batch": batch, "row": row, "col": col}
        head = [f"i{k} = {given[name]}" for k, name in self.letters.items()]
        if self.v not in self.letters:  # with one column, lanes may run along another axis
            head.append(f"i{self.v} = {col}")
        if mask is not None and mask != "m":
            head.append(f"m = {mask}")
        return [indent + line for line in (*head, *self.lines_of(acc, mask))]

    def lines_of(self, acc: str, mask: str | None) -> list[str]:
        self.acc, self.mask = acc, mask and "m"
        deepest = Scope(set(range(len(self.sizes))) | {-1})
        self.scopes = [self.scopes[0], deepest]
        self.store_all(self.region.stores, deepest)
        self.scopes = self.scopes[:1]
        return deepest.lines
