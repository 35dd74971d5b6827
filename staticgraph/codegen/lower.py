"""From the body of a region to loops: one domain of axes, expressions over it, stages.

A body is pulled from its results: the element of a result at the loop indices asks its operands
for elements at mapped indices, down to loads of the region's inputs. Reductions inside stay
values of their own (`row` leaves): a stage is one sweep over the reduced axes, and computes what
needs only rows of earlier stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from staticgraph import scalar as s
from staticgraph.codegen.affine import simplify
from staticgraph.codegen.collapse import collapse, sides
from staticgraph.codegen.region import (
    TILE_ELEMENTS,
    CannotLower,
    Reduction,
    Region,
    Store,
    domain_of,
    finishes,
    is_block,
    is_other,
    is_reduction,
    is_window,
    mode,
    swept,
)
from staticgraph.ir import CONSTANT, INPUT, Graph, Node
from staticgraph.op import NestOp
from staticgraph.ops.reduce import Reduce
from staticgraph.scalar import Expr
from staticgraph.tensor import Tensor


def lower(body: Graph, view: Sequence[int] | None = None) -> Region:
    """The loops of a region body; raises CannotLower where it is no single region.

    With `view`, axes are joined to exactly these sizes (the batch, rows and columns in which a
    contraction delivers its result).
    """
    return _Lowering(body, view).run()


class _Lowering:
    def __init__(self, body: Graph, view: Sequence[int] | None):
        self.body = body
        self.view = view
        self.shape = domain_of(body)
        self.region = Region(
            self.shape, (), tuple(t.type for t in body.inputs), tuple(t.type for t in body.outputs)
        )
        self.number = {t: k for k, t in enumerate(body.inputs)}
        self.outputs = {}
        for k, t in enumerate(body.outputs):
            self.outputs.setdefault(t, k)
        self.rows: dict[Tensor, Reduction] = {}
        self.memo: dict[tuple, Expr] = {}
        self.labels: dict[Tensor, tuple[int | None, ...] | None] = {}

    def run(self) -> Region:
        body, shape = self.body, self.shape
        users = body.users()
        windows = [n for n in body.nodes if is_window(n)]
        if windows:
            return self.run_window(windows)
        reductions = [n for n in body.nodes if is_reduction(n)]
        full = tuple(range(len(shape)))
        self.region.inner = swept(body)
        identity = tuple(s.axis(k) for k in full)
        for node in reductions:
            self._reduce(node, identity, users)
        for t, k in self.outputs.items():
            if k not in self.region.sinks and k not in self.region.blocks:
                self._store(t, k)
        return collapse(self.region, None if self.view is None else sides(self.shape, self.view))

    def run_window(self, windows: list[Node]) -> Region:
        """A nest that reduces in its own way (a large window, a product by its plain meaning).

        The domain is the nest's: the reduced axes stand before the last axis of the result, so
        that vectors run along the result.
        """
        if len(windows) > 1 or any(is_reduction(n) for n in self.body.nodes):
            raise CannotLower("several reductions of different kinds")
        (node,) = windows
        nest = node.op.nest([o.type for o in node.operands], node.results[0].type, **node.attrs)  # type: ignore[attr-defined]
        rank, more = len(nest.shape), len(nest.reduced)
        place = [k if k < rank - 1 else k + more for k in range(rank)]
        place += [max(rank - 1, 0) + k for k in range(more)]
        sizes = [0] * (rank + more)
        for k, n in zip(place, nest.axes, strict=True):
            sizes[k] = n
        self.shape = self.region.sizes = tuple(sizes)
        self.region.inner = tuple(place[rank:])
        result = node.results[0]
        self.labels[result] = tuple(place[:rank])
        body = self._resolve(nest.body, node, [s.axis(k) for k in place])
        leaf = s._intern("row", (), body.dtype, 0)
        found = Reduction(node, body, "rows", 1, tuple(place[:rank]), nest.combine or "sum", leaf)
        self.region.reductions.append(found)
        self.rows[result] = found
        for t, k in self.outputs.items():
            self._store(t, k)
        return collapse(self.region, None if self.view is None else sides(self.shape, self.view))

    # -- labels: which domain axis each axis of a value runs along --------------------------------

    def label(self, t: Tensor) -> tuple[int | None, ...]:
        """Domain axis per axis of a value that lives on the domain, or a part of it."""
        if t in self.labels:
            found = self.labels[t]
            if found is None:
                raise CannotLower("no place in the domain")
            return found
        self.labels[t] = None
        node = t.node
        if t.shape == self.shape:
            found = tuple(range(len(self.shape)))
        elif isinstance(node.op, Reduce):
            inner = self.label(node.operands[0])
            found = tuple(a for k, a in enumerate(inner) if k not in node.attrs["axes"])
        elif node.op.name == "reshape":
            found = self._reshaped(node)
        elif node.op is INPUT or node.op is CONSTANT:
            found = self._aligned(t)
        else:
            found = ()
            for operand in node.operands:
                if operand.ndim == t.ndim and operand.shape == t.shape and self._depends(operand):
                    found = self.label(operand)
                    break
            else:
                wide = [o for o in node.operands if o.shape == t.shape]
                found = (
                    self.label(wide[0])
                    if wide and wide[0].node.op is not INPUT
                    else self._aligned(t)
                )
        self.labels[t] = found
        return found

    def _depends(self, t: Tensor) -> bool:
        return t.node.op is not INPUT and t.node.op is not CONSTANT

    def _reshaped(self, node: Node) -> tuple[int | None, ...]:
        operand = node.operands[0]
        source = [a for a, n in zip(self.label(operand), operand.shape, strict=True) if n != 1]
        target = node.results[0].shape
        if [n for n in target if n != 1] != [n for n in operand.shape if n != 1]:
            raise CannotLower("reshape of a row value")
        left = iter(source)
        return tuple(None if n == 1 else next(left) for n in target)

    def _aligned(self, t: Tensor) -> tuple[int | None, ...]:
        """A value that is only loaded: match its axes with the domain's outer axes, in order."""
        outer = [k for k in range(len(self.shape)) if k not in self.region.inner]
        sizes = [n for n in t.shape if n != 1]
        picked = [k for k in outer if self.shape[k] != 1]
        if sizes != [self.shape[k] for k in picked]:
            raise CannotLower("shape off the domain")
        left = iter(picked)
        return tuple(None if n == 1 else next(left) for n in t.shape)

    # -- values -----------------------------------------------------------------------------------

    def _index(self, t: Tensor) -> tuple[Expr, ...]:
        return tuple(
            s.const(0, "int64") if a is None or t.shape[k] == 1 else s.axis(a)
            for k, a in enumerate(self.label(t))
        )

    def _reduce(
        self, node: Node, identity: tuple[Expr, ...], users: dict[Tensor, list[Node]]
    ) -> None:
        operand, result = node.operands[0], node.results[0]
        over = node.attrs["axes"]
        if operand.shape != self.shape:
            # Summing one value per row here would add in another order than a kernel of its own.
            raise CannotLower("reduction of a value per row")
        labels = tuple(range(len(self.shape)))
        kind = mode(self.shape, over)
        if kind == "rows" and is_other(self.shape, over, self.region.inner):
            if not is_block(self.shape, over, self.region.inner) or result not in self.outputs:
                raise CannotLower("reductions over different axes")
            kind = "blocks"
        if kind == "all" and self.region.inner and self.shape[-1] > TILE_ELEMENTS:
            raise CannotLower("a total over rows longer than a tile")
        index = tuple(s.const(0, "int64") if a is None else s.axis(a) for a in labels)
        body = self.pull(operand, index)
        kept = tuple(a for k, a in enumerate(labels) if k not in over and a is not None)
        level = self._level(body) + (1 if kind in ("rows", "blocks") else 0)
        leaf = s._intern("row", (), body.dtype, len(self.region.reductions))
        if kind in ("partials", "all"):
            if len(self.region.inner) not in (0, 1) or (
                self.region.inner and self.region.inner != (len(self.shape) - 1,)
            ):
                raise CannotLower("partial results beside rows over several axes")
            level += 1 if self.region.inner else 0
        found = Reduction(node, body, kind, level, kept, node.op.combine, leaf)
        self.region.reductions.append(found)
        self.rows[result] = found
        if kind == "blocks":
            self.region.blocks[self.outputs[result]] = found
        if kind in ("partials", "all"):
            last, found.finish = self._finished(result, leaf, users)
            self.region.sinks[self.outputs[last]] = found

    def _finished(
        self, t: Tensor, value: Expr, users: dict[Tensor, list[Node]]
    ) -> tuple[Tensor, Expr]:
        """What the body makes of a total before it delivers it: the tensor, and the expression."""
        while t in users:
            node = users[t][0]
            if t in self.outputs or len(users[t]) > 1 or not finishes(node, t):
                raise CannotLower("a result of partial sums is read inside")
            given = [
                value if o is t else s.const(o.node.attrs["value"].item(), o.type.dtype)
                for o in node.operands
            ]
            expr = node.op.expr([o.type for o in node.operands], node.attrs)  # type: ignore[attr-defined]
            t, value = node.results[0], s.substitute(expr, given)
        if t not in self.outputs:
            raise CannotLower("a result of partial sums is delivered to nobody")
        return t, value

    def _store(self, t: Tensor, k: int) -> None:
        index = self._index(t)
        covered = {a for a in self.label(t) if a is not None and self.shape[a] != 1}
        inner = any(a in self.region.inner for a in covered)
        needed = [
            a
            for a in range(len(self.shape))
            if self.shape[a] != 1 and (inner or a not in self.region.inner)
        ]
        if any(a not in covered for a in needed):
            raise CannotLower("result does not cover the domain")
        value = self.pull(t, index)
        position: Expr = s.const(0, "int64")
        for i, n in zip(index, t.shape, strict=True):
            position = position * n + i
        level = self._level(value)
        if inner:
            level += 1
        self.region.stores.append(Store(k, value, position, level, inner))

    def _level(self, e: Expr) -> int:
        return max(
            (self.region.reductions[x.value].level for x in s.postorder([e]) if x.name == "row"),
            default=0,
        )  # type: ignore[index]

    def pull(self, t: Tensor, index: tuple[Expr, ...]) -> Expr:
        key = (t, *index)
        found = self.memo.get(key)
        if found is None:
            found = self.memo[key] = self._pull(t, index)
        return found

    def _pull(self, t: Tensor, index: tuple[Expr, ...]) -> Expr:
        node = t.node
        if node.op is INPUT:
            return s.load(self.number[t], index, t.type.dtype)
        if node.op is CONSTANT:
            if t.size != 1:
                raise CannotLower("a large constant is an input")
            return s.const(node.attrs["value"].item(), t.type.dtype)
        if t in self.rows:
            row = self.rows[t]
            expected = [
                s.axis(a)
                for a in self.label(t)
                if a is not None and t.shape[self.label(t).index(a)] != 1
            ]
            given = [i for i, n in zip(index, t.shape, strict=True) if n != 1]
            if row.kind != "rows" or any(a is not b for a, b in zip(expected, given, strict=True)):
                raise CannotLower("a reduction is read at other rows")
            return row.leaf
        if not isinstance(node.op, NestOp):
            raise CannotLower(node.op.name)
        nest = node.op.nest([o.type for o in node.operands], node.results[0].type, **node.attrs)
        if nest.combine and prod(nest.reduced) != 1:
            raise CannotLower("a reduction that is no row")
        # Reduced axes of size 1 hold the one element there is.
        index = (*index, *[s.const(0, "int64")] * len(nest.reduced))
        return self._resolve(nest.body, node, index)

    def _resolve(self, body: Expr, node: Node, index: Sequence[Expr]) -> Expr:
        """The body of a nest at an index, loads of operands replaced by what computes them.

        One walk over the body itself: the index may hold loads too, and those are final.
        """
        memo: dict[int, Expr] = {}
        for e in s.postorder([body]):
            args = tuple(memo[id(a)] for a in e.args)
            if e.name == "axis":
                made = index[e.value]  # type: ignore[index]
            elif e.name == "load":
                guarded = s.is_guarded(e)
                at = tuple(simplify(i, self.shape) for i in (args[:-1] if guarded else args))
                operand = node.operands[e.value[0]]  # type: ignore[index]
                if guarded:
                    made = self._guarded(operand, at, simplify(args[-1], self.shape), e.value[1])  # type: ignore[index]
                else:
                    made = self.pull(operand, at)
            else:
                made = (
                    e
                    if all(a is b for a, b in zip(args, e.args, strict=True))
                    else s.rebuild(e, args)
                )
            memo[id(e)] = made
        return memo[id(body)]

    def _guarded(self, t: Tensor, index: tuple[Expr, ...], guard: Expr, fill: object) -> Expr:
        """The value where the guard holds: loads below it must not touch memory elsewhere."""
        if guard.name == "const":
            return self.pull(t, index) if guard.value else s.const(fill, t.type.dtype)
        value = self.pull(t, index)
        if t.node.op is INPUT:
            return s.load(self.number[t], index, t.type.dtype, guard, fill)

        def leaf(e: Expr) -> Expr | None:
            if e.name != "load":
                return None
            inner = e.args[-1] if s.is_guarded(e) else s.const(True, "bool")
            at = e.args[:-1] if s.is_guarded(e) else e.args
            both = s.call("logical_and", guard, inner)
            return s.load(e.value[0], at, e.dtype, both, e.value[1] if s.is_guarded(e) else 0)  # type: ignore[index]

        return s.where(guard, s.transform(value, leaf), s.const(fill, t.type.dtype))
