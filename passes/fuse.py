"""Fuse nodes into regions: one kernel, one pass over memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from staticgraph.codegen.cpu import DEAR
from staticgraph.codegen.lower import (
    TILE_ELEMENTS,
    CannotLower,
    finishes,
    is_reduction,
    lower,
    mode,
)
from staticgraph.errors import InternalError
from staticgraph.fusion import CONTRACTIONS, VIEWS, has_template, make, solid_operands
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node, Tensor
from staticgraph.op import Elementwise, NestOp
from staticgraph.passes.edges import Edge, judged
from staticgraph.passmanager import graph_pass, in_bodies

#: nodes in one region: beyond this compile time grows faster than memory traffic shrinks
MEMBERS = 64
#: loaded inputs of one region
OPERANDS = 24
#: nodes that a larger region computes again for each of its rows
FEW = 4


@dataclass
class Group:
    """A region in the making. `labels` gives the domain axes of values that are one per row."""

    number: int
    shape: tuple[int, ...]
    nodes: list[Node] = field(default_factory=list)
    inner: tuple[int, ...] | None = None
    sinks: set[Tensor] = field(default_factory=set)
    labels: dict[Tensor, tuple[int | None, ...]] = field(default_factory=dict)
    contraction: bool = False
    before: int = 0  # bit set of groups it depends on


@graph_pass
@in_bodies
def fuse(graph: Graph, *, edges: list[Edge] | None = None) -> Graph:
    """Gather nodes that loop over one domain into `fusion` nodes.

    before   %0 = multiply(%x, %w)   %1 = add(%0, %b)   %2 = relu(%1)
    after    %0 = fusion(%x, %w, %b) { multiply, add, relu }

    Elementwise nodes join what they read when both run over the same shape; reductions join their
    operand; a value that is one per row joins the rows; contractions take elementwise nodes after
    them. A value that a region hands to another is stored, everything else stays in registers.
    `edges` receives, for each value between two nodes, whether they are one kernel, and why.
    """
    fuser = _Fuser(graph)
    made = fuser.run()
    if edges is not None:
        edges += judged(graph, fuser.made, fuser.refused)
    return made


class _Fuser:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.groups: dict[int, Group] = {}
        self.count = 0
        self.group_of: dict[int, Group] = {}
        self.users = graph.users()
        self.roots = set(graph.roots)
        self.order = {n: i for i, n in enumerate(graph.nodes)}
        self.copied: dict[int, list[Group]] = {}  # nodes that several groups compute, and which
        self.outside: dict[int, int] = {}  # nodes in no group -> groups they depend on
        self.refused: dict[tuple[Node, Tensor], str] = {}  # why a node is not where its operand is
        self.made: list[tuple[list[Node], Node]] = []  # nodes, and the node that computes them now

    # -- dependencies -----------------------------------------------------------------------------

    def before(self, t: Tensor) -> int:
        """Bit set of groups that a tensor depends on, its own included."""
        g = self.group_of.get(id(t.node))
        if g is not None:
            return g.before | 1 << g.number
        return self.outside.get(id(t.node), 0)

    def source(self, t: Tensor) -> Tensor:
        """The tensor behind a chain of views."""
        while t.node.op.name in VIEWS:
            t = t.node.operands[0]
        return t

    def reach(self, node: Node) -> int:
        found = 0
        for t in node.operands:
            found |= self.before(t)
        return found

    # -- grouping ---------------------------------------------------------------------------------

    def run(self) -> Graph:
        for node in self.graph.nodes:
            if not self.fusible(node):
                self.outside[id(node)] = self.reach(node)
                continue
            if node.op.name in VIEWS:
                self.place_view(node)
                continue
            self.place(node)
        self.postpone()
        return self.rebuild()

    def fusible(self, node: Node) -> bool:
        if node.op in (INPUT, CONSTANT, VARIABLE) or len(node.results) != 1:
            return False
        return isinstance(node.op, NestOp)

    def place_view(self, node: Node) -> None:
        """A view of a value per row stays with the rows; others are left to their readers."""
        operand, result = node.operands[0], node.results[0]
        g = self.group_of.get(id(operand.node))
        labels = g.labels.get(operand) if g else None
        own = not node.clone or (g is not None and node.clone in self.clones(g))
        if g and own and labels is not None and operand not in g.sinks:
            made = self.row_view(g, node, labels)
            if made is not None:
                g.labels[result] = made
                g.nodes.append(node)
                self.group_of[id(node)] = g
                return
        self.outside[id(node)] = self.reach(node)

    def row_view(
        self, g: Group, node: Node, labels: tuple[int | None, ...]
    ) -> tuple[int | None, ...] | None:
        operand, result = node.operands[0], node.results[0]
        if node.op.name == "reshape":
            if [n for n in operand.shape if n != 1] != [n for n in result.shape if n != 1]:
                return None
            left = iter(a for a, n in zip(labels, operand.shape, strict=True) if n != 1)
            return tuple(None if n == 1 else next(left) for n in result.shape)
        if node.op.name == "broadcast_to" and result.shape == g.shape:
            lead = result.ndim - operand.ndim
            if all(
                n == 1 or a == k + lead
                for k, (a, n) in enumerate(zip(labels, operand.shape, strict=True))
            ):
                return tuple(range(len(g.shape)))
        return None

    def place(self, node: Node) -> None:
        result = node.results[0]
        if node.op.name in CONTRACTIONS:
            g = self.new_group(node, result.shape)
            g.contraction = True
            if not has_template(node):
                g.sinks.add(result)  # computed by its plain meaning, alone
            return
        reduces = is_reduction(node)
        shape = node.operands[0].shape if reduces and node.operands else result.shape
        joined: Group | None = None
        for t in node.operands:
            g = self.group_of.get(id(t.node))
            if g is None or g is joined:
                continue
            why = self.objection(g, node, t, shape, reduces)
            if not why and joined is not None:
                why = self.merge_objection(joined, g, node)
            elif not why and not self.acyclic(g, node):
                why = "another operand needs this region's result first"
            if why:
                self.refused[node, t] = why
            else:
                joined = g if joined is None else self.merge(joined, g)
        if joined is None and reduces:
            joined = self.beside(node, shape)
            if joined is not None:
                self.add(joined, node)
                self.describe(joined, node, reduces)
                return
        if joined is None:
            self.new_group(node, shape)
            joined = self.group_of[id(node)]
        else:
            self.add(joined, node)
        self.describe(joined, node, reduces)

    def beside(self, node: Node, shape: tuple[int, ...]) -> Group | None:
        """A region that reads the operand of a reduction too, as the derivatives of w and b do."""
        for reader in self.behind_views(node.operands[0]):
            g = self.group_of.get(id(reader))
            if (
                g is not None
                and g.shape == shape
                and self.clones(g) == {node.clone}
                and not self.objection(g, node, node.operands[0], shape, True)
                and self.fits_full(g, node.operands[0])
                and self.acyclic(g, node)
            ):
                return g
        return None

    def new_group(self, node: Node, shape: tuple[int, ...]) -> Group:
        g = Group(self.count, shape)
        self.count += 1
        self.groups[g.number] = g
        g.nodes.append(node)
        g.before = self.reach(node)
        self.group_of[id(node)] = g
        return g

    def add(self, g: Group, node: Node) -> None:
        g.nodes.append(node)
        self.group_of[id(node)] = g
        self.extend(g, self.reach(node) & ~(1 << g.number))

    def extend(self, g: Group, more: int) -> None:
        """The group now depends on more; so does everything after it."""
        if more & ~g.before == 0:
            return
        g.before |= more
        bit = 1 << g.number
        for other in self.groups.values():
            if other.before & bit:
                other.before |= g.before
        for key, reach in self.outside.items():
            if reach & bit:
                self.outside[key] = reach | g.before

    def describe(self, g: Group, node: Node, reduces: bool) -> None:
        """Note where the result of a new member lives in the domain."""
        result = node.results[0]
        totals = g.sinks.intersection(node.operands)
        if totals:
            g.sinks = (g.sinks - totals) | {result}
        elif reduces:
            over = node.attrs["axes"]
            if mode(g.shape, over) == "rows":
                g.inner = tuple(over)
                g.labels[result] = tuple(k for k in range(len(g.shape)) if k not in over)
            else:
                g.sinks.add(result)
        elif result.shape != g.shape:
            for t in node.operands:
                if t in g.labels and t.shape == result.shape:
                    g.labels[result] = g.labels[t]
                    break

    def objection(
        self, g: Group, node: Node, t: Tensor, shape: tuple[int, ...], reduces: bool
    ) -> str:
        """Why the node may not run in the region of its operand `t`; '' where it may."""
        if len(g.nodes) >= MEMBERS:
            return f"the region has {MEMBERS} nodes already"
        if node.clone and node.clone not in self.clones(g):
            return "a copy for another loop, or computed again later"
        if t in g.sinks:
            # The kernel that joins partial results may divide a mean by its count.
            alone = t not in self.roots and self.users.get(t, []) == [node]
            fits = alone and not g.contraction and not reduces and finishes(node, t)
            return "" if fits else "its total is known only when all tiles are done"
        if any(o in g.sinks for o in node.operands):
            return "another operand is a total, known only when all tiles are done"
        if self.loaded(g, node) > OPERANDS:
            return f"the region would load more than {OPERANDS} tensors"
        result = node.results[0]
        if reduces:
            if g.contraction:
                return "a contraction delivers tiles, not whole rows to reduce"
            if shape != g.shape or (t in g.labels and t.shape != g.shape):
                return "the reduction runs over another shape than the region"
            return self.reduction_objection(g, node)
        if not isinstance(node.op, Elementwise):
            return f"{node.op.name} reads elements at other indices"
        if g.contraction:
            fits = result.shape == g.shape and t.shape == g.shape and self.only_full(g, node)
            return "" if fits else "after a contraction only its own shape is at hand"
        if result.shape == g.shape:
            fits = all(self.fits_full(g, o) for o in node.operands)
            return "" if fits else "an operand would be needed at other indices"
        # One value per row: every operand from here must be one too, at the same place.
        if t not in g.labels or t.shape != result.shape:
            return "its result has another shape than the region"
        fits = all(self.fits_row(g, o, t) for o in node.operands)
        return "" if fits else "an operand is not one value per row"

    def loaded(self, g: Group, node: Node) -> int:
        inside = {id(n) for n in g.nodes}
        return len(
            {
                o
                for n in (*g.nodes, node)
                for o in n.operands
                if id(o.node) not in inside and o.node.op is not CONSTANT
            }
        )

    def reduction_objection(self, g: Group, node: Node) -> str:
        over = node.attrs["axes"]
        kind = mode(g.shape, over)
        last = (len(g.shape) - 1,)
        other = f"the region sweeps axes {g.inner}, the reduction {tuple(over)}"
        if kind == "rows":
            if g.inner is not None and g.inner != tuple(over):
                return other
            fits = not g.sinks or (tuple(over) == last and not self.has_long_total(g))
            return "" if fits else "the region has a total over other axes"
        if g.inner is not None and g.inner != last:
            return other
        long = kind == "all" and g.inner is not None and g.shape[-1] > TILE_ELEMENTS
        return "rows are too long for a total beside them" if long else ""

    def has_long_total(self, g: Group) -> bool:
        return g.shape[-1] > TILE_ELEMENTS

    def only_full(self, g: Group, node: Node) -> bool:
        return all(
            o.shape == g.shape or id(self.source(o).node) not in {id(n) for n in g.nodes}
            for o in node.operands
        )

    def fits_full(self, g: Group, o: Tensor) -> bool:
        """An operand of a node over the whole domain: from outside, over all of it, or per row."""
        if self.group_of.get(id(o.node)) is not g:
            # A view of something this region computes would be read at other indices.
            return self.group_of.get(id(self.source(o).node)) is not g
        if o.shape == g.shape:
            return True
        labels = g.labels.get(o)
        if labels is None:
            return False
        lead = len(g.shape) - o.ndim
        return all(
            n == 1 or a == k + lead for k, (a, n) in enumerate(zip(labels, o.shape, strict=True))
        )

    def fits_row(self, g: Group, o: Tensor, like: Tensor) -> bool:
        if self.group_of.get(id(o.node)) is not g:
            return o.size == 1 or (
                o.shape == like.shape and self.group_of.get(id(self.source(o).node)) is not g
            )
        if o.size == 1:
            return False
        return o in g.labels and o.shape == like.shape and g.labels[o] == g.labels[like]

    # -- what readers compute for themselves -------------------------------------------------------

    def postpone(self) -> None:
        """Move work to its readers where that stores less.

        A derivative such as 1 - y^2 depends on the forward value alone and so joined its region,
        which then has to store both. Where the operands are stored anyway and the work is cheap,
        each region that reads the result computes it from them. A number for a whole region (g / n
        in the derivative of a mean) or for a row of it costs next to nothing there, and a kernel of
        its own elsewhere.
        """
        for node in reversed(self.graph.nodes):
            g = self.group_of.get(id(node))
            if (
                g is None
                or len(node.results) != 1
                or node.results[0] in self.roots
                or node.results[0] in g.labels
            ):
                continue
            homes = self.reader_groups(node, g)
            cone = self.cone(node, g) if homes else None
            if cone is None or not self.worthwhile(node, cone, g, homes):
                continue
            if len(homes) > 1 and any(n.op.name in DEAR for n in cone):
                continue
            self.move(cone, g, homes)

    def reader_groups(self, node: Node, g: Group) -> list[Group] | None:
        """The groups that read a value and could compute it; None where one could not."""
        found: dict[int, Group] = {}
        for reader in self.behind_views(node.results[0]):
            for h in self.homes(reader):
                if (
                    h is None
                    or h is g
                    or not (h.shape == node.results[0].shape or self.takes_small(h, node))
                    or reader.op.name in CONTRACTIONS
                ):
                    return None
                if len(h.nodes) >= MEMBERS or self.clones(h) != self.clones(g):
                    return None
                found[h.number] = h
        return list(found.values()) or None

    def takes_small(self, h: Group, node: Node) -> bool:
        """Whether a region could compute for itself what stands for many of its elements."""
        return not h.contraction and prod(h.shape) >= 2 * node.results[0].size

    def worthwhile(self, node: Node, cone: list[Node], g: Group, homes: list[Group]) -> bool:
        """Whether moving stores less: a whole group moves only into larger regions."""
        shape = node.results[0].shape
        larger = [h for h in homes if h.shape != shape]
        if not larger:
            return len(cone) < len(g.nodes)
        return len(larger) == len(homes) and (node.results[0].size == 1 or len(cone) <= FEW)

    def homes(self, node: Node) -> list[Group | None]:
        """The groups that compute a node; None stands for no group."""
        return self.copied.get(id(node)) or [self.group_of.get(id(node))]

    def behind_views(self, t: Tensor) -> list[Node]:
        """Who reads a tensor, looking through views."""
        found = []
        for reader in self.users.get(t, []):
            if reader.op.name in VIEWS and id(reader) not in self.group_of:
                if reader.results[0] in self.roots:
                    found.append(reader)
                found += self.behind_views(reader.results[0])
            else:
                found.append(reader)
        return found

    def clones(self, g: Group) -> set[int]:
        return {n.clone for n in g.nodes}

    def cone(self, node: Node, g: Group) -> list[Node] | None:
        """The nodes of the group that only this one needs; None if they need what is not stored."""
        inside = {id(n) for n in g.nodes}
        found: dict[int, Node] = {}
        stack = [node]
        while stack:
            n = stack.pop()
            if id(n) in found:
                continue
            if not isinstance(n.op, Elementwise):
                return None
            found[id(n)] = n
            for o in n.operands:
                m = o.node
                if id(m) not in inside or id(m) in found:
                    continue
                readers = self.users.get(o, [])
                if all(id(u) in found for u in readers) and o not in self.roots:
                    stack.append(m)
                elif o in g.labels or not (
                    o in self.roots or any(id(u) not in inside for u in self.behind_views(o))
                ):
                    return None
        return list(found.values())

    def move(self, cone: list[Node], g: Group, homes: list[Group]) -> None:
        """Take nodes out of their group; each home gets them (duplicated for several homes)."""
        out = {id(n) for n in cone}
        g.nodes = [n for n in g.nodes if id(n) not in out]
        if not g.nodes:
            del self.groups[g.number]
        for h in homes:
            h.nodes = sorted([*h.nodes, *cone], key=self.order.__getitem__)
        for n in cone:
            for o in n.operands:
                self.refused[n, o] = "cheap: moved to the regions that read it, which store less"
            self.group_of[id(n)] = homes[0]
            if len(homes) > 1:
                self.copied[id(n)] = list(homes)

    # -- cycles and merging -----------------------------------------------------------------------

    def acyclic(self, g: Group, node: Node) -> bool:
        bit = 1 << g.number
        return all(
            self.group_of.get(id(o.node)) is g or not self.before(o) & bit for o in node.operands
        )

    def merge_objection(self, a: Group, b: Group, node: Node) -> str:
        """Why two regions that a node reads may not become one; '' where they may."""
        if a.shape != b.shape:
            return "it is in a region of another shape"
        if len(a.nodes) + len(b.nodes) >= MEMBERS:
            return f"both regions together would have more than {MEMBERS} nodes"
        if a.contraction or b.contraction:
            mine, other = (a, b) if a.contraction else (b, a)
            if other.contraction:
                return "one kernel computes one contraction"
            if mine.before & 1 << other.number:
                return "a contraction reads its operands from memory, many times"
            plain = other.inner is None and not other.sinks and not other.labels
            if not plain or not all(
                isinstance(n.op, Elementwise) and n.results[0].shape == a.shape for n in other.nodes
            ):
                return "a contraction takes elementwise work of its own shape only"
        if a.inner is not None and b.inner is not None and a.inner != b.inner:
            return f"one region sweeps axes {a.inner}, the other {b.inner}"
        last = (len(a.shape) - 1,)
        inner = a.inner if a.inner is not None else b.inner
        if (a.sinks or b.sinks) and inner is not None and (inner != last or self.has_long_total(a)):
            return "one region has a total over other axes"
        return "" if self.unbroken(a, b, node) else "something between them is another kernel"

    def unbroken(self, a: Group, b: Group, node: Node) -> bool:
        """Whether nothing leads from one region to the other, or to the node, around both."""
        both = 1 << a.number | 1 << b.number
        for o in node.operands:
            if self.group_of.get(id(o.node)) not in (a, b) and self.before(o) & both:
                return False
        for x, y in ((a, b), (b, a)):
            if y.before & 1 << x.number:
                if any(o in x.sinks for n in y.nodes for o in n.operands):
                    return False
                for n in y.nodes:
                    for o in n.operands:
                        g = self.group_of.get(id(o.node))
                        if g is x:
                            if o.shape != a.shape:
                                return False
                        elif g is not y and self.before(o) & 1 << x.number:
                            # What leads from x to y around both would become a cycle, and views
                            # between the two would be read at other indices.
                            return False
        return True

    def merge(self, a: Group, b: Group) -> Group:
        a.nodes = sorted([*a.nodes, *b.nodes], key=self.order.__getitem__)
        for n in b.nodes:
            self.group_of[id(n)] = a
        a.inner = a.inner if a.inner is not None else b.inner
        a.contraction |= b.contraction
        a.sinks |= b.sinks
        a.labels.update(b.labels)
        del self.groups[b.number]
        old, new = 1 << b.number, 1 << a.number
        a.before = (a.before | b.before) & ~(old | new)
        for other in self.groups.values():
            if other is not a and other.before & (old | new):
                other.before = (other.before & ~old) | new | a.before
        for key, reach in self.outside.items():
            if reach & (old | new):
                self.outside[key] = (reach & ~old) | new | a.before
        return a

    # -- result -----------------------------------------------------------------------------------

    def rebuild(self) -> Graph:
        """Replace groups by fusion nodes, in an order in which operands come first."""
        new: dict[Tensor, Tensor] = {}
        pieces: dict[int, list[list[Node]]] = {}
        for g in self.groups.values():
            pieces[g.number] = self.checked(g)
        computed = [n for ps in pieces.values() for p in ps for n in p] + self.graph.nodes
        deepest = 1 + sum(len(n.operands) for n in computed)

        def value(t: Tensor) -> Tensor:
            stack = [t]
            while stack:
                if len(stack) > deepest:
                    raise InternalError("fuse: two regions need each other's results")
                top = stack[-1]
                if top in new:
                    stack.pop()
                    continue
                node = top.node
                g = self.group_of.get(id(node))
                if g is None:
                    if node.op in (INPUT, VARIABLE, CONSTANT):
                        new[top] = top
                        continue
                    missing = [o for o in node.operands if o not in new]
                    if missing:
                        stack.extend(missing)
                        continue
                    made = node.with_operands([new[o] for o in node.operands])
                    new.update(zip(node.results, made.results, strict=True))
                    self.made.append(([node], made))
                    continue
                piece = next(p for p in pieces[g.number] if any(n is node for n in p))
                missing = [s for s in self.external(piece) if s not in new]
                if missing:
                    stack.extend(missing)
                    continue
                self.emit(piece, new)
            return new[t]

        return self.graph.with_roots([value(t) for t in self.graph.roots])

    def external(self, piece: list[Node]) -> list[Tensor]:
        """What a piece loads: behind views, outside of it."""
        inside = {id(n) for n in piece}
        solid = solid_operands(piece)
        found: dict[Tensor, None] = {}
        stack = [o for n in piece for o in n.operands]
        while stack:
            o = stack.pop()
            if o in solid:
                found[o] = None
                continue
            if id(o.node) in inside or (o.node.op is CONSTANT and o.size == 1):
                continue
            if o.node.op.name in VIEWS or o.node.op.name == "iota":
                stack.extend(o.node.operands)
            else:
                found[o] = None
        return list(found)

    def outputs_of(self, piece: list[Node]) -> list[Tensor]:
        """Results that someone reads who does not compute them as well.

        Readers of a view read its source, so a view itself is handed out only as a root.
        """
        inside = {id(n) for n in piece}
        found = []
        for n in piece:
            for r in n.results:
                read = n.op.name not in VIEWS and any(
                    id(u) not in inside and not self.has(u, n) for u in self.readers(r, inside)
                )
                if read or r in self.roots:
                    found.append(r)
        return found

    def readers(self, t: Tensor, inside: set[int]) -> list[Node]:
        """Who reads a tensor, looking through all views; a view outside may be a root itself."""
        found = []
        for reader in self.users.get(t, []):
            if reader.op.name not in VIEWS:
                found.append(reader)
                continue
            if reader.results[0] in self.roots and id(reader) not in inside:
                found.append(reader)
            found += self.readers(reader.results[0], inside)
        return found

    def has(self, reader: Node, node: Node) -> bool:
        """Whether every group that has the reader computes the node itself."""
        held = [h.number for h in self.copied.get(id(node), ())]
        return all(h is not None and h.number in held for h in self.homes(reader))

    def emit(self, piece: list[Node], new: dict[Tensor, Tensor]) -> None:
        outputs = self.outputs_of(piece)
        if not outputs:
            outputs = list(piece[-1].results)
        fused, became = make(piece, outputs)
        placed = fused.with_operands([new[o] for o in fused.operands])
        self.made.append((piece, placed))
        renamed = dict(zip(fused.results, placed.results, strict=True))
        for old, t in became.items():
            new[old] = renamed[t]
        for n in piece:
            if n.op.name in VIEWS and n.results[0] not in new:
                new[n.results[0]] = n.with_operands([new[o] for o in n.operands]).results[0]
            for r in n.results:
                new.setdefault(r, r)

    def checked(self, g: Group) -> list[list[Node]]:
        """The group as regions that code generation takes: usually itself."""
        if g.contraction or len(g.nodes) == 1:
            return [g.nodes]
        fused, _ = make(g.nodes, self.outputs_of(g.nodes) or list(g.nodes[-1].results))
        try:
            lower(fused.attrs["body"])
            return [g.nodes]
        except CannotLower:
            return [[n] for n in g.nodes]
