# ruff: noqa: E402  the assert comes before all imports
"""Graph to graph. One file per pass; the pipelines stand here, in order, with the reasons."""

assert __name__ == "staticgraph.passes", (
    "import staticgraph.passes, not passes: the checkout folder is not the package"
)

from staticgraph.passes.branches import dead_branches
from staticgraph.passes.cse import cse
from staticgraph.passes.expanded import spread, unroll
from staticgraph.passes.fold import fold
from staticgraph.passes.fuse import fuse
from staticgraph.passes.guard import guard
from staticgraph.passes.inline import inline
from staticgraph.passes.simplify import simplify
from staticgraph.passes.sink import sink
from staticgraph.passmanager import Pipeline, register_pass
from staticgraph.rewrite import uniform_value

for _made in (inline, guard, unroll, fold, dead_branches, simplify, cse, sink, spread, fuse):
    register_pass(_made)

#: what a graph means, whatever the pipeline: bodies, tests of run-time indices, short sums
MEANING = Pipeline([inline, guard, unroll])

PIPELINES: dict[str, Pipeline] = {
    # Every node its own kernel: what to compare an optimised graph with.
    "none": Pipeline([]),
    "default": Pipeline(
        [
            fold,  # constants first: they decide branches and masks
            dead_branches,  # before work is spent on what is never run
            simplify,
            cse,
            sink,  # after cse: what two branches share is now one node, and stays outside
            spread,  # after cse, which would undo it
            fuse,  # last: nothing after it looks at single nodes
        ]
    ),
}

__all__ = [
    "MEANING",
    "PIPELINES",
    "cse",
    "dead_branches",
    "fold",
    "fuse",
    "guard",
    "inline",
    "simplify",
    "sink",
    "spread",
    "uniform_value",
    "unroll",
]
