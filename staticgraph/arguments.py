"""What users give: `compile` its inputs and updates, a call its arrays and `out=`.

All of it is checked here, before anything is planned or runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from staticgraph import tree
from staticgraph.errors import GraphTypeError, InputError, ShapeError
from staticgraph.ir import INPUT, Variable
from staticgraph.operands import as_tensor, cast, holds
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, is_integer


def check_inputs(inputs: Sequence[Tensor], needed: Sequence[Tensor]) -> list[Tensor]:
    """Inputs as given, each an input of the graph, none missing."""
    if not isinstance(inputs, (Tensor, Sequence)):
        raise InputError(f"compile: inputs= takes tensors made by sg.input, got {inputs!r}")
    given = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for t in given:
        if not isinstance(t, Tensor) or t.node.op is not INPUT:
            raise InputError(f"compile: inputs= takes tensors made by sg.input, got {t!r}")
    chosen = set(given)
    if len(chosen) != len(given):
        raise InputError("compile: inputs= names a tensor twice")
    for t in needed:
        if t not in chosen:
            raise InputError(
                f"compile: the outputs need input {t.node.attrs['name']!r},"
                " which inputs= leaves out"
            )
    return given


def check_updates(updates: Mapping[Variable, Tensor] | None) -> list[tuple[Variable, Tensor]]:
    """Updates as pairs, each of the variable's type."""
    if updates is not None and not isinstance(updates, Mapping):
        raise GraphTypeError(
            f"compile: updates= is a dict from variables to tensors, got {type(updates).__name__}"
        )
    found = []
    for v, t in (updates or {}).items():
        if not isinstance(v, Variable):
            raise GraphTypeError(f"compile: updates= maps variables to tensors, got the key {v!r}")
        t = as_tensor(t, v.spec.dtype)
        if t.shape != v.spec.shape:
            raise ShapeError(f"compile: variable {v.name!r} is {v.spec}, its update is {t.type}")
        if t.type.dtype != v.spec.dtype:
            if not np.can_cast(t.type.dtype, v.spec.dtype, "same_kind"):
                raise GraphTypeError(
                    f"compile: variable {v.name!r} is {v.spec}, its update is {t.type}"
                )
            t = cast(t, v.spec.dtype)
        found.append((v, t))
    return found


def bind(
    names: Sequence[str],
    types: Sequence[TensorType],
    arrays: Sequence[Any],
    named: Mapping[str, Any],
) -> list[Any]:
    """Arrays in the order of the inputs."""
    known = ", ".join(names) or "none"
    if len(arrays) > len(names):
        raise InputError(f"call: takes {len(names)} inputs ({known}), got {len(arrays)} arrays")
    given = dict(zip(names, arrays, strict=False))
    for name, a in named.items():
        if name not in names:
            raise InputError(f"call: there is no input {name!r}; the inputs are {known}")
        if name in given:
            raise InputError(f"call: input {name!r} is given by position and by name")
        given[name] = a
    for name, t in zip(names, types, strict=True):
        if name not in given:
            raise InputError(f"call: input {name!r} ({t}) is missing")
    return [given[n] for n in names]


def convert(name: str, t: TensorType, a: Any) -> np.ndarray:
    """An argument as a contiguous array of its input's type."""
    if isinstance(a, Tensor):
        raise InputError(
            f"call: input {name!r} needs numbers, got a tensor of the graph ({a.type})"
        )
    try:
        array = np.asarray(a)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"call: input {name!r} is {t}; cannot make an array of {type(a).__name__}: {error}"
        ) from None
    if array.dtype.kind not in "biufc":
        raise InputError(f"call: input {name!r} is {t}; got an array of dtype {array.dtype}")
    if array.shape != t.shape:
        raise InputError(f"call: input {name!r} is {t}; got shape {list(array.shape)}")
    if array.dtype != t.dtype:
        loose = not isinstance(a, (np.ndarray, np.generic))
        if loose and array.dtype.kind in "iu" and is_integer(t.dtype):
            for v in (int(array.min()), int(array.max())) if array.size else ():
                if not holds(t.dtype, v):
                    raise InputError(f"call: input {name!r} is {t}; {v} is out of range for it")
        elif not np.can_cast(array.dtype, t.dtype, "same_kind" if loose else "safe"):
            raise InputError(
                f"call: input {name!r} is {t}; {array.dtype} does not cast to {t.dtype}"
                f" without loss; convert it with .astype({t.dtype!r})"
            )
    return np.ascontiguousarray(array, t.dtype).reshape(t.shape)


def results(form: Any, outputs: Sequence[Tensor], out: Any) -> list[np.ndarray]:
    """The arrays of `out=`, checked."""
    leaves, given = tree.flatten(out)
    if given != form:
        raise InputError("call: out= must have the form of the outputs")
    for a, t in zip(leaves, outputs, strict=True):
        fits = isinstance(a, np.ndarray) and a.dtype == t.type.dtype and a.shape == t.shape
        if not (fits and a.flags.c_contiguous and a.flags.writeable):
            shown = f"{a.dtype}{list(a.shape)}" if isinstance(a, np.ndarray) else type(a).__name__
            raise InputError(
                f"call: out= needs a writable contiguous array of {t.type}, got {shown}"
            )
    spans = sorted((a.__array_interface__["data"][0], a.nbytes) for a in leaves if a.size)
    if any(at + size > after for (at, size), (after, _) in pairwise(spans)):
        raise InputError("call: out= needs arrays that share no memory with each other")
    return leaves


def apart(arrays: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The arrays, those that share memory with an output copied."""
    return [a.copy() if any(np.may_share_memory(a, o) for o in outputs) else a for a in arrays]
