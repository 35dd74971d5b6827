"""What a study finds, as plain data: a point for each strategy and budget."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from staticgraph.errors import DagError
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.dagjson import from_json, to_json

SCHEMA = "staticgraph.study/1"
OK = "ok"


@dataclass
class Point:
    """What one strategy makes of one budget. Bytes are bytes, times are seconds.

    status: "ok", or why there is no plan; everything below is then None or empty.
    planned: peak of the plan on the dag. allocated: the arena (`fn.memory.peak_bytes`). measured:
        by how much a first call raised the resident memory of its process, outputs left out.
    extra: cost on the dag above one pass, bound: the least extra that any plan within the budget
        has, gap: their difference; all as fractions of one pass.
    predicted, seconds: time of a call by the cost table (of the nominal machine where nothing is
        run), at the pace that the machine has while the plan is measured, and as measured.
    base_seconds: of the function without a budget, measured in turns with it.
    extra_flops: beyond those of the function without a budget.
    equal: whether outputs and new values of variables have the bits of the function without.
    recomputed: what runs more than once. sequence: nodes of the dag in the order they run.
    """

    strategy: str
    budget: int
    status: str = OK
    planned: int | None = None
    allocated: int | None = None
    measured: int | None = None
    extra: float | None = None
    bound: float | None = None
    gap: float | None = None
    predicted: float | None = None
    seconds: float | None = None
    base_seconds: float | None = None
    extra_flops: int | None = None
    equal: bool | None = None
    recomputed: list[str] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)
    plan_seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.status == OK

    @property
    def slowdown(self) -> float | None:
        """Measured time over that of the function without a budget."""
        if self.seconds is None or not self.base_seconds:
            return None
        return self.seconds / self.base_seconds


@dataclass
class Study:
    """All points of one study, those done where it was interrupted.

    peak: bytes without a budget (the arena of a function, the peak of a plain dag). floor: bytes
    below which no plan exists. predicted: seconds without a budget by the cost table. places: the
    user's line of each node of the dag, where it is of a function.
    """

    name: str
    dag: Dag
    peak: int
    floor: int
    predicted: float | None = None
    flops: int | None = None
    threads: int | None = None
    places: list[str] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    interrupted: bool = False

    def __post_init__(self) -> None:
        # JSON, pictures and `explain` tell values apart by name.
        plain = {f.name: getattr(self.dag, f.name) for f in fields(Dag)}
        self.dag = Dag(**{**plain, "names": tuple(labels(self.dag))})

    @property
    def strategies(self) -> list[str]:
        return list(dict.fromkeys(p.strategy for p in self.points))

    def find(self, strategy: str | None = None, budget: int | None = None) -> Point:
        """The point of a strategy (by default the first) at a budget (by default the least that it
        keeps). Raises LookupError where there is none."""
        wanted = strategy or (self.strategies[0] if self.points else "")
        fits = [
            p
            for p in self.points
            if p.ok and p.strategy == wanted and (budget is None or p.budget == budget)
        ]
        if not fits:
            at = "" if budget is None else f" at {budget} B"
            raise LookupError(f"study: there is no plan of {wanted or 'any strategy'!r}{at}")
        return min(fits, key=lambda p: p.budget)

    # -- plain data --------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The study as data of JSON, its dag included, so that pictures can be drawn of it."""
        rest = {k: v for k, v in vars(self).items() if k not in ("dag", "points")}
        points = [asdict(p) for p in self.points]
        return {"schema": SCHEMA, **rest, "points": points, "dag": json.loads(to_json(self.dag))}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Study:
        """A study written by `to_json`; DagError where the text is none."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise DagError(f"not JSON: {error}") from None
        if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
            raise DagError(f'a study must have "schema": "{SCHEMA}"')
        dag = from_json(json.dumps(data.pop("dag")))
        points = [Point(**p) for p in data.pop("points")]
        return cls(**data, dag=dag, points=points)

    # -- for people: written elsewhere, imported when asked for ------------------------------------

    def to_csv(self) -> str:
        """A line for each point, without the sequence."""
        from staticgraph.study import text

        return text.csv(self)

    def table(self) -> str:
        """A table of all points, as text."""
        from staticgraph.study import text

        return text.table(self)

    def to_svg(
        self, picture: str = "pareto", *, strategy: str | None = None, budget: int | None = None
    ) -> str:
        """A picture: "pareto" (all curves above the bound), "memory" (what is live at each step),
        or "grid" (what is computed and kept when); the last two of the plan that `find` gives.

        Raises ValueError for another name, LookupError where there is no such plan.
        """
        from staticgraph.study import pictures

        return pictures.draw(self, picture, strategy, budget)

    def to_png(
        self, picture: str = "pareto", *, strategy: str | None = None, budget: int | None = None
    ) -> bytes:
        """The picture that `to_svg` makes, as a PNG file."""
        from staticgraph.study import raster

        return raster.png(self.to_svg(picture, strategy=strategy, budget=budget))

    def to_html(self) -> str:
        """One page for a browser without network: the table, all pictures, the study as JSON."""
        from staticgraph.study import page

        return page.page(self)


def labels(dag: Dag) -> list[str]:
    """Names of the nodes, with their numbers where several have one name."""
    times = Counter(dag.names)
    return [f"{n} #{v}" if times[n] > 1 else n for v, n in enumerate(dag.names)]


def again(dag: Dag, sequence: Sequence[int]) -> list[str]:
    """The nodes that run more than once, with how often, in order of their first run."""
    names = labels(dag)
    return [f"{names[v]} x{n}" for v, n in Counter(sequence).items() if n > 1]
