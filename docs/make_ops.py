"""Writes docs/ops.md: every op of `sg.ops`, from the registry and the op tables of the tests.

    python docs/make_ops.py

What the table says about derivatives and dtypes is found by building each op's sample rows.
"""

from __future__ import annotations

import csv
import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from samples import SAMPLES  # noqa: E402  after the path is set
from sampling import Sample  # noqa: E402

import staticgraph as sg  # noqa: E402
from staticgraph.errors import StaticGraphError  # noqa: E402
from staticgraph.ir import CONSTANT, INPUT, postorder  # noqa: E402
from staticgraph.tensor import Tensor  # noqa: E402

TARGET = ROOT / "docs" / "ops.md"
HEAD = """# Ops

Written by `python docs/make_ops.py` from the registry; a test keeps it true. *Gradient* lists the
ops of which the first derivative is made, *order* the highest order of derivative that the tests
compare with finite differences, *dtypes* what the floating operands may be: b(ool), i(nteger),
f(loat), c(omplex). *Source* is the place in the seeds (BHG, BPR, CN, MP, LS) or the THNN file.
"""
_FILE = re.compile(r"staticgraph\.ops\.\w+")
#: one dtype of each kind; both widths of a kind take the same path
KINDS = {"b": "bool", "i": "int64", "f": "float32", "c": "complex64"}


def families() -> dict[str, list[str]]:
    """Public names by the file that declares them, aliases with their function."""
    files = {n.rpartition(".")[2]: vars(m) for n, m in sys.modules.items() if _FILE.fullmatch(n)}
    found: dict[str, list[str]] = defaultdict(list)
    for name in sg.ops.__all__:
        function = getattr(sg.ops, name)
        # Files import one way, so that the first one loaded with a function is the one it is of.
        home = next(file for file, given in files.items() if function in given.values())
        found[home].append(name)
    return {file: found[file] for file in files if file in found}


def samples_of(function: Callable) -> list[Sample]:
    """The rows of the op tables that test a function."""
    names = {n for n in sg.ops.__all__ if getattr(sg.ops, n) is function}
    return [s for s in SAMPLES if s.name in names]


def built(sample: Sample, dtype: str) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and float results of a row whose floating operands have a dtype."""
    arrays = sample.arrays("float64")
    inputs = [
        sg.input(f"x{k}", a.shape, dtype if k in sample.floats else a.dtype)
        for k, a in enumerate(arrays)
    ]
    made = sample.build(*inputs)
    outputs = list(made) if isinstance(made, (tuple, list)) else [made]
    return inputs, [t for t in outputs if isinstance(t, Tensor)]


def gradient_ops(sample: Sample) -> list[str]:
    """Names of the ops in the first derivative, beyond those of the value."""
    if not sample.orders or not sample.floats:
        return []
    inputs, outputs = built(sample, "float64")
    real = [t for t in outputs if np.dtype(t.dtype).kind in "fc" and t.size]
    floats = [inputs[k] for k in sample.floats]
    if not real:
        return []
    seeds = [sg.input(f"g{k}", t.shape, t.dtype) for k, t in enumerate(real)]
    value = {id(n) for n in postorder(real)}
    nodes = postorder(sg.vjp(real, floats, seeds))
    names = {n.op.name for n in nodes if id(n) not in value and n.op not in (INPUT, CONSTANT)}
    return sorted(names)


def dtypes(samples: list[Sample]) -> str:
    """The kinds of dtype that some row builds with."""
    found = []
    for kind, dtype in KINDS.items():
        for sample in samples:
            try:
                built(sample, dtype)
            except StaticGraphError:
                continue
            found.append(kind)
            break
    return "".join(found)


def sentence(doc: str) -> str:
    """The first sentence of a docstring: what the op computes."""
    text = " ".join(doc.split("\n\n")[0].split())
    return re.sub(r"\s*Catalogue [0-9., ]+\.?$", "", text).replace("|", "\\|")


@cache
def sources() -> dict[str, list[str]]:
    """The places of the seeds that each name comes from, as the catalogue's rows say."""
    found: dict[str, list[str]] = defaultdict(list)
    with (ROOT / "tests" / "catalogue.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name in row["names"].split():
                found[name].append(row["row"].replace("|", "/"))
    return found


def rows(names: list[str]) -> Iterator[str]:
    done = set()
    for name in names:
        function = getattr(sg.ops, name)
        if function in done:
            continue
        done.add(function)
        title = function.__name__ if function.__name__ in names else name
        others = [n for n in names if getattr(sg.ops, n) is function and n != title]
        samples = samples_of(function)
        doc = inspect.getdoc(function) or ""
        gradient = sorted({g for s in samples for g in gradient_ops(s)})
        order = max((s.orders for s in samples if s.floats), default=0)
        found = [place for n in (title, *others) for place in sources()[n]]
        called = "`" + title + "`" + "".join(f", `{n}`" for n in others)
        yield (
            f"| {called} | {sentence(doc)} | {' '.join(gradient) or '-'} | {dtypes(samples) or '-'}"
            f" | {order} | {'; '.join(dict.fromkeys(found))} |"
        )


def text() -> str:
    parts = [HEAD]
    for module, names in families().items():
        about = (sys.modules[f"staticgraph.ops.{module}"].__doc__ or "").strip().splitlines()[0]
        parts.append(f"## {module}\n\n{about}\n")
        parts.append(
            "| op | value | gradient | dtypes | order | source |\n|---|---|---|---|---|---|"
        )
        parts += [*rows(names), ""]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
