"""Click, bent to this program: bodies loaded on demand, grouped help, exit codes, error lines."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import click
from click.core import ParameterSource

from staticgraph.cli.problems import FAILED, INTERRUPTED, USAGE, Problem, meant
from staticgraph.errors import StaticGraphError


class Option(click.Option):
    """An option that knows under which heading `--help` lists it."""

    def __init__(self, *declaration: str, group: str = "General", **settings: Any):
        super().__init__(list(declaration), **settings)
        self.group = group


class Command(click.Command):
    """A command declared as data; `staticgraph.cli.NAME.run(o)` is imported when it is called.

    `o` holds the options by name. Where `run` returns an int, it is the exit code.
    """

    def __init__(
        self, name: str, does: str, params: Sequence[click.Parameter], examples: Sequence[str] = ()
    ):
        super().__init__(
            name,
            help=does,
            short_help=does,
            params=list(params),
            callback=_body(name),
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )
        self.examples = examples

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                rows.setdefault(getattr(param, "group", "General"), []).append(record)
        for group, records in rows.items():
            with formatter.section(group):
                formatter.write_dl(records, col_max=28)


def _body(name: str) -> Callable[..., Any]:
    def run(**options: Any) -> Any:
        body = importlib.import_module(f"staticgraph.cli.{name}")
        return body.run(SimpleNamespace(**options))

    return run


class Program(click.Group):
    """The group of all commands, with this program's exit codes and error lines."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:  # type: ignore[override]
        words = list(sys.argv[1:] if args is None else args)
        verbose = "--traceback" in words
        extra |= {"prog_name": "staticgraph", "standalone_mode": False}
        try:
            code = super().main(words, **extra)
        except click.Abort:
            click.echo("interrupted", err=True)
            code = INTERRUPTED
        except click.ClickException as error:
            if verbose:
                traceback.print_exception(error)
            code = _report(error)
        except Exception as error:
            if verbose:
                raise
            code = _fault(error)
        sys.exit(code if isinstance(code, int) else 0)


def _report(error: click.ClickException) -> int:
    """One line on stderr, more where the user's own frames help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True, color=False)
        return USAGE
    click.echo(f"error: {' '.join(_said(error).split())}", err=True, color=False)
    if isinstance(error, Problem):
        if error.detail:
            click.echo(error.detail.rstrip("\n"), err=True, color=False)
        return error.exit_code
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(f"try: {error.ctx.command_path} --help", err=True, color=False)
    return USAGE


def _fault(error: Exception) -> int:
    """What no command foresaw: an error of the graph in its own words, else a fault of ours."""
    if isinstance(error, StaticGraphError):
        text = error.summary
    else:
        text = f"{type(error).__name__}: {error}; this is a fault of staticgraph (--traceback)"
    click.echo(f"error: {' '.join(text.split())}", err=True, color=False)
    return FAILED


def _said(error: click.ClickException) -> str:
    """Click's words; of a word that is none of a choice, what was meant."""
    kind = error.param.type if isinstance(error, click.BadParameter) and error.param else None
    found = re.match(r"'([^']*)' is not one of", getattr(error, "message", ""))
    if isinstance(kind, click.Choice) and found:
        name = error.param.opts[0] if isinstance(error.param, click.Option) else error.param.name
        known = [str(word) for word in kind.choices]
        return f"{name} {found[1]}: no such word{meant(found[1], known, also=len(known))}"
    return error.format_message()


class Sided(Command):
    """A command that takes options for two things: `--a OPTIONS` and `--b OPTIONS`.

    What stands after `--a` or `--b` and is an option of `side` goes to `a_options` or `b_options`;
    the rest is the command's own.
    """

    def __init__(self, *given: Any, side: Sequence[click.Parameter], **settings: Any):
        super().__init__(*given, **settings)
        self.side = list(side)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        marks = [k for k, word in enumerate(args) if word in ("--a", "--b")]
        own = args[: marks[0]] if marks else list(args)
        sides: dict[str, dict[str, Any]] = {"--a": {}, "--b": {}}
        for start, stop in pairwise([*marks, len(args)]):
            chosen, rest = self._side(ctx, args[start + 1 : stop])
            sides[args[start]] |= chosen
            own += rest
        remaining = super().parse_args(ctx, own)
        ctx.params |= {f"{mark[2:]}_options": chosen for mark, chosen in sides.items()}
        return remaining

    def _side(self, ctx: click.Context, args: list[str]) -> tuple[dict[str, Any], list[str]]:
        """The options of a side that were given, and what is none of them."""
        rest = click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED)
        parser = click.Command("side", params=[*self.side, rest], add_help_option=False)
        with parser.make_context(
            ctx.info_name, list(args), parent=ctx.parent, ignore_unknown_options=True
        ) as inner:
            left = inner.params.pop("rest")
            given = {
                name: value
                for name, value in inner.params.items()
                if inner.get_parameter_source(name) is ParameterSource.COMMANDLINE
            }
        return given, list(left)
