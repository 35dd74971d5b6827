"""A plan replayed with names in place of numbers: who wrote each byte that is read, and when.

Memory holds tokens: ranges of bytes, each with the tensor value that was written there. A step may
only read a range whose token is the value its node asks for, whole and undisturbed. That says at
once that reads come after writes, that no two live values overlap, that in-place writing spares
whoever still reads the old value, and that outputs and variables end as the graph says.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from staticgraph.codegen.select import code_for
from staticgraph.ir import Node
from staticgraph.plan import Plan, Ref, Step
from staticgraph.schedule import owner
from staticgraph.tensor import Tensor
from staticgraph.types import ITEMSIZE

Token = int
UNKNOWN = 0


class Memory:
    """Byte ranges with tokens, per space; buffers of the arena share one space."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.held: dict[object, dict[tuple[int, int], Token]] = {}

    def place(self, ref: Ref, size: int) -> tuple[object, tuple[int, int]]:
        if ref.space != "arena":
            return (ref.space, ref.index), (ref.offset, ref.offset + size)
        buffer = self.plan.buffers[ref.index]
        assert ref.offset + size <= buffer.size, f"{ref} of {size} B leaves its buffer"
        start = buffer.offset + ref.offset
        assert start >= 0
        assert start + size <= self.plan.arena_bytes, f"{ref} leaves the arena"
        return "arena", (start, start + size)

    def read(self, ref: Ref, size: int) -> Token | None:
        space, span = self.place(ref, size)
        return self.held.get(space, {}).get(span)

    def write(self, ref: Ref, size: int, token: Token) -> None:
        space, (start, stop) = self.place(ref, size)
        held = self.held.setdefault(space, {})
        for span in [s for s in held if s[0] < stop and start < s[1]]:
            del held[span]
        held[start, stop] = token


class Branch(NamedTuple):
    """A branch being run: the step where it ends, the one after it, its cond and side."""

    end: int
    resume: int
    node: Node
    side: str


class Replay:
    """One run with given values of the predicates, in the order in which they are met."""

    def __init__(self, plan: Plan, decisions: Sequence[bool]):
        self.plan = plan
        self.decisions = iter(decisions)
        self.decided: dict[Token, bool] = {}
        self.memory = Memory(plan)
        self.fresh = itertools.count(1)
        self.values: dict[Tensor, Token] = {}
        self.work: dict[tuple[Node, int], Token] = {}
        self.branches: list[Branch] = []
        self.committed = False
        #: pairs of steps and operands that were written over
        self.in_place = 0

    def run(self) -> None:
        self.fill()
        at = 0
        while True:
            while self.branches and self.branches[-1].end == at:
                at = self.leave()
            if at >= len(self.plan.steps):
                break
            at = self.step(at, self.plan.steps[at])
        self.check_ends()

    # -- before and after -------------------------------------------------------------------------

    def fill(self) -> None:
        """Inputs, variables and constants lie where the plan says when a run begins."""
        graph = self.plan.graph
        leaves = [(t, Ref("input", k)) for k, t in enumerate(graph.inputs)]
        leaves += [(t, Ref("constant", k)) for k, t in enumerate(self.plan.constants)]
        leaves += [(v, Ref("variable", k)) for k, v in enumerate(self.plan.variables)]
        for t, ref in leaves:
            self.values[t] = next(self.fresh)
            self.memory.write(ref, t.type.nbytes, self.values[t])

    def check_ends(self) -> None:
        """Outputs and variables hold what the graph says, variables without update their value."""
        graph = self.plan.graph
        ends = [(t, Ref("output", k)) for k, t in enumerate(graph.outputs)]
        updated = dict(graph.updates)
        ends += [(updated.get(v, v), Ref("variable", k)) for k, v in enumerate(self.plan.variables)]
        for t, ref in ends:
            if t.type.nbytes:
                assert self.holds(ref, t), f"{ref} ends without {t}"

    # -- steps ------------------------------------------------------------------------------------

    def value(self, t: Tensor) -> Token:
        """The token of a value; UNKNOWN where it was never computed or means nothing."""
        return self.values.get(owner(t), UNKNOWN)

    def holds(self, ref: Ref, t: Tensor) -> bool:
        token = self.value(t)
        return token != UNKNOWN and self.memory.read(ref, t.type.nbytes) == token

    def step(self, at: int, step: Step) -> int:
        """Replay one step; returns the number of the next one."""
        if step.kind == "jump_if_false":
            return self.branch(at, step)
        if step.kind == "kernel":
            self.kernel(at, step)
        elif step.kind == "copy":
            source, target = step.refs
            # What a branch has no value for may be copied: nobody reads it.
            token = self.memory.read(source, step.nbytes)
            self.write(at, target, step.nbytes, UNKNOWN if token is None else token)
        elif step.kind == "check":
            assert not self.committed, f"step {at} may fail after the commit point"
            assert step.node is not None
            self.expect(at, step.refs[0], step.node.operands[1])
        elif step.kind == "commit":
            assert not self.committed, "two commit points"
            self.committed = True
        else:
            raise AssertionError(f"step {at} is a {step.kind} outside of its branch")
        return at + 1

    def write(self, at: int, ref: Ref, size: int, token: Token) -> None:
        assert ref.space not in ("input", "constant"), f"step {at} writes {ref}"
        if ref.space == "variable":
            assert self.committed, f"step {at} writes {ref} before the commit point"
        self.memory.write(ref, size, token)

    def expect(self, at: int, ref: Ref, t: Tensor) -> None:
        if t.type.nbytes:
            assert self.holds(ref, t), f"step {at} reads {ref} for {t}, which is not there"

    def kernel(self, at: int, step: Step) -> None:
        node, launch = step.node, step.launch
        assert node is not None
        assert launch is not None
        code = code_for(node)
        reads: list[tuple[int, object, tuple[int, int]]] = []
        if launch.text == code.launches[0].text:
            self.work.clear()
        pairs = list(zip(launch.buffers, step.refs, strict=True))
        for (kind, k), ref in pairs:
            if kind not in ("in", "start"):
                continue
            operand, start = (k, 0) if kind == "in" else code.starts[k]
            t = node.operands[operand]
            base = ref._replace(offset=ref.offset - start * ITEMSIZE[t.type.dtype])
            self.expect(at, base, t)
            reads.append((operand, *self.memory.place(base, t.type.nbytes)))
        for (kind, k), ref in pairs:
            if kind == "out":
                size = node.results[k].type.nbytes
                self.sparing(at, k, self.memory.place(ref, size), reads, launch.inplace)
                token = self.values[node.results[k]] = next(self.fresh)
                self.write(at, ref, size, token)
            elif kind == "work" and (node, k) not in self.work:
                self.work[node, k] = next(self.fresh)
                self.write(at, ref, code.workspace[k], self.work[node, k])
            elif kind == "work":
                held = self.memory.read(ref, code.workspace[k])
                assert held == self.work[node, k], f"step {at} lost its workspace {ref}"

    def sparing(self, at: int, result: int, where: tuple, reads: list, allowed: frozenset) -> None:
        """A result lies over an operand only where the kernel reads each element before."""
        space, (start, stop) = where
        for operand, other, span in reads:
            if other == space and span[0] < stop and start < span[1]:
                assert span == (start, stop), f"step {at}: result {result} half over {operand}"
                assert (result, operand) in allowed, f"step {at}: result {result} over {operand}"
                self.in_place += 1

    # -- branches ---------------------------------------------------------------------------------

    def branch(self, at: int, step: Step) -> int:
        """Enter the side that is decided for."""
        node, steps = step.node, self.plan.steps
        assert node is not None
        self.expect(at, step.refs[0], node.operands[0])
        last = steps[step.target - 1]
        closed = step.target - 1 > at and last.kind == "jump" and last.node is node
        after = last.target if closed else step.target
        known = self.value(node.operands[0])
        if known not in self.decided:
            self.decided[known] = next(self.decisions)
        if self.decided[known]:
            begin, end, side = at + 1, step.target - closed, "then"
        else:
            begin, end, side = step.target, after, "orelse"
        given = [self.value(t) for t in node.operands[1:]]
        self.values.update(zip(node.attrs[side].inputs, given, strict=True))
        self.branches.append(Branch(end, after, node, side))
        return begin

    def leave(self) -> int:
        _, resume, node, side = self.branches.pop()
        found = [self.value(t) for t in node.attrs[side].outputs]
        self.values.update(zip(node.results, found, strict=True))
        return resume


def replay(plan: Plan, decisions: Sequence[bool] = ()) -> Replay:
    """Replay a plan; raises AssertionError with the step that is wrong."""
    made = Replay(plan, decisions)
    made.run()
    return made


def every_way(plan: Plan) -> list[Replay]:
    """All runs, whatever the predicates are."""
    ways = [[]]
    done = []
    while ways:
        given = ways.pop()
        try:
            done.append(replay(plan, given))
        except StopIteration:
            ways += [[*given, True], [*given, False]]
    return done
