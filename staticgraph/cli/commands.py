"""Every command: what it is called, what it takes, two examples. The bodies stand elsewhere."""

from __future__ import annotations

import click

from staticgraph.cli import options as o
from staticgraph.cli.frame import Command, Option, Program, Sided


@click.command(
    "staticgraph",
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="MODEL is file.py:function, package.module:function, a saved function or a .sg graph.",
)
@click.version_option(None, "--version", package_name="staticgraph")
def program() -> None:
    """Look into compiled graphs: time, memory, fusion, generated code."""


_SWEEP = Option(
    "--sweep",
    group="Measuring",
    multiple=True,
    metavar="NAME=A,B,C",
    help="Once for each: threads=1,2,4 or an argument of the factory.",
)
_ROOFS = Option(
    "--roofs/--no-roofs",
    group="Measuring",
    default=True,
    help="Hold kernels against this machine's measured peaks.",
)
_STAGE = Option(
    "--stage",
    group="Graph",
    default="optimized",
    show_default=True,
    metavar="built|PASS|optimized",
    help="As built, after a pass, or after all.",
)
_HEAT = Option("--heat", group="Graph", is_flag=True, help="Run it, and colour boxes by time.")
_LINES = Option("--lines", group="Graph", is_flag=True, help="Text: with the user's lines.")
_PICTURE = o.file_option("-o", "--output", does="By its ending: .svg .dot .json .txt .sg.")
_REFRESH = Option("--refresh", is_flag=True, help="Measure again.")
_FORCE = Option("--force", is_flag=True, help="Compare profiles of different machines.")
_OPS = Option("--ops", is_flag=True, help="List the ops there are.")
_TOP = next(option for option in o.ROWS if option.name == "top")

COMMANDS = [
    Command(
        "profile",
        "Time every kernel of a model.",
        [
            o.model_argument(required=False),
            *o.MODEL,
            *o.INPUTS,
            *o.RUNS,
            _SWEEP,
            _ROOFS,
            *o.ROWS,
            *o.EXPORTS,
            *o.CHECKS,
            *o.GENERAL,
        ],
        ("staticgraph profile mlp.py:step", "staticgraph profile mlp.py:loss -i x=64x784xf32"),
    ),
    Command(
        "bench",
        "Time whole calls, in several fresh processes.",
        [
            o.model_argument(),
            *o.MODEL,
            *o.INPUTS,
            *o.RUNS,
            o.JSON,
            o.CSV,
            *o.CHECKS,
            *o.GENERAL,
        ],
        ("staticgraph bench mlp.py:step", "staticgraph bench mlp.py:step --fail-if 'p95>10ms'"),
    ),
    Command(
        "memory",
        "Show what is alive at the peak.",
        [
            o.model_argument(),
            *o.MODEL,
            *o.INPUTS,
            _TOP,
            o.JSON,
            o.CSV,
            *o.CHECKS,
            *o.GENERAL,
        ],
        ("staticgraph memory mlp.py:step", "staticgraph memory mlp.py:step --fail-if 'peak>2GiB'"),
    ),
    Sided(
        "compare",
        "Compare two models, two ways to run one, or two profiles.",
        [
            click.Argument(["a"], metavar="A"),
            click.Argument(["b"], metavar="[B]", required=False),
            *o.MODEL,
            *o.INPUTS,
            *o.RUNS,
            _FORCE,
            o.JSON,
            *o.CHECKS,
            *o.GENERAL,
        ],
        (
            "staticgraph compare mlp.py:step mlp.py:other",
            "staticgraph compare mlp.py:step --b --without fuse",
        ),
        side=[*o.MODEL, *o.INPUTS],
    ),
    Command(
        "graph",
        "Print or draw the graph, before and after the passes.",
        [
            o.model_argument(),
            *o.MODEL,
            *o.INPUTS,
            _STAGE,
            _HEAT,
            _LINES,
            _PICTURE,
            o.JSON,
            *o.GENERAL,
        ],
        (
            "staticgraph graph mlp.py:step -o step.svg --heat",
            "staticgraph graph mlp.py:step --stage built",
        ),
    ),
    Command(
        "show",
        "Print or convert a saved profile.",
        [
            click.Argument(["file"], metavar="FILE"),
            *o.ROWS,
            *o.EXPORTS,
            *o.CHECKS,
            *o.GENERAL,
        ],
        ("staticgraph show run.sgprof", "staticgraph show run.sgprof --trace run.trace.json"),
    ),
    Command(
        "machine",
        "Show what this machine can do at most, measured.",
        [_REFRESH, o.JSON, *o.GENERAL],
        ("staticgraph machine", "staticgraph machine --refresh"),
    ),
    Command(
        "cache",
        "Look at the compiled kernels on disk, or remove them.",
        [
            click.Argument(["action"], type=click.Choice(["ls", "stats", "clear"])),
            _TOP,
            o.JSON,
            *o.GENERAL,
        ],
        ("staticgraph cache stats", "staticgraph cache clear"),
    ),
    Command(
        "doctor",
        "Check this installation, and compute something.",
        [_OPS, o.JSON, *o.GENERAL],
        ("staticgraph doctor", "staticgraph doctor --ops"),
    ),
    Command(
        "completion",
        "Print the script that completes words in a shell.",
        [click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"]))],
        ("source <(staticgraph completion bash)", "staticgraph completion fish | source"),
    ),
]

for _command in COMMANDS:
    program.add_command(_command)
