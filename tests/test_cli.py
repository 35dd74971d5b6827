"""The command line as a program: start, help, streams, colour, files, exit codes."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from clitools import invoke, models  # noqa: F401  a fixture

import staticgraph
from staticgraph.cli.commands import COMMANDS, program
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.terminal import wants_colour

HEAVY = ("numba", "scipy", "numpy", "llvmlite", "rich", "staticgraph.public")


def python(code, *args, **settings):
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=False, **settings
    )


def test_help_imports_nothing_heavy():
    """What makes `--help` fast, of the program and of every command."""
    code = (
        "import sys\nfrom staticgraph.__main__ import program\n"
        "for words in [[]] + [[name] for name in program.commands]:\n"
        "    try: program.main([*words, '--help'])\n"
        "    except SystemExit as end: assert end.code == 0\n"
        f"print('LOADED', [m for m in {HEAVY} if m in sys.modules])"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_the_package_loads_at_the_first_use():
    """Files named like a function do not hide it, whatever is imported first."""
    code = (
        "import sys, staticgraph as sg\n"
        "assert 'numpy' not in sys.modules\n"
        "import staticgraph.threads, staticgraph.compile, staticgraph.checkpoint\n"
        "assert all(map(callable, (sg.compile, sg.threads, sg.checkpoint)))\n"
        "assert sg.errors.StaticGraphError is sg.StaticGraphError\n"
        "assert {'compile', 'ops'} <= set(dir(sg))\n"
        "try: sg.nothing\n"
        "except AttributeError as error: print(error)"
    )
    assert python(code).stdout == "module 'staticgraph' has no attribute 'nothing'\n"


def test_namesakes_are_the_files_that_share_a_name_with_a_function():
    assert callable(staticgraph.compile)  # now all files are loaded
    modules = {
        name
        for name in staticgraph.__all__
        if f"staticgraph.{name}" in sys.modules and callable(getattr(staticgraph, name))
    }
    assert modules == set(staticgraph._NAMESAKES)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_help_begins_with_examples(command):
    result = invoke(command.name, "-h")
    assert result.exit_code == 0
    assert result.stdout.index("Examples:") < result.stdout.index("  -")
    for example in command.examples:
        assert example in result.stdout
    assert all(len(line) <= 100 for line in result.stdout.splitlines())
    assert command.name in invoke("--help").stdout


def test_options_are_grouped():
    text = invoke("profile", "--help").stdout
    places = [text.index(f"\n{group}:") for group in ("Model", "Inputs", "Measuring", "Output")]
    assert places == sorted(places)


def test_version():
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, "staticgraph, version 0.1.0\n")


def test_without_a_command_the_help_is_shown():
    result = invoke()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert "_STATICGRAPH_COMPLETE" in result.stdout


def test_completion_completes():
    done = subprocess.run(
        [sys.executable, "-m", "staticgraph"],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "_STATICGRAPH_COMPLETE": "bash_complete",
            "COMP_WORDS": "staticgraph me",
            "COMP_CWORD": "1",
        },
        check=False,
    )
    assert done.stdout.split() == ["plain,memory"]


# ------------------------------------------------------------------------------ colour and pipes


class Stream:
    def __init__(self, terminal):
        self.isatty = lambda: terminal


@pytest.mark.parametrize(
    ("choice", "env", "terminal", "expected"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_who_decides_on_colour(choice, env, terminal, expected, monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert wants_colour(Stream(terminal), choice) is expected


@pytest.mark.usefixtures("models")
def test_colour_reaches_the_output_only_where_it_is_wanted():
    words = ("memory", "mlp.py:step")
    assert "\x1b[" not in invoke(*words).stdout
    assert "\x1b[" in invoke(*words, "--color", "always").stdout
    assert "\x1b[" in invoke(*words, FORCE_COLOR="1").stdout
    assert "\x1b[" not in invoke(*words, "--plain", FORCE_COLOR="1").stdout


@pytest.mark.usefixtures("models")
def test_plain_is_one_record_per_line():
    lines = invoke("memory", "mlp.py:step", "--plain").stdout.splitlines()
    assert lines[0].startswith("peak\t")
    header = next(line for line in lines if line.startswith("live at the peak"))
    assert header.count("\t") == 5


@pytest.mark.usefixtures("models")
def test_a_closed_pipe_is_no_crash():
    done = subprocess.run(
        f"{sys.executable} -m staticgraph graph mlp.py:step | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("graph main(")
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("models")
def test_what_the_users_code_prints_is_no_data():
    result = invoke("graph", "mlp.py:talks", "--json", "-")
    assert json.loads(result.stdout)["schema"] == "staticgraph.graph/1"
    assert "the user's own words" in result.stderr


# ------------------------------------------------------------------------------ files


@pytest.mark.usefixtures("models")
def test_made_up_names_are_never_taken_twice():
    for _ in range(2):
        assert invoke("memory", "mlp.py:step", "--json").exit_code == 0
    made = sorted(name for name in os.listdir() if name.endswith(".json"))
    assert made == ["mlp-step.2.json", "mlp-step.json"]


def test_named_files_are_overwritten(models):  # noqa: F811
    (models / "out.json").write_text("old")
    result = invoke("memory", "mlp.py:step", "--json", "out.json")
    assert json.loads((models / "out.json").read_text())["model"] == "mlp.py:step"
    assert "peak" in result.stdout  # the table stays on the screen


def test_a_result_never_goes_over_a_source(models):  # noqa: F811
    before = (models / "mlp.py").read_text()
    result = invoke("memory", "mlp.py:step", "--json", "mlp.py")
    assert result.exit_code == 2
    assert (models / "mlp.py").read_text() == before


class Options:
    json = "-"
    csv = None


def test_bytes_go_to_stdout_as_they_are(capfdbinary, monkeypatch):
    outputs = Outputs(Options, "x", {"json": ".json", "csv": ".csv"})
    assert outputs.stdout_taken
    assert outputs.write("csv", lambda: "never called") == ""
    with open(1, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        outputs.write("json", lambda: "{}")
    assert capfdbinary.readouterr().out == b"{}\n"


# ------------------------------------------------------------------------------ Ctrl-C


@pytest.mark.usefixtures("models")
def test_interrupt_ends_with_130_and_keeps_what_there_is():
    """Ctrl-C while measuring: the report of the runs done, as one JSON document."""
    words = ["profile", "mlp.py:step", "--runs", "10000000", "--quick", "--no-roofs"]
    code = (
        "import sys, staticgraph.cli.measuring as m\n"
        "from staticgraph.cli.models import Model\n"
        "inner = Model.profile\n"
        "def outer(self, **o):\n"
        "    return inner(self, **{**o, 'on_round': lambda done, total: done == 20 and print(\n"
        "        'MEASURING', file=sys.stderr, flush=True)})\n"
        "Model.profile = outer\n"
        "from staticgraph.__main__ import main\n"
        "main()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--json", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = child.stderr.readline()
        assert line == "MEASURING\n"
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 130, err
    document = json.loads(out)
    assert document["interrupted"] is True
    assert document["wall"]["runs"] >= 20


def test_interrupt_with_nothing_done(monkeypatch, models):  # noqa: F811
    monkeypatch.setattr("staticgraph.cli.memory.load_model", interrupted)
    assert invoke("memory", "mlp.py:step").exit_code == 130


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


def test_every_command_has_a_body():
    assert sorted(program.commands) == sorted(c.name for c in COMMANDS)


# ------------------------------------------------------------------------------ progress, cores


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals(terminal):
    """A bar on stderr where that is a terminal, and never anything on stdout."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    words = ["profile", "mlp.py:step", "--quick", "--runs", "40", "--no-roofs", "--json", "-"]
    child = subprocess.Popen(
        [sys.executable, "-m", "staticgraph", *words],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end of a pty is closed
        while part := os.read(ours, 4096):
            seen += part
    out, _ = child.communicate()
    os.close(ours)
    assert child.returncode == 0
    assert json.loads(out)["wall"]["runs"] == 40
    assert (b"mlp.py:step" in seen) == terminal
    assert (b"\x1b[" in seen) == terminal


@pytest.mark.usefixtures("models")
def test_pin(monkeypatch):
    pinned = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 1, 3})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: pinned.append(cores))
    assert invoke("graph", "mlp.py:step", "--pin", "--threads", "2").exit_code == 0
    assert invoke("graph", "mlp.py:step", "--pin").exit_code == 0
    assert pinned == [[1, 3], [1, 3, 5]]
