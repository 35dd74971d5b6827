"""Arena of every benchmark graph against its lower bound: allocated bytes, not estimates."""

import importlib

from benchmarks.harness import OURS
from benchmarks.report import megabytes

MODULES = (
    "elementwise",
    "normalization",
    "cross_entropy",
    "mlp_step",
    "hvp",
    "reductions",
    "matmul",
    "convolution",
)
ALLOWED = 0.02


def graphs():
    """(name, compiled function) of every row's own side, and of the two digit networks."""
    from examples import digits

    for module in MODULES:
        for row in importlib.import_module(f"benchmarks.{module}").ROWS:
            yield row.name, row.contenders[OURS](row.data()).function
    yield "digits-mlp", digits.mlp()
    yield "digits-conv", digits.conv()


def report(options):
    """(text, data) of the table."""
    try:
        import staticgraph  # noqa: F401
    except ImportError as error:
        return f"memory: staticgraph is not installed: {error}", {}
    lines = [f"arena in MB against its lower bound, at most {ALLOWED:.0%} more"]
    lines.append(
        f"  {'graph':28} {'arena':>9} {'bound':>9} {'more':>7}"
        f" {'inputs':>9} {'state':>9} {'outputs':>9}"
    )
    data = {}
    for name, function in graphs():
        memory = function.memory
        arena, bound = memory.peak_bytes, memory.lower_bound_bytes
        more = arena / bound - 1.0 if bound else float(arena > 0)
        others = (memory.input_bytes, memory.state_bytes, memory.output_bytes)
        lines.append(
            f"  {name:28} {megabytes(arena):>9} {megabytes(bound):>9} {more:7.1%}"
            + "".join(f" {megabytes(count):>9}" for count in others)
            + ("" if more <= ALLOWED else "  OVER")
        )
        data[name] = {"arena_bytes": arena, "lower_bound_bytes": bound}
    return "\n".join(lines), data
