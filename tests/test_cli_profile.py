"""profile, bench, show, graph, cache, machine and doctor: what they print and write."""

import csv
import gzip
import io
import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from clitools import invoke, made_up, masked, models  # noqa: F401  a fixture
from hypothesis import given
from hypothesis import strategies as st

import staticgraph as sg
from staticgraph.cli import drawing, machine, memory
from staticgraph.cli.checks import Check, Range
from staticgraph.cli.columns import Column, lines
from staticgraph.cli.models import Request, load_model
from staticgraph.profiling import layout
from staticgraph.profiling.report import load_report
from staticgraph.profiling.rows import Level, Machine, Roof

QUICK = ("--quick", "--runs", "12", "--warmup", "2", "--no-roofs")


@pytest.fixture
def saved(models):  # noqa: F811
    """A profile of which every digit is known."""
    made_up().save("run.sgprof")
    return models


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.usefixtures("saved")
def test_show(width, golden):
    text = invoke("show", "run.sgprof", COLUMNS=str(width)).stdout
    assert max(map(len, text.splitlines())) <= width
    assert text == golden


@pytest.mark.parametrize("by", ["op", "line"])
@pytest.mark.usefixtures("saved")
def test_show_by(by, golden):
    assert invoke("show", "run.sgprof", "--by", by, "--top", "6").stdout == golden


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.usefixtures("models")
def test_profile(width):
    """A real profile: what does not depend on times."""
    result = invoke("profile", "mlp.py:step", *QUICK, "--top", "0", COLUMNS=str(width))
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= width
    head, table, _ = masked(result.stdout).split("\n\n")
    assert head.startswith("mlp.py:step forward+grad bool float32 int64")
    assert "inputs x: f32[#, #], label: i64[#] random, seed #" in head
    assert "\nwall # # % CI [#, #] min # p95 #\n" in head
    kernels = load_model(Request("mlp.py:step")).function.kernels
    titles, *rows = table.splitlines()
    assert titles.split()[:2] == ["#", "kernel"]
    assert set(["median", "%", "GFLOP/s", "where"]) <= set(titles.split())
    assert len(rows) == len(kernels)
    assert all(row.count("mlp.py:#") == 1 for row in rows)


@pytest.mark.usefixtures("saved")
def test_rows_are_chosen_and_sorted():
    def names(*words):
        text = invoke("show", "run.sgprof", "--top", "0", *words, COLUMNS="200").stdout
        return re.findall(r"^ *(\d+)  \w", text, re.M)

    report = load_report("run.sgprof")
    count = len(report.kernels)
    assert names() == ["2", "3", "1"]  # the dearest first
    assert names("--sort", "waste") == ["3", "2", "1"]
    by_name = sorted(report.kernels, key=lambda r: r.name)
    assert names("--sort", "name") == [str(r.index) for r in by_name]
    assert names("-k", "matmul*") == ["1"]
    assert "no kernel of that name" in invoke("show", "run.sgprof", "-k", "nothing").stdout
    shown = invoke("show", "run.sgprof", "--top", "1").stdout
    assert f"{count - 1} more kernels" in shown


@pytest.mark.usefixtures("saved")
def test_conversions_agree_with_the_report():
    report = load_report("run.sgprof")
    assert json.loads(invoke("show", "run.sgprof", "--json", "-").stdout) == json.loads(
        report.to_json()
    )
    rows = list(csv.reader(io.StringIO(invoke("show", "run.sgprof", "--csv", "-").stdout)))
    assert len(rows) == 1 + len(report.kernels)
    for option, suffix in (("trace", ".trace.json"), ("speedscope", ".speedscope.json")):
        assert invoke("show", "run.sgprof", f"--{option}").exit_code == 0
        with open(f"run{suffix}") as file:
            assert json.load(file) == json.loads(json.dumps(getattr(report, f"to_{option}")()))
    assert invoke("show", "run.sgprof", "--folded", "-").stdout == report.to_folded()


@pytest.mark.usefixtures("saved")
def test_show_imports_no_compiler():
    code = (
        "import sys\nfrom staticgraph.__main__ import program\n"
        "try: program.main(['show', 'run.sgprof'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print('LOADED', [m for m in ('numba', 'scipy', 'llvmlite') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.usefixtures("models")
def test_json_on_stdout_is_one_document():
    result = invoke("profile", "mlp.py:step", *QUICK, "--json", "-", "-o", "run.sgprof")
    document = json.loads(result.stdout)
    with gzip.open("run.sgprof") as file:
        assert json.load(file) == document
    assert document["model"]["name"] == "mlp.py:step"
    assert {i["origin"] for i in document["model"]["inputs"]} == {"random, seed 0"}
    assert result.stderr == "wrote run.sgprof\n"
    quiet = invoke("profile", "mlp.py:step", *QUICK, "--json", "-", "-q", "-o", "run.sgprof")
    assert quiet.stderr == ""
    told = invoke("profile", "mlp.py:step", *QUICK, "--json", "-", "-v")
    assert re.search(r"^ *[\d.]+ s  mlp\.py:step: (\d+) of \1$", told.stderr, re.M)
    assert json.loads(told.stdout)


@pytest.mark.usefixtures("models")
def test_profile_in_fresh_processes():
    words = ("--processes", "2", "--runs", "10", "--no-roofs", "--json", "-")
    document = json.loads(invoke("profile", "mlp.py:step", *words).stdout)
    assert [len(s) for s in document["wall"]["samples"]] == [10, 10]
    assert document["wall"]["processes"] == 2
    assert document["model"]["name"] == "mlp.py:step"


@pytest.mark.usefixtures("models")
def test_sweep():
    words = ("--sweep", "batch=2,4", *QUICK)
    result = invoke("profile", "mlp.py:step", *words, "--json", "s.json", "--csv", "s.csv")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["batch", "2", "4"]
    with open("s.json") as file:
        runs = json.load(file)["runs"]
    assert [r["value"] for r in runs] == ["2", "4"]
    assert [r["report"]["model"]["inputs"][0]["type"] for r in runs] == ["f32[2, 16]", "f32[4, 16]"]
    with open("s.csv") as file:
        assert [row["batch"] for row in csv.DictReader(file)] == ["2", "4"]
    threads = invoke("profile", "mlp.py:step", "--sweep", "threads=1,2", *QUICK)
    assert [line.split()[0] for line in threads.stdout.splitlines()] == ["threads", "1", "2"]


@pytest.mark.usefixtures("models")
def test_checks_of_a_profile():
    for check, code in (("median>10s", 0), ("k1.share<101%", 3), ("k1.roof<40%", 4)):
        result = invoke("profile", "mlp.py:step", *QUICK, "--fail-if", check)
        assert result.exit_code == code, check
    result = invoke("profile", "mlp.py:step", *QUICK, "--fail-if", "k99.share>1")
    assert result.exit_code == 2
    assert "there is no kernel k99" in result.stderr


@pytest.mark.usefixtures("models")
def test_bench():
    words = ("--processes", "2", "--runs", "9", "--warmup", "3")
    result = invoke("bench", "mlp.py:step", *words, "--json", "b.json", "--csv", "b.csv")
    with open("b.json") as file:
        made = json.load(file)
    samples = [p["samples"] for p in made["processes"]]
    assert [len(s) for s in samples] == [9, 9]
    assert made["median"] == pytest.approx(np.median(samples))
    assert made["min"] == min(map(min, samples))
    assert made["ci"]["low"] <= made["median"] <= made["ci"]["high"]
    assert made["flops"] > 2 * 8 * 16 * 4
    assert [p["warmup"] for p in made["processes"]] == [4, 4]
    with open("b.csv") as file:
        assert len(file.readlines()) == 1 + 18
    assert re.search(r"^latency +[\d.]+[mun]?s +99 % CI", result.stdout, re.M)
    once = invoke("bench", "mlp.py:step", "--quick", "--runs", "3", "--fail-if", "p99>100s")
    assert once.exit_code == 0
    assert "noise between processes is unknown" in once.stdout


# ------------------------------------------------------------------------------ graph


@pytest.mark.usefixtures("models")
def test_graph_text_is_the_graph():
    text = invoke("graph", "mlp.py:graph", "--stage", "built").stdout
    w = np.linspace(-1, 1, 64, dtype="f").reshape(16, 4)
    (label,) = re.findall(r"@(\w+):", text)
    graph = sg.parse(text, {label: w})
    x = sg.input("x", (8, 16))
    assert graph == sg.Graph([x], [sg.ops.tanh(x @ sg.variable(w, name=label))])


@pytest.mark.usefixtures("models")
def test_stages():
    built, after, done = (
        json.loads(invoke("graph", "mlp.py:step", "--stage", s, "--json", "-").stdout)["nodes"]
        for s in ("built", "cse", "optimized")
    )
    assert len(after) > len(done)
    assert {"kernel"} <= {n["kind"] for n in done}
    assert "kernel" not in {n["kind"] for n in built}


@pytest.mark.usefixtures("models")
def test_graph_files():
    assert invoke("graph", "mlp.py:step", "-o", "g.svg", "--heat").exit_code == 0
    root = ElementTree.parse("g.svg").getroot()
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "label" in texts
    assert "new w" in texts
    assert any("% of the time" in (t or "") for t in texts)
    data = json.loads(invoke("graph", "mlp.py:step", "--json", "-").stdout)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) == 1 + len(data["nodes"])
    invoke("graph", "mlp.py:step", "-o", "g.dot")
    with open("g.dot") as file:
        dot = file.read()
    assert dot.count("label=") == 1 + len(data["nodes"])
    assert dot.count(" -> ") == len(data["edges"])
    assert all(0 <= e["source"] < e["target"] < len(data["nodes"]) for e in data["edges"])


def test_names_are_escaped():
    made = drawing.Picture([drawing.Box("op", ['a "b" <c> & \\'])], [])
    ElementTree.fromstring(drawing.to_svg(made, '<x> & "y"'))
    assert '\\"b\\"' in drawing.to_dot(made, "x")


@given(st.data())
def test_layout(data):
    """No box over another, every edge downwards, the same each time."""
    count = data.draw(st.integers(1, 14))
    size = st.tuples(st.floats(10, 90), st.floats(10, 40))
    sizes = data.draw(st.lists(size, min_size=count, max_size=count))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = data.draw(st.lists(st.sampled_from(pairs), unique=True, max_size=25)) if pairs else []
    placed = layout.place(sizes, edges)
    assert placed == layout.place(sizes, edges)
    boxes = [(x, y, w, h) for (x, y), (w, h) in zip(placed.centres, sizes, strict=True)]
    for k, (x, y, w, h) in enumerate(boxes):
        assert x - w / 2 >= -1e-6
        assert x + w / 2 <= placed.width + 1e-6
        for u, v, p, q in boxes[:k]:
            apart = abs(x - u) >= (w + p) / 2 - 1e-6 or abs(y - v) >= (h + q) / 2 - 1e-6
            assert apart
    for points in placed.edges:
        ys = [y for _, y in points]
        assert ys == sorted(ys)


# ------------------------------------------------------------------------------ the rest


def test_cache(tmp_path):
    env = {"STATICGRAPH_CACHE_DIR": str(tmp_path)}
    empty = invoke("cache", "stats", "--json", "-", **env)
    assert json.loads(empty.stdout)["kernels"] == []
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATICGRAPH_CACHE_DIR", str(tmp_path))
        size = np.random.default_rng().integers(10**6, 10**9)  # a kernel nobody has made
        sg.compile(sg.input("x", (4,)) * float(size))
    listed = json.loads(invoke("cache", "ls", "--json", "-", **env).stdout)
    assert [k["name"] for k in listed["kernels"]] == ["multiply"]
    assert listed["bytes"] > 0
    assert "multiply" in invoke("cache", "ls", **env).stdout
    assert "removed 2 files" in invoke("cache", "clear", **env).stdout
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["notes.txt"]


def test_doctor():
    result = invoke("doctor", "--json", "-")
    found = {f["name"]: f for f in json.loads(result.stdout)["findings"]}
    assert result.exit_code == 0
    assert found["self-test"]["state"] == "ok"
    assert found["cache"]["state"] == "ok"
    assert "numpy" in found["versions"]["text"]
    assert "matmul" in invoke("doctor", "--ops").stdout.splitlines()


def test_doctor_finds_what_is_wrong(monkeypatch):
    monkeypatch.setattr("staticgraph.cli.doctor.tanh", lambda x: x * 1.5)
    result = invoke("doctor")
    assert result.exit_code == 1
    assert re.search(r"^self-test +bad", result.stdout, re.M)


def test_doctor_of_a_cache_that_takes_no_files(tmp_path):
    place = tmp_path / "file"
    place.write_text("")
    result = invoke("doctor", "--json", "-", STATICGRAPH_CACHE_DIR=str(place))
    found = {f["name"]: f for f in json.loads(result.stdout)["findings"]}
    assert found["cache"]["state"] == "note"
    assert "takes no files" in found["cache"]["text"]


def test_machine(monkeypatch):
    roof = Roof(value=2e9, low=1e9, high=3e9, cv=0.1, samples=[])

    def known(refresh=False):
        assert refresh
        levels = [Level(name="DRAM", size=0, working_set=10**8, read=roof, triad=roof)]
        return Machine(
            cpu="A CPU", cores=2, threads=1, date="2026-01-02", versions={}, levels=levels,
            levels_one=levels, fma={"float32": roof}, fma_one={"float32": roof}, sgemm=roof,
            blas=roof, seconds=1.0,
        )  # fmt: skip

    monkeypatch.setattr(machine, "machine", known)
    text = invoke("machine", "--refresh").stdout
    assert re.search(r"^DRAM +triad, 1 thread +3.00 GB/s +1.00 GB/s +\+-10%", text, re.M)


# ------------------------------------------------------------------------------ small parts


def test_columns_are_dropped_in_their_order():
    columns = [Column("name", "<"), Column("a", drop=1), Column("b", drop=2), Column("path", "<")]
    rows = [["n" * 10, "1" * 10, "2" * 10, "p" * 10]]
    for width, kept in ((46, "name a b path"), (45, "name a path"), (33, "name path")):
        made = lines(columns, rows, width)
        assert made[0].split() == kept.split()
        assert max(map(len, made)) <= width


def test_paths_lose_their_begin():
    columns = [Column("n"), Column("where", "<", cut="left")]
    (_, line) = lines(columns, [["1", "a/very/long/path/of/a/model.py:14"]], 23)
    assert line == "1  …th/of/a/model.py:14"


def test_memory_plot():
    text = "\n".join(memory.plot([10, 40, 20, 0], 1, 80))
    rows = text.splitlines()
    assert rows[0] == "      40B |    ####"
    assert rows[5] == "          |############"
    assert rows[-1].index("^") == rows[0].index("#")
    assert memory.plot([], 0, 80) == []
    assert all(len(row) <= 80 for row in memory.plot(list(range(1000)), 999, 80))


MEASURED = {"median": Range(9e-3, 11e-3), "peak": 2e9, "k3.roof": None, "a": 1.0, "b": Range(2, 3)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("median>8ms", True),
        ("median>10ms", None),
        ("median>12ms", False),
        ("median<=11ms", True),
        ("peak>1GiB", True),
        ("peak>2GB", False),
        ("peak>=2GB", True),
        ("peak==2GB", True),
        ("peak!=2000MB", False),
        ("k3.roof<40%", None),
        ("b>1.03*a", True),
        ("b>2.5*a", None),
        ("b-a<2.5", True),
        ("(b+a)*2>5", True),
        ("-a<0", True),
        ("b/a>1", True),
        ("1/(b-2.5)>0", None),
        ("50%>0.4", True),
    ],
)
def test_checks(text, expected):
    assert Check(text).holds(MEASURED) is expected


def test_the_mask_of_these_tests():
    assert masked("wall  348us   99 % CI [344us, 1.5ms] 12 runs f32[8]") == (
        "wall # # % CI [#, #] # runs f32[#]"
    )
