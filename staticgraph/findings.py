"""What a failed check of numbers says: which op, which line, what it was given and what it made.

The arrays are those of the run that failed. Members of a fused kernel left no values behind, so
they are computed again with NumPy, from what the kernel read, until one gives a bad value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from staticgraph.checkedplan import INF, NAN, bits_of_array, label
from staticgraph.errors import GradientLine, NumericError, shorten
from staticgraph.fusion import FUSION, members
from staticgraph.interpret import results_of
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Node
from staticgraph.types import TensorType


@dataclass(frozen=True)
class Values:
    """One array in numbers. `min`, `max` and `mean` are of its finite values, of complex numbers
    the modulus; None where there are none. `at` is the value where the result is bad first."""

    label: str
    type: TensorType
    nan: int
    inf: int
    min: float | None
    max: float | None
    mean: float | None
    at: object = None

    def __str__(self) -> str:
        text = f"{self.label}  {self.type}  nan {self.nan}  inf {self.inf}"
        if self.min is not None:
            text += f"  min {self.min:.4g}  max {self.max:.4g}  mean {self.mean:.4g}"
        return text + (f"  there {self.at:.6g}" if self.at is not None else "")


@dataclass(frozen=True)
class Finding:
    """The first NaN or Inf of a run: `what` it is, and the op that gave it to finite operands.

    op: its name; for a value that was bad when the call began, "input" or "variable".
    where: the user's line, of a gradient node that of the forward op; `asked_for` is then the line
        that asked for the derivative.
    kernel: the ops of the kernel, where the op was fused with others.
    index: the first bad element of the result.
    """

    what: str
    op: str
    where: tuple[str, int] | None
    asked_for: tuple[str, int] | None
    kernel: tuple[str, ...]
    index: tuple[int, ...]
    operands: tuple[Values, ...]
    result: Values

    @property
    def summary(self) -> str:
        """What and where, in one line; the user's file and line are the error's to add."""
        place = f", first at {list(self.index)}" if self.index else ""
        if not self.operands and self.op in ("input", "variable"):
            return f"{self.result.label} holds {self.what} already{place}"
        derived = "gradient of " if self.asked_for else ""
        return f"{derived}{self.op}: gave {self.what} that no operand held{place}"

    @property
    def details(self) -> str:
        """Operands and result, a line each."""
        lines = []
        if self.asked_for:
            lines.append(f"the derivative was asked for at {shorten(self.asked_for)}")
        if self.kernel:
            lines.append(f"in the kernel of {', '.join(self.kernel)}")
        lines += [f"operand {k}  {v}" for k, v in enumerate(self.operands)]
        lines.append(f"{'result   ' if self.operands else 'values   '}  {self.result}")
        return "\n".join(f"  {line}" for line in lines)

    def error(self) -> NumericError:
        """What a function compiled with check_numerics raises for it."""
        return NumericError(self.summary, self.where, self)

    def __str__(self) -> str:
        return str(self.error())


def finding(
    node: Node,
    kinds: int,
    labels: Sequence[str],
    operands: Sequence[np.ndarray],
    results: Sequence[np.ndarray],
) -> Finding:
    """What a node did that gave one of `kinds`, or a member of it, from what it read and made."""
    if node.op is FUSION:
        inside = list(members(node))
        ops = tuple(dict.fromkeys(n.op.name for n in inside))
        found = _member(node, inside, kinds, labels, operands)
        if found is not None:
            return _finding(*found, kinds, ops if len(inside) > 1 else ())
        # NumPy may round to the other side of an overflow: then the kernel is what can be named.
        return _finding(inside[-1], labels, operands, results, kinds, ops)
    return _finding(node, labels, operands, results, kinds, ())


def _member(
    node: Node, inside: Sequence[Node], kinds: int, labels: Sequence[str],
    operands: Sequence[np.ndarray],
) -> tuple[Node, list[str], list[np.ndarray], list[np.ndarray]] | None:  # fmt: skip
    """The first node of a body that gives a bad value, what it is given and what it makes."""
    body = node.attrs["body"]
    values = dict(zip(body.inputs, operands, strict=True))
    names = dict(zip(body.inputs, labels, strict=True))
    with np.errstate(all="ignore"):
        for n in body.nodes:
            if n.op is INPUT:
                continue
            given = [values[t] for t in n.operands]
            made = results_of(n, given)
            values.update(zip(n.results, made, strict=True))
            if n.op is not CONSTANT and new_bits(given, made) & kinds:
                return n, [names.get(t) or label(t) for t in n.operands], given, made
    return None


def new_bits(given: Sequence[np.ndarray], made: Sequence[np.ndarray]) -> int:
    """NAN where no operand holds NaN, INF where no operand holds either."""
    old = new = 0
    for a in given:
        old |= bits_of_array(a)
    for a in made:
        new |= bits_of_array(a)
    return new & (NAN | INF if old == 0 else NAN & ~old)


def _finding(
    node: Node, labels: Sequence[str], operands: Sequence[np.ndarray],
    results: Sequence[np.ndarray], kinds: int, kernel: tuple[str, ...],
) -> Finding:  # fmt: skip
    bits = (new_bits(operands, results) & kinds) or kinds
    result, bad = next((r, b) for r in results if (b := _bad(r, bits)).any())
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), result.shape))
    where = node.where
    leaf = node.op in (INPUT, VARIABLE)
    return Finding(
        what="NaN" if _bad(result[index], NAN) else "Inf",
        op=("input" if node.op is INPUT else "variable") if leaf else node.op.name,
        where=tuple(where) if where else None,
        asked_for=where.by if isinstance(where, GradientLine) else None,
        kernel=kernel,
        index=index,
        operands=tuple(
            values_of(name, a, index if a.shape == result.shape else None)
            for name, a in zip(labels, operands, strict=True)
        ),
        result=values_of(label(node.results[0]) if leaf else node.op.name, result, index),
    )


def _bad(a: np.ndarray, bits: int) -> np.ndarray:
    if a.dtype.kind not in "fc":
        return np.zeros(a.shape, bool)
    nan, inf = bits & NAN != 0, bits & INF != 0
    return (np.isnan(a) & nan) | (np.isinf(a) & inf)


def values_of(name: str, a: np.ndarray, index: tuple[int, ...] | None) -> Values:
    """The statistics of an array."""
    inexact = a.dtype.kind in "fc"
    finite = np.abs(a) if a.dtype.kind == "c" else a
    finite = finite[np.isfinite(finite)] if inexact else finite
    some = finite.size > 0
    return Values(
        label=name,
        type=TensorType(a.dtype.name, a.shape),
        nan=int(np.isnan(a).sum()) if inexact else 0,
        inf=int(np.isinf(a).sum()) if inexact else 0,
        min=float(finite.min()) if some else None,
        max=float(finite.max()) if some else None,
        mean=float(finite.mean(dtype=np.float64)) if some else None,
        at=None if index is None else a[index].item(),
    )
