"""Sequences with repeats in slots, and the memory that follows from them: machine code.

The sequence lies in *slots*, many of them empty, so that an op can come or go without moving others
(Imanishi et al., "A fast heuristic to optimize time-space tradeoff", NeurIPS 2023). All memory
follows from the slots: a copy is live from its slot to `end`, the last use before the next copy,
as in `simulate`. `insert` and `delete` keep `end`, the bytes live at each slot and the bytes above
the budget up to date, and undo each other exactly.

Compiled by Numba once and kept on disk. Integers only: nothing depends on rounding.
"""

from __future__ import annotations

from numba import njit

kernel = njit(cache=True, nogil=True, error_model="numpy")

# Plain arrays, few of them: Numba passes an array as seven words or more, and counts references
# where arrays come out of tuples, which would be half of the time.

# node[v]: what is known of a node, then its copies (their slots, ascending).
SIZE, EXTRA, FIXED, OUTPUT, TAKES = 0, 1, 2, 3, 4  # TAKES: may take over some operand's memory
INS, INS_END, USES, USES_END = 5, 6, 7, 8  # its operands and readers are rows of `link`
COUNT, MANY_AT, MANY_LIST = 9, 10, 11  # node[:, MANY_LIST] starts with the nodes of many copies
COPY = 12
COPIES = 12  # of one node at most
NODE_WIDTH = COPY + COPIES

# link[e]: the other node, and whether its memory may be taken over.
# slot[s]: the op there (or -1), the last slot at which its copy is live, the bytes that it saves by
# taking over an operand. live[s]: the bytes live there.
OP, END, SAVED = 0, 1, 2

# total: bytes above the budget over all slots, nodes of many copies, the budget.
OVER, MANY, BUDGET = 0, 1, 2


@kernel
def _add(live, total, start, stop, change):
    """Add to the bytes live at the slots start..stop-1, and to those above the budget."""
    part = live[start:stop]  # an index from 0 needs no check for negative ones: SIMD
    budget = total[BUDGET]
    over = 0
    for i in range(part.size):
        before = part[i] - budget
        after = before + change
        over += max(after, 0) - max(before, 0)
        part[i] = after + budget
    total[OVER] += over


@kernel
def cover(node, u, s):
    """The slot of the copy of u that is read at slot s, or -1."""
    for k in range(node[u, COUNT] - 1, -1, -1):
        if node[u, COPY + k] < s:
            return node[u, COPY + k]
    return -1


@kernel
def next_copy(node, u, s, slots):
    """The first slot after s where u is computed, or the number of slots."""
    for k in range(node[u, COUNT]):
        if node[u, COPY + k] > s:
            return node[u, COPY + k]
    return slots


@kernel
def last_use(node, link, u, low, high):
    """The last slot in low+1..high-1 where u is read, or low."""
    last = low
    for e in range(node[u, USES], node[u, USES_END]):
        w = link[e, 0]
        for k in range(node[w, COUNT] - 1, -1, -1):
            s = node[w, COPY + k]
            if s < high:
                last = max(last, s)
                break
    return last


@kernel
def first_use(node, link, u, low, high):
    """The first slot in low+1..high-1 where u is read, or high."""
    first = high
    for e in range(node[u, USES], node[u, USES_END]):
        w = link[e, 0]
        for k in range(node[w, COUNT]):
            s = node[w, COPY + k]
            if s > low:
                first = min(first, s)
                break
    return first


@kernel
def _take_over(node, link, slot, live, total, s):
    """Bring up to date what the op at slot s saves by taking over an operand."""
    if s >= live.size or slot[s, OP] < 0:
        return
    v = slot[s, OP]
    if not node[v, TAKES]:
        return
    saved = 0
    for e in range(node[v, INS], node[v, INS_END]):
        if link[e, 1]:
            at = cover(node, link[e, 0], s)
            if at >= 0 and slot[at, END] == s:
                saved = max(saved, min(node[link[e, 0], SIZE], node[v, SIZE]))
    _add(live, total, s, s + 1, slot[s, SAVED] - saved)
    slot[s, SAVED] = saved


@kernel
def _set_end(node, link, slot, live, total, at, end):
    """Let the copy at this slot be live to another end."""
    u = slot[at, OP]
    old = slot[at, END]
    if end == old:
        return
    slot[at, END] = end
    slots = live.size
    if end > old:
        _add(live, total, old + 1, min(end + 1, slots), node[u, SIZE])
    else:
        _add(live, total, end + 1, min(old + 1, slots), -node[u, SIZE])
    _take_over(node, link, slot, live, total, old)
    _take_over(node, link, slot, live, total, end)


@kernel
def _enter_copy(node, total, v, s):
    k = node[v, COUNT]
    while k > 0 and node[v, COPY + k - 1] > s:
        node[v, COPY + k] = node[v, COPY + k - 1]
        k -= 1
    node[v, COPY + k] = s
    node[v, COUNT] += 1
    if node[v, COUNT] == 2:
        node[v, MANY_AT] = total[MANY]
        node[node[v, MANY_AT], MANY_LIST] = v
        total[MANY] += 1


@kernel
def _leave_copy(node, total, v, s):
    k = 0
    while node[v, COPY + k] != s:
        k += 1
    node[v, COUNT] -= 1
    for j in range(k, node[v, COUNT]):
        node[v, COPY + j] = node[v, COPY + j + 1]
    if node[v, COUNT] == 1:
        total[MANY] -= 1
        last = node[total[MANY], MANY_LIST]
        node[node[v, MANY_AT], MANY_LIST] = last
        node[last, MANY_AT] = node[v, MANY_AT]
        node[v, MANY_AT] = -1


@kernel
def insert(node, link, slot, live, total, v, s):
    """Run v at the empty slot s; its operands must have copies before it."""
    slots = live.size
    before = cover(node, v, s)
    after = next_copy(node, v, s, live.size)
    slot[s, OP] = v
    if before >= 0 and slot[before, END] > s:
        end = slot[before, END]
        _set_end(node, link, slot, live, total, before, last_use(node, link, v, before, s))
    elif before >= 0:
        end = s
    elif node[v, OUTPUT] and after == slots:
        end = slots
    else:
        end = last_use(node, link, v, s, after)
    _enter_copy(node, total, v, s)
    slot[s, END] = end
    _add(live, total, s, min(end + 1, slots), node[v, SIZE])
    _add(live, total, s, s + 1, node[v, EXTRA])
    for e in range(node[v, INS], node[v, INS_END]):
        at = cover(node, link[e, 0], s)
        if slot[at, END] < s:
            _set_end(node, link, slot, live, total, at, s)
    _take_over(node, link, slot, live, total, s)
    _take_over(node, link, slot, live, total, end)


@kernel
def delete(node, link, slot, live, total, v, s):
    """Do not run v at slot s; what reads this copy then reads the one before it."""
    slots = live.size
    end = slot[s, END]
    _add(live, total, s, min(end + 1, slots), -node[v, SIZE])
    _add(live, total, s, s + 1, slot[s, SAVED] - node[v, EXTRA])
    slot[s, SAVED] = 0
    slot[s, OP] = -1
    _leave_copy(node, total, v, s)
    before = cover(node, v, s)
    if before >= 0 and end > s:
        _set_end(node, link, slot, live, total, before, end)
    else:
        _take_over(node, link, slot, live, total, end)
    for e in range(node[v, INS], node[v, INS_END]):
        u = link[e, 0]
        at = cover(node, u, s)
        if slot[at, END] == s:
            last = last_use(node, link, u, at, next_copy(node, u, s, slots))
            _set_end(node, link, slot, live, total, at, last)


@kernel
def place(node, link, slot, live, total, sequence, first, step):
    """Fill an empty state: the ops at the slots first, first + step, ..."""
    for i in range(sequence.size):
        insert(node, link, slot, live, total, sequence[i], first + i * step)
