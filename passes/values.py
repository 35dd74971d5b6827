"""Value numbers: equal numbers mean equal values, in a graph and in all bodies inside it.

An input of a body has the number of the operand it stands for, so the number of a condition is the
same where it is computed, where it is passed on and where it is computed a second time. On numbers
stand the facts a branch may rely on: what is known to be true there, and what follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from staticgraph.control import SIDES, Cond
from staticgraph.ir import COMMUTATIVE, CONSTANT, INPUT, VARIABLE, Graph, Node, freeze
from staticgraph.rewrite import uniform_value
from staticgraph.tensor import Tensor
from staticgraph.types import is_bool, is_differentiable

#: constants of at most this many elements are copied into the branches that read them
COPIED = 64
#: how reports call the two branches of a cond
BRANCH = {"then": "then branch", "orelse": "else branch"}
#: numbers of bools that are known here
Facts = dict[int, bool]

_SAME = ("reshape", "broadcast_to", "transpose", "stop_gradient", "late", "flip")
_NOT = ("logical_not", "bitwise_invert")
_AND = ("logical_and", "bitwise_and")
_OR = ("logical_or", "bitwise_or")
_MIRRORED = {"greater": "less", "greater_equal": "less_equal"}
#: longer chains of logic are not followed
_DEPTH = 40


class Values:
    """The numbers given so far, and what each stands for."""

    def __init__(self) -> None:
        self.table: dict[tuple, int] = {}
        #: by number: op, operands, and whether the operands have no nan
        self.definitions: list[tuple[str, tuple[int, ...], bool]] = []
        self.constants: Facts = {}

    def new(self, name: str = "", operands: tuple[int, ...] = (), exact: bool = False) -> int:
        """A number that nothing else has."""
        self.definitions.append((name, operands, exact))
        return len(self.definitions) - 1

    def keyed(
        self, key: tuple, name: str = "", operands: tuple[int, ...] = (), exact: bool = False
    ) -> int:
        """The number of whatever has this key."""
        if key not in self.table:
            self.table[key] = self.new(name, operands, exact)
        return self.table[key]

    def of(self, t: Tensor, numbers: dict[Tensor, int]) -> int:
        """The number of a tensor, in a scope where `numbers` holds those known so far."""
        stack = [t.node]
        while t not in numbers:
            node = stack[-1]
            if node.results[0] in numbers:
                stack.pop()
                continue
            missing = [o.node for o in node.operands if o not in numbers]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            numbers.update(
                zip(
                    node.results,
                    self.number(node, [numbers[o] for o in node.operands]),
                    strict=True,
                )
            )
        return numbers[t]

    def number(self, node: Node, operands: Sequence[int]) -> list[int]:
        """The numbers of the results of a node."""
        if node.op in (INPUT, VARIABLE):
            return [self.keyed(("leaf", id(r)), "input") for r in node.results]
        if not node.op.pure:
            return [self.new() for _ in node.results]
        if node.op is Cond:
            p, *rest = operands
            sides = [self.outputs(node.attrs[side], rest) for side in SIDES]
            return [self.chosen(p, a, b) for a, b in zip(*sides, strict=True)]
        name, given = node.op.name, tuple(operands)
        if name in _MIRRORED:
            name, given = _MIRRORED[name], given[::-1]
        elif name in COMMUTATIVE:
            given = tuple(sorted(given))
        attrs = tuple((k, freeze(v)) for k, v in sorted(node.attrs.items()))
        exact = not any(is_differentiable(t.type.dtype) for t in node.operands)
        found = [
            self.keyed((name, node.clone, attrs, given, k), name, given, exact)
            for k in range(len(node.results))
        ]
        if node.op is CONSTANT and is_bool(node.results[0].type.dtype):
            value = uniform_value(node.results[0])
            if value is not None:
                self.constants[found[0]] = bool(value)
        return found

    def outputs(self, body: Graph, inputs: Sequence[int]) -> list[int]:
        """The numbers of what a body gives for inputs of these numbers."""
        numbers = dict(zip(body.inputs, inputs, strict=True))
        return [self.of(t, numbers) for t in body.outputs]

    def chosen(self, p: int, a: int, b: int) -> int:
        """The number of `a` where p holds, else `b`."""
        return a if a == b else self.keyed(("cond", p, a, b))

    # -- truth ------------------------------------------------------------------------------------

    def truth(self, n: int, facts: Facts, depth: int = 0) -> bool | None:
        """Whether all elements of a bool are true (or all false), None where that is open."""
        if n in facts:
            return facts[n]
        if n in self.constants:
            return self.constants[n]
        name, operands, _ = self.definitions[n]
        if depth > _DEPTH or not operands:
            return None
        if (
            name in ("less", "less_equal", "equal", "not_equal")
            and (found := self.compared(n, facts)) is not None
        ):
            return found
        if name not in (*_SAME, *_NOT, *_AND, *_OR, "logical_xor", "bitwise_xor"):
            return None
        known = [
            self.truth(o, facts, depth + 1) for o in (operands[:1] if name in _SAME else operands)
        ]
        if name in _SAME:
            return known[0]
        if name in _NOT:
            return None if known[0] is None else not known[0]
        if name in _AND:
            return False if False in known else None if None in known else True
        if name in _OR:
            return True if True in known else None if None in known else False
        return None if None in known else known[0] != known[1]

    def compared(self, n: int, facts: Facts) -> bool | None:
        """A comparison that follows from others of the same operands, nan included."""
        name, (a, b), exact = self.definitions[n]

        def fact(op: str, x: int, y: int) -> bool | None:
            given = (x, y) if op.startswith("less") or x < y else (y, x)
            return facts.get(self.table.get((op, 0, (), given, 0), -1))

        equal = fact("equal", a, b)
        if equal is None and (other := fact("not_equal", a, b)) is not None:
            equal = not other
        if name == "not_equal":
            below = fact("less", a, b) or fact("less", b, a)
            return True if below else None if equal is None else not equal
        if name == "equal":
            return False if fact("less", a, b) or fact("less", b, a) else equal
        if name == "less":
            if a == b or equal or fact("less", b, a) or fact("less_equal", b, a):
                return False
            return True if exact and fact("less_equal", b, a) is False else None
        if equal or fact("less", a, b) or (exact and (a == b or fact("less", b, a) is False)):
            return True
        return False if fact("less", b, a) else None

    def assume(self, n: int, value: bool, facts: Facts, depth: int = 0) -> None:
        """Enter a fact with what it implies."""
        facts[n] = value
        name, operands, _ = self.definitions[n]
        if depth > _DEPTH:
            return
        if name in _SAME or name in _NOT:
            self.assume(operands[0], value != (name in _NOT), facts, depth + 1)
        elif (name in _AND and value) or (name in _OR and not value):
            for o in operands:
                self.assume(o, value, facts, depth + 1)
