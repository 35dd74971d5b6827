"""`custom_gradient`: a function that brings its own derivative."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from staticgraph import closure, tree
from staticgraph.closure import Call
from staticgraph.errors import GradientError, GraphTypeError, ShapeError
from staticgraph.ir import Graph, Node, apply, building
from staticgraph.operands import as_tensor, cast, is_scalar
from staticgraph.registry import FUNCTIONS, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, is_complex, is_differentiable


@register
class CustomGradient(Call):
    """The results of `body`; `rule` gives the cotangents of the operands `wrt`.

    The rule has the operands and a cotangent for each differentiable result as inputs. It is a
    graph, so derivatives of any order differentiate it.
    """

    name = "custom_gradient"

    def infer(
        self, *types: TensorType, body: Graph, rule: Graph, wrt: tuple[int, ...]
    ) -> tuple[TensorType, ...]:
        results = super().infer(*types, body=body)
        given = (*types, *(t for t in results if is_differentiable(t.dtype)))
        if tuple(t.type for t in rule.inputs) != given:
            raise GraphTypeError(
                "custom_gradient: the inputs of the rule are the operands, then the cotangents"
            )
        if tuple(t.type for t in rule.outputs) != tuple(types[k] for k in wrt):
            raise GraphTypeError(
                "custom_gradient: the rule must give cotangents of the operands' types"
            )
        return results

    def vjp(self, node: Node, cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        gs = [
            closure.zeros(r.type) if g is None else g
            for r, g in zip(node.results, cotangents, strict=True)
            if is_differentiable(r.type.dtype)
        ]
        made = node.attrs["rule"].inline([*node.operands, *gs])
        places = dict(zip(node.attrs["wrt"], made, strict=True))
        return [places.get(k) for k in range(len(node.operands))]


def custom_gradient(function: Callable) -> Callable[..., Any]:
    """Decorator for a function that returns `(output, vjp_fn)`; `vjp_fn` is its derivative.

        @sg.custom_gradient
        def clip_gradient(x):
            return x, lambda g: sg.ops.clip(g, -1.0, 1.0)

    `vjp_fn` takes the cotangent of the output, in its form (None for a result without derivative),
    and returns that of the argument, or a tuple with one for each argument (None for zero). It is
    traced at once, and higher derivatives are those of what it computes. Gradients flow to
    positional arguments only, not to tensors that the function reads from outside.

    A call raises GraphTypeError where no such pair is returned, GradientError and ShapeError where
    the cotangents do not fit the arguments.
    """

    closure.needs_function("custom_gradient", function)
    who = closure.name_of(function)

    @functools.wraps(function)
    def customized(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(v, Tensor) for v in tree.flatten(kwargs)[0]):
            raise GraphTypeError(
                f"custom_gradient: give tensors to {who} by position; vjp_fn has no place for"
                " others"
            )
        args = tree.map(_array_as_tensor, args)
        since, pair = closure.trace("custom_gradient", function, args, kwargs)
        if not isinstance(pair, tuple) or len(pair) != 2 or not callable(pair[1]):
            raise GraphTypeError(
                f"custom_gradient: {who} must return a pair (output, vjp_fn),"
                f" returned {tree.show(pair, lambda v: type(v).__name__)}"
            )
        value, vjp_fn = pair
        leaves, form = closure.leaves_of("custom_gradient", function, value)
        with building(hook=closure.isolated):
            outputs = [as_tensor(v) for v in leaves]
        if not outputs:
            return value
        gs = [
            closure.placeholder(f"g{k}", t.type) if is_differentiable(t.type.dtype) else None
            for k, t in enumerate(outputs)
        ]
        _, pulled = closure.trace("custom_gradient", vjp_fn, [tree.unflatten(form, gs)])
        with building(hook=closure.isolated):
            rule = _collected(who, args, pulled)
        seeds = [g for g in gs if g is not None]
        groups = [outputs, list(rule.values()), list(rule)]
        operands, (body, back, _) = closure.close(groups, since, [[], seeds, []])
        number = {t: k for k, t in enumerate(operands)}
        wrt = tuple(number[t] for t in rule)
        made = apply(CustomGradient, *operands, body=body, rule=back, wrt=wrt)
        return tree.unflatten(form, list(made))

    return customized


def _array_as_tensor(v: Any) -> Any:
    return as_tensor(v) if hasattr(v, "__array__") and not is_scalar(v) else v


def _collected(who: str, args: tuple, pulled: Any) -> dict[Tensor, Tensor]:
    """The cotangent of each float tensor in the arguments; for one given twice, the sum."""
    single = isinstance(pulled, tuple) and len(pulled) == 1 and not isinstance(args[0], tuple)
    if len(args) == 1 and not single:
        pulled = (pulled,)
    if not isinstance(pulled, tuple) or len(pulled) != len(args):
        raise GradientError(
            f"custom_gradient: vjp_fn of {who} must return a cotangent for each of the"
            f" {len(args)} arguments, returned {tree.show(pulled, lambda v: type(v).__name__)}"
        )
    found: dict[Tensor, Tensor] = {}
    for k, (arg, given) in enumerate(zip(args, pulled, strict=True)):
        what = f"custom_gradient: the cotangent of argument {k} of {who}"
        for t, g in _pairs(arg, given, what):
            g = _fitted(t, g, what)
            found[t] = FUNCTIONS["add"](found[t], g) if t in found else g
    return found


def _pairs(arg: Any, given: Any, what: str) -> Iterator[tuple[Tensor, Any]]:
    """Differentiable tensors of an argument, each with what a nesting of cotangents has for it."""
    if given is None:
        return
    nested = (list, tuple, dict)
    if isinstance(arg, nested) or isinstance(given, nested):
        same = type(arg) is type(given) and len(arg) == len(given)
        if not same or (isinstance(arg, dict) and arg.keys() != given.keys()):
            raise GradientError(
                f"{what} must have its form {tree.show(arg, _kind)}, got {tree.show(given, _kind)}"
            )
        for k in arg if isinstance(arg, dict) else range(len(arg)):
            yield from _pairs(arg[k], given[k], what)
    elif isinstance(arg, Tensor) and is_differentiable(arg.type.dtype):
        yield arg, given


def _fitted(t: Tensor, given: Any, what: str) -> Tensor:
    """A cotangent with the type of its tensor; a Python number stands for a full tensor."""
    if is_scalar(given):
        return FUNCTIONS["full"](t.shape, given, t.type.dtype)
    g = as_tensor(given)
    if g.shape != t.shape:
        raise ShapeError(f"{what} must be {t.type}, got {g.type}")
    dropped = is_complex(g.type.dtype) and not is_complex(t.type.dtype)
    if dropped or not is_differentiable(g.type.dtype):
        raise GradientError(f"{what} must be {t.type}, got {g.type}")
    return cast(g, t.type.dtype)


def _kind(value: Any) -> str:
    return str(value.type) if isinstance(value, Tensor) else type(value).__name__
