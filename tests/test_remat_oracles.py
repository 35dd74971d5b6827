"""The exact oracles against each other, against brute force, and against published optima."""

import math

import pytest
from remat_graphs import OPTIMA, anything, published, reversal, seeded

from staticgraph.errors import BudgetError, DagError
from staticgraph.passes.remat import checkmate, exact
from staticgraph.passes.remat.chains import extra_steps
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.simulate import simulate


def cost_of(dag, budget, **options):
    """The cost of the exact plan after checking that it keeps the budget; inf if there is none."""
    try:
        sequence = exact.shortest(dag, budget, **options)
    except BudgetError:
        return math.inf
    made = simulate(dag, sequence)
    assert made.peak <= budget
    return made.cost


def budgets(dag, step=1):
    """From the largest working set, below which nothing runs, to the peak of the stored order."""
    low = max(map(dag.working_set, range(len(dag))))
    return range(low - 1, simulate(dag, range(len(dag))).peak + 1, step)


@pytest.mark.parametrize("seed", range(12))
def test_search_equals_brute_force(seed):
    dag = anything(seeded(seed), 3 + seed % 2)
    for budget in budgets(dag, 2):
        brute = exact.brute_force(dag, budget, len(dag) + 2)
        assert cost_of(dag, budget) <= brute
        if math.isfinite(brute):
            # What costs no more than two runs extra, brute force would have found.
            assert cost_of(dag, budget) == brute


def test_search_finds_two_recomputations_where_brute_force_does():
    # Both 3 and 4 need the dear-to-hold 0 and 1; only one of them fits beside the results.
    dag = Dag((1, 1, 1, 1, 1), (4, 4, 1, 1, 1), ((), (), (0,), (1,), (0, 1)))
    assert exact.least_peak(dag) == 9
    tight = Dag((1,) * 5, (4, 4, 3, 3, 3), ((), (), (0,), (1, 2), (0, 3)))
    found = [cost_of(tight, budget) for budget in budgets(tight)]
    assert found == [exact.brute_force(tight, budget, 7) for budget in budgets(tight)]
    assert len(set(found)) > 2


@pytest.mark.parametrize("seed", range(20))
def test_programme_equals_search(seed):
    draw = seeded(seed)
    dag = anything(draw, draw.randint(4, 7))
    for budget in budgets(dag, 3):
        expected = cost_of(dag, budget, order="staged")
        try:
            found = checkmate.milp(dag, budget)
        except BudgetError:
            assert expected == math.inf
            continue
        assert found.proved
        assert found.cost == expected
        assert found.bound == pytest.approx(expected)
        assert simulate(dag, found.sequence).peak <= budget


@pytest.mark.parametrize("seed", range(20))
def test_more_freedom_never_costs_more(seed):
    dag = anything(seeded(100 + seed), 7)
    for budget in budgets(dag, 4):
        free, stored, staged = (cost_of(dag, budget, order=order) for order in exact.ORDERS)
        assert free <= stored <= staged


@pytest.mark.parametrize("order", exact.ORDERS)
def test_more_budget_never_costs_more_and_the_least_peak_is_sharp(order):
    for seed in range(6):
        dag = anything(seeded(200 + seed), 6)
        costs = [cost_of(dag, budget, order=order) for budget in budgets(dag)]
        assert costs == sorted(costs, reverse=True)
        least = exact.least_peak(dag, order=order)
        assert cost_of(dag, least, order=order) < math.inf
        assert cost_of(dag, least - 1, order=order) == math.inf


def test_a_chain_costs_what_the_closed_formula_says():
    # Each value counts one. Of the five adjoints the first needs only the fourth state: it is the
    # end of the forward pass, which leaves t(4, s) steps, one for that state, and five adjoints.
    # Besides s - 1 snapshots there are the state, the one it is computed from, and the gradient.
    dag = reversal(5)
    costs = [cost_of(dag, budget, order="stored") for budget in (3, 4, 5)]
    assert costs == [extra_steps(4, s) + 1 + 5 for s in (1, 2, 3)] == [12, 10, 9]


@pytest.mark.parametrize("seed", range(6))
def test_relaxation_is_below_and_rounding_above_the_optimum(seed):
    dag = anything(seeded(300 + seed), 8)
    for budget in budgets(dag, 4):
        try:
            optimum = checkmate.milp(dag, budget).cost
        except BudgetError:
            continue
        assert checkmate.relaxation(dag, budget) <= optimum + 1e-9
        try:
            rounded = checkmate.lp_rounding(dag, budget)
        except BudgetError:
            continue
        made = simulate(dag, rounded)
        assert made.cost >= optimum
        assert made.peak <= budget


def published_cases():
    cases, quick = [], {("VGG16", 90), ("VGG16", 80), ("fcn_8", 60)}
    for name in ("VGG16", "VGG19", "fcn_8", "unet", "segnet"):
        for percent, extra in OPTIMA[name].items():
            marks = () if (name, percent) in quick else pytest.mark.slow
            cases.append(pytest.param(name, percent, extra, marks=marks, id=f"{name}-{percent}"))
    return cases


@pytest.mark.parametrize(("name", "percent", "extra"), published_cases())
def test_published_optima(name, percent, extra):
    dag = published(name)
    budget = simulate(dag, range(len(dag))).peak * percent // 100
    if extra is None:
        with pytest.raises(BudgetError):
            checkmate.milp(dag, budget)
        return
    found = checkmate.milp(dag, budget)
    assert found.proved
    digits = 5e-4 if extra == round(extra, 3) else 1e-4
    assert 100 * (found.cost / dag.total - 1) == pytest.approx(extra, abs=digits)


def test_errors_say_what_is_wrong():
    dag = anything(seeded(0), 6)
    with pytest.raises(BudgetError, match="no free sequence keeps the budget of 1 bytes"):
        exact.shortest(dag, 1)
    with pytest.raises(DagError, match="order must be one of"):
        exact.shortest(dag, 100, order="any")
    with pytest.raises(DagError, match="too many for exact search: more than 3 states"):
        exact.shortest(dag, 100, most_states=3)
    with pytest.raises(BudgetError, match="one node alone needs more than 1 bytes"):
        checkmate.milp(dag, 1)
    long = Dag((1,) * 201, (1,) * 201, [()] * 201)
    with pytest.raises(DagError, match=r"at most 200 nodes .* the graph has 201"):
        checkmate.milp(long, 100)
