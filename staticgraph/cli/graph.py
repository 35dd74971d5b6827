"""`staticgraph graph MODEL`: the graph before, between and after the passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from staticgraph.cli import drawing
from staticgraph.cli.models import Model, Request, load_model
from staticgraph.cli.options import AUTO
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.problems import Problem, meant
from staticgraph.cli.terminal import Terminal
from staticgraph.compile import as_pipeline
from staticgraph.ir import Graph, Node
from staticgraph.passes import MEANING
from staticgraph.text import graph_text

BUILT, OPTIMIZED = "built", "optimized"
_FORMATS = (".svg", ".dot", ".json", ".txt", ".sg")


def run(o: Any) -> int:
    """The command."""
    terminal = Terminal(o)
    suffix = ".svg" if o.output in (None, AUTO) else ".txt" if o.output == "-" else _suffix(o)
    model = load_model(Request.of(o, o.model))
    outputs = Outputs(o, f"{model.label}-{o.stage}", {"output": suffix, "json": ".json"})
    if o.heat and o.stage != OPTIMIZED:
        raise Problem(f"--heat needs --stage {OPTIMIZED}: only what runs has a time")
    graph = stage(model, o.stage)
    made = drawing.picture(graph, shares(model, o, terminal) if o.heat else None)
    label = f"{model.label}  {o.stage}"
    data = drawing.to_json(made, label)
    contents = {
        ".svg": lambda: drawing.to_svg(made, label),
        ".dot": lambda: drawing.to_dot(made, label),
        ".json": lambda: json.dumps(data),
    }
    text = graph_text(graph, lines=o.lines)
    place = outputs.write("output", contents.get(suffix, lambda: text))
    outputs.write("json", contents[".json"])
    if place:
        terminal.remark(f"wrote {place}: {len(made.boxes)} boxes, {len(made.arrows)} arrows")
    if not outputs.targets:
        for line in text.rstrip("\n").split("\n"):
            terminal.line(line)
    return 0


def _suffix(o: Any) -> str:
    suffix = Path(o.output).suffix
    if suffix not in _FORMATS:
        raise Problem(f"-o {o.output}: the format is the ending; write {', '.join(_FORMATS)}")
    return suffix


def stage(model: Model, name: str) -> Graph:
    """The graph as built, after a pass, or after all of them."""
    fn = model.function
    if name == BUILT:
        return fn.graph
    if name == OPTIMIZED:
        return fn.optimized
    passes = as_pipeline(fn.options["pipeline"]).passes
    names = [p.name for p in passes]
    if name not in names:
        raise Problem(f"--stage {name}: no such stage{meant(name, [BUILT, *names, OPTIMIZED])}")
    graph = MEANING(fn.graph)
    for p in passes[: names.index(name) + 1]:
        graph = p(graph)
    return graph


def shares(model: Model, o: Any, terminal: Terminal) -> dict[Node, float]:
    """The part of the measured time that each node of the optimised graph takes."""
    with terminal.progress(model.label) as advance:
        report = model.profile(seconds=0.5, roofs=False, on_round=advance)
    found: dict[Node, float] = {}
    for row in report.kernels:
        node = model.function.plan.steps[row.step].node
        if node is not None:
            found[node] = found.get(node, 0.0) + row.share
    return found
