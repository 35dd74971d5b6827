"""Static arena layout: give every block of memory a fixed offset, with a small total size.

A block is live during some steps of a plan; two blocks that are live at the same step must not
overlap in memory. The smallest arena is NP-hard to find (dynamic storage allocation), but two
facts help. The most bytes live at any one step is a lower bound that good layouts usually reach, so
a search knows when to stop. And some best layout is *pushed down*: every block lies at zero or on
top of another one, so it can be built from the bottom, always deciding about the block that can lie
lowest (Moffitt, "MiniMalloc", ASPLOS 2023).

`assign` tries first-fit in a few orders, which is optimal for most training graphs, then restarts
of a bottom-up search (`_Stack`) towards a given height, with other priorities each time. Work is
bounded by counted operations and never by the clock: equal blocks get equal layouts.
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from staticgraph.errors import InternalError

ALIGN = 64
DEFAULT_EFFORT = 2

# Work is counted in units of about a nanosecond; each level of effort has ten times more.
_WORK_OF_EFFORT_1 = 40_000_000
_FIRST_FIT_WORK = 8  # for every pair of blocks
# A restart ends after this many steps more than it has blocks: short ones find more.
_SPARE_STEPS = 200
# Shares of the bound from which pressure makes a block part of a core.
_CORES = (0.7, 0.8, 0.9)
# Entries in the search's table of sections, and pairs of neighbours it can hold in memory.
_MAX_WATCHED = 12_000
_MAX_PAIRS = 8_000_000
# How much a section's failures raise its priority, and how much of them the next restart forgets.
_BLAME, _FORGET = 10.0, 0.3
_NOISE = (0.2, 0.6)
_NEVER = 1 << 62
_NO_BLOCKS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Block:
    """`size` bytes that are live in the steps `start <= step < stop`."""

    size: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where every block lies.

    `lower_bound` is proved: no layout is smaller. It is the peak of the live bytes, or more where
    the search could exclude that. `peak == lower_bound` thus says that the layout is optimal.
    """

    offsets: tuple[int, ...]
    peak: int
    lower_bound: int
    method: str


def max_live(blocks: Sequence[Block], *, align: int = ALIGN) -> int:
    """The most bytes live at one step, every size rounded up to `align`."""
    size, start, stop = _arrays(blocks, align)
    # A block is not live at its `stop`: of equal steps the stops come first.
    order = np.argsort(np.concatenate((stop, start)), kind="stable")
    return int(np.cumsum(np.concatenate((-size, size))[order]).max(initial=0)) * align


def check(blocks: Sequence[Block], offsets: Sequence[int], *, align: int = 1) -> None:
    """Raise InternalError unless blocks that are live together lie apart, at aligned offsets."""
    if len(blocks) != len(offsets):
        raise InternalError(f"{len(blocks)} blocks but {len(offsets)} offsets")
    events = []
    for i, (block, offset) in enumerate(zip(blocks, offsets, strict=True)):
        if offset < 0 or offset % align:
            raise InternalError(f"{block} has offset {offset}, not a multiple of {align}")
        if block.size:
            events += [(block.start, True, i), (block.stop, False, i)]
    live: list[tuple[int, int, int]] = []  # (offset, end, index), sorted and disjoint
    for _, begins, i in sorted(events):
        entry = (offsets[i], offsets[i] + blocks[i].size, i)
        at = bisect_left(live, entry)
        if not begins:
            del live[at]
            continue
        for offset, end, other in live[max(at - 1, 0) : at + 1]:
            if offset < entry[1] and entry[0] < end:
                raise InternalError(
                    f"{blocks[i]} at offset {entry[0]} overlaps {blocks[other]} at offset {offset}"
                )
        live.insert(at, entry)


def assign(
    blocks: Sequence[Block], *, align: int = ALIGN, effort: int = DEFAULT_EFFORT, goal: int = 0
) -> Layout:
    """Offsets, multiples of `align`, whose peak is near the smallest possible.

    Effort 0 is one first-fit; 1, 2, 3, 4 allow about 0.03, 0.3, 3, 30 seconds of search. It ends as
    soon as the layout is known to be optimal, or has a peak of at most `goal` bytes.
    """
    size, start, stop = _arrays(blocks, align)
    used = np.flatnonzero(size)
    if not len(used):
        return Layout((0,) * len(blocks), 0, 0, "empty")
    # A fixed order makes the peak independent of the order in which the blocks are given.
    used = used[np.lexsort((size[used], stop[used], start[used]))]
    unit = int(np.gcd.reduce(size[used]))
    whole = _Part(size[used] // unit, start[used], stop[used])
    # The part with the most live bytes comes first; the others need not be lower than it.
    parts = [(used[chosen], whole.subset(chosen)) for chosen in whole.split()]
    parts.sort(key=lambda item: -item[1].bound)
    budget = _Budget(_WORK_OF_EFFORT_1 * 10 ** (effort - 1) if effort > 0 else 0)
    enough = max(whole.bound, goal // (unit * align))
    offsets = np.zeros(len(blocks), np.int64)
    peak, method = 0, ""
    for indices, part in parts:
        best = _pack(part, max(enough, peak), budget)
        offsets[indices] = best.offsets
        if best.peak > peak:
            peak, method = best.peak, best.method
    bound = max(part.bound for _, part in parts)
    scale = unit * align
    return Layout(tuple((offsets * scale).tolist()), peak * scale, bound * scale, method)


def _arrays(blocks: Sequence[Block], align: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes in units of `align`, starts and stops."""
    for block in blocks:
        if block.size < 0 or block.stop <= block.start:
            raise InternalError(f"{block} has a negative size or is never live")
    table = np.array([(b.size, b.start, b.stop) for b in blocks], np.int64).reshape(-1, 3)
    return -(-table[:, 0] // align), table[:, 1], table[:, 2]


class _Part:
    """Blocks with their steps reduced to *sections*, the steps at which most blocks are live.

    A section is a step whose set of live blocks is part of no other step's. Two blocks are live
    together if and only if they share a section; block i has the sections lo[i] <= s < hi[i].
    """

    def __init__(self, size: np.ndarray, start: np.ndarray, stop: np.ndarray):
        starts, stops = np.unique(start), np.unique(stop)
        # The live set is maximal where a block stops before, or when, the next one starts.
        next_stop = stops[np.searchsorted(stops, starts, "right")]
        steps = starts[next_stop <= np.append(starts[1:], stops[-1])]
        self.size = size
        self.lo, self.hi = np.searchsorted(steps, start), np.searchsorted(steps, stop)
        self.sections = len(steps)
        self.live = _totals(self.lo, self.hi, size, len(steps))
        self.bound = int(self.live.max())

    def subset(self, chosen: np.ndarray) -> _Part:
        return _Part(self.size[chosen], self.lo[chosen], self.hi[chosen])

    def split(self) -> Iterator[np.ndarray]:
        """The blocks of every stretch of sections that no block connects with another one."""
        joined = _totals(self.lo + 1, self.hi, np.ones_like(self.lo), self.sections)
        stretch = np.cumsum(joined == 0)[self.lo]
        for k in range(1, int(stretch.max()) + 1):
            yield np.flatnonzero(stretch == k)

    def pressure(self) -> np.ndarray:
        """For every block the most that is live in one of its sections."""
        ranges = np.column_stack((self.lo, self.hi)).ravel()
        return np.maximum.reduceat(np.append(self.live, 0), ranges)[::2]

    def pairs(self) -> int:
        """How many ordered pairs of blocks are live together."""
        begun = np.searchsorted(np.sort(self.lo), self.hi, "left")
        ended = np.searchsorted(np.sort(self.hi), self.lo, "right")
        return int((begun - ended).sum())


def _totals(lo: np.ndarray, hi: np.ndarray, amount: np.ndarray, sections: int) -> np.ndarray:
    """For every section the sum of `amount` over the blocks with lo <= section < hi."""
    change = np.zeros(sections + 1, np.int64)
    np.add.at(change, lo, amount)
    np.subtract.at(change, hi, amount)
    return np.cumsum(change[:-1])


@dataclass(slots=True)
class _Budget:
    work: int


class _Best:
    def __init__(self):
        self.offsets, self.peak, self.method = _NO_BLOCKS, _NEVER, ""

    def improve(self, part: _Part, offsets: np.ndarray, method: str) -> bool:
        peak = int((offsets + part.size).max())
        if peak >= self.peak:
            return False
        self.offsets, self.peak, self.method = offsets, peak, method
        return True


def _pack(part: _Part, goal: int, budget: _Budget) -> _Best:
    """A layout of one part; a peak of at most `goal` is good enough."""
    best = _Best()
    for method, order in _orders(part).items():
        best.improve(part, _first_fit(part, order), method)
        budget.work -= _FIRST_FIT_WORK * len(order) ** 2
        if best.peak <= goal or budget.work <= 0:
            return best
    if part.pairs() <= _MAX_PAIRS:
        _search(part, best, goal, budget)
    return best


def _orders(part: _Part) -> dict[str, np.ndarray]:
    width, pressure = part.hi - part.lo, part.pressure()
    return {  # lexsort's last key counts first
        "first-fit by pressure": np.lexsort((-part.size, -width, -pressure)),
        "first-fit by area": np.lexsort((-part.size * width,)),
        "first-fit by size": np.lexsort((-width, -part.size)),
    }


def _first_fit(
    part: _Part,
    order: np.ndarray,
    core: np.ndarray = _NO_BLOCKS,
    core_offsets: np.ndarray = _NO_BLOCKS,
) -> np.ndarray:
    """Every block, in this order, at the lowest offset where it fits beside those of the core."""
    offsets = np.zeros(len(part.size), np.int64)
    offsets[core] = core_offsets
    ends = offsets[core] + part.size[core]
    columns = core_offsets, ends, part.lo[core], part.hi[core]
    placed = sorted(zip(*(column.tolist() for column in columns), strict=True))
    sizes, los, his = part.size.tolist(), part.lo.tolist(), part.hi.tolist()
    for i in order.tolist():
        size, lo, hi = sizes[i], los[i], his[i]
        free = 0
        for offset, end, other_lo, other_hi in placed:
            if other_lo < hi and lo < other_hi:
                if offset - free >= size:
                    break
                if end > free:
                    free = end
        offsets[i] = free
        insort(placed, (free, free + size, lo, hi))
    return offsets


def _search(part: _Part, best: _Best, goal: int, budget: _Budget) -> None:
    """Improve `best` by restarted searches until it reaches `goal` or the work is done.

    In a large part most blocks live where there is room to spare. So restarts take turns between
    *cores*, the blocks that meet high pressure, and all blocks; first-fit adds the other blocks to
    a core's layout. No core aims lower than the smaller ones have reached. Every third turn is bold
    and aims right there; the others aim between there and the best, closer to the best after a
    failure.
    """
    rng = random.Random(len(part.size))
    stacks = [_Stack(part, core) for core in _cores(part)]
    order = _orders(part)["first-fit by size"]
    for turn in itertools.count():
        low = 0
        for stack in stacks:
            low = max(goal, part.bound, low)
            if budget.work <= 0 or best.peak <= max(goal, part.bound):
                return
            if low >= best.peak:
                break
            bold = turn % 3 == 0
            target = low if bold else low + int((best.peak - 1 - low) * stack.aim)
            stack.prioritise(target, turn, rng)
            found = stack.build(target, budget)
            if found is not None:
                rest = order[~np.isin(order, stack.core)]
                budget.work -= _FIRST_FIT_WORK * len(rest) * len(order)
                if best.improve(part, _first_fit(part, rest, stack.core, found), "search"):
                    stack.aim = max(0.25, stack.aim / 2)
            elif stack.exhausted:
                part.bound = max(part.bound, target + 1)
            elif not bold:
                stack.aim = (1 + stack.aim) / 2 if stack.aim < 0.95 else 0.25
            low = stack.reached


def _cores(part: _Part) -> list[np.ndarray]:
    """Blocks that meet high pressure, then more and more, last all blocks."""
    cores = [np.arange(len(part.size))]
    pressure = part.pressure()
    for share in _CORES:
        core = np.flatnonzero(pressure >= share * part.bound)
        if len(core) < 0.8 * len(cores[-1]):
            cores.append(core)
    return cores[::-1]


class _Window(NamedTuple):
    """A range of watched sections and their blocks; a section's begin at its entry of `first`."""

    sections: slice
    blocks: np.ndarray
    first: np.ndarray


class _Touched(NamedTuple):
    """What placing a block changes: its neighbours, its own sections, those of all of them."""

    near: np.ndarray
    own: _Window
    reach: _Window
    work: int


class _Stack:
    """Bottom-up search for a layout of at most a given height.

    The state has for every missing block the lowest offset where it can still lie (`lowest`), and
    for every section the height its lowest missing block must not pass, so that all fit (`height`).
    A step takes the block that can lie lowest. Either it lies there, or it rests on a neighbour
    that is still missing, which raises its offset. A branch fails when a block passes the target,
    when a section's lowest missing block passes its height, or when the refused place would stay
    empty (moving the block down there does no harm). Nothing else is cut off, so a search that
    ends by itself without a layout proves that there is none.

    Offsets are kept as `offset << shift | rank`: one `argmin` finds the lowest block and, among
    equals, the one of highest priority. Blocks that are placed stay in the arrays, out of the way.
    """

    def __init__(self, whole: _Part, core: np.ndarray):
        self.part = part = whole.subset(core)
        self.core = core
        self.count = len(core)
        self.reached = _NEVER  # the least height found
        self.aim = 0.5
        self.shift = max(1, (self.count - 1).bit_length())
        self.low_bits = (1 << self.shift) - 1
        self.step = part.size << self.shift
        self.exhausted = False
        # Nothing fails where there is room to spare: only the fullest sections are watched.
        fullest = np.argsort(-part.live, kind="stable")
        blocks_in = _totals(part.lo, part.hi, np.ones_like(part.lo), part.sections)
        enough = np.searchsorted(np.cumsum(blocks_in[fullest]), _MAX_WATCHED) + 1
        watched = np.sort(fullest[:enough])
        self.live = part.live[watched]
        self.blame = np.zeros(len(watched))
        self.lo, self.hi = np.searchsorted(watched, part.lo), np.searchsorted(watched, part.hi)
        width = self.hi - self.lo
        blocks = np.repeat(np.arange(self.count), width)
        sections = np.arange(len(blocks)) - np.repeat(np.cumsum(width) - width - self.lo, width)
        order = np.argsort(sections, kind="stable")
        # blocks_at[first[s] : first[s + 1]] are the blocks of watched section s.
        self.blocks_at = blocks[order]
        self.first = np.searchsorted(sections[order], np.arange(len(watched) + 1))
        self.touched: dict[int, _Touched] = {}

    def prioritise(self, target: int, turn: int, rng: random.Random) -> None:
        """Rank the blocks: large or long ones first, above all in full or troublesome sections."""
        power, full = ((1.0, True), (0.0, False), (None, True), (None, False))[turn // 3 % 4]
        if power is None:
            power = rng.random()
        weight = np.exp((self.live - target) / (0.1 * target)) if full else np.ones(len(self.live))
        if self.blame.any():
            weight *= 1 + _BLAME * self.blame / self.blame.max()
        total = np.append(0.0, np.cumsum(weight))
        priority = (total[self.hi] - total[self.lo]) * self.part.size.astype(float) ** power
        if turn >= 3:
            noise = _NOISE[turn // 12 % 2]
            priority *= np.exp([noise * rng.random() for _ in range(self.count)])
        self.rank = np.empty(self.count, np.int64)
        self.rank[np.argsort(-priority, kind="stable")] = np.arange(self.count)

    def build(self, target: int, budget: _Budget) -> np.ndarray | None:
        """Offsets with a peak of at most `target`, or None; `exhausted` says there are none."""
        self.blame *= 1 - _FORGET
        self.exhausted = target < self.part.bound
        if self.exhausted:
            return None
        self.gone = target << self.shift
        self.lowest = self.rank.copy()
        self.top = self.gone - self.step | self.low_bits
        self.height = (target - self.live) << self.shift | self.low_bits
        self.raised: list[tuple[int, int]] = []  # blocks refused since the last one was placed
        placed: list[tuple] = []
        steps = self.count + _SPARE_STEPS
        while len(placed) < self.count:
            c = int(self.lowest.argmin())
            touched = self.touched.get(c) or self._touch(c)
            steps -= 1
            budget.work -= touched.work
            if steps < 0 or budget.work < 0:
                return None
            at = int(self.lowest[c])
            before = self.lowest.take(touched.near)
            if self._place(c, at, before, touched):
                placed.append((c, at, before, touched, self.raised))
                self.raised = []
                continue
            while not self._refuse(c, at, before, touched):
                for block, offset in reversed(self.raised):
                    self.lowest[block] = offset
                if not placed:
                    self.exhausted = True
                    return None
                c, at, before, touched, self.raised = placed.pop()
                self._remove(c, at, before, touched)
        offsets = np.empty(self.count, np.int64)
        for c, at, *_ in placed:
            offsets[c] = at >> self.shift
        self.reached = min(self.reached, int((offsets + self.part.size).max()))
        return offsets

    def _place(self, c: int, at: int, before: np.ndarray, touched: _Touched) -> bool:
        """Put block c at its lowest offset, unless that leaves too little room to others."""
        end = (at & ~self.low_bits) + int(self.step[c])
        after = np.maximum(before, self.rank.take(touched.near) + end)
        if (after > self.top.take(touched.near)).any():
            return False
        self.lowest[touched.near] = after
        self.lowest[c] = self.gone
        self.top[c] = _NEVER
        self.height[touched.own.sections] += self.step[c]
        if self._fits(touched.reach):
            return True
        self._remove(c, at, before, touched)
        return False

    def _remove(self, c: int, at: int, before: np.ndarray, touched: _Touched) -> None:
        self.lowest[touched.near] = before
        self.lowest[c] = at
        self.top[c] = self.gone - int(self.step[c]) | self.low_bits
        self.height[touched.own.sections] -= self.step[c]

    def _refuse(self, c: int, at: int, before: np.ndarray, touched: _Touched) -> bool:
        """State that block c does not lie at its lowest offset; False if no other is left to it."""
        end = (at & ~self.low_bits) + int(self.step[c])
        if before.min(initial=_NEVER) >= end:
            return False
        support = int((before + self.step.take(touched.near)).min())
        offset = (support & ~self.low_bits) + int(self.rank[c])
        if offset > self.top[c]:
            return False
        self.raised.append((c, at))
        self.lowest[c] = offset
        return self._fits(touched.own)

    def _fits(self, window: _Window) -> bool:
        """Whether each section's missing blocks fit between the lowest of them and the target."""
        if not len(window.first):
            return True
        lowest = np.minimum.reduceat(self.lowest.take(window.blocks), window.first)
        bad = lowest > self.height[window.sections]
        if bad.any():
            self.blame[window.sections] += bad
            return False
        return True

    def _touch(self, c: int) -> _Touched:
        overlaps = (self.part.lo < self.part.hi[c]) & (self.part.lo[c] < self.part.hi)
        overlaps[c] = False
        near = np.flatnonzero(overlaps)
        lo, hi = int(self.lo[c]), int(self.hi[c])
        reach_lo, reach_hi = self.lo[near].min(initial=lo), self.hi[near].max(initial=hi)
        reach = self._window(int(reach_lo), int(reach_hi))
        work = 20_000 + 4 * len(near) + 2 * len(reach.blocks)
        self.touched[c] = touched = _Touched(near, self._window(lo, hi), reach, work)
        return touched

    def _window(self, lo: int, hi: int) -> _Window:
        begin, end = self.first[lo], self.first[hi]
        return _Window(slice(lo, hi), self.blocks_at[begin:end], self.first[lo:hi] - begin)
