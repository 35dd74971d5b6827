"""Simulated annealing on sequences with repeats: moves and acceptance, as machine code.

A move is a few insertions and deletions of `annealstate`:

- *again*: compute an operand again just before a use, with those of its own operands that are no
  longer live there (all of them, or by the toss of a coin);
- *forget*: delete a copy, and then the copies that only it needed;
- *carry*: take an op to another slot between its operands and its readers;
- *pull*, *push*: take it further, together with the operands (readers) that it would overtake.

A move stays by its change of `cost + weight * bytes above the budget, summed over the slots`; the
weight follows the share of states within the budget, so that the search keeps near the border.
"""

from __future__ import annotations

import math

import numpy as np

from staticgraph.passes.remat.annealstate import (
    COPIES,
    COPY,
    COUNT,
    END,
    FIXED,
    INS,
    INS_END,
    MANY,
    MANY_LIST,
    OP,
    OVER,
    USES,
    USES_END,
    cover,
    delete,
    first_use,
    insert,
    kernel,
    last_use,
    next_copy,
)

REACH = 128  # slots looked at for an empty one
MEMBERS = 12  # nodes that one move touches
JOURNAL = 4 * MEMBERS
COST, WEIGHT, BEST = 0, 1, 2  # entries of `number`
_ADAPT = 512  # moves between two looks at the weight


@kernel
def below(rng, n):
    """A whole number in 0..n-1 (xorshift64*)."""
    x = rng[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    rng[0] = x
    high = (x * np.uint64(0x2545F4914F6CDD1D)) >> np.uint64(32)
    return np.int64((high * np.uint64(n)) >> np.uint64(32))


@kernel
def _put(node, link, slot, live, total, journal, v, s):
    insert(node, link, slot, live, total, v, s)
    k = journal[0, 0] + 1
    journal[0, 0], journal[k, 0], journal[k, 1], journal[k, 2] = k, 1, v, s


@kernel
def _take(node, link, slot, live, total, journal, v, s):
    delete(node, link, slot, live, total, v, s)
    k = journal[0, 0] + 1
    journal[0, 0], journal[k, 0], journal[k, 1], journal[k, 2] = k, -1, v, s


@kernel
def _undo(node, link, slot, live, total, journal):
    for k in range(journal[0, 0], 0, -1):
        if journal[k, 0] > 0:
            delete(node, link, slot, live, total, journal[k, 1], journal[k, 2])
        else:
            insert(node, link, slot, live, total, journal[k, 1], journal[k, 2])
    journal[0, 0] = 0


@kernel
def _empty_before(slot, s, low):
    """The last empty slot in low+1..s-1 within reach, or -1."""
    for x in range(s - 1, max(low, s - REACH), -1):
        if slot[x, OP] < 0:
            return x
    return -1


@kernel
def _empty_after(slot, s, high):
    """The first empty slot in s+1..high-1 within reach, or -1."""
    for x in range(s + 1, min(high, s + REACH)):
        if slot[x, OP] < 0:
            return x
    return -1


@kernel
def _some_op(slot, rng):
    """The slot of some op."""
    s = below(rng, len(slot))
    while slot[s, OP] < 0:
        s = s + 1 if s + 1 < len(slot) else 0
    return s


@kernel
def _first_copies(node, link, v):
    """The first slot after which every operand of v has been computed."""
    low = -1
    for e in range(node[v, INS], node[v, INS_END]):
        low = max(low, node[link[e, 0], COPY])
    return low


@kernel
def _again(node, link, slot, live, total, journal, rng):
    x = _some_op(slot, rng)
    w = slot[x, OP]
    degree = node[w, INS_END] - node[w, INS]
    if degree == 0:
        return
    u = link[node[w, INS] + below(rng, degree), 0]
    at = cover(node, u, x)
    if node[u, FIXED] or node[u, COUNT] == COPIES:
        return
    if _empty_before(slot, x, last_use(node, link, u, at, x)) < 0:
        return
    nodes, slots = np.empty(MEMBERS, np.int64), np.empty(MEMBERS, np.int64)
    nodes[0], n, left = u, 1, x
    coin = below(rng, 5)  # 0: no operand is computed again, 4: all
    i = 0
    while i < n:
        v = nodes[i]
        left = _empty_before(slot, left, node[v, COPY])
        if left < 0:
            return
        slots[i] = left
        for e in range(node[v, INS], node[v, INS_END]):
            z = link[e, 0]
            if node[z, FIXED] or node[z, COUNT] == COPIES or n == MEMBERS:
                continue
            if slot[cover(node, z, left), END] >= left or below(rng, 4) >= coin:
                continue
            known = False
            for k in range(n):
                known = known or nodes[k] == z
            if not known:
                nodes[n] = z
                n += 1
        i += 1
    for i in range(n - 1, -1, -1):
        _put(node, link, slot, live, total, journal, nodes[i], slots[i])


@kernel
def _forget(node, link, slot, live, total, journal, rng):
    if total[MANY] == 0:
        return
    v = node[below(rng, total[MANY]), MANY_LIST]
    k = below(rng, node[v, COUNT])
    nodes, slots = np.empty(MEMBERS, np.int64), np.empty(MEMBERS, np.int64)
    nodes[0], slots[0], n = v, node[v, COPY + k], 1
    if k == 0 and slot[slots[0], END] > slots[0]:
        return
    i = 0
    while i < n:
        v, s = nodes[i], slots[i]
        _take(node, link, slot, live, total, journal, v, s)
        for e in range(node[v, INS], node[v, INS_END]):
            u = link[e, 0]
            at = cover(node, u, s)
            if n < MEMBERS and node[u, COUNT] > 1 and slot[at, END] == at:
                known = False
                for j in range(n):
                    known = known or (nodes[j] == u and slots[j] == at)
                if not known:
                    nodes[n], slots[n] = u, at
                    n += 1
        i += 1


@kernel
def _window(node, link, v, s, slots):
    """Slots low < x < high to which the copy at s can go on its own."""
    before = cover(node, v, s)
    low = max(before, _first_copies(node, link, v))
    high = next_copy(node, v, s, slots)
    if before < 0:
        high = first_use(node, link, v, s, high)
    return low, high


@kernel
def _carry(node, link, slot, live, total, journal, rng):
    s = _some_op(slot, rng)
    v = slot[s, OP]
    low, high = _window(node, link, v, s, live.size)
    if high - low < 3:
        return
    if below(rng, 2):
        target = low + 1 + below(rng, high - low - 1)
    else:
        target = min(max(s + below(rng, 65) - 32, low + 1), high - 1)
    free = target
    if slot[target, OP] >= 0:
        free = _empty_before(slot, target, low)
        if free < 0:
            free = _empty_after(slot, target, high)
        if free < 0:
            return
    _take(node, link, slot, live, total, journal, v, s)
    _put(node, link, slot, live, total, journal, v, free)


@kernel
def _sort_by_slot(nodes, slots, n):
    for i in range(1, n):
        v, s, j = nodes[i], slots[i], i
        while j > 0 and slots[j - 1] > s:
            nodes[j], slots[j] = nodes[j - 1], slots[j - 1]
            j -= 1
        nodes[j], slots[j] = v, s


@kernel
def _pull(node, link, slot, live, total, journal, rng):
    """Carry an op to before a slot, and the operands that stand after it as well."""
    s = _some_op(slot, rng)
    v = slot[s, OP]
    target = s - 2 - below(rng, min(s + 1, 256)) if below(rng, 2) else below(rng, s + 1)
    before = cover(node, v, s)
    if target <= before or target < 1:
        return
    nodes, slots = np.empty(MEMBERS, np.int64), np.empty(MEMBERS, np.int64)
    nodes[0], slots[0], n, i = v, s, 1, 0
    while i < n:
        for e in range(node[nodes[i], INS], node[nodes[i], INS_END]):
            u = link[e, 0]
            at = node[u, COPY]
            if at < target:
                continue
            known = False
            for k in range(n):
                known = known or nodes[k] == u
            if known:
                continue
            if n == MEMBERS:
                return
            nodes[n], slots[n] = u, at
            n += 1
        i += 1
    _sort_by_slot(nodes, slots, n)
    free = target + 1
    places = np.empty(MEMBERS, np.int64)
    for k in range(n - 1, -1, -1):
        free = _empty_before(slot, free, -1)
        if free < 0:
            return
        places[k] = free
    for k in range(n):
        if places[k] <= max(cover(node, nodes[k], slots[k]), _first_copies(node, link, nodes[k])):
            _undo(node, link, slot, live, total, journal)
            return
        if places[k] < slots[k]:
            _take(node, link, slot, live, total, journal, nodes[k], slots[k])
            _put(node, link, slot, live, total, journal, nodes[k], places[k])


@kernel
def _push(node, link, slot, live, total, journal, rng):
    """Carry an op to behind a slot, and the readers that stand before it as well."""
    s = _some_op(slot, rng)
    v = slot[s, OP]
    room = live.size - s
    target = s + 2 + (below(rng, min(room, 256)) if below(rng, 2) else below(rng, room))
    if target >= live.size or node[v, COUNT] > 1:
        return
    nodes, slots = np.empty(MEMBERS, np.int64), np.empty(MEMBERS, np.int64)
    nodes[0], slots[0], n, i = v, s, 1, 0
    while i < n:
        for e in range(node[nodes[i], USES], node[nodes[i], USES_END]):
            w = link[e, 0]
            at = node[w, COPY]
            if at > target:
                continue
            known = False
            for k in range(n):
                known = known or nodes[k] == w
            if known:
                continue
            if n == MEMBERS or node[w, COUNT] > 1:
                return
            nodes[n], slots[n] = w, at
            n += 1
        i += 1
    _sort_by_slot(nodes, slots, n)
    free = target - 1
    places = np.empty(MEMBERS, np.int64)
    for k in range(n):
        free = _empty_after(slot, free, live.size)
        if free < 0:
            return
        places[k] = free
    for k in range(n - 1, -1, -1):
        if places[k] >= first_use(node, link, nodes[k], slots[k], live.size):
            _undo(node, link, slot, live, total, journal)
            return
        if places[k] > slots[k]:
            _take(node, link, slot, live, total, journal, nodes[k], slots[k])
            _put(node, link, slot, live, total, journal, nodes[k], places[k])


@kernel
def _move(node, link, slot, live, total, journal, rng, mix):
    journal[0, 0] = 0
    kind = below(rng, mix[-1])
    if kind < mix[0]:
        _again(node, link, slot, live, total, journal, rng)
    elif kind < mix[1]:
        _forget(node, link, slot, live, total, journal, rng)
    elif kind < mix[2]:
        _carry(node, link, slot, live, total, journal, rng)
    elif kind < mix[3]:
        _pull(node, link, slot, live, total, journal, rng)
    else:
        _push(node, link, slot, live, total, journal, rng)


@kernel
def _changed_cost(cost, journal):
    change = 0.0
    for k in range(1, journal[0, 0] + 1):
        change += journal[k, 0] * cost[journal[k, 1]]
    return change


@kernel
def _keep_best(slot, best):
    n = 0
    for s in range(len(slot)):
        if slot[s, OP] >= 0:
            n += 1
            best[n] = slot[s, OP]
    best[0] = n


@kernel
def anneal(node, link, slot, live, total, cost, rng, number, best, mix, moves, hot, cold):
    """Try that many moves while the temperature falls from hot to cold (geometrically).

    number: cost of the state, weight of a byte above the budget in a slot, least cost seen within
    the budget. best: the sequence of that cost, after its length.
    """
    journal = np.zeros((JOURNAL + 1, 3), np.int64)
    temperature = hot
    cooling = math.exp(math.log(cold / hot) / max(1.0, moves / _ADAPT))
    within = 0
    for i in range(moves):
        if i % _ADAPT == _ADAPT - 1:
            temperature *= cooling
            if within < _ADAPT // 5:
                number[WEIGHT] *= 1.02
            elif within > _ADAPT // 2:
                number[WEIGHT] *= 0.98
            within = 0
        over = total[OVER]
        _move(node, link, slot, live, total, journal, rng, mix)
        if journal[0, 0]:
            change = _changed_cost(cost, journal)
            worse = change + number[WEIGHT] * np.float64(total[OVER] - over)
            if worse > 0 and below(rng, 1 << 30) >= math.exp(-worse / temperature) * (1 << 30):
                _undo(node, link, slot, live, total, journal)
            else:
                number[COST] += change
        if total[OVER] == 0:
            within += 1
            if number[COST] < number[BEST]:
                number[BEST] = number[COST]
                _keep_best(slot, best)
