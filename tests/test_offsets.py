"""Arena layouts: never an overlap, near the bound on training lifetimes, equal to brute force."""

import csv
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staticgraph.errors import InternalError
from staticgraph.offsets import Block, assign, check, max_live

MINIMALLOC = Path(__file__).parents[2] / "shared" / "data" / "minimalloc"
CAPACITY = 1 << 20


def lifetimes(steps):
    """Blocks of a plan given as (bytes written, steps read) for every step."""
    last = list(range(len(steps)))
    for now, (_, reads) in enumerate(steps):
        for step in reads:
            last[step] = now
    return [Block(size, now, last[now] + 1) for now, (size, _) in enumerate(steps)]


def with_backward(forward, rng):
    """Training: gradients in reverse order, each from activations and the gradients after it."""
    steps = list(forward)
    gradient = {len(forward) - 1: len(forward) - 1}
    for step in reversed(range(len(forward))):
        if step not in gradient:
            continue
        for source in forward[step][1]:
            reads = [gradient[step], step, source]
            if source in gradient:
                reads.append(gradient[source])
            gradient[source] = len(steps)
            steps.append((forward[source][0], reads))
        steps.append((rng.choice([4096, 65536, 300_000]), [gradient[step], *forward[step][1]]))
    return lifetimes(steps)


def chain(length, seed):
    rng = random.Random(seed)
    forward = [(rng.randrange(64, 1 << 20), [k - 1] if k else []) for k in range(length)]
    return with_backward(forward, rng)


def unet(depth, seed):
    rng = random.Random(seed)
    forward, skips, size = [(1 << 21, [])], [], 1 << 21
    for _ in range(depth):
        for _ in range(3):
            forward.append((size // rng.choice([1, 1, 2]), [len(forward) - 1]))
        skips.append(len(forward) - 1)
        forward.append((size // 4, [len(forward) - 1]))
        size //= 2
    for skip in reversed(skips):
        size *= 2
        forward.append((size, [len(forward) - 1, skip]))
        for _ in range(3):
            forward.append((size // rng.choice([1, 1, 2]), [len(forward) - 1]))
    return with_backward(forward, rng)


def dag(length, reach, seed):
    rng = random.Random(seed)
    steps = []
    for now in range(length):
        reads = [rng.randrange(max(0, now - reach), now) for _ in range(rng.randint(1, 2)) if now]
        if now and rng.random() < 0.1:
            reads.append(rng.randrange(now))
        steps.append((rng.choice([1, 2, 4, 8, 16, 32]) * rng.choice([1024, 5000, 12288]), reads))
    return lifetimes(steps)


def full_rectangle(count, seed, steps=64, height=1024):
    """Blocks that fill a rectangle of memory and time without a gap."""
    rng = random.Random(seed)
    pieces = [(0, steps, 0, height)]
    while len(pieces) < count:
        pieces.sort(key=lambda p: (p[1] - p[0]) * (p[3] - p[2]) * (0.3 + rng.random()))
        start, stop, low, high = pieces.pop()
        if rng.random() < 0.5 and stop - start > 1:
            cut = rng.randrange(start + 1, stop)
            pieces += [(start, cut, low, high), (cut, stop, low, high)]
        else:
            cut = rng.randrange(low + 1, high)
            pieces += [(start, stop, low, cut), (start, stop, cut, high)]
    rng.shuffle(pieces)
    return [Block(high - low, start, stop) for start, stop, low, high in pieces]


def smallest_peak(blocks):
    """By brute force: some best layout drops the blocks one by one onto those below."""
    best = sum(block.size for block in blocks)
    for order in itertools.permutations(blocks):
        placed = []
        for block in order:
            below = [end for other, end in placed if meet(block, other)]
            placed.append((block, max(below, default=0) + block.size))
            if placed[-1][1] >= best:
                break
        best = min(best, max(end for _, end in placed))
    return best


def meet(a, b):
    return a.start < b.stop and b.start < a.stop


def checked(blocks, **options):
    align = options.get("align", 64)
    layout = assign(blocks, **options)
    check(blocks, layout.offsets, align=align)
    rounded = [-(-block.size // align) * align for block in blocks]
    ends = [offset + size for offset, size in zip(layout.offsets, rounded, strict=True) if size]
    assert layout.peak == max(ends, default=0)
    assert max_live(blocks, align=align) <= layout.lower_bound <= layout.peak
    return layout


@st.composite
def some_blocks(draw, most=40, steps=30, size=2000):
    start = st.integers(0, steps)
    entry = st.tuples(st.integers(0, size), start, st.integers(1, steps))
    return [Block(n, at, at + live) for n, at, live in draw(st.lists(entry, max_size=most))]


@given(some_blocks(), st.sampled_from([1, 64, 100]), st.integers(0, 1))
def test_no_overlap_and_no_less_than_the_bound(blocks, align, effort):
    checked(blocks, align=align, effort=effort)


@given(some_blocks(most=25), st.randoms(use_true_random=False))
def test_peak_does_not_depend_on_the_order_of_the_blocks(blocks, rng):
    shuffled = rng.sample(blocks, len(blocks))
    assert checked(shuffled, effort=1).peak == checked(blocks, effort=1).peak


@given(some_blocks(most=6, steps=6, size=7))
def test_equals_brute_force(blocks):
    blocks = [block for block in blocks if block.size]
    layout = checked(blocks, align=1)
    assert layout.peak == layout.lower_bound == (smallest_peak(blocks) if blocks else 0)


def test_proves_that_the_peak_of_live_bytes_cannot_be_reached():
    entries = "2 0 1, 3 0 2, 2 2 3, 1 1 3, 1 1 4, 1 2 4, 3 3 5, 2 4 5"
    blocks = [Block(*map(int, entry.split())) for entry in entries.split(",")]
    assert max_live(blocks, align=1) == 5
    layout = checked(blocks, align=1)
    assert layout.peak == layout.lower_bound == smallest_peak(blocks) == 6


@pytest.mark.parametrize("count", [10, 20, 40, 80])
@pytest.mark.parametrize("seed", range(3))
def test_fills_a_rectangle_without_a_gap(count, seed):
    assert checked(full_rectangle(count, seed), align=1, effort=3).peak == 1024


@pytest.mark.parametrize("seed", range(3))
def test_training_lifetimes_reach_the_bound(seed):
    plans = [chain(length, seed) for length in (2, 8, 40, 200)]
    plans += [unet(depth, seed) for depth in (2, 3, 5, 8)]
    for blocks in plans:
        layout = checked(blocks)
        assert layout.peak == layout.lower_bound == max_live(blocks)


def test_first_fit_is_enough_for_a_deep_chain():
    assert assign(chain(400, 0), effort=0).method == "first-fit by pressure"


@pytest.mark.parametrize("reach", [5, 30, 100])
@pytest.mark.parametrize("length", [30, 100, 300, 1000])
def test_random_lifetimes_come_within_two_percent(length, reach):
    blocks = dag(length, reach, seed=length)
    assert checked(blocks).peak <= 1.02 * max_live(blocks)


def minimalloc(name):
    path = MINIMALLOC / f"{name}.{CAPACITY}.csv"
    if not path.exists():
        pytest.skip(f"needs the MiniMalloc instances in {MINIMALLOC}")
    with path.open() as file:
        return [
            Block(int(row["size"]), int(row["lower"]), int(row["upper"]))
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("name", "ABCD")
def test_fits_the_minimalloc_instances(name):
    layout = checked(minimalloc(name), effort=4, goal=CAPACITY)
    assert layout.peak <= CAPACITY


@pytest.mark.slow
@pytest.mark.parametrize("name", "ABCD")
def test_minimises_the_minimalloc_instances(name):
    layout = checked(minimalloc(name), effort=4)
    assert layout.peak <= CAPACITY
    assert name == "D" or layout.peak == layout.lower_bound


def test_equal_input_gives_equal_layout():
    blocks = full_rectangle(120, 7)
    assert assign(blocks, effort=1) == assign(blocks, effort=1)


def test_stops_at_the_goal():
    blocks = full_rectangle(40, 0)
    first_fit = assign(blocks, align=1, effort=0)
    assert first_fit.peak > 1024
    assert assign(blocks, align=1, goal=first_fit.peak) == first_fit
    assert assign(blocks, align=1).peak == 1024


def test_parts_that_never_meet_share_the_arena():
    part = full_rectangle(30, 1)
    blocks = [Block(b.size, b.start + k * 64, b.stop + k * 64) for k in range(5) for b in part]
    assert checked(blocks, align=1).peak == 1024


def test_sizes_are_rounded_up():
    blocks = [Block(1, 0, 2), Block(65, 1, 3), Block(0, 0, 9)]
    layout = checked(blocks)
    assert (layout.peak, layout.offsets[2]) == (192, 0)
    assert max_live(blocks) == 192
    assert max_live(blocks, align=1) == 66


def test_a_block_may_take_the_place_of_one_that_just_stopped():
    assert checked([Block(64, 0, 3), Block(64, 3, 5)]).offsets == (0, 0)


def test_large_sizes_keep_exact():
    blocks = [Block((1 << 40) + k, k % 3, 5 + k) for k in range(9)]
    assert checked(blocks).peak == max_live(blocks)


@pytest.mark.parametrize("blocks", [[], [Block(0, 0, 1)]])
def test_nothing_to_place(blocks):
    layout = checked(blocks)
    assert (layout.peak, layout.lower_bound, layout.offsets) == (0, 0, (0,) * len(blocks))


@pytest.mark.parametrize("block", [Block(8, 3, 3), Block(8, 3, 2), Block(-8, 0, 1)])
def test_a_block_must_live(block):
    with pytest.raises(InternalError, match="negative size or is never live"):
        assign([block])


def test_check_finds_what_is_wrong():
    blocks = [Block(64, 0, 2), Block(64, 1, 3), Block(64, 2, 4)]
    check(blocks, [0, 64, 0])
    with pytest.raises(InternalError, match="at offset 32 overlaps"):
        check(blocks, [0, 32, 128])
    with pytest.raises(InternalError, match="overlaps"):
        check(blocks, [64, 0, 0])
    with pytest.raises(InternalError, match="not a multiple of 64"):
        check(blocks, [0, 96, 0], align=64)
    with pytest.raises(InternalError, match="not a multiple"):
        check(blocks, [-64, 64, 0])
    with pytest.raises(InternalError, match="3 blocks but 2 offsets"):
        check(blocks, [0, 64])


@given(some_blocks(most=8, steps=6, size=3), st.data())
def test_check_agrees_with_all_pairs(blocks, data):
    offsets = data.draw(st.tuples(*[st.integers(0, 9)] * len(blocks)))
    placed = list(zip(blocks, offsets, strict=True))
    overlap = any(
        a.size and b.size and meet(a, b) and at < to + b.size and to < at + a.size
        for (a, at), (b, to) in itertools.combinations(placed, 2)
    )
    if overlap:
        with pytest.raises(InternalError):
            check(blocks, offsets)
    else:
        check(blocks, offsets)
