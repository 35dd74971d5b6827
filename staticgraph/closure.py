"""Python functions as closed graphs: what they read from outside becomes an input.

A function is run on tensors; the nodes made meanwhile are its body. Serial numbers tell them from
the nodes that were there before, so a closure over outer tensors needs no declaration.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from staticgraph import tree
from staticgraph.errors import GraphTypeError
from staticgraph.gradient import pullback, pushforward
from staticgraph.interpret import run
from staticgraph.ir import INPUT, VARIABLE, Graph, Node, Op, building, mark, postorder
from staticgraph.operands import is_scalar
from staticgraph.registry import FUNCTIONS
from staticgraph.rewrite import uniform_value
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, is_differentiable


def trace(
    op: str, function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None
) -> tuple[int, Any]:
    """(a number below the serials of what is made, what the function returned)."""
    needs_function(op, function)
    since = mark()
    with building(hook=isolated):
        return since, function(*args, **(kwargs or {}))


def needs_function(op: str, function: object) -> None:
    """Refuse what cannot be called."""
    if not callable(function):
        raise GraphTypeError(f"{op}: needs a function of tensors, got {type(function).__name__}")


def isolated(node: Node) -> None:
    """The hook inside a body: a derivative under way outside must not offer its tensors here."""


def leaves_of(op: str, function: Callable, value: Any) -> tuple[list[Any], Any]:
    """Leaves and form of what a function returned: tensors, arrays and Python numbers."""
    leaves, form = tree.flatten(value)
    for v in leaves:
        if not isinstance(v, Tensor) and not is_scalar(v) and not hasattr(v, "__array__"):
            raise GraphTypeError(
                f"{op}: {name_of(function)} must return tensors, returned {type(v).__name__}"
            )
    return leaves, form


def name_of(function: Callable) -> str:
    """'relu (model.py:12)': how messages call a user's function."""
    where = defined(function)
    plain = _plain(function)
    name = plain.__name__ if hasattr(plain, "__code__") else getattr(function, "__name__", "")
    if not name or name == "__call__":
        name = type(function).__name__
    return f"{name} ({where})" if where else name


def defined(function: Callable) -> str:
    """'model.py:12': where a function is written, '' where that is unknown."""
    code = getattr(_plain(function), "__code__", None)
    return f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}" if code else ""


def _plain(function: Any) -> Any:
    """The Python function under decorators, `partial` and callable objects."""
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        function = function.func
    return function if hasattr(function, "__code__") else type(function).__call__


# ---------------------------------------------------------------------------- closing


def close(
    groups: Sequence[Sequence[Tensor]], since: int, own: Sequence[Sequence[Tensor]] = ()
) -> tuple[list[Tensor], list[Graph]]:
    """(operands, bodies): for each group of tensors a closed graph that computes them.

    All bodies have one input for each operand, in order, then their `own` inputs. Outer nodes are
    those made before `since`, graph inputs and variables.
    """
    mine = {t for inputs in own for t in inputs}

    def outer(node: Node) -> bool:
        if node.op in (INPUT, VARIABLE):
            return node.results[0] not in mine
        return node.serial < since

    orders = [postorder(group, outer) for group in groups]
    operands: dict[Tensor, None] = {}
    for group, order in zip(groups, orders, strict=True):
        for t in (*(t for n in order if not outer(n) for t in n.operands), *group):
            if outer(t.node):
                operands[t] = None
    names = input_names(list(operands))
    bodies = []
    for k, (group, order) in enumerate(zip(groups, orders, strict=True)):
        new = {
            t: placeholder(name, t.type, t.node.where)
            for t, name in zip(operands, names, strict=True)
        }
        inputs = (*new.values(), *(own[k] if own else ()))
        for node in order:
            if not outer(node):
                made = node.with_operands([new.get(t, t) for t in node.operands])
                new.update(zip(node.results, made.results, strict=True))
        bodies.append(Graph(inputs, [new[t] for t in group]))
    return list(operands), bodies


def placeholder(name: str, type: TensorType, where: tuple[str, int] | None = None) -> Tensor:
    """An input of a body."""
    return Node(INPUT, (), {"name": name, "type": type}, (type,), where).results[0]


def input_names(operands: Sequence[Tensor]) -> list[str]:
    """A name for each input of a body: the operand's own where it has one."""
    names: list[str] = []
    for k, t in enumerate(operands):
        name = (
            getattr(t, "name", None)
            or (t.node.attrs.get("name") if t.node.op is INPUT else None)
            or f"p{k}"
        )
        while name in names:
            name += "_"
        names.append(name)
    return names


def inputs_read(body: Graph) -> set[Tensor]:
    """The inputs that the outputs of a body depend on."""
    return {n.results[0] for n in postorder(body.outputs) if n.op is INPUT}


# ---------------------------------------------------------------------------- derivatives of bodies


def zeros(type: TensorType) -> Tensor:
    return FUNCTIONS["zeros"](type.shape, type.dtype)


@dataclass(frozen=True)
class Derived:
    """The derivative of a body: nodes beside those of the body, which compute again what it needs.

    `inputs` are its inputs after those of the body, `operands` what stands for them outside.
    """

    inputs: list[Tensor]
    operands: list[Tensor]
    results: list[Tensor | None]

    def graph(self, body: Graph, kept: Sequence[int]) -> Graph:
        """The closed graph of some results, which must be there."""
        return Graph((*body.inputs, *self.inputs), [self.results[k] for k in kept])


def body_vjp(body: Graph, cotangents: Sequence[Tensor | None]) -> Derived:
    """Cotangents of the inputs of a body from those of its outputs."""
    seeds, inputs, operands = _seeds(body.outputs, cotangents, "g")
    pairs = [(y, g) for y, g in zip(body.outputs, seeds, strict=True) if g is not None]
    wanted = [t for t in body.inputs if is_differentiable(t.type.dtype)]
    found = dict(zip(wanted, pullback(pairs, wanted), strict=True))
    return Derived(inputs, operands, [found.get(t) for t in body.inputs])


def body_jvp(body: Graph, tangents: Sequence[Tensor | None]) -> Derived:
    """Tangents of the outputs of a body from those of its inputs."""
    seeds, inputs, operands = _seeds(body.inputs, tangents, "d")
    start = {x: d for x, d in zip(body.inputs, seeds, strict=True) if d is not None}
    return Derived(inputs, operands, pushforward(body.outputs, start))


def _seeds(
    like: Sequence[Tensor], given: Sequence[Tensor | None], letter: str
) -> tuple[list[Tensor | None], list[Tensor], list[Tensor]]:
    """(seeds inside, inputs, operands) for cotangents or tangents of a body.

    Ones and zeros go inside as they are: they simplify there, and without that derivatives of
    high order would be many times larger.
    """
    seeds: list[Tensor | None] = []
    inputs: list[Tensor] = []
    operands: list[Tensor] = []
    for k, (t, g) in enumerate(zip(like, given, strict=True)):
        if g is None or uniform_value(g) is not None:
            seeds.append(g)
            continue
        seeds.append(placeholder(f"{letter}{k}", t.type))
        inputs.append(seeds[-1])
        operands.append(g)
    return seeds, inputs, operands


class Call(Op):
    """Base of the ops that mean their body and differ from it in their derivative only.

    They stand in a graph as it is built; compilation starts with `passes.inline`.
    """

    bodies = ("body",)

    def infer(self, *types: TensorType, body: Graph, **attrs: Any) -> tuple[TensorType, ...]:
        if tuple(t.type for t in body.inputs) != types:
            raise GraphTypeError(f"{self.name}: operands and inputs of the body differ in type")
        return tuple(t.type for t in body.outputs)

    def reference(
        self,
        operands: Sequence[np.ndarray],
        types: Sequence[TensorType],
        *,
        body: Graph,
        **attrs: Any,
    ) -> list[np.ndarray]:
        return run(body, operands)
