"""What every contraction kernel is made of: steps, epilogues, source text, register tile shapes."""

import ast
import builtins
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import llvmlite.binding as llvm

from staticgraph.codegen.contract_shapes import LANES

PACKAGE = "staticgraph.codegen"
MAKERS = {
    "contract_shapes": {"Tile", "Column", "Dots", "Gather"},
    "microkernel": {"column_of_tiles", "dot_products"},
    "contract_moves": {"block_copy", "block_transpose", "patch_gather"},
}
ITEM = {
    "b1": 1, "i8": 1, "u8": 1, "i16": 2, "u16": 2, "i32": 4, "u32": 4, "f32": 4,
    "i64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
PARALLEL_FLOPS = 200_000  # below this the launcher's fork costs more than a second thread gives

Ref = str | tuple[str, int]


@dataclass(frozen=True)
class KernelStep:
    """One kernel: its source (`def <name>(lo, hi, bufs, scratch)`) and what its launch needs.

    `buffers` lists what entry i of the pointer table holds: 'a', 'b', 'out', ('ws', i) for a shared
    workspace of `Steps.workspace[i]` bytes, ('ep', j) for buffer j of the epilogue.
    """

    name: str
    source: str
    ntiles: int
    buffers: tuple[Ref, ...]
    scratch_bytes: int
    flops: int
    parallel_worthwhile: bool


@dataclass(frozen=True)
class Steps:
    """Kernels to run one after the other.

    `view` is (batch, rows, columns): how the last kernel, which carries the epilogue, sees the
    contiguous output. The lanes handed to the epilogue run along the columns.
    """

    kernels: tuple[KernelStep, ...]
    workspace: tuple[int, ...]
    view: tuple[int, int, int]


class Epilogue(Protocol):
    """What happens to each finished vector of sums.

    `buffers` are the references the emitted lines need. `prologue` gives lines for the start of the
    kernel, after the pointers `names` (one int64 address per buffer) are loaded. `emit` gives lines
    for 16 sums `acc`, output elements `index` .. `index + 15` in flat order, which lie in row `row`
    of matrix `batch` from column `col` on; all four are source of int64 scalars without side
    effects. `mask` names a Vec(b1) of the valid lanes, or is None when all are.
    """

    imports: tuple[str, ...]
    buffers: tuple[Ref, ...]

    def prologue(self, names: Sequence[str]) -> list[str]: ...

    def emit(
        self, indent: str, index: str, batch: str, row: str, col: str, acc: str, mask: str | None
    ) -> list[str]: ...


@dataclass
class Store:
    """The plain epilogue: write the sums to one buffer."""

    code: str
    target: Ref = "out"
    imports: tuple[str, ...] = ()
    pointer: str = ""

    @property
    def buffers(self):
        return (self.target,)

    def prologue(self, names):
        (self.pointer,) = names
        return []

    def emit(self, indent, index, batch, row, col, acc, mask):
        if mask is None:
            return [f"{indent}vst_{self.code}({self.pointer}, {index}, {acc})"]
        return [f"{indent}vstm_{self.code}({self.pointer}, {index}, {acc}, {mask})"]


def free_names(text):
    """Names that the source `text` reads but neither defines nor finds in Python; of imports, the
    names they bring."""
    names = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)]
    stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    brought = {n.asname or n.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.alias)}
    return brought or read - stored - {"lo", "hi", "bufs", "scratch", *vars(builtins)}


class Source:
    """Lines of one kernel function, indented by nesting."""

    def __init__(self):
        self.lines, self.depth, self.helpers = [], 1, {}

    @property
    def indent(self):
        return "    " * self.depth

    def __call__(self, *lines):
        self.lines.extend(self.indent + line for line in lines)

    def raw(self, lines):
        """Lines that carry their own indentation."""
        self.lines.extend(lines)

    def begin(self, head):
        """Open a block; the caller resets `depth` to end it."""
        self(head + ":")
        self.depth += 1

    def open(self, head):
        """`with source.open("for ..."):` indents what follows by one level."""
        self.begin(head)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.depth -= 1

    def helper(self, made, prefix):
        """The name under which the kernel's module holds the function that the source `made`
        gives."""
        if made not in self.helpers:
            self.helpers[made] = f"{prefix}_{len(self.helpers)}"
        return self.helpers[made]

    def column(self, column):
        return self.helper(f"column_of_tiles({column!r})", "column")

    def dots(self, dots):
        return self.helper(f"dot_products({dots!r})", "dots")

    def gather(self, gather):
        return self.helper(f"patch_gather({gather!r})", "gather")

    def copy(self, code, src_row, dst_row, width):
        return self.helper(f"block_copy({code!r}, {src_row}, {dst_row}, {width})", "copy")

    def transpose(self, code, lanes, src_row, dst_row):
        made = f"block_transpose({code!r}, {lanes}, {src_row}, {dst_row})"
        return self.helper(made, "transpose")

    def step(self, name, about, epilogue, *, ntiles, buffers, flops, scratch=0, weight=1):
        """The finished kernel. `weight` tells how much longer than a multiply-add of a matrix
        product one of this kernel's operations takes."""
        text = self.text(name, about, epilogue.imports)
        worth = flops * weight >= PARALLEL_FLOPS
        return KernelStep(name, text, ntiles, buffers, scratch, flops, worth)

    def text(self, name, about, imports):
        """The whole module: imports, helper functions, the kernel function."""
        body = "\n".join([f"def {name}(lo, hi, bufs, scratch):", *self.lines])
        head = [f'"""{about}"""', ""]
        used = free_names(body) - set(self.helpers.values()) - free_names("\n".join(imports))
        head.append(f"from {PACKAGE}.vector import {', '.join(sorted(used))}")
        made = set(re.findall(r"\w+", " ".join(self.helpers)))
        for module, names in MAKERS.items():
            if chosen := sorted(made & names):
                head.append(f"from {PACKAGE}.{module} import {', '.join(chosen)}")
        head.extend(imports)
        head.extend(f"\n{name} = {made}" for made, name in self.helpers.items())
        return "\n".join([*head, "", "", body, ""])


@lru_cache
def machine():
    """(bytes of a vector register, number of them, whether fused multiply-add exists)."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64, 32, True
    if features.get("avx2") or features.get("avx"):
        return 32, 16, bool(features.get("fma"))
    return 16, 16, False


@dataclass(frozen=True)
class Shape:
    """Rows and vectors of the register tile for a matrix, and the width of its column panels."""

    rows: int
    vectors: int
    lanes: int
    fused: bool

    @property
    def panel(self):
        """Columns from one panel to the next: whole 16-lane groups, so that packing and the
        epilogue work in the same unit on every machine."""
        return -(-self.vectors * self.lanes // LANES) * LANES


def tile_shape(code, m, n, vectors=2):
    """Register tile for an m x n result: fill the registers with sums, few rows need wide tiles.

    `vectors`: the least width where there are many registers and columns enough. Packed panels of B
    are best walked by tiles four wide (a broadcast of A then serves four multiply-adds), rows that
    lie far apart by tiles two wide.
    """
    width, registers, fused = machine()
    lanes = width // ITEM[code]
    unit = max(1, LANES // lanes)
    budget = 24 if registers == 32 else 12
    narrow = -(-n // lanes)
    wide = unit if registers == 16 else min(vectors, up(narrow, unit))
    vectors = max(wide, unit)
    while vectors + unit <= min(8, narrow, budget // max(m, 1)):
        vectors += unit
    rows = max(1, min(budget // vectors, m))
    return Shape(rows, min(vectors, narrow), lanes, fused)


def up(value, unit):
    """The next multiple of `unit`."""
    return -(-value // unit) * unit


def starts(index, size, extra):
    """Source of the start of part `index` of a balanced split, whose first `extra` parts are
    size + 1 long."""
    return f"{index} * {size} + min({index}, {extra})" if extra else f"{index} * {size}"


def load_pointers(s, epilogue, operands):
    """Start of a kernel: operand addresses (reference -> name), then the epilogue's lines.

    Returns the buffer references in table order.
    """
    names = tuple(f"buf{i}" for i in range(len(epilogue.buffers)))
    for i, name in enumerate((*operands.values(), *names)):
        s(f"{name} = ptr(bufs, {i})")
    s.raw(f"{s.indent}{line}" for line in epilogue.prologue(names))
    return (*operands, *epilogue.buffers)


def hand_over(s, epilogue, mask):
    """The epilogue's lines for `acc`, whose place is in `index`, `batch`, `row` and `col`."""
    s.raw(epilogue.emit(s.indent, "index", "batch", "row", "col", "acc", mask))


def finish_columns(s, code, epilogue, tail):
    """Hand columns col0 .. col1 of one row to the epilogue: `line` is the address that column 0 of
    the sums would have, `flat` the flat index of the row. Without `tail` the count is a multiple
    of the lanes."""
    s(f"whole = col0 + (col1 - col0) // {LANES} * {LANES}" if tail else "whole = col1")
    with s.open(f"for col in range(col0, whole, {LANES})"):
        s("index = flat + col", f"acc = vld_{code}(line, col)")
        hand_over(s, epilogue, None)
    if tail:
        with s.open("if whole < col1"):
            s(
                "col = whole",
                "index = flat + col",
                "edge = lanes(col1 - col)",
                f"acc = vldm_{code}(line, col, edge)",
            )
            hand_over(s, epilogue, "edge")


def combine_kernel(code, count, m, n, parts, epilogue):
    """Add the `parts` partial results of ws[0] in order and hand the sums to the epilogue."""
    s, edge, total, rows = Source(), n % LANES, count * m * n, count * m
    buffers = load_pointers(s, epilogue, {("ws", 0): "partial"})
    tiles = max(1, min(16, total * parts // 16384, rows))
    if edge:
        s(f"edge = lanes({edge})")

    def sums(mask):
        load = f"vld_{code}(partial, {{}})" if mask is None else f"vldm_{code}(partial, {{}}, edge)"
        s("index = flat + col", f"acc = {load.format('index')}")
        with s.open(f"for part in range(1, {parts})"):
            s(f"acc = acc + {load.format(f'index + part * {total}')}")
        hand_over(s, epilogue, mask)

    with s.open(f"for line in range(lo * {rows} // {tiles}, hi * {rows} // {tiles})"):
        s(f"batch = line // {m}", f"row = line - batch * {m}", f"flat = line * {n}")
        with s.open(f"for col in range(0, {n - edge}, {LANES})"):
            sums(None)
        if edge:
            s(f"col = {n - edge}")
            sums("edge")
    about = f"sum of {parts} partial results {count} x {m} x {n}"
    return s.step("combine", about, epilogue, ntiles=tiles, buffers=buffers, flops=total * parts)
