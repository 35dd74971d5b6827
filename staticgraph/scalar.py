"""Scalar expressions as data.

An `Expr` is a hash-consed tree: equal expressions are one object. Leaves are `arg` (an operand's
element), `out` (the op's own result, in derivative rules), `const`, `axis` (a loop index) and
`load` (an operand's element at index expressions). NumPy, Numba and CUDA print or evaluate the
same trees; derivatives are trees too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np

from staticgraph.errors import GraphTypeError, InternalError
from staticgraph.types import (
    complex_of,
    is_bool,
    is_complex,
    is_float,
    is_integer,
    real_of,
)

_INTERNED: WeakValueDictionary[tuple, Expr] = WeakValueDictionary()


class Expr:
    """One scalar expression; build it with the functions of this module, never directly."""

    __slots__ = ("__weakref__", "args", "dtype", "key", "name", "value")

    name: str
    args: tuple[Expr, ...]
    dtype: str
    value: object

    def __add__(self, other):
        return call("add", self, other)

    def __radd__(self, other):
        return call("add", other, self)

    def __sub__(self, other):
        return call("subtract", self, other)

    def __rsub__(self, other):
        return call("subtract", other, self)

    def __mul__(self, other):
        return call("multiply", self, other)

    def __rmul__(self, other):
        return call("multiply", other, self)

    def __truediv__(self, other):
        return call("divide", self, other)

    def __rtruediv__(self, other):
        return call("divide", other, self)

    def __floordiv__(self, other):
        return call("floor_divide", self, other)

    def __mod__(self, other):
        return call("remainder", self, other)

    def __neg__(self):
        return call("negative", self)

    def __lt__(self, other):
        return call("less", self, other)

    def __le__(self, other):
        return call("less_equal", self, other)

    def __gt__(self, other):
        return call("greater", self, other)

    def __ge__(self, other):
        return call("greater_equal", self, other)

    def __and__(self, other):
        return call("bitwise_and", self, other)

    def __or__(self, other):
        return call("bitwise_or", self, other)

    def __xor__(self, other):
        return call("bitwise_xor", self, other)

    def __lshift__(self, other):
        return call("left_shift", self, other)

    def __rshift__(self, other):
        return call("right_shift", self, other)

    def __invert__(self):
        return call("bitwise_invert", self)

    def __repr__(self) -> str:
        return show(self)

    def __reduce__(self):
        return _intern, (self.name, self.args, self.dtype, self.value)


def _intern(name: str, args: tuple[Expr, ...], dtype: str, value: object = None) -> Expr:
    # repr keeps -0.0 apart from 0.0 and makes nan equal to itself.
    key = (name, dtype, repr(value), *map(id, args))
    found = _INTERNED.get(key)
    if found is None:
        found = object.__new__(Expr)
        found.name, found.args, found.dtype, found.value, found.key = name, args, dtype, value, key
        _INTERNED[key] = found
    return found


# ---------------------------------------------------------------------------- leaves


def arg(i: int, dtype: str) -> Expr:
    """The element of operand `i`."""
    return _intern("arg", (), dtype, i)


def out(dtype: str) -> Expr:
    """The op's own result, for derivative rules that reuse it."""
    return _intern("out", (), dtype)


def const(value: object, dtype: str) -> Expr:
    """A literal of a dtype."""
    kind = (
        bool
        if is_bool(dtype)
        else int
        if is_integer(dtype)
        else complex
        if is_complex(dtype)
        else float
    )
    try:
        value = kind(value)  # type: ignore[arg-type]
    except (OverflowError, ValueError):
        raise GraphTypeError(f"const: {value!r} is no {dtype}") from None
    if dtype == "float32" and math.isfinite(value):
        value = (
            float(np.float32(value))
            if abs(value) <= 3.4028235677973366e38
            else math.copysign(math.inf, value)
        )
    return _intern("const", (), dtype, value)


def axis(k: int) -> Expr:
    """Loop index `k`, an int64 that starts at 0."""
    return _intern("axis", (), "int64", k)


def load(
    operand: int,
    index: Sequence[Expr | int],
    dtype: str,
    guard: Expr | None = None,
    fill: object = 0,
) -> Expr:
    """Element of `operand` at the index; `fill` where `guard` is false, without touching memory."""
    items = tuple(const(i, "int64") if isinstance(i, int) else i for i in index)
    if guard is None:
        return _intern("load", items, dtype, (operand,))
    if guard.name == "const":
        return load(operand, items, dtype) if guard.value else const(fill, dtype)
    return _intern("load", (*items, guard), dtype, (operand, fill))


def is_guarded(e: Expr) -> bool:
    return e.name == "load" and len(e.value) == 2  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- primitives


@dataclass(frozen=True, slots=True)
class Prim:
    """One scalar primitive: a row of the table in `primitives`."""

    name: str
    kind: str  # type rule, see result_dtype
    numpy: Callable
    cpu: str  # infix operator or function of codegen.vector
    cuda: (
        str  # for numba.cuda: operands {0} {1} {2}, code {t} of their dtype, functions of cudamath
    )
    vjp: Callable | None  # (g, out, *args) -> cotangent per argument; None: constant
    exact: bool  # IEEE leaves one possible result, so folding at compile time keeps the bits

    @property
    def arity(self) -> int:
        return _ARITY[self.kind]


#: every primitive by name; `primitives` fills it
PRIMS: dict[str, Prim] = {}

_ARITY = {
    "arith": 2, "realarith": 2, "float2": 2, "realfloat2": 2, "compare": 2, "order": 2,
    "logical2": 2, "bit": 2, "shift": 2, "complex": 2,
    "unary": 1, "float1": 1, "realfloat1": 1, "real1": 1, "test": 1, "realtest": 1, "logical1": 1,
    "bit1": 1, "cast": 1, "modulus": 1, "realpart": 1,
    "where": 3, "fma": 3,
}  # fmt: skip


def result_dtype(kind: str, name: str, dtypes: Sequence[str]) -> str:
    """Type rule of a primitive; raises GraphTypeError with what it takes."""

    def need(ok: bool, what: str) -> None:
        if not ok:
            raise GraphTypeError(f"{name}: needs {what}, got {', '.join(dtypes)}")

    same = len(set(dtypes[1:] if kind == "where" else dtypes)) == 1
    first = dtypes[-1]
    if kind in ("arith", "unary"):
        need(same and not is_bool(first), "numbers of one dtype")
        return first
    if kind == "realarith":
        need(same and not is_bool(first) and not is_complex(first), "real numbers of one dtype")
        return first
    if kind in ("realfloat1", "realfloat2"):
        need(same and is_float(first), "real floats of one dtype")
        return first
    if kind in ("float1", "float2"):
        need(same and (is_float(first) or is_complex(first)), "floats of one dtype")
        return first
    if kind == "real1":
        need(not is_complex(first) and not is_bool(first), "real numbers")
        return first
    if kind == "compare":
        need(same, "operands of one dtype")
        return "bool"
    if kind == "order":
        need(same and not is_complex(first), "real operands of one dtype")
        return "bool" if name in ("less", "less_equal", "greater", "greater_equal") else first
    if kind in ("test", "realtest"):
        need(not is_bool(first), "numbers")
        need(kind == "test" or not is_complex(first), "real numbers")
        return "bool"
    if kind in ("logical1", "logical2"):
        need(same and is_bool(first), "bools")
        return "bool"
    if kind in ("bit", "bit1"):
        need(same and (is_bool(first) or is_integer(first)), "integers or bools of one dtype")
        return first
    if kind == "shift":
        need(same and is_integer(first), "integers of one dtype")
        return first
    if kind == "where":
        need(same and is_bool(dtypes[0]), "a bool condition and two values of one dtype")
        return first
    if kind in ("modulus", "realpart"):
        need(not is_bool(first), "numbers")
        return real_of(first)
    if kind == "complex":
        need(same and is_float(first), "two floats of one dtype")
        return complex_of(first)
    raise InternalError(f"{name}: no type rule {kind!r}")


def call(name: str, *args: Expr | bool | int | float | complex, dtype: str | None = None) -> Expr:
    """Apply a primitive; Python literals take the dtype of the expressions beside them."""
    if name == "cast":
        return cast(args[0], dtype)  # type: ignore[arg-type]
    near = next((a.dtype for a in reversed(args) if isinstance(a, Expr)), None)
    if near is None:
        raise InternalError(f"{name}: a primitive needs at least one expression")
    if name == "where" and not isinstance(args[1], Expr) and not isinstance(args[2], Expr):
        raise InternalError("where: give one of the two values a dtype")
    items = tuple(a if isinstance(a, Expr) else const(a, near) for a in args)
    prim = PRIMS[name]
    result = result_dtype(prim.kind, name, [a.dtype for a in items])
    return _simplify(name, items, result) or _intern(name, items, result)


def cast(e: Expr, dtype: str) -> Expr:
    """The expression in another dtype, as NumPy's astype."""
    if e.dtype == dtype:
        return e
    whole = is_integer(e.dtype) or is_bool(e.dtype)
    exact = whole or (is_float(e.dtype) and (is_float(dtype) or is_complex(dtype)))
    if e.name == "const" and exact:
        return const(np.array(e.value, e.dtype).astype(dtype).item(), dtype)
    return _intern("cast", (e,), dtype)


def where(c: Expr, x, y) -> Expr:
    return call("where", c, x, y)


def _is_const(e: Expr, value: object) -> bool:
    return e.name == "const" and e.value == value and not is_bool(e.dtype)


def _simplify(name: str, args: tuple[Expr, ...], dtype: str) -> Expr | None:
    """Rewrites that keep every result, inf and nan included (a zero may lose its sign)."""
    if name == "add":
        x, y = args
        if _is_const(y, 0):
            return x
        if _is_const(x, 0):
            return y
        if is_integer(dtype) and x.name == y.name == "const":
            return const(int(np.array(x.value + y.value).astype(dtype)), dtype)
    elif name == "subtract":
        if _is_const(args[1], 0):
            return args[0]
    elif name == "multiply":
        x, y = args
        if _is_const(y, 1):
            return x
        if _is_const(x, 1):
            return y
        if is_integer(dtype):
            if _is_const(x, 0) or _is_const(y, 0):
                return const(0, dtype)
            if x.name == y.name == "const" and abs(x.value * y.value) < 2**31:
                return const(x.value * y.value, dtype)
        if _is_const(x, -1):
            return call("negative", y)
        if _is_const(y, -1):
            return call("negative", x)
    elif name == "divide":
        if _is_const(args[1], 1):
            return args[0]
    elif name == "negative":
        if args[0].name == "negative":
            return args[0].args[0]
        if args[0].name == "const" and not is_complex(dtype) and is_float(dtype):
            return const(-args[0].value, dtype)
    elif name in ("conj", "real") and not is_complex(args[0].dtype):
        return args[0]
    elif name == "where":
        if args[0].name == "const":
            return args[1] if args[0].value else args[2]
        if args[1] is args[2]:
            return args[1]
    elif name == "logical_and":
        for x, y in (args, args[::-1]):
            if x.name == "const":
                return y if x.value else x
        if args[0] is args[1]:
            return args[0]
    elif is_integer(dtype) and name == "floor_divide" and _is_const(args[1], 1):
        return args[0]
    return None


def conj(e: Expr) -> Expr:
    """Complex conjugate; nothing for a real expression."""
    return call("conj", e) if is_complex(e.dtype) else e


# ---------------------------------------------------------------------------- walking


def postorder(roots: Sequence[Expr]) -> list[Expr]:
    """Every sub-expression once, operands first."""
    seen: set[int] = set()
    order: list[Expr] = []
    stack = [(r, False) for r in reversed(roots)]
    while stack:
        e, done = stack.pop()
        if done:
            order.append(e)
        elif id(e) not in seen:
            seen.add(id(e))
            stack.append((e, True))
            stack.extend((a, False) for a in reversed(e.args) if id(a) not in seen)
    return order


def transform(root: Expr, leaf: Callable[[Expr], Expr | None]) -> Expr:
    """Rebuild the tree with `leaf(e)` in place of each expression for which it is not None."""
    memo: dict[int, Expr] = {}
    for e in postorder([root]):
        new = leaf(e)
        if new is None:
            args = tuple(memo[id(a)] for a in e.args)
            new = e if all(a is b for a, b in zip(args, e.args, strict=True)) else rebuild(e, args)
        memo[id(e)] = new
    return memo[id(root)]


def rebuild(e: Expr, args: tuple[Expr, ...]) -> Expr:
    """The same operation on other arguments, simplified again."""
    if e.name == "load":
        if is_guarded(e):
            return load(e.value[0], args[:-1], e.dtype, args[-1], e.value[1])  # type: ignore[index]
        return load(e.value[0], args, e.dtype)  # type: ignore[index]
    if e.name == "cast":
        return cast(args[0], e.dtype)
    return call(e.name, *args)


def substitute(root: Expr, args: Sequence[Expr]) -> Expr:
    """Replace `arg` leaves by expressions."""
    return transform(root, lambda e: args[e.value] if e.name == "arg" else None)  # type: ignore[index]


def vjp(root: Expr, n_args: int, g: Expr) -> list[Expr | None]:
    """Cotangents of the `arg` leaves for cotangent `g` of `root`: reverse mode on the tree.

    Every elementwise Jacobian is diagonal, so the same expressions with a tangent for `g` are the
    contributions to a JVP.
    """
    order = postorder([root])
    adjoint: dict[int, Expr] = {id(root): g}
    result: list[Expr | None] = [None] * n_args
    for e in reversed(order):
        ge = adjoint.get(id(e))
        if ge is None:
            continue
        if e.name == "arg":
            result[e.value] = ge  # type: ignore[index]
        elif e.name == "cast":
            _accumulate(adjoint, e.args[0], _cast_cotangent(ge, e.args[0].dtype))
        elif e.name in PRIMS and PRIMS[e.name].vjp is not None:
            rule = PRIMS[e.name].vjp
            o = out(e.dtype) if e is root else e
            for a, ga in zip(e.args, rule(ge, o, *e.args), strict=True):  # type: ignore[misc]
                _accumulate(adjoint, a, ga)
    return result


def _cast_cotangent(g: Expr, dtype: str) -> Expr | None:
    if not (is_float(dtype) or is_complex(dtype)):
        return None
    if is_complex(g.dtype) and not is_complex(dtype):
        g = call("real", g)
    return cast(g, dtype)


def _accumulate(adjoint: dict[int, Expr], e: Expr, g: Expr | None) -> None:
    if g is None or e.name == "const" or not (is_float(e.dtype) or is_complex(e.dtype)):
        return
    if is_complex(g.dtype) and not is_complex(e.dtype):
        g = call("real", g)
    old = adjoint.get(id(e))
    adjoint[id(e)] = g if old is None else old + g


def show(e: Expr) -> str:
    """One line, for messages and the text form."""
    if e.name in ("arg", "axis"):
        return f"{e.name[0]}{e.value}"
    if e.name == "out":
        return "out"
    if e.name == "const":
        return repr(e.value)
    if e.name == "load":
        return f"load{e.value[0]}[{', '.join(map(show, e.args))}]"  # type: ignore[index]
    if e.name == "cast":
        return f"{e.dtype}({show(e.args[0])})"
    return f"{e.name}({', '.join(map(show, e.args))})"
