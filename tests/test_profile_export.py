"""Reports written and read: JSON byte for byte, and the formats of other tools by their rules."""

import csv
import gzip
import io
import json
from dataclasses import replace

import pytest
from models import GRAPHS

import staticgraph as sg
from staticgraph.errors import ReportError
from staticgraph.profiling import units
from staticgraph.profiling.report import Report, load_report
from staticgraph.profiling.summary import merged


@pytest.fixture(scope="module")
def report():
    outputs, updates = GRAPHS["mlp"]()
    fn = sg.compile(outputs, updates=updates)
    with sg.threads(2):
        return fn.profile(runs=12, warmup=2, roofs=False)


@pytest.fixture(scope="module")
def parallel():
    x = sg.input("x", (1 << 19,))
    fn = sg.compile([sg.ops.sin(x), sg.ops.cos(x)], pipeline="none")
    with sg.threads(2):
        return fn.profile(runs=6, warmup=2, roofs=False)


# -- JSON -----------------------------------------------------------------------------------------
def test_json_goes_round(report):
    text = report.to_json()
    again = Report.from_json(text)
    assert again == report
    assert isinstance(again, Report)
    assert again.to_json() == text


def test_fields_of_later_versions_are_left_out(report):
    data = json.loads(report.to_json())
    data["invented"] = 1
    data["kernels"][0]["invented"] = {"a": 2}
    assert Report.from_json(json.dumps(data)) == report


@pytest.mark.parametrize("name", ["run.sgprof", "run.json"])
def test_files_go_round(report, tmp_path, name):
    path = tmp_path / name
    report.save(path)
    assert load_report(path) == report
    first = path.read_bytes()
    report.save(path)
    assert path.read_bytes() == first
    assert (first[:2] == b"\x1f\x8b") == (path.suffix == ".sgprof")


BAD_FILES = {
    "a newer schema": (
        b'{"schema": "staticgraph.profile/2"}',
        "run.sgprof was written by a newer staticgraph (schema 2); this one reads schema 1",
    ),
    "no profile": (b'{"a": 1}', "run.sgprof is no profile of staticgraph"),
    "a list": (b"[1, 2]", "run.sgprof is no profile of staticgraph"),
    "no JSON": (b"kernels", "run.sgprof is not JSON"),
    "no text": (b"\xff\xfe\x00", "run.sgprof cannot be read"),
    "half a gzip": (gzip.compress(b"x" * 1000)[:20], "run.sgprof cannot be read"),
    "fields missing": (b'{"schema": "staticgraph.profile/1"}', "run.sgprof is a damaged profile"),
    "wrong types": (
        b'{"schema": "staticgraph.profile/1", "wall": 3}', "run.sgprof is a damaged profile"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_FILES)
def test_files_that_are_no_profile(tmp_path, what):
    content, message = BAD_FILES[what]
    path = tmp_path / "run.sgprof"
    path.write_bytes(content)
    with pytest.raises(ReportError) as caught:
        load_report(path)
    assert caught.value.summary.startswith(message)


def test_a_missing_file(tmp_path):
    with pytest.raises(ReportError, match=r"no\.sgprof cannot be read"):
        load_report(tmp_path / "no.sgprof")


# -- CSV ------------------------------------------------------------------------------------------
def test_csv_has_a_line_per_kernel(report):
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [int(r["index"]) for r in rows] == [k.index for k in report.kernels]
    for row, k in zip(rows, report.kernels, strict=True):
        assert float(row["median"]) == k.median
        assert (int(row["flops"]), int(row["bytes"])) == (k.flops, k.bytes)
        assert (float(row["ci_low"]), row["label"]) == (k.ci.low, k.label)


# -- Chrome trace ---------------------------------------------------------------------------------
@pytest.mark.parametrize("which", ["report", "parallel"])
def test_slices_of_a_trace_nest(which, request):
    found = request.getfixturevalue(which).to_trace()["traceEvents"]
    json.dumps(found)
    slices = [e for e in found if e["ph"] == "X"]
    names = {e["tid"] for e in found if e["ph"] == "M"}
    for thread in {e["tid"] for e in slices}:
        assert thread in names
        mine = [e for e in slices if e["tid"] == thread]
        assert [e["ts"] for e in mine] == sorted(e["ts"] for e in mine)
        stack = []
        for e in mine:
            while stack and stack[-1] <= e["ts"] + 1e-6:
                stack.pop()
            end = e["ts"] + e["dur"]
            assert not stack or end <= stack[-1] + 1e-6
            stack.append(end)


def test_durations_of_a_trace_are_those_of_the_report(report):
    slices = [e for e in report.to_trace()["traceEvents"] if e["ph"] == "X" and e["tid"] == 0]
    runs = [e for e in slices if e["name"].startswith("run ")]
    assert len(runs) == len(report.timeline) <= 5
    for row in report.kernels:
        mine = [e["dur"] for e in slices if e["args"].get("kernel") == row.index]
        events = [
            e.end - e.begin for run in report.timeline for e in run.events if e.kernel == row.index
        ]
        assert sum(mine) == pytest.approx(sum(events) * 1e6, abs=1)
        lowest, highest = row.minimum, row.total
        assert all(lowest * 1e6 - 1 <= d <= highest * 1e6 + 1 for d in mine)


# -- speedscope and folded stacks -----------------------------------------------------------------
@pytest.mark.parametrize("which", ["report", "parallel"])
def test_speedscope_opens_and_closes_in_order(which, request):
    made = request.getfixturevalue(which).to_speedscope()
    json.dumps(made)
    frames = made["shared"]["frames"]
    assert all(set(f) <= {"name", "file", "line", "col"} and f["name"] for f in frames)
    assert made["profiles"]
    for profile in made["profiles"]:
        assert (profile["type"], profile["unit"]) == ("evented", "nanoseconds")
        open_frames, at = [], profile["startValue"]
        for event in profile["events"]:
            assert at <= event["at"] <= profile["endValue"]
            at = event["at"]
            if event["type"] == "O":
                assert 0 <= event["frame"] < len(frames)
                open_frames.append(event["frame"])
            else:
                assert open_frames.pop() == event["frame"]
        assert not open_frames


@pytest.mark.parametrize("which", ["report", "parallel"])
def test_folded_stacks_sum_to_the_threads_time(which, request):
    report = request.getfixturevalue(which)
    totals = {}
    for stack in report.to_folded().splitlines():
        *names, thread = stack.rpartition(" ")[0].split(";")
        assert len(names) == 2
        totals[thread] = totals.get(thread, 0) + int(stack.rpartition(" ")[2])
    expected = {}
    for run in report.timeline:
        for span in (s for e in run.events for s in e.threads):
            name = f"thread {span.thread}"
            length = round(span.end * 1e9) - round(span.begin * 1e9)
            expected[name] = expected.get(name, 0) + length
    assert totals == expected
    for profile in report.to_speedscope()["profiles"]:
        inside = depth = 0
        for event in profile["events"]:
            if event["type"] == "O":
                inside -= event["at"] if depth == 0 else 0
                depth += 1
            else:
                depth -= 1
                inside += event["at"] if depth == 0 else 0
        assert inside == totals[profile["name"]]


# -- text -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("sort", ["time", "waste", "bytes", "name", "plan"])
def test_text_keeps_its_width(report, width, sort):
    text = report.table(width=width, sort=sort)
    assert max(map(len, text.splitlines())) <= width
    for word in ("wall", "accounted", "memory", "noise", "kernel"):
        assert word in text


def test_text_says_what_it_leaves_out(report):
    text = report.table(top=2)
    rest = len(report.kernels) - 2
    assert f"{rest} more kernels" in text
    assert "more kernels" not in report.table(top=0)


def test_notebooks_get_escaped_html(report):
    shown = replace(report)
    shown.model = replace(report.model, name="a<b>")
    assert "a&lt;b&gt;" in shown._repr_html_()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00398, "3.98ms"), (12.0e-6, "12.0us"), (1.0, "1.00s"), (0.9999e-3, "1.00ms"), (0, "0ns")],
)
def test_seconds(value, text):
    assert units.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1.00kB"), (5_242_880, "5.24MB"), (38.2e6, "38.2MB")],
)
def test_sizes(value, text):
    assert units.size(value) == text


# -- several processes ----------------------------------------------------------------------------
def test_profiles_of_several_processes_become_one(report):
    slower = Report.from_json(report.to_json())
    slower.wall.samples = [[2 * t for t in s] for s in slower.wall.samples]
    for row in slower.kernels:
        row.median *= 2
    made = merged([report, slower])
    assert isinstance(made, Report)
    assert (made.wall.processes, made.wall.runs) == (2, 2 * report.wall.runs)
    assert made.coverage.wall_ns == 2 * report.coverage.wall_ns
    assert sum(r.share for r in made.kernels) == pytest.approx(made.coverage.kernels)
    for row, old in zip(made.kernels, report.kernels, strict=True):
        assert row.median == pytest.approx(1.5 * old.median)
        assert row.flops == old.flops
    with pytest.raises(ReportError, match="not of one plan"):
        merged([report, replace(report, kernels=report.kernels[1:])])
