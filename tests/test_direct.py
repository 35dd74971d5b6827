"""Kernel source means the same to Python, to `direct` and to Numba."""

import ast
import ctypes
import itertools
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staticgraph import jit, native
from staticgraph.launch import launcher_sources
from staticgraph.meanings import Unsupported

NUMBERS = itertools.count()
HELPERS = """
from numba import njit
from staticgraph.codegen.lowlevel import word, put

THREE = 3
HALF = 0.5
YES = True

@njit
def twice(x):
    return 2 * x
"""


def parse(text):
    tree = ast.parse(HELPERS + textwrap.dedent(text))
    namespace = {"__name__": "test_direct_source"}
    exec(compile(tree, "source", "exec"), namespace)
    return tree, namespace


def link(library, arity):
    symbol = library.name
    text, linked = jit.assembled(library)
    module = native.optimise(text, symbol, linked, keep=symbol)
    address = native.link({symbol: native.object_code(module)})[symbol]
    return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arity)(address)


def by_direct(text, arity=2):
    symbol = f"direct_{next(NUMBERS)}"
    return link(jit.lower_directly(*parse(text), "k", arity, symbol), arity)


def by_numba(text, arity=2):
    symbol = f"numba_{next(NUMBERS)}"
    return link(jit.lower_by_numba(parse(text)[1]["k"], arity, symbol), arity)


VALUES = (-7, -3, -1, 0, 1, 2, 5, 16, 100)
CORPUS = {
    "arithmetic": "return (a + 3 * b - (a - b) * 2) ^ (a & b | 12)",
    "floor division by a constant": "return a // 3 * 1000 + b // 1 + (a + b) // 16",
    "remainder by a constant": "return a % 3 + b % 16 * 100",
    "division by a variable": "return a // (b * b + 1) + a % (b * b + 2) * 1000",
    "negative divisors": "return a // -3 + b % -5 * 100",
    "shifts": "return (a << 3) + (b >> 1) + (a << (b & 7))",
    "unary": "return -a + ~b - +a",
    "folded constants": "return a + 2 ** 10 // 3 - (7 - 10) * 4 % 5 + min(3, 4, 2) + (1 << 4)",
    "globals": "return a * THREE",
    "min and max": "return min(a, b) + 10 * max(a, 3, b) + 100 * min(b, -2)",
    "chosen by if": """
        if a < b:
            c = 1
        elif a == b:
            c = 2
        else:
            c = a - b
        return c
    """,
    "returns from branches": """
        if a >= b:
            return 1
        else:
            if a != 0:
                return 2
            return 3
    """,
    "loops over ranges": """
        total = 0
        for i in range(a):
            for j in range(i, b):
                total += i * j + 1
        for i in range(10, 0, -3):
            total -= i
        for i in range(-5, a, 4):
            total += i
        return total
    """,
    "the range is fixed before the loop": """
        total = 0
        stop = a
        for i in range(stop):
            stop += 1
            i += 100
            total += i
        return total + stop
    """,
    "the loop variable stays": """
        i = -1
        for i in range(a):
            pass
        return i
    """,
    "break and continue": """
        total = 0
        for i in range(100):
            if i % 2 == 0:
                continue
            if i > a:
                break
            total += i
        return total
    """,
    "while": """
        count = 0
        while a > 0 and count < 50:
            a = a // 2
            count += 1
            if count == b:
                break
        return a * 100 + count
    """,
    "endless while": """
        count = 0
        while True:
            count += 1
            if count > a:
                return count
    """,
    "endless while with break": """
        count = 0
        while True:
            count += 3
            if count > a:
                break
        return count
    """,
    "short-circuit": """
        hits = 0
        if a > 0 and b > 0 and 100 // b > 3:
            hits += 1
        if a > 0 or b == 0 or 100 // b > 3:
            hits += 10
        if not (a > b) or not b:
            hits += 100
        return hits
    """,
    "conditions as values": """
        less = a < b
        both = less and a > 0
        if both or b in (5, 16, THREE):
            return 1
        return 0
    """,
    "truth of numbers": """
        n = 0
        if a:
            n += 1
        if a - b:
            n += 10
        if 3:
            n += 100
        if YES:
            n += 1000
        return n
    """,
    "floats on the way": """
        x = a * 0.5 + b
        y = x / 4.0
        if y < HALF:
            return 1
        return 2
    """,
    "several targets": """
        c = d = a + 1
        c += b
        return c * d
    """,
    "other functions": "return twice(a) + twice(twice(b))",
}


@pytest.mark.parametrize("name", CORPUS)
def test_three_ways_agree(name):
    body = textwrap.dedent(CORPUS[name])
    text = "def k(a, b):\n" + textwrap.indent(body, "    ")
    python = parse(text)[1]["k"]
    fast, slow = by_direct(text), by_numba(text)
    for a, b in itertools.product(VALUES, VALUES):
        expected = python(a, b)
        assert (fast(a, b), slow(a, b)) == (expected, expected), (a, b)


OPERATORS = ("+", "-", "*", "//", "%", "&", "|", "^", "<", "<=", "==", "!=", "and", "or")
leaves = st.sampled_from(("a", "b", "c")) | st.integers(-20, 20).map(lambda n: f"({n})")


@st.composite
def expressions(draw, depth=3):
    """Integer expressions; divisors are kept away from zero and factors small."""
    if depth == 0 or draw(st.booleans()):
        return draw(leaves)
    operator = draw(st.sampled_from(OPERATORS))
    left, right = draw(expressions(depth=depth - 1)), draw(expressions(depth=depth - 1))
    if operator in ("//", "%"):
        return f"(({left}) {operator} (({right}) % 7 + 1))"
    if operator == "*":
        return f"((({left}) % 1000) * (({right}) % 1000))"
    if operator in ("and", "or"):
        return f"max(0, min(1, 1 * ((({left}) > 0) {operator} (({right}) > 0))))"
    if operator in ("<", "<=", "==", "!="):
        return f"(1 * (({left}) {operator} ({right})))"
    return f"(({left}) {operator} ({right}))"


@given(expressions())
def test_random_expressions(expression):
    text = f"def k(a, b, c):\n    return 1 * ({expression})\n"
    python = parse(text)[1]["k"]
    compiled = by_direct(text, 3)
    for a, b, c in itertools.product((-5, 0, 3, 17), repeat=3):
        assert compiled(a, b, c) == python(a, b, c)


UNSUPPORTED = {
    "a list": "x = [a]",
    "an attribute": "x = a.real",
    "a tuple": "x, y = a, b",
    "a subscript": "x = (a, b)[1]",
    "an exception": "raise ValueError",
    "an assertion": "assert a",
    "a range with a variable step": "for i in range(0, a, b):\n    x = i",
    "a loop over something else": "for i in (1, 2):\n    x = i",
    "an else of a loop": "while a:\n    a -= 1\nelse:\n    b = 1",
    "a changing type": "x = a\nx = 0.5",
    "a chain of comparisons": "x = a < b < 3",
    "a large constant": "x = 1 << 70",
    "a division of constants by zero": "x = 1 // 0",
    "an unknown name": "x = nobody",
    "a text": "x = 'text'",
    "a number or nothing": "if a:\n    return 1",
    "a float result": "return 0.5",
    "a keyword": "x = max(a, b, key=abs)",
    "a conditional expression": "x = a if b else 3",
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_the_rest_is_left_to_numba(name):
    text = "def k(a, b):\n" + textwrap.indent(UNSUPPORTED[name], "    ")
    with pytest.raises(Unsupported):
        jit.lower_directly(*parse(text), "k", 2, "unsupported")


def test_numba_takes_what_direct_leaves():
    text = "def k(a, b):\n    x, y = a, b\n    return x if x < y else y * (1, 2, 3)[1]\n"
    tree, namespace = parse(text)
    assembly, _ = jit.lower(tree, namespace, "k", 2, "left_over")
    assert "left_over" in assembly
    assert by_numba(text)(5, 3) == 6


IN_PLACE = """
from staticgraph.codegen.lowlevel import part

@part
def first_multiple(a, b):
    for i in range(a, a + 50):
        x = i % 7
        if x == b % 7:
            return i
    return -1

@part
def doubled(a):
    i = first_multiple(a, 3)
    return i + i

def k(a, b):
    x = 5
    total = 0
    for i in range(4):
        total += first_multiple(a + i, b) * x - doubled(b)
    return total
"""


def test_functions_of_the_source_are_lowered_in_place():
    python, direct, numba = parse(IN_PLACE)[1]["k"], by_direct(IN_PLACE), by_numba(IN_PLACE)
    for a, b in itertools.product(VALUES, VALUES):
        assert direct(a, b) == numba(a, b) == python(a, b)


def test_a_function_that_calls_itself_cannot_be_lowered_in_place():
    text = "def again(a):\n    return again(a - 1)\n\ndef k(a, b):\n    return again(a)\n"
    with pytest.raises(Unsupported, match="again calls itself"):
        jit.lower_directly(*parse(text), "k", 2, "recursive")


def test_memory_and_loops_in_the_kernel_way():
    text = """
    def k(lo, hi, bufs, scratch):
        x = word(bufs, 0)
        for t in range(lo, hi):
            put(scratch, t % 4, word(x, t))
            put(x, t, word(scratch, t % 4) * 2)
    """
    data, scratch = (ctypes.c_int64 * 10)(*range(10)), (ctypes.c_int64 * 4)()
    bufs = (ctypes.c_int64 * 1)(ctypes.addressof(data))
    by_direct(text, 4)(2, 7, ctypes.addressof(bufs), ctypes.addressof(scratch))
    assert list(data) == [0, 1, 4, 6, 8, 10, 12, 7, 8, 9]


@pytest.mark.parametrize("source", launcher_sources(), ids=lambda source: source.entry)
def test_the_launcher_itself_goes_the_direct_way(source):
    tree = ast.parse(source.text)
    namespace = {"__name__": "launcher"}
    exec(compile(tree, "launchloop", "exec"), namespace)
    jit.lower_directly(tree, namespace, source.entry, source.arity, "launcher")


def test_the_pipeline_of_numba_can_compile_the_launcher_too():
    for source in launcher_sources():
        tree = ast.parse(source.text)
        namespace = {"__name__": "launcher"}
        exec(compile(tree, "launchloop", "exec"), namespace)
        jit.lower_by_numba(namespace[source.entry], source.arity, "launcher")
