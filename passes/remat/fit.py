"""Make a sequence keep a budget: what does not fit is dropped, and computed again when it is read.

The reads to come are known from the sequence, so the value to drop is chosen as by a runtime with
foresight (compare `dtr`): the one that costs least to compute again, with the dropped values that
this takes, for its bytes and the steps to its next read. What is read no more goes first.

O(drops * values held * `_WALK`), as machine code; graphs whose values need ever more others to be
computed again are given up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from staticgraph.passes.remat.anneal import tables
from staticgraph.passes.remat.annealstate import (
    EXTRA,
    FIXED,
    INS,
    INS_END,
    OUTPUT,
    SIZE,
    kernel,
)
from staticgraph.passes.remat.dag import Dag

_THRASH = 6  # runs of each node, on average, at which it gives up
_WALK = 64  # dropped values looked at, for the cost of one

# state[v]: its next event; the next step that reads the copy at hand (or -1); its place in `order`
# (-1: not held); whether it ran; how many nodes that are to run read it; a mark of the last walk.
AT, READ, PLACE, RAN, PINS, MARK, STATE_WIDTH = 0, 1, 2, 3, 4, 5, 6
# tally: values held, which `order` lists; bytes live; nodes run; walks.
HELD, LIVE, RUN, WALKS = 0, 1, 2, 3


@kernel
def _look_ahead(start, event, state, u, now):
    """Bring the next read of u after this step up to date."""
    k, end = state[u, AT], start[u + 1]
    while k < end and event[k] // 2 <= now:
        k += 1
    state[u, AT] = k
    state[u, READ] = event[k] // 2 if k < end and event[k] % 2 == 0 else -1


@kernel
def _to_run_again(node, link, cost, state, tally, u):
    """The cost of u and of the dropped values that computing it again takes."""
    tally[WALKS] += 1
    walk = np.empty(_WALK + 1, np.int64)
    walk[0], n, seen, total = u, 1, 1, 0.0
    state[u, MARK] = tally[WALKS]
    while n > 0:
        n -= 1
        v = walk[n]
        total += cost[v]
        for e in range(node[v, INS], node[v, INS_END]):
            z = link[e, 0]
            if state[z, PLACE] < 0 and state[z, MARK] != tally[WALKS] and seen < _WALK:
                state[z, MARK] = tally[WALKS]
                walk[n] = z
                n, seen = n + 1, seen + 1
    return total


@kernel
def _victim(node, link, cost, state, order, tally, now, power):
    """The value to drop, or -1. What may not run again goes last, and only if read no more."""
    best, least, done = -1, np.inf, -1
    for i in range(tally[HELD]):
        u = order[i]
        if state[u, PINS] > 0 or node[u, SIZE] == 0:
            continue
        read = state[u, READ]
        if node[u, FIXED]:
            done = u if read < 0 else done
        elif read < 0:
            if -node[u, SIZE] < least:
                best, least = u, -float(node[u, SIZE])
        elif least >= 0:
            lost = _to_run_again(node, link, cost, state, tally, u)
            score = lost / node[u, SIZE] / float(read - now + 1) ** power
            if score < least:
                best, least = u, score
    return best if best >= 0 else done


@kernel
def _drop(node, state, order, tally, u):
    i = state[u, PLACE]
    state[u, PLACE] = -1
    tally[HELD] -= 1
    tally[LIVE] -= node[u, SIZE]
    if i < tally[HELD]:
        order[i] = order[tally[HELD]]
        state[order[i], PLACE] = i


@kernel
def _pin(node, link, state, v, by):
    for e in range(node[v, INS], node[v, INS_END]):
        state[link[e, 0], PINS] += by


@kernel
def _compute(node, link, cost, start, event, state, order, tally, w, now, budget, power, out):
    """Run w, whose operands are held; whether there is room for it."""
    shared, given = 0, -1
    for e in range(node[w, INS], node[w, INS_END]):
        u = link[e, 0]
        _look_ahead(start, event, state, u, now)
        saved = min(node[u, SIZE], node[w, SIZE])
        if link[e, 1] and state[u, READ] < 0 and state[u, PINS] == 1 and saved > shared:
            shared, given = saved, u
    need = node[w, SIZE] + node[w, EXTRA] - shared
    while tally[LIVE] + need > budget:
        for i in range(tally[HELD]):
            _look_ahead(start, event, state, order[i], now)
        u = _victim(node, link, cost, state, order, tally, now, power)
        if u < 0:
            return False
        _drop(node, state, order, tally, u)
    if tally[RUN] == len(out):
        return False
    _pin(node, link, state, w, -1)
    if given >= 0:
        _drop(node, state, order, tally, given)
    out[tally[RUN]] = w
    tally[RUN] += 1
    tally[LIVE] += node[w, SIZE]
    state[w, RAN] = 1
    state[w, PLACE] = tally[HELD]
    order[tally[HELD]] = w
    tally[HELD] += 1
    _look_ahead(start, event, state, w, now)
    return True


@kernel
def _obtain(node, link, cost, start, event, state, order, tally, top, now, budget, power, out):
    """Hold the value of `top`: run it, and first what it lacks; whether that was possible."""
    stack = np.empty(len(node) + 1, np.int64)
    stack[0], depth = top, 1
    if state[top, PLACE] >= 0 or (node[top, FIXED] and state[top, RAN]):
        return state[top, PLACE] >= 0
    _pin(node, link, state, top, 1)
    while depth > 0:
        w = stack[depth - 1]
        lacking = -1
        for e in range(node[w, INS], node[w, INS_END]):
            if lacking < 0 and state[link[e, 0], PLACE] < 0:
                lacking = link[e, 0]
        if lacking < 0:
            if not _compute(
                node, link, cost, start, event, state, order, tally, w, now, budget, power, out
            ):
                return False
            depth -= 1
        else:
            if node[lacking, FIXED] and state[lacking, RAN]:
                return False
            _pin(node, link, state, lacking, 1)
            stack[depth] = lacking
            depth += 1
    return True


@kernel
def _fit(node, link, cost, sequence, start, event, budget, power, out):
    """Write a sequence that keeps the budget to out; its length, or -1 where none was found."""
    n, steps = len(node), len(sequence)
    state = np.zeros((n, STATE_WIDTH), np.int64)
    state[:, AT], state[:, PLACE] = start[:n], -1
    order, tally = np.empty(n, np.int64), np.zeros(4, np.int64)
    for now in range(steps + n):
        top = sequence[now] if now < steps else now - steps
        if now >= steps:
            if not node[top, OUTPUT]:
                continue
            state[top, PINS] += 1  # to the end
        at = min(now, steps - 1)  # the end reads all outputs at once
        if not _obtain(
            node, link, cost, start, event, state, order, tally, top, at, budget, power, out
        ):
            return -1
    return tally[RUN]


class Fitter:
    """Fits sequences of one graph."""

    def __init__(self, dag: Dag):
        self.dag = dag
        self._node, self._link = tables(dag)
        self._cost = np.array(dag.cost)

    def __call__(self, sequence: Sequence[int], budget: int, power: float = 1.0) -> list[int]:
        """A sequence like this one that keeps the budget, or [] where none was found.

        power: how much it counts for a value to be dropped that it is read late.
        """
        # Events of a value, in order: 2 * step where it is read, 2 * step + 1 where it is computed.
        events = [(v, 2 * s + 1) for s, v in enumerate(sequence)]
        events += [(u, 2 * s) for s, v in enumerate(sequence) for u in self.dag.inputs[v]]
        events += [(v, 2 * len(sequence)) for v in self.dag.outputs]
        node, event = np.array(sorted(events), np.int64).T
        start = np.searchsorted(node, np.arange(len(self.dag) + 1))
        out = np.empty(_THRASH * len(self.dag), np.int64)
        length = _fit(
            self._node,
            self._link,
            self._cost,
            np.asarray(sequence, np.int64),
            start,
            event.copy(),
            budget,
            float(power),
            out,
        )
        return [int(v) for v in out[: max(0, length)]]
