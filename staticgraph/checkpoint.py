"""`checkpoint`: values computed again for the backward pass instead of kept.

The derivative works on copies of the nodes. Two things keep the copies from falling together with
the originals: they carry a clone number, which is part of what CSE compares, and they read their
operands through `late`, which makes them wait for the cotangents. So neither fusion nor the
schedule can run them early, and the originals are dead once the forward pass is over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from staticgraph import closure, tree
from staticgraph.closure import Call
from staticgraph.ir import INPUT, VARIABLE, Node, Op, Tensor, apply, building
from staticgraph.op import as_tensor, register
from staticgraph.types import TensorType

#: views that read all they are made of, so that it is the same which of the two waits
_WHOLE = ("reshape", "transpose", "broadcast_to", "flip")


@register
class Late(Op):
    """The first operand, once the others are computed. The plan gives it no memory and no step."""

    name = "late"

    def infer(self, x: TensorType, *after: TensorType) -> TensorType:
        return x

    def reference(
        self, operands: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> list[np.ndarray]:
        return [operands[0]]

    def vjp(self, node: Node, cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [cotangents[0], *(None for _ in node.operands[1:])]

    def jvp(self, node: Node, tangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [tangents[0]]

    def simplify(self, node: Node) -> Sequence[Tensor] | None:
        """Let the source of a view wait: its readers can only see through the view itself."""
        x, *after = node.operands
        source = x.node
        if not source.operands and source.op not in (INPUT, VARIABLE):
            return [x]
        leaf = source.operands and source.operands[0].node.op in (INPUT, VARIABLE)
        if source.op.name not in _WHOLE and not (source.op.name == "slice" and leaf):
            return None
        with building(clone=node.clone):
            waiting = [apply(Late, t, *after) for t in source.operands]
        return source.with_operands(waiting, clone=node.clone).results


@register
class Checkpoint(Call):
    """The results of `body`, whose derivative starts from its operands."""

    name = "checkpoint"

    def vjp(self, node: Node, cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        body = node.attrs["body"]
        made = closure.body_vjp(body, cotangents)
        kept = [k for k, g in enumerate(made.results) if g is not None]
        graph = made.graph(body, kept)
        read = closure.inputs_read(graph)
        clone = node.serial + 1  # the same number however often this node is differentiated
        with building(clone=clone):
            operands = [
                apply(Late, t, *made.operands) if inner in read else t
                for inner, t in zip(body.inputs, node.operands, strict=True)
            ]
            found = graph.inline([*operands, *made.operands], clone=clone)
        places = dict(zip(kept, found, strict=True))
        return [places.get(k) for k in range(len(node.operands))]

    def jvp(self, node: Node, tangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        body = node.attrs["body"]
        made = closure.body_jvp(body, tangents)
        kept = [k for k, t in enumerate(made.results) if t is not None]
        found = made.graph(body, kept).inline([*node.operands, *made.operands])
        places = dict(zip(kept, found, strict=True))
        return [places.get(k) for k in range(len(made.results))]


def checkpoint(function: Callable) -> Callable:
    """The same function of tensors, whose values the backward pass computes again.

    What it reads, closures over outer tensors included, is kept; what it computes is not. Random
    numbers are functions of their keys, so they come out again with the same bits.
    """

    @functools.wraps(function)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        since, value = closure.trace("checkpoint", function, args, kwargs)
        leaves, form = closure.leaves_of("checkpoint", function, value)
        with building(hook=closure.isolated):
            outputs = [as_tensor(v) for v in leaves]
        if not outputs:
            return value
        operands, (body,) = closure.close([outputs], since)
        return tree.unflatten(form, list(apply(Checkpoint, *operands, body=body)))

    return checkpointed
