"""Every way to fail on the command line: its exit code, its one line, and no traceback."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from clitools import invoke, line_of, models  # noqa: F401  a fixture

import staticgraph as sg

#: (words, exit code, what the line says)
ERRORS = [
    # commands and options
    ("profil mlp.py:step", 2, "No such command 'profil'. Did you mean 'profile'?"),
    ("memory mlp.py:step --sord time", 2, "No such option '--sord'."),
    ("profile mlp.py:step --sorted time", 2, "'--sort'"),
    ("profile mlp.py:step --sort best", 2, "--sort best: no such word; did you mean 'bytes'?"),
    ("bench", 2, "Missing argument 'MODEL'."),
    ("profile mlp.py:step --quick --rigorous", 2, "--quick and --rigorous exclude each other"),
    ("profile mlp.py:step --warmup soon", 2, "--warmup soon: write auto or a number of runs"),
    ("profile mlp.py:step --time soon", 2, "--time soon: write a number with a unit"),
    ("cache burn", 2, "action burn: no such word; there is ls, stats, clear"),
    # naming
    (
        "memory mlp.py:stp",
        2,
        "no function 'stp' in mlp.py; did you mean 'step'? (also: x, hidden, graph, ready,",
    ),
    ("memory mlp.py:Net.los", 2, "no method 'los' in mlp.py:Net; did you mean 'loss'?"),
    ("memory mlp.py:zzzzzz", 2, "no function 'zzzzzz' in mlp.py; there is"),
    ("memory mlp.py:Net", 2, "mlp.py:Net is a class; name a method of it: mlp.py:Net.METHOD"),
    ("memory mlp.py", 2, "mlp.py holds several things to run; name one of them"),
    ("memory mpl.py:step", 2, "there is no file mpl.py; did you mean 'mlp.py'?"),
    ("memory nowhere.model:step", 2, "there is no module or file 'nowhere.model'"),
    ("memory .:step", 2, "is a folder; name a file in it"),
    ("memory model.onnx", 1, "ONNX files are not read"),
    ("memory bad.sg", 1, "bad.sg:"),
    ("memory text.txt:x", 2, "text.txt is neither Python, nor a saved function, nor a .sg graph"),
    ("memory mlp.py:strange", 2, "mlp.py:strange returned 'no model' (str); a model is"),
    # the user's own code
    (
        "memory mlp.py:broken",
        1,
        f"mlp.py raised ZeroDivisionError at mlp.py:{line_of('1 / 0')} while building the graph"
        " (your code)",
    ),
    (
        "memory mlp.py:misfit",
        1,
        f"mlp.py raised ShapeError at mlp.py:{line_of('(2, 3)) @')} while building the graph",
    ),
    ("memory syntax.py:f", 1, "syntax.py raised SyntaxError at syntax.py:2 while it was imported"),
    ("memory needs.py:f", 1, "needs.py raised ModuleNotFoundError at needs.py:1 while it was"),
    ("memory quits.py:f", 1, "quits.py called sys.exit(7) while it was imported"),
    # arguments of factories
    ("memory mlp.py:step -D bach=4", 2, "takes no argument 'bach'; did you mean 'batch'?"),
    ("memory mlp.py:step -D batch", 2, "-D batch: write -D NAME=VALUE"),
    ("memory mlp.py:ready -D batch=4", 2, "mlp.py:ready takes no argument 'batch'"),
    ("memory mlp.py:plain", 2, "mlp.py:plain needs a and b: give each a type, -i a=128x784xf32"),
    ("memory mlp.py:step --mode step", 2, "--mode step: mlp.py:step updates its variables already"),
    ("memory mlp.py:sized --mode step", 2, "--mode step: mlp.py:sized has no variables"),
    ("memory mlp.py:step --without fusion", 2, "no such pass; did you mean 'fuse'?"),
    ("memory mlp.py:step --memory-budget 1B", 1, "mlp.py:step: compile: "),
    # inputs
    (
        "memory mlp.py:step -i x=128x16xf32",
        2,
        "input 'x' is 128x16xf32 but mlp.py:step declares 8x16xf32; pass -D batch=128 or --inputs"
        " with that shape",
    ),
    (
        "memory mlp.py:ready -i x=4x16",
        2,
        "input 'x' is 4x16 but mlp.py:ready declares 8x16; pass -i x=8x16xf32 or --inputs with",
    ),
    ("memory mlp.py:ready -i x=8x16xf64", 2, "'x' is 8x16xf64 but mlp.py:ready declares 8x16xf32"),
    ("memory mlp.py:ready -i z=8x16xf32", 2, "mlp.py:ready has no input 'z'; there is x"),
    ("memory mlp.py:ready -i x", 2, "-i x: write x=128x784xf32"),
    ("memory mlp.py:ready -i x=8x16xf33", 2, "-i x=8x16xf33: no dtype 'f33'; did you mean 'f32'?"),
    ("memory mlp.py:ready -i x=8xyx3xf32", 2, "the sizes of a shape are whole numbers"),
    ("memory mlp.py:ready -i x=:norm", 2, "no distribution 'norm'; did you mean 'normal'?"),
    ("memory mlp.py:ready -i x=:normal,1", 2, "normal takes 2 numbers, such as :normal,0,1"),
    ("memory mlp.py:ready -i x=@none.npy", 2, "there is no file none.npy"),
    ("memory mlp.py:ready -i x=@text.txt", 2, "text.txt is no .npy file"),
    ("memory mlp.py:ready -i x=@batch.npz", 2, "batch.npz holds several arrays; pass it as"),
    ("memory mlp.py:step --inputs none.npz", 2, "there is no file none.npz"),
    ("memory mlp.py:step --inputs text.txt", 2, "text.txt is no .npz file"),
    ("memory mlp.py:step --inputs one.npy", 2, "holds one array without a name; pass it as -i"),
    (
        "memory mlp.py:step --inputs batch.npz",
        2,
        "--inputs batch.npz has no array 'label'; it has: x, labels",
    ),
    # output
    ("memory mlp.py:step --json - --csv -", 2, "--json - and --csv - both want stdout"),
    ("memory mlp.py:step --json no/such/folder.json", 1, "--json no/such/folder.json: No such"),
    ("memory mlp.py:step --json mlp.py", 2, "--json mlp.py: that is no name for a result"),
    ("graph mlp.py:step -o g.png", 2, "-o g.png: the format is the ending; write .svg, .dot"),
    ("graph mlp.py:step --stage fusion", 2, "--stage fusion: no such stage; did you mean 'fuse'?"),
    ("graph mlp.py:step --stage built --heat", 2, "--heat needs --stage optimized"),
    # checks
    ("memory mlp.py:step --fail-if peak", 2, "--fail-if 'peak': write NAME>VALUE"),
    ("memory mlp.py:step --fail-if peak>1XB", 2, "no unit 'XB'"),
    ("memory mlp.py:step --fail-if paek>1", 2, "no 'paek'; did you mean 'peak'? (also: lower_"),
    ("profile mlp.py:step --fail-if k3.rof<1", 2, "no 'k3.rof'; did you mean 'k#.roof'?"),
    # profiles
    ("compare none.sgprof other.sgprof", 2, "there is no file none.sgprof"),
    ("show none.sgprof", 2, "there is no file none.sgprof"),
    ("show text.txt", 2, "text.txt is not JSON"),
    (
        "show new.sgprof",
        2,
        "new.sgprof was written by a newer staticgraph (schema 2); this one reads schema 1",
    ),
    ("show other.json", 2, "other.json is no profile of staticgraph"),
    ("compare new.sgprof mlp.py:step", 2, "compare two models or two profiles"),
    ("profile mlp.py:step --sweep threads", 2, "--sweep threads: write NAME=A,B,C"),
    ("profile mlp.py:step --sweep threads=0,1", 2, "threads are whole numbers from 1 on"),
    ("profile mlp.py:step --sweep batch=1,2 --trace t", 2, "--trace does not go with --sweep"),
    # devices
    ("memory mlp.py:step --device cuda", 1, "--device cuda: numba.cuda finds no GPU"),
]


@pytest.fixture
def files(models):  # noqa: F811
    """Files that are not what a command wants."""
    (models / "bad.sg").write_text("graph main(%x: f32[2]) {\n  %y = nothing(%x)\n}\n")
    (models / "text.txt").write_text("plain words\n")
    (models / "syntax.py").write_text("x = 1\ndef (:\n")
    (models / "needs.py").write_text("import a_module_that_is_not_there\n")
    (models / "quits.py").write_text("import sys\nsys.exit(7)\n")
    (models / "new.sgprof").write_text(json.dumps({"schema": "staticgraph.profile/2"}))
    (models / "other.json").write_text("{}")
    np.savez(models / "batch.npz", x=np.zeros((8, 16), "f"), labels=np.zeros(8, "i8"))
    np.save(models / "one.npy", np.zeros(3))
    return models


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("words", "code", "says"), ERRORS, ids=[row[0] for row in ERRORS])
def test_error_line(words, code, says, monkeypatch):
    if "cuda" in words:
        monkeypatch.setattr("staticgraph.cudarun.device", no_device)
    result = invoke(*words.split(" "))
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    first, *rest = result.stderr.splitlines()
    assert first.startswith("error: ")
    assert says in first
    assert "Traceback" not in "".join(rest)


def no_device():
    raise sg.TargetError("no GPU")


@pytest.mark.usefixtures("files")
def test_a_simulator_measures_nothing(monkeypatch):
    class Simulator:
        state = staticmethod(lambda: "simulator")

    monkeypatch.setattr("staticgraph.cudarun.device", lambda: Simulator)
    result = invoke("memory", "mlp.py:step", "--device", "cuda")
    assert result.exit_code == 1
    assert "a simulator's times mean nothing" in result.stderr


@pytest.mark.usefixtures("files")
def test_what_fails_while_running_is_told():
    """Labels out of range: no line of the user's is to blame, the op's message says what is."""
    result = invoke("profile", "mlp.py:step", "-i", "label=:int,9,10", "--quick", "--no-roofs")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: mlp.py:step raised NumericError while it ran: ")
    assert "your code" not in result.stderr


@pytest.mark.usefixtures("files")
def test_frames_shown_are_the_users():
    Path("outer.py").write_text("import mlp\n\ndef f():\n    return mlp.misfit()\n")
    err = invoke("memory", "outer.py:f").stderr
    assert "outer.py" in err
    assert "mlp.py" in err
    assert "site-packages" not in err
    assert "staticgraph/" not in err


@pytest.mark.usefixtures("files")
def test_traceback_on_request():
    plain = invoke("memory", "mlp.py:nothing")
    full = invoke("memory", "mlp.py:nothing", "--traceback")
    assert "Traceback" not in plain.stderr
    assert "Traceback" in full.stderr
    assert full.exit_code == plain.exit_code == 2


@pytest.mark.usefixtures("files")
def test_a_file_alone_lists_what_it_holds():
    result = invoke("profile", "mlp.py")
    rows = result.stderr.splitlines()[1:]
    assert result.exit_code == 2
    assert "  mlp.py:step(batch=8, lr=0.1)  [function]" in rows
    assert "  mlp.py:traced(a, b)  [traced]" in rows
    assert any(row.startswith("  mlp.py:ready") and row.endswith("[compiled]") for row in rows)


@pytest.mark.usefixtures("files")
def test_profile_alone_says_what_to_try():
    result = invoke("profile")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: profile needs a MODEL\ntry:\n")
    assert "staticgraph profile mlp.py " in result.stderr


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("check", "code"),
    [("peak>2GiB", 0), ("peak>1B", 3), ("peak<1GiB", 3), ("peak>1B+2*peak", 0), ("state==256", 3)],
)
def test_checks_set_the_exit_code(check, code):
    result = invoke("memory", "mlp.py:step", "--fail-if", check)
    assert result.exit_code == code
    assert (f"failed: {check}" in result.stderr) == (code == 3)


def test_errors_of_a_child_process_are_ours(models):  # noqa: F811
    result = invoke("bench", "mlp.py:broken", "--processes", "2")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: mlp.py raised ZeroDivisionError at mlp.py:")
    assert sys.executable not in result.stderr
