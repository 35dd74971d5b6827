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
_NUMERICS = Option(
    "--check-numerics",
    group="Measuring",
    is_flag=True,
    help="First look for NaN and Inf, once; exit 1 where there is one.",
)
_NAN = Option("--nan", is_flag=True, help="Look for NaN alone; Inf may be meant.")
_COUNTERS = Option(
    "--counters",
    group="Measuring",
    is_flag=True,
    help="Also what the processor counts, where perf can ask it.",
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
_REFRESH = Option("--redo", "--refresh", "refresh", is_flag=True, help="Forget and measure again.")
_FORCE = Option("--force", is_flag=True, help="Compare profiles of different machines.")
_OPS = Option("--ops", is_flag=True, help="List the ops there are.")
_DIFF = Option("--diff", group="Output", is_flag=True, help="What each pass changed.")
_VIEWS = [
    Option("--source", group="Output", is_flag=True, help="The kernel's generated Python."),
    Option("--llvm", group="Output", is_flag=True, help="Its optimised LLVM."),
    Option("--asm", group="Output", is_flag=True, help="Its assembly."),
]
_BUDGETS = Option(
    "--budgets",
    group="Study",
    default="100%..20%",
    show_default=True,
    metavar="A..B[:N]",
    help="A range of N (9), or some between commas: 100%,60%,120MiB.",
)
_STRATEGIES = Option(
    "--strategies",
    group="Study",
    default="best,chen-sqrt,kusumoto,knapsack-dp,dtr",
    show_default=True,
    metavar="A,B",
    help="Who decides what is computed again.",
)
_PLAN_ONLY = Option("--plan-only", group="Study", is_flag=True, help="Plan; run nothing.")
_TIME_LIMIT = Option(
    "--time-limit",
    group="Study",
    default="5s",
    show_default=True,
    metavar="5s",
    help="For the search of one plan.",
)
_PICTURES = [
    o.file_option("--svg", does="A picture."),
    o.file_option("--png", does="The same in pixels."),
    o.file_option("--html", does="One page with the table and all pictures."),
    Option(
        "--picture",
        group="Output",
        type=click.Choice(["pareto", "memory", "grid"]),
        help="All curves; what is live at each step; what is computed and kept when.",
    ),
    Option("--at", group="Output", metavar="SIZE", help="Budget of what shows one plan."),
]
_WHY = Option(
    "--explain",
    "why",
    group="Output",
    multiple=True,
    metavar="VALUE",
    help="Why a value is kept or computed again: a name, a number or file.py:12.",
)
_SWEEP_BUDGET = Option(
    "--sweep-budget",
    group="Study",
    metavar="A..B[:N]",
    help="Also plan and run within budgets, such as 100%..40%.",
)
_OPEN = [
    Option("--open", group="Output", is_flag=True, help="The page of --html, in the browser."),
    Option(
        "--open-trace",
        group="Output",
        is_flag=True,
        help="The trace in ui.perfetto.dev, served from here until it has it.",
    ),
]
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
            _COUNTERS,
            _NUMERICS,
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
            _NUMERICS,
            o.JSON,
            o.CSV,
            *o.CHECKS,
            *o.GENERAL,
        ],
        ("staticgraph bench mlp.py:step", "staticgraph bench mlp.py:step --fail-if 'p95>10ms'"),
    ),
    Command(
        "check",
        "Run once and name the op where NaN or Inf first appears.",
        [o.model_argument(), *o.MODEL, *o.INPUTS, _NAN, o.JSON, *o.GENERAL],
        ("staticgraph check mlp.py:step", "staticgraph check mlp.py:step --inputs batch.npz"),
    ),
    Command(
        "memory",
        "Show what is alive at the peak.",
        [
            o.model_argument(),
            *o.MODEL,
            *o.INPUTS,
            _SWEEP_BUDGET,
            _TOP,
            o.JSON,
            o.CSV,
            *_PICTURES,
            _WHY,
            *o.CHECKS,
            *o.GENERAL,
        ],
        ("staticgraph memory mlp.py:step", "staticgraph memory mlp.py:step --fail-if 'peak>2GiB'"),
    ),
    Command(
        "pareto",
        "Memory against recomputation: plan, prove, run and measure within budgets.",
        [
            o.model_argument(),
            _BUDGETS,
            _STRATEGIES,
            _PLAN_ONLY,
            _TIME_LIMIT,
            *o.MODEL,
            *o.INPUTS,
            o.JSON,
            o.CSV,
            *_PICTURES,
            _WHY,
            *o.GENERAL,
        ],
        (
            "staticgraph pareto mlp.py:step --budgets 100%..40% --html step.html",
            "staticgraph pareto dag.json --strategies best,rotor --explain conv3 --at 60%",
        ),
    ),
    Command(
        "explain",
        "Say what the passes did, why ops are one kernel or not, and show a kernel's code.",
        [
            o.model_argument(),
            click.Argument(["kernel"], type=click.IntRange(1), metavar="[KERNEL]", required=False),
            *o.MODEL,
            *o.INPUTS,
            _DIFF,
            *_VIEWS,
            _TOP,
            o.JSON,
            *o.GENERAL,
        ],
        ("staticgraph explain mlp.py:step", "staticgraph explain mlp.py:step 3 --asm"),
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
            *_OPEN,
            *o.CHECKS,
            *o.GENERAL,
        ],
        ("staticgraph show run.sgprof", "staticgraph show run.sgprof --trace run.trace.json"),
    ),
    Command(
        "machine",
        "Show what this machine can do at most, measured.",
        [_REFRESH, o.JSON, *o.GENERAL],
        ("staticgraph machine", "staticgraph machine --redo"),
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
