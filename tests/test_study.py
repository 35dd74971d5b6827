"""Studies: budgets, points against independent figures, pictures, the page of the documentation."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import numpy as np
import pytest
from test_budget import arrays, layers

import staticgraph as sg
from staticgraph import count, study
from staticgraph.errors import BudgetError, DagError, InputError
from staticgraph.passes.remat import Dag, simulate
from staticgraph.study import process, raster
from staticgraph.study.budgets import budgets_of
from staticgraph.threads import get_threads

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
SVG = "{http://www.w3.org/2000/svg}"


def skip_chain():
    """Holding node 0 beside 1 and 2 takes 8 bytes, computing it again (cost 1 of 41) takes 6."""
    return Dag(
        cost=(1, 10, 10, 10, 10),
        size=(2, 3, 3, 1, 1),
        inputs=((), (0,), (1,), (2,), (0, 3)),
        names=("a", "b", "c", "d", "e"),
        name="skip",
    )


# ---------------------------------------------------------------------------- budgets


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        ("100%", [1000]),
        (300, [300]),
        ("300, 40", [300, 40]),
        ("100%..20%:5", [1000, 800, 600, 400, 200]),
        ("20%..100%:3, 1kB", [1000, 600, 200]),
        (["50%", 700, "0.1kB"], [700, 500, 100]),
    ],
)
def test_budgets(budgets, expected):
    assert budgets_of(budgets, 1000) == expected


def test_a_range_has_nine_budgets():
    assert len(budgets_of("100%..20%", 1 << 20)) == 9


@pytest.mark.parametrize("budgets", ["-5", "0%", "x..y", "100%..", "10%..90%:1", -1, 0, [], "1 qB"])
def test_wrong_budgets(budgets):
    with pytest.raises(BudgetError, match="budgets: "):
        budgets_of(budgets, 1000)


# ---------------------------------------------------------------------------- a function


def mine(dag, budget):
    """A policy of a user: everything twice, the forward pass just before each reader."""
    return [*range(len(dag))]


@pytest.fixture(scope="module")
def small():
    """A network, its arrays, and a measured study of it."""
    outputs, inputs = layers(4, 64, 16)
    fn = sg.compile(outputs, inputs)
    given = arrays(inputs)
    seen = []
    made = study.pareto(
        fn, given, "100%,80%,70%", ["dtr", "keep-all", mine],
        seconds=0.01, name="small", progress=lambda *at: seen.append(at),
    )  # fmt: skip
    return fn, given, made, seen


def test_points_are_in_order_and_progress_is_told(small):
    _, _, made, seen = small
    assert [p.strategy for p in made.points] == ["dtr"] * 3 + ["keep-all"] * 3 + ["mine"] * 3
    budgets = [p.budget for p in made.points[:3]]
    assert budgets == sorted(budgets, reverse=True)
    assert seen == [(k, 9) for k in range(10)]


def test_points_keep_their_budgets_and_say_why_not(small):
    fn, _, made, _ = small
    assert all(p.allocated <= p.budget for p in made.points if p.ok)
    assert [p.ok for p in made.points[6:]] == [True, False, False]
    assert "mine" in made.points[7].status
    assert made.points[0].allocated == fn.memory.peak_bytes == made.peak
    assert made.points[0].recomputed == []
    assert made.points[2].recomputed


def test_planned_bytes_and_cost_are_those_of_the_simulator(small):
    made = small[2]
    for p in filter(lambda p: p.ok, made.points):
        simulation = simulate(made.dag, p.sequence)
        assert p.planned == simulation.peak
        assert p.extra == pytest.approx(simulation.cost / made.dag.total - 1)
        assert 0 <= p.bound <= p.extra
        assert p.gap == pytest.approx(p.extra - p.bound)


def test_compiling_with_the_sequence_gives_what_the_point_says(small):
    fn, given, made, _ = small
    point = made.find("dtr")
    outputs, inputs = layers(4, 64, 16)
    planned = sg.compile(
        outputs, inputs, memory_budget=point.budget, policy=lambda dag, _: point.sequence
    )
    assert planned.memory.peak_bytes == point.allocated
    flops = [count.total(f.optimized).flops for f in (planned, fn)]
    assert flops[0] - flops[1] == point.extra_flops > 0
    for a, b in zip(planned(*given), fn(*given), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_measured_is_there(small):
    for p in filter(lambda p: p.ok, small[2].points):
        assert p.equal
        assert min(p.seconds, p.base_seconds, p.predicted) > 0
        assert p.slowdown == pytest.approx(p.seconds / p.base_seconds)


def test_equal_is_false_for_other_bits(small):
    fn, given, _, _ = small
    assert process.results(fn, given) == process.results(fn, given)
    assert process.results(fn, given) != process.results(fn, [a + 1 for a in given])


def test_new_values_of_variables_are_compared_and_put_back():
    v = sg.variable(np.ones(3, "f"), name="v")
    fn = sg.compile(sg.constant(2.0), updates={v: v * 3})
    assert process.results(fn, [])[1] == np.full(3, 3, "f").tobytes()
    np.testing.assert_array_equal(v.value, np.ones(3, "f"))


@pytest.mark.skipif(not process.measurable(), reason="no high-water mark of resident memory here")
def test_measured_bytes_are_those_allocated():
    outputs, inputs = layers(6, 8192, 128)
    fn = sg.compile(outputs, inputs)
    planned = fn.memory.peak_bytes + get_threads() * fn.memory.scratch_bytes
    assert planned >= 64 << 20
    measured = process.rise(fn, arrays(inputs))
    assert abs(measured - planned) <= 0.05 * planned + (2 << 20)


def test_plan_only_runs_nothing(monkeypatch):
    outputs, inputs = layers(3, 32, 16)
    fn = sg.compile(outputs, inputs)
    monkeypatch.setattr(type(fn), "__call__", None)
    made = study.pareto(fn, budgets="80%", strategies=["dtr"], measure=False)
    assert made.points[0].allocated <= 0.8 * made.peak
    assert made.points[0].seconds is made.points[0].measured is None
    head = made.table().splitlines()[0].split("  ")
    titles = {t.strip() for t in head if t.strip()}
    assert {"planned", "allocated", "predicted", "extra flops", "gap", "recomputed"} <= titles
    assert not {"measured", "time", "slower", "bits"} & titles


def test_a_function_with_a_budget_is_studied_without():
    outputs, inputs = layers(3, 32, 16)
    fn = sg.compile(outputs, inputs)
    tight = sg.compile(outputs, inputs, memory_budget="80%", policy="dtr")
    made = study.pareto(tight, budgets="100%", strategies=["keep-all"], measure=False)
    assert made.peak == fn.memory.peak_bytes > tight.memory.peak_bytes


def test_ctrl_c_keeps_the_points_done():
    def stop(done, _):
        if done == 2:
            raise KeyboardInterrupt

    made = study.of_dag(skip_chain(), "100%,80%", ["best", "keep-all"], progress=stop)
    assert made.interrupted
    assert [p.strategy for p in made.points] == ["best", "best"]


@pytest.mark.parametrize(
    ("budgets", "strategies", "says"),
    [
        ("100%", ["bst"], "there is no 'bst'"),
        ("100%", [], "there is none"),
        (5, ["best"], "no strategy keeps any of them.*the floor 6 B"),
    ],
)
def test_wrong_studies(budgets, strategies, says):
    with pytest.raises(BudgetError, match=says):
        study.of_dag(skip_chain(), budgets, strategies)


# ---------------------------------------------------------------------------- a plain dag


def test_a_dag_whose_best_plan_is_known():
    made = study.of_dag(skip_chain(), ["100%", 6], ["best", "keep-all"], time_limit=1.0)
    assert (made.peak, made.floor) == (8, 6)
    point = made.find("best", 6)
    assert (point.planned, point.recomputed) == (6, ["a x2"])
    assert point.extra == pytest.approx(1 / 41)
    assert point.gap == pytest.approx(0, abs=1e-9)
    assert [p.ok for p in made.points] == [True, True, True, False]


def test_a_larger_budget_costs_no_more():
    made = study.of_dag(
        sg.passes.remat.families.chain(8), "100%..40%:4", ["best", "dtr"], time_limit=1
    )
    for name in ("best", "dtr"):
        extra = [p.extra for p in made.points if p.strategy == name and p.ok]
        assert extra == sorted(extra)
        assert extra[-1] > 0


def test_explain_says_what_a_byte_is_worth():
    dag = skip_chain()
    again = study.explain(dag, "a", sequence=[0, 1, 2, 3, 0, 4], budget=6)
    assert (again.kept, again.held, again.again) == (False, ((0, 1), (4, 5)), 1.0)
    # Node 0 is 2 bytes and costs 1: with a byte more half of it could be held.
    assert again.price == pytest.approx(0.5)
    assert "computed 2 times" in str(again)
    kept = study.explain(dag, 2, sequence=[0, 1, 2, 3, 0, 4], budget=6)
    assert kept.kept
    assert kept.at_peak
    with pytest.raises(InputError, match="no value is named 'z'"):
        study.explain(dag, "z")
    with pytest.raises(InputError, match="there is no node 9"):
        study.explain(dag, 9)


def test_explain_of_a_study(small):
    made = small[2]
    point = made.find("dtr")
    twice = next(v for v in point.sequence if point.sequence.count(v) > 1)
    why = study.explain(made, twice, strategy="dtr")
    assert (why.kept, len(why.held)) == (False, point.sequence.count(twice))
    assert "test_budget.py" in why.where
    assert study.explain(made, twice, budget=point.budget, strategy="dtr") == why
    with pytest.raises(LookupError, match="no plan of 'keep-all' at 1 B"):
        study.explain(made, 0, strategy="keep-all", budget=1)


def test_explain_of_a_function():
    outputs, inputs = layers(4, 64, 16)
    fn = sg.compile(outputs, inputs, memory_budget="60%", policy="dtr")
    twice = next(v for v in fn.recomputation.sequence if fn.recomputation.sequence.count(v) > 1)
    made = study.explain(fn, twice)
    assert not made.kept
    assert "test_budget.py" in made.where
    with pytest.raises(InputError, match="nothing is recomputed"):
        study.explain(sg.compile(outputs, inputs), 0)


# ---------------------------------------------------------------------------- what is written


def pixels(data):
    """The rows of a PNG file without filters, read by its own rules."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = {}, 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert zlib.crc32(kind + body) == int.from_bytes(
            data[at + 8 + size : at + 12 + size], "big"
        )
        found[kind] = found.get(kind, b"") + body
        at += 12 + size
    w, h = (int.from_bytes(found[b"IHDR"][k : k + 4], "big") for k in (0, 4))
    rows = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(h, 1 + 3 * w)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(h, w, 3)


def test_png_shows_what_the_svg_says():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 60 40">'
        '<rect width="60" height="40" fill="#ffffff"/>'
        '<rect x="5" y="5" width="10" height="10" fill="#ff0000"/>'
        '<polygon points="20,5 40,5 20,25" fill="#00ff00"><title>t</title></polygon>'
        '<polyline points="5,30 25,30" stroke="#0000ff" stroke-width="4" stroke-dasharray="5 5"/>'
        '<circle cx="50" cy="15" r="5" fill="#ffff00" stroke="#000000" stroke-width="2"/>'
        '<text x="55" y="38" text-anchor="end">HI</text></svg>'
    )
    drawn = pixels(raster.png(svg))
    assert drawn.shape == (80, 120, 3)
    for x, y, colour in (
        (10, 10, (255, 0, 0)), (24, 9, (0, 255, 0)), (36, 20, (255, 255, 255)),
        (7, 30, (0, 0, 255)), (13, 30, (255, 255, 255)), (17, 30, (0, 0, 255)),
        (50, 15, (255, 255, 0)), (50, 9.6, (0, 0, 0)), (2, 2, (255, 255, 255)),
    ):  # fmt: skip
        assert tuple(drawn[int(2 * y), int(2 * x)]) == colour, (x, y)
    letters = np.argwhere((drawn[58:78] < 128).all(axis=2))
    assert letters[:, 1].min() > 80
    assert 100 <= letters[:, 1].max() <= 110


def test_png_of_each_picture(small):
    for picture in ("pareto", "memory", "grid"):
        drawn = pixels(small[2].to_png(picture, strategy="dtr"))
        assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 10


def test_the_page_has_every_row_and_picture(small):
    text = small[2].to_html()
    assert text.count("<tr>") == 1 + len(small[2].points)
    assert text.count("<svg") == 1 + 2 * 3, "curves, and two pictures of each strategy's plan"
    assert not re.search(r"(?:src|href)=|<script>", text)
    data = re.search(r'type="application/json" id="staticgraph-study">(.*?)</script>', text)[1]
    assert study.Study.from_json(data) == small[2]


def test_json_gives_the_study_back(small):
    made = small[2]
    back = study.Study.from_json(made.to_json())
    assert back == made
    assert back.to_svg("grid") == made.to_svg("grid")
    with pytest.raises(DagError, match="schema"):
        study.Study.from_json("{}")


def test_csv_and_table_have_a_row_for_each_point(small):
    made = small[2]
    rows = list(csv.DictReader(made.to_csv().splitlines()))
    assert [int(r["budget"]) for r in rows] == [p.budget for p in made.points]
    assert rows[1]["allocated"] == str(made.points[1].allocated)
    lines = made.table().splitlines()
    assert len(lines) == 10
    assert "gap" in lines[0]
    assert "no plan" in lines[8]


@pytest.mark.parametrize("picture", ["pareto", "memory", "grid"])
def test_pictures_are_svg_within_their_frame(small, picture):
    root = ET.fromstring(small[2].to_svg(picture, strategy=None if picture == "pareto" else "dtr"))
    width, height = float(root.get("width")), float(root.get("height"))
    places = [
        (float(x), float(y))
        for shape in root
        for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", shape.get("points", ""))
    ]
    places += [
        (float(r.get("x")), float(r.get("y"))) for r in root.iter(f"{SVG}rect") if r.get("x")
    ]
    assert places
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)


def test_a_grid_has_a_cell_for_each_step():
    made = study.of_dag(skip_chain(), [6], ["best"], time_limit=1.0)
    titles = [t.text for t in ET.fromstring(made.to_svg("grid")).iter(f"{SVG}title")]
    assert sum(" computes " in t for t in titles) == 6
    assert "step 4 computes node 0 (a)" in titles or "step 3 computes node 0 (a)" in titles


def test_the_curves_name_every_strategy(small):
    texts = {t.text for t in ET.fromstring(small[2].to_svg()).iter(f"{SVG}text")}
    assert {"keep-all", "dtr", "mine", "extra time per call, %"} <= texts


def test_pictures_that_cannot_be_drawn(small):
    with pytest.raises(ValueError, match="'pareto', 'memory' or 'grid'"):
        small[2].to_svg("pie")
    with pytest.raises(LookupError, match="no plan"):
        small[2].to_svg("grid", strategy="mine", budget=1)


# ---------------------------------------------------------------------------- models and the page


@pytest.mark.parametrize(
    "name",
    ["mlp", "wgan_gp", *(pytest.param(n, marks=pytest.mark.slow) for n in
                         ("resnet", "unet", "transformer", "lstm"))],
)  # fmt: skip
def test_the_study_models_run(monkeypatch, name):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import study_models

    fn, given = getattr(study_models, name)()
    assert np.isfinite(fn(**given)[0])
    assert fn.memory.peak_bytes > 0
    with pytest.raises(ValueError, match="size is"):
        study_models.mlp("huge")


def test_the_page_runs_as_printed(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 3
    for k, block in enumerate(blocks):
        exec(compile(block, f"docs/memory.md block {k}", "exec"), names)
    assert names["s"].find("dtr").equal


def test_the_page_shows_pictures_that_exist():
    found = re.findall(r"\]\((img/[\w-]+\.svg)\)", PAGE)
    assert len(found) == 3
    for name in found:
        ET.parse(ROOT / "docs" / name)
