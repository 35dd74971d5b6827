"""Calls of LAPACK and BLAS for generated kernels: `lapack_dgetrf(m, n, a, lda, ...)` and the like.

Arguments are addresses, also those of numbers and letters, as in Fortran. What is here declares
external symbols; `staticgraph.lapack` knows where they are.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

#: parameters of each routine, for real and for complex matrices
ARITY = {
    "getrf": (6, 6),
    "getri": (7, 7),
    "potrf": (5, 5),
    "trsm": (11, 11),
    "gemm": (13, 13),
    "laswp": (7, 7),
    "gelqf": (8, 8),
    "orglq": (9, None),
    "unglq": (None, 9),
    "syevd": (11, None),
    "heevd": (None, 13),
    "gesdd": (14, 15),
}
NAMESPACE: dict[str, Any] = {}


def _define(name: str, arity: int) -> None:
    signature = types.void(*[types.int64] * arity)
    word = ir.IntType(64)

    def emit(context, b, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [word] * arity)
        function = b.module.globals.get(name) or ir.Function(b.module, kind, name)
        b.call(function, args)
        return context.get_dummy_value()

    parameters = ", ".join(f"a{k}" for k in range(arity))
    scope = {"rule": (signature, emit)}
    exec(f"def {name}(typing_context, {parameters}):\n    return rule", scope)
    NAMESPACE[name] = intrinsic(scope[name])


for _routine, _arities in ARITY.items():
    for _letters, _arity in zip(("sd", "cz"), _arities, strict=True):
        for _letter in _letters if _arity else ():
            _define(f"lapack_{_letter}{_routine}", _arity)
globals().update(NAMESPACE)
__all__ = list(NAMESPACE)
