"""Explanations: passes, fusion decisions and their rules, memory, and the code of a kernel."""

import json
import re

import numpy as np
import pytest
import test_budget
from clitools import invoke, line_of, models  # noqa: F401  a fixture
from models import GRAPHS

import staticgraph as sg
from staticgraph import budget
from staticgraph.errors import InputError, TargetError
from staticgraph.passes import PIPELINES, fuse, guard, inline
from staticgraph.profiling import assembly, explain, explaintext, remarks
from staticgraph.profiling.rows import encode

ops = sg.ops


def arrays(*shapes, dtype="float32"):
    return [sg.input(f"x{k}", shape, dtype) for k, shape in enumerate(shapes)]


def pairs_of(outputs, **options):
    """(maker, reader) -> the decision, of a graph in which the pairs differ."""
    made = sg.compile(outputs, **options).explain()
    return {(p.maker, p.reader): p for p in made.pairs}


# -- fusion ---------------------------------------------------------------------------------------
def elementwise():
    (x,) = arrays((64, 32))
    return ops.exp(ops.tanh(x)), ("tanh", "exp")


def reduced():
    (x,) = arrays((64, 32))
    return ops.sum(ops.tanh(x), 1), ("tanh", "sum")


def row_value():
    (x,) = arrays((64, 32))
    return x - ops.max(x, 1, keepdims=True), ("max", "subtract")


def epilogue():
    x, w = arrays((64, 32), (32, 8))
    return ops.tanh(x @ w), ("matmul", "tanh")


def into_matmul():
    x, w = arrays((64, 32), (32, 8))
    return ops.tanh(x) @ w, ("tanh", "matmul")


def sum_after_matmul():
    x, w = arrays((64, 32), (32, 8))
    return ops.sum(ops.tanh(x @ w), 1), ("tanh", "sum")


def other_axes():
    (x,) = arrays((8, 16, 32))
    y = x - ops.max(x, 2, keepdims=True)
    return ops.sum(y, 1), ("subtract", "sum")


def total():
    (x,) = arrays((64, 32))
    return x / ops.sum(x), ("sum", "divide")


def sorted_values():
    (x,) = arrays((64, 32))
    return ops.sort(ops.tanh(x)), ("tanh", "sort")


def turned():
    x, y = arrays((64, 32), (32, 64))
    return ops.tanh(x).mT + y, ("tanh", "add")


def two_products():
    x, w = arrays((64, 32), (32, 8))
    return x @ w + ops.exp(x) @ w, None


RULES = [
    (elementwise, True, "elementwise, same shape"),
    (reduced, True, "producer of a reduction"),
    (row_value, True, "one value per row, read in the same sweep"),
    (epilogue, True, "elementwise work after a contraction"),
    (into_matmul, False, "a contraction reads its operands from memory"),
    (sum_after_matmul, False, "a contraction delivers tiles"),
    (other_axes, False, "the region sweeps axes (2,), the reduction (1,)"),
    (total, False, "its total is known only when all tiles are done"),
    (sorted_values, False, "sort has a kernel written by hand"),
    (turned, False, "read through transpose, at other indices"),
]


@pytest.mark.parametrize(("build", "fused", "rule"), RULES, ids=[r[0].__name__ for r in RULES])
def test_rules(build, fused, rule):
    outputs, pair = build()
    found = pairs_of(outputs)[pair]
    assert (found.fused, found.rule[: len(rule)]) == (fused, rule)
    if fused:
        assert found.made_in == found.read_in
    else:
        assert not set(found.made_in) & set(found.read_in)


def test_one_kernel_has_one_product():
    outputs, _ = two_products()
    made = sg.compile(outputs).explain()
    rules = {p.rule for p in made.pairs if (p.maker, p.reader) == ("matmul", "add")}
    assert "one kernel computes one contraction" in rules


def test_bytes_are_those_of_memory():
    x, w = arrays((64, 32), (32, 8))
    y = ops.tanh(x)
    found = pairs_of([ops.exp(y), y @ w])
    nbytes = 64 * 32 * 4
    assert found["tanh", "exp"].bytes == nbytes  # the product needs it stored: a read is saved
    assert found["tanh", "matmul"].bytes == nbytes
    assert pairs_of(elementwise()[0])["tanh", "exp"].bytes == 2 * nbytes


@pytest.mark.parametrize("name", list(GRAPHS))
def test_decisions_agree_with_the_graph(name):
    """What is said to be fused is in one body, what is not is in two; each pair has a rule."""
    outputs, updates = GRAPHS[name]()
    fn = sg.compile(outputs, updates=updates)
    edges = []
    graph = guard(inline(fn.graph))
    for p in PIPELINES["default"].passes:
        graph = p(graph, edges=edges) if p is fuse else p(graph)
    assert graph == fn.optimized
    assert edges
    for e in edges:
        assert e.rule
        assert e.rule != "no rule of fusion joins these two"
        for home in e.homes:
            body = home.attrs.get("body")
            inside = [n.op.name for n in body.nodes] if body is not None else [home.op.name]
            assert e.reader.op.name in inside
            assert (home in e.makers) == e.fused or e.value.node.op.name == e.reader.op.name
        assert set(e.makers) | set(e.homes) <= set(graph.nodes)


def test_nothing_is_recorded_unasked():
    (x,) = arrays((4, 4))
    graph = sg.Graph([x], [ops.exp(ops.tanh(x))])
    edges = []
    assert fuse(graph) == fuse(graph, edges=edges)
    assert len(edges) == 1


def test_branches_have_their_own_decisions():
    (x,) = arrays((4, 4))
    y = sg.cond(ops.sum(x) > 0, lambda: ops.exp(ops.tanh(x)), lambda: x)
    made = sg.compile(y).explain()
    inner = next(p for p in made.pairs if (p.maker, p.reader) == ("tanh", "exp"))
    assert inner.fused
    assert any(p.rule.startswith("cond runs as steps") for p in made.pairs)


# -- passes ---------------------------------------------------------------------------------------
def test_passes_and_what_they_changed():
    (x,) = arrays((8,))
    fn = sg.compile(ops.tanh(x) * ops.tanh(x) + 0.0)
    made = fn.explain(diff=True)
    assert [p.name for p in made.passes] == [
        "inline", "guard", *(p.name for p in PIPELINES["default"].passes)
    ]  # fmt: skip
    for first, second in zip(made.passes, made.passes[1:], strict=False):
        assert first.after == second.before
    changed = {p.name: p.diff for p in made.passes}
    assert any(line.startswith("-") and "tanh" in line for line in changed["cse"])
    assert any(line.startswith("+") and "fusion" in line for line in changed["fuse"])
    assert changed["inline"] == []
    assert all(p.diff is None for p in fn.explain().passes)
    times = {p.name: p.seconds for p in fn.times.passes}
    assert all(p.seconds == times.get(p.name, p.seconds) for p in made.passes)


def test_new_numbers_are_no_change():
    x, y = arrays((8,), (8,))
    z = ops.exp(x) + ops.tanh(y)
    before, after = sg.Graph([x, y], [z]), sg.Graph([x, y], [ops.sin(x), z])
    marks = [line for line in explain.difference(before, after) if line[0] != " "]
    assert len([m for m in marks if m.startswith("+") and "sin" in m]) == 1
    assert not any("tanh" in m for m in marks)


def test_a_pipeline_without_fusion():
    (x,) = arrays((8,))
    made = sg.compile(ops.exp(ops.tanh(x)), pipeline="none").explain()
    assert made.pairs == []
    assert [k.name for k in made.kernels] == ["tanh", "exp"]


# -- memory ---------------------------------------------------------------------------------------
def test_buffers_and_whose_bytes_they_have():
    t = sg.input("x", (256,))
    for k in range(6):
        t = ops.sort(t) if k % 2 else ops.cumsum(t, 0)
    fn = sg.compile(t)
    arena = fn.explain().arena
    assert arena.bytes == fn.memory.peak_bytes
    assert arena.sum == sum(b.size for b in fn.plan.buffers)
    assert any(arena.takes)
    for k, earlier in enumerate(arena.takes):
        b = arena.buffers[k]
        shared = {
            j for j, o in enumerate(arena.buffers)
            if o.dies < b.born
            and set(range(o.offset, o.offset + o.bytes)) & set(range(b.offset, b.offset + b.bytes))
        }  # fmt: skip
        assert set(earlier) == shared


@pytest.mark.slow
@pytest.mark.parametrize("build", [test_budget.layers, test_budget.penalty, test_budget.noisy])
def test_kernels_of_a_budget_are_found(build, monkeypatch):
    """Regions cut in parts, gathered and run again: each decision has the kernels it is about."""
    monkeypatch.setattr(budget, "PATIENCE", 1.5)
    outputs, inputs = build()
    made = sg.compile(outputs, inputs, memory_budget="85%").explain()
    assert made.recomputing is not None
    names = {k.index: {m.op for m in k.members} for k in made.kernels}
    for p in made.pairs:
        assert p.read_in, p
        assert any(p.reader in names[k] for k in p.read_in), p


def test_in_place():
    x, w = arrays((64, 64), (64, 64))
    y = ops.tanh(x @ w)
    made = sg.compile(ops.exp(ops.sort(y) @ w) * ops.sort(y)).explain()
    said = [k.in_place for k in made.kernels if k.kind == "kernel"]
    assert all(text.startswith(("yes: ", "no: ")) for text in said)
    direct = sg.compile(ops.exp(x)).explain()
    assert direct.kernels[0].in_place == "no: operand 0 is the caller's or lasts beyond the call"


def test_in_place_is_what_the_plan_does():
    for name in ("mlp", "attention"):
        outputs, updates = GRAPHS[name]()
        made = sg.compile(outputs, updates=updates).explain()
        for k in made.kernels:
            ins = {a.place for a in k.arguments if a.name.startswith("in")}
            outs = {a.place for a in k.arguments if a.name.startswith("out")}
            assert k.in_place.startswith("yes") == bool(ins & outs), k.name


def test_what_a_budget_computes_again():
    (x,) = arrays((64, 16))
    h = x
    for _ in range(6):
        h = ops.sort(ops.tanh(h))
    fn = sg.compile([h.sum(), sg.grad(h.sum(), x)], memory_budget="80%")
    made = fn.explain()
    r = made.recomputing
    assert r.peak == fn.memory.peak_bytes
    assert r.extra == fn.recomputation.extra > 0
    assert [a.times for a in r.again] == [x.times for x in fn.recomputation.recomputed]
    assert min(a.times for a in r.again) > 1
    assert "recomputed" in str(made)
    assert any(m.recomputed for k in made.kernels for m in k.members)
    several = [p for p in made.pairs if len(p.read_in) > 1]
    assert several  # a region that runs again has several numbers
    assert step().explain().recomputing is None


# -- one kernel -----------------------------------------------------------------------------------
def step():
    x, w = sg.input("x", (64, 32)), sg.variable(np.ones((32, 8), "f"), name="w")
    loss = ops.mean(ops.tanh(x @ w))
    return sg.compile(loss, updates={w: w - 0.1 * sg.grad(loss, w)})


def test_the_code_of_a_kernel():
    fn = step()
    made = fn.explain(1)
    code = made.kernels[0].code
    assert made.kernels[0].source == fn.kernels[0].source
    assert code.asm == fn.kernels[0].asm
    assert code.llvm == fn.kernels[0].llvm
    assert all(k.code is None for k in made.kernels[1:])
    assert "vector" in str(made)
    assert made.kernels[0].origin in ("memory", "disk", "absent")
    json.dumps(encode(made), allow_nan=False)


def test_gradient_nodes_name_both_lines():
    fn = step()
    forward = next(n.where for n in fn.graph.nodes if n.op.name == "tanh")
    members = [m for k in fn.explain().kernels for m in k.members if m.is_gradient]
    assert {m.where.line for m in members} >= {forward[1]}
    assert {m.asked_at.line for m in members} == {forward[1] + 1}
    plain = [m for k in fn.explain().kernels for m in k.members if not m.is_gradient]
    assert all(m.asked_at is None for m in plain)


def test_errors():
    fn = step()
    count = len(fn.explain().kernels)
    for number in (0, -1, count + 1):
        with pytest.raises(InputError, match=f"kernels are 1 to {count}, got {number}"):
            fn.explain(number)


def test_cuda_is_refused():
    fn = step()
    fn.options["target"] = "cuda"
    with pytest.raises(TargetError, match="describes target='cpu'"):
        fn.explain()


# -- assembly -------------------------------------------------------------------------------------
INSTRUCTIONS = [
    ("vaddps\t%zmm1, %zmm2, %zmm3", "zmm"),
    ("vfmadd231ps\t(%rax), %zmm2, %zmm3", "zmm"),
    ("vfnmadd213pd\t%ymm1, %ymm2, %ymm3", "ymm"),
    ("vmulpd\t%xmm1, %xmm2, %xmm3", "xmm"),
    ("mulps\t%xmm1, %xmm2", "xmm"),
    ("vaddss\t%xmm1, %xmm2, %xmm3", "scalar"),
    ("sqrtsd\t%xmm1, %xmm2", "scalar"),
    ("vucomiss\t%xmm1, %xmm2", "scalar"),
    ("vmaxps\t%zmm1, %zmm2, %zmm3 {%k1}", "zmm"),
    ("vcmpltps\t%zmm1, %zmm2, %k1", "zmm"),
    ("vrndscaleps\t$8, %zmm1, %zmm2", "zmm"),
    ("vmovups\t(%rax), %zmm1", None),
    ("vbroadcastss\t(%rax), %zmm1", None),
    ("vshufps\t$1, %xmm1, %xmm2, %xmm3", None),
    ("vpaddd\t%zmm1, %zmm2, %zmm3", None),
    ("vandps\t%zmm1, %zmm2, %zmm3", None),
    ("vxorps\t%xmm1, %xmm1, %xmm1", None),
    ("vcvttps2dq\t%zmm1, %zmm2", None),
    ("addq\t$1, %rax", None),
    ("call\taddps", None),
    ("# vaddps\t%zmm1, %zmm2, %zmm3", None),
]


@pytest.mark.parametrize(
    ("line", "kind"), INSTRUCTIONS, ids=[i[0].split("\t")[0] for i in INSTRUCTIONS]
)
def test_widths_of_instructions(line, kind):
    made = encode(assembly.widths(f"k:\n\tmovq\t%rax, %rbx\n\t{line}\n\tretq\n"))
    assert made == {name: int(name == kind) for name in ("zmm", "ymm", "xmm", "scalar")}


def test_other_machines_have_no_histogram():
    assert assembly.widths("k:\n\tfadd\tv0.4s, v1.4s, v2.4s\n\tret\n") is None


def test_the_kernels_arithmetic_is_packed():
    x, w = arrays((64, 64), (64, 64))
    for outputs in (ops.tanh(x) * 2, x @ w):
        w_ = assembly.widths(sg.compile(outputs).kernels[0].asm)
        if w_ is None:
            pytest.skip("no x86")
        assert w_.packed > 0.9
        assert w_.zmm + w_.ymm + w_.xmm > 0


def test_calls_are_those_of_other_functions():
    text = "own:\n\tcallq\tmemset@PLT\n\tjmp\t.LBB0_1\n\tcallq\town\n\tcall\tpow\n\tcallq\tmemset\n"
    assert assembly.calls(text) == ["memset", "pow"]


# -- remarks --------------------------------------------------------------------------------------
SPILLING = "".join(f"    a{k} = vld_f32(x, {16 * k})\n" for k in range(48))
SPILLING += "".join(f"    a{k} = exp(a{k}) * a{(k * 7) % 48}\n" for k in range(48))
SPILLING += "".join(f"    vst_f32(y, {16 * k}, a{k} + a{47 - k})\n" for k in range(48))
HEAD = "from staticgraph.codegen.vector import *\n\n\ndef k(lo, hi, bufs, scratch):\n"
HEAD += "    x = ptr(bufs, 0)\n    y = ptr(bufs, 1)\n"


def test_remarks_of_a_kernel_that_spills_and_of_one_that_does_not():
    lean = remarks.remarks(HEAD + "    vst_f32(y, 0, vld_f32(x, 0) + vld_f32(x, 16))\n", "k")
    full = remarks.remarks(HEAD + SPILLING, "k")
    assert not any("registers did not suffice" in text for text in lean)
    assert any(re.match(r"registers did not suffice: \d+ spills", text) for text in full)


def test_loops_are_not_vectorized_and_it_says_so():
    loop = "    for t in range(lo, hi):\n        st_f32(y, t, ld_f32(x, t) + 1.0)\n"
    found = remarks.remarks(HEAD + loop.replace("1.0", "ld_f32(x, t)"), "k")
    assert any(text.startswith("loop not vectorized") for text in found)
    assert explaintext.VECTORIZER in str(step().explain(1))


def test_no_remarks_is_not_available_and_not_none(monkeypatch):
    """An LLVM that ignores the options; a child that does not come to its end."""
    assert remarks.parsed("") is None
    assert remarks.parsed("remark: <unknown>:0:0: 3 instructions in function\n") == []
    assert remarks.remarks("this is no Python", "k") is None
    monkeypatch.setattr(explain, "remarks", lambda source, entry: None)
    assert "n/a (this LLVM gives none)" in str(step().explain(1))


# -- the command ----------------------------------------------------------------------------------
def masked(text):
    """Times, and what depends on the machine and the cache."""
    text = re.sub(r"[\d.]+(?:ns|us|ms|s)\b", "#", text)
    text = re.sub(r"cache \d+ hit, \d+ new", "cache # hit, # new", text)
    text = re.sub(r"# +(absent|disk|memory)\b", "# #", text)
    return "\n".join(re.sub(r" +", " ", line).rstrip() for line in text.splitlines()) + "\n"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.usefixtures("models")
def test_overview(width, golden):
    text = invoke("explain", "mlp.py:sized", COLUMNS=str(width)).stdout
    assert max(map(len, text.splitlines())) <= width
    assert masked(text) == golden


@pytest.mark.usefixtures("models")
def test_views_are_the_kernels_own_text():
    fn = sg.compile(ops.exp(sg.input("a", (4,))) * sg.input("b", (4,)))
    words = ("explain", "mlp.py:traced", "-i", "a=4xf32", "-i", "b=4xf32", "1")
    assert invoke(*words, "--source").stdout == fn.kernels[0].source
    assert invoke(*words, "--asm").stdout.rstrip() == fn.kernels[0].asm.rstrip()
    assert invoke(*words, "--llvm").stdout.rstrip() == fn.kernels[0].llvm.rstrip()
    text = invoke(*words, COLUMNS="100").stdout
    assert re.search(r"^ +exp +f32\[4\] +mlp\.py:\d+$", text, re.M)
    assert f"mlp.py:{line_of('sg.ops.exp(a)')}" in text
    assert "fused  exp -> multiply" in text
    assert re.search(r"^vector +\d+ % of \d+ floating-point instructions are packed", text, re.M)


@pytest.mark.usefixtures("models")
def test_json_has_everything():
    made = json.loads(invoke("explain", "mlp.py:step", "2", "--diff", "--json", "-").stdout)
    assert made["schema"] == "staticgraph.explain/1"
    assert made["model"] == "mlp.py:step"
    assert made["kernels"][1]["code"]["asm"]
    assert made["kernels"][0]["source"]
    assert any(p["diff"] for p in made["passes"])
    assert {p["fused"] for p in made["pairs"]} == {True, False}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["99"], "there is no kernel 99; mlp.py:step has 1 to"),
        (["--asm"], "--asm needs a KERNEL"),
        (["1", "--asm", "--llvm"], "--llvm and --asm: one at a time"),
        (["1", "--asm", "--json"], "--asm and --json: one at a time"),
        (["0"], "0 is not in the range"),
    ],
)
@pytest.mark.usefixtures("models")
def test_misuse(words, message):
    done = invoke("explain", "mlp.py:step", *words)
    assert done.exit_code == 2
    assert message in done.stderr
