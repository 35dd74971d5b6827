"""CUDA source of a sum of products: matrix products and convolutions as tiles in shared memory.

Which axes are rows, columns and batch is read off the two factors: rows are the axes that only the
left one varies along, columns those of the right one, batch the others. So every contraction that
lowers to `sum(left * right)` takes this road, with the expressions before and after it inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from staticgraph import scalar as s
from staticgraph.codegen.cudatext import CudaSpec, Scope, Writer, indent, literal
from staticgraph.codegen.region import Region
from staticgraph.scalar import Expr
from staticgraph.types import SHORT, is_complex, is_float

#: a block is SIDE x SIDE threads, and SIDE products deep at a time
SIDE = 16
#: with results of at least so many rows and columns, a thread computes 4 x 4 of them
WIDE = 64
#: below so many rows, columns or products a tile would stand mostly empty
LEAST = 8


@dataclass(frozen=True)
class Product:
    """The two factors and what the axes of the region are to them."""

    left: Expr
    right: Expr
    batch: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]


def product_of(region: Region) -> Product | None:
    """How a region is a contraction worth tiling, None where it is not."""
    if region.sinks or len(region.reductions) != 1:
        return None
    (r,) = region.reductions
    if r.combine != "sum" or r.body.name != "multiply":
        return None
    left, right = r.body.args
    a, b = _axes(left), _axes(right)
    if region.sizes and len(region.sizes) - 1 in a - b:
        left, right, a, b = right, left, b, a
    rows = tuple(k for k in region.outer if k in a and k not in b)
    columns = tuple(k for k in region.outer if k in b and k not in a)
    batch = tuple(k for k in region.outer if k not in (*rows, *columns))
    extents = [prod(region.sizes[k] for k in axes) for axes in (rows, columns, region.inner)]
    return Product(left, right, batch, rows, columns) if min(extents) >= LEAST else None


def _axes(e: Expr) -> set[int]:
    return {x.value for x in s.postorder([e]) if x.name == "axis"}  # type: ignore[misc]


class Tiles(Writer):
    """A block computes SIDE x SIDE results, or 4 x 4 times as many."""

    def __init__(self, region: Region, name: str, product: Product):
        super().__init__(region, name)
        self.product = product
        (self.reduction,) = region.reductions
        self.dtype = self.reduction.body.dtype
        self.m, self.n, self.k = (
            prod(self.sizes[k] for k in axes)
            for axes in (product.rows, product.columns, region.inner)
        )
        self.width = 4 if min(self.m, self.n) >= WIDE else 1
        self.tile = SIDE * self.width
        self.down, self.across = -(-self.m // self.tile), -(-self.n // self.tile)

    def kernel(self) -> CudaSpec:
        p, dtype = self.product, self.dtype
        block = Scope(set(p.batch))
        load = [*self.factor(block, "left"), *self.factor(block, "right")]
        after = self.epilogue(block)
        count = self.width**2
        lines = [
            f"left = cuda.shared.array({self.tile * SIDE}, {dtype})",
            f"right = cuda.shared.array({self.tile * SIDE}, {dtype})",
            f"sums = cuda.local.array({count}, {dtype})",
            "t = int64(cuda.threadIdx.x)",
            f"x = t % {SIDE}",
            f"y = t // {SIDE}",
            "block = int64(cuda.blockIdx.x)",
            f"top = block // {self.across} % {self.down} * {self.tile}",
            f"side = block % {self.across} * {self.tile}",
            f"p = block // {self.down * self.across}",
            *self.decode(p.batch, "p"),
            *block.lines,
            f"for u in range({count}):",
            f"    sums[u] = {literal(0, dtype)}",
            f"for b in range(0, {self.k}, {SIDE}):",
            *indent([*load, "cuda.syncthreads()", *self.multiply(), "cuda.syncthreads()"]),
            *after,
        ]
        batch = prod(self.sizes[k] for k in p.batch)
        made = self.finish(lines, batch * self.down * self.across, SIDE * SIDE)
        read = {x.value[0] for x in s.postorder([self.reduction.body]) if x.name == "load"}  # type: ignore[index]
        made.inplace = frozenset((o, i) for o, i in made.inplace if i not in read)
        return made

    def repeated(self, name: str, lines: list[str]) -> list[str]:
        """Lines for each of the thread's `width` rows or columns."""
        if self.width == 1:
            return [f"{name} = 0", *lines]
        return [f"for {name} in range({self.width}):", *indent(lines)]

    def factor(self, block: Scope, side: str) -> list[str]:
        """Fill a factor's tile: past the ends its last element again, past the products 0."""
        p = self.product
        e, axes, size = (p.left, p.rows, self.m) if side == "left" else (p.right, p.columns, self.n)
        scope = Scope({*p.batch, *axes, *self.region.inner})
        self.scopes = [block, scope]
        value = self.value(e)
        mine, deep, place = ("top + y", "x", f"(y + e * {SIDE}) * {SIDE} + x")
        if side == "right":
            mine, deep, place = ("side + x", "y", f"y * {self.tile} + x + e * {SIDE}")
        lines = [f"q = {mine} + e * {SIDE}", f"d = b + {deep}"]
        if size % self.tile:
            lines[0] = f"q = minimum_i64({mine} + e * {SIDE}, {size - 1})"
        if self.k % SIDE:
            lines[1] = f"d = minimum_i64(b + {deep}, {self.k - 1})"
            value = f"{value} if b + {deep} < {self.k} else {literal(0, self.dtype)}"
        lines += [*self.decode(axes, "q"), *self.decode(self.region.inner, "d"), *scope.lines]
        return self.repeated("e", [*lines, f"{side}[{place}] = {value}"])

    def multiply(self) -> list[str]:
        """The products of two tiles, in order of depth."""
        one, many = range(self.width), []
        for i in one:
            many.append(f"a{i} = left[(y + {i * SIDE}) * {SIDE} + u]")
            many.append(f"b{i} = right[u * {self.tile} + x + {i * SIDE}]")
        for i in one:
            for j in one:
                total = f"sums[{i * self.width + j}]"
                fused = f"{self.dtype}({total} + a{i} * b{j})"
                if is_float(self.dtype):
                    fused = f"cuda.fma(a{i}, b{j}, {total})"
                elif is_complex(self.dtype):
                    fused = f"{total} + multiply_{SHORT[self.dtype]}(a{i}, b{j})"
                many.append(f"{total} = {fused}")
        return [f"for u in range({SIDE}):", *indent(many)]

    def epilogue(self, block: Scope) -> list[str]:
        """What follows the sum, at each of the thread's results."""
        p, leaf = self.product, self.reduction.leaf
        scope = Scope({*p.batch, *p.rows, *p.columns, -1})
        scope.names[leaf] = f"r{leaf.value}"
        self.scopes = [block, scope]
        self.stores(self.region.stores)
        body = [
            f"r{leaf.value} = sums[e * {self.width} + f]",
            *self.decode(p.rows, "q"),
            *self.decode(p.columns, "d"),
            *scope.lines,
        ]
        inside = [f"q = top + y + e * {SIDE}", f"d = side + x + f * {SIDE}"]
        inside += [f"if q < {self.m} and d < {self.n}:", *indent(body)]
        return self.repeated("e", self.repeated("f", inside))
