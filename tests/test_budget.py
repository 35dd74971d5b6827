"""memory_budget: the arena stays within it, the bits stay the same, more budget costs no more."""

from __future__ import annotations

import models
import numpy as np
import pytest

import staticgraph as sg
from staticgraph import budget
from staticgraph.passes.remat import STRATEGIES

ops = sg.ops


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Quick plans, no worse on graphs of this size."""
    monkeypatch.setattr(budget, "PATIENCE", 1.5)
    monkeypatch.setattr(budget, "RUNGS", 10)


def layers(count=8, batch=256, width=32):
    """A chain of products and activations, and its gradients: what checkpointing is made for."""
    x = sg.input("x", (batch, width))
    ws = [sg.input(f"w{k}", (width, width)) for k in range(count)]
    h = x
    for w in ws:
        h = ops.tanh(h @ w) * ops.sigmoid(h)
    loss = h.sum()
    return [loss, *sg.grad(loss, [x, *ws])], [x, *ws]


def penalty(batch=64, width=24):
    """A gradient of a function of a gradient."""
    x, w, u = sg.input("x", (batch, width)), sg.input("w", (width, 48)), sg.input("u", (48, 1))
    h = x
    for _ in range(3):
        h = ops.tanh(ops.tanh(h @ w) @ w.T)
    score = (h @ w) @ u
    norm = (sg.grad(score.sum(), x) ** 2).sum(axis=1)
    loss = ((ops.sqrt(norm + 1e-6) - 1) ** 2).mean()
    return [loss, *sg.grad(loss, [w, u])], [x, w, u]


def noisy():
    x, w = sg.input("x", (200, 40)), sg.input("w", (40, 40))
    h = x
    for k in range(5):
        h = ops.dropout(ops.tanh(h @ w), 0.4, key=sg.random.key(k))
    loss = (h * h).sum()
    return [loss, *sg.grad(loss, [x, w])], [x, w]


def arrays(inputs):
    rng = np.random.default_rng(0)
    return [(0.4 * rng.standard_normal(t.shape)).astype(t.dtype) for t in inputs]


@pytest.mark.parametrize("build", [layers, penalty, noisy])
def test_budgets_are_kept_with_the_same_bits_and_monotone_costs(build):
    outputs, inputs = build()
    whole = sg.compile(outputs, inputs)
    given = arrays(inputs)
    expected = whole(*given)
    most = whole.memory.peak_bytes
    extra = 0.0
    reached = most
    for percent in (100, 80, 65, 50, 40):
        allowed = most * percent // 100
        try:
            fn = sg.compile(outputs, inputs, memory_budget=allowed)
        except sg.BudgetError:
            break
        assert fn.memory.peak_bytes <= allowed
        for a, b in zip(fn(*given), expected, strict=True):
            np.testing.assert_array_equal(a, b)
        now = fn.recomputation.predicted if fn.recomputation else 0.0
        assert now >= extra
        extra, reached = now, allowed
    assert reached <= most * 0.65


def test_percent_and_units_mean_what_they_say():
    outputs, inputs = layers()
    most = sg.compile(outputs, inputs).memory.peak_bytes
    half = sg.compile(outputs, inputs, memory_budget="50%").memory.peak_bytes
    assert half <= most // 2
    assert sg.compile(outputs, inputs, memory_budget=f"{most / 2048} KiB").memory.peak_bytes == half
    assert sg.compile(outputs, inputs, memory_budget="1GiB").recomputation is None


def test_below_the_floor_the_error_names_it():
    outputs, inputs = layers()
    with pytest.raises(sg.BudgetError) as caught:
        sg.compile(outputs, inputs, memory_budget=1000)
    text = str(caught.value)
    assert "memory_budget is 1000 B; the least that policy 'best' reaches is" in text
    assert "matmul" in text
    least = int(text.split("reaches is ")[1].split()[0])
    assert sg.compile(outputs, inputs, memory_budget=least).memory.peak_bytes == least
    with pytest.raises(sg.BudgetError):
        sg.compile(outputs, inputs, memory_budget=least - 1)


#: integer programs, which take minutes for a ladder of budgets
ELSEWHERE = {"checkmate-milp", "checkmate-lp", "knapsack-ilp"}


def test_every_policy_keeps_the_budget_or_says_that_it_cannot():
    outputs, inputs = layers(4)
    whole = sg.compile(outputs, inputs)
    given = arrays(inputs)
    kept = set()
    for policy in sorted(STRATEGIES.keys() - ELSEWHERE):
        try:
            fn = sg.compile(outputs, inputs, memory_budget="80%", policy=policy)
        except sg.BudgetError as error:
            if policy not in str(error):
                raise
            continue
        kept.add(policy)
        assert fn.recomputation.policy == policy
        assert fn.memory.peak_bytes <= whole.memory.peak_bytes * 0.8
        for a, b in zip(fn(*given), whole(*given), strict=True):
            np.testing.assert_array_equal(a, b)
    assert kept >= {"best", "dtr", "dtr-eq", "rotor"}


def early_ones_where_they_are_read(dag, budget):
    """A policy of one's own: the second half computes again what it reads of the first."""
    sequence, half = [], len(dag) // 2
    for v in range(len(dag)):
        for u in dag.inputs[v]:
            if u < half <= v and u not in dag.fixed:
                sequence.append(u)
        sequence.append(v)
    return sequence


def test_a_policy_of_ones_own():
    outputs, inputs = layers()
    whole = sg.compile(outputs, inputs)
    given = arrays(inputs)
    policy = early_ones_where_they_are_read
    fn = sg.compile(outputs, inputs, memory_budget="95%", policy=policy)
    assert fn.recomputation.policy == "early_ones_where_they_are_read"
    assert fn.recomputation.recomputed
    for a, b in zip(fn(*given), whole(*given), strict=True):
        np.testing.assert_array_equal(a, b)


def nonsense(dag, budget):
    return [len(dag) - 1]


def test_wrong_policies():
    outputs, inputs = layers(4)
    with pytest.raises(sg.BudgetError, match="policy is a function"):
        sg.compile(outputs, inputs, memory_budget="50%", policy="clever")
    with pytest.raises(sg.StaticGraphError, match="before its input"):
        sg.compile(outputs, inputs, memory_budget="50%", policy=nonsense)


@pytest.mark.parametrize("wrong", ["plenty", -5, 1.5, True, "12 parsecs", "%"])
def test_wrong_budgets(wrong):
    with pytest.raises(sg.BudgetError, match="memory_budget is a number of bytes or a text"):
        sg.compile(sg.input("x", (3,)) * 2, memory_budget=wrong)


def test_updates_of_variables():
    outputs, updates = models.deep()
    whole = sg.compile(outputs, updates=updates)
    (w,) = updates
    x = np.random.default_rng(0).standard_normal((64, 48)).astype("f")
    start = np.random.default_rng(1).standard_normal((48, 48)).astype("f") * 0.1
    w.value = start
    first = whole(x)
    after = w.value
    fn = sg.compile(outputs, updates=updates, memory_budget="40%")
    w.value = start
    np.testing.assert_array_equal(fn(x)[0], first[0])
    np.testing.assert_array_equal(w.value, after)
    assert fn.memory.peak_bytes <= 0.4 * whole.memory.peak_bytes


def test_save_and_load(tmp_path):
    outputs, inputs = layers(4)
    fn = sg.compile(outputs, inputs, memory_budget="70%", policy="dtr")
    fn.save(tmp_path / "fn.sgf")
    again = sg.load(tmp_path / "fn.sgf")
    assert again.memory.peak_bytes == fn.memory.peak_bytes
    given = arrays(inputs)
    for a, b in zip(fn(*given), again(*given), strict=True):
        np.testing.assert_array_equal(a, b)
