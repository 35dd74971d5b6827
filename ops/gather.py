"""The ops behind indexing: gather, scatter_add, and the test that indices are in range.

One op reads (`gather`) and one adds (`scatter_add`); each is the other's gradient. Two attributes
say where an element lies: `source[a]` is, for axis a of the indexed tensor, the axis of the result
that runs along it, or ~k where index operand k picks; `index_axes` are the axes of the result that
the index operands, broadcast together, cover. `mode` says what the numbers in them may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, NumericError, ShapeError
from staticgraph.ir import Node, Op, apply
from staticgraph.nest import Nest, broadcast_index
from staticgraph.op import Elementwise, NestOp
from staticgraph.operands import cast
from staticgraph.registry import FUNCTIONS, add_op, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, broadcast_shapes, is_bool

#: 0 <= i < n, or -n <= i < 0 counted from the end; else NumericError when it runs
PYTHON = "python"
#: 0 <= i < n; else NumericError when it runs
STRICT = "strict"
#: 0 <= i < n is known while building, so nothing is tested
KNOWN = "known"


def _placed(
    op: str,
    shape: Sequence[int],
    index: Sequence[TensorType],
    source: Sequence[int],
    index_axes: Sequence[int],
    mode: str,
) -> tuple[int, ...]:
    """The shape of what indices pick from a tensor of `shape`; raises where they do not fit."""
    if mode not in (PYTHON, STRICT, KNOWN) or list(index_axes) != sorted(set(index_axes)):
        raise GraphTypeError(f"{op}: mode {mode!r} or index axes {tuple(index_axes)} do not exist")
    if sorted(~v for v in source if v < 0) != list(range(len(index))) or len(source) != len(shape):
        raise ShapeError(f"{op}: {len(index)} index operands do not fit source {tuple(source)}")
    for t in index:
        if t.dtype not in ("int32", "int64"):
            raise GraphTypeError(f"{op}: indices are int32 or int64, got {t}")
    block = broadcast_shapes(*(t.shape for t in index))
    if block is None or len(block) != len(index_axes):
        given = " and ".join(map(str, index))
        raise ShapeError(f"{op}: indices {given} do not broadcast to {len(index_axes)} axes")
    sizes = dict(zip(index_axes, block, strict=True))
    for n, v in zip(shape, source, strict=True):
        if v >= 0 and sizes.setdefault(v, n) not in (1, n):
            raise ShapeError(f"{op}: indices of size {sizes[v]} meet an axis of size {n}")
        if v >= 0:
            sizes[v] = n
    if sorted(sizes) != list(range(len(sizes))):
        raise ShapeError(f"{op}: axes {sorted(sizes)} of the result are not 0, 1, 2, ...")
    return tuple(sizes[k] for k in range(len(sizes)))


@register
class Gather(NestOp):
    """result[o] = x[i], where i[a] is o[source[a]], or index operand ~source[a] at o[index_axes].

    An index out of range reads 0; `index_check` gives the test that reports it.
    """

    name = "gather"

    def infer(self, x: TensorType, *index: TensorType, source, index_axes, mode) -> TensorType:
        return TensorType(x.dtype, _placed(self.name, x.shape, index, source, index_axes, mode))

    def nest(self, types, out, *, source, index_axes, mode) -> Nest:
        x, *index = types
        place = [s.axis(k) for k in index_axes]
        found, inside = [], s.const(True, "bool")
        for n, v in zip(x.shape, source, strict=True):
            i = s.axis(v)
            if v < 0:
                t = index[~v]
                i = s.cast(s.load(1 + ~v, broadcast_index(t.shape, place), t.dtype), "int64")
                if mode == PYTHON:
                    i = s.where(i < 0, i + n, i)
                if mode != KNOWN:
                    inside = s.call("logical_and", inside, s.call("logical_and", i >= 0, i < n))
            found.append(i)
        return Nest(out.shape, s.load(0, found, x.dtype, inside))

    def vjp(self, node, cotangents):
        x, *index = node.operands
        back = apply(ScatterAdd, cotangents[0], *index, shape=x.shape, **node.attrs)
        return [back, *(None for _ in index)]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], *node.operands[1:], **node.attrs)]

    def check(self, node: Node) -> Tensor | None:
        return _all_in_range(node, node.operands[0].shape)


@register
class ScatterAdd(Op):
    """Zeros of `shape`, plus the first operand where `gather` with these attributes would read.

    Values for one place are added in the row-major order of the first operand; an index out of
    range adds nothing, and `index_check` gives the test that reports it.
    """

    name = "scatter_add"

    def infer(
        self, updates: TensorType, *index: TensorType, shape, source, index_axes, mode
    ) -> TensorType:
        if is_bool(updates.dtype):
            raise GraphTypeError(f"scatter_add: needs numbers to add, got {updates}")
        wanted = _placed(self.name, shape, index, source, index_axes, mode)
        if updates.shape != wanted:
            raise ShapeError(f"scatter_add: updates must have shape {wanted}, got {updates}")
        return TensorType(updates.dtype, tuple(shape))

    def reference(self, arrays, types, *, shape, source, index_axes, mode):
        updates, *index = arrays
        inside, places = np.array(True), []
        for n, v in zip(shape, source, strict=True):
            if v >= 0:
                i = np.arange(n).reshape([-1 if k == v else 1 for k in range(updates.ndim)])
            else:
                block = index[~v].astype(np.int64)
                covered = index_axes[len(index_axes) - block.ndim :]
                sizes = dict(zip(covered, block.shape, strict=True))
                i = block.reshape([sizes.get(k, 1) for k in range(updates.ndim)])
                if mode == PYTHON:
                    i = np.where(i < 0, i + n, i)
                inside = inside & (i >= 0) & (i < n)
            places.append(i)
        inside = np.broadcast_to(inside, updates.shape)
        result = np.zeros(shape, types[0].dtype)
        kept = tuple(np.broadcast_to(i, updates.shape)[inside] for i in places)
        np.add.at(result, kept, updates[inside])
        return [result]

    def plain_nest(self, types, out, *, shape, source, index_axes, mode) -> Nest:
        """The same as a loop nest: each element of the result looks at all that may come to it.

        For targets without a kernel by hand. Nothing is written twice, so no order is left open.
        """
        updates, *index = types
        private = {v: a for a, v in enumerate(source) if v >= 0}
        shared = [v for v in range(updates.ndim) if v not in private]
        along = {v: s.axis(a) for v, a in private.items()}
        along |= {v: s.axis(len(shape) + k) for k, v in enumerate(shared)}
        here = s.const(True, "bool")
        for a, (n, v) in enumerate(zip(shape, source, strict=True)):
            if v < 0:
                t = index[~v]
                at = broadcast_index(t.shape, [along[k] for k in index_axes])
                i = s.cast(s.load(1 + ~v, at, t.dtype), "int64")
                if mode == PYTHON:
                    i = s.where(i < 0, i + n, i)
                here = s.call("logical_and", here, s.call("equal", i, s.axis(a)))
        place = [along[v] for v in range(updates.ndim)]
        sizes = tuple(updates.shape[v] for v in shared)
        value = s.load(0, place, updates.dtype, here)
        return Nest(tuple(shape), value, sizes, "sum" if sizes else None)

    def vjp(self, node, cotangents):
        _, *index = node.operands
        attrs = {k: v for k, v in node.attrs.items() if k != "shape"}
        return [apply(Gather, cotangents[0], *index, **attrs), *(None for _ in index)]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], *node.operands[1:], **node.attrs)]

    def check(self, node: Node) -> Tensor | None:
        return _all_in_range(node, node.attrs["shape"])


@register
class LastWriter(Op):
    """For each place of an array of `shape`, the number of the last write to it, or -1.

    Write j goes to the place that element j of the index operands names, one operand for each axis;
    what is out of range writes nothing.
    """

    name = "last_writer"

    def infer(self, *index: TensorType, shape: tuple[int, ...], mode: str) -> TensorType:
        if len({t.shape for t in index}) != 1:
            raise ShapeError(f"last_writer: the indices of all axes need one shape, got {index}")
        source = tuple(~k for k in range(len(index)))
        _placed(self.name, shape, index, source, tuple(range(index[0].ndim)), mode)
        return TensorType("int64", tuple(shape))

    def reference(self, arrays, types, *, shape, mode):
        inside, places = np.array(True), []
        for i, n in zip(arrays, shape, strict=True):
            i = i.astype(np.int64).ravel()
            i = np.where(i < 0, i + n, i) if mode == PYTHON else i
            inside = inside & (i >= 0) & (i < n)
            places.append(i)
        result = np.full(shape, -1, np.int64)
        writes = np.arange(arrays[0].size)
        np.maximum.at(result, tuple(i[inside] for i in places), writes[inside])
        return [result]

    def vjp(self, node, cotangents):
        return [None for _ in node.operands]

    def jvp(self, node, tangents):
        return [None]


class CheckIndex(Elementwise):
    """Integers as they are, with the promise, tested when it runs, that all are in 0..size-1."""

    def __init__(self) -> None:
        super().__init__("check_index", lambda x, *, size: x)

    def simplify(self, node):
        return None

    def check(self, node: Node) -> Tensor | None:
        return _in_range(node.operands[0], 0, node.attrs["size"])


CHECK_INDEX = add_op(CheckIndex())


@register
class Check(Op):
    """The first operand as it is; the call fails where the status is not 0.

    A status counts the elements of an array of shape `batch` from the first bad one to the end;
    the message then says which one that is.
    """

    name = "check"

    def infer(
        self, x: TensorType, status: TensorType, *, message: str, batch: tuple[int, ...] = ()
    ) -> TensorType:
        if status != TensorType("int64", ()):
            raise GraphTypeError(f"check: the status must be i64[], got {status}")
        return x

    def reference(self, arrays, types, *, message, batch=()):
        if arrays[1]:
            raise NumericError(check_message(int(arrays[1]), message, batch))
        return [arrays[0]]

    def vjp(self, node, cotangents):
        return [cotangents[0], None]

    def jvp(self, node, tangents):
        return [tangents[0]]


def check_message(status: int, message: str, batch: tuple[int, ...] = ()) -> str:
    """What to say where a `check` with these attributes meets this status."""
    if not batch:
        return message
    place = np.unravel_index(prod(batch) - status, batch)
    return f"{message} (at {', '.join(str(int(i)) for i in place)} of the batch)"


def index_check(node: Node) -> Tensor | None:
    """A bool scalar, true where all run-time indices of the node are in range.

    None for a node that has nothing to test. A plan tests it before it hands out results and
    raises NumericError with `index_message(node)`.
    """
    check = getattr(node.op, "check", None)
    return check(node) if check is not None else None


def index_message(node: Node) -> str:
    """What to say where `index_check(node)` is false; the same for a gather and its gradient."""
    if node.op is CHECK_INDEX:
        return f"an index or label is outside 0..{node.attrs['size'] - 1}"
    shape = node.operands[0].shape if node.op is Gather else node.attrs["shape"]
    sizes = [n for n, v in zip(shape, node.attrs["source"], strict=True) if v < 0]
    low = "-{0}" if node.attrs["mode"] == PYTHON else "0"
    return f"an index is outside {', '.join(f'{low.format(n)}..{n - 1}' for n in sizes)}"


def _in_range(index: Tensor, low: int, high: int) -> Tensor:
    wide = cast(index, "int64")
    inside = FUNCTIONS["logical_and"](wide >= low, wide < high)
    return FUNCTIONS["all"](inside)


def _all_in_range(node: Node, shape: Sequence[int]) -> Tensor | None:
    """Whether all index operands of a gather or scatter_add are in range; None where known."""
    mode, total = node.attrs["mode"], None
    for n, v in zip(shape, node.attrs["source"], strict=True):
        if v < 0 and mode != KNOWN:
            test = _in_range(node.operands[1 + ~v], -n if mode == PYTHON else 0, n)
            total = test if total is None else FUNCTIONS["logical_and"](total, test)
    return total
