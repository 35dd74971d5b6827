"""The text form of graphs: `str(graph)`, `parse(text)`, and equality by structure.

The form is total: `parse(str(g)) == g`, bits of constants included. Only inputs and variables keep
names, other values are numbered operands first, so equal graphs have equal texts; that is how `==`
compares graphs. Importing this module gives `Graph` its `__str__`, `__eq__` and `__hash__`.

    graph    = "graph" [label] "(" [param, ...] ")" "{" variable* node* return update* "}"
    param    = %label [string] ":" type             an input; the string is its name where the
    variable = @label [string] ":" type             label had to differ (spaces, a name used twice)
    node     = %number ":" type, ... "=" op "(" [operand, ...] [attr, ...] ")" ["#clone=" int]
             | %number ":" type "=" "constant" "(" data ")"
    attr     = name "=" value                       sorted by name
    return   = "return" [operand, ...]
    update   = "update" @label "=" operand
    operand  = %label | %number | @label
    value    = None | True | False | int | float | inf | nan | complex(re, im) | string | type
             | (value, ...) | [value, ...] | {value: value, ...} | @label | type data | graph
    data     = one value for all elements | nested [...] | zlib'base64' | npy'key' | sha'digest'
    type     = f32[64, 784]                         short dtype and shape

A comment runs from "#" to the end of the line; "# model.py:12" after a node is its user's line.
Bodies (values that are graphs) have names of their own; variables are known in all of them. `npy`
names an array kept beside the text, `sha` stands for data left out, `<...>` for a Python object
that text cannot hold; the last two print but do not parse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from staticgraph import arraytext
from staticgraph.arraytext import digest, packed
from staticgraph.errors import shorten
from staticgraph.ir import CONSTANT, Graph, Node, Variable
from staticgraph.tensor import Tensor
from staticgraph.textreader import parse
from staticgraph.types import TensorType

__all__ = ["bodies", "digest", "graph_text", "packed", "parse", "variable_labels"]


def graph_text(
    graph: Graph,
    name: str = "main",
    *,
    lines: bool = False,
    pack: Callable[[np.ndarray], str] = packed,
) -> str:
    """The graph as text; `lines` adds the user's file and line to each node.

    `pack` writes arrays that are not small: `packed` keeps all of them, `digest` leaves them out.
    """
    return _Writer(lines, pack, _kind).top(graph, name)


def _identity(graph: Graph) -> str:
    return _Writer(False, digest, id).top(graph, "main")


def _equal(graph: Graph, other: object) -> bool:
    """Whether both have the same nodes, wired alike; variables compare by name and type."""
    if not isinstance(other, Graph):
        return NotImplemented
    return graph is other or _identity(graph) == _identity(other)


Graph.__str__ = graph_text  # type: ignore[method-assign, assignment]
Graph.__eq__ = _equal  # type: ignore[method-assign, assignment]
Graph.__hash__ = lambda graph: hash(_identity(graph))  # type: ignore[method-assign]


def bodies(value: Any) -> Iterator[Graph]:
    """The graphs inside an attribute, or inside a dict of attributes, in the order of the text."""
    if isinstance(value, Graph):
        yield value
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from bodies(v)
    elif isinstance(value, dict):
        for _, v in _sorted(value):
            yield from bodies(v)


def variable_labels(graph: Graph) -> dict[Variable, str]:
    """The label of every variable of a graph and its bodies, in order of first use."""
    labels: dict[Variable, str] = {}
    taken: set[str] = set()
    for v in _variables(graph):
        if v not in labels:
            labels[v] = _label(v.name, taken)
    return labels


def _sorted(value: Mapping) -> list[tuple[Any, Any]]:
    return sorted(value.items(), key=lambda item: str(item[0]))


class _Writer:
    """How one text is written, and the labels of its variables."""

    def __init__(
        self,
        lines: bool,
        pack: Callable[[np.ndarray], str],
        opaque: Callable[[object], object],
    ):
        self.lines = lines
        self.pack = pack
        self.opaque = opaque
        self.variables: dict[Variable, str] = {}
        #: clones in order of appearance: their own numbers depend on what was built before
        self.clones: dict[int, int] = {}

    def top(self, graph: Graph, name: str) -> str:
        self.variables = variable_labels(graph)
        declared = [_declaration(f"@{at}", v.name, v.spec) for v, at in self.variables.items()]
        return self.graph(graph, " " + _label(name, set()), "", declared)

    def graph(self, graph: Graph, name: str, indent: str, declared: list[str]) -> str:
        names: dict[Tensor, str] = {v: f"@{label}" for v, label in self.variables.items()}
        taken: set[str] = set()
        params = []
        for t in graph.inputs:
            names[t] = f"%{_label(t.node.attrs['name'], taken)}"
            params.append(_declaration(names[t], t.node.attrs["name"], t.type))
        inner = indent + "  "
        out = [f"graph{name}({', '.join(params)}) {{", *(inner + line for line in declared)]
        count = 0
        for node in graph.nodes:
            if all(t in names for t in node.results):
                continue  # inputs, and variables read as such
            for t in node.results:
                names[t] = f"%{count}"
                count += 1
            out.append(inner + self.node(node, names, inner))
        out.append(f"{inner}return {', '.join(names[t] for t in graph.outputs)}".rstrip())
        out += [f"{inner}update @{self.variables[v]} = {names[t]}" for v, t in graph.updates]
        return "\n".join([*out, indent + "}"])

    def node(self, node: Node, names: Mapping[Tensor, str], indent: str) -> str:
        results = ", ".join(f"{names[t]}: {t.type}" for t in node.results)
        if node.op is CONSTANT:
            args = [arraytext.write(node.attrs["value"], self.pack)]
        else:
            args = [names[t] for t in node.operands]
            args += [f"{k}={self.value(v, indent)}" for k, v in _sorted(node.attrs)]
        clone = ""
        if node.clone:
            clone = f" #clone={self.clones.setdefault(node.clone, len(self.clones) + 1)}"
        line = f"  # {shorten(node.where)}" if self.lines and node.where else ""
        return f"{results} = {node.op.name}({', '.join(args)}){clone}{line}"

    def value(self, value: Any, indent: str) -> str:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, (bool, int, float, str)):
            return repr(value)
        if isinstance(value, complex):
            return f"complex({value.real!r}, {value.imag!r})"
        if isinstance(value, TensorType):
            return str(value)
        if isinstance(value, Variable):
            return f"@{self.variables[value]}"
        if isinstance(value, np.ndarray):
            type = TensorType(value.dtype.name, value.shape)
            return f"{type} {arraytext.write(value, self.pack)}"
        if isinstance(value, Graph):
            return self.graph(value, "", indent, [])
        if isinstance(value, (tuple, list)):
            items = ", ".join(self.value(v, indent) for v in value)
            if isinstance(value, list):
                return f"[{items}]"
            return f"({items},)" if len(value) == 1 else f"({items})"
        if isinstance(value, dict):
            pairs = (f"{self.value(k, indent)}: {self.value(v, indent)}" for k, v in _sorted(value))
            return f"{{{', '.join(pairs)}}}"
        return f"<{self.opaque(value)}>"


def _kind(value: object) -> str:
    """A word for what text cannot hold, the same in every run."""
    return re.sub(r"[<>\s]", "", str(getattr(value, "__name__", type(value).__name__)))


def _variables(graph: Graph) -> Iterator[Variable]:
    """Variables of a graph and its bodies, in order of first use, with repetition."""
    yield from graph.variables
    for node in graph.nodes:
        for body in bodies(node.attrs):
            yield from _variables(body)


def _label(name: str, taken: set[str]) -> str:
    """A label like the name, new in its scope."""
    base = re.sub(r"[^A-Za-z0-9_.]", "_", name)
    base = base if re.match(r"[A-Za-z_]", base) else f"_{base}"
    label, k = base, 1
    while label in taken:
        label, k = f"{base}.{k}", k + 1
    taken.add(label)
    return label


def _declaration(ref: str, name: str, type: TensorType) -> str:
    return f"{ref}: {type}" if ref[1:] == name else f"{ref} {name!r}: {type}"
