"""NaN and Inf hunting on the compiled plan: the op, the line, the numbers, and nothing changed."""

import inspect
import json
import threading

import numpy as np
import pytest
from clitools import invoke

import staticgraph as sg
from staticgraph.checkedplan import TILE
from staticgraph.errors import shorten

ops = sg.ops
THIS = "test_numerics.py"


def here(back=0):
    """The caller's line."""
    return inspect.currentframe().f_back.f_lineno - back


def tensor(shape=(4, 8), dtype="float32", name="x"):
    return sg.input(name, shape, dtype)


def failure(fn, *arrays):
    with pytest.raises(sg.NumericError) as caught:
        fn(*arrays)
    assert caught.value.finding is not None
    return caught.value


def at(place):
    return shorten(place)


def test_the_message():
    x = tensor((2, 3))
    y = ops.exp(ops.log(x) * 2.0)
    line = here(1)
    a = np.array([[1, 2, 4], [3, -1, np.e]], "f")
    error = failure(sg.compile(y, check_numerics=True), a)
    assert str(error) == (
        f"log: gave NaN that no operand held, first at [1, 1]  [{THIS}:{line}]\n"
        "  in the kernel of log, multiply, exp\n"
        "  operand 0  input 'x'  f32[2, 3]  nan 0  inf 0  min -1  max 4  mean 1.953  there -1\n"
        "  result     log  f32[2, 3]  nan 1  inf 0  min 0  max 1.386  mean 0.8356  there nan"
    )
    assert error.where[1] == line
    assert error.summary == "log: gave NaN that no operand held, first at [1, 1]"


def test_on_demand_without_the_option():
    x = tensor()
    fn = sg.compile(ops.log(x) * 2.0)
    good, bad = np.ones((4, 8), "f"), np.full((4, 8), -1, "f")
    assert fn.check_numerics(good) is None
    found = fn.check_numerics(x=bad)
    assert (found.op, found.what, found.index, found.result.nan) == ("log", "NaN", (0, 0), 32)
    assert np.isnan(fn(bad)).all()  # the function itself is as it was
    with pytest.raises(sg.InputError, match="missing"):
        fn.check_numerics()


def test_overflow_in_a_product_and_only_nan():
    x, y = tensor((3, 4)), tensor((4, 5), name="y")
    product = x @ y
    line = here(1)
    fn = sg.compile(product - product)
    a = np.full((3, 4), 1e30, "f")
    found = fn.check_numerics(a, np.full((4, 5), 1e30, "f"))
    assert (found.op, found.what, at(found.where)) == ("matmul", "Inf", f"{THIS}:{line}")
    assert [v.max for v in found.operands] == pytest.approx([1e30, 1e30])
    assert (found.result.inf, found.result.nan, found.result.min) == (15, 0, None)
    found = fn.check_numerics(a, np.full((4, 5), 1e30, "f"), kinds="nan")
    assert (found.op, found.what) == ("subtract", "NaN")
    with pytest.raises(sg.NumericError, match="subtract: gave NaN"):
        sg.compile(product - product, check_numerics="nan")(a, np.full((4, 5), 1e30, "f"))


def test_in_a_gradient_only():
    x = tensor((3,))
    y = ops.sqrt(x * x)
    line = here(1)
    fn = sg.compile([y, sg.grad(y.sum(), x)], check_numerics="nan")
    asked = here(1)
    assert np.isfinite(fn(np.ones(3, "f"))).all()
    error = failure(fn, np.array([1, 0, 2], "f"))
    assert (at(error.finding.where), at(error.finding.asked_for)) == (
        f"{THIS}:{line}", f"{THIS}:{asked}",
    )  # fmt: skip
    assert error.finding.index == (1,)
    assert str(error).startswith("gradient of ")
    assert f"the derivative was asked for at {THIS}:{asked}" in str(error)


def deep(**options):
    """Six layers, and a term of no weight whose derivative is 0 / 0."""
    rng = np.random.default_rng(0)
    h = tensor((64, 32))
    weights = [sg.variable(rng.normal(0, 0.2, (32, 32)).astype("f")) for _ in range(6)]
    for w in weights:
        h = ops.tanh(h @ w)
    y = ops.mean(h * h)
    clean = y + 0.0 * ops.sqrt(y - y + 1.0)
    loss = y + 0.0 * ops.sqrt(y - y)
    line = here(1)
    makers = []
    for value in (clean, loss):
        updates = {w: w - 0.1 * g for w, g in zip(weights, sg.grad(value, weights), strict=True)}
        makers.append(sg.compile(value, updates=updates, **options))
    return *makers, weights, line


@pytest.mark.parametrize("budget", [None, "75%"])
def test_nothing_over_nothing_in_a_gradient(budget):
    x = np.random.default_rng(1).normal(size=(64, 32)).astype("f")
    results = []
    for checked in (False, True):
        clean, loss, weights, line = deep(memory_budget=budget, check_numerics=checked)
        assert (loss.recomputation is None) == (budget is None)
        if budget:
            whole = deep(check_numerics=checked)[1].memory.peak_bytes
            assert loss.memory.peak_bytes <= 0.75 * whole
        old = [w.value for w in weights]
        found = loss.check_numerics(x)
        assert (found.op, found.what, found.index) == ("divide", "NaN", ())
        assert at(found.where) == f"{THIS}:{line}"
        assert found.asked_for is not None
        assert [(v.min, v.max) for v in found.operands] == [(0, 0), (0, 0)]
        if checked:
            assert failure(loss, x).summary == "gradient of divide: gave NaN that no operand held"
        np.testing.assert_array_equal(old, [w.value for w in weights])
        results.append([clean(x).tobytes(), *(w.value.tobytes() for w in weights)])
    assert results[0] == results[1]


def test_the_member_of_a_fused_kernel():
    x = tensor()
    with_bad = 1.0 / ops.maximum(x, 0.0)
    line = here(1)
    fn = sg.compile(ops.tanh(with_bad + 1.0) * 0.0 + with_bad)
    assert len(fn.plan.launches) == 1
    a = np.ones((4, 8), "f")
    a[3, 1] = -2
    found = fn.check_numerics(a)
    assert found.what == "Inf"
    assert (found.op, found.index, at(found.where)) == ("divide", (3, 1), f"{THIS}:{line}")
    assert found.operands[-1].label == f"maximum [{THIS}:{line}]"
    assert found.operands[-1].at == 0


@pytest.mark.parametrize("pipeline", ["none", "default"])
def test_a_branch(pipeline):
    x, p = tensor((4,)), sg.input("p", (), "bool")
    y = sg.cond(p, lambda a: ops.log(a), lambda a: a * 2.0, x + 1.0)
    fn = sg.compile(y + 1.0, pipeline=pipeline, check_numerics=True)
    bad = np.array([1, 2, -3, 4], "f")
    np.testing.assert_array_equal(fn(x=bad, p=False), (bad + 1) * 2 + 1)
    found = failure(lambda: fn(x=bad, p=True)).finding
    assert (found.op, found.index, found.operands[0].min) == ("log", (2,), -2)
    # What a branch hands on is not blamed on the op behind it.
    other = sg.cond(p, lambda a: a * a, lambda a: a, x) + 1.0
    found = sg.compile(other, pipeline=pipeline).check_numerics(x=np.full(4, 1e30, "f"), p=True)
    assert found.op == "multiply"


def test_updates_happen_entirely_or_not_at_all():
    x = tensor((4,))
    v, w = sg.variable(np.ones(4, "f"), "v"), sg.variable(np.ones(4, "f"), "w")
    plain = sg.compile(w * x, updates={v: v + x, w: w / x})
    checked = sg.compile(w * x, updates={v: v + x, w: w / x}, check_numerics=True)
    bad = np.array([1, 0, 1, 1], "f")
    found = plain.check_numerics(bad)
    assert (found.op, found.what) == ("divide", "Inf")
    assert found.operands[0].label == "variable 'w'"
    failure(checked, bad)
    np.testing.assert_array_equal([v.value, w.value], np.ones((2, 4)))
    checked(np.full(4, 2, "f"))
    np.testing.assert_array_equal([v.value, w.value], [[3] * 4, [0.5] * 4])
    w.value = np.array([1, np.nan, 1, 1], "f")
    assert str(failure(checked, bad)).startswith("variable 'w' holds NaN already, first at [1]")


def test_what_was_bad_already():
    x, y = tensor((3,)), tensor((3,), name="y")
    fn = sg.compile(x + ops.exp(y), check_numerics=True)
    nan = np.array([0, 0, np.nan], "f")
    error = failure(fn, np.zeros(3, "f"), nan)
    assert error.summary == "input 'y' holds NaN already, first at [2]"
    assert (error.finding.op, error.finding.operands) == ("input", ())
    # Inf may be meant, as a mask: it is passed on, and what it does to numbers is found.
    assert np.isneginf(fn(np.full(3, -np.inf, "f"), np.zeros(3, "f"))).all()


def test_masks_of_infinity_are_no_finding():
    x, keep = tensor((2, 4)), sg.input("keep", (2, 4), "bool")
    logits = ops.where(keep, x, -np.inf)
    fn = sg.compile([ops.softmax(logits), logits], check_numerics=True)
    a = np.ones((2, 4), "f")
    mask = np.array([[1, 1, 0, 0], [0, 1, 1, 1]], bool)
    assert np.isfinite(fn(a, mask)[0]).all()
    mask[1] = False  # a row of nothing: -inf - -inf
    assert failure(fn, a, mask).finding.what == "NaN"


def test_operands_are_read_as_the_op_read_them():
    """Each op could write over its operand: what is reported is the value from before."""
    x = tensor((100,), "float64")
    y = ops.log(ops.exp(x) - 2.0)
    a = np.linspace(1, 0, 100)
    found = sg.compile(y * 3.0 + 1.0, pipeline="none").check_numerics(a)
    before = np.exp(a) - 2
    first = int(np.argmax(before < 0))
    assert (found.op, found.index, found.operands[0].at) == ("log", (first,), before[first])
    assert found.operands[0].min == pytest.approx(before.min())
    assert found.operands[0].mean == pytest.approx(before.mean())
    assert found.result.nan == (before < 0).sum()
    assert found.result.mean == pytest.approx(np.log(before[before > 0]).mean())


def test_a_branch_in_a_branch():
    p, q, x = sg.input("p", (), "bool"), sg.input("q", (), "bool"), tensor((3,))
    inner = lambda a: sg.cond(q, lambda b: ops.sqrt(b), lambda b: b * b, a - 1.0)  # noqa: E731
    fn = sg.compile(sg.cond(p, inner, lambda a: 1.0 / a, x), check_numerics=True)
    a = np.array([0, 1, 2], "f")
    np.testing.assert_array_equal(fn(x=a, p=True, q=False), (a - 1) ** 2)
    found = failure(lambda: fn(x=a, p=True, q=True)).finding
    assert (found.op, found.index) == ("sqrt", (0,))
    found = failure(lambda: fn(x=a, p=False, q=True)).finding
    assert (found.op, found.index, found.operands[-1].label) == ("divide", (0,), "input 'x'")


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_integers_are_left_alone(dtype):
    x = tensor((5,), dtype)
    fn = sg.compile(ops.where(x == 1, x, x), check_numerics=True)
    assert not any("numeric" in launch.name for launch in fn.plan.launches)
    np.testing.assert_array_equal(fn(np.ones(5, dtype)), np.ones(5, dtype))


def steps_of(rng, count):
    table = {
        "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "negative": np.negative,
        "reciprocal": np.reciprocal, "square": np.square, "tanh": np.tanh,
    }  # fmt: skip
    return [(name, table[name]) for name in rng.choice(list(table), count)]


@pytest.mark.parametrize("seed", range(12))
def test_against_numpy_one_op_after_the_other(seed):
    rng = np.random.default_rng(seed)
    chosen = steps_of(rng, 8)
    a = rng.normal(0, 3, (5, 7))
    x = tensor((5, 7), "float64")
    y, value, expected, seen = x, a, None, []
    with np.errstate(all="ignore"):
        for name, f in chosen:
            y, before, value = getattr(ops, name)(y), value, f(value)
            seen.append(y)
            new = np.isnan(value) & ~np.isnan(before).any()
            new |= np.isinf(value) & np.isfinite(before).all()
            if expected is None and new.any():
                expected = (name, tuple(np.argwhere(new)[0]))
    for pipeline in ("none", "default"):  # all values leave the kernel, so all are looked at
        found = sg.compile(seen, pipeline=pipeline).check_numerics(a)
        assert (found and (found.op, found.index)) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("size", [1, 16, 63, 64, 65, 1000, TILE + 1, 3 * TILE + 7])
def test_every_place_is_looked_at(dtype, size):
    x = tensor((size,), dtype)
    fn = sg.compile(x * x, check_numerics=True)
    a = np.ones(size, dtype)
    fn(a)
    for place in {0, size // 2, size - 1, size // 64 * 64 % size, TILE // 2 % size}:
        a[place] = 1e200 if dtype in ("float64", "complex128") else 1e30
        found = failure(fn, a).finding
        assert (found.index, found.op) == ((place,), "multiply")
        a[place] = 1


def test_only_the_imaginary_part():
    x = tensor((3,), "complex64")
    found = sg.compile(ops.multiply(x, x)).check_numerics(np.array([1, 1j, 1 + np.nan * 1j], "F"))
    assert (found.op, found.index) == ("input", (2,))


def model():
    x = tensor((32, 16))
    n = sg.input("n", (32,), "int64")
    w = sg.variable(np.linspace(-1, 1, 16 * 16, dtype="f").reshape(16, 16), "w")
    h = x
    for _ in range(3):
        h = ops.tanh(h @ w)
    loss = ops.mean(ops.softmax_cross_entropy(h, n))
    return loss, w, {w: w - 0.1 * sg.grad(loss, w)}


@pytest.mark.parametrize("options", [{}, {"threads": 1}, {"pipeline": "none"}])
def test_equal_bits(options):
    rng = np.random.default_rng(0)
    x, n = rng.normal(size=(32, 16)).astype("f"), rng.integers(0, 16, 32)
    got = []
    for checked in (False, True):
        loss, w, updates = model()
        fn = sg.compile(loss, updates=updates, check_numerics=checked, **options)
        assert fn.check_numerics(x=x, n=n) is None
        got.append([*(fn(x=x, n=n).tobytes() for _ in range(3)), w.value.tobytes()])
    assert got[0] == got[1]


def test_several_python_threads():
    x = tensor((64, 64))
    fn = sg.compile(ops.log(x @ x), check_numerics=True)
    wrong = []

    def work(k):
        a = np.full((64, 64), 1.0 + k, "f")
        b = a.copy()
        b[k] = -1
        for _ in range(20):
            if not np.isfinite(fn(a)).all():
                wrong.append("good")
            try:
                fn(b)
                wrong.append("silent")
            except sg.NumericError as error:
                if error.finding.index[0] != k or error.finding.op != "log":
                    wrong.append(error)

    team = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in team:
        t.start()
    for t in team:
        t.join()
    assert wrong == []


def test_save_and_load(tmp_path):
    fn = sg.compile(ops.log(tensor((3,))), check_numerics="nan")
    fn.save(tmp_path / "f.sgf")
    again = sg.load(tmp_path / "f.sgf")
    assert again.options["check_numerics"] == "nan"
    assert failure(again, np.array([1, -1, 0], "f")).finding.index == (1,)
    assert np.isnan(sg.load(tmp_path / "f.sgf", check_numerics=False)([1, -1, 0])[1])


def test_other_failures_stay_what_they_are():
    x, i = tensor((3,)), sg.input("i", (2,), "int64")
    fn = sg.compile(ops.take(x, i), check_numerics=True)
    for call in (fn, fn.check_numerics):
        with pytest.raises(sg.NumericError) as caught:
            call([1.0, 2, 3], np.array([0, 9]))
        assert caught.value.finding is None


def test_profile_and_explain_show_the_checks():
    fn = sg.compile(ops.log(tensor()), check_numerics=True)
    report = fn.profile(np.ones((4, 8), "f"), runs=2, roofs=False)
    assert [k.name for k in report.kernels][-2:] == ["numeric_bits", "numeric_verdict"]
    assert "numeric_bits" in str(fn.explain())


def test_what_the_option_refuses():
    y = ops.log(tensor())
    for wrong in ("inf", 1, 2.0, []):
        with pytest.raises(sg.GraphTypeError, match="check_numerics is False, True or 'nan'"):
            sg.compile(y, check_numerics=wrong)
    with pytest.raises(sg.TargetError, match="check_numerics needs target='cpu'"):
        sg.compile(y, target="cuda", check_numerics=True)


MODEL = """\
import staticgraph as sg

x = sg.input("x", (2, 3))
bad = sg.compile(sg.ops.log(x))
good = sg.compile(sg.ops.exp(x))
"""


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(MODEL)
    given = ("-i", "x=2x3xf32:uniform,-2,-1")
    for words in (
        ("check", "nets.py:bad"), ("bench", "nets.py:bad", "--quick", "--check-numerics"),
        ("profile", "nets.py:bad", "--quick", "--check-numerics"),
    ):  # fmt: skip
        result = invoke(*words, *given)
        assert (result.exit_code, result.stdout) == (1, "")
        first, *rest = result.stderr.splitlines()
        assert first == (
            "error: nets.py:bad: log: gave NaN that no operand held, first at [0, 0] [nets.py:4]"
        )
        assert [line.split()[0] for line in rest] == ["operand", "result"]
        assert "input 'x'  f32[2, 3]  nan 0" in rest[0]
    result = invoke("check", "nets.py:good", *given)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "no NaN or Inf behind 1 kernels of nets.py:good" in result.stdout
    result = invoke("check", "nets.py:bad", "--json", "-", *given)
    found = json.loads(result.stdout)["finding"]
    assert (result.exit_code, found["op"], found["result"]["at"]) == (1, "log", "nan")
