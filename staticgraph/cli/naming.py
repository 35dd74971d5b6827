"""From the name of a model on the command line to the Python object it means.

    file.py:function   file.py:Class.method   package.module:function   a saved function   graph.sg

The last colon splits; a single letter before it is a drive. A file alone lists what it holds.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import site
import sys
import sysconfig
import traceback
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from staticgraph import errors
from staticgraph.cli.problems import Problem, failed, meant
from staticgraph.compile import Function
from staticgraph.frontend import Traced
from staticgraph.ir import Graph, Variable
from staticgraph.tensor import Tensor

#: code of others: the user is not sent there
_FOREIGN = tuple(
    os.path.realpath(folder) + os.sep
    for folder in {
        *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        os.path.dirname(importlib.__file__),
    }
)


@dataclass(frozen=True)
class Found:
    """What a name means: an object in a user's module, or a file to load a graph from."""

    label: str  # 'mlp.py:step'
    source: str  # 'mlp.py'
    value: Any = None
    owner: type | None = None  # of a method
    path: Path | None = None  # of a saved function or a text graph


def split(name: str) -> tuple[str, str]:
    """('examples/mlp.py', 'step'); the second is '' where there is none."""
    head, colon, tail = name.rpartition(":")
    if not colon or "/" in tail or "\\" in tail:  # that of C:\models\mlp.py is no name
        return name, ""
    return head, tail


def locate(name: str) -> Found:
    """The object that a name on the command line means."""
    place, attribute = split(name)
    path = Path(place)
    if path.suffix == ".onnx":
        raise failed(f"{place}: ONNX files are not read; build the graph with staticgraph")
    if path.is_file() and (path.suffix == ".sg" or zipfile.is_zipfile(path)):
        return Found(path.name, path.name, path=path)
    if path.suffix == ".py" or path.exists() or os.sep in place:
        module, source = _load_file(path), path.name
    else:
        module, source = _load_module(place), place
    label = f"{source}:{attribute}"
    if not attribute:
        raise Problem(
            f"{place} holds several things to run; name one of them", detail=_listing(module, name)
        )
    owner, value = None, module
    for part in attribute.split("."):
        owner = value if isinstance(value, type) else None
        if part not in _names(value):
            kind = "method" if owner else "function"
            where = place if value is module else f"{label.rpartition('.')[0]}"
            raise Problem(f"no {kind} {part!r} in {where}{meant(part, _candidates(value))}")
        value = getattr(value, part)
    return Found(label, source, value, owner)


def _names(value: Any) -> set[str]:
    return set(dir(value))


def _candidates(value: Any) -> list[str]:
    """The names in a module or class that could be models, in the order they are written."""
    if isinstance(value, type):
        return [
            n for n in vars(value) if not n.startswith("_") and callable(getattr(value, n, None))
        ]
    return [n for n, v in vars(value).items() if not n.startswith("_") and _kind(v, value)]


def _kind(value: Any, module: Any) -> str:
    """What a module's attribute is to the command line, '' if nothing."""
    if isinstance(value, Function):
        return "compiled"
    if isinstance(value, Traced):
        return "traced"
    if isinstance(value, Graph) or (isinstance(value, Tensor) and not isinstance(value, Variable)):
        return "graph"
    if isinstance(value, FunctionType) and value.__module__ == module.__name__:
        return "function"
    return ""


def _listing(module: ModuleType, name: str) -> str:
    rows = []
    for attribute in _candidates(module):
        value = getattr(module, attribute)
        kind = _kind(value, module)
        given = str(inspect.signature(value)) if kind in ("function", "traced") else f"  {value!r}"
        rows.append(f"  {name}:{attribute}{given}  [{kind}]")
    for owner in vars(module).values():
        if isinstance(owner, type) and owner.__module__ == module.__name__:
            rows += [f"  {name}:{owner.__name__}.{m}  [method]" for m in _candidates(owner)]
    return "\n".join(rows) or "  (it has no function, no compiled function and no tensor)"


def _load_file(path: Path) -> ModuleType:
    if path.is_dir():
        raise Problem(f"{path} is a folder; name a file in it, such as {path / 'model.py:step'}")
    if not path.is_file():
        beside = path.parent if path.parent.is_dir() else Path()
        raise Problem(
            f"there is no file {path}{meant(path.name, [p.name for p in beside.glob('*.py')])}"
        )
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # the file imports its neighbours, as `python file.py` lets it
        sys.path.insert(0, folder)
    stem = path.stem if path.stem not in sys.modules else f"{path.stem}_model"
    spec = importlib.util.spec_from_file_location(stem, path)
    if spec is None or spec.loader is None:
        raise Problem(f"{path} is neither Python, nor a saved function, nor a .sg graph")
    module = importlib.util.module_from_spec(spec)
    sys.modules[stem] = module  # dataclasses look there
    with user_code(path.name, "while it was imported"):
        spec.loader.exec_module(module)
    return module


def _load_module(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m name` lets it
    try:
        with user_code(name, "while it was imported"):
            return importlib.import_module(name)
    except Problem as problem:
        cause = problem.__cause__
        if isinstance(cause, ModuleNotFoundError) and name.startswith(cause.name or "?"):
            raise Problem(
                f"there is no module or file {name!r}"
                f"{meant(name, [p.name for p in Path().glob('*.py')])}"
            ) from None
        raise


@contextlib.contextmanager
def user_code(source: str, doing: str) -> Iterator[None]:
    """Around code of the user's: stdout stays ours, and what it raises names the user's line."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (Problem, KeyboardInterrupt):
        raise
    except SystemExit as error:
        raise failed(f"{source} called sys.exit({error.code!r}) {doing}") from error
    except BaseException as error:
        raise failed(*_told(source, doing, error)) from error


def _told(source: str, doing: str, error: BaseException) -> tuple[str, str]:
    """What a user's exception is reported as: one line, and the user's own frames."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    kind = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        at = f"{os.path.basename(error.filename)}:{error.lineno}"
        return f"{source} raised {kind} at {at} {doing} (your code): {error.msg}", ""
    last = frames[-1] if frames else None
    at = f" at {os.path.basename(last.filename)}:{last.lineno}" if last else ""
    text = error.summary if isinstance(error, errors.StaticGraphError) else str(error)
    whose = " (your code)" if frames else ""
    return (
        f"{source} raised {kind}{at} {doing}{whose}" + (f": {text}" if text else ""),
        "".join(traceback.format_list(frames)),
    )


def _is_users(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    real = os.path.realpath(filename)
    return not real.startswith(_FOREIGN) and not errors.is_ours(real)
