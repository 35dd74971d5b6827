"""What a profile says in words: advice, roofs of a busy machine, branches, scopes, counters."""

import json
import os
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from http.server import HTTPServer

import numpy as np
import pytest
from clitools import invoke, made_up, models  # noqa: F401  a fixture

import staticgraph as sg
from staticgraph.cli import counters, opening, reporting
from staticgraph.profiling import machine as module
from staticgraph.profiling import measure
from staticgraph.profiling.advice import advise
from staticgraph.profiling.machine import highest, machine, machine_file
from staticgraph.profiling.report import load_report
from staticgraph.profiling.roofline import apply_roofs
from staticgraph.profiling.rows import Level, Machine, Roof
from staticgraph.profiling.scopes import scope

ops = sg.ops
CHEAP = {"roofs": False, "runs": 3, "warmup": 1}


def flat(value):
    return Roof(value, value, value, 0.1, [value])


def roofs(value=1e9, **changes):
    """A machine of one level of memory; all its roofs are the same number."""
    r = flat(value)
    levels, peaks = [Level("DRAM", 0, 0, r, r)], {"float32": r, "float64": r}
    fields = {
        "cpu": "none", "cores": 1, "threads": 1, "date": "2000-01-01", "versions": {},
        "levels": levels, "levels_one": levels, "fma": peaks, "fma_one": peaks,
        "sgemm": r, "blas": r, "seconds": 0.0, "math": peaks, "math_one": peaks,
    }  # fmt: skip
    return Machine(**{**fields, **changes})


# -- roofs of a busy machine ----------------------------------------------------------------------
@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Measurements by a list; what is kept was made long ago."""
    monkeypatch.setenv("STATICGRAPH_CACHE_DIR", str(tmp_path))

    def told(*measured):
        found = iter(measured)
        monkeypatch.setattr(module, "measure", lambda: next(found))
        first = machine()
        old = time.time() - 2 * module.AGAIN_SECONDS
        os.utime(machine_file(), (old, old))
        return first

    return told


def test_roofs_of_a_busy_machine_are_measured_again(kept):
    kept(roofs(2e9, busy="load 9.0 on 2 cores"), roofs(3e9))
    assert machine() == roofs(3e9)
    assert machine() == roofs(3e9)  # free at last: there is no third measurement to take


def test_roofs_that_were_higher_stay(kept):
    """Other programs only lower a roof; another measurement of a busy machine shows that too."""
    kept(roofs(2e9, busy="load 9.0 on 2 cores"), roofs(1e9, busy="load 8.0 on 2 cores"))
    found = machine()
    assert found.levels[0].read.value == found.fma["float32"].value == found.blas.value == 2e9
    assert found.busy == "load 8.0 on 2 cores"


def test_roofs_of_a_free_machine_stay(kept):
    kept(roofs(2e9))
    assert machine() == roofs(2e9)


def test_the_higher_of_each_roof():
    new = roofs(1e9, sgemm=flat(9e9), date="2001-01-01")
    found = highest(new, roofs(2e9))
    assert (found.sgemm.value, found.blas.value) == (9e9, 2e9)
    assert found.date == "2001-01-01"


@pytest.mark.parametrize(
    ("load", "low", "said"),
    [(0.0, 0.99, ""), (3.0, 0.99, "load 3.0 on 2 cores"), (0.0, 0.5, "half of the rounds below")],
)
def test_when_a_machine_was_busy(load, low, said):
    peak = {"float32": Roof(1e9, low * 1e9, 1e9, 0.0, [])}
    made = roofs(cores=2, load=load, fma=peak, fma_one=peak)
    assert module._busy(made).startswith(said)
    assert bool(module._busy(made)) == bool(said)


def test_the_header_says_that_the_machine_was_busy():
    x = sg.input("x", (64,))
    report = sg.compile(ops.exp(x)).profile(runs=3, warmup=1, roofs=roofs(busy="load 9 on 2"))
    assert "busy (load 9 on 2)" in " ".join(report.table(120).split())
    assert "busy (load 9 on 2)" in report.to_html(source=False)
    report = sg.compile(ops.exp(x)).profile(runs=3, warmup=1, roofs=roofs())
    assert "while it was busy" not in report.table(120)


def test_the_header_names_the_peak_of_the_model_s_numbers():
    for dtype, shown, other in (("float64", "f64", "f32"), ("float32", "f32", "f64")):
        report = sg.compile(ops.exp(sg.input("x", (64,), dtype))).profile(
            runs=3, warmup=1, roofs=roofs()
        )
        line = next(t for t in report.table(120).splitlines() if t.startswith("machine"))
        assert f"{shown} 1.00 GFLOP/s" in line
        assert other not in line


# -- bounds ---------------------------------------------------------------------------------------
def test_functions_have_a_roof_of_their_own():
    """exp of n numbers: n calls at the rate of exp, and the multiplication on top."""
    n = 1 << 16
    x = sg.input("x", (n,))
    limits = roofs(1e15, math_one={"float32": flat(1e9)}, fma_one={"float32": flat(1e10)})
    (row,) = sg.compile(ops.exp(x) * 3.0, threads=1).profile(runs=3, warmup=1, roofs=limits).kernels
    assert row.bound == "math"
    assert (row.flops, row.transcendentals) == (2 * n, n)
    seconds = n / 1e9 + 2 * n / 1e10
    assert row.roof_percent == pytest.approx(100 * seconds / row.median)


def test_roofs_measured_before_functions_had_one():
    x = sg.input("x", (1 << 16,))
    old = roofs(math={}, math_one={})
    (row,) = sg.compile(ops.exp(x), threads=1).profile(runs=3, warmup=1, roofs=old).kernels
    assert row.bound == "DRAM"


# -- advice ---------------------------------------------------------------------------------------
def advised(**changes):
    """Advice on a report whose kernels are all alike."""
    report = made_up()
    report.kernels = [
        replace(r, **{"name": "k", "share": 0.3, "tiles": 8, **changes}) for r in report.kernels
    ]
    return [a.text for a in advise(report)], report


def test_short_kernels_are_one_line():
    texts, _ = advised(bound="launch", imbalance=0.0)
    (line,) = [t for t in texts if "too short" in t]
    assert line.startswith("#1 k, #2 k and #3 k are too short")


def test_kernels_alike_are_one_line():
    texts, _ = advised(bound="L2", roof_percent=20.0, could_save=1e-6, imbalance=0.0)
    (line,) = [t for t in texts if "% of the L2 bandwidth" in t]
    assert line.endswith("as do 2 more of that name")


def test_waiting_threads_are_one_line():
    _, report = advised(imbalance=0.5, bound=None)
    report.noise.load, report.noise.cores = 0.1, 2
    (line,) = [a.text for a in advise(report) if "wait for each other" in a.text]
    assert line.endswith("other programs use the cores, or tiles are uneven")
    report.noise.load = 9.0
    (line,) = [a.text for a in advise(report) if "wait for each other" in a.text]
    assert line.endswith("for up to 33 % of the time: other programs use the cores")
    report.kernels, report.noise.load = report.kernels[:1], 0.1
    (line,) = [a.text for a in advise(report) if "slowest thread" in a.text]
    assert "busy 50 % longer than their mean (8 tiles)" in line


# -- branches -------------------------------------------------------------------------------------
def branched():
    x = sg.input("x", (8, 8))
    y = sg.cond(x.sum() > 0.0, lambda: ops.sort(ops.exp(x)), lambda: ops.sort(ops.tanh(x)))
    return sg.compile(ops.sort(y) + 1.0, [x])


def test_kernels_behind_a_branch_read_from_both_sides():
    report = branched().profile(**CHEAP)
    writers = {r.index for r in report.kernels if r.ops == ["sort"]}
    *_, last = [r for r in report.kernels if len({f"#{k}" for k in writers} & set(r.reads)) == 2]
    assert last.index > max(int(text[1:]) for text in last.reads)
    assert "output 0" in report.kernels[-1].writes


def test_kernels_of_a_branch_not_taken_did_not_run():
    fn = branched()
    report = fn.profile(-np.ones((8, 8), "f"), **CHEAP)
    (exp,) = [r for r in report.kernels if "exp" in r.ops]
    (tanh,) = [r for r in report.kernels if "tanh" in r.ops]
    assert (exp.calls, tanh.calls) == (0, 1)
    lines = {w[1]: w for w in map(str.split, report.table(120).splitlines()) if len(w) > 2}
    assert lines["exp"][2] == "-"
    assert "not run" in " ".join(lines["exp"])
    assert "not run" not in " ".join(lines["tanh"])


def test_the_kernels_of_pairs_within_branches_are_named():
    made = branched().explain()
    inner = [p for p in made.pairs if p.maker in ("exp", "tanh")]
    assert len(inner) == 2
    assert all(p.made_in and p.read_in for p in inner)


# -- how long -------------------------------------------------------------------------------------
def test_runs_are_spread_over_the_time_asked_for(monkeypatch):
    monkeypatch.setattr(measure, "MOST_RUNS", 40)
    fn = sg.compile(ops.exp(sg.input("x", (8,))))
    begin = time.perf_counter()
    report = fn.profile(seconds=0.4, roofs=False)
    assert time.perf_counter() - begin > 0.4
    assert 20 <= report.wall.runs <= 40


# -- scopes ---------------------------------------------------------------------------------------
def test_scopes(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(
        "a = 1\n\nclass Net:\n    @staticmethod\n    def loss(x):\n"
        "        def inner():\n            return x\n        return inner()\n"
    )
    loss = "nets.py:Net.loss"
    wanted = {1: "nets.py", 4: loss, 7: f"{loss}.inner", 8: loss}
    assert {line: scope(str(path), line) for line in wanted} == wanted
    assert scope(str(tmp_path / "gone.py"), 3) == "gone.py"


def inner_model(x):
    return ops.sort(ops.exp(x))


def test_a_profile_by_scope():
    x = sg.input("x", (64,))
    report = sg.compile(inner_model(x) + 1.0, [x]).profile(**CHEAP)
    here = "test_profile_words.py"
    assert {op.scope for op in report.ops} == {
        f"{here}:inner_model", f"{here}:test_a_profile_by_scope"
    }  # fmt: skip
    assert f"{here}:inner_model" in report.table(120, by="scope")


# -- records --------------------------------------------------------------------------------------
@pytest.mark.usefixtures("models")
def test_plain_reports_are_records():
    made_up().save("run.sgprof")
    lines = invoke("show", "run.sgprof", "--plain").stdout.splitlines()
    heads, *rows = [line.split("\t") for line in lines if line[:2] in ("#\t", "1\t", "2\t", "3\t")]
    assert heads[:3] == ["#", "kernel", "median"]
    assert heads[-1] == "where"
    assert [len(row) for row in rows] == [len(heads)] * 3
    assert not [line for line in lines if line.startswith(" ")]


@pytest.mark.usefixtures("models")
def test_plain_explanations_are_records():
    lines = invoke("explain", "mlp.py:step", "--plain").stdout.splitlines()
    assert not [line for line in lines if line.startswith(" ")]
    heads = next(line.split("\t") for line in lines if line.startswith("#\t"))
    row = next(line.split("\t") for line in lines if line.startswith("1\t"))
    assert len(row) == len(heads) == 6


# -- counters -------------------------------------------------------------------------------------
FAKE = """#!{python}
import re, subprocess, sys
out = sys.argv[sys.argv.index("-o") + 1]
task = sys.stdin.read()
subprocess.run(sys.argv[sys.argv.index("--") + 1 :], input=task, text=True, check=True)
runs = int(re.search(r'"runs": (\\d+)', task)[1])
with open(out, "w") as file:
    print('{{"counter-value" : "{count}", "event" : "instructions:u"}}'.replace(
        "N", str(1000000 + 70 * runs)), file=file)
    print('{{"counter-value" : "<not supported>", "event" : "cycles"}}', file=file)
"""


@pytest.fixture
def perf(models, monkeypatch):  # noqa: F811
    """A perf that counts 70 instructions per call, or nothing."""

    def made(count):
        path = models / "perf"
        path.write_text(FAKE.format(python=sys.executable, count=count))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent), prepend=":")

    return made


QUICK = ("--processes", "1", "--runs", "3", "--warmup", "1", "--no-roofs", "--counters")
NONE = "error: hardware counters asked for (--counters) but this machine exposes none"


def test_counters_are_those_of_a_call(perf):
    perf("N")
    result = invoke("profile", "mlp.py:step", *QUICK)
    assert result.exit_code == 0
    assert "counters     70 instructions   per call" in result.stdout


def test_a_machine_without_counters(perf, monkeypatch):
    perf("<not counted>")
    result = invoke("profile", "mlp.py:step", *QUICK)
    assert (result.exit_code, result.stderr) == (1, f"{NONE} (perf: not supported, VM?)\n")
    monkeypatch.setattr(counters.shutil, "which", lambda name: None)
    result = invoke("profile", "mlp.py:step", *QUICK)
    assert (result.exit_code, result.stderr) == (1, f"{NONE} (perf: not installed)\n")


# -- numbers and vectors --------------------------------------------------------------------------
@pytest.mark.usefixtures("models")
def test_one_size_is_a_vector_or_a_number():
    with open("sizes.py", "w") as file:
        file.write(
            "import staticgraph as sg\n"
            "def one(x):\n    return sg.ops.exp(x)\n"
            "def made(size):\n    return sg.ops.exp(sg.input('x', (size, 2)))\n"
            "def typed(x: int):\n    return sg.ops.exp(sg.input('y', (x, 2)))\n"
        )
    for name, spec, types in (("one", "x=5", "x: f32[5]"), ("made", "size=5", "x: f32[5, 2]"),
                              ("typed", "x=5", "y: f32[5, 2]")):  # fmt: skip
        result = invoke("profile", f"sizes.py:{name}", "-i", spec, *QUICK[:-1])
        assert result.exit_code == 0
        assert f"inputs       {types}" in result.stdout


# -- sections -------------------------------------------------------------------------------------
def test_a_page_takes_sections():
    report = made_up()
    drawn = '<svg viewBox="0 0 1 1"><title>a point</title></svg>'
    page = report.to_html(source=False, sections=[("Budget & time", drawn), ("Other", "<p>x</p>")])
    assert '<section id="more-1"><h2>Budget &amp; time</h2>' in page
    assert drawn in page
    assert '<a href="#more-2">Other</a>' in page
    assert page.index('id="memory"') < page.index('id="more-1"') < page.index('id="details"')


def test_roofs_are_applied_by_name():
    """`apply_roofs` names a level that the machine has."""
    x = sg.input("x", (1 << 12,))
    fn = sg.compile(x + 1.0, [x])
    report = fn.profile(**CHEAP)
    apply_roofs(report.kernels, fn.plan, roofs(), "float32", 1)
    assert {r.roof_level for r in report.kernels} == {"DRAM"}


# -- in a browser ---------------------------------------------------------------------------------
@pytest.mark.usefixtures("models")
def test_show_opens_the_page(monkeypatch):
    made_up().save("run.sgprof")
    opened = []
    monkeypatch.setattr(opening.webbrowser, "open", lambda url: opened.append(url) or True)
    result = invoke("show", "run.sgprof", "--open", "-q")
    assert result.exit_code == 0
    (url,) = opened
    assert load_report(url.removeprefix("file://")) == made_up()
    monkeypatch.setattr(opening.webbrowser, "open", lambda url: False)
    assert "no browser found; open file:///" in invoke("show", "run.sgprof", "--open").stderr


@pytest.mark.usefixtures("models")
def test_show_serves_the_trace_once(monkeypatch):
    """To Perfetto's page alone; the server ends when the trace was fetched."""
    made_up().save("run.sgprof")
    monkeypatch.setattr(opening, "PORT", 0)  # any that is free
    found = []

    class Server(HTTPServer):
        def server_activate(self):
            super().server_activate()
            monkeypatch.setattr(opening, "PORT", self.server_port)

    def browser(url):
        place = url.removeprefix(f"{opening.PERFETTO}/#!/?url=")
        threading.Thread(target=lambda: found.append(urllib.request.urlopen(place))).start()
        return True

    monkeypatch.setattr(opening, "HTTPServer", Server)
    monkeypatch.setattr(opening.webbrowser, "open", browser)
    assert invoke("show", "run.sgprof", "--open-trace", "-q").exit_code == 0
    while not found:
        time.sleep(0.01)
    (response,) = found
    assert response.headers["Access-Control-Allow-Origin"] == "https://ui.perfetto.dev"
    assert json.load(response) == made_up().to_trace()


# -- faults ---------------------------------------------------------------------------------------
@pytest.mark.usefixtures("models")
def test_a_fault_of_ours_is_one_line(monkeypatch):
    def broken(name):
        raise KeyError("x")

    made_up().save("run.sgprof")
    monkeypatch.setattr(reporting, "load_report", broken)
    result = invoke("show", "run.sgprof")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: KeyError: 'x'; this is a fault of staticgraph")
    assert result.stderr.count("\n") == 1
    with pytest.raises(KeyError):
        invoke("show", "run.sgprof", "--traceback")
