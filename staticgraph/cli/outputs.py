"""Files that a command writes: `FILE`, `-` for stdout, or a free name made from the model's."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from staticgraph.cli.options import AUTO
from staticgraph.cli.problems import Problem, failed

#: files that are somebody's source: a slip of the shell must not write over one
_SOURCES = (".py", ".pyi", ".ipynb", ".toml", ".md")


class Outputs:
    """The output options of a command, checked before any work is done.

    `suffixes` maps the option's name in `o` to the ending of a name made up for it.
    """

    def __init__(self, o: Any, label: str, suffixes: Mapping[str, str]):
        self.label = label
        self.suffixes = suffixes
        self.targets = {name: getattr(o, name) for name in suffixes if getattr(o, name) is not None}
        to_stdout = [name for name, target in self.targets.items() if target == "-"]
        if len(to_stdout) > 1:
            raise Problem(
                f"--{to_stdout[0]} - and --{to_stdout[1]} - both want stdout; name a file for one"
            )
        for name, target in self.targets.items():
            if Path(target).suffix in _SOURCES:
                raise Problem(f"--{name} {target}: that is no name for a result, but for a source")

    @property
    def stdout_taken(self) -> bool:
        """Whether stdout is one document, so that nothing else may go there."""
        return "-" in self.targets.values()

    def write(self, name: str, content: Callable[[], str | bytes]) -> str:
        """Write where the option says; the place, '' where it was not asked for or is stdout."""
        target = self.targets.get(name)
        if target is None:
            return ""
        made = content()
        raw = made.encode() if isinstance(made, str) else made
        if target == "-":
            sys.stdout.flush()
            ends = isinstance(made, bytes) or raw.endswith(b"\n")
            sys.stdout.buffer.write(raw if ends else raw + b"\n")
            sys.stdout.flush()
            return ""
        try:
            if target == AUTO:
                return _to_free_name(self.label, self.suffixes[name], raw)
            Path(target).write_bytes(raw)
        except OSError as error:
            raise failed(f"--{name} {target}: {error.strerror}") from None
        return target


def _to_free_name(label: str, suffix: str, raw: bytes) -> str:
    """'mlp-step.json', or 'mlp-step.2.json' where that exists; the name taken."""
    stem = re.sub(r"[^\w.-]+", "-", label.replace(".py:", "-")).strip("-") or "staticgraph"
    number = 1
    while True:
        name = f"{stem}{suffix}" if number == 1 else f"{stem}.{number}{suffix}"
        try:
            with open(name, "xb") as file:
                file.write(raw)
            return name
        except FileExistsError:
            number += 1
