"""Imports go one way: a file may import only files named above it in LAYERS.

A new file gets its place here, by hand.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("staticgraph", "ops", "passes")

# passes.fuse asks how a group of nodes would loop and what it would cost, so `codegen.spec` to
# `codegen.cpu` stand before the passes and the rest of `codegen` after them.
ORDER = """
    errors types scalar primitives nest registry tensor ir tree operands op

    ops.declare ops.elementwise ops.arith ops.shape ops.create ops.slices ops.join ops.pad
    ops.activation ops.reduce ops.matmul ops.gather ops.index ops.scan ops.sort
    ops.window ops.conv ops.convolve ops.resize ops.pool ops.pooling ops.unpool ops.adaptive
    ops.sample
    ops.norm ops.vectors ops.loss ops.classloss ops.randombits ops.random ops.quantize
    ops.einsum ops.recurrent ops.sparse ops.attention
    ops.matrix ops.triangular ops.linalg ops.decompose ops.determinant ops.fft ops.frequency ops

    rewrite gradient
    arraytext textreader text verify interpret archive
    closure control custom
    fusion passmanager count nominal bytesize

    codegen.spec codegen.affine codegen.region codegen.collapse codegen.lower codegen.tail
    codegen.contract_shapes codegen.saved codegen.turned codegen.tiles codegen.ahead codegen.joins
    codegen.expressions codegen.sweep codegen.cpu
    passes.inline passes.guard passes.expanded passes.fold passes.values passes.branches
    passes.simplify passes.cse
    passes.handover passes.sink passes.edges passes.groups passes.fuserules passes.postpone
    passes.regions passes.unite passes.fuse
    passes.remat.dag passes.remat.dagjson passes.remat.simulate
    passes.remat.cutmodel passes.remat.cutplan passes.remat.bound passes.remat.plan
    passes.remat.annealstate passes.remat.annealmoves passes.remat.anneal passes.remat.fit
    passes.remat.best
    passes.remat.pareto passes.remat.families
    passes.remat.phases passes.remat.exact passes.remat.chains passes.remat.rotor passes.remat.chen
    passes.remat.lowersets passes.remat.checkmate passes.remat.knapsack passes.remat.dtr
    passes.remat.reorder
    passes.remat
    passes

    keep checkpoint

    codegen.simd codegen.divide codegen.veccomplex codegen.vecmath_tables codegen.vecmath_core
    codegen.vecmath_trig codegen.vecmath_special codegen.vecmath_gamma codegen.vecmath
    codegen.vecmath_complex codegen.lanewise codegen.vecmemory codegen.vector
    codegen.lapackcalls
    codegen.contract_ir codegen.microkernel codegen.contract_moves
    codegen.contract_parts codegen.contract_patches codegen.contract_matmul codegen.contract_dot
    codegen.contract_any codegen.contract_conv codegen.contract_wgrad codegen.contract_direct
    codegen.contract
    byhand.source byhand.attention byhand.attentiongrad
    byhand.words byhand.scan byhand.scatter byhand.sort byhand.topk
    byhand.fftlines byhand.fftplan byhand.fft
    byhand.lapack byhand.elimination byhand.eigen byhand.panels byhand.linalg byhand.decompose
    byhand.table
    codegen.epilogue codegen.chain codegen.select
    codegen.cudatext codegen.cuda codegen.cudatile codegen.cudasinks codegen.cudaselect

    offsets schedule destinations plan planner checkedplan findings recompute budget

    codegen.lowlevel codegen.launchwords codegen.launchworkers codegen.launchloop
    threads lapack native kernelcache meanings direct jit kernels launch runtime
    cudacomplex cudamath cudadevice cudarun

    profiling profiling.rows profiling.scopes profiling.units profiling.stats profiling.summary
    profiling.groups profiling.export profiling.table profiling.assembly profiling.layout
    profiling.pictures profiling.pagedata profiling.pagecode profiling.html profiling.notebook
    profiling.report profiling.explaintext profiling.explanation

    arguments compile frontend optim gradcheck

    profiling.machine profiling.measure profiling.kernelrows profiling.arena profiling.roofline
    profiling.advice profiling.profiler
    profiling.remarks profiling.remarkchild profiling.explain

    study.rows study.budgets study.costs study.process study.canvas study.pictures study.raster
    study.text
    study.page study.pareto study.why study

    public __init__

    cli cli.problems cli.frame cli.options cli.commands __main__
    cli.quantity cli.columns cli.checks cli.terminal cli.outputs cli.reporting cli.opening
    cli.naming cli.inputs cli.models cli.check cli.worker cli.counters cli.measuring cli.verdicts
    cli.comparison
    cli.drawing
    cli.explain cli.profile cli.bench cli.pareto cli.memory cli.compare cli.graph cli.show
    cli.machine cli.cache cli.doctor cli.completion
"""
LAYERS = ORDER.split()

#: imports inside functions or blocks, each with the reason why it cannot stand at the top
INSIDE = {
    ("__init__", "staticgraph.public"): "for type checkers; at run time the first use loads it",
    ("registry", "staticgraph.ir"): "for type checkers",
    ("tensor", "staticgraph.ir"): "for type checkers",
    ("primitives", "scipy.special"): "only the NumPy oracle of erfinv needs SciPy",
    ("cli.show", "staticgraph.cli.opening"): "a server, which showing a report should not wait for",
    ("profiling.report", "staticgraph.kernels"): "it loads LLVM, which only a page with code needs",
    ("profiling.report", "staticgraph.native"): "it loads LLVM, which only a page with code needs",
    ("compile", "staticgraph.profiling.profiler"): "only a profile needs it, and it compiles",
    ("compile", "staticgraph.profiling.explain"): "only an explanation needs it",
    ("compile", "staticgraph.profiling.explanation"): "for type checkers",
    ("compile", "staticgraph.profiling.report"): "for type checkers",
    ("study.rows", "staticgraph.study.text"): "only a table needs it",
    ("study.rows", "staticgraph.study.pictures"): "only a picture needs it",
    ("study.rows", "staticgraph.study.raster"): "only a picture needs it",
    ("study.rows", "staticgraph.study.page"): "only a page needs it",
    ("ops.einsum", "opt_einsum"): "only contractions of three operands and more need a path",
    ("cudamath", "numba.cuda"): "Numba's simulator has no libdevice",
    ("cudadevice", "numba.cuda"): "Numba's simulator has no dispatcher",
    ("cudadevice", "numba.cuda.simulator.kernelapi"): "only the simulator needs its shared memory",
    ("cudarun", "staticgraph.cudadevice"): "it imports numba.cuda, which only target='cuda' needs",
    ("passes.remat.cutmodel", "scipy"): "only memory studies need SciPy",
    ("passes.remat.best", "staticgraph.passes.remat.anneal"): "it imports Numba",
    ("passes.remat.best", "staticgraph.passes.remat.fit"): "it imports Numba",
    ("passes.remat.checkmate", "scipy.optimize"): "only this oracle needs it",
    ("passes.remat.checkmate", "scipy.sparse"): "only this oracle needs it",
    ("passes.remat.knapsack", "scipy.optimize"): "only the integer solver needs it",
    ("kernels", "staticgraph.jit"): "it imports Numba, which a start from the kernel cache avoids",
}


def module_of(path):
    """'ops.shape' from .../ops/shape.py, 'ir' from .../staticgraph/ir.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "staticgraph" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {module_of(p): p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py"))}
MODULES = {*FILES, *LAYERS}


def imported(node):
    """The modules that an import statement names, as full names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.level:
        return ["." * node.level]
    inside = node.module.removeprefix("staticgraph").lstrip(".")
    names = [f"{inside}.{alias.name}".lstrip(".") for alias in node.names]
    if node.module.partition(".")[0] == "staticgraph" and any(n in MODULES for n in names):
        return [f"staticgraph.{n}" if n in MODULES else node.module for n in names]
    return [node.module]


def violations(module, source):
    """What is wrong with the imports of a file."""
    if module not in LAYERS:
        return [f"{module} has no place in LAYERS"]
    above = LAYERS[: LAYERS.index(module)]
    found = []
    tree = ast.parse(source)
    top = {id(n) for n in tree.body}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        for name in imported(node):
            where = f"{module}:{node.lineno} imports {name}"
            if id(node) not in top and (module, name) not in INSIDE:
                found.append(f"{where} inside a function or block")
            if name.startswith("."):
                found.append(f"{where}: give the full name")
            if name.partition(".")[0] in FOLDERS:
                inner = name.removeprefix("staticgraph").lstrip(".") or "__init__"
                if inner == "__init__" or not name.startswith("staticgraph"):
                    found.append(f"{where}: import from the file itself")
                elif (module, name) not in INSIDE and inner not in above:
                    found.append(f"{where}, which does not stand above it")
    return found


@pytest.mark.parametrize("module", FILES)
def test_imports_go_one_way(module):
    assert violations(module, FILES[module].read_text(encoding="utf-8")) == []


def test_every_file_has_one_place():
    assert sorted(LAYERS) == sorted(FILES)


def test_every_exception_is_needed():
    for module, name in INSIDE:
        tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
        inner = [n for n in ast.walk(tree) if n not in tree.body]
        names = [imported(n) for n in inner if isinstance(n, (ast.Import, ast.ImportFrom))]
        assert [name] in names, f"{module} no longer imports {name} inside a function or block"


PLANTED = [
    ("ir", "from staticgraph.types import TensorType", 0),
    ("ir", "import numpy as np\nfrom collections.abc import Mapping", 0),
    ("gradient", "from staticgraph import tree", 0),
    ("plan", "from staticgraph.codegen import cpu, lower", 0),
    ("public", "from staticgraph import ops, passes", 0),
    ("ir", "from staticgraph.op import NestOp", 1),
    ("ir", "from staticgraph.ir import Graph", 1),
    ("ir", "from staticgraph import gradient as g, types", 1),
    ("ir", "import staticgraph.gradient", 1),
    ("ir", "from staticgraph import Graph", 1),
    ("ir", "import staticgraph", 1),
    ("plan", "from staticgraph.codegen import cpu, launchwords", 1),
    ("ops.shape", "from staticgraph.ops.reduce import sum", 1),
    ("ops.shape", "from ops.elementwise import add", 1),
    ("ir", "from .types import TensorType", 1),
    ("ir", "def f():\n    import os", 1),
    ("ir", "if True:\n    from staticgraph import types", 1),
    ("ir", "def f():\n    from staticgraph.op import NestOp", 2),
    ("primitives", "def f():\n    from scipy.special import erfinv", 0),
    ("primitives", "def f():\n    from scipy import special", 1),
    ("newcomer", "", 1),
]


@pytest.mark.parametrize(("module", "source", "faults"), PLANTED)
def test_planted_imports_are_found(module, source, faults):
    assert len(violations(module, source)) == faults
