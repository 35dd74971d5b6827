"""`staticgraph completion bash|zsh|fish`: the script that completes words."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import get_completion_class

_HINTS = {
    "bash": "# add to ~/.bashrc:  source <(staticgraph completion bash)",
    "zsh": "# add to ~/.zshrc:  source <(staticgraph completion zsh)",
    "fish": "# save as ~/.config/fish/completions/staticgraph.fish",
}


def run(o: Any) -> int:
    """The command."""
    made = get_completion_class(o.shell)
    assert made is not None  # Click has a class for each shell of the choice
    program = click.get_current_context().find_root().command
    script = made(program, {}, "staticgraph", "_STATICGRAPH_COMPLETE").source()
    click.echo(f"{_HINTS[o.shell]}\n{script}")
    return 0
