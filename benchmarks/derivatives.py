"""Nodes and seconds of the n-th derivative of sin(s) * exp(s**2), n = 1 .. 8.

Each order is built from scratch, compiled and called once; the value is held to a recurrence.
One process per library, `LIMIT` seconds in all: an order that is not reached stays empty.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from numpy.polynomial import Polynomial

from benchmarks import peers
from benchmarks.harness import ROOT

ORDERS = range(1, 9)
POINT = 0.7
LIMIT = 60.0


def exact(order):
    """d/ds of (p sin + q cos) exp(s**2) has p' + 2sp - q and q' + 2sq + p as its p and q."""
    p, q, s = Polynomial([1.0]), Polynomial([0.0]), Polynomial([0.0, 1.0])
    for _ in range(order):
        p, q = p.deriv() + 2 * s * p - q, q.deriv() + 2 * s * q + p
    return (p(POINT) * np.sin(POINT) + q(POINT) * np.cos(POINT)) * np.exp(POINT**2)


def staticgraph(order):
    import staticgraph as sg

    s = sg.input("s", (), "float64")
    y = sg.ops.sin(s) * sg.ops.exp(s**2)
    for _ in range(order):
        y = sg.grad(y, s)
    function = sg.compile(y)
    value = float(function(s=np.array(POINT)))
    return value, len(function.graph.nodes)


def jax(order):
    import jax
    import jax.numpy as jnp

    def function(s):
        return jnp.sin(s) * jnp.exp(s**2)

    for _ in range(order):
        function = jax.grad(function)
    traced = jax.jit(function).trace(POINT)
    return float(traced.lower().compile()(POINT)), equations(traced.jaxpr.jaxpr)


def equations(jaxpr):
    """Equations of a program, those of its inner programs instead of the calls to them."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [p.jaxpr for p in equation.params.values() if hasattr(p, "jaxpr")]
        total += sum(map(equations, inner)) if inner else 1
    return total


def pytensor(order):
    import pytensor
    import pytensor.tensor as pt
    from pytensor.graph.fg import FunctionGraph

    s = pt.dscalar("s")
    y = pt.sin(s) * pt.exp(s**2)
    for _ in range(order):
        y = pytensor.grad(y, s)
    nodes = len(FunctionGraph([s], [y], clone=True).apply_nodes)
    return float(pytensor.function([s], y, mode="NUMBA")(POINT)), nodes


CONTENDERS = {"staticgraph": staticgraph, "jax": jax, "pytensor": pytensor}


def serve(name):
    """In the contender's process: one line of JSON per order."""
    peers.load(name, 2)
    peers.configure(name, "float64", 2)
    for order in ORDERS:
        began = time.perf_counter()
        value, nodes = CONTENDERS[name](order)
        seconds = time.perf_counter() - began
        right = bool(abs(value / exact(order) - 1.0) < 1e-9)
        print(json.dumps({"order": order, "nodes": nodes, "seconds": seconds, "right": right}))
        sys.stdout.flush()


def collect(name, options):
    """The lines a contender printed within the limit."""
    with tempfile.TemporaryDirectory(prefix="staticgraph-bench-") as cache:
        environment = os.environ | peers.environment(options.threads, cache)
        command = [options.python(name), "-m", "benchmarks.derivatives", name]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, timeout=LIMIT
            )
            text = done.stdout
        except subprocess.TimeoutExpired as stopped:
            text = stopped.stdout or b""
    return [json.loads(line) for line in text.decode().splitlines() if line.startswith("{")]


def report(options):
    """(text, data) of the table: nodes as built and seconds, per order and library."""
    found = {name: collect(name, options) for name in CONTENDERS if options.takes(name)}
    lines = ["n-th derivative of sin(s) * exp(s**2): nodes as built, seconds to the first value"]
    lines.append("  order" + "".join(f"{name:>24}" for name in found))
    for order in ORDERS:
        cells = []
        for rows in found.values():
            row = next((row for row in rows if row["order"] == order), None)
            wrong = "" if row is None or row["right"] else " WRONG"
            text = "-" if row is None else f"{row['nodes']} {row['seconds']:8.2f} s{wrong}"
            cells.append(f"{text:>24}")
        lines.append(f"  {order:5}" + "".join(cells))
    return "\n".join(lines), found


if __name__ == "__main__":
    serve(sys.argv[1])
