"""A tensor of the graph: what users compute with, and its operators and methods.

Each of them calls the public function of `ops/` of its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.registry import FUNCTIONS
from staticgraph.types import TensorType

if TYPE_CHECKING:
    from staticgraph.ir import Node

#: ufuncs that NumPy names otherwise than `ops/`
_UFUNCS = {
    "true_divide": "divide", "absolute": "abs", "fabs": "abs", "conjugate": "conj",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arctan2": "atan2", "arcsinh": "asinh",
    "arccosh": "acosh", "arctanh": "atanh", "rint": "round", "invert": "bitwise_invert",
    "float_power": "power", "mod": "remainder",
}  # fmt: skip


#: what is no operand of any operator; objects of other classes may have operators of their own
_NO_OPERANDS = (str, bytes, dict, set, type(None))


def _binary(
    name: str, swap: bool = False, refused: tuple[type, ...] = _NO_OPERANDS
) -> Callable[[Tensor, Any], Tensor]:
    """An operator. The op itself refuses what is `refused`: its message says more than Python's."""

    def method(self: Tensor, other: Any) -> Tensor:
        if not is_tensor_like(other) and not isinstance(other, refused):
            return NotImplemented
        return FUNCTIONS[name](other, self) if swap else FUNCTIONS[name](self, other)

    return method


def _method(name: str, doc: str) -> Callable[..., Tensor]:
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return FUNCTIONS[name](self, *args, **kwargs)

    method.__doc__ = doc
    method.__name__ = name
    return method


def is_tensor_like(x: object) -> bool:
    """What an operator takes beside a tensor: scalars, arrays, nested sequences of them."""
    return isinstance(x, (Tensor, bool, int, float, complex, np.ndarray, np.generic, list, tuple))


class Tensor:
    """A value of the graph: dtype and static shape are known, the numbers come when it runs.

    Operators, indexing and methods are the functions of `sg.ops` of their names: they broadcast as
    NumPy does, and numbers beside a tensor take its dtype. `==` compares elements; a dictionary
    tells tensors apart by identity. What needs numbers (`if`, `float`, `np.asarray`, a loop over
    it) raises GraphTypeError, which says what to do instead.
    """

    __slots__ = ("__weakref__", "index", "node", "type")

    def __init__(self, node: Node, index: int, type: TensorType):
        self.node = node
        self.index = index
        self.type = type

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes, plain ints."""
        return self.type.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype as NumPy has it."""
        return np.dtype(self.type.dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.type.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.type.size

    @property
    def T(self) -> Tensor:
        """The axes in reverse order."""
        return FUNCTIONS["transpose"](self)

    @property
    def mT(self) -> Tensor:
        """The last two axes swapped."""
        if self.ndim < 2:
            raise ShapeError(f"mT: needs at least 2 axes, got {self.type}")
        return FUNCTIONS["transpose"](self, (*range(self.ndim - 2), self.ndim - 1, self.ndim - 2))

    __add__, __radd__ = _binary("add"), _binary("add", True)
    __sub__, __rsub__ = _binary("subtract"), _binary("subtract", True)
    __mul__, __rmul__ = _binary("multiply"), _binary("multiply", True)
    __truediv__, __rtruediv__ = _binary("divide"), _binary("divide", True)
    __floordiv__, __rfloordiv__ = _binary("floor_divide"), _binary("floor_divide", True)
    __mod__, __rmod__ = _binary("remainder"), _binary("remainder", True)
    __pow__, __rpow__ = _binary("power"), _binary("power", True)
    __matmul__, __rmatmul__ = _binary("matmul"), _binary("matmul", True)
    __and__, __rand__ = _binary("bitwise_and"), _binary("bitwise_and", True)
    __or__, __ror__ = _binary("bitwise_or"), _binary("bitwise_or", True)
    __xor__, __rxor__ = _binary("bitwise_xor"), _binary("bitwise_xor", True)
    __lshift__, __rlshift__ = _binary("left_shift"), _binary("left_shift", True)
    __rshift__, __rrshift__ = _binary("right_shift"), _binary("right_shift", True)
    __lt__, __le__ = _binary("less"), _binary("less_equal")
    __gt__, __ge__ = _binary("greater"), _binary("greater_equal")
    # A tensor may be compared with None or a name: it differs.
    __eq__: Callable[[Any], Tensor] = _binary("equal", refused=())  # type: ignore[assignment]
    __ne__: Callable[[Any], Tensor] = _binary("not_equal", refused=())  # type: ignore[assignment]
    # Elementwise == like NumPy, so identity is what a tensor hashes by.
    __hash__ = object.__hash__

    def __divmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return other // self, other % self

    def __neg__(self) -> Tensor:
        return FUNCTIONS["negative"](self)

    def __pos__(self) -> Tensor:
        return self

    def __abs__(self) -> Tensor:
        return FUNCTIONS["abs"](self)

    def __invert__(self) -> Tensor:
        return FUNCTIONS["bitwise_invert"](self)

    def __setitem__(self, key: Any, value: Any) -> None:
        raise GraphTypeError(
            f"a tensor ({self.type}) never changes; make another one with sg.ops.where(mask, value,"
            " x) or sg.ops.scatter_add"
        )

    def __getitem__(self, key: Any) -> Tensor:
        return FUNCTIONS["index"](self, key)

    sum = _method("sum", "Sum over `axis`; see sg.ops.sum.")
    mean = _method("mean", "Mean over `axis`; see sg.ops.mean.")
    max = _method("max", "Maximum over `axis`; see sg.ops.max.")
    min = _method("min", "Minimum over `axis`; see sg.ops.min.")
    prod = _method("prod", "Product over `axis`; see sg.ops.prod.")
    var = _method("var", "Variance over `axis`; see sg.ops.var.")
    std = _method("std", "Standard deviation over `axis`; see sg.ops.std.")
    all = _method("all", "Whether all are true over `axis`; see sg.ops.all.")
    any = _method("any", "Whether any is true over `axis`; see sg.ops.any.")
    argmax = _method("argmax", "Index of the first maximum; see sg.ops.argmax.")
    argmin = _method("argmin", "Index of the first minimum; see sg.ops.argmin.")
    astype = _method("astype", "The tensor in another dtype; see sg.ops.astype.")
    clip = _method("clip", "Limit to [min, max]; see sg.ops.clip.")
    squeeze = _method("squeeze", "Drop axes of size 1; see sg.ops.squeeze.")
    conj = _method("conj", "Complex conjugate; see sg.ops.conj.")
    swapaxes = _method("swapaxes", "Two axes swapped; see sg.ops.swapaxes.")
    round = _method("round", "Nearest integer, half to even; see sg.ops.round.")
    exp = _method("exp", "e to the x; see sg.ops.exp.")
    log = _method("log", "Natural logarithm; see sg.ops.log.")
    sqrt = _method("sqrt", "Square root; see sg.ops.sqrt.")
    tanh = _method("tanh", "Hyperbolic tangent; see sg.ops.tanh.")
    flatten = _method("flatten", "One axis; see sg.ops.flatten.")
    dot = _method("matmul", "Matrix product; see sg.ops.matmul.")

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in another shape; one size may be -1."""
        return FUNCTIONS["reshape"](self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Tensor:
        """The axes in another order; reversed when none is given."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return FUNCTIONS["transpose"](self, order or None)

    def __bool__(self) -> bool:
        raise GraphTypeError(
            f"a tensor ({self.type}) has no truth value while the graph is built:"
            " its numbers come when it runs; choose between values with sg.ops.where,"
            " between computations with sg.cond"
        )

    def __iter__(self) -> Iterator[Tensor]:
        raise GraphTypeError(
            f"a tensor ({self.type}) cannot be iterated over; take x[i] for each i you need,"
            " or sg.ops.unstack(x, axis=0)"
        )

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise GraphTypeError(
            f"a tensor ({self.type}) has no numbers while the graph is built: compile it with"
            " sg.compile(tensor) and call the result, or use the functions of sg.ops instead of"
            " NumPy's"
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *operands: Any, **kwargs: Any) -> Any:
        """`array + tensor` and `np.exp(tensor)` build graph, as the op of that name does."""
        name = _UFUNCS.get(ufunc.__name__, ufunc.__name__)
        if method != "__call__" or kwargs or name not in FUNCTIONS:
            raise GraphTypeError(
                f"np.{ufunc.__name__} has no numbers to work on while the graph is built;"
                " use the functions of sg.ops"
            )
        return FUNCTIONS[name](*operands)

    def __array_function__(
        self, function: Callable, types: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """`np.shape`, `np.ndim` and `np.size` of a tensor; NumPy's other functions need numbers."""
        name = function.__name__
        if name in ("shape", "ndim", "size") and len(args) == 1 and not kwargs:
            return getattr(args[0], name)
        there = f"sg.ops.{name}" if name in FUNCTIONS else "the functions of sg.ops"
        raise GraphTypeError(
            f"np.{name} has no numbers to work on while the graph is built; use {there}"
        )

    def __float__(self) -> float:
        raise GraphTypeError(
            f"a tensor ({self.type}) is no Python number; compile it and call the result"
        )

    __int__ = __index__ = __complex__ = __float__  # type: ignore[assignment]

    def __len__(self) -> int:
        if not self.shape:
            raise GraphTypeError("a 0-d tensor has no len()")
        return self.shape[0]

    def __repr__(self) -> str:
        name = self.node.attrs.get("name") if not self.node.operands else None
        return f"<Tensor {name or self.node.op.name}: {self.type}>"
