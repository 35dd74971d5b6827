"""CUDA source, the part that all kernels share: expressions as text, signatures, whole files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from staticgraph import scalar as s
from staticgraph.codegen.affine import affine
from staticgraph.codegen.region import Reduction, Region, Store, position
from staticgraph.nest import identity
from staticgraph.scalar import Expr
from staticgraph.types import (
    ITEMSIZE,
    SHORT,
    is_bool,
    is_complex,
    is_float,
    is_integer,
    real_of,
)

#: values that a block joins at once: more would not fit into shared memory
AT_ONCE = 8

_DIVISIONS = {"floor_divide": "//", "remainder": "%"}
_LETTERS = {"in": "x", "out": "y", "work": "w"}
_TYPES = {
    "boolean",
    "complex64",
    "complex128",
    "float32",
    "float64",
    *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)),
}


@dataclass
class CudaSpec:
    """One generated kernel and its launch: `blocks` of `threads`, arrays of `dtypes`."""

    name: str
    text: str
    blocks: int
    threads: int
    #: ("in", k) operand, ("out", k) result, ("work", k) workspace buffer
    buffers: tuple[tuple[str, int], ...]
    dtypes: tuple[str, ...]
    elements: int
    #: result k may be written where input j was: same positions, read before written
    inplace: frozenset[tuple[int, int]] = frozenset()


@dataclass
class CudaSpecs:
    """The kernels of a region in order, and the bytes of the workspace buffers between them."""

    steps: list[CudaSpec]
    workspace: list[int] = field(default_factory=list)


@dataclass
class Scope:
    """Code at one loop depth: the axes known there, what was emitted, the lines."""

    axes: set[int]
    names: dict[Expr, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def indent(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def literal(value: object, dtype: str) -> str:
    """A number of a dtype as Python source."""
    if is_bool(dtype):
        return repr(bool(value))
    if is_integer(dtype):
        return f"{dtype}({int(value)})"  # type: ignore[call-overload]
    if is_complex(dtype):
        z = complex(value)  # type: ignore[call-overload]
        return f"{dtype}(complex({z.real!r}, {z.imag!r}))"
    number = float(value)  # type: ignore[arg-type]
    # repr spells numbers that are not finite as the names in math
    return f"{dtype}({number!r})"


def combined(combine: str, dtype: str, a: str, b: str) -> str:
    """One step of a reduction."""
    if combine in ("max", "min"):
        return f"{combine}imum_{SHORT[dtype]}({a}, {b})"
    if combine == "prod" and is_complex(dtype):
        return f"multiply_{SHORT[dtype]}({a}, {b})"
    sign = {"sum": "+", "prod": "*", "any": "|", "all": "&"}[combine]
    return f"{dtype}({a} {sign} {b})" if is_integer(dtype) else f"{a} {sign} {b}"


class Writer:
    """Prints the expressions of a region; subclasses print the loops around them."""

    def __init__(
        self,
        region: Region,
        name: str,
        places: dict[tuple[str, int], tuple[str, int]] | None = None,
    ):
        self.region, self.name = region, name
        self.sizes = region.sizes
        self.places = places or {}
        self.buffers: dict[tuple[str, int], str] = {}
        self.shared: dict[str, str] = {}
        self.scopes: list[Scope] = []
        self.at = [f"i{k}" for k in range(len(self.sizes))]
        self.strides = [tuple(prod(t.shape[k + 1 :]) for k in range(t.ndim)) for t in region.types]
        self.memo: dict[Expr, frozenset[int]] = {}
        self.count = 0

    # -- names ------------------------------------------------------------------------------------

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def pointer(self, kind: str, k: int, dtype: str) -> str:
        ref = self.places.get((kind, k), (kind, k))
        self.buffers[ref] = dtype
        return _LETTERS[ref[0]] + str(ref[1])

    def deps(self, e: Expr) -> frozenset[int]:
        """Axes an expression varies along; -1 stands for the values of rows."""
        found = self.memo.get(e)
        if found is None:
            for x in s.postorder([e]):
                if x not in self.memo:
                    own = {x.value} if x.name == "axis" else {-1} if x.name == "row" else set()
                    self.memo[x] = frozenset(own).union(*(self.memo[a] for a in x.args))
            found = self.memo[e]
        return found

    def known(self, e: Expr) -> str | None:
        return next((sc.names[e] for sc in self.scopes if e in sc.names), None)

    # -- expressions ------------------------------------------------------------------------------

    def value(self, root: Expr) -> str:
        """Emit an expression, each part in the outermost scope that knows its axes; its name."""
        stack = [(root, False)]
        while stack:
            e, ready = stack.pop()
            if self.known(e):
                continue
            if ready:
                self.bind(e)
            else:
                stack.append((e, True))
                parts = (e.args[-1:] if s.is_guarded(e) else ()) if e.name == "load" else e.args
                stack.extend((a, False) for a in reversed(parts))
        return self.known(root)  # type: ignore[return-value]

    def bind(self, e: Expr) -> None:
        if e.name == "const":
            self.scopes[0].names[e] = literal(e.value, e.dtype)
            return
        deps = self.deps(e)
        scope = next(sc for sc in self.scopes if deps <= sc.axes)
        if e.name == "axis":
            scope.names[e] = self.at[e.value]  # type: ignore[index]
            return
        text = self.text(e)
        scope.names[e] = name = self.fresh()
        scope.lines.append(f"{name} = {text}")

    def text(self, e: Expr) -> str:
        if e.name == "load":
            return self.load(e)
        args = [self.known(a) for a in e.args]
        if e.name == "cast":
            return convert(args[0], e.args[0].dtype, e.dtype)  # type: ignore[arg-type]
        last = e.args[-1]
        if e.name in _DIVISIONS and e.dtype == "int64" and last.name == "const":
            divisor = last.value
            if divisor > 0:  # type: ignore[operator]  an index: no need for the careful function
                return f"{args[0]} {_DIVISIONS[e.name]} {divisor}"
        if e.name == "divide" and is_complex(e.dtype):
            return f"divide_{SHORT[e.dtype]}({args[0]}, {args[1]})"
        text = s.PRIMS[e.name].cuda.format(*args, t=SHORT[last.dtype])
        if e.name == "complex":
            return f"{e.dtype}({text})"
        if text[0] != "(":
            return text
        # Numba computes integers in 64 bits; the dtype wraps.
        return f"{e.dtype}{text}" if is_integer(e.dtype) else text[1:-1]

    def load(self, e: Expr) -> str:
        operand = e.value[0]  # type: ignore[index]
        guarded = s.is_guarded(e)
        x = self.pointer("in", operand, e.dtype)
        place = self.index(position(e.args[:-1] if guarded else e.args, self.strides[operand]))
        if not guarded:
            return f"{x}[{place}]"
        return f"{x}[{place}] if {self.value(e.args[-1])} else {literal(e.value[1], e.dtype)}"  # type: ignore[index]

    def index(self, e: Expr) -> str:
        """An element position as text."""
        form = affine(e)
        if form is None:
            return self.value(e)
        terms = [
            self.at[k] if c == 1 else f"{self.at[k]} * {c}" for k, c in sorted(form[0].items())
        ]
        if form[1] or not terms:
            terms.append(str(form[1]))
        return " + ".join(terms)

    def stores(self, stores: Sequence[Store], guard: str | None = None) -> None:
        """Write results: all values first, because a result may lie where an operand was."""
        scope = self.scopes[-1]
        values = [(self.value(st.value), self.index(st.index), st) for st in stores]
        lines = []
        for value, place, st in values:
            y = self.pointer("out", st.result, self.region.results[st.result].dtype)
            lines.append(f"{y}[{place}] = {value}")
        if lines and guard:
            lines = [f"if {guard}:", *indent(lines)]
        scope.lines += lines

    # -- loops ------------------------------------------------------------------------------------

    def decode(self, axes: Sequence[int], source: str) -> list[str]:
        """Indices along axes from their row-major position, a name."""
        lines = []
        for n, k in enumerate(axes):
            below = prod(self.sizes[a] for a in axes[n + 1 :])
            text = source if below == 1 else f"{source} // {below}"
            if self.at[k] != (text := text if n == 0 else f"{text} % {self.sizes[k]}"):
                lines.append(f"{self.at[k]} = {text}")
        return lines

    def tree(
        self, values: Sequence[tuple[str, str, str]], lane: str, width: int, stop: int = 1
    ) -> list[str]:
        """Join (name, combine, dtype) over `width` threads; lanes 0..stop-1 find theirs in place.

        With stop 1 every thread of the group gets the total.
        """
        if not values or width == stop:
            return []
        if len(values) > AT_ONCE:
            first = self.tree(values[:AT_ONCE], lane, width, stop)
            return first + self.tree(values[AT_ONCE:], lane, width, stop)
        arrays = []
        for n, (_, _, dtype) in enumerate(values):
            array = f"s{n}_{SHORT[dtype]}"
            self.shared[array] = "boolean" if is_bool(dtype) else dtype
            arrays.append(array)
        step = [
            f"{a}[t] = {combined(c, d, f'{a}[t]', f'{a}[t + half]')}"
            for a, (_, c, d) in zip(arrays, values, strict=True)
        ]
        place = "t" if stop > 1 else "t - lane" if lane == "lane" else "0"
        return [
            *(f"{a}[t] = {name}" for a, (name, _, _) in zip(arrays, values, strict=True)),
            "cuda.syncthreads()",
            f"half = {width // 2}",
            f"while half >= {stop}:",
            *indent([f"if {lane} < half:", *indent(step), "cuda.syncthreads()", "half //= 2"]),
            *(f"{name} = {a}[{place}]" for a, (name, _, _) in zip(arrays, values, strict=True)),
            "cuda.syncthreads()",
        ]

    def start(self, r: Reduction) -> str:
        return literal(identity(r.combine, r.body.dtype), r.body.dtype)

    def add(self, r: Reduction, a: str, b: str) -> str:
        return combined(r.combine, r.body.dtype, a, b)

    # -- text -------------------------------------------------------------------------------------

    def finish(self, lines: Sequence[str], blocks: int, threads: int) -> CudaSpec:
        arrays = [f"{a} = cuda.shared.array({threads}, {d})" for a, d in self.shared.items()]
        buffers = dict(sorted(self.buffers.items()))
        names = ", ".join(_LETTERS[kind] + str(k) for kind, k in buffers)
        text = module(
            f"{self.name}: {blocks} blocks of {threads} threads", names, [*arrays, *lines]
        )
        # With other buffers in their places, inputs and results are not the node's.
        inplace = frozenset() if self.places else overwritable(self.region)
        places = (tuple(buffers), tuple(buffers.values()))
        return CudaSpec(self.name, text, blocks, threads, *places, prod(self.sizes), inplace)


def module(about: str, arguments: str, lines: Sequence[str]) -> str:
    """The text of a kernel's file."""
    body = "\n".join(indent(lines))
    used = set(re.findall(r"(?<!\.)\b(\w+)\(", body)) | set(
        re.findall(r"array\(\d+, (\w+)\)", body)
    )
    limits = [name for name in ("inf", "nan") if re.search(rf"\b{name}\b", body)]
    functions = sorted(used - _TYPES - {"range", "complex"})
    head = [f'"""{about}."""', ""]
    if limits:
        head += [f"from math import {', '.join(limits)}", ""]
    head += [f"from numba import {', '.join(['cuda', *sorted(used & _TYPES)])}", ""]
    if functions:
        head += [f"from staticgraph.cudamath import {', '.join(functions)}", ""]
    return "\n".join([*head, "", f"def k({arguments}):", body, ""])


def convert(x: str, source: str, target: str) -> str:
    """A cast as NumPy's astype."""
    if is_bool(target):
        return f"{x} != {literal(0, source)}"
    if is_complex(source) and not is_complex(target):
        return convert(f"{x}.real", real_of(source), target)
    if is_complex(target) and not is_complex(source):
        return f"{target}({real_of(target)}({x}))"
    if is_float(source) and is_integer(target):
        return f"to_{SHORT[target]}({x})"
    return f"{target}({x})"


def overwritable(region: Region) -> frozenset[tuple[int, int]]:
    """(result, input) pairs that may share memory: every read of the input is at the position, and
    not in a later stage than where the result is written."""
    placed = [(r.level, r.body) for r in region.reductions] + [
        (st.level, st.value) for st in region.stores
    ]
    reads: dict[int, list[tuple[int, object]]] = {}
    for level, e in placed:
        for x in s.postorder([e]):
            if x.name == "load":
                k = x.value[0]  # type: ignore[index]
                shape = region.types[k].shape
                strides = tuple(prod(shape[n + 1 :]) for n in range(len(shape)))
                at = x.args[:-1] if s.is_guarded(x) else x.args
                reads.setdefault(k, []).append((level, affine(position(at, strides))))
    found = set()
    for st in region.stores:
        target, result = affine(st.index), region.results[st.result]
        for k, t in enumerate(region.types):
            fits = t.size == result.size and ITEMSIZE[t.dtype] == ITEMSIZE[result.dtype]
            if fits and all(
                level <= st.level and form == target for level, form in reads.get(k, ())
            ):
                found.add((st.result, k))
    return frozenset(found)
