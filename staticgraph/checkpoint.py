"""`checkpoint`: values computed again for the backward pass instead of kept.

The derivative works on copies of the nodes. Two things keep the copies from falling together with
the originals: they carry a clone number, which is part of what CSE compares, and they read their
operands through `late`, which makes them wait for the cotangents. So neither fusion nor the
schedule can run them early, and the originals are dead once the forward pass is over.

Within a budget of bytes some of the originals are kept (`keep`). They are further results of the
node, which the copies read, through `late` too, in place of computing them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from staticgraph import closure, keep, tree
from staticgraph.bytesize import budget_bytes
from staticgraph.closure import Call
from staticgraph.ir import INPUT, VARIABLE, Graph, Node, Op, apply, building
from staticgraph.operands import as_tensor
from staticgraph.registry import register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType


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
        if source.op.name not in keep.WHOLE and not (source.op.name == "slice" and leaf):
            return None
        with building(clone=node.clone):
            waiting = [apply(Late, t, *after) for t in source.operands]
        return source.with_operands(waiting, clone=node.clone).results


@register
class Checkpoint(Call):
    """The results of `body`, whose derivative starts from its operands and the results `kept`."""

    name = "checkpoint"

    def vjp(self, node: Node, cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        body = node.attrs["body"]
        made = closure.body_vjp(body, cotangents)
        wanted = [k for k, g in enumerate(made.results) if g is not None]
        kept = node.attrs.get("kept", ())
        graph = _given(made.graph(body, wanted), body, [body.outputs[k] for k in kept])
        read = closure.inputs_read(graph)
        clone = node.serial + 1  # the same number however often this node is differentiated
        given = [*node.operands, *(node.results[k] for k in kept)]
        with building(clone=clone):
            operands = [
                apply(Late, t, *made.operands) if inner in read else t
                for inner, t in zip(graph.inputs, given, strict=False)
            ]
            found = graph.inline([*operands, *made.operands], clone=clone)
        places = dict(zip(wanted, found, strict=True))
        return [places.get(k) for k in range(len(node.operands))]

    def jvp(self, node: Node, tangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        body = node.attrs["body"]
        made = closure.body_jvp(body, tangents)
        kept = [k for k, t in enumerate(made.results) if t is not None]
        found = made.graph(body, kept).inline([*node.operands, *made.operands])
        places = dict(zip(kept, found, strict=True))
        return [places.get(k) for k in range(len(made.results))]


def _given(graph: Graph, body: Graph, values: Sequence[Tensor]) -> Graph:
    """The graph with some values of the body given: inputs behind those of the body."""
    given = [closure.placeholder(f"kept{k}", t.type) for k, t in enumerate(values)]
    new = dict(zip(values, given, strict=True))
    for node in graph.nodes if values else ():
        made = node.with_operands([new.get(t, t) for t in node.operands])
        for r, t in zip(node.results, made.results, strict=True):
            new.setdefault(r, t)
    n = len(body.inputs)
    inputs = [*graph.inputs[:n], *given, *graph.inputs[n:]]
    return Graph(inputs, [new.get(t, t) for t in graph.outputs])


def checkpoint(
    function: Callable | None = None, *, memory_budget: int | str | None = None
) -> Callable:
    """The same function of tensors, whose values the backward pass computes again.

    What it reads, closures over outer tensors included, is kept; what it computes is not. Random
    numbers are functions of their keys, so they come out again with the same bits.

    Arguments:
        function: of tensors; without it, a decorator
        memory_budget: bytes of what the function computes, its results included, that each call of
            it may keep for its derivative: a number, "120MiB", or "40%" of what the derivative
            reads of it. Those are kept whose computation costs most; by default none

    Raises BudgetError for a budget that is none of these. `compile(memory_budget=...)` limits all
    memory together, and may compute more again than this asks for.
    """
    if memory_budget is not None:
        budget_bytes("checkpoint", memory_budget, 0)
    if function is None:
        return functools.partial(checkpoint, memory_budget=memory_budget)
    closure.needs_function("checkpoint", function)

    @functools.wraps(function)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        since, value = closure.trace("checkpoint", function, args, kwargs)
        leaves, form = closure.leaves_of("checkpoint", function, value)
        with building(hook=closure.isolated):
            outputs = [as_tensor(v) for v in leaves]
        if not outputs:
            return value
        operands, (body,) = closure.close([outputs], since)
        kept = [] if memory_budget is None else keep.kept(body, memory_budget)
        shown = set(body.outputs)
        results = [*body.outputs, *(t for t in kept if t not in shown)]
        place = {t: k for k, t in enumerate(results)}
        attrs = {"kept": tuple(place[t] for t in kept)} if kept else {}
        made = apply(Checkpoint, *operands, body=Graph(body.inputs, results), **attrs)
        return tree.unflatten(form, list(made[: len(leaves)]))

    return checkpointed
