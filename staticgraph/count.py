"""What a node costs: floating-point operations and bytes as exact integers, from its meaning alone.

Nothing here looks at kernels or at a machine, so that fusing, tiling and threads change no number:
the cost of a fused node is the sum of its members, less the bytes that stay inside it.

flops: one for each scalar operation on floats (comparisons and calls such as `exp` too), over the
    whole iteration space. A contraction of k terms is k multiplications and k additions; any other
    reduction of n elements is n - 1 operations per result. Convolutions count the products whose
    input element exists, padding left out. Complex numbers count their real operations. Index
    arithmetic, integers, bools, casts and choices (`where`) count nothing.
transcendentals: how many of them call a function (exp, tanh, ...), at whatever price.
bytes: each operand once, as far as its elements are touched (a slice, a gather, a row), and each
    result once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import NamedTuple

from staticgraph import scalar as s
from staticgraph.fusion import CONTRACTIONS, FUSION
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node
from staticgraph.op import Elementwise, NestOp
from staticgraph.tensor import Tensor
from staticgraph.types import ITEMSIZE, is_complex, is_float

#: primitives that move or choose values
FREE = frozenset(("where", "real", "imag", "complex", "conj")) | frozenset(
    ("logical_and", "logical_or", "logical_xor", "logical_not")
)
#: primitives that call a function
TRANSCENDENTAL = frozenset(
    ("power", "atan2", "hypot", "logaddexp", "cbrt", "exp", "exp2", "expm1",
     "log", "log1p", "log2", "log10", "sin", "cos", "tan", "asin", "acos", "atan",
     "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "erfinv", "ndtr", "npdf",
     "sigmoid", "softplus", "log_sigmoid", "gelu_tanh", "lgamma", "digamma")
)  # fmt: skip
#: real operations of one operation on complex numbers, 2 where nothing stands here
COMPLEX = {"multiply": 6, "divide": 11, "square": 6, "reciprocal": 6, "abs": 4}
#: nodes whose results are the memory of an operand, or that hold what is there already
NOTHING = frozenset(("reshape", "stop_gradient", "check", "late", "nothing"))


class Cost(NamedTuple):
    """Operations and bytes of one execution."""

    flops: int = 0
    transcendentals: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    @property
    def bytes(self) -> int:
        return self.bytes_read + self.bytes_written


def cost(node: Node) -> Cost:
    """The cost of any node; of a `cond`, that of its dearer branch."""
    if node.op in (INPUT, CONSTANT, VARIABLE) or node.op.name in NOTHING:
        return Cost()
    flops, calls = operations(node)
    written = sum(t.type.nbytes for t in node.results)
    return Cost(flops, calls, sum(reads(node).values()), written)


def total(graph: Graph) -> Cost:
    """The sum over the nodes of a graph, each by itself."""
    return Cost(*map(sum, zip(*map(cost, graph.nodes), strict=True))) if graph.nodes else Cost()


def reads(node: Node) -> dict[Tensor, int]:
    """Bytes read of each distinct operand."""
    if node.op is FUSION:
        inside = touched(node.attrs["body"])
        found: dict[Tensor, int] = {}
        for t, inner in zip(node.operands, node.attrs["body"].inputs, strict=True):
            found[t] = max(found.get(t, 0), inside.get(inner, 0) * ITEMSIZE[t.type.dtype])
        return found
    sizes = [r.size for r in node.results]
    return {
        t: needed(node, k, sizes) * ITEMSIZE[t.type.dtype]
        for k, t in reversed(list(enumerate(node.operands)))
    }


def operations(node: Node) -> tuple[int, int]:
    """(flops, transcendentals) of one execution of a node."""
    op = node.op
    if op is FUSION:
        return _sum(operations(n) for n in node.attrs["body"].nodes)
    if op.bodies:
        each = [_sum(operations(n) for n in node.attrs[name].nodes) for name in op.bodies]
        return max(each) if op.name == "cond" else _sum(each)
    if op.name in CONTRACTIONS:
        return products(node) * _multiply_add(node.results[0].type.dtype), 0
    own = getattr(op, "flops", None)
    if own is not None:
        return own([t.type for t in node.operands], node.types, **node.attrs), 0
    if not isinstance(op, NestOp) or op.name in NOTHING:
        return BY_HAND.get(op.name, _nothing)(node), 0
    nest = op.nest([t.type for t in node.operands], node.results[0].type, **node.attrs)
    flops, calls = expression(nest.body)
    elements = prod(nest.axes)
    joins = 0
    if nest.combine is not None:
        joins = max(0, elements - prod(nest.shape)) * _weight("add", nest.body.dtype)
    return elements * flops + joins, elements * calls


def _sum(parts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    flops = calls = 0
    for f, c in parts:
        flops, calls = flops + f, calls + c
    return flops, calls


def _nothing(node: Node) -> int:
    return 0


def _additions(node: Node) -> int:
    """One addition for each element that is added into the result."""
    values = node.operands[0]
    return values.size * _weight("add", values.type.dtype)


def _scan(node: Node) -> int:
    """One operation for each element after the first of a line."""
    x = node.results[0]
    lines = x.size // max(1, x.shape[node.attrs["axis"]])
    return (x.size - lines) * _weight("add", x.type.dtype)


def _product_scan(node: Node) -> int:
    """One multiplication for each element after the first of a line."""
    dtype = node.results[0].type.dtype
    return _scan(node) // max(1, _weight("add", dtype)) * _weight("multiply", dtype)


def _linear_scan(node: Node) -> int:
    """A multiplication and an addition for each element after the first of a line."""
    return _scan(node) + _product_scan(node)


def _linear_algebra(formula: Callable[[int, int], int]) -> Callable[[Node], int]:
    """`formula(n, columns)` for each matrix of a stack of right-hand sides, or factors alone."""

    def flops(node: Node) -> int:
        n = node.operands[0].shape[-1]
        solved = node.results[0].shape
        dtype = node.results[0].type.dtype
        weight = _multiply_add(dtype) // 2 if is_complex(dtype) else 1
        return prod(solved[:-2]) * formula(n, solved[-1]) * weight

    return flops


#: flops of ops that no nest describes and that declare no `flops` themselves; those of matrices
#: as LAPACK counts them (Blackford and Dongarra, LAPACK Working Note 41). What is not here, such as
#: sorting, or decompositions whose steps depend on the numbers, counts none
BY_HAND: dict[str, Callable[[Node], int]] = {
    "scatter_add": _additions,
    "cumsum": _scan,
    "cumprod": _product_scan,
    "cummax": _scan,
    "cummin": _scan,
    "linear_scan": _linear_scan,
    "cholesky_factor": _linear_algebra(lambda n, _: n * (n + 1) * (2 * n + 1) // 6),
    "lu_factor": _linear_algebra(lambda n, _: n * (n - 1) * (4 * n + 1) // 6),
    "lu_inverse": _linear_algebra(lambda n, _: n * (4 * n * n - 3 * n + 5) // 3),
    "lu_solve": _linear_algebra(lambda n, m: (2 * n * n - n) * m),
    "triangular_solve": _linear_algebra(lambda n, m: n * n * m),
}


def _weight(name: str, dtype: str) -> int:
    if is_complex(dtype):
        return COMPLEX.get(name, 2)
    return int(is_float(dtype))


def _multiply_add(dtype: str) -> int:
    return _weight("multiply", dtype) + _weight("add", dtype)


def expression(root: s.Expr) -> tuple[int, int]:
    """(flops, transcendentals) of a scalar expression; indices of loads count nothing."""
    flops = calls = 0
    seen: set[int] = set()
    stack = [root]
    while stack:
        e = stack.pop()
        if id(e) in seen or e.name == "load":
            continue
        seen.add(id(e))
        stack.extend(e.args)
        if e.name in s.PRIMS and e.name not in FREE:
            weight = max(_weight(e.name, a.dtype) for a in e.args)
            flops += weight * (2 if e.name == "fma" else 1)
            calls += e.name in TRANSCENDENTAL and weight > 0
    return flops, calls


# ---------------------------------------------------------------------------- contractions


def products(node: Node) -> int:
    """Multiplications of a matrix product or a convolution."""
    a, b = node.operands
    if node.op.name == "matmul":
        return node.results[0].size * a.shape[-1]
    # All three convolutions walk the same triples (input, kernel, output).
    tensors = {
        "conv": (a, b, node.results[0]),
        "conv_transpose": (node.results[0], b, a),
        "conv_weight_grad": (a, node.results[0], b),
    }
    x, w, y = tensors[node.op.name]
    attrs = node.attrs
    meetings = prod(
        _meetings(*sizes)
        for sizes in zip(
            x.shape[2:], w.shape[2:], y.shape[2:],
            attrs["stride"], attrs["low"], attrs["dilation"], strict=True,
        )
    )  # fmt: skip
    return x.shape[0] * w.shape[0] * w.shape[1] * meetings


def _meetings(n: int, kernel: int, out: int, stride: int, low: int, dilation: int) -> int:
    """Pairs of output place o and kernel offset k with 0 <= o stride - low + k dilation < n."""
    found = 0
    for k in range(kernel):
        shift = k * dilation - low
        first = max(0, -(shift // stride))
        last = min(out - 1, (n - 1 - shift) // stride)
        found += max(0, last - first + 1)
    return found


# ---------------------------------------------------------------------------- elements touched


def touched(body: Graph) -> dict[Tensor, int]:
    """Elements that the outputs of a body need of each value in it."""
    need: dict[Tensor, int] = {t: t.size for t in body.roots}
    for node in reversed(body.nodes):
        sizes = [need.get(r, 0) for r in node.results]
        if not any(sizes):
            continue
        for k, t in enumerate(node.operands):
            need[t] = max(need.get(t, 0), needed(node, k, sizes))
    return need


def needed(node: Node, operand: int, sizes: Sequence[int]) -> int:
    """Elements of an operand that so many elements of the results need, at most all."""
    t = node.operands[operand]
    op = node.op
    count = max(sizes, default=0)
    if not isinstance(op, NestOp) or op.name in CONTRACTIONS:
        return t.size if count else 0
    if isinstance(op, Elementwise):
        return min(t.size, count)
    types = [o.type for o in node.operands]
    nest = op.nest(types, node.results[0].type, **node.attrs)
    loads = sum(
        1
        for e in s.postorder([nest.body])
        if e.name == "load" and e.value[0] == operand  # type: ignore[index]
    )
    return min(t.size, count * prod(nest.reduced) * loads)
