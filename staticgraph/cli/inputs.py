"""Input specs of the command line, and the arrays they stand for.

x=128x784xf32            a shape and a dtype; f32[128,784] is read too
x=128x784xf32:normal,0,1 with numbers drawn from a distribution
x=:int,0,10              the declared type with another distribution
x=@x.npy                 an array from a file
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from staticgraph.cli.problems import Problem, meant
from staticgraph.types import DTYPES, LONG, SHORT, TensorType, is_complex, is_float

#: distributions: the numbers they take and what these are by default
DISTRIBUTIONS: dict[str, tuple[float, ...]] = {
    "normal": (0, 1),
    "uniform": (-1, 1),
    "int": (0, 2),
    "zeros": (),
    "ones": (),
}
_HOW = "write x=128x784xf32, x=128x784xf32:normal,0,1 or x=@x.npy"


@dataclass(frozen=True)
class InputSpec:
    """One `-i`: a type, perhaps only parts of it, and where the numbers come from."""

    name: str
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    draw: tuple[str, tuple[float, ...]] | None = None
    path: str = ""
    text: str = ""

    @property
    def integer(self) -> int | None:
        """The number of `-i batch=128`, which may mean an argument of a factory."""
        return self.shape[0] if self.text.isdigit() and self.shape else None


def parse_spec(text: str) -> InputSpec:
    """An InputSpec from the words after `-i`."""
    name, equals, rest = text.partition("=")
    if not equals or not name.isidentifier() or not rest:
        raise Problem(f"-i {text}: {_HOW}")
    if rest.startswith("@"):
        return InputSpec(name, path=rest[1:], text=rest)
    typed, colon, drawn = rest.partition(":")
    shape, dtype = _type(text, typed) if typed else (None, None)
    return InputSpec(name, shape, dtype, _draw(text, drawn) if colon else None, text=rest)


def _type(text: str, typed: str) -> tuple[tuple[int, ...] | None, str | None]:
    bracketed = re.fullmatch(r"(\w+)\[([\d, ]*)\]", typed)
    if bracketed:
        return _shape(text, re.findall(r"\d+", bracketed[2])), _dtype(text, bracketed[1])
    *sizes, last = typed.split("x")
    if last.isdigit():
        return _shape(text, [*sizes, last]), None
    return _shape(text, sizes), _dtype(text, last)


def _shape(text: str, sizes: Sequence[str]) -> tuple[int, ...]:
    if not all(s.isdigit() for s in sizes):
        raise Problem(f"-i {text}: the sizes of a shape are whole numbers; {_HOW}")
    return tuple(map(int, sizes))


def _dtype(text: str, word: str) -> str:
    name = LONG.get(word, word)
    if name not in DTYPES:
        raise Problem(f"-i {text}: no dtype {word!r}{meant(word, SHORT.values(), also=13)}")
    return name


def _draw(text: str, drawn: str) -> tuple[str, tuple[float, ...]]:
    kind, *words = drawn.split(",")
    if kind not in DISTRIBUTIONS:
        raise Problem(f"-i {text}: no distribution {kind!r}{meant(kind, DISTRIBUTIONS)}")
    default = DISTRIBUTIONS[kind]
    try:
        numbers = tuple(map(float, words))
    except ValueError:
        numbers = (math.nan,)
    if len(numbers) not in (0, len(default)) or any(map(math.isnan, numbers)):
        wanted = ",".join([kind, *(f"{d:g}" for d in default)])
        raise Problem(f"-i {text}: {kind} takes {len(default)} numbers, such as :{wanted}")
    return kind, numbers or default


def draw(
    t: TensorType, how: tuple[str, tuple[float, ...]] | None, rng: np.random.Generator
) -> np.ndarray:
    """Numbers of a type. By default normal floats, and integers 0 and 1: labels and indices."""
    if how is None:
        inexact = is_float(t.dtype) or is_complex(t.dtype)
        how = ("normal" if inexact else "int", DISTRIBUTIONS["normal" if inexact else "int"])
    kind, numbers = how
    if kind == "normal":
        made = rng.normal(*numbers, t.shape)
    elif kind == "uniform":
        made = rng.uniform(*numbers, t.shape)
    elif kind == "int":
        made = rng.integers(int(numbers[0]), max(int(numbers[1]), int(numbers[0]) + 1), t.shape)
    else:
        made = np.full(t.shape, kind == "ones")
    return np.asarray(made).astype(t.dtype)


def drawn_as(how: tuple[str, tuple[float, ...]] | None, seed: int) -> str:
    """'random, seed 0', 'zeros', 'int 0,10, seed 0': where numbers come from."""
    if how is None:
        return f"random, seed {seed}"
    kind, numbers = how
    return f"{kind} {','.join(f'{x:g}' for x in numbers)}, seed {seed}" if numbers else kind


def array_file(path: str) -> np.ndarray:
    """The array of `@x.npy`."""
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise Problem(f"there is no file {path}") from None
    except (OSError, ValueError, EOFError) as error:
        raise Problem(f"{path} is no .npy file: {error}") from None
    if not isinstance(found, np.ndarray):
        raise Problem(f"{path} holds several arrays; pass it as --inputs {path}")
    return found


def arrays_file(path: str) -> dict[str, np.ndarray]:
    """The arrays of `--inputs batch.npz`, by name."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise Problem(f"{path} holds one array without a name; pass it as -i x=@{path}")
        return dict(found)
    except FileNotFoundError:
        raise Problem(f"there is no file {path}") from None
    except (OSError, ValueError, EOFError) as error:
        raise Problem(f"{path} is no .npz file: {error}") from None


@dataclass(frozen=True)
class Given:
    """All that the command line says about inputs."""

    specs: Mapping[str, InputSpec]
    arrays: Mapping[str, np.ndarray]
    file: str
    seed: int

    @classmethod
    def read(cls, texts: Sequence[str], file: str | None, seed: int) -> Given:
        specs = [parse_spec(text) for text in texts]
        arrays = arrays_file(file) if file else {}
        arrays |= {s.name: array_file(s.path) for s in specs if s.path}
        return cls({s.name: s for s in specs}, arrays, file or "", seed)

    def without(self, names: set[str]) -> Given:
        """Leave out what turned out to be arguments of a factory."""
        specs = {n: s for n, s in self.specs.items() if n not in names}
        return Given(specs, self.arrays, self.file, self.seed)

    def type_of(self, name: str) -> TensorType | None:
        """The type that a traced function's parameter gets, None where nothing says it."""
        if name in self.arrays:
            a = self.arrays[name]
            return TensorType(a.dtype.name, a.shape)
        spec = self.specs.get(name)
        if spec is None or spec.shape is None:
            return None
        return TensorType(spec.dtype or "float32", spec.shape)


def arrays_for(
    names: Sequence[str],
    types: Sequence[TensorType],
    given: Given,
    examples: Mapping[str, np.ndarray],
    label: str,
    cure: str = "",
) -> tuple[list[np.ndarray], list[str]]:
    """An array for each input, and in words where each comes from.

    What `-i` and `--inputs` say goes first, then the model's own examples, then random numbers.
    """
    for name in given.specs:
        if name not in names:
            raise Problem(f"{label} has no input {name!r}{meant(name, names)}")
    missing = [n for n in names if n not in given.arrays and n not in given.specs]
    if given.file and missing:
        held = ", ".join(n for n in given.arrays if n not in given.specs)
        raise Problem(
            f"--inputs {Path(given.file).name} has no array {missing[0]!r}; it has: {held}"
        )
    rng = np.random.default_rng(given.seed)
    arrays, origins = [], []
    for name, t in zip(names, types, strict=True):
        spec = given.specs.get(name, InputSpec(name))
        if name in given.arrays:
            a, origin = given.arrays[name], spec.path or Path(given.file).name
        elif name in examples and spec.text == "":
            a, origin = np.asarray(examples[name]), "the model's own"
        else:
            check_type(name, spec.shape, spec.dtype, t, label, cure)
            a, origin = draw(t, spec.draw, rng), drawn_as(spec.draw, given.seed)
        check_type(name, a.shape, None, t, label, cure)
        if not np.can_cast(a.dtype, t.dtype, "same_kind"):
            raise Problem(f"input {name!r} is {a.dtype} but {label} declares {t.dtype}")
        arrays.append(np.ascontiguousarray(a, t.dtype).reshape(t.shape))
        origins.append(origin)
    return arrays, origins


def check_type(
    name: str,
    shape: tuple[int, ...] | None,
    dtype: str | None,
    t: TensorType,
    label: str,
    cure: str,
) -> None:
    """Refuse an input of another shape or dtype than the model declares."""
    if (shape is not None and shape != t.shape) or (dtype is not None and dtype != t.dtype):
        given = sizes(t.shape if shape is None else shape) + (f"x{SHORT[dtype]}" if dtype else "")
        declared = sizes(t.shape) + (f"x{SHORT[t.dtype]}" if dtype else "")
        raise Problem(
            f"input {name!r} is {given.strip('x')} but {label} declares {declared.strip('x')};"
            f" pass {cure or f'-i {name}={sizes(t.shape)}x{SHORT[t.dtype]}'}"
            " or --inputs with that shape"
        )


def sizes(shape: Sequence[int]) -> str:
    """'128x784'."""
    return "x".join(map(str, shape))
