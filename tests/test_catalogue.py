"""Every row of the catalogue of differentiable operations is there, and docs/ops.md is true."""

import csv
import importlib.util
from pathlib import Path

import pytest

import staticgraph as sg
from staticgraph import ops
from staticgraph.registry import OPS

HERE = Path(__file__).parent
with (HERE / "catalogue.csv").open(newline="", encoding="utf-8") as file:
    ROWS = list(csv.DictReader(file))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r["row"])
def test_row_has_its_ops(row):
    missing = [n for n in row["names"].split() if not hasattr(ops, n) and n not in OPS]
    assert missing == []


def test_public_functions_are_documented():
    """A docstring says what comes out, and gives more than the name."""
    assert [n for n in ops.__all__ if len((getattr(ops, n).__doc__ or "").strip()) < 12] == []
    assert sorted(ops.__all__) == sorted(set(ops.__all__))
    assert all(callable(getattr(sg.ops, n)) for n in ops.__all__)


@pytest.mark.parametrize("file", ["shape", "create", "index", "conv", "pooling", "reduce", "scan"])
def test_docstrings_say_what_users_ask(file):
    """Gradient and errors, or which function has the same."""
    module = importlib.import_module(f"staticgraph.ops.{file}")
    docs = {n: getattr(ops, n).__doc__ for n in ops.__all__ if hasattr(module, n)}
    of_file = {n: d for n, d in docs.items() if getattr(ops, n).__module__ == module.__name__}
    assert of_file
    same = ("same as", "as `", "array API name")
    for name, doc in of_file.items():
        words = [w for w in ("radient", "aise") if w not in doc and not any(s in doc for s in same)]
        assert words == [], name


def test_ops_md_is_what_the_registry_says():
    spec = importlib.util.spec_from_file_location("make_ops", HERE.parent / "docs" / "make_ops.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.TARGET.read_text(encoding="utf-8") == made.text(), (
        "docs/ops.md is out of date: run python docs/make_ops.py"
    )
