"""Which CUDA kernels compute a node: those of its region, or of a contraction and what follows it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from staticgraph.codegen.cuda import CudaKernels, generate
from staticgraph.codegen.cudatile import Tiles, product_of
from staticgraph.codegen.epilogue import split
from staticgraph.codegen.lower import CannotLower, lower
from staticgraph.codegen.select import Code, Launch, single
from staticgraph.errors import TargetError
from staticgraph.fusion import FUSION, contraction_of
from staticgraph.ir import Graph, Node, Tensor
from staticgraph.nest import Nest
from staticgraph.op import NestOp
from staticgraph.types import TensorType, is_complex


@dataclass
class CudaLaunch(Launch):
    """A CUDA kernel of a node: `tiles` blocks of `width` threads over arrays of `dtypes`."""

    width: int = 1
    dtypes: tuple[str, ...] = ()


class Spelled(NestOp):
    """An op without a nest of its own, by the nest that it offers to targets without its kernel."""

    def __init__(self, op):
        self.name, self.op = op.name, op

    def infer(self, *types: TensorType, **attrs) -> TensorType:
        return self.op.infer(*types, **attrs)

    def nest(self, types, out, **attrs) -> Nest:
        return self.op.plain_nest(types, out, **attrs)


def cuda_code(node: Node, name: str) -> Code:
    """CUDA kernels for a node of an optimised graph."""
    body = body_of(node)
    for t in (*body.inputs, *(r for n in body.nodes for r in n.results)):
        if is_complex(t.type.dtype):
            raise TargetError(
                f"{name}: target='cuda' has no complex numbers, got {t.type}", node.where
            )
    base = contraction_of(body)
    try:
        return launches(kernels_of(body, name))
    except CannotLower:
        if base is None or (len(body.outputs) == 1 and body.outputs[0] is base.results[0]):
            raise
    return in_two(body, base, name)


def body_of(node: Node) -> Graph:
    """What a node computes, as a graph of nests."""
    if node.op is FUSION:
        return node.attrs["body"]
    if isinstance(node.op, NestOp):
        return single(node)
    if hasattr(node.op, "plain_nest"):
        return single(Node(Spelled(node.op), node.operands, node.attrs, node.types, node.where))
    raise TargetError(f"{node.op.name}: target='cuda' has no kernel for it", node.where)


def kernels_of(body: Graph, name: str) -> CudaKernels:
    region = lower(body)
    product = product_of(region)
    if product is not None:
        return CudaKernels([Tiles(region, name, product).kernel()])
    return generate(region, name)


def launches(made: CudaKernels) -> Code:
    return Code(
        [
            CudaLaunch(
                k.name, k.text, "k", k.blocks, k.buffers, 0, True, k.elements, k.inplace, k.threads, k.dtypes
            )
            for k in made.steps
        ],
        made.workspace,
    )  # fmt: skip


def in_two(body: Graph, base: Node, name: str) -> Code:
    """A contraction into the workspace, then what follows it, where their loops do not match."""
    result = base.results[0]
    first = launches(kernels_of(reading(body, result), f"{name}_product"))
    second = launches(kernels_of(split(body, base), f"{name}_after"))
    inputs = len(body.inputs)
    product = len(first.workspace)
    shift = product + 1

    def moved(refs, own: int):
        for kind, k in refs:
            if kind == "work":
                yield kind, k + own
            elif (kind, k) == (("out", 0) if own == 0 else ("in", inputs)):
                yield "work", product
            else:
                yield kind, k

    for launch in first.launches:
        launch.buffers, launch.inplace = tuple(moved(launch.buffers, 0)), frozenset()
    for launch in second.launches:
        launch.buffers = tuple(moved(launch.buffers, shift))
        read = {k for one in first.launches for kind, k in one.buffers if kind == "in"}
        launch.inplace = frozenset(
            (o, i) for o, i in launch.inplace if i not in read and i != inputs
        )
    size = prod(result.shape) * (result.type.nbytes // max(result.size, 1))
    return Code([*first.launches, *second.launches], [*first.workspace, size, *second.workspace])


def reading(body: Graph, result: Tensor) -> Graph:
    """The part of a body that yields one value, with all its inputs."""
    return Graph(body.inputs, [result])
