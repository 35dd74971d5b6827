"""Memory plans beside the published ones, on the published graphs.

    python -m benchmarks.remat_published [--data DIR] [--limit SECONDS] [--large]

Overheads in percent of one pass. The columns are quoted from the papers: Checkmate (Jain et al.,
MLSys 2020, a MILP by Gurobi) and MOCCASIN (Bartan et al., ICML 2023, 16 cores) from MOCCASIN's
poster, FastSA (Imanishi et al., NeurIPS 2023, one core) from its Table 1. Both of the former keep
the order of first runs. "-" where a paper gives nothing; "none" where it found no plan. The graphs
are MOCCASIN's files (--data names their folder); --large adds graphs of our own, of the same
families, down to 5 percent above the floor.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from staticgraph.errors import BudgetError
from staticgraph.passes.remat import families
from staticgraph.passes.remat.bound import floor
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.dagjson import load
from staticgraph.passes.remat.plan import solve
from staticgraph.passes.remat.simulate import simulate

# (file, percent of the peak): Checkmate, MOCCASIN, FastSA
PUBLISHED = {
    ("fcn_8_vgg", 90): ("0.0", "0.0", "0.1"),
    ("fcn_8_vgg", 80): ("0.1", "0.1", "0.1"),
    ("fcn_8_vgg", 70): ("-", "-", "3.0"),
    ("ResNet50", 90): ("0.1", "0.2", "0.2"),
    ("ResNet50", 80): ("0.3", "0.3", "0.4"),
    ("ResNet50", 70): ("-", "-", "0.8"),
    ("random_layered_n100", 90): ("0.8", "0.8", "0.0"),
    ("random_layered_n100", 80): ("2.3", "2.3", "0.3"),
    ("random_layered_n100", 70): ("-", "-", "2.2"),
    ("random_layered_n250", 90): ("0.9", "0.9", "0.0"),
    ("random_layered_n250", 80): ("none", "4.9", "0.0"),
    ("random_layered_n250", 70): ("-", "-", "2.6"),
    ("random_layered_n500", 90): ("none", "0.7", "0.03"),
    ("random_layered_n500", 80): ("none", "3.4", "2.3"),
    ("random_layered_n500", 70): ("-", "-", "4.8 at 73.5"),
    ("random_layered_n1000", 90): ("none", "0.7", "0.4"),
    ("random_layered_n1000", 80): ("none", "3.4", "2.5"),
    ("random_layered_n1000", 70): ("-", "-", "7.4"),
}
OTHERS = {
    "VGG16": (90,),
    "MobileNet": (90, 80, 70, 60, 50, 40, 30, 25),
}
HEAD = (
    f"{'graph':22} {'n':>5} {'budget':>7}  {'Checkmate':>9} {'MOCCASIN':>8} {'FastSA':>11} "
    f"{'ours':>8} {'bound':>8} {'gap':>8} {'s':>6}"
)


def row(dag: Dag, name: str, budget: int, label: str, cells: tuple[str, ...], limit: float) -> str:
    start = f"{name:22} {len(dag):5} {label:>7}  {cells[0]:>9} {cells[1]:>8} {cells[2]:>11}"
    try:
        plan = solve(dag, budget, time_limit=limit)
    except BudgetError as error:
        return f"{start}  no plan: {error.summary}"
    bound = plan.bound / dag.total - 1
    return (
        f"{start} {100 * plan.extra:8.4f} {100 * bound:8.4f} {100 * plan.gap:8.4f} "
        f"{plan.seconds:6.1f}"
    )


def published(folder: Path, limit: float) -> None:
    cells = PUBLISHED | {
        (name, share): ("-", "-", "-") for name, shares in OTHERS.items() for share in shares
    }
    for (name, share), quoted in cells.items():
        found = sorted(folder.glob(f"**/{name}[_ ]*.json"))
        if found:
            dag = load(found[0])
            peak = simulate(dag, range(len(dag))).peak
            print(row(dag, name, -(-peak * share // 100), f"{share}%", quoted, limit), flush=True)


def own(limit: float) -> None:
    graphs = [
        families.vgg([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)]),
        families.unet(),
        families.resnet([3, 4, 6, 3]),
        families.resnet([3, 8, 36, 3]),
        families.transformer(12),
        families.transformer(36),
        families.layered(500),
        families.layered(1000),
    ]
    for dag in graphs:
        peak, least = simulate(dag, range(len(dag))).peak, floor(dag).bytes
        budgets = {f"{share}%": -(-peak * share // 100) for share in (90, 80, 70, 50, 40, 30, 20)}
        budgets = {k: b for k, b in budgets.items() if b >= 1.05 * least}
        for label, budget in (budgets | {"1.05 fl": round(1.05 * least)}).items():
            print(row(dag, dag.name, budget, label, ("-",) * 3, limit), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    near = Path(__file__).resolve().parents[2] / "shared" / "data"
    data = Path(os.environ.get("STATICGRAPH_STUDY_DATA", near))
    parser.add_argument("--data", type=Path, default=data, help="folder of the published graphs")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds for each plan")
    parser.add_argument("--large", action="store_true", help="add graphs of our own")
    options = parser.parse_args()
    print(HEAD)
    published(options.data, options.limit)
    if options.large:
        own(options.limit)


if __name__ == "__main__":
    main()
