"""Join the axes of a region that every access walks through as one: fewer, longer loops."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from staticgraph import scalar as s
from staticgraph.codegen.affine import affine
from staticgraph.codegen.region import CannotLower, Region, position
from staticgraph.scalar import Expr


def sides(shape: Sequence[int], view: Sequence[int]) -> list[int]:
    """For each axis of `shape`, which axis of `view` it is part of."""
    found: list[int] = []
    k, size = 0, 1
    for n in shape:
        while n != 1 and size * n > view[k]:
            if size != view[k]:
                raise CannotLower(f"{tuple(shape)} does not group to {tuple(view)}")
            k, size = k + 1, 1
        size *= n
        found.append(k)
    return found


def collapse(region: Region, side: list[int] | None = None) -> Region:
    """Join neighbouring axes that every access walks through as one; drop axes of size 1."""
    sizes = list(region.sizes)
    exprs = [r.body for r in region.reductions] + [st.value for st in region.stores]
    positions = [st.index for st in region.stores]
    drop = {k for k, n in enumerate(sizes) if n == 1}
    forms: list[dict[int, int]] = []
    opaque: set[int] = set()
    _collect(exprs, positions, region, forms, opaque)
    partial = any(r.kind in ("partials", "all") for r in region.reductions)
    merged_into: dict[int, int] = {}
    order = [k for k in range(len(sizes)) if k not in drop]
    last = order[-1] if order else -1
    result: list[int] = []
    for k in order:
        if result:
            p = result[-1]
            same_side = (p in region.inner) == (k in region.inner) and (
                side is None or side[p] == side[k]
            )
            fits = all(f.get(p, 0) == f.get(k, 0) * sizes[k] for f in forms)
            kept = [set(r.kept) for r in region.reductions]
            together = all((p in s_) == (k in s_) for s_ in kept)
            # The last axis of a region with partial sums stays: its tiles count rows of it, so that
            # the order of a sum does not depend on what it is fused with.
            if (
                same_side
                and fits
                and together
                and p not in opaque
                and k not in opaque
                and not (partial and k == last)
            ):
                sizes[k] *= sizes[p]
                merged_into[p] = k
                result[-1] = k
                continue
        result.append(k)
    number = {k: i for i, k in enumerate(result)}

    def leaf(e: Expr) -> Expr | None:
        if e.name != "axis":
            return None
        k = e.value
        if k in drop or k in merged_into:
            return s.const(0, "int64")
        return s.axis(number[k])  # type: ignore[index]

    def move(e: Expr) -> Expr:
        return s.transform(e, leaf)

    for r in region.reductions:
        r.body = move(r.body)
        r.kept = tuple(dict.fromkeys(number[k] for k in r.kept if k in number))
    for st in region.stores:
        st.value, st.index = move(st.value), move(st.index)
    region.inner = tuple(number[k] for k in region.inner if k in number)
    region.sizes = tuple(sizes[k] for k in result)
    return region


def _collect(
    exprs: list[Expr],
    positions: list[Expr],
    region: Region,
    forms: list[dict[int, int]],
    opaque: set[int],
) -> None:
    """Affine forms of all memory positions, and the axes used in any other way."""
    strides = [_strides(t.shape) for t in region.types]
    for p in positions:
        form = affine(p)
        if form is None:
            opaque.update(_axes(p))
        else:
            forms.append(form[0])
    stack, seen = list(exprs), set()
    while stack:
        e = stack.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        if e.name == "axis":
            opaque.add(e.value)  # type: ignore[arg-type]
        elif e.name == "load":
            at = e.args[:-1] if s.is_guarded(e) else e.args
            if s.is_guarded(e):
                stack.append(e.args[-1])
            form = affine(position(at, strides[e.value[0]]))  # type: ignore[index]
            if form is None:
                for i in at:
                    opaque.update(_axes(i))
                stack.extend(x for i in at for x in s.postorder([i]) if x.name == "load")
            else:
                forms.append(form[0])
        else:
            stack.extend(e.args)


def _axes(e: Expr) -> set[int]:
    return {x.value for x in s.postorder([e]) if x.name == "axis"}  # type: ignore[misc]


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(prod(shape[k + 1 :]) for k in range(len(shape)))
