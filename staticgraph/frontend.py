"""What users build graphs with: leaves, tracing, and functions of functions."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
import threading
from collections.abc import Callable
from types import MethodType
from typing import Any, overload

import numpy as np

from staticgraph import tree
from staticgraph.compile import Function, compile
from staticgraph.errors import GraphTypeError, InputError, user_frame
from staticgraph.ir import INPUT, Variable, apply
from staticgraph.operands import as_tensor, numbers
from staticgraph.tensor import Tensor
from staticgraph.types import DEFAULT_FLOAT, TensorType, as_dtype, as_shape

_numbers = itertools.count()


def input(name: str, shape: object = (), dtype: object = DEFAULT_FLOAT) -> Tensor:
    """A placeholder: a named input with a static shape, float32 unless `dtype` says otherwise.

    A dtype is a name, a short name ("i64"), a NumPy dtype or a Python type.

    Raises GraphTypeError for a name that is no identifier and for an unknown dtype, ShapeError for
    a shape that holds anything but ints >= 0.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise GraphTypeError(f"input: the name must be a Python identifier, got {name!r}")
    return apply(INPUT, name=name, type=TensorType(as_dtype(dtype), as_shape(shape)))


def variable(value: object, name: str | None = None, dtype: object = None) -> Variable:
    """State that outlives a call: `.value` reads and writes it, `updates=` of compile change it.

    Python floats and lists become float32, complex numbers complex64; arrays keep their dtype and
    shape. The value is copied. As a tensor it is what the variable holds when a call begins.

    Raises GraphTypeError for what holds no numbers, and for numbers that `dtype` cannot hold.
    """
    if name is not None and not isinstance(name, str):
        raise GraphTypeError(f"variable: the name must be a string, got {name!r}")
    return Variable(numbers("variable", value, dtype), name or f"v{next(_numbers)}", user_frame())


def spec_of(value: Any) -> TensorType:
    """The type that an argument has as an input."""
    if isinstance(value, np.ndarray):
        return TensorType(value.dtype.name, value.shape)
    return as_tensor(value).type


def is_static(value: Any) -> bool:
    """Whether an argument selects what is traced instead of being an input."""
    return isinstance(value, (str, bytes, bool)) or callable(value)


class Traced:
    """A Python function compiled by tracing, once for each combination of shapes and dtypes."""

    def __init__(self, function: Callable, options: dict[str, Any]):
        functools.update_wrapper(self, function)
        self.function = function
        self.options = options
        self.signature = inspect.signature(function)
        self.compiled: dict[Any, Function] = {}
        self.lock = threading.RLock()
        self.attribute = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.attribute = name

    def __get__(self, instance: Any, owner: type | None = None) -> Traced:
        """As a method: each instance has its own compiled functions, `self` is what it is."""
        if instance is None:
            return self
        made = Traced(MethodType(self.function, instance), self.options)
        if self.attribute and hasattr(instance, "__dict__"):
            vars(instance)[self.attribute] = made  # found there before this descriptor is asked
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self._bind(args, kwargs)
        leaves, form = tree.flatten(bound.arguments)
        if any(isinstance(v, Tensor) for v in leaves):  # called while a graph is built
            return self.function(*args, **kwargs)
        key = (form, tuple([self._key(v) for v in leaves]))
        found = self.compiled.get(key)
        if found is None:
            with self.lock:
                found = self.compiled.get(key)
                if found is None:
                    types = [v if is_static(v) else spec_of(v) for v in leaves]
                    found = self.compiled[key] = self._trace(types, form)
        return found(*[v for v in leaves if not is_static(v)])

    @staticmethod
    def _key(v: Any) -> Any:
        if isinstance(v, np.ndarray):
            return (v.dtype.num, v.shape)
        return ("static", v) if is_static(v) else spec_of(v)

    def _bind(self, args: tuple, kwargs: dict[str, Any]) -> inspect.BoundArguments:
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(f"{self.function.__name__}: {error}") from None
        return bound

    def lower(self, *specs: Any, **named: Any) -> Function:
        """Compile ahead of time for arguments of these types (`sg.spec`, arrays or nestings)."""
        bound = self._bind(specs, named)
        leaves, form = tree.flatten(bound.arguments)
        types = [v if isinstance(v, TensorType) or is_static(v) else spec_of(v) for v in leaves]
        return self._trace(types, form)

    def _trace(self, types: list[Any], form: Any) -> Function:
        """Compile for arguments of these types; what is no type reaches the function as it is."""
        leaves = [
            input(name, t.shape, t.dtype) if isinstance(t, TensorType) else t
            for name, t in zip(_leaf_names(form), types, strict=True)
        ]
        inputs = [t for t in leaves if isinstance(t, Tensor)]
        arguments = tree.unflatten(form, leaves)
        bound = inspect.BoundArguments(self.signature, arguments)
        outputs = self.function(*bound.args, **bound.kwargs)
        leaves, _ = tree.flatten(outputs)
        if not leaves or not all(
            isinstance(t, (Tensor, int, float, complex, np.ndarray)) for t in leaves
        ):
            raise GraphTypeError(
                f"{self.function.__name__}: must return tensors, returned {type(outputs).__name__}"
            )
        return compile(outputs, inputs, **self.options)


def _leaf_names(form: Any) -> list[str]:
    """A name for each leaf of the arguments: the parameter's, with the path below it."""
    names: list[str] = []

    def walk(f: Any, path: str) -> None:
        if f is None:
            return
        if isinstance(f, str):
            names.append(path)
            return
        kind, parts = f
        if kind is dict:
            for k, p in parts:
                walk(p, f"{path}_{k}" if path else str(k))
        else:
            for k, p in enumerate(parts):
                walk(p, f"{path}_{k}")

    walk(form, "")
    return _distinct(names)


def _distinct(names: list[str]) -> list[str]:
    """Identifiers, each once, of paths that may hold any key of a dict."""
    found: dict[str, None] = {}
    for name in names:
        name = re.sub(r"\W", "_", name)
        while name in found:
            name += "_"
        found[name] = None
    return list(found)


@overload
def function(f: Callable) -> Traced: ...
@overload
def function(**options: Any) -> Callable[[Callable], Traced]: ...
def function(f: Any = None, **options: Any) -> Any:
    """Decorator: define a graph by tracing a Python function.

    Each call with new shapes or dtypes traces and compiles once; `f.lower(*specs)` does so ahead
    of time. Arguments that are texts, bools or functions, and defaults that a call leaves out,
    reach the function as they are. Options are those of `compile`.

    Raises GraphTypeError where what is decorated is no function or returns no tensors; a call
    raises InputError for arguments that do not fit the signature.
    """
    if f is None:
        return lambda g: Traced(g, options)
    if not callable(f):
        raise GraphTypeError(f"function: needs a Python function, got {type(f).__name__}")
    return Traced(f, options)
