"""Memory/recompute studies: plan, prove, run, measure.

    study = pareto(fn, arrays, "100%..20%", ["best", "chen-sqrt"])
    print(study.table())
    Path("study.svg").write_text(study.to_svg())

`of_dag` does the same for a plain dag of costs and bytes, `explain` says of one value why it is
kept or computed again.
"""

from staticgraph.study.pareto import of_dag, pareto
from staticgraph.study.rows import Point, Study
from staticgraph.study.why import Explained, explain

__all__ = ["Explained", "Point", "Study", "explain", "of_dag", "pareto"]
