"""Random programs with nested conds and checkpoints, for the tests of control flow."""

import random

import staticgraph as sg

ops = sg.ops
ONE = (
    ops.sin,
    ops.tanh,
    lambda a: a * a,
    lambda a: a + 1.0,
    lambda a: a * 1.0,
    lambda a: ops.where(a > 0, a, a * 0.5),
    lambda a: ops.broadcast_to(a.mean(), a.shape),
)
TWO = (lambda a, b: a + b, lambda a, b: a * b, lambda a, b: a - b, ops.maximum)
COMPARE = (ops.less, ops.greater_equal, ops.less_equal, ops.equal)


def grow(draw: random.Random, tensors, bools, depth=0):
    """More tensors made of given ones; bools are predicates, known, derived and repeated."""
    tensors, bools = list(tensors), list(bools)
    for _ in range(draw.randint(1, 4)):
        kind = draw.random()
        if kind < 0.35:
            tensors.append(draw.choice(ONE)(draw.choice(tensors)))
        elif kind < 0.6:
            tensors.append(draw.choice(TWO)(draw.choice(tensors), draw.choice(tensors)))
        elif kind < 0.72:
            bools.append(predicate(draw, tensors, bools))
        elif kind < 0.78:
            pair = draw.choice(tensors), draw.choice(tensors)
            tensors.append(ops.where(draw.choice(bools), *pair))
        elif depth < 3:
            tensors.extend(region(draw, tensors, bools, depth))
    return tensors


def predicate(draw, tensors, bools):
    kind = draw.random()
    if kind < 0.3:
        return ops.logical_not(draw.choice(bools))
    if kind < 0.6:
        both = draw.choice((ops.logical_and, ops.logical_or))
        return both(draw.choice(bools), draw.choice(bools))
    if kind < 0.9:
        sums = draw.choice(tensors).sum(), draw.choice(tensors).sum()
        return draw.choice(COMPARE)(*sums)
    return sg.constant(draw.random() < 0.5)


def region(draw, tensors, bools, depth):
    """The results of a cond or a checkpoint; now and then a cond with two equal branches."""
    count = draw.randint(1, 2)
    seeds = [draw.random(), draw.random()]
    if draw.random() < 0.15:
        seeds[1] = seeds[0]

    def side(seed):
        def build():
            inner = random.Random(seed)
            found = grow(inner, tensors, bools, depth + 1)
            return [inner.choice(found) for _ in range(count)]

        return build

    if draw.random() < 0.3:
        return sg.checkpoint(side(seeds[0]))()
    return sg.cond(draw.choice(bools), side(seeds[0]), side(seeds[1]))
