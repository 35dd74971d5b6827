# ruff: noqa: F405  the names of __all__ are those of public.py
"""staticgraph: build a static graph, differentiate it, compile it, run it.

`public.py` says where each name comes from. It is loaded at the first use of one of them, so that
the command line answers `--help`, completes words and prints saved profiles without NumPy and LLVM.
"""

import importlib
import sys
import typing
from types import ModuleType as _ModuleType  # `types` is a file of this package

if typing.TYPE_CHECKING:
    from staticgraph.public import *  # noqa: F403

__all__ = [
    "BudgetError",
    "Finding",
    "Function",
    "GradientError",
    "Graph",
    "GraphTypeError",
    "InputError",
    "InternalError",
    "Note",
    "NumericError",
    "ParseError",
    "Pass",
    "Pipeline",
    "ShapeError",
    "StaticGraphError",
    "TargetError",
    "Tensor",
    "TensorType",
    "Variable",
    "check_grad",
    "checkpoint",
    "compile",
    "cond",
    "constant",
    "custom_gradient",
    "function",
    "grad",
    "graph_pass",
    "hessian",
    "hvp",
    "in_bodies",
    "input",
    "jacobian",
    "jvp",
    "load",
    "ops",
    "optim",
    "parse",
    "passes",
    "random",
    "spec",
    "stop_gradient",
    "threads",
    "variable",
    "vjp",
]

#: files named like the function in them; importing one must not hide the function
_NAMESAKES = ("checkpoint", "compile", "threads")


class _Package(_ModuleType):
    """The package before its first use; afterwards it is an ordinary module."""

    def __getattr__(self, name: str) -> typing.Any:
        if name in __all__:
            public = importlib.import_module("staticgraph.public")
            vars(self).update({n: getattr(public, n) for n in __all__})
            self.__class__ = _ModuleType
            return vars(self)[name]
        if not name.startswith("_"):
            try:
                return importlib.import_module(f"staticgraph.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"staticgraph.{name}":
                    raise
        raise AttributeError(f"module 'staticgraph' has no attribute {name!r}")

    def __setattr__(self, name: str, value: typing.Any) -> None:
        if name not in _NAMESAKES:
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *__all__})


sys.modules[__name__].__class__ = _Package
