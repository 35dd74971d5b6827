"""Shared fixtures: golden text, seeded random numbers, one kernel cache for the session.

The cache directory is set before `staticgraph` is imported, so that a test run neither reads nor
fills the user's own cache. Without `--kernel-cache` every session starts cold.
"""

import difflib
import os
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

GOLDEN = Path(__file__).parent / "golden"

settings.register_profile("default", max_examples=40, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=400, deadline=None, print_blob=True)
settings.load_profile("default")


def pytest_addoption(parser):
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the files of tests/golden"
    )
    parser.addoption(
        "--kernel-cache", metavar="DIR", help="keep compiled kernels here between sessions"
    )


def pytest_configure(config):
    chosen = config.getoption("--kernel-cache")
    if chosen is None:
        scratch = tempfile.TemporaryDirectory(prefix="staticgraph-tests-")
        config.add_cleanup(scratch.cleanup)
        chosen = scratch.name
    os.environ["STATICGRAPH_CACHE_DIR"] = str(Path(chosen).resolve())


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        cuda = pytest.importorskip("numba.cuda")
        if not cuda.is_available():
            pytest.skip("no NVIDIA GPU")


@pytest.fixture(scope="session")
def kernel_cache():
    """The directory of this session's compiled kernels."""
    return Path(os.environ["STATICGRAPH_CACHE_DIR"])


@pytest.fixture
def rng(request):
    """Random numbers that depend on the test's own name, not on what ran before it."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


class Golden:
    """Equals a text when it is what the test's file holds; `--update-golden` writes the file."""

    __hash__ = None

    def __init__(self, path, update):
        self.path = path
        self.update = update
        self.text = path.read_text(encoding="utf-8") if path.exists() else None

    def __eq__(self, text):
        if self.update:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(text, encoding="utf-8")
            self.text = text
        return text == self.text


def pytest_assertrepr_compare(op, left, right):
    if op != "==" or not isinstance(right, Golden):
        return None
    if right.text is None:
        return [f"no {right.path.name}: run pytest --update-golden and read what it wrote"]
    was, now = right.text.splitlines(), left.splitlines()
    return [
        "not the golden text",
        *difflib.unified_diff(was, now, right.path.name, "now", "", "", 3, ""),
    ]


@pytest.fixture
def golden(request):
    """`assert str(result) == golden`; the file is tests/golden/<module>/<test>.txt."""
    name = request.node.name.replace("/", "_")
    path = GOLDEN / request.module.__name__.rpartition(".")[2] / f"{name}.txt"
    return Golden(path, request.config.getoption("--update-golden"))
