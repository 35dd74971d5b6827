"""How ops are declared: one class or one line, with type rule, meaning and gradient together."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import CONSTANT, Node, Op, apply
from staticgraph.nest import Nest, axes, broadcast_index
from staticgraph.operands import as_bool, cast, constant, promoted
from staticgraph.primitives import PRIMS
from staticgraph.registry import FUNCTIONS, OPS, add_op, public
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, broadcast_shapes, is_differentiable


class NestOp(Op):
    """An op whose meaning is a loop nest. Subclasses give `infer`, `nest` and `vjp`."""

    def nest(self, types: Sequence[TensorType], out: TensorType, **attrs: Any) -> Nest:
        raise NotImplementedError


class Elementwise(NestOp):
    """result[i] = expr(operands at i), operands broadcast against each other."""

    def __init__(
        self,
        name: str,
        function: Callable[..., s.Expr],
        rule: Callable[..., Sequence[s.Expr | None]] | None = None,
    ):
        self.name = name
        self.function = function
        self.rule = rule

    @functools.lru_cache(maxsize=4096)  # noqa: B019  ops live as long as the process
    def _expr(self, dtypes: tuple[str, ...], attrs: tuple[tuple[str, Any], ...]) -> s.Expr:
        args = [s.arg(i, d) for i, d in enumerate(dtypes)]
        result = self.function(*args, **dict(attrs))
        return result

    def expr(self, types: Sequence[TensorType], attrs: dict[str, Any]) -> s.Expr:
        """The scalar expression for operands of these types."""
        return self._expr(tuple(t.dtype for t in types), tuple(sorted(attrs.items())))

    def pulled(
        self, types: Sequence[TensorType], attrs: dict[str, Any], g: s.Expr
    ) -> Sequence[s.Expr | None]:
        """Cotangents of the operands for cotangent g: by the op's own rule, else from the table."""
        if self.rule is None:
            return s.vjp(self.expr(types, attrs), len(types), g)
        result = self.expr(types, attrs).dtype
        return self.rule(
            g, s.out(result), *(s.arg(i, t.dtype) for i, t in enumerate(types)), **attrs
        )

    def infer(self, *types: TensorType, **attrs: Any) -> TensorType:
        shape = broadcast_shapes(*(t.shape for t in types))
        if shape is None:
            given = " and ".join(str(t) for t in types)
            raise ShapeError(
                f"{self.name}: {given} do not broadcast:"
                " counted from the right, sizes must be equal or 1"
                f"{_broadcast_hint([t.shape for t in types])}"
            )
        try:
            return TensorType(self.expr(types, attrs).dtype, shape)
        except GraphTypeError as error:
            raise GraphTypeError(f"{self.name}: {error.summary.split(': ', 1)[-1]}") from None

    def nest(self, types: Sequence[TensorType], out: TensorType, **attrs: Any) -> Nest:
        index = axes(out.ndim)
        loads = [s.load(i, broadcast_index(t.shape, index), t.dtype) for i, t in enumerate(types)]
        return Nest(out.shape, s.substitute(self.expr(types, attrs), loads))

    def vjp(self, node: Node, cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        g = cotangents[0]
        if g is None or not is_differentiable(node.results[0].type.dtype):
            return [None] * len(node.operands)
        n = len(node.operands)
        types = [t.type for t in node.operands]
        pulled = self.pulled(types, node.attrs, s.arg(n, g.type.dtype))
        lift = Lifter((*node.operands, g), node.results[0])
        sum_to = FUNCTIONS["sum_to"]
        return [
            sum_to(_full(lift(e), node.results[0].shape), t.shape)
            if e is not None and is_differentiable(t.type.dtype)
            else None
            for e, t in zip(pulled, node.operands, strict=True)
        ]

    def jvp(self, node: Node, tangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        n = len(node.operands)
        out = node.results[0]
        if not is_differentiable(out.type.dtype):
            return [None]
        if any(t.type.dtype.startswith("complex") for t in (out, *node.operands)):
            return NotImplemented  # the cotangent rules conjugate
        total: Tensor | None = None
        for i, t in enumerate(tangents):
            if t is None:
                continue
            pulled = self.pulled(
                [o.type for o in node.operands], node.attrs, s.arg(n, out.type.dtype)
            )[i]
            if pulled is None:
                continue
            # The cotangent has the result's dtype; a cast in between changes that of the tangent.
            e = Lifter((*node.operands, cast(t, out.type.dtype)), out)(pulled)
            e = _full(cast(e, out.type.dtype), out.shape)
            total = e if total is None else FUNCTIONS["add"](total, e)
        return [total]

    def simplify(self, node: Node) -> Sequence[Tensor] | None:
        """Apply the rewrites of the expression constructors to whole tensors."""
        operands = node.operands
        if self.name == "negative" and operands[0].node.op is self:
            return operands[0].node.operands
        consts = [_uniform(t) for t in operands]
        if (
            all(c is None for c in consts)
            and len({id(t) for t in operands}) == len(operands)
            and self.name not in ("negative", "cast", "conj", "real")
        ):
            return None
        leaves = []
        for i, (t, c) in enumerate(zip(operands, consts, strict=True)):
            first = next(j for j, u in enumerate(operands) if u is t)
            leaves.append(
                s.const(c, t.type.dtype) if c is not None else s.arg(min(i, first), t.type.dtype)
            )
        result = s.substitute(self.expr([t.type for t in operands], node.attrs), leaves)
        out = node.results[0]
        if result.name == "arg":
            return [_full(operands[result.value], out.shape)]  # type: ignore[call-overload]
        if (
            result.name == "const"
            and len(operands) > 1
            and self.name in ("where", "logical_and", "logical_or")
        ):
            return [_full(constant(result.value, result.dtype), out.shape)]
        if result.name == "negative" and self.name == "multiply" and result.args[0].name == "arg":
            return [_full(FUNCTIONS["negative"](operands[result.args[0].value]), out.shape)]  # type: ignore[call-overload]
        return None


def _uniform(t: Tensor) -> Any:
    """The value of a constant that has the same value everywhere, else None."""
    if t.node.op is OPS.get("full_like"):
        return None
    if t.node.op is not CONSTANT:
        base = t.node
        return _uniform(base.operands[0]) if base.op.name == "broadcast_to" else None
    value = t.node.attrs["value"]
    if value.size == 0:
        return None
    first = value.flat[0]
    if value.size == 1 or (value.size <= 4096 and bool((value == first).all()) and first != 0):
        return first.item()
    return None


def _full(t: Tensor, shape: tuple[int, ...]) -> Tensor:
    return t if t.shape == shape else FUNCTIONS["broadcast_to"](t, shape)


def _broadcast_hint(shapes: Sequence[tuple[int, ...]]) -> str:
    if len(shapes) == 2 and len(shapes[0]) != len(shapes[1]):
        short, long = sorted(shapes, key=len)
        if len(short) == 1 and short[0] == long[0] and len(long) == 2:
            return "; to add one value per row, give the shorter one an axis: x[:, None]"
    return ""


class Lifter:
    """Scalar expressions to graph nodes: each primitive becomes the op of its name."""

    def __init__(self, args: Sequence[Tensor], out: Tensor | None = None):
        self.args = args
        self.out = out
        self.memo: dict[int, Tensor] = {}

    def __call__(self, root: s.Expr) -> Tensor:
        for e in s.postorder([root]):
            if id(e) not in self.memo:
                self.memo[id(e)] = self._lift(e)
        return self.memo[id(root)]

    def _lift(self, e: s.Expr) -> Tensor:
        if e.name == "arg":
            return self.args[e.value]  # type: ignore[call-overload]
        if e.name == "out":
            assert self.out is not None
            return self.out
        if e.name == "const":
            return constant(e.value, e.dtype)
        if e.name == "cast":
            return cast(self.memo[id(e.args[0])], e.dtype)
        return apply(OPS[e.name], *(self.memo[id(a)] for a in e.args))


_FLOATING = ("float1", "float2", "realfloat1", "realfloat2")


def elementwise(
    name: str,
    function: Callable[..., s.Expr],
    doc: str,
    *,
    vjp: Callable[..., Sequence[s.Expr | None]] | None = None,
    floating: bool = True,
    public_name: str | None = None,
) -> Callable[..., Tensor]:
    """Declare an elementwise op by its expression; returns the public function.

    Positional parameters of `function` are operands, keyword-only ones are attributes. `vjp(g, out,
    *operands, **attributes)` replaces the derivative that follows from the expression, to reuse the
    result instead of the operand, say.
    """
    op = add_op(Elementwise(name, function, vjp))
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def run(*xs: object, **attrs: Any) -> Tensor:
        return apply(op, *promoted(name, xs, floating=floating), **{**defaults, **attrs})

    return _public_elementwise(run, public_name or name, doc, list(parameters))


def primitive(name: str, doc: str, *, public_name: str | None = None) -> Callable[..., Tensor]:
    """Declare the op of a row of the primitive table; returns the public function."""
    prim = PRIMS[name]
    op = add_op(Elementwise(name, functools.partial(s.call, name)))
    kind = prim.kind

    def run(*xs: object) -> Tensor:
        if kind == "where":
            c = as_bool(xs[0])
            return apply(op, c, *promoted(name, xs[1:]))
        if kind in ("logical1", "logical2"):
            return apply(op, *(as_bool(x) for x in xs))
        return apply(op, *promoted(name, xs, floating=kind in _FLOATING))

    names = {1: ("x",), 2: ("x1", "x2"), 3: ("condition", "x1", "x2")}[prim.arity]
    parameters = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in names]
    return _public_elementwise(run, public_name or name, doc, parameters)


def _public_elementwise(
    run: Callable[..., Tensor], name: str, doc: str, parameters: list[inspect.Parameter]
) -> Callable[..., Tensor]:
    signature = inspect.Signature(parameters)
    known = [p.name for p in parameters]
    positional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]

    def function(*args: Any, **kwargs: Any) -> Tensor:
        given = list(args)
        for k in kwargs:
            if k not in known:
                raise GraphTypeError(f"{name}: unknown argument {k!r}; it takes {', '.join(known)}")
            if k in positional[: len(given)]:
                raise GraphTypeError(f"{name}: {k!r} is given twice")
        for p in positional[len(given) :]:
            if p in kwargs:
                given.append(kwargs.pop(p))
        if len(given) != len(positional):
            raise GraphTypeError(
                f"{name}: takes {len(positional)} operands ({', '.join(positional)}),"
                f" got {len(given)}"
            )
        return run(*given, **kwargs)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    function.__module__ = "staticgraph.ops"
    function.__signature__ = signature  # type: ignore[attr-defined]
    return public(function)
