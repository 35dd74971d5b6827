"""Every op and every public function of `ops/`, by name: entered at import, once.

What stands before `ops/` (operators of a tensor, rules of a derivative) finds them here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from staticgraph.errors import InternalError

if TYPE_CHECKING:
    from staticgraph.ir import Op

F = TypeVar("F", bound=Callable[..., Any])

#: every op by name
OPS: dict[str, Op] = {}
#: public functions of ops/, by name
FUNCTIONS: dict[str, Callable] = {}


def add_op(op: Op) -> Op:
    """Enter an op under its name."""
    if op.name in OPS:
        raise InternalError(f"op {op.name!r} is declared twice")
    OPS[op.name] = op
    return op


def register(cls: type[Op]) -> Op:
    """Class decorator: make the one instance of an op and enter it in OPS."""
    return add_op(cls())


def public(function: F) -> F:
    """Enter a function of ops/ under its name, for the operators and methods of Tensor."""
    if function.__name__ in FUNCTIONS:
        raise InternalError(f"function {function.__name__!r} is declared twice")
    FUNCTIONS[function.__name__] = function
    return function
