"""The op that fusion makes: several nodes as one, with a body that is a graph.

A fusion is one kernel (or one and the join of its partial sums). Its body has the operands as
inputs and is closed, so text, verification and every pass see through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod

import numpy as np

from staticgraph.errors import GraphTypeError
from staticgraph.interpret import run
from staticgraph.ir import CONSTANT, INPUT, Graph, Node, Op
from staticgraph.registry import add_op
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType

#: ops whose meaning is a contraction: a tiled kernel computes them, other nodes ride along after it
CONTRACTIONS = frozenset(("matmul", "conv", "conv_transpose", "conv_weight_grad"))
#: ops that only map indices; every reader does so by itself
VIEWS = frozenset(("reshape", "transpose", "broadcast_to", "slice", "flip"))


class Fusion(Op):
    """The results of `body` for the operands as its inputs."""

    name = "fusion"

    def infer(self, *types: TensorType, body: Graph) -> tuple[TensorType, ...]:
        if tuple(t.type for t in body.inputs) != types:
            raise GraphTypeError("fusion: operands and inputs of the body differ in type")
        return tuple(t.type for t in body.outputs)

    def reference(
        self, operands: Sequence[np.ndarray], types: Sequence[TensorType], *, body: Graph
    ) -> list[np.ndarray]:
        return run(body, operands)


FUSION = add_op(Fusion())


def has_template(base: Node) -> bool:
    """Convolutions of integers and complex numbers go by their plain meaning."""
    return base.op.name == "matmul" or base.results[0].type.dtype in ("float32", "float64")


def contraction_of(body: Graph) -> Node | None:
    """The contraction in a body, of which there is at most one."""
    return next((n for n in body.nodes if n.op.name in CONTRACTIONS), None)


def strided(t: Tensor, stop: Callable[[Tensor], bool]) -> tuple[Tensor, tuple[int, ...], int]:
    """(base, element strides, start) of a chain of views; `stop` ends the chain."""
    node = t.node
    if stop(t) or node.op.name not in VIEWS:
        return t, contiguous(t.shape), 0
    source = node.operands[0]
    base, strides, start = strided(source, stop)
    a = node.attrs
    if node.op.name == "transpose":
        return base, tuple(strides[k] for k in a["axes"]), start
    if node.op.name == "broadcast_to":
        lead = t.ndim - source.ndim
        wide = tuple(0 if n == 1 else st for n, st in zip(source.shape, strides, strict=True))
        return base, (0,) * lead + wide, start
    if node.op.name == "slice":
        start += sum(i * st for i, st in zip(a["start"], strides, strict=True))
        return base, tuple(st * d for st, d in zip(strides, a["step"], strict=True)), start
    if node.op.name == "flip":
        start += sum((source.shape[k] - 1) * strides[k] for k in a["axes"])
        return base, tuple(-st if k in a["axes"] else st for k, st in enumerate(strides)), start
    made = reshaped_strides(source.shape, strides, t.shape)
    return (t, contiguous(t.shape), 0) if made is None else (base, made, start)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(prod(shape[k + 1 :]) for k in range(len(shape)))


def reshaped_strides(
    old: Sequence[int], strides: Sequence[int], new: Sequence[int]
) -> tuple[int, ...] | None:
    """Strides after a reshape without a copy, None where there are none."""
    if strides == contiguous(old):
        return contiguous(new)
    real = [(n, st) for n, st in zip(old, strides, strict=True) if n != 1]
    if [n for n, _ in real] != [n for n in new if n != 1]:
        return None
    left = iter(real)
    return tuple(0 if n == 1 else next(left)[1] for n in new)


def solid_operands(nodes: Iterable[Node]) -> set[Tensor]:
    """Tensors that a contraction among the nodes reads from memory as they are.

    A matrix product reads transposes and broadcasts through strides; what strides cannot say, and
    everything that a convolution reads, must be in memory.
    """
    found: set[Tensor] = set()
    for node in nodes:
        if node.op.name in CONTRACTIONS and node.op.name != "matmul":
            found.update(node.operands)
        elif node.op.name == "matmul":
            for t in node.operands:
                base, _, _ = strided(t, lambda _: False)
                known = base.node.op is CONSTANT and base.size == 1
                if known or base.node.op.name == "iota":
                    found.add(t)
                elif base.node.op.name in VIEWS:
                    found.add(base)
    return found


def make(nodes: Sequence[Node], outputs: Sequence[Tensor]) -> tuple[Node, dict[Tensor, Tensor]]:
    """A fusion of nodes (operands first) that yields `outputs`; views they read go into the body.

    Returns the node and what each output became. Its operands are still those of the old graph.
    """
    inside: dict[Tensor, Tensor] = {}
    operands: list[Tensor] = []
    inputs: list[Tensor] = []
    members = {id(n) for n in nodes}
    solid = solid_operands(nodes)

    def value(t: Tensor) -> Tensor:
        found = inside.get(t)
        if found is not None:
            return found
        node = t.node
        if node.op is CONSTANT and t.size == 1 and t not in solid:
            inside[t] = t
            return t
        if t not in solid and (
            node.op.name in VIEWS or node.op.name == "iota" or id(node) in members
        ):
            made = node.with_operands([value(o) for o in node.operands])
            inside.update(zip(node.results, made.results, strict=True))
            return inside[t]
        new = Node(INPUT, (), {"name": f"p{len(inputs)}", "type": t.type}, (t.type,), node.where)
        operands.append(t)
        inputs.append(new.results[0])
        inside[t] = new.results[0]
        return inside[t]

    for node in nodes:
        made = node.with_operands([value(o) for o in node.operands])
        inside.update(zip(node.results, made.results, strict=True))
    body = Graph(inputs, [inside[t] for t in outputs])
    fused = Node(
        FUSION, tuple(operands), {"body": body}, tuple(t.type for t in outputs), nodes[-1].where
    )
    return fused, dict(zip(outputs, fused.results, strict=True))


def members(node: Node) -> Iterable[Node]:
    """The nodes that compute in a body."""
    return (n for n in node.attrs["body"].nodes if n.op is not INPUT and n.op is not CONSTANT)
