"""`staticgraph pareto` and `memory --sweep-budget`: output, files, exit codes, errors."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from clitools import invoke, models  # noqa: F401  (a fixture)

from staticgraph import budget
from staticgraph.passes.remat import STRATEGIES
from staticgraph.study import Study

MODEL = """
import numpy as np
import staticgraph as sg

def net(layers=4, batch=64, width=16):
    x = sg.input("x", (batch, width))
    w = sg.input("w", (width, width))
    h = x
    for _ in range(layers):
        h = sg.ops.tanh(h @ w) * sg.ops.sigmoid(h)
    return [h.sum(), *sg.grad(h.sum(), [x, w])]
"""


@pytest.fixture
def net(models):  # noqa: F811
    (models / "mlp_model.py").write_text(MODEL)
    return "mlp_model.py:net"


def dag(**changed):
    """A file of a dag that needs 6 bytes, and 8 to compute nothing twice."""
    rows = [
        {"name": "a", "cost": 1, "size": 2, "inputs": []},
        {"name": "b", "cost": 10, "size": 3, "inputs": ["a"]},
        {"name": "c", "cost": 10, "size": 3, "inputs": ["b"]},
        {"name": "d", "cost": 10, "size": 1, "inputs": ["c"]},
        {"name": "e", "cost": 10, "size": 1, "inputs": ["a", "d"]},
    ]
    rows[0] |= changed
    return json.dumps({"format": "staticgraph.dag/1", "name": "skip", "nodes": rows})


def test_a_model_is_planned_and_measured(net):
    result = invoke(
        "pareto", net, "--budgets", "100%,70%", "--strategies", "dtr,keep-all",
        "--json", "s.json", "--csv", "s.csv", "--svg", "s.svg", "--png", "s.png",
        "--html", "s.html",
    )  # fmt: skip
    assert result.exit_code == 0
    made = Study.from_json(Path("s.json").read_text())
    assert [p.ok for p in made.points] == [True, True, True, False]
    assert made.points[1].equal
    assert made.points[1].allocated <= 0.7 * made.peak
    assert len(Path("s.csv").read_text().splitlines()) == 5
    ET.parse("s.svg")
    assert Path("s.png").read_bytes().startswith(b"\x89PNG")
    assert Path("s.html").read_text().count("<svg") == 5
    assert sum(line.startswith("keep-all") for line in result.stdout.splitlines()) == 2
    assert "no plan" in result.stdout


def test_plan_only_and_a_picture_of_one_plan(net):
    result = invoke(
        "pareto", net, "--budgets", "70%", "--strategies", "dtr", "--plan-only",
        "--svg", "-", "--picture", "grid", "--at", "70%",
    )  # fmt: skip
    assert result.exit_code == 0
    assert "computed again" in "".join(ET.fromstring(result.stdout).itertext())


def test_a_dag_is_planned(models):  # noqa: F811
    (models / "dag.json").write_text(dag())
    result = invoke("pareto", "dag.json", "--budgets", "6,8", "--strategies", "best", "--json", "-")
    assert result.exit_code == 0
    points = json.loads(result.stdout)["points"]
    assert [(p["budget"], p["recomputed"]) for p in points] == [(8, []), (6, ["a x2"])]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (dag(inputs=["e"]), "cyclic: a <-"),
        (dag(size=-1), "size must be >= 0 bytes, is -1"),
        (dag(cost=-1), "cost must be finite and >= 0"),
        ("{", "not JSON"),
        (dag(colour="red"), "unknown key"),
    ],
)
def test_wrong_dags(models, content, says):  # noqa: F811
    (models / "dag.json").write_text(content)
    result = invoke("pareto", "dag.json")
    assert result.exit_code == 1
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--budgets", "-5"], 2, "'-5' is no budget"),
        (["--budgets", "90%.."], 2, "no range"),
        (["--budgets", "5"], 1, "the floor 6 B"),
        (["--strategies", "chen-sqr"], 2, "did you mean 'chen-sqrt'?"),
        (["--strategies", ","], 2, "there is none"),
        (["--time-limit", "0s"], 2, "--time-limit 0s"),
        (["--at", "100%..20%"], 2, "one budget"),
    ],
)
def test_wrong_options(models, options, code, says):  # noqa: F811
    (models / "dag.json").write_text(dag())
    result = invoke("pareto", "dag.json", *options)
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_no_such_file(models):  # noqa: F811
    result = invoke("pareto", "none.json")
    assert (result.exit_code, result.stderr) == (2, "error: none.json: No such file or directory\n")


def test_ctrl_c_keeps_the_points_done(models, monkeypatch):  # noqa: F811
    (models / "dag.json").write_text(dag())
    calls = []

    def interrupted(dag, budget):
        calls.append(budget)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return range(len(dag))

    monkeypatch.setitem(STRATEGIES, "keep-all", interrupted)
    result = invoke(
        "pareto", "dag.json", "--budgets", "8,9,10", "--strategies", "keep-all", "--json", "s.json"
    )
    assert result.exit_code == 130
    assert "interrupted: 2 points were done" in result.stderr
    made = Study.from_json(Path("s.json").read_text())
    assert made.interrupted
    assert [p.budget for p in made.points] == [9, 8]


def test_memory_sweeps_budgets(net):
    result = invoke("memory", net, "--sweep-budget", "100%", "--json", "-")
    assert result.exit_code == 0
    points = json.loads(result.stdout)["sweep"]["points"]
    assert [p["status"] for p in points] == ["ok"]
    shown = invoke("memory", net, "--sweep-budget", "100%")
    assert "recomputed" in shown.stdout


def test_why_a_value_is_computed_again(models):  # noqa: F811
    (models / "dag.json").write_text(dag())
    result = invoke(
        "pareto", "dag.json", "--budgets", "6,8", "--strategies", "best",
        "--explain", "a", "--explain", "1", "--at", "6",
    )  # fmt: skip
    assert result.exit_code == 0
    assert "a: 2B, computed 2 times" in result.stdout
    assert "b: 3B, kept" in result.stdout


def test_why_of_no_such_value(models):  # noqa: F811
    (models / "dag.json").write_text(dag())
    result = invoke(
        "pareto", "dag.json", "--budgets", "6,8", "--strategies", "best", "--explain", "z",
        "--json", "s.json",
    )  # fmt: skip
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --explain: no value is named 'z'")
    assert result.stderr.count("\n") == 1
    assert Study.from_json(Path("s.json").read_text()).points


def test_memory_draws_the_plan_as_it_is(net):
    result = invoke("memory", net, "--svg", "m.svg", "--html", "m.html", "--explain", "0")
    assert result.exit_code == 0
    assert "live memory" in "".join(ET.parse("m.svg").getroot().itertext())
    assert Path("m.html").read_text().count("<svg") == 3
    assert ", kept; held at steps 0.." in result.stdout


def test_memory_draws_what_a_budget_computes_again(net, monkeypatch):
    monkeypatch.setattr(budget, "PATIENCE", 0.5)
    monkeypatch.setattr(budget, "RUNGS", 6)
    result = invoke("memory", net, "--memory-budget", "70%", "--svg", "-", "--picture", "grid")
    assert result.exit_code == 0
    assert "best within" in result.stdout
    assert "0 of " not in result.stdout
    assert "computed again" in result.stdout


def test_memory_refuses_wrong_budgets(net):
    result = invoke("memory", net, "--sweep-budget", "x%")
    assert result.exit_code in (1, 2)
    assert "no budget" in result.stderr
