"""What the stages of a row keep for one another in a scratch row."""

from __future__ import annotations

from collections.abc import Callable

from staticgraph import scalar as s
from staticgraph.codegen.region import Region
from staticgraph.codegen.spec import LANES
from staticgraph.scalar import Expr
from staticgraph.types import ITEMSIZE

#: what a scratch row may take, so that it stays in the second-level cache
SCRATCH_LIMIT = 1 << 18
# Worth keeping between two stages of a row rather than computing again.
_DEAR_NAMES = """
    exp exp2 expm1 log log1p log2 log10 sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh
    atanh erf erfc erfinv ndtr npdf sigmoid softplus log_sigmoid silu gelu gelu_tanh power hypot
    logaddexp cbrt left_shift
"""
DEAR = frozenset(_DEAR_NAMES.split())


def choose(
    region: Region, deps: Callable[[Expr], frozenset[int]]
) -> tuple[dict[Expr, tuple[int, int]], int]:
    """What two stages need and is dear to compute: (scratch element offset, first level) of each,
    and the bytes of all. `deps` gives the axes an expression varies along.

    Kept are the largest such expressions: each stage after the first then starts from them.
    """
    saved: dict[Expr, tuple[int, int]] = {}
    v = len(region.sizes) - 1
    if region.inner != (v,):
        return saved, 0
    roots = region.roots()
    levels: dict[Expr, set[int]] = {}
    dear: dict[Expr, bool] = {}
    for level in sorted(roots):
        for e in s.postorder(roots[level]):
            levels.setdefault(e, set()).add(level)
            dear[e] = e.name in DEAR or any(dear.get(a, False) and v in deps(a) for a in e.args)
    offset = 0
    width = -(-region.sizes[v] // LANES) * LANES
    for level in sorted(roots):
        stack, seen = list(roots[level]), set()
        while stack:
            e = stack.pop()
            if e in seen or v not in deps(e):
                continue
            seen.add(e)
            if min(levels[e]) < level and dear[e] and e.name != "load":
                size = -(-width * ITEMSIZE[e.dtype] // 64) * 64
                if e not in saved and offset + size <= SCRATCH_LIMIT:
                    saved[e] = (offset // ITEMSIZE[e.dtype], min(levels[e]))
                    offset += size
                if e in saved:
                    continue
            stack.extend(e.args)
    return saved, offset
