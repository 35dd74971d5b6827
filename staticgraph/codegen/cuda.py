"""CUDA source of a region without partial sums: a thread per element, or several for a row.

The text is Python that `numba.cuda` compiles; `k(x0, ..., y0)` takes flat device arrays. How a
region spreads over blocks and threads depends on shapes alone, and every reduction is a loop per
thread and then a tree in shared memory: the same bits in every run.
"""

from __future__ import annotations

from math import prod

from staticgraph.codegen.cudatext import CudaSpec, Scope, Writer, indent, power_of_two
from staticgraph.codegen.region import Reduction, Store

#: threads of a block at most
THREADS = 256
#: a thread starts a new partial sum after so many elements of a row
CHUNK = 256


class Elements(Writer):
    """No reduction: a thread per element."""

    def kernel(self) -> CudaSpec:
        total = prod(self.sizes)
        threads = min(THREADS, power_of_two(total))
        self.scopes = [Scope(set(range(len(self.sizes))))]
        self.stores(self.region.stores)
        body = [*self.decode(range(len(self.sizes)), "p"), *self.scopes[0].lines]
        lines = [f"p = int64(cuda.blockIdx.x) * {threads} + cuda.threadIdx.x"]
        lines += body if total % threads == 0 else [f"if p < {total}:", *indent(body)]
        return self.finish(lines, -(-total // threads), threads)


class Rows(Writer):
    """Reductions over inner axes: `lanes` threads sweep a row, once per stage."""

    def geometry(self) -> None:
        region, sizes = self.region, self.sizes
        self.outer, self.inner = region.outer, region.inner
        self.rows = prod(sizes[k] for k in self.outer)
        self.columns = prod(sizes[k] for k in self.inner)
        if len(sizes) - 1 in self.inner:
            self.lanes = min(THREADS, power_of_two(self.columns))
        elif self.columns < 64 or self.rows >= 1 << 14:
            self.lanes = 1  # neighbouring threads read neighbouring elements
        else:
            self.lanes = min(THREADS, power_of_two(-(-self.columns // 16)))
        self.threads = max(self.lanes, min(THREADS // 2, power_of_two(self.rows * self.lanes)))
        self.together = self.threads // self.lanes  # rows at a time
        self.guard = "on" if self.rows % self.together else None

    def kernel(self) -> CudaSpec:
        self.geometry()
        row = Scope({*self.outer, -1})
        self.scopes = [row]
        self.sweeps(row)
        lines = self.threads_lines()
        group = "int64(cuda.blockIdx.x)"
        lines += self.row_lines(
            group if self.together == 1 else f"{group} * {self.together} + group"
        )
        return self.finish([*lines, *row.lines], -(-self.rows // self.together), self.threads)

    def threads_lines(self) -> list[str]:
        """The place of a thread: lane of a row, row of the block."""
        if self.together == 1:
            return ["t = int64(cuda.threadIdx.x)", "lane = t"]
        return [
            "t = int64(cuda.threadIdx.x)",
            f"lane = t % {self.lanes}",
            f"group = t // {self.lanes}",
        ]

    def row_lines(self, place: str) -> list[str]:
        """Indices of row `place`; threads past the last row repeat it and store nothing."""
        lines = [f"p = {place}"]
        if self.guard:
            lines += [f"on = p < {self.rows}", f"p = minimum_i64(p, {self.rows - 1})"]
        return lines + self.decode(self.outer, "p")

    def sweeps(self, row: Scope) -> None:
        region = self.region
        for level in range(region.levels + 1):
            reductions = [r for r in region.reductions if r.level == level]
            stores = [st for st in region.stores if st.level == level and st.inner]
            if reductions or stores:
                self.sweep(row, reductions, stores)
            flat = [st for st in region.stores if st.level == level and not st.inner]
            self.stores(
                flat,
                " and ".join(filter(None, [self.guard, "lane == 0" if self.lanes > 1 else None])),
            )

    def sweep(self, row: Scope, reductions: list[Reduction], stores: list[Store]) -> None:
        """One pass over the row: reduce, store, then join the threads' results."""
        body = Scope({*row.axes, *self.inner})
        self.scopes.append(body)
        rows = [r for r in reductions if r.kind == "rows"]
        long = bool(rows) and -(-self.columns // self.lanes) > CHUNK
        letter = "c" if long else "r"
        for r in rows:
            name = f"{letter}{r.leaf.value}"
            body.lines.append(f"{name} = {self.add(r, name, self.value(r.body))}")
        for r in reductions:
            if r.kind != "rows":
                self.sink(r, body)
        self.stores(stores, self.guard)
        self.scopes.pop()
        index = self.at[self.inner[0]] if len(self.inner) == 1 else "j"
        lines = [*self.decode(self.inner, index), *body.lines]
        row.lines += [f"r{r.leaf.value} = {self.start(r)}" for r in rows]
        if long:
            span = self.lanes * CHUNK
            lines = [
                *(f"c{r.leaf.value} = {self.start(r)}" for r in rows),
                f"for {index} in range(b, minimum_i64(b + {span}, {self.columns}), {self.lanes}):",
                *indent(lines),
                *(f"r{n} = {self.add(r, f'r{n}', f'c{n}')}" for r in rows for n in [r.leaf.value]),
            ]
            row.lines += [f"for b in range(lane, {self.columns}, {span}):", *indent(lines)]
        else:
            row.lines += [
                f"for {index} in range(lane, {self.columns}, {self.lanes}):",
                *indent(lines),
            ]
        row.lines += self.tree(
            [(f"r{r.leaf.value}", r.combine, r.body.dtype) for r in rows], "lane", self.lanes
        )
        for r in rows:
            row.names[r.leaf] = f"r{r.leaf.value}"

    def sink(self, r: Reduction, body: Scope) -> None:
        raise NotImplementedError
