"""Generated source made shorter: constants folded, single passes unrolled, unused names dropped.

Templates write the general form (`t // 1 % 1`, `for f in range(1)`); a reader should not have to,
and compile time grows with every operation. Only integer index arithmetic is folded.
"""

import ast
import operator

BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
COMPARE = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}
PURE = {"min", "max", "ptr", "lanes", "iota", "ld_i64", "splat_i64"}


def tidy(text):
    """The module `text` with its functions simplified."""
    module = ast.parse(text)
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    lines = text.split("\n")
    for function in reversed(functions):
        simplify(function)
        lines[function.lineno - 1 : function.end_lineno] = ast.unparse(function).split("\n")
    return "\n".join(lines)


def simplify(function):
    """Fold until nothing changes."""
    before = None
    while before != (now := ast.dump(function)):
        before = now
        Folder(constants_of(function)).visit(function)
        drop_unused(function)


def stored_names(function):
    """Every name that is written, once per place that writes it."""
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def constants_of(function):
    """Names that hold one integer constant throughout."""
    written = list(stored_names(function))
    values = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and is_int(node.value):
            name = node.targets[0].id
            if written.count(name) == 1:
                values[name] = node.value.value
    return values


def is_int(node, value=None):
    """Whether the node is an integer constant (of that value)."""
    found = isinstance(node, ast.Constant) and type(node.value) is int
    return found and (value is None or node.value == value)


class Folder(ast.NodeTransformer):
    """One round of folding with the known constants."""

    def __init__(self, constants):
        self.constants = constants

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load) and node.id in self.constants:
            return ast.Constant(self.constants[node.id])
        return node

    def visit_UnaryOp(self, node):
        self.generic_visit(node)
        if isinstance(node.op, ast.USub) and is_int(node.operand):
            return ast.Constant(-node.operand.value)
        return node

    def visit_BinOp(self, node):
        self.generic_visit(node)
        left, right, kind = node.left, node.right, type(node.op)
        if is_int(left) and is_int(right) and kind in BINARY:
            return ast.Constant(BINARY[kind](left.value, right.value))
        if kind in (ast.Add, ast.Sub) and is_int(right, 0):
            return left
        if kind is ast.Add and is_int(left, 0):
            return right
        if kind in (ast.Mult, ast.FloorDiv) and is_int(right, 1):
            return left
        if kind is ast.Mult and is_int(left, 1):
            return right
        if (kind is ast.Mod and is_int(right, 1)) or (kind is ast.Mult and is_int(right, 0)):
            return ast.Constant(0)
        if kind in (ast.FloorDiv, ast.Mod, ast.Mult) and is_int(left, 0):
            return ast.Constant(0)
        return node

    def visit_Compare(self, node):
        self.generic_visit(node)
        terms = [node.left, *node.comparators]
        if all(map(is_int, terms)) and all(type(op) in COMPARE for op in node.ops):
            pairs = zip(terms, node.ops, terms[1:], strict=False)
            return ast.Constant(all(COMPARE[type(op)](a.value, b.value) for a, op, b in pairs))
        return node

    def visit_Call(self, node):
        self.generic_visit(node)
        name = getattr(node.func, "id", "")
        if name in ("min", "max") and all(map(is_int, node.args)):
            return ast.Constant({"min": min, "max": max}[name](a.value for a in node.args))
        return node

    def visit_IfExp(self, node):
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_If(self, node):
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_For(self, node):
        self.generic_visit(node)
        bounds = node.iter.args
        first = bounds[0] if len(bounds) > 1 else ast.Constant(0)
        last, step = (
            bounds[min(1, len(bounds) - 1)],
            bounds[2] if len(bounds) > 2 else ast.Constant(1),
        )
        if is_int(first) and is_int(last) and is_int(step):
            turns = len(range(first.value, last.value, step.value))
            if turns < 2:
                return [ast.Assign([node.target], first, lineno=0), *node.body] if turns else None
        return node


def drop_unused(function):
    """Remove assignments that nothing reads, as far as computing the value has no effect."""
    read = {
        n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
    }

    def idle(node):
        if isinstance(node, ast.Assign):
            target = node.targets[0]
        elif isinstance(node, ast.AugAssign):
            target = node.target
        else:
            return isinstance(node, (ast.If, ast.For)) and not node.body
        calls = (n for n in ast.walk(node.value) if isinstance(n, ast.Call))
        return target.id not in read and all(getattr(n.func, "id", "") in PURE for n in calls)

    for node in ast.walk(function):
        for field in ("body", "orelse"):
            body = getattr(node, field, None)
            if isinstance(body, list):
                body[:] = [statement for statement in body if not idle(statement)]
