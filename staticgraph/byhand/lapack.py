"""What kernels that call LAPACK share: arguments by address, memory of their own, batches.

LAPACK takes columns, so it sees the transpose of each of our matrices. Every kernel here says what
it wants of that transpose, and nothing is ever transposed in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from staticgraph.byhand.source import Source, strides
from staticgraph.codegen.spec import LANES, KernelSpec
from staticgraph.errors import InternalError
from staticgraph.types import ITEMSIZE, SHORT

IMPORT = "from staticgraph.codegen.lapackcalls import *  # noqa: F403\n"
LETTER = {"float32": "s", "float64": "d", "complex64": "c", "complex128": "z"}
#: columns that LAPACK may treat at once: work space is given for that many
BLOCK = 64
_LINE, _SLOT, _CONSTANTS = 64, 16, 16


class LapackSource(Source):
    """The text of a kernel over matrices of one dtype that calls LAPACK.

    The beginning of the scratch memory holds constant arguments, then come the regions.
    """

    def __init__(self, dtype: str, **pointers: tuple[str, int]):
        super().__init__(**pointers)
        self.dtype, self.code, self.letter = dtype, SHORT[dtype], LETTER[dtype]
        self.size = ITEMSIZE[dtype]
        self.start = len(self.lines)
        self.constants: dict[tuple[type, int | float | str], int] = {}
        self.regions: list[str] = []
        self.used = _CONSTANTS * _SLOT
        self.emit(0, "for m in range(lo, hi):")

    def region(self, name: str, count: int, code: str = "") -> str:
        """Memory for `count` elements, at a local address of that name."""
        itemsize = {"i32": 4, "f32": 4, "f64": 8}.get(code, self.size)
        self.regions.append(f"{name} = scratch + {self.used}")
        self.used += -(-max(count, 1) * itemsize // _LINE) * _LINE
        return name

    def argument(self, value: int | float | str) -> str:
        """The address of a constant: an int, a number of the dtype (as a float), or a letter in
        quotes. Anything else is an address already."""
        if isinstance(value, str) and not value.startswith("'"):
            return value
        key = (type(value), value)
        slot = self.constants.setdefault(key, _SLOT * len(self.constants))
        return f"scratch + {slot}"

    def stores(self) -> list[str]:
        """Lines that put the constants in their places."""
        lines = []
        for (kind, value), slot in self.constants.items():
            if kind is str:
                lines.append(f"st_u8(scratch, {slot}, {ord(value[1])})")
            elif kind is int:
                lines.append(f"st_i32(scratch, {slot // 4}, {value})")
            else:
                lines.append(f"st_{self.code}(scratch, {slot // self.size}, {value})")
        return lines

    def call(self, depth: int, routine: str, *values: int | float | str) -> None:
        arguments = ", ".join(map(self.argument, values))
        self.emit(depth, f"lapack_{self.letter}{routine}({arguments})")

    def copy(self, depth: int, to: str, source: str, count: int | str) -> None:
        """Elements that lie side by side; `to` and `source` are addresses with the first index."""
        self.emit(
            depth,
            f"for c in range(0, {count}, {LANES}):",
            f"    mask = lanes({count} - c)",
            f"    vstm_{self.code}({to} + c, vldm_{self.code}({source} + c, mask), mask)",
        )

    def fill(self, depth: int, to: str, count: int | str, value: str, code: str = "") -> None:
        code = code or self.code
        self.emit(
            depth,
            f"for c in range(0, {count}, {LANES}):",
            f"    vstm_{code}({to} + c, splat_{code}({value}), lanes({count} - c))",
        )

    def identity(self, depth: int, name: str, n: int) -> None:
        """The identity as matrix m of `name`."""
        self.emit(depth, f"for i in range({n}):", f"    row = (m * {n} + i) * {n}")
        self.fill(depth + 1, f"{name}, row", n, "0")
        self.emit(depth + 1, f"st_{self.code}({name}, row + i, 1)")

    def finished(self, name: str, tiles: int, elements: int) -> KernelSpec:
        if len(self.constants) > _CONSTANTS:
            raise InternalError(f"{name}: more than {_CONSTANTS} constant arguments")
        self.lines[self.start : self.start] = [*self.regions, *self.stores()]
        spec = self.kernel(name, tiles, elements, self.used)
        spec.text = IMPORT + spec.text
        return spec


def place(name: str, own: Sequence[int], batch: Sequence[int], size: int, tile: str) -> list[str]:
    """Lines that set `name` to the first element of the matrix, of `size` elements, that an operand
    with leading axes `own` has for the matrix `tile` of a result with leading axes `batch`."""
    if prod(own) == 1:
        return [f"{name} = 0"]
    if tuple(own) == tuple(batch):
        return [f"{name} = {tile} * {size}"]
    missing = len(batch) - len(own)
    steps, terms, rest = strides(own), [], prod(batch)
    for axis, n in enumerate(batch):
        rest //= n
        if axis >= missing and own[axis - missing] != 1:
            terms.append(f"{tile} // {rest} % {n} * {steps[axis - missing] * size}")
    return [f"{name} = {' + '.join(terms)}"]
