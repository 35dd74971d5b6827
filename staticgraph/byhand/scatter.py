"""scatter_add: updates added up where indices say, duplicates in the order of the updates."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from staticgraph.byhand.source import TILE_WORK, Source, cut, dot, strides
from staticgraph.codegen.spec import LANES, Kernels, KernelSpec
from staticgraph.ops.gather import KNOWN, PYTHON
from staticgraph.types import SHORT, TensorType

_TILES, _PARTS = 32, 16
#: ranges of narrow places: two for the threads, more where one would not fit into a cache
_NARROW_PARTS, _RANGE_BYTES = 2, 1 << 21
#: indices noted before they are followed
_NOTED = 2048


def scatter_add(
    types: Sequence[TensorType], out: Sequence[TensorType], *, name: str, **attrs: Any
) -> Kernels:
    made = _ScatterSource(types, out[0], **attrs)
    if _is_narrow(types, **attrs) and made.work >= 2 * TILE_WORK:
        return Kernels([_narrow(types, out[0], attrs["mode"], name)])
    return Kernels([made.kernel(name)])


def _is_narrow(types: Sequence[TensorType], *, shape, source, index_axes, mode) -> bool:
    """Whether short pieces go to the places of one contiguous list of indices."""
    updates, *index = types
    block = index[0].ndim
    rest = tuple(range(block, updates.ndim))
    return (
        len(index) == 1
        and source == (~0, *rest)
        and index_axes == tuple(range(block))
        and index[0].shape == updates.shape[:block]
        and prod(shape[1:]) < LANES
    )


def _narrow(types: Sequence[TensorType], out: TensorType, mode: str, name: str) -> KernelSpec:
    """A tile is a range of places: it looks at all indices and notes those that fall into it.

    Noting needs no jump that a processor would have to guess, and a range fits into its cache, so
    that looking several times costs less than adding at once.
    """
    updates, index = types
    n, count, width = out.shape[0], prod(index.shape), prod(out.shape[1:])
    parts = max(_NARROW_PARTS, min(_PARTS, -(-out.nbytes // _RANGE_BYTES)))
    parts = max(1, min(parts, n))
    code = SHORT[out.dtype]
    s = Source(u=("in", 0), i=("in", 1), x=("out", 0))
    note = "i32" if max(n, count) < 1 << 31 else "i64"
    s.emit(0, f"at = scratch + {_NOTED * 8}", "for part in range(lo, hi):")
    low, high = cut(n, "part", parts)
    s.emit(1, f"first = {low}", f"stop = {high}", "e = 0")
    s.emit(1, f"for c in range(first * {width}, stop * {width}, {LANES}):")
    s.emit(2, f"vstm_{code}(x, c, splat_{code}(0), lanes(stop * {width} - c))")
    s.emit(1, f"while e < {count}:")
    s.emit(2, "noted = 0", f"while e < {count} and noted <= {_NOTED - LANES}:")
    s.emit(3, f"m = lanes({count} - e)")
    s.emit(3, f"place = cast_i64(vldm_{SHORT[index.dtype]}(i, e, m))")
    if mode == PYTHON:
        s.emit(3, f"place = select(place < splat_i64(0), place + splat_i64({n}), place)")
    s.emit(3, "m = m & (place >= splat_i64(first)) & (place < splat_i64(stop))")
    s.emit(3, f"vpack_{note}(scratch, noted, cast_{note}(place), m)")
    s.emit(3, f"vpack_{note}(at, noted, cast_{note}(iota() + splat_i64(e)), m)")
    s.emit(3, "noted += count(m)", f"e += {LANES}")
    s.emit(2, "for k in range(noted):")
    s.emit(3, f"to = ld_{note}(scratch, k) * {width}", f"source = ld_{note}(at, k) * {width}")
    s.emit(3, f"for c in range({width}):")
    added = f"ld_{code}(x, to + c) + ld_{code}(u, source + c)"
    s.emit(4, f"st_{code}(x, to + c, {added})")
    return s.kernel(name, parts, updates.size + out.size, _NOTED * 16)


def last_writer(
    types: Sequence[TensorType],
    out: Sequence[TensorType],
    *,
    name: str,
    shape: tuple[int, ...],
    mode: str,
) -> Kernels:
    """All writes in order by one thread: a place keeps what is written last."""
    s = Source(**{f"i{k}": ("in", k) for k in range(len(types))}, y=("out", 0))
    size = prod(shape)
    s.emit(0, f"for e in range(0, {size}, {LANES}):")
    s.emit(1, f"vstm_i64(y, e, splat_i64(-1), lanes({size} - e))")
    s.emit(0, f"for e in range({types[0].size}):")
    for k, (t, n) in enumerate(zip(types, shape, strict=True)):
        s.emit(1, f"d{k} = 0 + ld_{SHORT[t.dtype]}(i{k}, e)")
        if mode == PYTHON:
            s.emit(1, f"if d{k} < 0:", f"    d{k} += {n}")
        s.emit(1, f"if d{k} < 0 or d{k} >= {n}:", "    continue")
    at = " + ".join(f"d{k} * {step}" for k, step in enumerate(strides(shape)))
    s.emit(1, f"st_i64(y, {at}, e)")
    return Kernels([s.kernel(name, 1, size + types[0].size)])


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
        self.code, self.mode = SHORT[out.dtype], mode
        steps, rank = strides(shape), self.updates.ndim
        self.u_steps = dict(enumerate(strides(self.updates.shape)))
        self.x_steps = {v: steps[a] for a, v in enumerate(source) if v >= 0}
        self.i_steps = [
            {
                v: step
                for v, n, step in zip(
                    index_axes[len(index_axes) - t.ndim :], t.shape, strides(t.shape), strict=True
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
        wanted = max(1, min(_TILES, self.work // TILE_WORK))
        self.chunks = max(1, min(wanted, self.count))
        # Reading every index once more per range only pays where an index moves a whole row. Ranges
        # come before columns because they write contiguous memory.
        spare = wanted // self.chunks if self.width >= LANES else 1
        self.parts = max(1, min(_PARTS, spare, self.picked[0][1]))
        spare = wanted // (self.chunks * self.parts)
        self.blocks = max(1, min(spare, self.width // (4 * LANES)))

    def kernel(self, name: str) -> KernelSpec:
        operands = {f"i{k}": ("in", k + 1) for k in range(len(self.index))}
        self.source = Source(u=("in", 0), **operands, x=("out", 0))
        self._emit(0, "for tile in range(lo, hi):")
        self._bounds(1)
        self._emit(1, f"for p in range({', '.join(cut(self.count, 'chunk', self.chunks))}):")
        self._offsets(2)
        self._zero(2)
        self._add(2)
        return self.source.kernel(name, self.parts * self.blocks * self.chunks, self.work)

    def _emit(self, depth: int, line: str) -> None:
        self.source.emit(depth, line)

    def _bounds(self, d: int) -> None:
        """What this tile covers: part of the first indexed axis, columns, chunk of places."""
        self._emit(d, f"block = tile % {self.blocks}")
        self._emit(d, f"part = tile // {self.blocks} % {self.parts}")
        self._emit(d, f"chunk = tile // {self.parts * self.blocks}")
        low, high = cut(self.picked[0][1], "part", self.parts)
        self._emit(d, f"first = {low}")
        self._emit(d, f"stop = {high}")
        if self.column:
            step = -(-self.width // (self.blocks * LANES)) * LANES
            self._emit(d, f"c0 = block * {step}")
            self._emit(d, f"c1 = min({self.width}, c0 + {step})")

    def _offsets(self, d: int) -> None:
        """Where private place p begins in the updates, the result and the indices."""
        rest = self.count
        for v in self.outer:
            n = self.updates.shape[v]
            rest //= n or 1
            self._emit(d, f"a{v} = p // {rest or 1} % {n or 1}")
        self._emit(d, f"u_at = {dot(self.outer, self.u_steps)}")
        self._emit(d, f"x_at = {dot(self.outer, self.x_steps)}")
        for k, steps in enumerate(self.i_steps):
            self._emit(d, f"i{k}_at = {dot(self.outer, steps)}")

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
            self._run(d, "c0", "c1", at, None, whole=self.width % LANES == 0)
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
            at = f"i{k}_at + {dot(self.shared, self.i_steps[k])}"
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
        self._emit(d, f"at = u_at + {dot(self.shared, self.u_steps)}")
        if self.column:
            self._run(d, "c0", "c1", "to", "at", whole=self.width % LANES == 0)
        else:
            self._emit(d, f"st_{self.code}(x, to, ld_{self.code}(x, to) + ld_{self.code}(u, at))")

    def _run(self, d: int, low: str, high: str, to: str, at: str | None, *, whole: bool) -> None:
        """Store a contiguous run of the result: zeros, or its sum with the updates from `at` on."""
        self._emit(d, f"for c in range({low}, {high}, {LANES}):")
        load, store, mask = ("vld", "vst", "") if whole else ("vldm", "vstm", ", m")
        if not whole:
            self._emit(d + 1, f"m = lanes({high} - c)")
        value = f"splat_{self.code}(0)"
        if at is not None:
            value = " + ".join(
                f"{load}_{self.code}({place} + c{mask})" for place in (f"x, {to}", f"u, {at}")
            )
        self._emit(d + 1, f"{store}_{self.code}(x, {to} + c, {value}{mask})")
