"""Seconds to import, and from a model's first line to its first result: the MLP's Adam step.

Cold: empty disk caches. Warm: a new process, with every library's own disk cache filled.
"""

import time
from functools import partial

from benchmarks import mlp_step
from benchmarks.harness import ProcessRow


def first_result(build):
    data = mlp_step.data("float32")
    began = time.perf_counter()
    build(data).run()
    return {"compile": time.perf_counter() - began}


def only_import():
    return {}


BUILDS = {
    "staticgraph": mlp_step.staticgraph,
    "jax": mlp_step.jax,
    "torch.compile": partial(mlp_step.torch, compiled=True),
    "pytensor": mlp_step.pytensor,
}
CONTENDERS = {name: partial(first_result, build) for name, build in BUILDS.items()}

ROWS = [
    ProcessRow(
        name="import",
        title="import, NumPy included",
        contenders=dict.fromkeys(("staticgraph", "jax", "torch", "pytensor"), only_import),
        clock="import",
        warm=True,
        limit=0.5,
    ),
    ProcessRow(
        name="compile-cold",
        title="MLP step, first result, empty disk caches",
        contenders=CONTENDERS,
        clock="compile",
        warm=False,
        reach={"jax": 1 / 3},
    ),
    ProcessRow(
        name="compile-warm",
        title="MLP step, first result in a new process, warm disk caches",
        contenders=CONTENDERS,
        clock="compile",
        warm=True,
        reach={"jax": 1.0},
    ),
]
