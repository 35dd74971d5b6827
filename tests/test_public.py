"""The public names: complete, sorted, documented; examples in docstrings run."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import types
from pathlib import Path

import pytest

import staticgraph as sg

MODULES = [
    "staticgraph",
    *(m.name for m in pkgutil.walk_packages(sg.__path__, "staticgraph.")),
]
#: where users find functions, by the names they write
FOLDERS = {"sg": sg, "sg.ops": sg.ops, "sg.passes": sg.passes, "sg.random": sg.random}


def public(module: types.ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    ]


def test_all_is_complete():
    """`from staticgraph import *` gives what `sg.` offers."""
    offered = set(public(sg))
    assert offered <= set(sg.__all__), offered - set(sg.__all__)
    assert all(hasattr(sg, name) for name in sg.__all__)
    beside = {name for name in set(sg.__all__) - offered}
    assert beside == {"ops", "optim", "passes", "random"}  # modules


def test_type_checkers_see_every_name():
    """They take `import name as name` of a typed package for public, and nothing else."""
    source = Path(importlib.import_module("staticgraph.public").__file__).read_text("utf-8")
    found = [n.names for n in ast.parse(source).body if isinstance(n, ast.ImportFrom)]
    names = [alias.asname for aliases in found for alias in aliases if alias.asname == alias.name]
    assert sorted(names) == list(sg.__all__)


@pytest.mark.parametrize("name", ["sg", "sg.passes"])
def test_all_is_sorted(name):
    names = FOLDERS[name].__all__
    assert len(set(names)) == len(names)
    key = str if name == "sg" else natural
    assert sorted(names, key=key) == list(names)


def test_ops_are_listed_by_family():
    """One file of ops/ after the other, sorted within each."""
    home = {}
    for node in ast.parse(Path(sg.ops.__file__).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            home |= {alias.asname or alias.name: node.module for alias in node.names}
    names = sg.ops.__all__
    families = list(dict.fromkeys(home[name] for name in names))
    order = [(families.index(home[name]), name) for name in names]
    assert order == sorted(set(order))


def natural(name: str) -> tuple[bool, list[object]]:
    """log2 before log10; constants first."""
    digits = name.lstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
    stem = name.removesuffix(digits)
    return not name.isupper(), [stem, int(digits) if digits.isdigit() else -1, digits]


def test_ops_are_complete():
    """Every function that an op file declares public is in sg.ops, and nothing else."""
    here = {
        name
        for name in public(sg.ops)
        if inspect.isfunction(getattr(sg.ops, name))
        and getattr(sg.ops, name).__module__.startswith("staticgraph.ops")
    }
    assert here == set(sg.ops.__all__)


def documented() -> list[tuple[str, object]]:
    found = []
    for prefix, module in FOLDERS.items():
        names = getattr(module, "__all__", None) or public(module)
        for name in names:
            value = getattr(module, name)
            if isinstance(value, (types.ModuleType, dict)):
                continue
            found.append((f"{prefix}.{name}", value))
            if inspect.isclass(value):
                for method, f in vars(value).items():
                    if not method.startswith("_") and (callable(f) or isinstance(f, property)):
                        found.append((f"{prefix}.{name}.{method}", f))
    found += [(f"sg.optim.{name}", getattr(sg.optim, name)) for name in ("sgd", "adam", "adamw")]
    return found


#: properties that say all by their names
OBVIOUS = ("shape", "dtype", "ndim", "size")


@pytest.mark.parametrize(("name", "value"), documented(), ids=lambda v: v if type(v) is str else "")
def test_public_things_have_docstrings(name, value):
    text = inspect.getdoc(value)
    if isinstance(value, property) and name.endswith(OBVIOUS):
        return
    assert text, f"{name} has no docstring"
    first = text.split("\n\n")[0]
    assert first[0].isalnum() or first[0] in "'(`-|" or first.startswith("e^"), first
    assert first.rstrip().endswith((".", ":", "`")), f"{name}: {first}"


@pytest.mark.parametrize("name", MODULES)
def test_modules_say_what_they_hold(name):
    if name.endswith("__main__"):
        return
    try:
        module = importlib.import_module(name)
    except ImportError as error:  # needs what only some machines have
        pytest.skip(str(error))
    assert module.__doc__, f"{name} has no docstring"
    result = doctest.testmod(module)
    assert result.failed == 0


def test_signatures_can_be_inspected():
    """Editors show them: no op hides its parameters behind *args."""
    for name in sg.ops.__all__:
        kinds = [p.kind for p in inspect.signature(getattr(sg.ops, name)).parameters.values()]
        assert inspect.Parameter.VAR_KEYWORD not in kinds, name
        if kinds:
            assert inspect.Parameter.VAR_POSITIONAL not in kinds[:1], name
