"""compare: statistics that are right about being wrong, refusals, differences before times."""

import json
from itertools import product

import numpy as np
import pytest
from clitools import invoke, made_up, models  # noqa: F401  a fixture
from scipy import stats as scipy_stats

from staticgraph.cli import verdicts
from staticgraph.cli.comparison import compare, compare_files, difference, kernel_changes
from staticgraph.cli.problems import Problem

# ------------------------------------------------------------------------------ exact intervals


def test_typical_interval_holds_the_centre_as_often_as_it_says():
    """99 % of seeded samples of very different symmetric distributions, 3 standard errors."""
    rng = np.random.default_rng(7)
    draws = {
        "normal": lambda: rng.normal(0, 1, 10),
        "heavy": lambda: rng.standard_t(1, 10),
        "levels": lambda: rng.choice([-2.0, -1, 1, 2], 10) + rng.normal(0, 0.01, 10),
    }
    for name, draw in draws.items():
        intervals = [verdicts.typical_interval(draw()) for _ in range(1500)]
        held = np.mean([low <= 0 <= high for low, high in intervals])
        assert abs(held - 0.9902) < 3 * np.sqrt(0.0099 / 1500), name


def test_typical_interval_against_all_sign_flips():
    """A centre is inside exactly where the sign-flip test does not refuse it."""
    rng = np.random.default_rng(1)
    x = rng.normal(0.3, 1, 9)
    low, high = verdicts.typical_interval(x)
    signs = np.array(list(product((-1, 1), repeat=9)))

    def p(center):
        means = np.abs(signs @ (x - center))
        return (means >= abs((x - center).sum()) - 1e-12).mean()

    assert p(low - 1e-9) < 0.01 <= p(low + 1e-9)
    assert p(high + 1e-9) < 0.01 <= p(high - 1e-9)


def test_few_rounds_have_no_interval():
    for n in range(1, 8):
        assert verdicts.typical_interval(np.arange(n)) == (-np.inf, np.inf)
    assert verdicts.typical_interval(np.arange(8)) == (0, 7)  # 254 of 256 sign flips


def test_many_rounds_narrow_the_interval():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, 200)
    low, high = verdicts.typical_interval(x)
    assert low < x.mean() < high
    assert high - low < 8 / np.sqrt(200)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (5, 5), (6, 4), (7, 7)])
def test_rank_sums_against_all_orders(n, m):
    counts = np.zeros(n * m + 1, int)
    for chosen in product((0, 1), repeat=n + m):
        if sum(chosen) == n:
            counts[sum(chosen[i] < chosen[j] for i in range(n + m) for j in range(i))] += 1
    assert verdicts.rank_sums(n, m) == counts.tolist()


def test_shift_interval_against_scipy():
    """The ends are where the exact rank test begins to refuse a shift."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 1, 7), rng.normal(1, 1, 8)

    def p(shift):
        return scipy_stats.mannwhitneyu(x + shift, y, method="exact").pvalue

    low, high = verdicts.shift_interval(x, y)
    assert p(low - 1e-9) < 0.01 <= p(low + 1e-9)
    assert p(high + 1e-9) < 0.01 <= p(high - 1e-9)
    assert verdicts.shift_interval([1.0, 2], [3.0, 4]) == (-np.inf, np.inf)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30])
def test_student_against_scipy(freedom):
    for t in (0.0, 0.3, 1.0, 2.5, 12.0):
        expected = 2 * scipy_stats.t.sf(t, freedom)
        assert verdicts.student_tail(t, freedom) == pytest.approx(expected, abs=1e-12)
    x = np.random.default_rng(freedom).normal(0.5, 1, freedom + 1)
    assert verdicts.t_test(x) == pytest.approx(scipy_stats.ttest_1samp(x, 0).pvalue, abs=1e-12)


def test_holm():
    assert verdicts.holm([0.002, 0.5, 0.004], 0.01) == [True, False, True]
    assert verdicts.holm([0.004, 0.004, 0.5], 0.01) == [False, False, False]
    assert verdicts.holm([0.003, 0.006, 0.5], 0.01) == [True, False, False]
    assert verdicts.holm([]) == []


# ------------------------------------------------------------------------------ verdicts


def processes(rng, count, spread=0.024):
    """Medians of processes: levels of memory layout, noise, and now and then a slow one."""
    level = rng.choice([1.0, 1.02, 1.05], count, p=[0.5, 0.3, 0.2])
    slow = np.where(rng.random(count) < 0.05, 1.4, 1.0)
    return 1e-3 * level * slow * np.exp(rng.normal(0, spread, count))


@pytest.mark.parametrize("seed", range(5))
def test_equal_code_is_called_faster_or_slower_in_at_most_one_percent(seed):
    """Exactly: which of a pair of equal processes is the slower one is a coin, so all outcomes of
    the coins are tried on the differences that ten rounds had."""
    rng = np.random.default_rng(seed)
    sizes = np.abs(np.log(processes(rng, 10) / processes(rng, 10)))
    outcomes = [
        verdicts.paired(np.ones(10), np.exp(sizes * signs)).verdict
        for signs in product((-1, 1), repeat=10)
    ]
    assert sum(v in ("faster", "slower") for v in outcomes) <= 0.01 * len(outcomes)


@pytest.mark.parametrize("judge", [verdicts.paired, verdicts.unpaired])
def test_simulated_comparisons_of_a_thing_with_itself(judge):
    """2,000 seeded ones: 1 %, and three standard errors of that."""
    rng = np.random.default_rng(11)
    found = [judge(processes(rng, 10), processes(rng, 10)).verdict for _ in range(2000)]
    assert sum(v in ("faster", "slower") for v in found) <= 20 + 3 * np.sqrt(20)


def test_drift_of_the_machine_is_no_change():
    """The pairs alternate: a machine that becomes 30 % slower meanwhile favours neither."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(300):
        drift = np.linspace(1, 1.3, 20) * np.exp(rng.normal(0, 0.01, 20))
        rounds = drift.reshape(10, 2)
        rounds[1::2] = rounds[1::2, ::-1]
        wrong += verdicts.paired(rounds[:, 0], rounds[:, 1]).verdict in ("faster", "slower")
    assert wrong <= 3


def test_a_change_of_five_percent_is_found_in_ten_rounds():
    rng = np.random.default_rng(2)
    for factor, word in ((1.05, "slower"), (1 / 1.05, "faster")):
        found = 0
        for _ in range(300):
            a, b = (1e-3 * np.exp(rng.normal(0, 0.024, 10)) for _ in range(2))
            judged = verdicts.paired(a, factor * b)
            found += judged.verdict == word
            assert judged.verdict != {"slower": "faster", "faster": "slower"}[word]
        assert found >= 0.8 * 300


def test_the_four_verdicts():
    a = np.full(10, 1e-3)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.001, 10))
    for factor, text in ((1.2, "slower"), (0.8, "faster"), (1.004, "same within 2 %")):
        judged = verdicts.paired(a, a * factor * noise)
        assert str(judged) == text
        assert judged.low < factor < judged.high
        assert judged.ratio == pytest.approx(factor, rel=1e-3)
    wild = np.exp(np.random.default_rng(0).normal(0, 0.06, 10))
    judged = verdicts.paired(a, a * wild)
    assert str(judged).startswith("inconclusive (noise ")
    assert str(judged).endswith(f"need about {judged.needed} rounds)")
    assert judged.needed > 10


def test_the_rounds_asked_for_are_enough():
    """A study repeated with about as many rounds as were said to be needed mostly decides."""
    rng = np.random.default_rng(9)

    def study(rounds):
        a, b = (np.exp(rng.normal(0, 0.05, rounds)) for _ in range(2))
        return verdicts.paired(a, 1.06 * b)

    first = [study(10) for _ in range(100)]
    wanting = [j for j in first if j.verdict == "inconclusive"]
    assert len(wanting) > 20
    decided = [study(min(2 * j.needed, 400)).verdict != "inconclusive" for j in wanting]
    assert np.mean(decided) > 0.7


# ------------------------------------------------------------------------------ saved profiles

ONE = ((2e-5, 2.1e-5, 1.9e-5),)
FIVE = tuple((2e-5 * f, 2.1e-5 * f) for f in (1.0, 1.01, 0.99, 1.02, 0.98))


def slower(samples, factor):
    return tuple(tuple(s * factor for s in p) for p in samples)


@pytest.mark.parametrize(("a", "b"), [(ONE, ONE), (ONE, slower(ONE, 9)), (ONE, FIVE), (FIVE, ONE)])
def test_no_verdict_from_one_process(a, b):
    with pytest.raises(Problem) as caught:
        compare_files(made_up(samples=a), made_up(samples=b), ["a", "b"])
    assert caught.value.exit_code == 4
    assert "between-process noise cannot be told from a change" in caught.value.message


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.3, "slower"), (0.7, "faster"), (1.02, "inconclusive")]
)
def test_profiles_of_several_processes(factor, verdict):
    made = compare_files(made_up(samples=FIVE), made_up(samples=slower(FIVE, factor)), ["a", "b"])
    assert made.verdict == verdict
    assert not made.paired
    assert made.wall.ratio == pytest.approx(factor, rel=0.02)


@pytest.mark.usefixtures("models")
def test_files_on_the_command_line():
    made_up(samples=ONE).save("a.sgprof")
    made_up(samples=slower(ONE, 2)).save("b.sgprof")
    result = invoke("compare", "a.sgprof", "b.sgprof")
    assert result.exit_code == 4
    assert result.stderr == (
        "error: both files hold one process each; between-process noise cannot be told from a"
        " change. Re-run with --processes 5\n"
    )
    made_up(samples=FIVE).save("a.sgprof")
    other = made_up(samples=slower(FIVE, 2))
    other.model.threads, other.model.dtypes = 1, ["float64"]
    other.save("b.sgprof")
    result = invoke("compare", "a.sgprof", "b.sgprof")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: a.sgprof and b.sgprof differ in threads and dtype; a time comparison would mean"
        " nothing (--force to print)\n"
    )
    result = invoke("compare", "a.sgprof", "b.sgprof", "--force")
    assert result.exit_code == 0
    assert "verdict      slower" in result.stdout


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("check", "code"), [("b>1.03*a", 3), ("ratio>5", 0), ("ratio>2", 4), ("b>a+1us", 3)]
)
def test_checks_of_a_comparison(check, code):
    made_up(samples=FIVE).save("a.sgprof")
    made_up(samples=slower(FIVE, 2)).save("b.sgprof")
    assert invoke("compare", "a.sgprof", "b.sgprof", "--fail-if", check).exit_code == code


# ------------------------------------------------------------------------------ kernels


def test_changed_kernels():
    rng = np.random.default_rng(0)

    def rounds(factor):
        return [
            made_up(medians=(4e-6 * f, 9e-6 * factor * f, 6e-6 * f))
            for f in np.exp(rng.normal(0, 0.01, 10))
        ]

    changes, tested = kernel_changes(rounds(1), rounds(1))
    assert (changes, tested) == ([], 3)
    changes, tested = kernel_changes(rounds(1), rounds(1.2))
    assert tested == 3
    assert [c.a for c in changes] == [["2 transpose_matmul_subtract_multiply"]]
    assert changes[0].seconds == pytest.approx(1.8e-6, rel=0.05)
    unfused = rounds(1)
    for report in unfused:
        report.kernels[0].key = "new"
    changes, tested = kernel_changes(rounds(1), unfused)
    assert tested == 2
    assert [(c.a, c.b) for c in changes] == [(["1 matmul_add_relu"], ["1 matmul_add_relu"])]


# ------------------------------------------------------------------------------ results


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([np.nan, 2], [np.nan, 2], None),
        ([1, 2, 3], [1, 2, 3.5], "largest |a - b| = 0.5 at (2), "),
        ([[1, 2], [3, 4]], [[1, 2], [2, 6]], "largest |a - b| = 2 at (1, 1), "),
        ([1, 2, 3], [1, 2], "float32[3] against float32[2]"),
        ([1, np.nan], [1, 2], "NaN in one of them, at 1 places, first (1)"),
        ([0.0], [-0.0], "signs of zero"),
        ([np.inf, 1], [np.inf, 2], "largest |a - b| = 1 at (1), "),
        ([1], [np.nextafter(np.float32(1), np.float32(2))], "1 ulp, 1 of 1 entries"),
    ],
)
def test_differences_of_results(x, y, says):
    found = difference("output 0", np.array(x, "f"), np.array(y, "f"))
    assert (found is None) == (says is None)
    if says is not None:
        assert says in found.text


def test_integers_and_complex_numbers_differ_too():
    assert difference("i", np.array([1, 2]), np.array([1, 5])).largest == 3
    assert difference("c", np.array([1j]), np.array([1 + 1j])).largest == 1


# ------------------------------------------------------------------------------ live


@pytest.mark.usefixtures("models")
def test_two_rounds():
    """Both sides run, results are compared, and two rounds are no basis for a verdict."""
    words = ("--processes", "2", "--runs", "10", "--json", "c.json", "--fail-if", "b>1.03*a")
    side = ("--b", "-D", "lr=0.3", "--without", "fuse", "--threads", "1")
    result = invoke("compare", "mlp.py:step", *words, *side)
    assert result.exit_code == 4
    with open("c.json") as file:
        made = json.load(file)
    assert made["b"] == "mlp.py:step --threads 1 --without fuse -D lr=0.3"
    assert [len(made[k]) for k in ("a_medians", "b_medians")] == [2, 2]
    assert made["wall"]["verdict"] == "inconclusive"
    assert made["wall"]["low"] is None
    (found,) = made["differences"]  # the loss is equal, the new weights are not
    assert found["name"] == "variable w (0)"
    lines = result.stdout.splitlines()
    results = next(k for k, line in enumerate(lines) if line.startswith("results"))
    wall = next(k for k, line in enumerate(lines) if line.startswith("wall"))
    assert results < wall
    assert "no interval below 8 rounds" in "\n".join(lines)
    assert made["changes"]


@pytest.mark.usefixtures("models")
def test_sides_take_only_their_options():
    result = invoke("compare", "mlp.py:step", "--b", "--wthout", "fuse")
    assert result.exit_code == 2
    assert "No such option '--wthout'" in result.stderr


@pytest.mark.usefixtures("models")
def test_a_side_that_fails_ends_the_comparison():
    result = invoke("compare", "mlp.py:step", "mlp.py:stp", "--quick")
    assert result.exit_code == 2
    assert "did you mean 'step'?" in result.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("models")
def test_a_model_is_neither_faster_nor_slower_than_itself():
    """Live, in fresh processes. One comparison in a hundred may err, two of two do not."""
    found = [compare("mlp.py:step", "mlp.py:step", rounds=8, seconds=0.05) for _ in range(2)]
    assert not any(made.differences for made in found)
    assert not all(made.verdict in ("faster", "slower") for made in found)
