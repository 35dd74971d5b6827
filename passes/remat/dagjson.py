"""`Dag` as JSON: our own format, and readers for the node-link files other studies published.

Our format, "staticgraph.dag/1":

    {"format": "staticgraph.dag/1",
     "name": "tiny",
     "nodes": [
       {"name": "h", "cost": 1.0, "size": 4096, "inputs": []},
       {"name": "y", "cost": 0.5, "size": 4096, "inputs": ["h"], "inplace": ["h"],
        "extra": 64, "output": true, "fixed": true}]}

`cost`, `size` and `inputs` are required; a node is referred to by its name where it has one, else
by its place in the list (a number). `extra`, `inplace`, `output` and `fixed` mean what they mean in
`Dag`. Nodes may be listed in any order; a listing that is topological is kept as it is.

Node-link files (networkx; the Checkmate and MOCCASIN papers' graphs) carry `cost_cpu` and
`cost_ram`, or `duration` and `out_cost`, for each node; links are {"source", "target"} or
{"0", "1"}. Their order is `graph.order` where that is given, else the order of the node ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from staticgraph.errors import DagError
from staticgraph.passes.remat.dag import Dag, topological

FORMAT = "staticgraph.dag/1"
_REQUIRED = ("cost", "size", "inputs")
_OPTIONAL = ("name", "extra", "inplace", "output", "fixed")


def to_json(dag: Dag) -> str:
    """The graph in our format, one node a line."""
    unique = len(set(dag.names)) == len(dag)
    names: tuple[str | int, ...] = dag.names if unique else tuple(range(len(dag)))
    rows = []
    for v in range(len(dag)):
        row: dict[str, Any] = {"name": dag.names[v]} if unique else {}
        row |= {"cost": dag.cost[v], "size": dag.size[v]}
        row["inputs"] = [names[u] for u in dag.inputs[v]]
        if dag.extra[v]:
            row["extra"] = dag.extra[v]
        if dag.inplace[v]:
            row["inplace"] = [names[u] for u in sorted(dag.inplace[v])]
        row |= {"output": True} if v in dag.outputs else {}
        row |= {"fixed": True} if v in dag.fixed else {}
        rows.append("    " + json.dumps(row))
    head = f'{{"format": "{FORMAT}", "name": {json.dumps(dag.name)}, "nodes": [\n'
    return head + ",\n".join(rows) + "\n]}\n"


def load(path: str | Path) -> Dag:
    """The graph in a file, in our format or node-link; DagError where it is neither."""
    return from_json(Path(path).read_text(encoding="utf-8"))


def from_json(text: str) -> Dag:
    """The graph that the text describes, in our format or node-link; DagError where it is neither.

    Wrong JSON, unknown or missing keys, unknown names, cycles and negative costs or bytes are
    errors; nothing is guessed.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise DagError(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise DagError(f"a graph must be a JSON object, this is {_kind(data)}")
    if data.get("format") == FORMAT:
        return _own(data)
    if "links" in data or "edges" in data:
        return _node_link(data)
    raise DagError(
        f'a graph must have "format": "{FORMAT}" or be node-link JSON with "links"; '
        f"the keys are {sorted(data)}"
    )


def _own(data: Mapping[str, Any]) -> Dag:
    _keys(data, ("format", "nodes"), ("name",), "the graph")
    rows = _objects(data["nodes"], "nodes")
    for i, row in enumerate(rows):
        _keys(row, _REQUIRED, _OPTIONAL, f"node {i}")
        if not isinstance(row.get("name", ""), str):
            raise DagError(f"node {i}: name must be a string, is {_kind(row['name'])}")
        for field in ("output", "fixed"):
            if not isinstance(row.get(field, False), bool):
                raise DagError(f"node {i}: {field} must be true or false, is {row[field]!r}")
    names = [str(row.get("name", i)) for i, row in enumerate(rows)]
    lookup: dict[Any, int] = dict(enumerate(range(len(rows))))
    for i, row in enumerate(rows):
        if "name" in row:
            if names[i] in lookup:
                raise DagError(f"two nodes are named {names[i]!r}")
            lookup[names[i]] = i
    inputs = [_references(row["inputs"], lookup, f"node {i} inputs") for i, row in enumerate(rows)]
    inplace = [
        _references(row.get("inplace", []), lookup, f"node {i} inplace")
        for i, row in enumerate(rows)
    ]
    order = topological(names, inputs)
    return _arranged(
        order,
        cost=[_number(row["cost"], f"node {i} cost") for i, row in enumerate(rows)],
        size=[_bytes(row["size"], f"node {i} size") for i, row in enumerate(rows)],
        inputs=inputs,
        names=names,
        extra=[_bytes(row.get("extra", 0), f"node {i} extra") for i, row in enumerate(rows)],
        inplace=inplace,
        outputs=[i for i, row in enumerate(rows) if row.get("output", False)],
        fixed=[i for i, row in enumerate(rows) if row.get("fixed", False)],
        name=str(data.get("name", "")),
    )


def _node_link(data: Mapping[str, Any]) -> Dag:
    rows = _objects(data.get("nodes"), "nodes")
    links = _objects(data.get("links", data.get("edges")), "links")
    cost, size = _first_of(rows, "cost_cpu", "duration"), _first_of(rows, "cost_ram", "out_cost")
    ids = [row.get("id", row.get("name", i)) for i, row in enumerate(rows)]
    for i, key in enumerate(ids):
        if isinstance(key, bool) or not isinstance(key, (int, str)):
            raise DagError(f"node {i}: id must be a whole number or a string, is {_kind(key)}")
    lookup = {key: i for i, key in enumerate(ids)}
    if len(lookup) != len(rows):
        raise DagError("two nodes have the same id")
    inputs: list[list[int]] = [[] for _ in rows]
    for i, link in enumerate(links):
        ends = [link.get("source", link.get("0")), link.get("target", link.get("1"))]
        u, v = _references(ends, lookup, f"link {i}")
        inputs[v].append(u)
    header = data.get("graph")
    header = header if isinstance(header, dict) else {}
    order = topological([str(key) for key in ids], inputs)
    if "order" in header:
        order = _references(header["order"], lookup, "graph.order")
        if sorted(order) != list(range(len(rows))):
            raise DagError("graph.order must name every node once")
    elif all(isinstance(key, int) for key in ids):
        order = sorted(range(len(rows)), key=lambda i: ids[i])
    return _arranged(
        order,
        cost=[_number(c, f"node {i} cost") for i, c in enumerate(cost)],
        size=[_bytes(b, f"node {i} size") for i, b in enumerate(size)],
        inputs=inputs,
        names=[str(row.get("name", key)) for row, key in zip(rows, ids, strict=True)],
        name=str(header.get("name", "")),
    )


def _arranged(
    order: list[int],
    *,
    cost: list[float],
    size: list[int],
    inputs: list[list[int]],
    names: list[str],
    extra: list[int] | None = None,
    inplace: list[list[int]] | None = None,
    outputs: Iterable[int] = (),
    fixed: Iterable[int] = (),
    name: str = "",
) -> Dag:
    """The graph whose nodes are renumbered by the order."""
    new = {v: k for k, v in enumerate(order)}
    return Dag(
        cost=tuple(cost[v] for v in order),
        size=tuple(size[v] for v in order),
        inputs=tuple(tuple(new[u] for u in inputs[v]) for v in order),
        names=tuple(names[v] for v in order),
        outputs=frozenset(new[v] for v in outputs),
        extra=tuple(extra[v] for v in order) if extra else (),
        inplace=tuple(frozenset(new[u] for u in inplace[v]) for v in order) if inplace else (),
        fixed=frozenset(new[v] for v in fixed),
        name=name,
    )


def _keys(
    row: Mapping[str, Any], required: Iterable[str], optional: Iterable[str], where: str
) -> None:
    for key in required:
        if key not in row:
            raise DagError(f'{where} has no "{key}"')
    unknown = sorted(set(row) - set(required) - set(optional))
    if unknown:
        raise DagError(
            f'{where} has the unknown key "{unknown[0]}"; known are {[*required, *optional]}'
        )


def _objects(rows: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(rows, list):
        raise DagError(f'"{where}" must be a list, is {_kind(rows)}')
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DagError(f"{where}[{i}] must be an object, is {_kind(row)}")
    return rows


def _references(keys: Any, lookup: Mapping[Any, int], where: str) -> list[int]:
    if not isinstance(keys, list):
        raise DagError(f"{where} must be a list, is {_kind(keys)}")
    for key in keys:
        if isinstance(key, bool) or not isinstance(key, (int, str)) or key not in lookup:
            raise DagError(f"{where} names {key!r}, which is no node")
    return [lookup[key] for key in keys]


def _first_of(rows: list[dict[str, Any]], *keys: str) -> list[Any]:
    for key in keys:
        if rows and all(key in row for row in rows):
            return [row[key] for row in rows]
    raise DagError(f"every node must have one of {list(keys)}")


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DagError(f"{where} must be a number, is {_kind(value)}")
    try:
        return float(value)
    except OverflowError:
        raise DagError(f"{where} is too large: {len(str(value))} digits") from None


def _bytes(value: Any, where: str) -> int:
    number = _number(value, where)
    if not number.is_integer():
        raise DagError(f"{where} must be whole bytes, is {value!r}")
    return int(value)


def _kind(value: Any) -> str:
    return "missing" if value is None else type(value).__name__
