"""The options that commands share, as lists to be joined."""

from __future__ import annotations

from functools import partial

import click
from click.shell_completion import CompletionItem

from staticgraph.cli.frame import Option

#: value of an output option given without a file: a free name is made from the model's
AUTO = "<auto>"

_model = partial(Option, group="Model")
_input = partial(Option, group="Inputs")
_measure = partial(Option, group="Measuring")
_output = partial(Option, group="Output")


def model_argument(required: bool = True) -> click.Argument:
    """MODEL: see `staticgraph.cli.naming`."""
    return click.Argument(["model"], required=required, metavar="MODEL", type=FileWord())


class FileWord(click.ParamType):
    """A word that begins with the name of a file: that part a shell can complete."""

    name = "model"

    def shell_complete(self, ctx: object, param: object, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


def file_option(*declaration: str, does: str) -> Option:
    """An output file: `--x FILE`, `--x -` for stdout, `--x` alone for a free name."""
    return _output(
        *declaration, metavar="[FILE|-]", is_flag=False, flag_value=AUTO, default=None, help=does
    )


GENERAL = [
    Option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        help="Colour; auto asks the terminal, NO_COLOR and FORCE_COLOR.",
    ),
    Option("--plain", is_flag=True, help="One record per line, tabs between fields, no colour."),
    Option("-q", "--quiet", is_flag=True, help="No progress and no remarks."),
    Option("-v", "--verbose", is_flag=True, help="How far it is, line by line, with seconds."),
    Option("--traceback", is_flag=True, help="Show where an error was raised."),
]

MODEL = [
    _model("-D", "define", multiple=True, metavar="K=V", help="An argument of a factory."),
    _model(
        "--mode",
        type=click.Choice(["forward", "grad", "step"]),
        help="As written; with the gradients of inputs and variables; with an update by them.",
    ),
    _model("--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads of a run."),
    _model("--pin/--no-pin", default=False, help="Keep the process on as many cores as threads."),
    _model(
        "--device",
        type=click.Choice(["cpu", "cuda"]),
        default="cpu",
        show_default=True,
        help="Where it runs.",
    ),
    _model("--without", multiple=True, metavar="PASS", help="Leave out a pass."),
    _model("--memory-budget", metavar="SIZE", help="Most bytes of the arena, such as 120MiB."),
]

INPUTS = [
    _input(
        "-i",
        "inputs",
        multiple=True,
        metavar="X=SPEC",
        help="128x784xf32, with :normal,0,1 :uniform,-1,1 :int,0,10 :zeros :ones; or @x.npy.",
    ),
    _input("--inputs", "inputs_file", metavar="FILE.npz", help="Arrays by the inputs' names."),
    _input(
        "--seed", type=int, default=0, metavar="N", show_default=True, help="Seed of random inputs."
    ),
]

RUNS = [
    _measure("--runs", type=click.IntRange(1), metavar="N", help="Runs in each process."),
    _measure("--time", "seconds", metavar="3s", help="Seconds in each process instead."),
    _measure("--warmup", metavar="auto|N", default="auto", help="Runs before; auto: until stable."),
    _measure(
        "--processes",
        type=click.IntRange(1),
        metavar="N",
        help="Fresh processes, one after another.",
    ),
    _measure("--quick", is_flag=True, help="One process, this one, for a second."),
    _measure("--rigorous", is_flag=True, help="Ten processes, three seconds each."),
]

CHECKS = [
    _output(
        "--fail-if",
        multiple=True,
        metavar="CHECK",
        help="Exit 3 where it holds: 'median>10ms', 'peak>2GiB', 'k3.roof<40%'.",
    ),
]

ROWS = [
    _output(
        "--sort",
        type=click.Choice(["time", "waste", "bytes", "name"]),
        default="time",
        show_default=True,
        help="Order of the rows.",
    ),
    _output(
        "--top",
        type=click.IntRange(0),
        default=20,
        metavar="N",
        show_default=True,
        help="Rows; 0: all.",
    ),
    _output("-k", "select", metavar="PATTERN", help="Only kernels so named, such as 'conv*'."),
    _output(
        "--by",
        type=click.Choice(["kernel", "op", "scope", "line"]),
        default="kernel",
        show_default=True,
        help="What a row stands for; a scope is a function of the model's.",
    ),
]

RECORD = file_option("-o", "--output", does="Keep the profile, as .sgprof, for show and compare.")
JSON = file_option("--json", does="Everything as one JSON document, in s, bytes and flop.")
CSV = file_option("--csv", does="The rows as CSV.")
EXPORTS = [
    RECORD,
    JSON,
    CSV,
    file_option("--trace", does="Runs for chrome://tracing and Perfetto."),
    file_option("--speedscope", does="Runs for speedscope.app."),
    file_option("--folded", does="Folded stacks, in nanoseconds."),
    file_option("--html", does="One page with pictures, for a browser without network."),
    _output("--no-source", is_flag=True, help="Leave generated code out of the page."),
]
