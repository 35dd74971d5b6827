"""How the files of this folder document and check what they declare."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.op import primitive
from staticgraph.tensor import Tensor

_ONE = "Shapes: that of x. Dtypes: "
_BOTH = "Shapes: operands broadcast. Dtypes: "
#: what the operands of a primitive may be, by the kind of its row
_TAKES = {
    "arith": _BOTH + "numbers, promoted to one dtype.",
    "realarith": _BOTH + "real numbers, promoted to one dtype.",
    "float2": _BOTH + "floats of one dtype; integers become float32.",
    "realfloat2": _BOTH + "real floats of one dtype; integers become float32.",
    "order": _BOTH + "real numbers, promoted to one dtype.",
    "compare": _BOTH + "any, promoted to one dtype; the result is bool.",
    "logical2": _BOTH + "any, not zero counts as true; the result is bool.",
    "bit": _BOTH + "integers or bools of one dtype.",
    "shift": _BOTH + "integers of one dtype.",
    "where": _BOTH + "a condition, not zero counts as true, and two values promoted to one dtype.",
    "complex": _BOTH + "two floats of one dtype; the result is complex.",
    "unary": _ONE + "numbers.",
    "modulus": _ONE + "numbers; of complex ones the result is real.",
    "realpart": _ONE + "numbers; the result is real.",
    "float1": _ONE + "floats; integers become float32.",
    "realfloat1": _ONE + "real floats; integers become float32.",
    "real1": _ONE + "real numbers.",
    "test": _ONE + "numbers; the result is bool.",
    "realtest": _ONE + "real numbers; the result is bool.",
    "logical1": _ONE + "any; the result is bool.",
    "bit1": _ONE + "integers or bools.",
}
_REFUSES = {
    1: "Raises GraphTypeError for any other dtype.",
    2: "Raises ShapeError where shapes do not broadcast, GraphTypeError for any other dtype.",
}
_CONSTANT = "none, a constant for every derivative"


def documented(text: str, takes: str, gradient: str, operands: int, source: str) -> str:
    """The docstring of an elementwise op, in the order that all have."""
    end = f"\nSource: {source}." if source else ""
    return f"{text}\n\n{takes}\nGradient: {gradient}.\n{_REFUSES[min(operands, 2)]}{end}"


def row(
    name: str,
    text: str,
    gradient: str = _CONSTANT,
    source: str = "",
    *,
    public_name: str | None = None,
) -> Callable[..., Tensor]:
    """The op of a row of the primitive table, with its documentation."""
    prim = s.PRIMS[name]
    takes = _TAKES["compare" if text.endswith("as bool.") else prim.kind]
    doc = documented(text, takes, gradient, prim.arity, source)
    return primitive(name, doc, public_name=public_name)


def number(op: str, name: str, value: object, *, positive: bool | None = True) -> float:
    """An attribute that is a number: above 0, not below it, or (None) any."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise GraphTypeError(f"{op}: {name} is a number, got {value!r}")
    if positive is not None and not (value > 0 or (value == 0 and not positive)):
        raise ShapeError(f"{op}: {name} must be {'> 0' if positive else '>= 0'}, got {value!r}")
    return float(value)
