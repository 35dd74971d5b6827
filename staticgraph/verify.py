"""What a legal graph is: checked between passes, so that the guilty pass is named, not a later one.

All that later stages rely on without looking: every value is defined before it is used and has the
type its op gives it, the only inputs are those listed, bodies are closed (what they take from
outside are operands of their node), attributes are data, updates fit their variables.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from staticgraph.errors import InternalError, StaticGraphError
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node, Variable
from staticgraph.registry import OPS
from staticgraph.tensor import Tensor
from staticgraph.text import bodies, digest, graph_text
from staticgraph.types import DTYPES, TensorType


def verify(graph: Graph) -> Graph:
    """The graph itself; raises InternalError, with the text as a note, if it is broken."""
    try:
        _graph(graph, "")
    except InternalError as error:
        error.add_note(_shown(graph))
        raise
    return graph


def _shown(graph: Graph) -> str:
    try:
        return graph_text(graph, lines=True, pack=digest)
    except Exception as error:  # a broken graph may have no text
        return f"(the graph is too broken to print: {type(error).__name__}: {error})"


def _broken(message: str, node: Node | None = None) -> InternalError:
    return InternalError(f"verify: {message}", node.where if node else None)


def _graph(graph: Graph, inside: str) -> None:
    """Check a graph; `inside` says in which body, for messages, and is '' for the whole graph."""
    for t in (*graph.inputs, *graph.roots):
        if not isinstance(t, Tensor):
            raise _broken(f"{inside}a graph is made of tensors, got {type(t).__name__}")
    for t in graph.inputs:
        if t.node.op is not INPUT:
            raise _broken(f"{inside}{t.node.op.name} is listed as an input", t.node)
    inputs = {id(t) for t in graph.inputs}
    if len(inputs) != len(graph.inputs):
        raise _broken(f"{inside}an input is listed twice")
    _updates(graph, inside)
    _operands(graph, inside)
    defined: set[int] = set()
    for node in graph.nodes:
        if node.op is INPUT and id(node.results[0]) not in inputs:
            name = node.attrs.get("name")
            raise _broken(f"{inside}input {name!r} is used but not among the inputs", node)
        if node.op is VARIABLE and inside:
            raise _broken(f"{inside}a body reads a variable that is no operand of its node", node)
        for k, t in enumerate(node.operands):
            if id(t) not in defined:
                raise _broken(f"{inside}operand {k} of {node} is not defined before it", node)
        problem = _node(node)
        if problem:
            raise _broken(f"{inside}{problem}", node)
        for body in bodies(node.attrs):
            _graph(body, f"{inside}in a body of {node.op.name}: ")
        defined.update(map(id, node.results))
    for t in graph.roots:
        if id(t) not in defined:
            raise _broken(f"{inside}a root {t!r} is no result of its node", t.node)


def _operands(graph: Graph, inside: str) -> None:
    """Refuse what `Graph.nodes` could not walk over."""
    seen: set[int] = set()
    pending = [t.node for t in (*graph.inputs, *graph.roots)]
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for k, t in enumerate(node.operands):
            if not isinstance(t, Tensor):
                raise _broken(f"{inside}operand {k} of {node.op.name} is no tensor", node)
            pending.append(t.node)


def _updates(graph: Graph, inside: str) -> None:
    seen: set[int] = set()
    for v, t in graph.updates:
        if inside:
            raise _broken(f"{inside}a body updates a variable")
        if not isinstance(v, Variable):
            raise _broken(f"an update of {type(v).__name__}, not of a variable")
        if id(v) in seen:
            raise _broken(f"variable {v.name!r} is updated twice")
        if v.spec != t.type:
            raise _broken(f"variable {v.name!r} is {v.spec}, its update is {t.type}")
        seen.add(id(v))


def _node(node: Node) -> str:
    """What is wrong with a node by itself, or ''."""
    name = node.op.name
    if OPS.get(name) is not node.op:
        return f"op {name!r} is not registered"
    if type(node.clone) is not int or node.clone < 0:
        return f"{name} has clone {node.clone!r}"
    if not node.results:
        return f"{name} has no results"
    for k, t in enumerate(node.results):
        if t.node is not node or t.index != k:
            return f"result {k} of {name} belongs to another node"
        if t.type.dtype not in DTYPES or any(type(n) is not int for n in t.type.shape):
            return f"result {k} of {name} has the type {t.type!r}"
    for key, value in node.attrs.items():
        problem = _unfit(value)
        if problem:
            return f"attribute {key} of {name} holds {problem}"
    try:
        made = node.op.infer(*(t.type for t in node.operands), **node.attrs)
    except (StaticGraphError, TypeError, ValueError, LookupError) as error:
        return f"{node} does not fit its op's type rule: {getattr(error, 'summary', error)}"
    types = (made,) if isinstance(made, TensorType) else tuple(made)
    if types != node.types:
        return f"{node} should give {', '.join(map(str, types))}"
    if node.op is CONSTANT and node.attrs["value"].flags.writeable:
        return "the array of a constant can be written to"
    return ""


def _unfit(value: Any) -> str:
    """What in an attribute is no data, or ''. Text, hashing and caches rely on this."""
    if value is None or isinstance(value, (TensorType, Variable, Graph)):
        return ""
    if type(value) in (bool, int, float, complex, str):
        return ""
    if isinstance(value, np.ndarray):
        return "" if value.flags.c_contiguous else "an array that is not contiguous"
    if type(value) is tuple:
        return next(filter(None, map(_unfit, value)), "")
    if type(value) is dict:
        return next(filter(None, map(_unfit, [*value, *value.values()])), "")
    if callable(value) and not isinstance(value, type):
        return ""  # a user's gradient rule: prints as <name> and does not parse
    return f"a {type(value).__name__}"
