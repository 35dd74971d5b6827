"""Graphs of costs and bytes for the tests of memory plans, and the published ones where present."""

import os
import random
from pathlib import Path

import pytest

from staticgraph.passes.remat import dagjson
from staticgraph.passes.remat.dag import Dag

_BESIDE = Path(__file__).resolve().parent.parent.parent / "shared" / "data"

# remat.md, section 4: extra cost in % of one pass in the stored order, proved optimal, by the
# budget in % of the peak of the stored order; None where there is no plan.
OPTIMA = {
    "VGG16": {90: 1.9677, 80: None},
    "VGG19": {80: 2.7559},
    "fcn_8": {90: 0.029, 80: 0.136, 70: 0.891, 60: None},
    "unet": {90: 1.1289, 80: 1.9836, 70: 2.9673, 60: 4.451, 50: 6.9666},
    "segnet": {90: 0.103, 80: 0.2068, 70: 0.311, 60: 0.423},
    "MobileNet": {90: 0.163, 80: 0.370, 70: 0.626, 60: 1.067, 50: 1.635},
    "ResNet50": {90: 0.108, 80: 0.279, 70: 0.564, 60: 0.963, 50: 1.499},
}


def published(name):
    """A graph of the MOCCASIN repository, trained or random; skips where it is not present."""
    folder = Path(os.environ.get("STATICGRAPH_STUDY_DATA", _BESIDE)) / "moccasin"
    files = sorted(folder.glob(f"*{name}*.json"))
    files = [file for file in files if "test_nx" not in file.name]
    if not files:
        pytest.skip(f"no published graph {name} in {folder} (set STATICGRAPH_STUDY_DATA)")
    return dagjson.load(files[0])


def reversal(length):
    """A chain of equal steps and its adjoint: each adjoint reads the state before its step."""
    inputs = [(i - 1,) if i else () for i in range(length - 1)]
    inputs.append((length - 2,) if length > 1 else ())
    for i in range(length - 1, 0, -1):
        state = (i - 2,) if i > 1 else ()
        inputs.append((*state, len(inputs) - 1))
    return Dag((1,) * len(inputs), (1,) * len(inputs), inputs, name=f"reversal of {length}")


def training_chain(draw, length):
    """A chain of random costs and bytes whose gradients read the values of their layer."""
    inputs = [(i - 1,) if i else () for i in range(length)]
    inputs.append((length - 1,))
    for i in range(length - 1, -1, -1):
        around = [i - 1] if i and draw.random() < 0.6 else []
        own = [i] if draw.random() < 0.8 else []
        inputs.append((*around, *own, len(inputs) - 1))
    cost, size = ([draw.randint(1, 9) for _ in inputs] for _ in range(2))
    return Dag(cost, size, inputs)


def anything(draw, nodes):
    """A random graph with temporaries, in-place operands, outputs and nodes that run once."""
    inputs = [
        tuple(sorted(draw.sample(range(v), min(v, draw.choice((1, 1, 2, 3))))))
        if draw.random() < 0.9
        else ()
        for v in range(nodes)
    ]
    return Dag(
        cost=[draw.randint(1, 9) for _ in range(nodes)],
        size=[draw.randint(1, 9) for _ in range(nodes)],
        inputs=inputs,
        outputs=draw.sample(range(nodes), draw.choice((0, 0, 1, 2))),
        extra=[draw.choice((0, 0, 3)) for _ in range(nodes)],
        inplace=[{draw.choice(ops)} if ops and draw.random() < 0.3 else None for ops in inputs],
        fixed=draw.sample(range(nodes), draw.choice((0, 0, 1))),
    )


def seeded(seed):
    return random.Random(seed)
