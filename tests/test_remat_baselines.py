"""The published strategies: closed formulas, brute force, exact optima, and what they promise."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from remat_graphs import OPTIMA, anything, published, reversal, seeded, training_chain

from staticgraph.errors import BudgetError, DagError
from staticgraph.passes.remat import (
    chains,
    checkmate,
    chen,
    dtr,
    exact,
    knapsack,
    lowersets,
    phases,
    reorder,
    rotor,
)
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.plan import STRATEGIES
from staticgraph.passes.remat.simulate import simulate

MODULES = (chains, checkmate, chen, dtr, knapsack, lowersets, reorder, rotor)
OURS = {
    name: made
    for name, made in STRATEGIES.items()
    if made.__module__ in {module.__name__ for module in MODULES}
}


def peak_of(dag):
    return simulate(dag, range(len(dag))).peak


def training_net(draw, layers):
    """A net with skip connections, its loss, and gradients that read values of their layer."""
    inputs = [(0,) if i == 1 else (i - 1,) if i else () for i in range(layers)]
    for i in range(2, layers):
        if draw.random() < 0.3:
            inputs[i] = (draw.randrange(i - 1), i - 1)
    inputs.append((layers - 1,))
    for i in range(layers - 1, -1, -1):
        gradients = sorted({2 * layers - w for w in range(layers) if i in inputs[w]})
        read = {i, *inputs[i]} if draw.random() < 0.5 else set(inputs[i])
        inputs.append((*sorted(read), *(gradients or [layers])))
    n = len(inputs)
    return Dag(
        [draw.randint(1, 9) for _ in range(n)],
        [draw.randint(1, 9) for _ in range(n)],
        inputs,
        outputs=[v for v in range(layers + 1, n) if draw.random() < 0.2],
        extra=[draw.choice((0, 0, 2)) for _ in range(n)],
    )


# --- every strategy -----------------------------------------------------------------------------


def test_all_papers_are_there():
    assert sorted(OURS) == [
        "checkmate-lp", "checkmate-milp", "checkpoint-last", "chen-greedy",
        "chen-greedy-linearized", "chen-sqrt", "chen-sqrt-linearized", "dtr", "dtr-eq",
        "dtr-local", "dtr-lru", "dtr-size", "griewank", "keep-all", "knapsack-dp",
        "knapsack-greedy", "knapsack-ilp", "kusumoto", "kusumoto-exact", "reorder", "rotor",
    ]  # fmt: skip


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("seed", range(6))
def test_a_plan_keeps_the_budget_and_is_never_better_than_the_optimum(name, seed):
    draw = seeded(seed)
    dag = [anything, lambda d, n: training_net(d, n // 2), training_chain][seed % 3](
        draw, 8 if seed % 3 < 2 else 3
    )
    found = 0
    for budget in range(exact.least_peak(dag), peak_of(dag) + 1, 3):
        optimum = simulate(dag, exact.shortest(dag, budget)).cost
        try:
            made = simulate(dag, OURS[name](dag, budget))
        except (BudgetError, DagError):
            continue
        assert made.peak <= budget
        assert made.cost >= optimum
        found += 1
    if name != "checkpoint-last" and seed % 3:
        everything = peak_of(dag)
        assert found or simulate(dag, OURS[name](dag, everything)).peak <= everything


@pytest.mark.parametrize(
    "name",
    # The others recompute whatever the budget.
    sorted(set(OURS) - {"checkpoint-last", "chen-sqrt", "chen-sqrt-linearized", "griewank"}),
)
def test_with_room_for_all_nothing_runs_twice(name):
    for seed in range(4):
        dag = training_net(seeded(seed), 5)
        assert simulate(dag, OURS[name](dag, peak_of(dag))).cost == dag.total


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), layers=st.integers(3, 10), share=st.floats(0.4, 1.0))
def test_plans_of_nets_keep_their_budget(seed, layers, share):
    dag = training_net(seeded(seed), layers)
    budget = int(share * peak_of(dag))
    for name, made in OURS.items():
        if name.startswith("checkmate") or name == "kusumoto-exact":
            continue  # the programme is slow, the lower sets are many
        try:
            sequence = made(dag, budget)
        except (BudgetError, DagError):
            continue
        assert simulate(dag, sequence).peak <= budget, name


@pytest.mark.parametrize("name", OURS)
def test_a_budget_below_the_floor_is_an_error(name):
    with pytest.raises(BudgetError, match=r"bytes"):
        OURS[name](training_net(seeded(1), 4), 1)


@pytest.mark.parametrize("name", sorted(set(OURS) - {"checkmate-milp", "checkmate-lp"}))
@pytest.mark.parametrize(
    "net",
    [
        "VGG16",
        "fcn_8",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("MobileNet", "ResNet50")),
    ],
)
def test_published_optima_are_not_undercut(name, net):
    dag = published(net)
    for percent, extra in OPTIMA[net].items():
        budget = peak_of(dag) * percent // 100
        try:
            made = simulate(dag, OURS[name](dag, budget))
        except BudgetError:
            continue
        assert made.peak <= budget
        if name != "reorder":  # the optima are those of the stored order
            assert extra is not None
            assert 100 * (made.cost / dag.total - 1) >= extra - 5e-4


# --- Chen ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [16, 64, 256, 1024])
def test_chen_holds_two_roots_for_one_more_pass(length):
    dag = reversal(length)
    made = simulate(dag, chen.sqrt_plan(dag, "ap"))
    assert made.peak <= 2 * math.isqrt(length) + 4
    assert dag.total < made.cost <= dag.total + length
    assert simulate(dag, chen.sqrt_plan(dag, "linearized")).peak <= 2 * math.isqrt(length) + 4


def test_chen_greedy_reaches_lower_peaks_with_smaller_bounds():
    dag = reversal(64)
    peaks = [simulate(dag, plan).peak for plan in chen.greedy_plans(dag, "ap")]
    assert peaks[0] == peak_of(dag)
    assert min(peaks) <= 2 * 8 + 4


def test_the_turn_is_the_loss_and_waists_are_the_joints():
    dag = published("VGG16")
    assert dag.names[phases.turn(dag)] == "Loss"
    assert phases.waists(dag, phases.turn(dag)) == list(range(22))
    # A residual block: 1 is skipped over, 3 joins; 2 is a mask, read once.
    net = Dag((1,) * 5, (1,) * 5, ((), (0,), (), (0, 1, 2), (3,)))
    assert phases.waists(net, 4) == [0, 3]


def test_checkpoint_last_recomputes_all_but_the_last_value():
    dag = reversal(4)
    assert chen.checkpoint_last(dag, 100) == [0, 1, 2, 3, 0, 1, 4, 0, 5, 6]


# --- lower sets ---------------------------------------------------------------------------------


def canonical(dag, last, sets):
    """(overhead, memory) of a sequence of lower sets, from the definitions in the paper."""

    def size(nodes):
        return sum(dag.size[v] for v in nodes)

    forward = set(range(last + 1))
    readers = {v: {w for w in dag.uses[v] if w <= last} for v in forward}
    overhead = memory = 0
    before, cached = set(), set()
    for lower in sets:
        boundary = {v for v in lower if readers[v] - lower}
        stretch = lower - before
        ahead = set().union(*(readers[v] for v in lower)) - lower
        behind = {u for w in ahead for u in dag.inputs[w]} - lower
        need = size(cached) + 2 * size(stretch) + size(ahead) + size(behind)
        memory = max(memory, need)
        overhead += sum(dag.cost[v] for v in stretch - boundary)
        cached |= boundary
        before = lower
    return overhead, memory


def as_set(bits):
    return {v for v in range(bits.bit_length()) if bits >> v & 1}


def all_sequences(sets, everything):
    for count in range(len(sets)):
        for chosen in itertools.combinations(sets[:-1], count):
            chain = [*chosen, everything]
            if all(a & b == a for a, b in itertools.pairwise(chain)):
                yield chain


@pytest.mark.parametrize("seed", range(8))
def test_lower_sets_equal_brute_force(seed):
    dag = anything(seeded(seed), 5)
    last = 4
    exact_sets = lowersets.all_lower_sets(dag, last)
    scores = [
        canonical(dag, last, [as_set(part) for part in chain])
        for chain in all_sequences(exact_sets, (1 << last + 1) - 1)
    ]
    for budget in sorted({memory for _, memory in scores}):
        within = [overhead for overhead, memory in scores if memory <= budget]
        for aim, best in (("time", min(within)), ("memory", max(within))):
            found = lowersets.best_sets(dag, last, exact_sets, budget, aim=aim)
            assert found.overhead == best
            assert (best, found.memory) == canonical(dag, last, [as_set(s) for s in found.sets])
            assert found.memory <= budget
    with pytest.raises(BudgetError, match="none keep the budget"):
        lowersets.best_sets(dag, last, exact_sets, min(memory for _, memory in scores) - 1)


@pytest.mark.parametrize("seed", range(8))
def test_exact_lower_sets_are_at_least_as_good_as_approximate_ones(seed):
    dag = training_net(seeded(seed), 9)
    last = phases.turn(dag)
    some, every = lowersets.ancestor_sets(dag, last), lowersets.all_lower_sets(dag, last)
    assert set(some) <= set(every)
    compared = 0
    for budget in range(20, 4 * sum(dag.size), 20):
        try:
            approximate = lowersets.best_sets(dag, last, some, budget).overhead
        except BudgetError:
            continue
        assert lowersets.best_sets(dag, last, every, budget).overhead <= approximate
        compared += 1
    assert compared > 3


def test_too_many_lower_sets_are_an_error():
    wide = Dag((1,) * 16, (1,) * 16, [()] * 15 + [tuple(range(15))])
    with pytest.raises(DagError, match="more than 2000 lower sets"):
        lowersets.all_lower_sets(wide, 15)


# --- knapsack -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), max_size=9), st.integers(0, 120))
def test_knapsack_solvers_agree_on_the_optimum(items, capacity):
    weights, worths = [w for w, _ in items], [float(c) for _, c in items]

    def worth(chosen):
        assert sum(weights[i] for i in chosen) <= capacity
        return sum(worths[i] for i in set(chosen))

    subsets = itertools.product((False, True), repeat=len(items))
    best = max(
        sum(itertools.compress(worths, subset))
        for subset in subsets
        if sum(itertools.compress(weights, subset)) <= capacity
    )
    assert worth(knapsack.dynamic(weights, worths, capacity)) == best
    assert worth(knapsack.integer(weights, worths, capacity)) == best
    assert worth(knapsack.greedy(weights, worths, capacity)) <= best


@pytest.mark.peers
def test_knapsack_solvers_agree_with_pytorch():
    theirs = pytest.importorskip("torch._functorch._activation_checkpointing.knapsack")
    pairs = [
        (knapsack.greedy, theirs.greedy_knapsack),
        (knapsack.dynamic, theirs.dp_knapsack),
        (knapsack.integer, theirs.ilp_knapsack),
    ]
    for seed in range(20):
        draw = seeded(seed)
        weights, worths = ([draw.randint(1, 50) for _ in range(12)] for _ in range(2))
        worths = [worth + draw.random() for worth in worths]
        for ours, peer in pairs:
            # Their weights are shares: half a unit more lets rounding not decide.
            worth, _, _ = peer([w / 500 for w in weights], worths, 150.5 / 500)
            chosen = ours(weights, worths, 150)
            assert sum(worths[i] for i in chosen) == pytest.approx(worth, rel=1e-6)


def test_knapsack_rounds_up_where_bytes_are_many():
    chosen = knapsack.dynamic([10**9, 10**9, 7], [1.0, 3.0, 1.0], 10**9 + 10**6)
    assert chosen == [1, 2]
    assert knapsack.dynamic([10**9 + 1] * 2, [1.0, 1.0], 2 * 10**9 + 2) == [0, 1]
    with pytest.raises(DagError, match="must not be negative"):
        knapsack.greedy([1], [1.0], -1)
    with pytest.raises(DagError, match="need as many worths"):
        knapsack.greedy([1], [], 1)
    with pytest.raises(DagError, match=r"must be in 0..1"):
        knapsack.plan_of_share(reversal(4), 1.5, knapsack.greedy)


@pytest.mark.parametrize("seed", range(12))
def test_min_cut_equals_brute_force(seed):
    draw = seeded(seed)
    dag = training_net(draw, 7)
    last = phases.turn(dag)
    banned = {v for v in range(last + 1) if draw.random() < 0.3}
    kept = knapsack.min_cut(dag, last, banned)

    def starts(cut):
        needed = phases.missing(dag, range(last + 1, len(dag)), {*cut, *range(last + 1, len(dag))})
        return not banned.intersection(needed)

    possible = (
        sum(dag.size[v] for v in cut)
        for count in range(last + 2)
        for cut in itertools.combinations(range(last + 1), count)
        if starts(cut)
    )
    assert starts(kept)
    assert sum(dag.size[v] for v in kept) == min(possible)


# --- DTR ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "heuristic"),
    [
        (64, "dtr"),
        (256, "dtr"),
        (64, "eq"),
        (256, "eq"),
        (1024, "eq"),
        pytest.param(4096, "eq", marks=pytest.mark.slow),
    ],
)
def test_dtr_runs_a_chain_in_linear_time(length, heuristic):
    slots = 2 * math.isqrt(length - 1) + 2
    made = simulate(reversal(length), dtr.run(reversal(length), slots, heuristic))
    assert made.peak <= slots
    assert 2 * length - 1 < made.cost <= 6 * length


@pytest.mark.parametrize(
    ("heuristic", "victim"), [("lru", 1), ("size", 2), ("local", 3), ("eq", 1), ("dtr", 1)]
)
def test_dtr_picks_by_its_heuristic(heuristic, victim):
    # Held for 26, 6, 5 and 0 units of cost: 10/(2 26), 20/(5 6), 1/(3 5). But 3 reads 0, which was
    # evicted and costs 40 again.
    dag = Dag((40, 10, 20, 1, 5), (1, 2, 5, 3, 1), ((), (), (), (0,), ()))
    runtime = dtr._Runtime(dag, 100, heuristic)
    for v in range(5):
        runtime._compute(v)
    runtime._evict(0)
    assert runtime._victim(0) == victim


def test_dtr_components_and_neighbourhoods():
    # 0 - 1 - 2 evicted in a row, 4 apart; 3 reads 2 and 4.
    dag = Dag((1, 2, 4, 1, 8), (1,) * 5, ((), (0,), (1,), (2,), ()), name="two parts")
    runtime = dtr._Runtime(dag, 100, "eq")
    for v in range(5):
        runtime._compute(v)
    for v in (0, 1, 2, 4):
        runtime._evict(v)
    assert runtime.neighbourhood(3) == runtime.component(3) == 7
    runtime._compute(1)
    # Walking stops at 1, which is back; its component only lost its cost.
    assert runtime.neighbourhood(3) == 4
    assert runtime.component(3) == 5


def test_dtr_evicts_what_may_not_run_again_last():
    # At 3 the room for three values is full of 0, 1, 2. 0 has no reader to come but could not come
    # back, so 1 goes, which 0 gives back.
    dag = Dag((1,) * 5, (1,) * 5, ((), (0,), (), (2,), (1, 3)), fixed={0})
    assert dtr.run(dag, 4) == [0, 1, 2, 3, 4]
    assert dtr.run(dag, 3) == [0, 1, 2, 3, 1, 4]
    wide = Dag((9, 1, 1, 1, 1), (1, 1, 2, 2, 1), ((), (0,), (), (2,), (1, 3)), fixed={0})
    with pytest.raises(BudgetError, match=r"node 0 is fixed to run once, had to be evicted"):
        dtr.run(wide, 4, "lru")


def test_dtr_says_what_does_not_fit():
    with pytest.raises(BudgetError, match=r"dtr \(eq\): node 1 does not fit next to what it takes"):
        dtr.run(reversal(4), 1, "eq")
    with pytest.raises(DagError, match="heuristic must be one of"):
        dtr.run(reversal(4), 9, "newest")


# --- order --------------------------------------------------------------------------------------


def linear_extensions(dag):
    def extend(done):
        if len(done) == len(dag):
            yield done
        for v in range(len(dag)):
            if v not in done and all(u in done for u in dag.inputs[v]):
                yield from extend([*done, v])

    return extend([])


@pytest.mark.parametrize("seed", range(30))
def test_best_order_equals_all_orders(seed):
    draw = seeded(seed)
    dag = anything(draw, draw.randint(4, 7))
    best = min(simulate(dag, order).peak for order in linear_extensions(dag))
    assert simulate(dag, reorder.best_order(dag)).peak == best
    assert simulate(dag, reorder.beam_order(dag, width=10**6)).peak == best
    assert simulate(dag, reorder.beam_order(dag, width=1)).peak >= best


def test_best_order_equals_all_orders_of_ten_nodes():
    for seed in range(3):
        draw = seeded(seed)
        inputs = [tuple(sorted(draw.sample(range(v), min(v, 2)))) for v in range(10)]
        dag = Dag((1,) * 10, [draw.randint(1, 9) for _ in range(10)], inputs)
        best = min(simulate(dag, order).peak for order in linear_extensions(dag))
        assert simulate(dag, reorder.best_order(dag)).peak == best


def test_long_narrow_graphs_are_ordered_exactly_and_wide_ones_by_a_beam():
    # Blocks of four branches of 8 and then 1 byte, joined by 1. One branch after the other, the
    # last needs most: the ends of three, its own 8, and 1 before them or after them.
    inputs, size = [()], [1]
    for _ in range(15):
        start = len(inputs) - 1
        inputs += [(start,)] * 4 + [(start + i,) for i in range(1, 5)]
        inputs.append(tuple(range(start + 5, start + 9)))
        size += [8] * 4 + [1] * 5
    dag = Dag((1,) * len(inputs), size, inputs)
    assert simulate(dag, reorder.best_order(dag)).peak == 12
    draw = seeded(0)
    wide = Dag((1,) * 41, [draw.randint(1, 99) for _ in range(41)], [()] * 40 + [tuple(range(40))])
    with pytest.raises(DagError, match="too wide for an exact order: more than 100 states"):
        reorder.best_order(wide, most_states=100)
    assert sorted(reorder.reorder(wide, 10**6)) == list(range(41))


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "percent"), [(100, 80), (250, 80)])
def test_orders_alone_keep_published_budgets(nodes, percent):
    # No recomputation at all, where the papers report 0.3 % to 4.9 % of it.
    dag = published(f"random_layered_n{nodes}_")
    budget = peak_of(dag) * percent // 100
    assert simulate(dag, reorder.reorder(dag, budget)).cost == dag.total
