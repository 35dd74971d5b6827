"""target="cuda": the same table of graphs simulated, compiled to PTX, and on a GPU."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_cases
import mpmath as mp
import numpy as np
import pytest
from cuda_cases import CASES, STORIES

import staticgraph as sg
from staticgraph import cudacomplex, cudarun
from staticgraph.codegen.cudaselect import cuda_code
from staticgraph.primitives import PRIMS

#: the functions of floats that those of complex numbers are made of, by NumPy
REAL = {
    name: getattr(np, name)
    for name in ("multiply", "hypot", "abs", "expm1", "log1p", "exp", "sin", "cos", "arctan2")
}
REAL["atan2"] = REAL.pop("arctan2")
#: where NumPy loses digits near 0
NEAR_ZERO = {
    "log1p": lambda z: complex(mp.log(1 + mp.mpc(z))),
    "expm1": lambda z: complex(mp.expm1(mp.mpc(z))),
}
HERE = Path(__file__).parent
PTX_CASES = [name for name, case in CASES.items() if case.ptx]


def python(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Another Python with the tests on its path."""
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """What went wrong with each case under Numba's simulator, from one process for all."""
    report = tmp_path_factory.mktemp("cuda") / "report.json"
    ran = python(HERE / "cuda_cases.py", report, NUMBA_ENABLE_CUDASIM="1")
    assert ran.returncode == 0, ran.stderr
    return json.loads(report.read_text())


@pytest.fixture(scope="session")
def toolkit():
    """Something that compiles for CUDA; skips where there is nothing."""
    try:
        device = cudarun.device()
    except sg.TargetError as error:
        pytest.skip(error.summary)
    if device.SIMULATED:
        pytest.skip("NUMBA_ENABLE_CUDASIM is set: nothing is compiled")
    return device


# ---------------------------------------------------------------------------- simulator


@pytest.mark.parametrize("name", [*CASES, *STORIES])
def test_simulated(simulated, name):
    assert simulated[name] == ""


# ---------------------------------------------------------------------------- PTX


def assembled(ptx: str, arch: str, folder: Path) -> str:
    """What NVIDIA's assembler says, "" where it is content or there is none that knows this PTX."""
    ptxas = shutil.which("ptxas")
    if ptxas is None:
        return ""
    file = folder / "kernel.ptx"
    file.write_text(ptx)
    ran = subprocess.run(
        [ptxas, f"--gpu-name={arch}", "--output-file", os.devnull, str(file)],
        capture_output=True,
        text=True,
    )
    return "" if "Unsupported .version" in ran.stderr else ran.stderr + ran.stdout


@pytest.mark.parametrize("name", PTX_CASES)
def test_compiles_to_ptx(toolkit, name, tmp_path):
    fn, _ = CASES[name].function(name)
    for kernel in fn.kernels:
        ptx = kernel.ptx()
        assert ".target sm_90" in ptx
        assert ".entry" in ptx
        assert assembled(ptx, "sm_90", tmp_path) == ""
        if "64" not in name:
            assert not re.search(r"\.f64", ptx), f"{kernel.name} computes in float64"
    assert ".target sm_75" in fn.kernels[0].ptx((7, 5))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in PTX_CASES])
def test_every_case_compiles_to_ptx(toolkit, name, tmp_path):
    fn, _ = CASES[name].function(name)
    for kernel in fn.kernels:
        for cc, arch in (((9, 0), "sm_90"), ((7, 5), "sm_75")):
            assert assembled(kernel.ptx(cc), arch, tmp_path) == ""


def test_nothing_is_contracted_behind_our_back(toolkit):
    """a * b + c rounds twice, as everywhere; only sums of products are fused, by name."""
    a, b, c = (sg.input(n, (64,)) for n in "abc")
    (kernel,) = sg.compile(a * b + c, target="cuda").kernels
    assert "fma.rn" not in kernel.ptx()
    x, y = sg.input("x", (16, 16)), sg.input("y", (16, 16))
    (kernel,) = sg.compile(x @ y, target="cuda").kernels
    assert "fma.rn.f32" in kernel.ptx()


def test_wide_products_stay_in_registers(toolkit):
    x, y = sg.input("x", (128, 64)), sg.input("y", (64, 128))
    (kernel,) = sg.compile(sg.ops.relu(x @ y), target="cuda").kernels
    assert kernel.ptx().count("fma.rn.f32") >= 16
    assert ".local" not in kernel.ptx()


def test_a_toolkit_alone_compiles_and_says_what_is_missing(toolkit):
    if toolkit.state() != "toolkit":
        pytest.skip("there is a GPU")
    x = sg.input("x", (3,))
    fn = sg.compile(x + 1.0, target="cuda")
    with pytest.raises(sg.TargetError, match="has no NVIDIA GPU to run it"):
        fn(np.zeros(3, "float32"))


# ---------------------------------------------------------------------------- GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*CASES, *STORIES])
def test_on_a_gpu(name):
    STORIES[name]() if name in STORIES else cuda_cases.run_case(name)


@pytest.mark.gpu
def test_the_same_bits_in_every_run():
    for name in ("norm backward", "conv", "total"):
        fn, arrays = CASES[name].function(name)
        once, again = fn(*arrays), fn(*arrays)
        for a, b in zip(np.atleast_1d(once), np.atleast_1d(again), strict=True):
            np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------------------- without any of them


def test_importing_staticgraph_does_not_import_numba_cuda():
    code = "import sys, staticgraph; sys.exit(any(m.startswith('numba.cuda') for m in sys.modules))"
    assert python("-c", code).returncode == 0


def test_one_error_where_there_is_nothing():
    """Neither GPU nor toolkit nor simulator: what is missing, and what would help."""
    code = """
        import sys
        from unittest import mock
        from numba import cuda
        import staticgraph as sg
        missing = RuntimeError("Missing libdevice file.\\nmore")
        with mock.patch.object(cuda, "is_available", lambda: False), \\
             mock.patch.object(cuda, "compile_ptx", mock.Mock(side_effect=missing)):
            try:
                sg.compile(sg.input("x", (3,)) + 1.0, target="cuda")
            except sg.TargetError as error:
                sys.stdout.write(error.summary)
    """
    lines = code.split("\n")
    ran = python("-c", "\n".join(line[8:] for line in lines), NUMBA_ENABLE_CUDASIM="0")
    assert ran.stdout == (
        "compile: target='cuda' needs one of: an NVIDIA GPU with its driver; the CUDA toolkit, to"
        " compile without a GPU (pip install 'numba-cuda[cu13]', or set CUDA_HOME to one"
        " installed); or Numba's simulator (set NUMBA_ENABLE_CUDASIM=1 before Python starts);"
        " found no GPU and no toolkit (Missing libdevice file.)"
    ), ran.stderr


def test_what_has_no_kernel_is_refused():
    x = sg.input("x", (4,), "complex64")
    node = sg.ops.fft(x).node
    with pytest.raises(sg.TargetError, match="target='cuda' has no kernel for it"):
        cuda_code(node, "fft")


# ---------------------------------------------------------------------------- complex numbers


@pytest.mark.parametrize("name", cudacomplex.functions(complex, float, REAL, lambda f: f))
def test_complex_functions_as_a_device_computes_them(name):
    """The formulas run as Python, with NumPy's functions of floats for those of libdevice."""
    function = cudacomplex.functions(np.complex128, np.float64, REAL, lambda f: f)[name]
    rng = np.random.default_rng(0)
    points = rng.standard_normal(40) + 1j * rng.standard_normal(40)
    points = [*points, *(1e-9 * points[:5]), *(1e9 * points[:5]), 0.5 + 0j, -0.5j]
    with np.errstate(all="ignore"), mp.workdps(40):
        for k, x in enumerate(points):
            operands = [np.complex128(x), np.complex128(points[k - 7])][: PRIMS[name].arity]
            want = NEAR_ZERO.get(name, PRIMS[name].numpy)(*operands)
            if np.isfinite(want):
                np.testing.assert_allclose(function(*operands), want, rtol=1e-10, err_msg=str(x))
