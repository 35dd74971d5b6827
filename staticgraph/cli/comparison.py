"""Comparing two models, or one with itself under other options: rounds of fresh processes.

Every round runs both, each in a process of its own, and the order alternates, so that a drift of
the machine falls on both. Results are compared before times are.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from staticgraph.cli import verdicts
from staticgraph.cli.models import Request
from staticgraph.cli.problems import INCONCLUSIVE, Problem
from staticgraph.cli.verdicts import Judgement
from staticgraph.cli.worker import Task, profile_afresh
from staticgraph.profiling.report import Report
from staticgraph.profiling.rows import KernelRow, decode

SCHEMA = "staticgraph.compare/1"


@dataclass(frozen=True)
class Difference:
    """Where results of a and b differ."""

    name: str
    text: str
    largest: float | None = None  # absolute


@dataclass(frozen=True)
class Change:
    """Kernels of a that became kernels of b (none on one side: new, or gone)."""

    a: list[str]
    b: list[str]
    seconds: float  # what b takes more
    significant: bool


@dataclass
class Comparison:
    """All that is known of a against b; times in seconds."""

    a: str
    b: str
    a_median: float
    b_median: float
    a_medians: list[float]
    b_medians: list[float]
    wall: Judgement
    paired: bool
    differences: list[Difference] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    explained: float = 0.0  # seconds of the difference that `changes` amount to
    tested: int = 0  # kernels that both have
    interrupted: bool = False
    schema: str = SCHEMA

    @property
    def verdict(self) -> str:
        return self.wall.verdict


def compare(
    a: str | Request,
    b: str | Request,
    *,
    rounds: int = 10,
    seconds: float = 0.3,
    runs: int | None = None,
    warmup: int | None = None,
    on_round: Callable[[int, int | None], None] = lambda done, total: None,
) -> Comparison:
    """Compare two models by the names that the command line takes, or as Requests.

    Ctrl-C gives the comparison of the rounds done. Problem where a model does not work.
    """
    sides = [Request(x) if isinstance(x, str) else x for x in (a, b)]
    reports: tuple[list[Report], list[Report]] = ([], [])
    differences: list[Difference] = []
    interrupted = False
    with tempfile.TemporaryDirectory(prefix="staticgraph-") as folder:
        files = [str(Path(folder, f"{name}.npz")) for name in "ab"]
        try:
            for k in range(rounds):
                on_round(k, rounds)
                made: dict[int, Report] = {}
                for side in (0, 1) if k % 2 == 0 else (1, 0):
                    kept = "" if k else files[side]
                    task = Task(sides[side], seconds, runs, warmup, results=kept)
                    made[side] = decode(Report, profile_afresh(task))
                if not k:
                    differences = result_differences(*files)
                for side in (0, 1):
                    reports[side].append(made[side])
        except KeyboardInterrupt:
            if not reports[0]:
                raise
            interrupted = True
    names = [title(side, sides[0]) for side in sides]
    made_of = of_reports(*reports, paired=True, names=names)
    made_of.differences = differences
    made_of.interrupted = interrupted
    return made_of


def title(request: Request, plain: Request) -> str:
    """'mlp.py:step --without fuse': the model and what its options add."""
    words = [request.model]
    if request.mode:
        words.append(f"--mode {request.mode}")
    if request.threads is not None:
        words.append(f"--threads {request.threads}")
    if request.memory_budget:
        words.append(f"--memory-budget {request.memory_budget}")
    words += [f"--without {name}" for name in request.without]
    words += [f"-D {text}" for text in request.define]
    if request.inputs != plain.inputs:
        words += [f"-i {text}" for text in request.inputs]
    return " ".join(words)


def compare_files(a: Report, b: Report, names: Sequence[str], force: bool = False) -> Comparison:
    """Compare what `profile -o` recorded; Problem where nothing can be said.

    `force` allows other machines, threads and dtypes.
    """
    differing = [
        word
        for word, x, y in (
            ("machine", _cpu(a), _cpu(b)),
            ("threads", a.model.threads, b.model.threads),
            ("dtype", a.model.dtypes, b.model.dtypes),
            ("device", a.model.target, b.model.target),
        )
        if x != y
    ]
    if differing and not force:
        listed = " and ".join(filter(None, [", ".join(differing[:-1]), differing[-1]]))
        raise Problem(
            f"{names[0]} and {names[1]} differ in {listed};"
            " a time comparison would mean nothing (--force to print)"
        )
    counts = [len(r.wall.samples) for r in (a, b)]
    if min(counts) < 2:
        held = "both files hold one process each"
        if max(counts) > 1:
            held = "one of the files holds one process"
        raise Problem(
            f"{held}; between-process noise cannot be told from a change."
            " Re-run with --processes 5",
            INCONCLUSIVE,
        )
    return of_reports([a], [b], paired=False, names=names)


def _cpu(report: Report) -> str | None:
    """What the machine calls itself; unknown where no roofs were measured."""
    return report.machine.cpu if report.machine is not None else None


def of_reports(
    a: list[Report], b: list[Report], *, paired: bool, names: Sequence[str]
) -> Comparison:
    """The comparison of processes: paired, one report each per round; else all of one report."""
    a_medians, b_medians = (
        [float(np.median(s)) for r in side for s in r.wall.samples] for side in (a, b)
    )
    judge = verdicts.paired if paired else verdicts.unpaired
    changes, tested = kernel_changes(a, b)
    return Comparison(
        a=names[0],
        b=names[1],
        a_median=float(np.median(a_medians)),
        b_median=float(np.median(b_medians)),
        a_medians=a_medians,
        b_medians=b_medians,
        wall=judge(a_medians, b_medians),
        paired=paired,
        changes=changes,
        explained=sum(c.seconds for c in changes),
        tested=tested,
    )


# ---------------------------------------------------------------------------- kernels


def kernel_changes(a: list[Report], b: list[Report]) -> tuple[list[Change], int]:
    """Kernels that differ, and those that are equal code but take another time; and of how many.

    Code is equal where its key in the kernel cache is. The times of equal kernels are tested
    together, so that among many of them chance finds none.
    """
    x, y = a[0].kernels, b[0].kernels
    matcher = difflib.SequenceMatcher(None, [k.key for k in x], [k.key for k in y], autojunk=False)
    changed, same = [], []
    for kind, i, j, p, q in matcher.get_opcodes():
        if kind == "equal":
            same += list(zip(range(i, j), range(p, q), strict=True))
        else:
            more = _per_run(b, range(p, q)) - _per_run(a, range(i, j))
            names = [[_name(k) for k in rows] for rows in (x[i:j], y[p:q])]
            changed.append(Change(*names, more, True))
    tests = [verdicts.t_test(_log_ratios(a, b, i, p)) for i, p in same]
    for (i, p), fallen in zip(same, verdicts.holm(tests), strict=True):
        if fallen:
            more = _per_run(b, [p]) - _per_run(a, [i])
            changed.append(Change([_name(x[i])], [_name(y[p])], more, True))
    changed.sort(key=lambda c: -abs(c.seconds))
    return changed, len(same)


def _name(row: KernelRow) -> str:
    return f"{row.index} {row.name}"


def _per_run(reports: list[Report], rows: Sequence[int]) -> float:
    """Seconds per run that some kernels take: the median over processes."""
    return float(
        np.median([sum(r.kernels[k].median * r.kernels[k].calls for k in rows) for r in reports])
    )


def _log_ratios(a: list[Report], b: list[Report], i: int, p: int) -> list[float]:
    pairs = [(r.kernels[i].median, s.kernels[p].median) for r, s in zip(a, b, strict=True)]
    return [float(np.log(y / x)) for x, y in pairs if x > 0 and y > 0]


# ---------------------------------------------------------------------------- results


def result_differences(a: str, b: str) -> list[Difference]:
    """How the results kept in two .npz files differ; empty where every bit is equal."""
    with np.load(a) as x, np.load(b) as y:
        if list(x) != list(y):
            return [Difference("results", f"a has {len(x.files)}, b has {len(y.files)}")]
        found = [difference(name, x[name], y[name]) for name in x.files]
    return [d for d in found if d is not None]


def difference(name: str, x: np.ndarray, y: np.ndarray) -> Difference | None:
    """How two arrays differ, None where their bits are equal."""
    if (x.shape, x.dtype) != (y.shape, y.dtype):
        return Difference(name, f"{x.dtype}{list(x.shape)} against {y.dtype}{list(y.shape)}")
    if x.tobytes() == y.tobytes():
        return None
    wide = np.complex128 if x.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        gap = np.abs(x.astype(wide) - y.astype(wide))
    odd = np.isnan(x) != np.isnan(y) if x.dtype.kind in "fc" else np.zeros(x.shape, bool)
    if odd.any():
        at = _position(odd)
        return Difference(name, f"NaN in one of them, at {int(odd.sum())} places, first {at}")
    gap = np.where(np.isnan(gap), 0, gap)  # NaN in both, or equal infinities
    largest = float(gap.max())
    if largest == 0:
        return Difference(name, "signs of zero, or which NaN", 0.0)
    text = f"largest |a - b| = {largest:.3g} at {_position(gap == largest)}"
    if x.dtype.kind == "f":
        scale = np.spacing(np.maximum(np.abs(x), np.abs(y)))
        text += f", {float((gap / scale).max()):.3g} ulp"
    return Difference(name, f"{text}, {int((gap > 0).sum())} of {x.size} entries", largest)


def _position(mask: np.ndarray) -> str:
    place = np.unravel_index(int(np.argmax(mask)), mask.shape)
    return "(" + ", ".join(str(int(k)) for k in place) + ")"
