"""Static arena layout: give every block of memory a fixed offset, with a small total size.

A block is live during some steps of a plan; two blocks that are live at the same step must not
overlap in memory. Finding the smallest arena is NP-hard (dynamic storage allocation), but two facts
make it tractable in practice. The most bytes live at any one step is a lower bound that good layouts
usually reach, so a search can stop as soon as it does. And some best layout is *pushed down*: every
block lies at zero or on top of another one, so it can be built bottom-up, always giving the lowest
free place to some block (the idea of MiniMalloc, Moffitt, ASPLOS 2023).

`assign` first tries first-fit in a few orders, which is optimal for most training graphs, then runs
short bottom-up searches (`_Stack`) towards a target height, restarted with other priorities. The
work is bounded by counted operations and never by the clock: equal blocks give equal layouts.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from staticgraph.errors import InternalError

ALIGN = 64
DEFAULT_EFFORT = 2
# Search work of effort 1 in units of about a nanosecond; every further level has ten times more.
_BASE_WORK = 30_000_000
# Above these sizes an instance is too large for the data the search keeps.
_WIDE_ORDER = 2048
_MAX_PAIRS = 8_000_000
# The search gives up a restart after this many steps more than there are blocks.
_EXTRA_NODES = 200
_FORGET = 0.7
_BLAME = 10.0
_NOISE = (0.2, 0.6)
_MAX_WATCHED = 12_000
_NEVER = 1 << 62
_CORES = (0.7, 0.8, 0.9)
_NONE = np.empty(0, np.int64)


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
    the search could exclude that. `peak == lower_bound` therefore says that the layout is optimal.
    """

    offsets: tuple[int, ...]
    peak: int
    lower_bound: int
    method: str


def max_live(blocks: Sequence[Block], *, align: int = ALIGN) -> int:
    """The most bytes live at one step, every size rounded up to `align`."""
    size, start, stop = _arrays(blocks, align)
    if not len(size):
        return 0
    events = np.concatenate((stop, start))
    change = np.concatenate((-size, size))
    # At equal steps the stops come first: a block is not live at its `stop`.
    order = np.argsort(events, kind="stable")
    return int(np.cumsum(change[order]).max()) * align


def check(blocks: Sequence[Block], offsets: Sequence[int], *, align: int = 1) -> None:
    """Raise InternalError unless the blocks that are live together lie apart, at aligned offsets."""
    if len(blocks) != len(offsets):
        raise InternalError(f"{len(blocks)} blocks but {len(offsets)} offsets")
    for index, offset in enumerate(offsets):
        if offset < 0 or offset % align:
            raise InternalError(f"block {index} has offset {offset}, not a multiple of {align}")
    full = [i for i, block in enumerate(blocks) if block.size > 0]
    events = sorted([(blocks[i].start, 1, i) for i in full] + [(blocks[i].stop, 0, i) for i in full])
    live: list[tuple[int, int, int]] = []  # (offset, end, index), sorted and disjoint
    for _, begins, i in events:
        entry = (offsets[i], offsets[i] + blocks[i].size, i)
        at = bisect_left(live, entry)
        if not begins:
            del live[at]
            continue
        for other in live[max(at - 1, 0) : at + 1]:
            if other[0] < entry[1] and entry[0] < other[1]:
                raise InternalError(
                    f"{blocks[i]} at offset {entry[0]} overlaps {blocks[other[2]]} at {other[0]}"
                )
        live.insert(at, entry)


def assign(blocks: Sequence[Block], *, align: int = ALIGN, effort: int = DEFAULT_EFFORT) -> Layout:
    """Offsets, multiples of `align`, that keep the peak near the smallest possible.

    `effort` 0 is first-fit alone; 1, 2, 3, 4 allow about 0.03, 0.3, 3, 30 seconds of search, which
    ends as soon as the layout is known to be optimal.
    """
    size, start, stop = _arrays(blocks, align)
    offsets = np.zeros(len(blocks), np.int64)
    used = np.flatnonzero(size)
    if not len(used):
        return Layout((0,) * len(blocks), 0, 0, "empty")
    # A fixed order makes the peak independent of the order in which the blocks are given.
    used = used[np.lexsort((size[used], stop[used], start[used]))]
    unit = int(np.gcd.reduce(size[used]))
    whole = _Part(size[used] // unit, start[used], stop[used])
    parts = [(used[chosen], whole.subset(chosen)) for chosen in whole.split()]
    budget = _Budget(_BASE_WORK * 10 ** (effort - 1) if effort > 0 else 0)
    # The part with most live bytes comes first; no later part need be lower than it got.
    parts.sort(key=lambda item: -item[1].bound)
    goal, bound, method = parts[0][1].bound, 0, ""
    for indices, part in parts:
        best = _pack(part, goal, budget)
        offsets[indices] = best.offsets
        if best.peak > goal or not method:
            method = best.method
        goal, bound = max(goal, best.peak), max(bound, part.bound)
    scale = unit * align
    return Layout(tuple((offsets * scale).tolist()), goal * scale, bound * scale, method)


def _arrays(blocks: Sequence[Block], align: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes in units of `align`, starts and stops."""
    for block in blocks:
        if block.size < 0 or block.stop <= block.start:
            raise InternalError(f"{block} has a negative size or is never live")
    table = np.array([(b.size, b.start, b.stop) for b in blocks], np.int64).reshape(-1, 3)
    return -(-table[:, 0] // align), table[:, 1], table[:, 2]


@dataclass(slots=True)
class _Budget:
    """Work left, in units of about a nanosecond."""

    work: int


@dataclass(slots=True)
class _Best:
    offsets: np.ndarray
    peak: int
    method: str

    def improve(self, part: _Part, offsets: np.ndarray, method: str) -> bool:
        peak = int((offsets + part.size).max())
        if self.method and peak >= self.peak:
            return False
        self.offsets, self.peak, self.method = offsets, peak, method
        return True


class _Part:
    """Blocks with their steps reduced to *sections*, the steps at which most blocks are live.

    A section is a step whose set of live blocks is part of no other step's. Two blocks are live
    together if and only if they share a section; block i has the sections lo[i] <= s < hi[i].
    """

    def __init__(self, size: np.ndarray, start: np.ndarray, stop: np.ndarray):
        starts, stops = np.unique(start), np.unique(stop)
        # The live set is maximal where a block ends before, or when, the next one starts.
        next_stop = stops[np.searchsorted(stops, starts, "right")]
        steps = starts[next_stop <= np.append(starts[1:], stops[-1])]
        self.size = size
        self.lo, self.hi = np.searchsorted(steps, start), np.searchsorted(steps, stop)
        self.sections = len(steps)
        self.live = _running_sum(self.lo, self.hi, size, len(steps))
        self.bound = int(self.live.max())

    def subset(self, chosen: np.ndarray) -> _Part:
        return _Part(self.size[chosen], self.lo[chosen], self.hi[chosen])

    def split(self) -> Iterator[np.ndarray]:
        """The blocks of every stretch of sections that no block connects with another one."""
        joined = _running_sum(self.lo + 1, self.hi, np.ones_like(self.lo), self.sections)
        stretch = np.cumsum(joined == 0)[self.lo]
        for k in range(1, int(stretch.max()) + 1):
            yield np.flatnonzero(stretch == k)

    def pressure(self) -> np.ndarray:
        """The most bytes live in one of its sections, for every block."""
        ranges = np.column_stack((self.lo, self.hi)).ravel()
        return np.maximum.reduceat(np.append(self.live, 0), ranges)[::2]

    def pairs(self) -> int:
        """How many ordered pairs of blocks are live together."""
        begun = np.searchsorted(np.sort(self.lo), self.hi, "left")
        ended = np.searchsorted(np.sort(self.hi), self.lo, "right")
        return int((begun - ended).sum())


def _running_sum(lo: np.ndarray, hi: np.ndarray, amount: np.ndarray, sections: int) -> np.ndarray:
    """For every section the sum over the blocks i with lo[i] <= section < hi[i]."""
    change = np.zeros(sections + 1, np.int64)
    np.add.at(change, lo, amount)
    np.subtract.at(change, hi, amount)
    return np.cumsum(change[:-1])


def _pack(part: _Part, goal: int, budget: _Budget) -> _Best:
    """A layout of one part; stops at `goal`, which is at least the part's bound."""
    best = _Best(np.empty(0, np.int64), 0, "")
    for method, order in _orders(part).items():
        best.improve(part, _first_fit(part, order), method)
        if best.peak <= goal:
            return best
    if budget.work > 0 and part.pairs() <= _MAX_PAIRS:
        _search(part, best, goal, budget)
    return best


def _orders(part: _Part) -> dict[str, np.ndarray]:
    width, pressure = part.hi - part.lo, part.pressure()
    return {  # lexsort's last key is the first to count
        "first-fit by pressure": np.lexsort((-part.size, -width, -pressure)),
        "first-fit by area": np.lexsort((-part.size * width,)),
        "first-fit by size": np.lexsort((-width, -part.size)),
    }


def _first_fit(
    part: _Part, order: np.ndarray, core: np.ndarray = _NONE, core_offsets: np.ndarray = _NONE
) -> np.ndarray:
    """Every block, in this order, at the lowest offset where it fits beside the core's blocks."""
    offsets = np.zeros(len(part.size), np.int64)
    offsets[core] = core_offsets
    if len(part.size) > _WIDE_ORDER:
        _first_fit_wide(part, np.concatenate((core, order)), len(core), offsets)
        return offsets
    sizes, los, his = part.size.tolist(), part.lo.tolist(), part.hi.tolist()
    # (offset, end, lo, hi), sorted
    placed = [(o, o + sizes[i], los[i], his[i]) for i, o in zip(core, core_offsets, strict=True)]
    placed.sort()
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


def _first_fit_wide(part: _Part, order: np.ndarray, known: int, offsets: np.ndarray) -> None:
    """The same with array operations, which are faster from a few thousand blocks on."""
    size, lo, hi, at = part.size[order], part.lo[order], part.hi[order], offsets[order]
    for k in range(known, len(order)):
        near = np.flatnonzero((lo[:k] < hi[k]) & (lo[k] < hi[:k]))
        near = near[np.argsort(at[near], kind="stable")]
        free = np.maximum.accumulate(np.append(0, at[near] + size[near]))
        fits = at[near] - free[:-1] >= size[k]
        at[k] = free[fits.argmax() if fits.any() else -1]
    offsets[order] = at


def _search(part: _Part, best: _Best, goal: int, budget: _Budget) -> None:
    """Improve `best` by restarted searches until it reaches `goal` or the work is done.

    Some restarts aim straight at the bound, others between bound and best: nearer to the best after
    failures, nearer to the bound after a success. In a large part most blocks are live where there
    is room to spare; so restarts take turns between all blocks and *cores*, the blocks that are ever
    live under high pressure, and first-fit adds the others to a core's layout.
    """
    rng = random.Random(len(part.size))
    stacks = [(chosen, _Stack(part.subset(chosen))) for chosen in _cores(part)]
    order = _orders(part)["first-fit by size"]
    aim = 0.5
    attempt = 0
    while best.peak > max(goal, part.bound) and budget.work > 0:
        chosen, stack = stacks[attempt % len(stacks)]
        turn = attempt // len(stacks)
        attempt += 1
        low = max(goal, part.bound)
        bold = turn % 3 == 0
        target = low if bold else low + int((best.peak - 1 - low) * aim)
        stack.prioritise(target, turn, rng)
        found = stack.build(target, len(chosen) + _EXTRA_NODES, budget)
        if found is not None:
            rest = order[~np.isin(order, chosen)]
            budget.work -= 10 * len(rest) * len(order)
            if best.improve(part, _first_fit(part, rest, chosen, found), "search"):
                aim = max(0.25, aim / 2)
        elif stack.exhausted:
            part.bound = max(part.bound, target + 1)
        elif not bold:
            aim = (1 + aim) / 2 if aim < 0.95 else 0.25


def _cores(part: _Part) -> Iterator[np.ndarray]:
    """All blocks, then those under ever higher pressure."""
    count = len(part.size)
    yield np.arange(count)
    pressure = part.pressure()
    for share in _CORES:
        chosen = np.flatnonzero(pressure >= share * part.bound)
        if len(chosen) < 0.8 * count:
            yield chosen
            count = len(chosen)


class _Window(NamedTuple):
    """A range of sections with their blocks; `first` says where each section's blocks begin."""

    sections: slice
    blocks: np.ndarray
    first: np.ndarray


class _Touched(NamedTuple):
    """What placing a block changes: its neighbours, its own sections and all those of both."""

    near: np.ndarray
    own: _Window
    reach: _Window
    work: int


class _Stack:
    """Bottom-up search for a layout of at most a given height.

    The state says for every missing block the lowest offset it can still have (`lowest`), and for
    every section how low its lowest missing block must lie for all of them to fit (`height`). A
    step takes the block that can lie lowest. Either it lies there, or else it rests on a neighbour
    that is still missing, which raises its offset. A branch fails when a block passes the target,
    when a section's lowest missing block passes its height, or when the refused place would stay
    empty (moving the block down there does no harm). Nothing else is cut off, so a search that
    ends before its limit proves that no layout of that height exists.

    Offsets are kept as `offset << shift | rank`: one `argmin` finds the lowest block and, among
    equals, the one of highest priority.
    """

    def __init__(self, part: _Part):
        size, live = part.size, part.live
        self.part = part
        self.count = len(size)
        # Where there is room to spare nothing fails, so only the fullest sections are watched.
        fullest = np.argsort(-live, kind="stable")
        blocks_in = _running_sum(part.lo, part.hi, np.ones_like(size), part.sections)
        enough = np.searchsorted(np.cumsum(blocks_in[fullest]), _MAX_WATCHED) + 1
        watched = np.sort(fullest[:enough])
        self.live = live[watched]
        self.lo, self.hi = np.searchsorted(watched, part.lo), np.searchsorted(watched, part.hi)
        self.shift = max(1, (self.count - 1).bit_length())
        self.fraction = (1 << self.shift) - 1
        self.step = size << self.shift
        self.blame = np.zeros(len(watched))
        self.exhausted = False
        width = self.hi - self.lo
        blocks = np.repeat(np.arange(self.count), width)
        sections = np.arange(len(blocks)) - np.repeat(np.cumsum(width) - width - self.lo, width)
        order = np.argsort(sections, kind="stable")
        # blocks_at[first[s] : first[s + 1]] are the blocks of watched section s.
        self.blocks_at = blocks[order]
        self.first = np.searchsorted(sections[order], np.arange(len(watched) + 1))
        self.touched: dict[int, _Touched] = {}

    def prioritise(self, target: int, turn: int, rng: random.Random) -> None:
        """Rank the blocks: large or long ones first, above all those in full sections."""
        part = self.part
        power, tight = ((1.0, True), (0.0, False), (None, True), (None, False))[turn // 3 % 4]
        if power is None:
            power = rng.random()
        weight = np.ones(len(self.live))
        if tight:
            weight = np.exp((self.live - target) / (0.1 * target))
        worst = self.blame.max()
        if worst > 0:
            weight *= 1 + _BLAME * self.blame / worst
        total = np.concatenate(((0.0,), np.cumsum(weight)))
        priority = (total[self.hi] - total[self.lo]) * part.size.astype(float) ** power
        if turn >= 3:
            noise = _NOISE[turn // 12 % 2]
            priority *= np.exp([noise * rng.random() for _ in range(self.count)])
        self.rank = np.empty(self.count, np.int64)
        self.rank[np.argsort(-priority, kind="stable")] = np.arange(self.count)

    def build(self, target: int, limit: int, budget: _Budget) -> np.ndarray | None:
        """Offsets with a peak of at most `target`, or None; `exhausted` says there are none."""
        self.blame *= _FORGET
        self.exhausted = target < self.part.bound
        if self.exhausted:
            return None
        self.gone = target << self.shift
        self.lowest = self.rank.copy()
        self.top = ((target - self.part.size) << self.shift) | self.fraction
        self.height = ((target - self.live) << self.shift) | self.fraction
        placed: list[tuple] = []
        self.raised: list[tuple[int, int]] = []
        while len(placed) < self.count:
            c = int(self.lowest.argmin())
            touched = self.touched.get(c) or self._touch(c)
            limit -= 1
            budget.work -= touched.work
            if limit < 0 or budget.work < 0:
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
        return offsets

    def _place(self, c: int, at: int, before: np.ndarray, touched: _Touched) -> bool:
        """Put block c at its lowest offset, unless that leaves too little room to others."""
        near, reach = touched.near, touched.reach
        end = (at & ~self.fraction) + int(self.step[c])
        after = np.maximum(before, self.rank.take(near) + end)
        if (after > self.top.take(near)).any():
            return False
        self.lowest[near] = after
        self.lowest[c] = self.gone
        self.top[c] = _NEVER
        self.height[touched.own.sections] += self.step[c]
        if self._fits(reach):
            return True
        self._remove(c, at, before, touched)
        return False

    def _remove(self, c: int, at: int, before: np.ndarray, touched: _Touched) -> None:
        self.lowest[touched.near] = before
        self.lowest[c] = at
        self.top[c] = self.gone - int(self.step[c]) | self.fraction
        self.height[touched.own.sections] -= self.step[c]

    def _refuse(self, c: int, at: int, before: np.ndarray, touched: _Touched) -> bool:
        """Block c does not lie at its lowest offset: False if it then lies nowhere."""
        if not len(before):
            return False
        base = at & ~self.fraction
        if int(before.min()) >= base + int(self.step[c]):
            return False
        support = int((before + self.step.take(touched.near)).min())
        offset = (support & ~self.fraction) + int(self.rank[c])
        if offset > self.top[c]:
            return False
        self.raised.append((c, at))
        self.lowest[c] = offset
        return self._fits(touched.own)

    def _fits(self, window: _Window) -> bool:
        """Whether the missing blocks still fit above the lowest of each section of a window."""
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
        reach = self._window(
            int(self.lo[near].min(initial=lo)), int(self.hi[near].max(initial=hi))
        )
        work = 20_000 + 4 * len(near) + 2 * len(reach.blocks)
        self.touched[c] = touched = _Touched(near, self._window(lo, hi), reach, work)
        return touched

    def _window(self, lo: int, hi: int) -> _Window:
        begin, end = self.first[lo], self.first[hi]
        return _Window(slice(lo, hi), self.blocks_at[begin:end], self.first[lo:hi] - begin)
