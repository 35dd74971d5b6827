"""Contractions by subscripts: einsum and tensordot, carried out as matrix products."""

from __future__ import annotations

import string
from collections.abc import Sequence
from math import prod

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.operands import normalize_axes, promoted
from staticgraph.ops.matmul import matmul_
from staticgraph.ops.reduce import sum as sum_over
from staticgraph.ops.shape import broadcast_to, reshape, transpose
from staticgraph.registry import FUNCTIONS, public
from staticgraph.tensor import Tensor

_LETTERS = string.ascii_letters


class _Term:
    """A tensor with a letter for each axis, none twice."""

    def __init__(self, tensor: Tensor, letters: str):
        self.tensor, self.letters = tensor, letters

    def size(self, letter: str) -> int:
        return self.tensor.shape[self.letters.index(letter)]

    def summed(self, keep: str) -> _Term:
        """Without the axes whose letters nobody needs."""
        gone = tuple(k for k, c in enumerate(self.letters) if c not in keep)
        if not gone:
            return self
        rest = "".join(c for c in self.letters if c in keep)
        return _Term(sum_over(self.tensor, axis=gone), rest)

    def ordered(self, letters: str) -> Tensor:
        """The axes in this order."""
        axes = tuple(self.letters.index(c) for c in letters)
        return self.tensor if axes == tuple(range(len(axes))) else transpose(self.tensor, axes)


def _diagonal(t: Tensor, letters: str) -> _Term:
    """Axes of one letter become their diagonal."""
    k = 0
    while k < len(letters):
        first = letters.index(letters[k])
        if first < k:
            t = FUNCTIONS["diagonal"](t, 0, first, k)  # the diagonal comes last
            letters = letters[:first] + letters[first + 1 : k] + letters[k + 1 :] + letters[k]
            k = 0
        else:
            k += 1
    return _Term(t, letters)


def _pair(a: _Term, b: _Term, keep: str) -> _Term:
    """The contraction of two terms over the letters that `keep` leaves out, as one product."""
    a, b = a.summed(keep + b.letters), b.summed(keep + a.letters)
    both = [c for c in a.letters if c in b.letters]
    batch = "".join(c for c in both if c in keep)
    inner = "".join(c for c in both if c not in keep)
    left = "".join(c for c in a.letters if c not in both)
    right = "".join(c for c in b.letters if c not in both)
    sizes = {c: t.size(c) for t in (a, b) for c in t.letters}
    shape = [prod(sizes[c] for c in part) for part in (left, inner, right)]
    lead = [sizes[c] for c in batch]
    x = reshape(a.ordered(batch + left + inner), (*lead, shape[0], shape[1]))
    y = reshape(b.ordered(batch + inner + right), (*lead, shape[1], shape[2]))
    z = matmul_(x, y)
    letters = batch + left + right
    return _Term(reshape(z, tuple(sizes[c] for c in letters)), letters)


@public
def einsum(subscripts: str, *operands: object) -> Tensor:
    """Sum of products over the letters that the output leaves out, as numpy.einsum.

    Any number of operands of one dtype, repeated letters (diagonals), `...` and the implicit output
    are allowed; axes of size 1 broadcast. The order of several products is found by opt_einsum;
    each is a matrix product. Gradient: einsums of the same kind, any order. Raises ShapeError
    where subscripts and shapes disagree, GraphTypeError for malformed subscripts. Catalogue 3.8.
    """
    if not isinstance(subscripts, str) or not operands:
        raise GraphTypeError("einsum: needs subscripts such as 'ij,jk->ik', then the operands")
    tensors = promoted("einsum", operands)
    inputs, output = _parsed(subscripts, tensors)
    sizes = _sizes(subscripts, inputs, tensors)
    terms = []
    for letters, t in zip(inputs, tensors, strict=True):
        full = tuple(sizes[c] for c in letters)
        terms.append(_diagonal(broadcast_to(t, full) if t.shape != full else t, letters))
    for i, j in _path(terms, output, sizes):
        a, b = terms[i], terms[j]
        terms = [t for k, t in enumerate(terms) if k not in (i, j)]
        keep = output + "".join(t.letters for t in terms)
        terms.append(_pair(a, b, keep))
    return terms[0].summed(output).ordered(output)


def _parsed(subscripts: str, tensors: Sequence[Tensor]) -> tuple[list[str], str]:
    """Letters of each operand and of the output, `...` replaced by letters of its own."""
    text = subscripts.replace(" ", "")
    left, arrow, output = text.partition("->")
    inputs = left.split(",")
    bare = text.replace("->", "").replace(",", "").replace("...", "")
    if not all(c in _LETTERS for c in bare):
        raise GraphTypeError(f"einsum: subscripts are letters, ',', '->' and '...': {subscripts!r}")
    if len(inputs) != len(tensors):
        raise GraphTypeError(
            f"einsum: {subscripts!r} names {len(inputs)} operands, got {len(tensors)}"
        )
    free = [c for c in _LETTERS if c not in text]
    most = 0
    for k, (term, t) in enumerate(zip(inputs, tensors, strict=True)):
        named = len(term.replace("...", ""))
        hidden = t.ndim - named
        if (hidden < 0) if "..." in term else hidden:
            raise ShapeError(
                f"einsum: operand {k} of {subscripts!r} has {named} subscripts, got {t.type}"
            )
        most = max(most, hidden)
        inputs[k] = term.replace("...", "".join(free[:hidden][::-1]))
    ellipsis = "".join(free[:most][::-1])
    if arrow:
        output = output.replace("...", ellipsis)
    else:
        every = "".join(inputs)
        output = ellipsis + "".join(
            sorted(c for c in set(every) if every.count(c) == 1 and c not in ellipsis)
        )
    for c in output:
        if output.count(c) > 1 or not any(c in term for term in inputs):
            raise GraphTypeError(
                f"einsum: {subscripts!r}: output subscript {c!r} must stand once in the output and"
                " in an operand"
            )
    return inputs, output


def _sizes(subscripts: str, inputs: Sequence[str], tensors: Sequence[Tensor]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for letters, t in zip(inputs, tensors, strict=True):
        for c, n in zip(letters, t.shape, strict=True):
            if sizes.setdefault(c, n) == 1:
                sizes[c] = n
            elif n not in (1, sizes[c]):
                raise ShapeError(
                    f"einsum: {subscripts!r}: subscript {c!r} has sizes {sizes[c]} and {n} in"
                    f" {', '.join(str(u.type) for u in tensors)}"
                )
    return sizes


def _path(terms: Sequence[_Term], output: str, sizes: dict[str, int]) -> list[tuple[int, int]]:
    """Pairs to contract in turn; the result of each goes to the end of the list."""
    if len(terms) < 3:
        return [(0, 1)] * (len(terms) - 1)
    from opt_einsum import contract_path

    text = ",".join(t.letters for t in terms) + "->" + output
    shapes = [t.tensor.shape for t in terms]
    path, _ = contract_path(text, *shapes, shapes=True, optimize="auto")
    # A step of more than two operands is taken pairwise; what it gives goes to the end.
    present: list[object] = list(range(len(terms)))
    pairs = []
    for step in path:
        chosen = [present[k] for k in step]
        one = chosen[0]
        for other in chosen[1:]:
            pair = tuple(sorted((present.index(one), present.index(other))))
            pairs.append(pair)
            for k in reversed(pair):
                present.pop(k)
            one = object()
            present.append(one)
    return pairs


@public
def tensordot(a: object, b: object, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Tensor:
    """Sum of products over the last `axes` axes of a and the first of b, or over named pairs.

    As numpy.tensordot; one matrix product. Gradient: tensordots, any order. Raises ShapeError
    where the axes do not fit. Catalogue 3.8.
    """
    x, y = promoted("tensordot", [a, b])
    if isinstance(axes, int) and not isinstance(axes, bool):
        if not 0 <= axes <= min(x.ndim, y.ndim):
            raise ShapeError(f"tensordot: axes={axes} is out of range for {x.type} and {y.type}")
        left, right = list(range(x.ndim - axes, x.ndim)), list(range(axes))
    else:
        if not isinstance(axes, (tuple, list)) or len(axes) != 2:
            raise GraphTypeError(
                f"tensordot: axes is a number or a pair of sequences, got {axes!r}"
            )
        sides = [[k] if isinstance(k, int) else list(k) for k in axes]
        for t, side in zip((x, y), sides, strict=True):
            normalize_axes("tensordot", tuple(side), t.ndim)
        left, right = [k % x.ndim for k in sides[0]], [k % y.ndim for k in sides[1]]
    if [x.shape[k] for k in left] != [y.shape[k] for k in right]:
        raise ShapeError(
            f"tensordot: axes {left} of {x.type} and {right} of {y.type} differ in size"
        )
    letters = iter(_LETTERS)
    one = [next(letters) for _ in range(x.ndim)]
    two = [next(letters) for _ in range(y.ndim)]
    for i, j in zip(left, right, strict=True):
        two[j] = one[i]
    keep = "".join(c for k, c in enumerate(one) if k not in left)
    keep += "".join(c for k, c in enumerate(two) if k not in right)
    return _pair(_Term(x, "".join(one)), _Term(y, "".join(two)), keep).ordered(keep)
