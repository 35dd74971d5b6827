"""`python -m benchmarks [ROW ...]`: every row, or those whose module or name starts so."""

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks import report
from benchmarks.harness import Options, measure

CALLS = (
    "elementwise",
    "normalization",
    "cross_entropy",
    "mlp_step",
    "hvp",
    "reductions",
    "matmul",
    "convolution",
    "ops_linalg",
    "ops_nn",
    "ops_windows",
    "ops_order",
    "ops_fft",
)
PROCESSES = ("digits_cold", "compile_time")
TABLES = ("derivatives", "memory", "check_numerics")


def arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="start of a module's or row's name")
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    parser.add_argument("--dtype", choices=("float32", "float64", "both"), default="both")
    parser.add_argument("--peers", metavar="A,B", help="only these beside ours")
    parser.add_argument("--rounds", type=int, default=Options.rounds)
    parser.add_argument(
        "--seconds", type=float, default=Options.turn_seconds, help="a contender's turn in a round"
    )
    parser.add_argument("--threads", type=int, default=Options.threads)
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PEER=PATH",
        help="run a peer in another environment's interpreter",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here too")
    return parser.parse_args(argv)


def chosen(wanted, dtype):
    """[(module name, row)] in reading order; a module of its own table has the row None."""
    found = []
    for name in CALLS + PROCESSES + TABLES:
        module = importlib.import_module(f"benchmarks.{name}")
        for row in getattr(module, "ROWS", [None]):
            names = (name,) if row is None else (name, row.name)
            if wanted and not any(n.startswith(w) for n in names for w in wanted):
                continue
            if row is None or dtype in ("both", row.dtype):
                found.append((name, row))
    return found


def main(argv=None):
    args = arguments(argv)
    rows = chosen(args.rows, args.dtype)
    if args.list:
        print(
            "\n".join(f"{name:14} {'(table)' if row is None else row.name}" for name, row in rows)
        )
        return 0
    if not rows:
        print(f"no row starts with {' or '.join(args.rows)}; see --list", file=sys.stderr)
        return 2
    options = Options(
        rounds=args.rounds,
        turn_seconds=args.seconds,
        threads=args.threads,
        only=frozenset(args.peers.split(",")) if args.peers else frozenset(),
        pythons=dict(pair.split("=", 1) for pair in args.python),
    )
    machine = report.machine()
    print(f"{machine['cpu']}, {options.threads} of {machine['cpus']} CPUs; ", end="")
    print(", ".join(f"{name} {version}" for name, version in machine["versions"].items()))
    print("ratio = peer's time / ours; peak MB = resident memory of the contender's own process")
    print("above the imported library (process rows: all of it)\n", flush=True)
    measured, tables = [], {}
    for name, row in rows:
        if row is None:
            text, tables[name] = importlib.import_module(f"benchmarks.{name}").report(options)
        else:
            results = measure(name, row, options)
            measured.append((row, results))
            text = report.row_table(row, results)
        print(text + "\n", flush=True)
    if measured:
        print(report.summary(measured))
        print("\n" + report.totals(measured))
    if args.json:
        records = [report.record(row, results) for row, results in measured]
        everything = {"machine": machine, "rows": records, "tables": tables}
        args.json.write_text(json.dumps(everything, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
