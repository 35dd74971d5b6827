"""Graphs as files: one zip of text and plain .npy arrays, so nothing in it can run.

    header.json                          {"format": "staticgraph", "version": 1}
    graph.sg                             the text form with the user's lines; arrays by npy'key'
    extra.json                           what the caller wants back, tuples and types included
    constants/KEY.npy variables/LABEL.npy

A file is written beside its place and then moved there: a reader sees the old one or the new one.
"""

from __future__ import annotations

import io
import json
import os
import uuid
import zipfile
import zlib
from collections import namedtuple
from typing import Any

import numpy as np

from staticgraph.errors import InputError, StaticGraphError
from staticgraph.ir import Graph
from staticgraph.text import graph_text, parse, variable_labels
from staticgraph.types import TensorType, spec

FORMAT, VERSION = "staticgraph", 1
_TYPES = {"list": list, "tuple": tuple, "dict": dict}
_DAMAGE = (
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    MemoryError,
    NotImplementedError,  # a compression method or encryption that zipfile does not know
    RecursionError,
    zlib.error,
)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal graphs give equal files


def save_graph(path: str | os.PathLike[str], graph: Graph, extra: dict[str, Any]) -> None:
    """Write a graph, the values of its variables and constants, and `extra` to one file.

    `extra` is made of None, bools, numbers, strings, lists, tuples, dicts, TensorTypes and the
    types that tree forms hold; anything else raises InputError. OSError where the file cannot be
    written; what was there before stays.
    """
    constants: dict[int, tuple[str, np.ndarray]] = {}

    def keep(array: np.ndarray) -> str:
        key, _ = constants.setdefault(id(array), (str(len(constants)), array))
        return f"npy'{key}'"

    texts = {
        "header.json": json.dumps({"format": FORMAT, "version": VERSION}),
        "graph.sg": graph_text(graph, lines=True, pack=keep),
        "extra.json": json.dumps(_encode(extra)),
    }
    arrays = {f"constants/{key}.npy": array for key, array in constants.values()}
    for variable, label in variable_labels(graph).items():
        arrays[f"variables/{label}.npy"] = variable.value
    place = os.path.realpath(path)
    draft = f"{place}.{uuid.uuid4().hex}.tmp"
    try:
        with open(draft, "xb") as file:
            _write(file, texts, arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, place)
    except BaseException:
        if os.path.exists(draft):
            os.unlink(draft)
        raise


def _write(file: Any, texts: dict[str, str], arrays: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in texts.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            # File names in comments may hold bytes that are no UTF-8.
            archive.writestr(info, text.encode("utf-8", "surrogateescape"))
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name, _EPOCH), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load_graph(path: str | os.PathLike[str]) -> tuple[Graph, dict[str, Any]]:
    """The graph, with new variables that hold the saved values, and `extra`.

    Raises InputError where the file is missing, damaged, of another kind or from a newer version.
    """
    name = os.fspath(path)
    try:
        with zipfile.ZipFile(name) as archive:
            return _read(archive)
    except FileNotFoundError:
        raise InputError(f"load: there is no file {name!r}") from None
    except OSError as error:
        raise InputError(f"load: cannot read {name!r}: {error.strerror or error}") from None
    except StaticGraphError as error:
        raise InputError(f"load: {name!r}: {error.summary}") from None
    except zipfile.BadZipFile as error:
        raise InputError(f"load: {name!r} is damaged or no saved graph ({error})") from None
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"load: {name!r} is damaged ({reason})") from None


def _read(archive: zipfile.ZipFile) -> tuple[Graph, dict[str, Any]]:
    members = archive.namelist()
    header = json.loads(archive.read("header.json")) if "header.json" in members else None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError("this zip file is no saved graph")
    if header.get("version") != VERSION:
        raise InputError(
            f"written in version {header.get('version')!r} of the format, this is version {VERSION}"
        )
    found: dict[str, dict[str, np.ndarray]] = {"constants": {}, "variables": {}}
    for member in members:
        folder, _, key = member.removesuffix(".npy").partition("/")
        if folder in found:
            # The whole member is read first: only its end has the checksum.
            data = io.BytesIO(archive.read(member))
            array = np.lib.format.read_array(data, allow_pickle=False)
            found[folder][key] = array.astype(array.dtype.newbyteorder("="), copy=False)
    text = archive.read("graph.sg").decode("utf-8", "surrogateescape")
    graph = parse(text, found["variables"], arrays=found["constants"])
    missing = set(variable_labels(graph).values()) - set(found["variables"])
    if missing:
        raise InputError(f"the value of variable {min(missing)!r} is missing")
    return graph, _decode(json.loads(archive.read("extra.json")))


def _encode(value: Any) -> Any:
    """Plain JSON in which tuples, dicts with any keys, types and TensorTypes stay what they are."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if type(value) is list:
        return [_encode(v) for v in value]
    if type(value) is tuple:
        return {"tuple": [_encode(v) for v in value]}
    if type(value) is dict:
        return {"dict": [[_encode(k), _encode(v)] for k, v in value.items()]}
    if isinstance(value, TensorType):
        return {"spec": [value.dtype, list(value.shape)]}
    if isinstance(value, type) and value in _TYPES.values():
        return {"type": value.__name__}
    if isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
        return {"namedtuple": [value.__name__, list(value._fields)]}
    raise InputError(f"save: {value!r} of type {type(value).__name__} cannot be stored in a file")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, body),) = value.items()
    if kind == "complex":
        return complex(*body)
    if kind == "tuple":
        return tuple(_decode(v) for v in body)
    if kind == "dict":
        return {_decode(k): _decode(v) for k, v in body}
    if kind == "spec":
        return spec(body[1], body[0])
    if kind == "type":
        return _TYPES[body]
    if kind == "namedtuple":
        return namedtuple(*body)
    raise ValueError(f"unknown kind {kind!r}")
