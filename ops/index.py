"""Elements at indices: x[...], take, gather, embedding, one_hot, and the scatters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply, constant_of
from staticgraph.operands import cast, constant, normalize_axis, promoted, tensor_argument
from staticgraph.ops.create import iota
from staticgraph.ops.gather import (
    CHECK_INDEX,
    KNOWN,
    PYTHON,
    STRICT,
    Gather,
    LastWriter,
    ScatterAdd,
)
from staticgraph.ops.shape import broadcast_to, reshape
from staticgraph.ops.slices import flip, slice_
from staticgraph.registry import FUNCTIONS, public
from staticgraph.tensor import Tensor
from staticgraph.types import as_dtype, as_shape, broadcast_shapes, is_bool, is_integer


def _numbers(op: str, indices: object) -> np.ndarray | None:
    """The index numbers known while building, or None for a run-time tensor."""
    value = constant_of(indices) if isinstance(indices, Tensor) else np.asarray(indices)
    kind = indices.type if isinstance(indices, Tensor) else f"an array of {value.dtype}"
    if isinstance(indices, Tensor) and not is_integer(indices.type.dtype):
        raise GraphTypeError(f"{op}: indices are integers, got {kind}")
    if value is not None and value.size == 0 and not isinstance(indices, (Tensor, np.ndarray)):
        return value.astype(np.int64)
    if value is not None and value.dtype.kind not in "iu":
        raise GraphTypeError(f"{op}: indices are integers, got {kind}")
    return value


def _bounded(op: str, value: np.ndarray, n: int, what: str, *, negative: bool) -> np.ndarray:
    """Known indices as int64 in 0..n-1."""
    wrong = (value >= n) | (value < (-n if negative else 0))
    if wrong.any():
        low = -n if negative else 0
        raise ShapeError(f"{op}: index {value[wrong].flat[0]} is outside {low}..{n - 1}, {what}")
    return np.where(value < 0, value + n, value).astype(np.int64)


def index_operand(
    op: str, indices: object, n: int, what: str, *, negative: bool = True
) -> tuple[Tensor, str]:
    """Indices into an axis of size n as an operand of gather, and its mode."""
    value = _numbers(op, indices)
    if value is not None:
        return constant(_bounded(op, value, n, what, negative=negative)), KNOWN
    wide = indices.type.dtype in ("int32", "int64")  # type: ignore[union-attr]
    return indices if wide else cast(indices, "int64"), PYTHON if negative else STRICT


def checked_index(op: str, indices: object, n: int, what: str) -> Tensor:
    """Integers that must lie in 0..n-1: tested now where they are known, else when it runs."""
    value = _numbers(op, indices)
    if value is not None:
        return constant(_bounded(op, value, n, what, negative=False))
    wide = indices.type.dtype in ("int32", "int64")  # type: ignore[union-attr]
    return apply(CHECK_INDEX, indices if wide else cast(indices, "int64"), size=n)


def _layout(rank: int, picked: Sequence[int], at: int, block: int) -> dict[str, tuple[int, ...]]:
    """Attributes of a gather that replaces the axes `picked` by `block` axes at place `at`."""
    source, kept = [], 0
    for a in range(rank):
        if a in picked:
            source.append(~picked.index(a))
        else:
            source.append(kept if kept < at else kept + block)
            kept += 1
    return {"source": tuple(source), "index_axes": tuple(range(at, at + block))}


def _pick(x: Tensor, indices: Mapping[int, tuple[Tensor, str]], at: int) -> Tensor:
    """x at the indices of some axes, which give way to the indices' own axes at place `at`."""
    operands = [t for t, _ in indices.values()]
    block = broadcast_shapes(*(t.shape for t in operands))
    if block is None:
        given = " and ".join(str(t.type) for t in operands)
        raise ShapeError(f"index: the indices {given} do not broadcast against each other")
    modes = {mode for _, mode in indices.values()}
    mode = next(m for m in (PYTHON, STRICT, KNOWN) if m in modes)
    layout = _layout(x.ndim, list(indices), at, len(block))
    return apply(Gather, x, *operands, mode=mode, **layout)


# ---------------------------------------------------------------------------- x[...]


@public
def index(x: object, key: object) -> Tensor:
    """x[key] by NumPy's rules: ints, slices, `...`, None, integer arrays and tensors, bool arrays.

    Ints and integer arrays must be in range. The number of true elements of a bool array gives the
    shape, so it must be known while building. Gradient: added up at the places read.
    Any dtype; raises GraphTypeError for indices that are no integers, ShapeError for known ones
    out of range, NumericError for others when it runs.
    """
    t = tensor_argument("index", x)
    items = _expand(t, list(key) if isinstance(key, tuple) else [key])
    start, size, step = [], [], []
    picks: dict[int, tuple[Tensor, str]] = {}  # axis after slicing: index operand and mode
    places: list[str] = []  # what each item is: "new", "dots", "kept", "int" or "pick"
    dropped, axis = [], 0
    for item in items:
        if item is None or item is Ellipsis:
            places.append("new" if item is None else "dots")
            continue
        n, first, count, stride = t.shape[axis], 0, t.shape[axis], 1
        where = f"axis {axis} of {t.type}"
        if isinstance(item, slice):
            first, count, stride = _slice(item, n, where)
            places.append("kept")
        elif isinstance(item, (int, np.integer)):
            first = int(_bounded("index", np.asarray(item), n, where, negative=True))
            count = 1
            dropped.append(axis)
            places.append("int")
        else:
            picks[axis - len(dropped)] = index_operand("index", item, n, where)
            places.append("pick")
        start.append(first)
        size.append(count)
        step.append(stride)
        axis += 1
    t = _window(t, start, size, step)
    t = reshape(t, tuple(n for a, n in enumerate(t.shape) if a not in dropped))
    return _finish(t, picks, places)


def _finish(t: Tensor, picks: Mapping[int, tuple[Tensor, str]], places: Sequence[str]) -> Tensor:
    """Read at the index operands, and put new axes of size 1 where None asked for them.

    Beside index arrays, ints count as such: their common result stands where the first of them
    stood, or in front if something else stands between two of them.
    """
    advanced = [k for k, p in enumerate(places) if p in ("int", "pick")] if picks else []
    front = bool(advanced) and advanced[-1] - advanced[0] + 1 != len(advanced)
    before = places[: advanced[0]] if advanced and not front else []
    if picks:
        rank = t.ndim
        t = _pick(t, picks, before.count("kept"))
        block = ["block"] * (t.ndim - rank + len(picks))
        rest = [p for k, p in enumerate(places) if k >= len(before) and k not in advanced]
        places = [*before, *block, *rest]
    shape, sizes = [], iter(t.shape)
    for p in places:
        if p not in ("int", "dots"):
            shape.append(1 if p == "new" else next(sizes))
    return reshape(t, tuple(shape))


def _expand(t: Tensor, items: list[object]) -> list[object]:
    """One item per axis or new axis, `...` before its axes, bool arrays as their true places."""
    items = [_item(t, i) for i in items]
    masks = [(k, i) for k, i in enumerate(items) if isinstance(i, np.ndarray)]
    width = {k: i.ndim for k, i in masks if i.dtype == bool}
    used = sum(width.get(k, 1) for k, i in enumerate(items) if i is not None and i is not Ellipsis)
    if used > t.ndim:
        raise ShapeError(f"index: {used} indices for the {t.ndim} axes of {t.type}")
    dots = [k for k, i in enumerate(items) if i is Ellipsis]
    if len(dots) > 1:
        raise ShapeError("index: only one ... may stand in an index")
    found: list[object] = []
    axis = 0
    for k, item in enumerate(items):
        if item is Ellipsis:
            # NumPy: ... stands between index arrays even where it covers no axis.
            found.extend([Ellipsis, *[slice(None)] * (t.ndim - used)])
            axis += t.ndim - used
        elif k in width:
            mask = np.asarray(item)
            if mask.shape != t.shape[axis : axis + mask.ndim]:
                raise ShapeError(
                    f"index: a bool array of shape {mask.shape} cannot select from axes"
                    f" {axis}..{axis + mask.ndim - 1} of {t.type}"
                )
            found.extend(np.nonzero(mask))
            axis += mask.ndim
        else:
            found.append(item)
            axis += item is not None
    return found if dots else [*found, *[slice(None)] * (t.ndim - used)]


def _item(t: Tensor, item: object) -> object:
    """One part of a key: None, ..., a slice, an int, an array or a run-time tensor."""
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    if isinstance(item, Tensor) and constant_of(item) is None:
        if is_bool(item.type.dtype):
            raise GraphTypeError(
                f"index: a bool tensor ({item.type}) selects a number of elements that is not known"
                " while the graph is built; use sg.ops.where(mask, x, 0), or a NumPy bool array"
            )
        return item
    if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
        return int(item)
    try:
        value = constant_of(item) if isinstance(item, Tensor) else np.asarray(item)
    except ValueError:
        value = None
    if value is None or value.dtype.kind not in "biuf" or (value.dtype == bool and not value.ndim):
        raise GraphTypeError(
            f"index: {item!r} is no index of {t.type}; an index is an int, a slice, ..., None, or"
            " an array or tensor of ints"
        )
    if value.size == 0 and not isinstance(item, (Tensor, np.ndarray)):
        return value.astype(np.int64)  # NumPy makes floats of []
    return value


def _slice(item: slice, n: int, where: str) -> tuple[int, int, int]:
    """First index, number of indices and step."""
    if any(isinstance(b, Tensor) for b in (item.start, item.stop, item.step)):
        raise GraphTypeError(
            f"index: the bounds of a slice are ints known while the graph is built ({where});"
            " use sg.ops.take(x, start + arange) for a window that moves at run time"
        )
    try:
        first, stop, step = item.indices(n)
    except (TypeError, ValueError) as error:
        raise GraphTypeError(f"index: {item} of {where}: {error}") from None
    count = len(range(first, stop, step))
    return (first, count, step if count > 1 else 1) if count else (0, 0, 1)


def _window(t: Tensor, start: list[int], size: list[int], step: list[int]) -> Tensor:
    """A strided window; axes that only change their direction are flipped."""
    turned = [a for a, n in enumerate(t.shape) if step[a] == -1 and size[a] == n]
    for a in turned:
        start[a], step[a] = 0, 1
    t = slice_(t, start, size, step)
    return flip(t, tuple(turned)) if turned else t


# ---------------------------------------------------------------------------- reading


@public
def take(x: object, indices: object, axis: int | None = None) -> Tensor:
    """Elements of x at `indices` along an axis, or of all elements in row-major order.

    Negative indices count from the end. The axis gives way to the axes of `indices`. Gradient:
    added up at the places read. Catalogue 3.1, 8.
    Any dtype; raises GraphTypeError for indices that are no integers, ShapeError for known ones
    out of range, NumericError for others when it runs.
    """
    t = tensor_argument("take", x)
    if axis is None:
        t, axis = reshape(t, (t.size,)), 0
    a = normalize_axis("take", axis, t.ndim)
    picked = index_operand("take", indices, t.shape[a], f"axis {a} of {t.type}")
    return _pick(t, {a: picked}, a)


def take_known(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Elements of x at indices that are in range by the way they were made: nothing is tested."""
    return _pick(x, {axis: (indices, KNOWN)}, axis)


def _along(op: str, x: Tensor, indices: object, axis: int) -> tuple[Tensor, Tensor, dict]:
    """x, index operand and attributes where indices run along with all other axes of x."""
    a = normalize_axis(op, axis, x.ndim)
    index, mode = index_operand(op, indices, x.shape[a], f"axis {a} of {x.type}")
    if index.ndim != x.ndim:
        raise ShapeError(f"{op}: indices need one axis for each of {x.type}, got {index.type}")
    off = [tuple(1 if k == a else n for k, n in enumerate(t.shape)) for t in (x, index)]
    shape = broadcast_shapes(*off)
    if shape is None:
        raise ShapeError(f"{op}: indices {index.type} do not fit {x.type} off axis {a}")
    x = broadcast_to(x, tuple(x.shape[k] if k == a else n for k, n in enumerate(shape)))
    source = tuple(~0 if k == a else k for k in range(x.ndim))
    return x, index, {"source": source, "index_axes": tuple(range(x.ndim)), "mode": mode}


@public
def gather(x: object, indices: object, axis: int = -1) -> Tensor:
    """result[i, j, k] = x[i, indices[i, j, k], k] for axis 1: `take_along_axis` of NumPy.

    Other axes broadcast; negative indices count from the end. Gradient: `scatter_add`. Catalogue 8.
    Any dtype; raises GraphTypeError for indices that are no integers, ShapeError for known ones
    out of range, NumericError for others when it runs.
    """
    t, picked, attrs = _along("gather", tensor_argument("gather", x), indices, axis)
    return apply(Gather, t, picked, **attrs)


def _places(
    op: str, indices: object, shape: tuple[int, ...], what: object
) -> list[tuple[Tensor, str]]:
    """Index operands and modes for the leading axes that the last axis of `indices` names."""
    value = _numbers(op, indices)
    given = np.shape(value) if value is not None else indices.shape  # type: ignore[attr-defined]
    if not given or not 1 <= given[-1] <= len(shape):
        raise ShapeError(
            f"{op}: the last axis of the indices, of shape {tuple(given)}, must name 1 to"
            f" {len(shape)} axes of {what}"
        )
    source = indices if value is None else value
    return [
        index_operand(op, source[..., a], shape[a], f"axis {a} of {what}")  # type: ignore[index]
        for a in range(given[-1])
    ]


@public
def gather_nd(x: object, indices: object) -> Tensor:
    """result[...] = x[indices[..., 0], indices[..., 1], ...]: the last axis holds one place each.

    It may name only the leading axes of x. Gradient: added up at the places read. BHG 10.19.
    Any dtype; raises GraphTypeError for indices that are no integers, ShapeError for known ones
    out of range, NumericError for others when it runs.
    """
    t = tensor_argument("gather_nd", x)
    picked = _places("gather_nd", indices, t.shape, t.type)
    return _pick(t, dict(enumerate(picked)), 0)


@public
def embedding(weight: object, indices: object) -> Tensor:
    """Rows of `weight` at integer indices, which must be in 0..n-1. Catalogue 3.1.

    An index out of range raises NumericError when the function runs. Any dtype. Gradient: added up
    per row. BHG 3.6.
    """
    t = tensor_argument("embedding", weight, "weight")
    if t.ndim == 0:
        raise ShapeError("embedding: weight needs an axis of rows, got a 0-d tensor")
    where = f"the rows of {t.type}"
    picked = index_operand("embedding", indices, t.shape[0], where, negative=False)
    return _pick(t, {0: picked}, 0)


@public
def one_hot(indices: object, num_classes: int, dtype: object = "float32", axis: int = -1) -> Tensor:
    """1 where the new axis stands at the index, else 0; indices must be in 0..num_classes-1.

    An index out of range raises NumericError when the function runs. Gradient: none, a constant for
    every derivative. Integer indices, any `dtype`. BHG 10.9.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, (int, np.integer)):
        raise GraphTypeError(f"one_hot: num_classes is an int, got {num_classes!r}")
    t = checked_index("one_hot", indices, int(num_classes), f"with num_classes={num_classes}")
    a = normalize_axis("one_hot", axis, t.ndim + 1)
    shape = (*t.shape[:a], int(num_classes), *t.shape[a:])
    row = reshape(t, (*t.shape[:a], 1, *t.shape[a:]))
    return cast(FUNCTIONS["equal"](row, iota(shape, a, t.dtype)), as_dtype(dtype))


# ---------------------------------------------------------------------------- adding


@public
def scatter_add(x: object, indices: object, updates: object, axis: int = 0) -> Tensor:
    """x with `updates` added where `take(x, indices, axis)` reads; duplicates add up, in order.

    Where x has several axes and `updates` and `indices` have one shape of as many, they are added
    where `gather(x, indices, axis)` reads. Negative indices count from the end. Gradient: the
    cotangent itself, and its elements at the places. Catalogue 3.9, 8.
    Numbers of one dtype, as promoted; raises ShapeError for updates of another shape and known
    indices out of range, GraphTypeError for indices that are no integers.
    """
    t, values = promoted("scatter_add", [x, updates])
    a = normalize_axis("scatter_add", axis, t.ndim)
    picked, mode = index_operand("scatter_add", indices, t.shape[a], f"axis {a} of {t.type}")
    taken = (*t.shape[:a], *picked.shape, *t.shape[a + 1 :])
    if values.shape == taken:
        attrs = {**_layout(t.ndim, [a], a, picked.ndim), "mode": mode}
    elif values.shape == picked.shape and values.ndim == t.ndim > 1 and _fits(t, picked, a):
        _, picked, attrs = _along("scatter_add", t, picked, a)
        attrs["mode"] = mode
    else:
        raise ShapeError(
            f"scatter_add: updates must have the shape of take(x, indices, {a}), {taken}, or of"
            f" gather(x, indices, {a}) with indices of all axes of {t.type}, got {values.type}"
        )
    return FUNCTIONS["add"](t, apply(ScatterAdd, values, picked, shape=t.shape, **attrs))


@public
def scatter_nd(updates: object, indices: object, shape: object, add: bool = False) -> Tensor:
    """Zeros of `shape` with result[indices[..., 0], indices[..., 1], ...] = updates[...].

    The last axis of the indices holds one place each, which may name only the leading axes;
    negative indices count from the end. Of updates for one place the last in row-major order
    stands, or with `add` their sum. Gradient: g at the places, 0 for an update that does not stand.
    Any dtype; raises ShapeError for updates of another shape and known indices out of range,
    GraphTypeError for indices that are no integers. BHG 10.20 (printed without that 0).
    """
    u, whole = tensor_argument("scatter_nd", updates, "updates"), as_shape(shape)
    picked = _places("scatter_nd", indices, whole, whole)
    block = picked[0][0].shape
    wanted = (*block, *whole[len(picked) :])
    if u.shape != wanted:
        raise ShapeError(f"scatter_nd: updates must have shape {wanted}, got {u.type}")
    operands = [t for t, _ in picked]
    mode = picked[0][1]
    if not add:
        last = apply(LastWriter, *operands, shape=whole[: len(picked)], mode=mode)
        stands = _pick(last, dict(enumerate(picked)), 0)
        stands = FUNCTIONS["equal"](stands, reshape(iota((prod(block),)), block))
        stands = reshape(stands, (*block, *(1 for _ in whole[len(picked) :])))
        u = FUNCTIONS["where"](stands, u, constant(0, u.type.dtype))
    dtype, u = u.type.dtype, cast(u, "int8") if is_bool(u.type.dtype) else u
    layout = _layout(len(whole), range(len(picked)), 0, len(block))
    return cast(apply(ScatterAdd, u, *operands, shape=whole, mode=mode, **layout), dtype)


def _fits(x: Tensor, index: Tensor, a: int) -> bool:
    return all(k == a or n == m for k, (n, m) in enumerate(zip(x.shape, index.shape, strict=True)))


take_along_axis = gather
