"""`staticgraph check MODEL`: run once and name the op where NaN or Inf first appears."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from staticgraph.cli.models import Model, Request, load_model
from staticgraph.cli.naming import user_code
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.problems import Problem, failed
from staticgraph.cli.terminal import Terminal
from staticgraph.errors import shorten
from staticgraph.findings import Finding, Values
from staticgraph.profiling.rows import encode

SCHEMA = "staticgraph.check/1"


def run(o: Any) -> int:
    """The command."""
    terminal = Terminal(o)
    model = load_model(Request.of(o, o.model))
    outputs = Outputs(o, f"{model.label}-check", {"json": ".json"})
    found = look(model, "nan" if o.nan else True)
    outputs.write("json", lambda: json.dumps(document(model, found)))
    if found is not None:
        raise problem(model, found)
    if not outputs.stdout_taken:
        looked = "no NaN" if o.nan else "no NaN or Inf"
        count = len(model.function.plan.launches)
        terminal.facts("numbers", f"{looked} behind {count} kernels of {model.label}")
        terminal.facts("inputs", ", ".join(model.origins) or "none")
    return 0


def refuse(o: Any) -> None:
    """For `--check-numerics`: end the command where the model makes NaN or Inf."""
    if o.check_numerics:
        model = load_model(Request.of(o, o.model))
        found = look(model, True)
        if found is not None:
            raise problem(model, found)


def look(model: Model, kinds: bool | str) -> Finding | None:
    if model.function.options["target"] != "cpu":
        raise failed("--device cuda: numbers are checked on the CPU")
    with user_code(model.label, "while it ran"):
        return model.function.check_numerics(*model.arrays, kinds=kinds)


def problem(model: Model, found: Finding) -> Problem:
    at = f"  [{shorten(found.where)}]" if found.where else ""
    return failed(f"{model.label}: {found.summary}{at}", found.details)


def document(model: Model, found: Finding | None) -> dict[str, Any]:
    """Plain data: types and single elements as texts, since JSON has no NaN."""
    plain = found and replace(
        found, operands=tuple(map(_plain, found.operands)), result=_plain(found.result)
    )
    return {"schema": SCHEMA, "model": model.label, "finding": encode(plain)}


def _plain(v: Values) -> dict[str, Any]:
    at = None if v.at is None else str(v.at)
    return {**encode(v), "type": str(v.type), "at": at}
