"""The plan of a graph: steps in order over one arena, with every address known.

A buffer is live from the step that first writes it to the step that last reads it; steps are
numbered straight through, branches of a `cond` one after the other, so branches share memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

import numpy as np

from staticgraph import offsets, schedule
from staticgraph.codegen.select import Code, Launch, code_of
from staticgraph.errors import InternalError, shorten
from staticgraph.fusion import FUSION
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node, Tensor, Variable
from staticgraph.types import ITEMSIZE

ALIGN = 64


class Ref(NamedTuple):
    """Where a value lies: `offset` bytes into buffer `index` of a space."""

    space: str  # arena | input | output | variable | constant
    index: int
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.space}{self.index}" + (f"+{self.offset}" if self.offset else "")


@dataclass
class Buffer:
    """A piece of the arena, live over steps start..stop-1."""

    size: int
    start: int
    stop: int
    what: str
    where: tuple[str, int] | None
    offset: int = -1


@dataclass
class Step:
    """One step: a kernel launch, a jump, a copy, a check or the commit point.

    A `numerics` check refers to its verdict, then to operands and results of the node; `labels`
    say what the operands are.
    """

    kind: str  # kernel | jump_if_false | jump | copy | check | numerics | commit
    refs: tuple[Ref, ...] = ()
    launch: Launch | None = None
    node: Node | None = None
    target: int = 0
    nbytes: int = 0
    message: str = ""
    labels: tuple[str, ...] = ()


@dataclass
class Plan:
    """Steps, buffers and sizes. `str(plan)` is its text form."""

    graph: Graph
    steps: list[Step]
    buffers: list[Buffer]
    arena_bytes: int
    lower_bound: int
    variables: tuple[Variable, ...]
    constants: tuple[Tensor, ...]
    layout: str = ""
    notes: list[str] = field(default_factory=list)
    #: where each value lies, the kernels of each node, and pairs (first, then) beyond dependence
    places: dict[Tensor, Ref] = field(default_factory=dict)
    codes: dict[Node, Code] = field(default_factory=dict)
    after: list[tuple[Node, Node]] = field(default_factory=list)

    @property
    def launches(self) -> list[Launch]:
        return [s.launch for s in self.steps if s.launch is not None]

    @property
    def scratch_bytes(self) -> int:
        """Private memory of one thread."""
        return max((launch.scratch for launch in self.launches), default=0)

    def __str__(self) -> str:
        lines = [
            f"plan ({len(self.launches)} kernels, arena {self.arena_bytes} B,"
            f" live {self.lower_bound} B)"
        ]
        for i, step in enumerate(self.steps):
            lines.append(f"  step {i:<3} {self._step(step)}")
        for i, b in enumerate(self.buffers):
            place = f"[{b.offset}:{b.offset + b.size}]"
            lines.append(f"  buffer arena{i} {place} steps {b.start}..{b.stop - 1}  {b.what}")
        return "\n".join(lines) + "\n"

    def _step(self, step: Step) -> str:
        if step.kind == "kernel":
            assert step.launch is not None
            refs = ", ".join(map(str, step.refs))
            where = (
                f"  [{shorten(step.node.where)}]"
                if step.node is not None and step.node.where
                else ""
            )
            split = "parallel " if step.launch.parallel else ""
            return f"{step.launch.name:<28} tiles {step.launch.tiles:<5}{split}({refs}){where}"
        if step.kind == "jump_if_false":
            return f"jump to {step.target} if not {step.refs[0]}"
        if step.kind == "jump":
            return f"jump to {step.target}"
        if step.kind == "copy":
            return f"copy {step.refs[0]} -> {step.refs[1]}  {step.nbytes} B"
        if step.kind in ("check", "numerics"):
            return f"{step.kind} {step.refs[0]}"
        return step.kind


def build(graph: Graph, generate: Callable[[Node, str], Code] = code_of) -> Plan:
    """The plan of an optimised graph; `generate` makes the kernels of a node, by its name."""
    return Planner(graph, generate).run()


def is_free(node: Node) -> bool:
    """Nodes that compute nothing: leaves, and results that are the memory of the first operand."""
    return node.op in (INPUT, CONSTANT, VARIABLE) or node.op.name in (
        "reshape",
        "stop_gradient",
        "check",
        "late",
        "nothing",
    )


def may_fail(node: Node) -> bool:
    """Whether a node, or a node in a branch of it, can end the run."""
    if node.op.name == "cond":
        return any(may_fail(n) for k in ("then", "orelse") for n in node.attrs[k].nodes)
    return node.op.name == "check"


class Planner:
    """Emits the steps of a graph; a subclass may add its own behind those of a node."""

    def __init__(self, graph: Graph, generate: Callable[[Node, str], Code]):
        self.graph = graph
        self.generate = generate
        self.steps: list[Step] = []
        self.buffers: list[Buffer] = []
        self.places: dict[Tensor, Ref] = {}
        self.variables = graph.variables
        self.constants: dict[Tensor, int] = {}
        self.targets: dict[Tensor, Ref] = {}
        self.notes: list[str] = []
        self.codes: dict[Node, Code] = {}

    def run(self) -> Plan:
        graph = self.graph
        number = {v: k for k, v in enumerate(self.variables)}
        for k, t in enumerate(graph.inputs):
            self.places[t] = Ref("input", k)
        late = self.assign_targets(number)
        order = schedule.order(graph, is_free, self.reader_edges)
        self.writers = {id(t.node) for t, ref in self.targets.items() if ref.space == "variable"}
        self.committed = False
        self.emit(graph, order, top=True)
        copies = []
        for k, t in enumerate(graph.outputs):
            if self.place(t) != Ref("output", k):
                copies.append((self.place(t), Ref("output", k), t.type.nbytes))
        moved = []
        for v, t in late:
            source = self.place(t)
            if source == Ref("variable", number[v]):
                continue
            if source.space == "variable":  # its old value may be overwritten before we get there
                held = self.new_buffer(t.type.nbytes, f"held {v.name}", t.node.where)
                self.step(Step("copy", (source, held), nbytes=t.type.nbytes))
                source = held
            moved.append((source, Ref("variable", number[v]), t.type.nbytes))
        # Outputs may show variables as they were before the updates below.
        for source, target, n in copies:
            self.step(Step("copy", (source, target), nbytes=n))
        if moved and not self.committed:
            self.step(Step("commit"))
        for source, target, n in moved:
            self.step(Step("copy", (source, target), nbytes=n))
        layout = offsets.assign(
            [offsets.Block(b.size, b.start, b.stop) for b in self.buffers], align=ALIGN
        )
        for b, at in zip(self.buffers, layout.offsets, strict=True):
            b.offset = at
        return Plan(
            graph, self.steps, self.buffers, layout.peak, layout.lower_bound, self.variables,
            tuple(self.constants), layout.method, self.notes, self.places, self.codes,
            self.reader_edges,
        )  # fmt: skip

    # -- where results go -------------------------------------------------------------------------

    def assign_targets(self, number: dict[Variable, int]) -> list[tuple[Variable, Tensor]]:
        """Results that are written where they end; returns the updates that need a copy instead."""
        graph = self.graph
        after: list[tuple[Node, Node]] = []
        late: list[tuple[Variable, Tensor]] = []
        checks = [n for n in graph.nodes if may_fail(n)]
        readers: dict[Variable, list[Node]] = {}
        for node in graph.nodes:
            for t in node.operands:
                base = schedule.owner(t, is_free)
                if base.node.op is VARIABLE and not is_free(node):
                    readers.setdefault(base.node.attrs["variable"], []).append(node)
        shown = {schedule.owner(t, is_free) for t in graph.outputs}
        for v, t in graph.updates:
            node = t.node
            fits = not is_free(node) and t not in self.targets and v.node.results[0] not in shown
            fits = fits and self.replaces(node, t, {v})
            others = [n for n in readers.get(v, ()) if n is not node]
            first = [*others, *(c for c in checks if c is not node)]
            if fits and not any(_depends(n, node, after) for n in first):
                self.targets[t] = Ref("variable", number[v])
                after += [(n, node) for n in first]
            else:
                late.append((v, t))
        self.reader_edges = after
        for k, t in enumerate(graph.outputs):
            base = schedule.owner(t, is_free)
            if not is_free(base.node) and base not in self.targets:
                self.targets[base] = Ref("output", k)
        return late

    def replaces(self, node: Node, t: Tensor, old: set[Tensor]) -> bool:
        """Whether the node may write its result t over the variable that the old tensors show."""
        reads = [k for k, o in enumerate(node.operands) if schedule.owner(o, is_free) in old]
        if node.op.name != "cond":
            pairs = self.code(node).inplace if reads else frozenset()
            return all((t.index, k) in pairs for k in reads)
        if may_fail(node):
            return False
        for body in (node.attrs["then"], node.attrs["orelse"]):
            inside = {body.inputs[k - 1] for k in reads if k}
            for j, o in enumerate(body.outputs):
                base = schedule.owner(o, is_free)
                # Results that are operands are copied last, when the variable has its new value.
                if base.node.op is INPUT and (base in inside) != (j == t.index):
                    return False
        return True

    def code(self, node: Node) -> Code:
        """The kernels of a node; equal bodies, such as the layers of a deep network, share them."""
        found = self.codes.get(node)
        if found is None:
            found = self.codes[node] = code_for(node, self.generate)
        return found

    def place(self, t: Tensor) -> Ref:
        """Where a value lies; leaves and reshapes get their place on demand."""
        found = self.places.get(t)
        if found is not None:
            return found
        node = t.node
        if node.op is CONSTANT:
            return Ref("constant", self.constants.setdefault(t, len(self.constants)))
        if node.op is VARIABLE:
            v = node.attrs["variable"]
            return Ref("variable", next(k for k, x in enumerate(self.variables) if x is v))
        if is_free(node) and node.operands:
            return self.place(node.operands[0])
        raise InternalError(f"plan: {node} is read before it is computed")

    def new_buffer(self, size: int, what: str, where: tuple[str, int] | None) -> Ref:
        at = len(self.steps)
        self.buffers.append(Buffer(max(size, 1), at, at + 1, what, where))
        return Ref("arena", len(self.buffers) - 1)

    def step(self, step: Step) -> None:
        for ref in step.refs:
            if ref.space == "arena":
                b = self.buffers[ref.index]
                b.stop = max(b.stop, len(self.steps) + 1)
        self.steps.append(step)

    # -- steps ------------------------------------------------------------------------------------

    def emit(
        self,
        graph: Graph,
        order: Sequence[Node],
        *,
        top: bool,
        targets: dict[Tensor, Ref] | None = None,
    ) -> None:
        """Steps of a graph; in a body, `targets` says where its results go."""
        last: dict[Tensor, float] = {}
        for i, node in enumerate(order):
            for t in node.operands:
                last[schedule.owner(t, is_free)] = i
        for t in graph.roots:
            last[schedule.owner(t, is_free)] = inf
        targets = self.targets if top else (targets or {})
        for i, node in enumerate(order):
            if node.op.name == "check":
                self.step(
                    Step(
                        "check",
                        (self.place(node.operands[1]),),
                        node=node,
                        message=node.attrs["message"],
                    )
                )
            elif is_free(node):
                continue
            elif node.op.name == "cond":
                self.emit_cond(node, i, last, targets, top)
            else:
                self.emit_kernels(node, i, last, targets, top)

    def emit_kernels(
        self, node: Node, i: int, last: dict[Tensor, float], targets: dict[Tensor, Ref], top: bool
    ) -> None:
        code = self.code(node)
        self.commit(node, top)
        pairs = code.inplace
        taken: set[int] = set()
        for k, r in enumerate(node.results):
            ref = targets.get(r)
            if ref is None:
                ref = self.reuse(node, k, pairs, i, last, taken)
            if ref is None:
                ref = self.new_buffer(r.type.nbytes, kernel_name(node), node.where)
            self.places[r] = ref
        work = [
            self.new_buffer(n, f"workspace of {kernel_name(node)}", node.where)
            for n in code.workspace
        ]
        for launch in code.launches:
            refs = []
            for kind, k in launch.buffers:
                if kind == "in":
                    refs.append(self.place(node.operands[k]))
                elif kind == "out":
                    refs.append(self.places[node.results[k]])
                elif kind == "work":
                    refs.append(work[k])
                else:
                    operand, start = code.starts[k]
                    base = self.place(node.operands[operand])
                    refs.append(
                        Ref(
                            base.space,
                            base.index,
                            base.offset + start * ITEMSIZE[node.operands[operand].type.dtype],
                        )
                    )
            self.step(Step("kernel", tuple(refs), launch, node))
        # What a node is given stays alive until its last kernel, what it makes from its first on.
        for t in (*node.operands, *node.results):
            ref = self.place(t)
            if ref.space == "arena":
                self.buffers[ref.index].stop = max(self.buffers[ref.index].stop, len(self.steps))

    def reuse(
        self,
        node: Node,
        k: int,
        pairs: frozenset,
        i: int,
        last: dict[Tensor, float],
        taken: set[int],
    ) -> Ref | None:
        """The buffer of an operand that nobody reads again, where the kernel may write over it."""
        for result, operand in sorted(pairs):
            if result != k:
                continue
            t = node.operands[operand]
            base = schedule.owner(t, is_free)
            ref = self.places.get(base)
            if (
                ref is None
                or ref.space != "arena"
                or ref.index in taken
                or last.get(base, 0) != i
                or base.node.op is INPUT
            ):
                continue
            if sum(1 for o in node.operands if schedule.owner(o, is_free) is base) > 1:
                continue
            if self.buffers[ref.index].size != max(node.results[k].type.nbytes, 1):
                continue
            taken.add(ref.index)
            return ref
        return None

    def emit_cond(
        self, node: Node, i: int, last: dict[Tensor, float], targets: dict[Tensor, Ref], top: bool
    ) -> None:
        """Jump over the branch not taken; both write their results to the same places."""
        self.commit(node, top)
        results = []
        taken: set[int] = set()
        for r in node.results:
            ref = targets.get(r) or self.reuse(
                node, r.index, self.handed_on(node, r), i, last, taken
            )
            ref = ref or self.new_buffer(r.type.nbytes, "cond", node.where)
            self.places[r] = ref
            results.append(ref)
        branch = Step("jump_if_false", (self.place(node.operands[0]),), node=node)
        self.step(branch)
        self.emit_body(node.attrs["then"], node.operands[1:], results)
        leave = Step("jump", node=node)
        self.step(leave)
        branch.target = len(self.steps)
        self.emit_body(node.attrs["orelse"], node.operands[1:], results)
        if self.steps[-1] is leave:  # nothing to jump over
            self.steps.pop()
            branch.target = len(self.steps)
        leave.target = len(self.steps)
        for ref in results:
            if ref.space == "arena":
                self.buffers[ref.index].stop = max(self.buffers[ref.index].stop, len(self.steps))

    def handed_on(self, node: Node, r: Tensor) -> frozenset[tuple[int, int]]:
        """Operands of a cond that a branch gives back as is: their memory may hold the result."""
        found = set()
        for body in (node.attrs["then"], node.attrs["orelse"]):
            base = schedule.owner(body.outputs[r.index], is_free)
            for k, inner in enumerate(body.inputs, 1):
                if inner is base and self.replaces(
                    node, r, {schedule.owner(node.operands[k], is_free)}
                ):
                    found.add((r.index, k))
        return frozenset(found)

    def commit(self, node: Node, top: bool) -> None:
        """The point of no return, once, before the first node that writes a variable."""
        if top and id(node) in self.writers and not self.committed:
            self.committed = True
            self.step(Step("commit"))

    def emit_body(self, body: Graph, operands: Sequence[Tensor], results: Sequence[Ref]) -> None:
        """Steps of a branch. Bodies may share nodes with each other, so their places are local."""
        given = [self.place(t) for t in operands]
        local = [t for n in body.nodes for t in n.results]
        hidden = {t: self.places.pop(t) for t in local if t in self.places}
        self.places.update(zip(body.inputs, given, strict=True))
        targets, after = self.body_targets(body, results)
        self.emit(body, schedule.order(body, is_free, after), top=False, targets=targets)
        for t, ref in zip(body.outputs, results, strict=True):
            if t.node.op.name != "nothing" and self.place(t) != ref:
                self.step(Step("copy", (self.place(t), ref), nbytes=t.type.nbytes))
        for t in local:
            self.places.pop(t, None)
        self.places.update(hidden)

    def body_targets(
        self, body: Graph, results: Sequence[Ref]
    ) -> tuple[dict[Tensor, Ref], list[tuple[Node, Node]]]:
        """Results of a branch that are written where they end, and the order this asks for."""
        targets: dict[Tensor, Ref] = {}
        after: list[tuple[Node, Node]] = []
        for t, ref in zip(body.outputs, results, strict=True):
            node = t.node
            if is_free(node) or t in targets:
                continue
            old = {x for x in body.inputs if self.places[x] == ref}
            others = [n for n in _readers(body, old) if n is not node]
            if self.replaces(node, t, old) and not any(_depends(n, node, after) for n in others):
                targets[t] = ref
                after += [(n, node) for n in others]
        return targets, after


def _readers(graph: Graph, old: set[Tensor]) -> list[Node]:
    """Nodes that read memory of some inputs."""
    if not old:
        return []
    return [
        n
        for n in graph.nodes
        if not is_free(n) and any(schedule.owner(o, is_free) in old for o in n.operands)
    ]


_codes: dict[tuple[Callable, str], Code] = {}
_CODES_KEPT = 4096


def code_for(node: Node, generate: Callable[[Node, str], Code] = code_of) -> Code:
    """Kernels of a node, from memory where a node of the same text had them generated."""
    if node.op is FUSION:
        key = str(node.attrs["body"])
    else:
        # x * x reads one operand and x * y two, of the same types.
        ids = [id(t) for t in node.operands]
        places = [ids.index(i) for i in ids]
        types = [t.type for t in node.operands]
        key = f"{node.op.name} {node.types} {types} {places} {sorted(node.attrs.items())}"
        if any(isinstance(v, np.ndarray) for v in node.attrs.values()):
            return generate(node, kernel_name(node))
    found = _codes.get((generate, key))
    if found is None:
        if len(_codes) >= _CODES_KEPT:
            _codes.clear()
        found = _codes[generate, key] = generate(node, kernel_name(node))
    return found


def _depends(node: Node, on: Node, after: Sequence[tuple[Node, Node]]) -> bool:
    """Whether a node runs after another, by its operands or by the additional pairs."""
    extra: dict[int, list[Node]] = {}
    for first, then in after:
        extra.setdefault(id(then), []).append(first)
    seen: set[int] = set()
    stack = [node]
    while stack:
        n = stack.pop()
        if n is on:
            return True
        if id(n) not in seen:
            seen.add(id(n))
            stack.extend(t.node for t in n.operands)
            stack.extend(extra.get(id(n), ()))
    return False


def kernel_name(node: Node) -> str:
    """A short name from the ops of a node."""
    body = node.attrs.get("body")
    if body is None:
        return node.op.name
    names = [
        n.op.name
        for n in body.nodes
        if n.op not in (INPUT, CONSTANT) and n.op.name not in ("reshape", "broadcast_to")
    ]
    text = "_".join(dict.fromkeys(names)) or "copy"
    return text if len(text) <= 40 else text[:36].rstrip("_") + f"_{len(names)}"
