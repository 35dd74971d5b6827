"""From generated Python source straight to LLVM, for the small language kernels are written in.

Types only flow forward here: a variable keeps the type of its first assignment, an expression has
the type of its operands. That needs no bytecode analysis, no SSA and no type inference, which is
where Numba spends its time: 1.5 ms for a small kernel instead of 13, 16 ms for a matmul kernel
instead of 88, and LLVM has half the code to clean up. What a function call or an operator
means is still asked of Numba (same signatures, same implementations). Anything beyond the language
raises `Unsupported`, and the caller takes Numba's own pipeline.

The language: int64 arguments; assignment to names; `for` over `range` with a constant step;
`while`, `if`, `break`, `continue`, `return`; calls of module-level functions, `min` and `max`;
all operators. A plain function of the same source takes int64s and is lowered in place.
"""

from __future__ import annotations

import ast
import builtins
import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import types

from staticgraph.meanings import Meanings, Unsupported

WORD = ir.IntType(64)
BIT = ir.IntType(1)

BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
COMPARE = {
    ast.Lt: (operator.lt, "<"),
    ast.LtE: (operator.le, "<="),
    ast.Gt: (operator.gt, ">"),
    ast.GtE: (operator.ge, ">="),
    ast.Eq: (operator.eq, "=="),
    ast.NotEq: (operator.ne, "!="),
}
UNARY = {ast.USub: operator.neg, ast.Invert: operator.invert, ast.UAdd: operator.pos}
WORD_INSTRUCTIONS = {
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.and_: "and_",
    operator.or_: "or_",
    operator.xor: "xor",
}


class Value(NamedTuple):
    """An LLVM value with its Numba type; a number not used yet is a Python one, without a type."""

    type: types.Type | None
    value: Any


@dataclass
class Loop:
    proceed: ir.Block
    leave: ir.Block
    broken: bool = False


def definitions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    """The functions of a source by name."""
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def returns_value(definition: ast.FunctionDef) -> bool:
    return any(isinstance(n, ast.Return) and n.value for n in ast.walk(definition))


class Function:
    """Lowers one function into `builder`, which stands at the start of an empty entry block.

    `others` are the functions it may call to be lowered in place; `leave(value or None)` emits the
    return.
    """

    def __init__(
        self,
        definition: ast.FunctionDef,
        others: dict[str, ast.FunctionDef | None],
        namespace: dict[str, Any],
        arguments: list[ir.Value],
        builder: ir.IRBuilder,
        meanings: Meanings,
        leave: Callable[[ir.Value | None], None],
    ):
        self.others = others
        self.namespace = namespace
        self.builder = builder
        self.meanings = meanings
        self.context = meanings.context
        self.leave = leave
        self.loops: list[Loop] = []
        self.variables: dict[str, tuple[types.Type, ir.Value, ir.Type]] = {}
        self.entry = builder.block
        body = builder.append_basic_block("body")
        builder.position_at_end(body)
        self.body(definition, arguments)
        builder.position_at_end(self.entry)
        builder.branch(body)

    def body(self, definition: ast.FunctionDef, arguments: list[ir.Value]) -> None:
        """Lower the whole of a function where the builder stands."""
        signature = definition.args
        if signature.defaults or signature.kwonlyargs or signature.vararg or signature.kwarg:
            raise Unsupported("a parameter list beyond plain names")
        for parameter, value in zip(signature.args, arguments, strict=True):
            self.assign(parameter.arg, Value(types.int64, value))
        self.block(definition.body)
        if not self.builder.block.is_terminated:
            self.leave(None)

    # -- statements -------------------------------------------------------------------------------
    def block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            if self.builder.block.is_terminated:
                return
            handler = getattr(self, f"do_{type(statement).__name__}", None)
            if handler is None:
                raise Unsupported(f"line {statement.lineno}: {type(statement).__name__}")
            handler(statement)

    def do_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            self.expression(node.value)

    def do_Pass(self, node: ast.Pass) -> None:
        pass

    def do_Assign(self, node: ast.Assign) -> None:
        value = self.expression(node.value)
        for target in node.targets:
            self.assign(self.name_of(target), value)

    def do_AugAssign(self, node: ast.AugAssign) -> None:
        name = self.name_of(node.target)
        self.assign(name, self.binary(BINARY[type(node.op)], self.load(name), node.value))

    def do_If(self, node: ast.If) -> None:
        then, done = self.new_block("then"), self.new_block("done")
        other = self.new_block("else") if node.orelse else done
        self.builder.cbranch(self.condition(node.test), then, other)
        reached = other is done
        for block, statements in ((then, node.body), (other, node.orelse)):
            if block is not done:
                self.builder.position_at_end(block)
                self.block(statements)
                reached |= self.jump(done)
        self.builder.position_at_end(done)
        if not reached:
            self.builder.unreachable()

    def do_While(self, node: ast.While) -> None:
        if node.orelse:
            raise Unsupported("while ... else")
        test, body, done = (self.new_block(part) for part in ("test", "body", "done"))
        self.builder.branch(test)
        self.builder.position_at_end(test)
        go_on = self.condition(node.test)
        self.builder.cbranch(go_on, body, done)
        broken = self.loop_body(node.body, body, Loop(test, done))
        self.builder.position_at_end(done)
        if not broken and isinstance(go_on, ir.Constant) and go_on.constant:
            self.builder.unreachable()

    def do_For(self, node: ast.For) -> None:
        call = node.iter
        is_range = isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        if not is_range or self.look_up(call.func.id) is not range or call.keywords or node.orelse:
            raise Unsupported("for over anything but range")
        name = self.name_of(node.target)
        bounds = [self.expression(argument) for argument in call.args]
        step = 1
        if len(bounds) == 3:
            step = bounds[2].value
            if bounds[2].type is not None or type(step) is not int or step == 0:
                raise Unsupported("range with a step that is no constant")
        start = self.word(bounds[0]) if len(bounds) > 1 else ir.Constant(WORD, 0)
        stop = self.word(bounds[min(1, len(bounds) - 1)])
        counter = self.allocate(WORD)
        self.builder.store(start, counter)
        test, body, advance, done = (
            self.new_block(part) for part in ("range", "body", "advance", "done")
        )
        self.builder.branch(test)
        self.builder.position_at_end(test)
        now = self.builder.load(counter, typ=WORD)
        go_on = self.builder.icmp_signed("<" if step > 0 else ">", now, stop)
        self.builder.cbranch(go_on, body, done)
        self.builder.position_at_end(body)
        self.assign(name, Value(types.int64, now))
        self.loop_body(node.body, body, Loop(advance, done))
        self.builder.position_at_end(advance)
        # Below the bound, so one step of 1 cannot overflow; LLVM reasons better when told so.
        flags = ("nsw",) if step == 1 else ()
        following = self.builder.add(now, ir.Constant(WORD, step), flags=flags)
        self.builder.store(following, counter)
        self.builder.branch(test)
        self.builder.position_at_end(done)

    def loop_body(self, statements: list[ast.stmt], block: ir.Block, loop: Loop) -> bool:
        """Lower the body; whether a `break` leaves it."""
        self.builder.position_at_end(block)
        self.loops.append(loop)
        self.block(statements)
        self.loops.pop()
        self.jump(loop.proceed)
        return loop.broken

    def do_Break(self, node: ast.Break) -> None:
        self.loops[-1].broken = True
        self.builder.branch(self.loops[-1].leave)

    def do_Continue(self, node: ast.Continue) -> None:
        self.builder.branch(self.loops[-1].proceed)

    def do_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self.leave(None)
        else:
            self.leave(self.word(self.expression(node.value)))

    # -- expressions ------------------------------------------------------------------------------
    def expression(self, node: ast.expr) -> Value:
        handler = getattr(self, f"get_{type(node).__name__}", None)
        if handler is None:
            raise Unsupported(f"line {node.lineno}: {type(node).__name__}")
        return handler(node)

    def get_Constant(self, node: ast.Constant) -> Value:
        return self.number(node.value)

    def get_Name(self, node: ast.Name) -> Value:
        return self.load(node.id)

    def get_BinOp(self, node: ast.BinOp) -> Value:
        return self.binary(BINARY.get(type(node.op)), self.expression(node.left), node.right)

    def get_UnaryOp(self, node: ast.UnaryOp) -> Value:
        if isinstance(node.op, ast.Not):
            return Value(types.boolean, self.builder.not_(self.condition(node.operand)))
        operand = self.expression(node.operand)
        function = UNARY[type(node.op)]
        return self.fold(function, operand) or self.call(function, [operand])

    def get_Compare(self, node: ast.Compare) -> Value:
        if len(node.ops) != 1 or type(node.ops[0]) not in COMPARE:
            if len(node.ops) == 1 and isinstance(node.ops[0], ast.In):
                return self.membership(node)
            raise Unsupported(f"line {node.lineno}: this comparison")
        function, sign = COMPARE[type(node.ops[0])]
        left, right = self.expression(node.left), self.expression(node.comparators[0])
        folded = self.fold(function, left, right)
        if folded:
            return folded
        if self.is_word(left) and self.is_word(right):
            result = self.builder.icmp_signed(sign, self.word(left), self.word(right))
            return Value(types.boolean, result)
        return self.call(function, [left, right])

    def membership(self, node: ast.Compare) -> Value:
        """`x in (a, b)` for words."""
        choices = node.comparators[0]
        if not isinstance(choices, ast.Tuple):
            raise Unsupported(f"line {node.lineno}: `in` anything but a tuple")
        value = self.word(self.expression(node.left))
        found = ir.Constant(BIT, 0)
        for choice in choices.elts:
            equal = self.builder.icmp_signed("==", value, self.word(self.expression(choice)))
            found = self.builder.or_(found, equal)
        return Value(types.boolean, found)

    def get_BoolOp(self, node: ast.BoolOp) -> Value:
        """Short-circuit, of conditions only."""
        result = self.allocate(BIT)
        done = self.new_block("decided")
        is_and = isinstance(node.op, ast.And)
        for operand in node.values:
            self.builder.store(self.condition(operand), result)
            if operand is not node.values[-1]:
                further = self.new_block("further")
                known = self.builder.load(result, typ=BIT)
                self.builder.cbranch(known, *((further, done) if is_and else (done, further)))
                self.builder.position_at_end(further)
        self.builder.branch(done)
        self.builder.position_at_end(done)
        return Value(types.boolean, self.builder.load(result, typ=BIT))

    def get_Call(self, node: ast.Call) -> Value:
        if not isinstance(node.func, ast.Name) or node.keywords:
            raise Unsupported(f"line {node.lineno}: a call of anything but a plain function")
        if node.func.id in self.variables:
            raise Unsupported(f"line {node.lineno}: a call of a variable")
        function = self.look_up(node.func.id)
        if any(isinstance(argument, ast.Starred) for argument in node.args):
            raise Unsupported(f"line {node.lineno}: a starred argument")
        operands = [self.expression(argument) for argument in node.args]
        if function in (min, max) and len(operands) > 1 and all(map(self.is_word, operands)):
            return self.extreme("<" if function is min else ">", operands)
        if isinstance(function, FunctionType) and node.func.id in self.others:
            return self.in_place(node.func.id, operands)
        return self.call(function, operands)

    def in_place(self, name: str, operands: list[Value]) -> Value:
        """Lower the called function here, with variables of its own; nothing returned reads 0."""
        definition = self.others[name]
        if definition is None:
            raise Unsupported(f"{name} calls itself")
        result, done = self.allocate(WORD), self.new_block("returned")
        returns = returns_value(definition)

        def leave(value: ir.Value | None) -> None:
            if returns and value is None:
                raise Unsupported("a function that returns a number or nothing")
            if returns:
                self.builder.store(value, result)
            self.builder.branch(done)

        inner = copy.copy(self)
        inner.variables, inner.loops, inner.leave = {}, [], leave
        inner.others = {**self.others, name: None}
        inner.body(definition, [self.word(operand) for operand in operands])
        self.builder.position_at_end(done)
        return Value(types.int64, self.builder.load(result, typ=WORD))

    def extreme(self, sign: str, operands: list[Value]) -> Value:
        if all(operand.type is None for operand in operands):
            pick = min if sign == "<" else max
            return self.number(pick(operand.value for operand in operands))
        best, *others = (self.word(operand) for operand in operands)
        for other in others:
            better = self.builder.icmp_signed(sign, other, best)
            best = self.builder.select(better, other, best)
        return Value(types.int64, best)

    def binary(self, function: Callable | None, left: Value, right_node: ast.expr) -> Value:
        if function is None:
            raise Unsupported(f"line {right_node.lineno}: this operator")
        right = self.expression(right_node)
        folded = self.fold(function, left, right)
        if folded:
            return folded
        if self.is_word(left) and self.is_word(right):
            if function in WORD_INSTRUCTIONS:
                emit = getattr(self.builder, WORD_INSTRUCTIONS[function])
                return Value(types.int64, emit(self.word(left), self.word(right)))
            by_constant = right.type is None and right.value > 0
            if by_constant and function in (operator.floordiv, operator.mod):
                return self.divide(function, self.word(left), right.value)
        return self.call(function, [left, right])

    def divide(self, function: Callable, left: ir.Value, divisor: int) -> Value:
        """Python's floor division by a positive constant."""
        b = self.builder
        by, zero = ir.Constant(WORD, divisor), ir.Constant(WORD, 0)
        rest = b.srem(left, by)
        below = b.icmp_signed("<", rest, zero)
        if function is operator.mod:
            return Value(types.int64, b.select(below, b.add(rest, by), rest))
        return Value(types.int64, b.add(b.sdiv(left, by), b.sext(below, WORD)))

    # -- what Numba knows -------------------------------------------------------------------------
    def call(self, function: Any, operands: list[Value]) -> Value:
        """The operation as Numba types and implements it."""
        given = tuple(self.type_of(operand) for operand in operands)
        signature, emit = self.meanings.find(function, given)
        values = [
            self.convert(operand, have, want)
            for operand, have, want in zip(operands, given, signature.args, strict=True)
        ]
        return Value(types.unliteral(signature.return_type), emit(self.builder, values))

    def type_of(self, operand: Value) -> types.Type:
        if operand.type is not None:
            return operand.type
        if isinstance(operand.value, bool):
            return types.boolean
        return types.int64 if isinstance(operand.value, int) else types.float64

    def convert(self, operand: Value, have: types.Type, want: types.Type) -> ir.Value:
        value = operand.value
        if operand.type is None:
            value = ir.Constant(self.context.get_value_type(have), value)
        return value if have == want else self.context.cast(self.builder, value, have, want)

    # -- numbers, names, blocks -------------------------------------------------------------------
    def fold(self, function: Callable, *operands: Value) -> Value | None:
        """The number that `function` makes of numbers."""
        if any(operand.type is not None for operand in operands):
            return None
        try:
            return self.number(function(*(operand.value for operand in operands)))
        except (ArithmeticError, ValueError, TypeError) as error:
            raise Unsupported(f"constants that do not combine: {error}") from None

    def number(self, value: Any) -> Value:
        if type(value) not in (bool, int, float):
            raise Unsupported(f"the constant {value!r}")
        if type(value) is int and not -(1 << 63) <= value < 1 << 63:
            raise Unsupported(f"the integer {value}, beyond int64")
        return Value(None, value)

    def is_word(self, operand: Value) -> bool:
        if operand.type is None:
            return type(operand.value) is int
        return operand.type == types.int64

    def word(self, operand: Value) -> ir.Value:
        if not self.is_word(operand):
            raise Unsupported(f"{operand.type or operand.value} where an int64 belongs")
        return ir.Constant(WORD, operand.value) if operand.type is None else operand.value

    def condition(self, node: ast.expr) -> ir.Value:
        operand = self.expression(node)
        if operand.type is None:
            return ir.Constant(BIT, int(bool(operand.value)))
        if operand.type == types.boolean:
            return operand.value
        return self.builder.icmp_signed("!=", self.word(operand), ir.Constant(WORD, 0))

    def name_of(self, target: ast.expr) -> str:
        if not isinstance(target, ast.Name):
            raise Unsupported(f"line {target.lineno}: assignment to anything but a name")
        return target.id

    def look_up(self, name: str) -> Any:
        try:
            return self.namespace[name]
        except KeyError:
            pass
        try:
            return getattr(builtins, name)
        except AttributeError:
            raise Unsupported(f"the name {name}, which nobody defines") from None

    def load(self, name: str) -> Value:
        if name in self.variables:
            kind, place, llvm_type = self.variables[name]
            return Value(kind, self.builder.load(place, typ=llvm_type))
        return self.number(self.look_up(name))

    def assign(self, name: str, value: Value) -> None:
        kind = self.type_of(value)
        if isinstance(kind, types.NoneType):
            raise Unsupported("a value that is None")
        value = self.convert(value, kind, kind)
        if name not in self.variables:
            self.variables[name] = (kind, self.allocate(value.type), value.type)
        known, place, _ = self.variables[name]
        if known != kind:
            raise Unsupported(f"{name} is {known} and then {kind}")
        self.builder.store(value, place)

    def allocate(self, kind: ir.Type) -> ir.Value:
        with self.builder.goto_block(self.entry):
            place = self.builder.alloca(kind)
            self.builder.store(ir.Constant(kind, None), place)
        return place

    def new_block(self, name: str) -> ir.Block:
        return self.builder.append_basic_block(name)

    def jump(self, block: ir.Block) -> bool:
        """Go there, unless the code has gone elsewhere already."""
        if self.builder.block.is_terminated:
            return False
        self.builder.branch(block)
        return True
