"""What an operation in kernel source means: asked of Numba, with nothing needless loaded.

Numba knows the operators (those on vectors are registered with it) and the intrinsics. Each
question (this function, these operand types) is put once per process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core import imputils, types
from numba.core.errors import NumbaError
from numba.core.extending import _Intrinsic as Intrinsic
from numba.core.typing import builtins as _typing_of_numbers  # noqa: F401 (registers itself)
from numba.core.typing import templates
from numba.core.typing.context import BaseContext
from numba.cpython import builtins as _bools  # noqa: F401 (registers itself)
from numba.cpython import numbers as _numbers  # noqa: F401 (registers itself)


class Unsupported(Exception):
    """Source beyond the language; Numba may still know what to do."""


class _Typing(BaseContext):
    """Numba's typing of operators on numbers and on types registered with `infer_global`.

    Attributes stay out: they pull in Numba's arrays, strings, containers and scipy.linalg, which
    takes as long as importing Numba itself, and no kernel has any.
    """

    _operators = templates.Registry()
    _operators.functions = templates.builtin_registry.functions
    _operators.globals = templates.builtin_registry.globals

    def _load_builtins(self) -> None:
        self.install_registry(self._operators)


class Meanings:
    """What functions and operators mean for given types: Numba's answers, each asked for once.

    Numba tries every overload of an operator each time it is asked: half a millisecond for one that
    NumPy, datetimes and strings have extended.
    """

    def __init__(self, context: Any):
        self.typing = _Typing()
        self.context = context
        self._known: dict[tuple, tuple] = {}

    def find(self, function: Any, given: tuple[types.Type, ...]) -> tuple[Any, Callable]:
        """Signature, and the emitter of LLVM code from builder and operands."""
        question = (id(function), given)
        known = self._known.get(question)
        if known is None:
            known = self._known[question] = (function, *self._ask(function, given))
        return known[1:]

    def _ask(self, function: Any, given: tuple[types.Type, ...]) -> tuple[Any, Callable]:
        try:
            if isinstance(function, Intrinsic):
                return self._ask_intrinsic(function, given)
            self.typing.refresh()
            kind = self.typing.resolve_value_type(function)
            signature = self.typing.resolve_function_type(kind, given, {})
            self.context.install_registry(imputils.builtin_registry)
            emit = signature and self.context.get_function(kind, signature)
        except (NumbaError, NotImplementedError) as error:
            raise Unsupported(str(error)) from None
        if emit is None or len(signature.args) != len(given):
            raise Unsupported(f"{getattr(function, '__name__', function)} of {given}")
        return signature, emit

    def _ask_intrinsic(self, function: Any, given: tuple) -> tuple[Any, Callable]:
        """An intrinsic tells itself; by way of Numba's registries it would load all of them."""
        answer = function._defn(self.typing, *given)
        if answer is None:
            raise Unsupported(f"{function} of {given}")
        signature, generate = answer
        return signature, lambda builder, args: generate(self.context, builder, signature, args)
