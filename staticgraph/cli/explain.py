"""`staticgraph explain MODEL [KERNEL]`: why the plan is as it is, and the code of a kernel."""

from __future__ import annotations

import json
from typing import Any

from staticgraph.cli.models import Request, load_model
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.problems import Problem, failed
from staticgraph.cli.terminal import Terminal
from staticgraph.profiling import explaintext
from staticgraph.profiling.explanation import Explanation
from staticgraph.profiling.rows import encode

VIEWS = ("source", "llvm", "asm")


def run(o: Any) -> int:
    """The command."""
    views = [v for v in VIEWS if getattr(o, v)]
    if len(views) > 1:
        raise Problem(f"--{views[0]} and --{views[1]}: one at a time")
    if views and o.kernel is None:
        raise Problem(f"--{views[0]} needs a KERNEL, a number of the table")
    if views and o.json is not None:
        raise Problem(f"--{views[0]} and --json: one at a time")
    terminal = Terminal(o)
    model = load_model(Request.of(o, o.model))
    outputs = Outputs(o, f"{model.label}-explain", {"json": ".json"})
    fn = model.function
    if fn.options["target"] != "cpu":
        raise failed("--device cuda: explain looks at kernels of the CPU")
    count = len([s for s in fn.plan.steps if s.kind in ("kernel", "copy")])
    if o.kernel is not None and not 1 <= o.kernel <= count:
        known = f"has 1 to {count}" if count else "has none"
        raise Problem(f"there is no kernel {o.kernel}; {model.label} {known}")
    made = fn.explain(o.kernel, diff=o.diff)
    made.model = model.label
    if views:
        terminal.out.file.write(_view(made, views[0]))
        return 0
    outputs.write("json", lambda: json.dumps(encode(made)))
    if not outputs.stdout_taken:
        width = 0 if terminal.plain else terminal.width
        terminal.report(explaintext.render(made, width, o.top))
    return 0


def _view(made: Explanation, view: str) -> str:
    """The text of one kernel, as it is."""
    assert made.kernel is not None
    row = made.kernels[made.kernel - 1]
    if row.code is None:
        raise Problem(f"kernel {row.index} is a copy: it has no code of its own")
    text = row.source if view == "source" else getattr(row.code, view)
    return text if text.endswith("\n") else text + "\n"
