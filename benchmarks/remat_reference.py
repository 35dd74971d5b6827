"""The reference net of memory studies, side by side: measured peak and time within budgets.

    python -m benchmarks.remat_reference [--quick] [--only NAME]

16 layers of h = tanh(h @ W) * sigmoid(h), batch 8192, width 256, float32: value and gradient of the
sum, by every weight and the input. staticgraph plans within budgets; JAX and PyTorch are given what
they offer: `jax.checkpoint` per layer and per 4 layers, with default flags and without the pass
that removes its barriers, `torch.utils.checkpoint`, and `torch.compile` over
`activation_memory_budget`. Each row is a fresh process. The peak is the rise of the resident
high-water mark over a call, outputs left out; extra forward passes are extra floating-point
operations over those of one forward pass, as each library counts them.
"""

import argparse
import contextlib
import ctypes
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

LAYERS, BATCH, WIDTH = 16, 8192, 256
MIB = 1 << 20
BUDGETS = ("384MiB", "136MiB", "104MiB")
CURVE = "100%..30%:8"
SECONDS = 2.0  # of timing, in each process
BARRIERS = "--xla_disable_hlo_passes=cse_barrier_expander"


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, WIDTH), np.float32)
    ws = [rng.standard_normal((WIDTH, WIDTH), np.float32) / np.sqrt(WIDTH) for _ in range(LAYERS)]
    return x, [w.astype(np.float32) for w in ws]


# ---------------------------------------------------------------------------- in the fresh process


def _kilobytes(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def measured(call, output_bytes, warm):
    """(rise in bytes, seconds) of a call; `warm` calls before, for what compiles on the first."""
    for _ in range(warm):
        call()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _kilobytes("VmRSS")
    result = call()
    rise = (_kilobytes("VmHWM") - before) * 1024 - output_bytes
    del result
    taken = []
    end = time.perf_counter() + SECONDS
    while len(taken) < 5 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return rise, statistics.median(taken)


def jax_row(group, flags):
    """`group` layers under one jax.checkpoint; 0: none."""
    if flags:
        os.environ["XLA_FLAGS"] = flags
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    def some(h, ws):
        for w in ws:
            h = jnp.tanh(h @ w) * jax.nn.sigmoid(h)
        return h

    def loss(x, ws):
        size = group or LAYERS
        part = jax.checkpoint(some) if group else some
        for k in range(0, LAYERS, size):
            x = part(x, ws[k : k + size])
        return x.sum()

    x, ws = data()
    arguments = jax.device_put((x, ws))
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*arguments).compile()
    forward = jax.jit(loss).lower(*arguments).compile()
    peak, seconds = measured(lambda: jax.block_until_ready(step(*arguments)), outputs(), 0)
    flops, once = (c.cost_analysis()["flops"] for c in (step, forward))
    return {"peak": peak, "seconds": seconds, "flops": flops, "forward": once}


def torch_row(group, budget=None):
    """`group` layers under one checkpoint (0: none), or torch.compile within a budget."""
    import torch
    from torch.utils.checkpoint import checkpoint
    from torch.utils.flop_counter import FlopCounterMode

    def some(h, *ws):
        for w in ws:
            h = torch.tanh(h @ w) * torch.sigmoid(h)
        return h

    def loss(x, ws):
        size = group or LAYERS
        for k in range(0, LAYERS, size):
            part = ws[k : k + size]
            x = checkpoint(some, x, *part, use_reentrant=False) if group else some(x, *part)
        return x.sum()

    if budget is not None:
        import torch._functorch.config as functorch

        functorch.activation_memory_budget = budget
        loss = torch.compile(loss)
    x, ws = data()
    leaves = [torch.from_numpy(a).requires_grad_() for a in (x, *ws)]

    def call():
        value = loss(leaves[0], leaves[1:])
        return value, torch.autograd.grad(value, leaves)

    made = {}
    if budget is None:
        with FlopCounterMode(display=False) as counter:
            call()
        made["flops"] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            loss(leaves[0], leaves[1:])
        made["forward"] = counter.get_total_flops()
    made["peak"], made["seconds"] = measured(call, outputs(), 2)
    return made


def outputs():
    """Bytes of the results: the gradients of the input and of all weights."""
    return 4 * (BATCH * WIDTH + LAYERS * WIDTH * WIDTH) + 4


def ours_rows(budgets, limit):
    """One study of all budgets; memory is measured in a process of its own for each plan."""
    import staticgraph as sg
    from staticgraph import count, study

    x, ws = data()
    tx, tws = sg.input("x", x.shape), [sg.input(f"w{k}", w.shape) for k, w in enumerate(ws)]
    h = tx
    for w in tws:
        h = sg.ops.tanh(h @ w) * sg.ops.sigmoid(h)
    loss = h.sum()
    fn = sg.compile([loss, *sg.grad(loss, [tx, *tws])], [tx, *tws])
    forward = count.total(sg.compile(loss, [tx, *tws]).optimized).flops
    made = study.pareto(fn, [x, *ws], budgets, ["best"], time_limit=limit, seconds=SECONDS)
    return [
        {
            "name": f"staticgraph {p.budget / MIB:.0f} MiB",
            "skipped": "" if p.ok else p.status,
            "peak": p.measured,
            "planned": p.allocated,
            "seconds": p.seconds,
            "base": p.base_seconds,
            "predicted": (p.predicted or 0.0) / made.predicted,
            "extra": (p.extra_flops or 0) / forward,
            "equal": p.equal,
            "gap": p.gap,
        }
        for p in made.points
    ]


# ---------------------------------------------------------------------------- the table


def rows(quick):
    """(name, function to call in a fresh process) of every peer."""
    for flags, said in (("", ""), (BARRIERS, ", barriers kept")):
        for group, what in ((0, "keep all"), (1, "checkpoint per layer"), (4, "per 4 layers")):
            yield f"jax {what}{said}", functools.partial(jax_row, group, flags)
    for group, what in ((0, "keep all"), (1, "checkpoint per layer"), (4, "per 4 layers")):
        yield f"torch {what}", functools.partial(torch_row, group)
    for budget in (1.0, 0.5, 0.1) if quick else (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0):
        yield f"torch.compile budget {budget:g}", functools.partial(torch_row, 0, budget)


def fresh(name, quick):
    """The data of one row; a process that fails says why."""
    command = [sys.executable, "-m", "benchmarks.remat_reference", "--row", name]
    if quick:
        command.append("--quick")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return [{"name": name, "skipped": lines[-1][:80]}]
    made = json.loads(done.stdout.strip().splitlines()[-1])
    return made if isinstance(made, list) else [{"name": name, **made}]


def line(row, whole):
    """A line of the table; `whole` is the time of the same library without recomputation."""
    if row.get("skipped"):
        return f"{row['name']:44} skipped: {row['skipped']}"
    extra = row.get("extra")
    if extra is None and "forward" in row:
        extra = (row["flops"] - whole.get("flops", row["flops"])) / row["forward"]
    base = row.get("base") or whole.get("seconds") or row["seconds"]
    planned = f"{row['planned'] / MIB:8.1f}" if row.get("planned") is not None else f"{'-':>8}"
    passes = f"{extra:8.2f}" if extra is not None else f"{'-':>8}"
    bits = {True: "  bits equal", False: "  BITS DIFFER"}.get(row.get("equal"), "")
    gap = "" if row.get("gap") is None else f"  gap {100 * row['gap']:.2f} %"
    if "predicted" in row:
        gap += f"  predicted {row['predicted']:.2f}"
    return (
        f"{row['name']:44} {planned} {row['peak'] / MIB:9.1f} {1e3 * row['seconds']:9.1f}"
        f" {row['seconds'] / base:7.2f} {passes}{bits}{gap}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer points")
    parser.add_argument("--only", default="", help="rows whose name begins so")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        found = dict(rows(options.quick)).get(options.row)
        budgets = BUDGETS if options.quick else (*BUDGETS, CURVE)
        print(json.dumps(found() if found else ours_rows(budgets, 3.0 if options.quick else 10.0)))
        return
    print(
        f"{'':44} {'planned':>8} {'peak MiB':>9} {'ms':>9} {'times':>7} {'extra fw':>8}", flush=True
    )
    whole = {}
    for name in ("staticgraph", *(name for name, _ in rows(options.quick))):
        if not name.startswith(options.only):
            continue
        for row in fresh(name, options.quick):
            library = name.partition(" ")[0]
            if "keep all" in name or name == "torch.compile budget 1":
                whole[library] = row
            print(line(row, whole.get(library, {})), flush=True)


if __name__ == "__main__":
    main()
