"""The ops behind indexing: gather, scatter_add, and the test that indices are in range.

One op reads (`gather`) and one adds (`scatter_add`); each is the other's gradient. Two attributes
say where an element lies: `source[a]` is, for axis a of the indexed tensor, the axis of the result
that runs along it, or ~k where index operand k picks; `index_axes` are the axes of the result that
the index operands, broadcast together, cover. `mode` says what the numbers in them may be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, NumericError, ShapeError
from staticgraph.ir import FUNCTIONS, Node, Op, Tensor, apply
from staticgraph.nest import Nest, broadcast_index
from staticgraph.op import Elementwise, NestOp, add_op, cast, register
from staticgraph.types import SHORT, TensorType, broadcast_shapes, is_bool

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

    def cpu(
        self, types: Sequence[TensorType], out: Sequence[TensorType], *, name: str, **attrs: Any
    ) -> Kernels:
        """The kernel for operands and results of these types."""
        return Kernels((_ScatterSource(types, out[0], **attrs).kernel(name),))

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
    """The first operand as it is; the call fails with `message` where the status is not 0."""

    name = "check"

    def infer(self, x: TensorType, status: TensorType, *, message: str) -> TensorType:
        if status != TensorType("int64", ()):
            raise GraphTypeError(f"check: the status must be i64[], got {status}")
        return x

    def reference(self, arrays, types, *, message):
        if arrays[1]:
            raise NumericError(message)
        return [arrays[0]]

    def vjp(self, node, cotangents):
        return [cotangents[0], None]

    def jvp(self, node, tangents):
        return [tangents[0]]


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


# ---------------------------------------------------------------------------- scatter-add kernel


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel by hand: the text of a module with `k(lo, hi, bufs, scratch)`, and how to run it.

    `buffers` says what `bufs` holds: ("in", k) operand k, ("out", k) result k. `elements` counts
    what is read and written, for the choice between one thread and several.
    """

    name: str
    text: str
    tiles: int
    buffers: tuple[tuple[str, int], ...]
    elements: int
    scratch: int = 0
    inplace: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernels of one node in order, and the bytes of the workspaces between them."""

    steps: tuple[Kernel, ...]
    workspace: tuple[int, ...] = ()


_TILES, _TILE_WORK, _PARTS, _LANES = 32, 1 << 14, 16, 16


class _ScatterSource:
    """Generates the scatter-add kernel.

    Axes of the updates that run along an axis of the result are private: other places on them are
    other elements of the result, so tiles split them (the last one in columns of lanes) and no two
    threads meet. Where that gives too few tiles, each tile also takes a range of the first indexed
    axis and skips other indices. The shared axes run in order inside a tile, so that duplicates
    add up in one order for any number of threads.
    """

    def __init__(self, types, out, *, shape, source, index_axes, mode):
        self.updates, *self.index = types
        self.code, self.mode, self.lines = SHORT[out.dtype], mode, []
        steps, rank = _strides(shape), self.updates.ndim
        self.u_steps = dict(enumerate(_strides(self.updates.shape)))
        self.x_steps = {v: steps[a] for a, v in enumerate(source) if v >= 0}
        self.i_steps = [
            {
                v: step
                for v, n, step in zip(
                    index_axes[len(index_axes) - t.ndim :], t.shape, _strides(t.shape), strict=True
                )
                if n != 1
            }
            for t in self.index
        ]
        # (index operand, size, step in the result) of each indexed axis
        self.picked = [(~v, shape[a], steps[a]) for a, v in enumerate(source) if v < 0]
        self.shared = [v for v in range(rank) if v not in self.x_steps]
        last = rank - 1
        self.column = self.x_steps.get(last) == 1 and all(last not in i for i in self.i_steps)
        self.outer = [v for v in range(rank - self.column) if v in self.x_steps]
        self.width = self.updates.shape[last] if self.column else 1
        self.count = prod(self.updates.shape[v] for v in self.outer)
        self.work = self.updates.size + out.size
        wanted = max(1, min(_TILES, self.work // _TILE_WORK))
        self.chunks = max(1, min(wanted, self.count))
        # Reading every index once more per range only pays where an index moves a whole row. Ranges
        # come before columns because they write contiguous memory.
        spare = wanted // self.chunks if self.width >= _LANES else 1
        self.parts = max(1, min(_PARTS, spare, self.picked[0][1]))
        spare = wanted // (self.chunks * self.parts)
        self.blocks = max(1, min(spare, self.width // (4 * _LANES)))

    def kernel(self, name: str) -> Kernel:
        self._emit(1, "u = ptr(bufs, 0)")
        for k in range(len(self.index)):
            self._emit(1, f"i{k} = ptr(bufs, {k + 1})")
        self._emit(1, f"x = ptr(bufs, {len(self.index) + 1})")
        self._emit(1, "for tile in range(lo, hi):")
        self._bounds(2)
        self._emit(2, f"for p in range({', '.join(_cut(self.count, 'chunk', self.chunks))}):")
        self._offsets(3)
        self._zero(3)
        self._add(3)
        body = "\n".join(self.lines)
        names = sorted(set(re.findall(r"(\w+)\(", body)) - {"range", "min"})
        about = f'"""scatter_add of {self.updates} to {self.count} x {self.width} places."""'
        head = f"from staticgraph.codegen.vector import {', '.join(names)}"
        text = f"{about}\n\n{head}\n\n\ndef k(lo, hi, bufs, scratch):\n{body}\n"
        buffers = (*(("in", k) for k in range(len(self.index) + 1)), ("out", 0))
        return Kernel(name, text, self.parts * self.blocks * self.chunks, buffers, self.work)

    def _emit(self, depth: int, line: str) -> None:
        self.lines.append("    " * depth + line)

    def _bounds(self, d: int) -> None:
        """What this tile covers: part of the first indexed axis, columns, chunk of places."""
        self._emit(d, f"block = tile % {self.blocks}")
        self._emit(d, f"part = tile // {self.blocks} % {self.parts}")
        self._emit(d, f"chunk = tile // {self.parts * self.blocks}")
        low, high = _cut(self.picked[0][1], "part", self.parts)
        self._emit(d, f"first = {low}")
        self._emit(d, f"stop = {high}")
        if self.column:
            step = -(-self.width // (self.blocks * _LANES)) * _LANES
            self._emit(d, f"c0 = block * {step}")
            self._emit(d, f"c1 = min({self.width}, c0 + {step})")

    def _offsets(self, d: int) -> None:
        """Where private place p begins in the updates, the result and the indices."""
        rest = self.count
        for v in self.outer:
            n = self.updates.shape[v]
            rest //= n or 1
            self._emit(d, f"a{v} = p // {rest or 1} % {n or 1}")
        self._emit(d, f"u_at = {_dot(self.outer, self.u_steps)}")
        self._emit(d, f"x_at = {_dot(self.outer, self.x_steps)}")
        for k, steps in enumerate(self.i_steps):
            self._emit(d, f"i{k}_at = {_dot(self.outer, steps)}")

    def _zero(self, d: int) -> None:
        at = "x_at"
        for j, (_, n, step) in enumerate(self.picked):
            low, high = ("first", "stop") if j == 0 else ("0", f"{n}")
            if step == 1 and not self.column:
                self._run(d, low, high, at, None, whole=False)
                return
            self._emit(d, f"for z{j} in range({low}, {high}):")
            at, d = f"{at} + z{j} * {step}", d + 1
        if self.column:
            self._run(d, "c0", "c1", at, None, whole=self.width % _LANES == 0)
        else:
            self._emit(d, f"st_{self.code}(x, {at}, 0)")

    def _add(self, d: int) -> None:
        for v in self.shared:
            self._emit(d, f"for a{v} in range({self.updates.shape[v]}):")
            d += 1
        if not self.shared:
            self._emit(d, "for _ in range(1):")  # something for `continue` to leave
            d += 1
        to = "x_at"
        for j, (k, n, step) in enumerate(self.picked):
            at = f"i{k}_at + {_dot(self.shared, self.i_steps[k])}"
            # 0 + makes an int64 of an index operand of either dtype.
            self._emit(d, f"d{j} = 0 + ld_{SHORT[self.index[k].dtype]}(i{k}, {at})")
            if self.mode == PYTHON:
                self._emit(d, f"if d{j} < 0:")
                self._emit(d + 1, f"d{j} += {n}")
            if self.mode != KNOWN or (j == 0 and self.parts > 1):
                low, high = ("first", "stop") if j == 0 else ("0", f"{n}")
                self._emit(d, f"if d{j} < {low} or d{j} >= {high}:")
                self._emit(d + 1, "continue")
            to += f" + d{j} * {step}"
        self._emit(d, f"to = {to}")
        self._emit(d, f"at = u_at + {_dot(self.shared, self.u_steps)}")
        if self.column:
            self._run(d, "c0", "c1", "to", "at", whole=self.width % _LANES == 0)
        else:
            self._emit(d, f"st_{self.code}(x, to, ld_{self.code}(x, to) + ld_{self.code}(u, at))")

    def _run(self, d: int, low: str, high: str, to: str, at: str | None, *, whole: bool) -> None:
        """Store a contiguous run of the result: zeros, or its sum with the updates from `at` on."""
        self._emit(d, f"for c in range({low}, {high}, {_LANES}):")
        load, store, mask = ("vld", "vst", "") if whole else ("vldm", "vstm", ", m")
        if not whole:
            self._emit(d + 1, f"m = lanes({high} - c)")
        value = f"splat_{self.code}(0)"
        if at is not None:
            value = " + ".join(
                f"{load}_{self.code}({place} + c{mask})" for place in (f"x, {to}", f"u, {at}")
            )
        self._emit(d + 1, f"{store}_{self.code}(x, {to} + c, {value}{mask})")


def _strides(shape: Sequence[int]) -> list[int]:
    return [prod(shape[a + 1 :]) for a in range(len(shape))]


def _dot(axes: Sequence[int], steps: dict[int, int]) -> str:
    """Source of the offset of the places a0, a1, ... on some axes."""
    return " + ".join(f"a{v} * {steps[v]}" for v in axes if v in steps) or "0"


def _cut(total: int, index: str, pieces: int) -> tuple[str, str]:
    """Source of the bounds of piece `index` of a balanced split."""
    if pieces == 1:
        return "0", f"{total}"
    return f"{index} * {total} // {pieces}", f"({index} + 1) * {total} // {pieces}"
