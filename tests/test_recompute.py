"""Any valid sequence of units is a graph that computes the same bits in the memory foreseen."""

from __future__ import annotations

import random

import models
import numpy as np
import pytest
from random_graphs import Builder

import staticgraph as sg
from staticgraph import planner as planning
from staticgraph.recompute import Units
from staticgraph.runtime import link
from staticgraph.verify import verify


def again(dag, draw: random.Random, chance: float) -> list[int]:
    """A valid sequence that computes operands again at random, some of them deeply."""
    sequence: list[int] = []

    def need(v: int, depth: int) -> None:
        for u in dag.inputs[v]:
            if depth and u not in dag.fixed and draw.random() < chance:
                need(u, depth - 1)
        sequence.append(v)

    for v in range(len(dag)):
        need(v, 3)
    return sequence


def check(outputs, inputs, arrays, seed=0, updates=None) -> None:
    fn = sg.compile(outputs, inputs, updates=updates)
    before = [v.value for v in fn.plan.variables]
    expected = fn(*arrays)
    expected = expected if isinstance(expected, list) else [expected]
    moved = [v.value for v in fn.plan.variables]
    units = Units(fn.optimized, fn.plan)
    draw = random.Random(seed)
    for chance in (0.0, 0.15, 0.5):
        sequence = again(units.dag, draw, chance)
        graph = units.realise(sequence)
        verify(graph)
        plan = planning.build(graph)
        for v, value in zip(fn.plan.variables, before, strict=True):
            v.value = value
        got = link(plan).run(list(arrays), None)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)
        for v, value in zip(fn.plan.variables, moved, strict=True):
            np.testing.assert_array_equal(v.value, value)


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs(seed):
    rng = np.random.default_rng(seed)
    builder = Builder(rng)
    inputs, outputs = builder.build(int(rng.integers(5, 25)), 3)
    total = sg.ops.add_n([t.sum() for t in outputs])
    outputs = [*outputs, *sg.grad(total, inputs)]
    check(outputs, inputs, builder.arrays(), seed)


def arrays_for(inputs, seed=0):
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, 3, t.shape).astype(t.dtype)
        if t.dtype.kind in "iu"
        else rng.standard_normal(t.shape).astype(t.dtype)
        for t in inputs
    ]


@pytest.mark.parametrize("name", models.GRAPHS)
def test_models(name):
    outputs, updates = models.GRAPHS[name]()
    outputs = outputs if isinstance(outputs, list) else [outputs]
    inputs = sg.compile(outputs, updates=updates).graph.inputs
    check(outputs, inputs, arrays_for(inputs), updates=updates)


def gated(x, flag, w):
    """A cond within a network, with its gradient, and dropout."""
    h = sg.ops.tanh(x @ w)
    h = sg.cond(flag, lambda a: sg.ops.sin(a @ w) * a, lambda a: sg.ops.exp(-a), h)
    h = sg.ops.dropout(h, 0.3, key=sg.random.key(3))
    return (sg.ops.tanh(h @ w) ** 2).sum()


@pytest.mark.parametrize("flag", [False, True])
def test_cond_and_dropout(flag):
    x, w, f = sg.input("x", (20, 24)), sg.input("w", (24, 24)), sg.input("f", (), "bool")
    loss = gated(x, f, w)
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(s).astype("f") for s in ((20, 24), (24, 24))]
    check([loss, *sg.grad(loss, [x, w])], [x, w, f], [*arrays, np.array(flag)])


def test_indices_out_of_range_are_still_found():
    x, i = sg.input("x", (6, 5)), sg.input("i", (4,), "int64")
    h = sg.ops.tanh(sg.ops.take(sg.ops.sin(x), i, axis=0) * 2.0)
    loss = (h * h).sum()
    fn = sg.compile([loss, sg.grad(loss, x)], [x, i])
    units = Units(fn.optimized, fn.plan)
    graph = units.realise(again(units.dag, random.Random(0), 0.5))
    run = link(planning.build(graph)).run
    rng = np.random.default_rng(0)
    run([rng.standard_normal((6, 5)).astype("f"), np.array([0, 5, 2, 1])], None)
    with pytest.raises(sg.NumericError, match="index"):
        run([np.zeros((6, 5), "f"), np.array([0, 6, 2, 1])], None)
