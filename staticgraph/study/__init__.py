"""Memory/recompute studies: plan, prove, run, measure.

    study = pareto(fn, arrays, "100%..20%", ["best", "chen-sqrt"])
    print(study.table())
    Path("study.svg").write_text(study.to_svg())

`of_dag` does the same for a plain dag of costs and bytes, `as_planned` shows one function as it is,
`explain` says of one value why it is kept or computed again.
"""

from staticgraph.study.pareto import as_planned, of_dag, pareto
from staticgraph.study.rows import Point, Study
from staticgraph.study.why import Explained, explain

__all__ = ["Explained", "Point", "Study", "as_planned", "explain", "of_dag", "pareto"]
