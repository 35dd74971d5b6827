"""Which CUDA kernels compute a node: its region's, or a contraction's and those of what follows."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from staticgraph.codegen.chain import one_by_one, with_tail
from staticgraph.codegen.cuda import Elements, Rows
from staticgraph.codegen.cudasinks import ColumnSinks, RowSinks
from staticgraph.codegen.cudatext import CudaSpecs
from staticgraph.codegen.cudatile import Tiles, product_of
from staticgraph.codegen.epilogue import split
from staticgraph.codegen.lower import lower
from staticgraph.codegen.region import CannotLower
from staticgraph.codegen.select import Code, Launch, single
from staticgraph.errors import TargetError
from staticgraph.fusion import FUSION, contraction_of
from staticgraph.ir import Graph, Node
from staticgraph.nest import Nest
from staticgraph.op import NestOp
from staticgraph.types import TensorType


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
    base = contraction_of(body)
    try:
        return with_tail(body, name, lambda part, own: launches(kernels_of(part, own)))
    except CannotLower:
        if base is None and node.op is FUSION:
            return one_by_one(body, name, lambda part, own: launches(kernels_of(part, own)))
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


def kernels_of(body: Graph, name: str) -> CudaSpecs:
    region = lower(body)
    if region.blocks:
        raise CannotLower("sums that end several times within a row")
    product = product_of(region)
    if product is not None:
        return CudaSpecs([Tiles(region, name, product).kernel()])
    if region.sinks:
        return (RowSinks if region.inner else ColumnSinks)(region, name).run()
    if prod(region.sizes[k] for k in region.outer) == 0:
        return CudaSpecs([])
    return CudaSpecs([(Rows if region.inner else Elements)(region, name).kernel()])


def launches(made: CudaSpecs) -> Code:
    found: list[Launch] = []
    for k in made.steps:
        place = (k.buffers, 0, True, k.elements, k.inplace, k.threads, k.dtypes)
        found.append(CudaLaunch(k.name, k.text, "k", k.blocks, *place))
    return Code(found, made.workspace)


def in_two(body: Graph, base: Node, name: str) -> Code:
    """A contraction into the workspace, then what follows it, where their loops do not match."""
    result = base.results[0]
    first = launches(kernels_of(Graph(body.inputs, [result]), f"{name}_product"))
    second = launches(kernels_of(split(body, base), f"{name}_after"))
    product, stand_in = len(first.workspace), len(body.inputs)
    for launch in first.launches:
        moves = {("out", 0): ("work", product)}
        launch.buffers = tuple(moves.get(ref, ref) for ref in launch.buffers)
        launch.inplace = frozenset()
    for launch in second.launches:
        moves = {("work", k): ("work", product + 1 + k) for k in range(len(second.workspace))}
        moves["in", stand_in] = ("work", product)
        launch.buffers = tuple(moves.get(ref, ref) for ref in launch.buffers)
        launch.inplace = frozenset((o, i) for o, i in launch.inplace if i != stand_in)
    workspace = [*first.workspace, result.type.nbytes, *second.workspace]
    return Code([*first.launches, *second.launches], workspace)
