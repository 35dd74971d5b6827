"""Which kernels compute a node: a region, a contraction and what follows, or a kernel by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from staticgraph.byhand.table import BY_HAND
from staticgraph.codegen import contract, cpu
from staticgraph.codegen.chain import with_tail
from staticgraph.codegen.epilogue import RegionEpilogue, split
from staticgraph.codegen.lower import lower
from staticgraph.codegen.region import CannotLower, domain_of
from staticgraph.codegen.saved import DEAR
from staticgraph.errors import InternalError
from staticgraph.fusion import FUSION, contiguous, contraction_of, has_template, strided
from staticgraph.ir import CONSTANT, INPUT, Graph, Node
from staticgraph.op import NestOp
from staticgraph.tensor import Tensor
from staticgraph.types import SHORT

#: elements below which a second thread costs more than it gives
PARALLEL_ELEMENTS = 1 << 15


@dataclass
class Launch:
    """One kernel of a node: where its pointers come from, and its size.

    Buffers are ("in", k) operand k of the node, ("out", k) its result k, ("work", k) workspace k.
    """

    name: str
    text: str
    entry: str
    tiles: int
    buffers: tuple[tuple[str, int], ...]
    scratch: int
    parallel: bool
    flops: int
    inplace: frozenset[tuple[int, int]] = frozenset()


@dataclass
class Code:
    """All kernels of a node."""

    launches: list[Launch]
    workspace: list[int] = field(default_factory=list)
    #: for ("start", k) buffers: (operand, element at which the kernel's view of it begins)
    starts: list[tuple[int, int]] = field(default_factory=list)

    @property
    def workspace_bytes(self) -> int:
        return sum(self.workspace)

    @property
    def inplace(self) -> frozenset[tuple[int, int]]:
        """(result, operand) pairs that may share memory."""
        return frozenset().union(*(launch.inplace for launch in self.launches))


def code_of(node: Node, name: str) -> Code:
    """Kernels for a node of an optimised graph."""
    if node.op.name in BY_HAND:
        return by_hand_code(node, name)
    if node.op is FUSION:
        body = node.attrs["body"]
    elif isinstance(node.op, NestOp):
        body = single(node)
    else:
        raise InternalError(f"{node.op.name}: nothing generates a kernel for it")
    base = contraction_of(body)
    if base is not None and has_template(base):
        return contraction_code(node, body, base, name)
    return with_tail(body, name, region_code)


def region_code(body: Graph, name: str) -> Code:
    """The kernels of one sweep: one, or one and the join of its partial sums."""
    region = lower(body)
    kernels = cpu.generate(region, name, domain_of(body))
    dear = sum(1 for n in body.nodes if n.op.name in DEAR)
    arithmetic = sum(1 for n in body.nodes if n.op not in (INPUT, CONSTANT))
    launches = [
        Launch(
            k.name, k.text, "k", k.tiles, k.buffers, k.scratch,
            k.tiles > 1 and k.elements * (1 + 4 * dear) >= PARALLEL_ELEMENTS,
            k.elements * arithmetic, k.inplace,
        )
        for k in kernels.steps
    ]  # fmt: skip
    return Code(launches, kernels.workspace)


def single(node: Node) -> Graph:
    """A body with one node, its operands as inputs."""
    inputs: dict[Tensor, Tensor] = {}
    operands = []
    for t in node.operands:
        if t not in inputs:
            made = Node(
                INPUT, (), {"name": f"p{len(inputs)}", "type": t.type}, (t.type,), node.where
            )
            inputs[t] = made.results[0]
        operands.append(inputs[t])
    inner = node.with_operands(operands)
    # Operand k of the node must stay input k of the body, also where one tensor stands twice.
    listed = [inputs[t] for t in node.operands]
    unique = []
    for k, t in enumerate(listed):
        if any(t is u for u in unique):
            t = Node(INPUT, (), {"name": f"q{k}", "type": t.type}, (t.type,), node.where).results[0]
        unique.append(t)
    return Graph(unique, inner.results)


# ---------------------------------------------------------------------------- contractions


def contraction_code(
    node: Node, body: Graph, base: Node, name: str, *, result_only: bool = False
) -> Code:
    """The kernels of a contraction and what follows it, or (`result_only`) of it alone."""
    inputs = {t: k for k, t in enumerate(body.inputs)}
    if base.results[0].size == 0:
        return Code([])
    epilogue = None
    plain = result_only or (len(body.outputs) == 1 and body.outputs[0] is base.results[0])
    result = base.results[0]
    code = SHORT[result.type.dtype]

    def stop(t: Tensor) -> bool:
        return t.node.op is INPUT

    if base.op.name == "matmul":
        operands = [strided(t, stop) for t in base.operands]
    else:
        # The convolution templates read contiguous operands.
        operands = [(t, contiguous(t.shape), 0) for t in base.operands]
    if any(b not in inputs for b, _, _ in operands):
        raise CannotLower("the operand of a contraction is computed in its own region")
    if not plain:
        first = steps_of(base, operands, code, None)
        rest = split(body, base)
        try:
            epilogue = RegionEpilogue(rest, first.view)
        except CannotLower:
            # An operand may be no matrix in the product's view: where batch and rows are one axis
            # for the product, a transposed one has two.
            apart = contraction_code(node, body, base, name, result_only=True)
            return joined(apart, region_code(rest, name), base, len(rest.inputs) - 1)
    steps = steps_of(base, operands, code, epilogue)
    starts: list[tuple[int, int]] = []
    refs: dict[Any, tuple[str, int]] = {"out": ("out", 0)}
    for letter, (b, _, start) in zip("ab", operands, strict=True):
        refs[letter] = ("in", inputs[b])
        if start:
            refs[letter] = ("start", len(starts))
            starts.append((inputs[b], start))
    if epilogue is not None:
        refs.update({("ep", j): ref for j, ref in enumerate(epilogue._buffers)})
    refs.update({("ws", i): ("work", i) for i in range(len(steps.workspace))})
    launches = [
        Launch(f"{name}_{k.name}", k.source, k.name, k.ntiles, tuple(refs[b] for b in k.buffers),
               k.scratch_bytes, k.ntiles > 1 and k.parallel_worthwhile, k.flops)
        for k in steps.kernels
    ]  # fmt: skip
    if epilogue is not None and launches:
        # A result may replace an operand of the epilogue, never one the contraction still reads.
        read = {inputs[b] for b, _, _ in operands}
        pairs = frozenset(
            (o, i) for o, i in epilogue.inplace() if i not in read and i != epilogue.acc_input
        )
        launches[-1].inplace = pairs
    return Code(launches, list(steps.workspace), starts)


def joined(first: Code, then: Code, base: Node, acc: int) -> Code:
    """A contraction whose result goes through workspace to the region that reads it as `acc`."""
    place = len(first.workspace)
    own = {("out", 0): ("work", place)}
    moved = {("in", acc): ("work", place)}
    moved.update({("work", k): ("work", place + 1 + k) for k in range(len(then.workspace))})
    launches = [
        replace(launch, buffers=tuple(names.get(b, b) for b in launch.buffers), inplace=frozenset())
        for code, names in ((first, own), (then, moved))
        for launch in code.launches
    ]
    workspace = [*first.workspace, base.results[0].type.nbytes, *then.workspace]
    return Code(launches, workspace, first.starts)


def steps_of(
    base: Node, operands: Sequence[tuple[Tensor, tuple[int, ...], int]], code: str, epilogue: object
) -> contract.Steps:
    """The tiled template of a contraction."""
    a = base.attrs
    left, right = base.operands
    if base.op.name == "matmul":
        out = base.results[0].shape
        lead = len(out) - 2
        sides = []
        for t, (_, strides, _) in zip(base.operands, operands, strict=True):
            missing = lead - (t.ndim - 2)
            batch = tuple(
                0 if n == 1 else st for n, st in zip(t.shape[:-2], strides[:-2], strict=True)
            )
            sides.append((0,) * missing + batch + tuple(strides[-2:]))
        return contract.matmul(
            code,
            out[:lead],
            out[-2],
            out[-1],
            left.shape[-1],
            sides[0],
            sides[1],
            epilogue=epilogue,
        )
    pads = tuple(zip(a["low"], a["high"], strict=True))
    options = {
        "stride": a["stride"],
        "padding": pads,
        "dilation": a["dilation"],
        "groups": a["groups"],
        "epilogue": epilogue,
    }
    if base.op.name == "conv":
        return contract.conv(code, left.shape, right.shape, **options)
    if base.op.name == "conv_transpose":
        return contract.conv_transpose(
            code, left.shape, right.shape, out_spatial=base.results[0].shape[2:], **options
        )
    return contract.conv_weight_grad(
        code, left.shape, right.shape, kernel=base.results[0].shape[2:], **options
    )


def by_hand_code(node: Node, name: str) -> Code:
    """Kernels that `byhand` has for an op."""
    generate = BY_HAND[node.op.name]
    made = generate([t.type for t in node.operands], node.types, name=name, **node.attrs)
    launches = [
        Launch(
            k.name,
            k.text,
            "k",
            k.tiles,
            k.buffers,
            k.scratch,
            k.tiles > 1 and k.elements >= PARALLEL_ELEMENTS,
            k.elements,
            k.inplace,
        )
        for k in made.steps
    ]
    return Code(launches, made.workspace)


# ---------------------------------------------------------------------------- from memory

#: by generator and text of the node: equal bodies, such as the layers of a deep network, share code
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
