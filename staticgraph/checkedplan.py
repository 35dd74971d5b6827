"""A plan that looks for NaN and Inf behind every node, and ends the run where one first appears.

Each float value has a table of bits in the arena, a word for each tile of it: NAN and INF for what
the tile holds. Behind a node one kernel fills the tables of its results and another judges them by
those of the operands: a kind of value that the results hold and no operand held is the node's own.
A mask of -inf that goes through an addition is passed on, and the NaN of -inf minus -inf is not.

Nothing is written over before it was judged: no result takes the place of an operand, and
variables get their new values after the last check. So what is read back after a failed check is
what the node read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from staticgraph import schedule
from staticgraph.codegen.select import PARALLEL_ELEMENTS, Code, Launch, code_of
from staticgraph.codegen.spec import HEADER
from staticgraph.errors import GraphTypeError, shorten
from staticgraph.fusion import FUSION
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node, Op
from staticgraph.plan import Plan, Ref, Step
from staticgraph.planner import Planner, Scope
from staticgraph.tensor import Tensor
from staticgraph.types import ITEMSIZE, SHORT, TensorType, is_complex, is_float

NAN, INF = 1, 2
#: values of the option check_numerics that ask for checks, and the bits that end a run
KINDS = {True: NAN | INF, "nan": NAN}
#: elements of a tile: the bits of one take longer than handing it out
TILE = 1 << 14


class NumericBits(Op):
    """The table of bits of a tensor: the number of tiles, then a word for each."""

    name = "numeric_bits"


class NumericVerdict(Op):
    """The bits that some tables hold and none of the others, `known` included."""

    name = "numeric_verdict"


BITS, VERDICT = NumericBits(), NumericVerdict()


def check_kinds(kinds: object) -> int:
    """The bits that a value of the option asks for; 0 for False."""
    if kinds is False or kinds is None:
        return 0
    if (kinds is True or isinstance(kinds, str)) and kinds in KINDS:
        return KINDS[kinds]
    raise GraphTypeError(f"compile: check_numerics is False, True or 'nan', got {kinds!r}")


def build_checked(
    graph: Graph, kinds: int, generate: Callable[[Node, str], Code] = code_of
) -> Plan:
    """The plan of an optimised graph, with checks."""
    return _Checked(graph, kinds, generate).run()


class _Checked(Planner):
    def __init__(self, graph: Graph, kinds: int, generate: Callable[[Node, str], Code]):
        super().__init__(graph, generate)
        self.kinds = kinds
        #: for each value that can hold NaN or Inf: its table, or its bits where they are known
        self.bits: dict[Tensor, Tensor | int] = {}
        #: the operand of a cond that an input of its branches stands for
        self.outer: dict[Tensor, Tensor] = {}

    # -- what the checks need of the plan ---------------------------------------------------------

    def replaces(self, node: Node, t: Tensor, old: set[Tensor]) -> bool:
        return False

    def reuse(self, *given: Any) -> Ref | None:
        return None

    def code(self, node: Node) -> Code:
        """Kernels that write over nothing: the recomputation of a memory budget asks them."""
        found = self.codes.get(node)
        if found is None:
            code = super().code(node)
            launches = [replace(launch, inplace=frozenset()) for launch in code.launches]
            found = self.codes[node] = replace(code, launches=launches)
        return found

    # -- where they stand -------------------------------------------------------------------------

    def emit(
        self,
        graph: Graph,
        order: Sequence[Node],
        targets: dict[Tensor, Ref],
        *,
        top: bool,
    ) -> None:
        if top:
            self.emit_leaves(graph)
        super().emit(graph, order, targets, top=top)

    def emit_leaves(self, graph: Graph) -> None:
        """Tables of inputs and variables. NaN in them ends the run; Inf may be meant."""
        for node in graph.nodes:
            if node.op in (INPUT, VARIABLE) and self.tabulate(node.results[0]):
                self.judge(node, NAN)

    def emit_kernels(self, node: Node, i: int, scope: Scope) -> None:
        super().emit_kernels(node, i, scope)
        if any([self.tabulate(r) for r in node.results]):
            self.judge(node, self.kinds)

    def emit_cond(self, node: Node, i: int, scope: Scope) -> None:
        super().emit_cond(node, i, scope)
        for r in node.results:  # which branch ran is known at run time only
            self.tabulate(r)

    def emit_body(self, body: Graph, operands: Sequence[Tensor], results: Sequence[Ref]) -> None:
        """Tables that are filled in a branch hold nothing where the other one ran."""
        kept, outer = dict(self.bits), dict(self.outer)
        for inner, t in zip(body.inputs, operands, strict=True):
            base = schedule.owner(t)
            self.outer[inner] = self.outer.get(base, base)
            self.bits[inner] = self.bits_of(base)
        super().emit_body(body, operands, results)
        self.bits, self.outer = kept, outer

    # -- the checks -------------------------------------------------------------------------------

    def bits_of(self, t: Tensor) -> Tensor | int:
        base = schedule.owner(t)
        if base.node.op is CONSTANT:
            return bits_of_array(base.node.attrs["value"])
        return self.bits.get(base, 0)

    def tabulate(self, t: Tensor) -> bool:
        """Fill the table of a value; False where it can hold neither NaN nor Inf."""
        if not (is_float(t.type.dtype) or is_complex(t.type.dtype)) or not t.size:
            return False
        launch = bits_kernel(t.type)
        table = Node(BITS, (t,), {}, (TensorType("int64", (1 + launch.tiles,)),), t.node.where)
        self.bits[t] = table.results[0]
        self.places[table.results[0]] = self.room(table.results[0])
        self.launch(launch, table)
        return True

    def judge(self, node: Node, kinds: int) -> None:
        """End the run where the node's results hold what no operand held."""
        found = [b for r in node.results if isinstance(b := self.bits.get(r, 0), Tensor)]
        given = [self.bits_of(t) for t in node.operands]
        tables = list(dict.fromkeys(b for b in given if isinstance(b, Tensor)))
        known = constant_bits(node)
        for b in given:
            known |= 0 if isinstance(b, Tensor) else b
        verdict = Node(
            VERDICT, (*found, *tables), {"known": known}, (TensorType("int64", ()),), node.where
        )
        self.places[verdict.results[0]] = self.room(verdict.results[0])
        self.launch(verdict_kernel(len(found), len(tables), known, kinds), verdict)
        seen = (*node.operands, *node.results)
        labels = tuple(label(self.outer.get(t, t)) for t in node.operands)
        refs = (self.place(verdict.results[0]), *map(self.place, seen))
        self.step(Step("numerics", refs, node=node, labels=labels))

    def room(self, t: Tensor) -> Ref:
        return self.new_buffer(t.type.nbytes, t.node.op.name, t.node.where)

    def launch(self, launch: Launch, node: Node) -> None:
        self.codes[node] = Code([launch])
        values = {"in": node.operands, "out": node.results}
        refs = tuple(self.place(values[kind][k]) for kind, k in launch.buffers)
        self.step(Step("kernel", refs, launch, node))


def label(t: Tensor) -> str:
    """What the user calls a value: the input's name, or the op and its line."""
    node = schedule.owner(t).node
    if node.op is INPUT:
        return f"input {node.attrs['name']!r}"
    if node.op is VARIABLE:
        return f"variable {node.attrs['variable'].name!r}"
    if node.op is CONSTANT:
        return "constant"
    if node.op is FUSION:
        node = node.attrs["body"].outputs[t.index].node
    return f"{node.op.name} [{shorten(node.where)}]" if node.where else node.op.name


def bits_of_array(a: np.ndarray) -> int:
    if a.dtype.kind not in "fc":
        return 0
    return NAN * bool(np.isnan(a).any()) | INF * bool(np.isinf(a).any())


def constant_bits(node: Node) -> int:
    """The bits of the constants inside a fused node."""
    found = 0
    if node.op is FUSION:
        for n in node.attrs["body"].nodes:
            if n.op is CONSTANT:
                found |= bits_of_array(n.attrs["value"])
    return found


# ---------------------------------------------------------------------------- the kernels

_BITS = """\
def k(lo, hi, bufs, scratch):
    x = ptr(bufs, 0)
    bits = ptr(bufs, 1)
    st_i64(bits, 0, {tiles})
    for tile in range(lo, hi):
        begin = tile * {tile}
        end = min(begin + {tile}, {size})
        whole = begin + (end - begin) // 64 * 64
        odd = lanes(0)
        for i in range(begin, whole, 64):
            x0 = vld_{t}(x, i)
            x1 = vld_{t}(x, i + 16)
            x2 = vld_{t}(x, i + 32)
            x3 = vld_{t}(x, i + 48)
            odd = odd | isnan(((x0 - x0) + (x1 - x1)) + ((x2 - x2) + (x3 - x3)))
        for i in range(whole, end, 16):
            x0 = vldm_{t}(x, i, lanes(end - i))
            odd = odd | isnan(x0 - x0)
        found = 0
        if count(odd) > 0:
            nan = lanes(0)
            inf = lanes(0)
            for i in range(begin, end, 16):
                x0 = vldm_{t}(x, i, lanes(end - i))
                nan = nan | isnan(x0)
                inf = inf | isinf(x0)
            if count(nan) > 0:
                found = {NAN}
            if count(inf) > 0:
                found = found + {INF}
        st_i64(bits, 1 + tile, found)
"""


def bits_kernel(t: TensorType) -> Launch:
    """A complex number is two floats: x - x is NaN where x is NaN or Inf, and 0 elsewhere."""
    size, code = t.size, SHORT[t.dtype]
    if is_complex(t.dtype):
        size, code = 2 * size, f"f{4 * ITEMSIZE[t.dtype]}"
    tiles = -(-size // TILE)
    text = HEADER + _BITS.format(tiles=tiles, tile=TILE, size=size, t=code, NAN=NAN, INF=INF)
    parallel = tiles > 1 and size >= PARALLEL_ELEMENTS
    return Launch(BITS.name, text, "k", tiles, (("in", 0), ("out", 0)), 0, parallel, 0)


_VERDICT = """\
def k(lo, hi, bufs, scratch):
    found = 0
    for j in range({found}):
        table = ptr(bufs, j)
        for i in range(1, 1 + ld_i64(table, 0)):
            found = found | ld_i64(table, i)
    old = {known}
    for j in range({found}, {tables}):
        table = ptr(bufs, j)
        for i in range(1, 1 + ld_i64(table, 0)):
            old = old | ld_i64(table, i)
    new = found
    if old != 0:
        new = found & {NAN} & (old ^ {NAN})
    verdict = 0
    if new & {kinds} != 0:
        verdict = {kinds}
    st_i64(ptr(bufs, {tables}), 0, verdict)
"""


def verdict_kernel(found: int, given: int, known: int, kinds: int) -> Launch:
    """NaN is new where no operand held NaN, Inf where no operand held either.

    The verdict is 0 or, as the status word of the failed check, `kinds`.
    """
    tables = found + given
    text = HEADER + _VERDICT.format(found=found, tables=tables, known=known, kinds=kinds, NAN=NAN)
    buffers = (*(("in", k) for k in range(tables)), ("out", 0))
    return Launch(VERDICT.name, text, "k", 1, buffers, 0, False, 0)
