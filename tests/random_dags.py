"""Random graphs of costs and bytes for the tests of memory planning, and an oracle by search."""

import heapq
import random

from staticgraph.passes.remat.dag import Dag


def random_dag(rng: random.Random, n: int, *, plain: bool = False) -> Dag:
    """Any small graph; unless `plain`, with outputs, temporaries, in-place pairs, fixed nodes."""
    large = rng.choice([1, 1, 4099, 123_456_791])
    inputs = [tuple(sorted(rng.sample(range(v), min(v, rng.randint(0, 3))))) for v in range(n)]
    some = (lambda share: frozenset()) if plain else (lambda share: chosen(rng, n, share))
    return Dag(
        cost=tuple(rng.choice([0.0, 1.0, 2.0, 7.0, 0.3]) for _ in range(n)),
        size=tuple(large * rng.randint(0, 9) + rng.randint(0, 3) for _ in range(n)),
        inputs=tuple(inputs),
        outputs=some(0.2),
        extra=() if plain else tuple(rng.choice([0, 0, 3 * large]) for _ in range(n)),
        inplace=()
        if plain
        else tuple(frozenset(u for u in i if rng.random() < 0.4) for i in inputs),
        fixed=some(0.1),
        name="random",
    )


def chosen(rng: random.Random, n: int, share: float) -> frozenset[int]:
    return frozenset(v for v in range(n) if rng.random() < share)


def gradient_dag(rng: random.Random, n: int, order: int = 1) -> Dag:
    """A random forward graph and the graph of its gradient, `order` times over.

    Each backward node reads the gradients of its node's readers and some of its node's operands.
    """
    inputs: list[tuple[int, ...]] = [
        (rng.randint(max(0, v - 2), v - 1),) if v else () for v in range(n)
    ]
    for _ in range(order):
        count = len(inputs)
        readers = [[w for w in range(count) if v in inputs[w]] for v in range(count)]
        gradient: dict[int, int] = {}
        for v in reversed(range(count)):
            reads = {gradient[w] for w in readers[v]} | {u for u in inputs[v] if rng.random() < 0.7}
            gradient[v] = len(inputs)
            inputs.append(tuple(sorted(reads)))
    total = len(inputs)
    return Dag(
        cost=tuple(float(rng.randint(1, 5)) for _ in range(total)),
        size=tuple(rng.randint(1, 9) for _ in range(total)),
        inputs=tuple(inputs),
        outputs=frozenset([total - 1]) if rng.random() < 0.5 else frozenset(),
        name="gradient",
    )


def least_cost(dag: Dag, budget: int, *, stored: bool = False) -> float | None:
    """The least cost of any plan within the budget, or None: Dijkstra over (held, done).

    stored: first runs keep the stored order. Bits stand for nodes. A step may end with any one
    operand overwritten, and values may be dropped at any time. For n <= 7 or so.
    """
    n = len(dag)
    needs = [sum(1 << u for u in dag.inputs[v]) for v in range(n)]
    held_bytes = [sum(dag.size[v] for v in range(n) if held >> v & 1) for held in range(1 << n)]
    wanted = sum(1 << v for v in dag.outputs)
    best = {(0, 0): 0.0}
    queue = [(0.0, 0, 0)]
    while queue:
        cost, held, done = heapq.heappop(queue)
        if cost > best[held, done]:
            continue
        if done == (1 << n) - 1 and held & wanted == wanted:
            return cost
        after = [(cost, held & ~(1 << v), done) for v in range(n) if held >> v & 1]
        for v in range(n):
            again = done >> v & 1
            early = stored and done & ((1 << v) - 1) != (1 << v) - 1
            if held >> v & 1 or needs[v] & ~held or (again and v in dag.fixed) or early:
                continue
            live = held_bytes[held | 1 << v] + dag.extra[v]
            ends = [(live, held | 1 << v)]
            ends += [
                (live - min(dag.size[u], dag.size[v]), (held | 1 << v) & ~(1 << u))
                for u in dag.inplace[v] or ()
            ]
            after += [(cost + dag.cost[v], h, done | 1 << v) for b, h in ends if b <= budget]
        for state in after:
            if state[0] < best.get(state[1:], float("inf")):
                best[state[1:]] = state[0]
                heapq.heappush(queue, state)
    return None
