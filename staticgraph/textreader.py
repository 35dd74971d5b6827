"""Reading the text form of graphs; the grammar stands in text.py.

A recursive descent over regular-expression tokens. Nothing in a text is executed, and whatever is
wrong with it ends in a ParseError that shows the place.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

from staticgraph import arraytext
from staticgraph.errors import InputError, ParseError, StaticGraphError
from staticgraph.ir import CONSTANT, INPUT, Graph, Node, Variable
from staticgraph.registry import OPS
from staticgraph.tensor import Tensor
from staticgraph.types import DTYPES, LONG, TensorType

_TOKEN = re.compile(
    rf"""(?P<space>[ \t\r\n]+)
      | (?P<clone>\#clone=\d+)
      | (?P<comment>\#[^\n]*)
      | (?P<type>(?:{"|".join(LONG)})\[[ ]*(?:\d+(?:[ ]*,[ ]*\d+)*)?[ ]*\])
      | (?P<blob>(?:zlib|npy|sha)'[^'\n]*')
      | (?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
      | (?P<number>-?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|inf\b|nan\b))
      | (?P<ref>[%@][\w.]+)
      | (?P<word>[A-Za-z_][\w.]*)
      | (?P<mark>[(){{}}\[\],:=])
      | (?P<opaque><[^>\n]*>)
    """,
    re.VERBOSE | re.ASCII,
)
_WORDS = {"None": None, "True": True, "False": False}
#: deeper nestings than any graph has would exhaust Python's stack
_DEPTH = 64


class Token(NamedTuple):
    kind: str
    word: str
    pos: int
    line: int


def parse(
    text: str,
    variables: Mapping[str, object] | None = None,
    *,
    arrays: Mapping[str, np.ndarray] | None = None,
    source: str = "",
) -> Graph:
    """The graph that a text describes, each stated type checked against the op's own rule.

    Variables are new and zero, or take the arrays (or are the Variables) given by label. `arrays`
    holds what the text names npy'key'; `source` is the file that messages and nodes point to.
    Raises ParseError with the line and a caret.
    """
    if not isinstance(text, str):
        raise ParseError(f"parse: needs the text of a graph, got {type(text).__name__}")
    return _Parser(text, variables or {}, arrays or {}, source).top()


class _Parser:
    def __init__(
        self,
        text: str,
        given: Mapping[str, object],
        arrays: Mapping[str, np.ndarray],
        source: str,
    ):
        self.text = text
        self.source = source
        self.given = given
        self.arrays = arrays
        self.variables: dict[str, Variable] = {}
        self.depth = 0
        self.at = 0
        self.tokens: list[Token] = []
        #: the user's file and line, by line of the text
        self.origins: dict[int, tuple[str, int]] = {}
        self.tokenize()

    # ------------------------------------------------------------------------ tokens

    def tokenize(self) -> None:
        pos, line = 0, 1
        while pos < len(self.text):
            match = _TOKEN.match(self.text, pos)
            if match is None:
                self.fail("this is no part of a graph", Token("", self.text[pos], pos, line))
            kind, word = str(match.lastgroup), match.group()
            if kind == "comment":
                origin = re.fullmatch(r"# (\S.*):(\d{1,9})", word)
                if origin:
                    self.origins[line] = origin[1], int(origin[2])
            elif kind != "space":
                self.tokens.append(Token(kind, word, pos, line))
            line += word.count("\n")
            pos = match.end()
        self.tokens.append(Token("end", "", pos, line))

    def fail(self, message: str, token: Token | None = None) -> NoReturn:
        """Raise ParseError with the line of the token and a caret under it."""
        token = token or self.tokens[self.at]
        start = self.text.rfind("\n", 0, token.pos) + 1
        line, column = self.text[start:].partition("\n")[0], token.pos - start
        if len(line) > 100:  # a packed array can be one line of megabytes
            cut = max(0, column - 40)
            line, column = line[cut : cut + 100], column - cut
        caret = " " * column + "^" * max(1, min(len(token.word), 100 - column))
        place = f"{self.source}:{token.line}" if self.source else f"line {token.line}"
        shown = re.sub(r"[^\x20-\uffff]", " ", line)
        raise ParseError(f"parse: {place}: {message}\n  {shown}\n  {caret}")

    @property
    def now(self) -> Token:
        return self.tokens[self.at]

    def next(self) -> Token:
        token = self.now
        self.at += token.kind != "end"
        return token

    def skip(self, word: str) -> bool:
        found = self.now.word == word
        self.at += found
        return found

    def expect(self, word: str, what: str = "") -> None:
        if not self.skip(word):
            self.fail(f"expected {what or repr(word)}, got {self.now.word or 'the end'!r}")

    def take(self, kind: str, what: str, sigil: str = "") -> Token:
        if self.now.kind != kind or not self.now.word.startswith(sigil):
            self.fail(f"expected {what}, got {self.now.word or 'the end'!r}")
        return self.next()

    def items(self, close: str) -> Iterator[None]:
        """One round per comma-separated item, until the closing mark."""
        while not self.skip(close):
            yield
            if self.now.word != close:
                self.expect(",", f"',' or {close!r}")

    # ------------------------------------------------------------------------ graphs

    def top(self) -> Graph:
        graph = self.graph(top=True)
        if self.now.kind != "end":
            self.fail("expected nothing after the graph")
        for label in self.given:
            if label not in self.variables:
                has = ", ".join(f"@{v}" for v in self.variables) or "no variables"
                raise InputError(f"parse: the text has no variable @{label}; it has {has}")
        return graph

    def graph(self, top: bool = False) -> Graph:
        self.expect("graph")
        if top and self.now.word != "(":
            self.next()
        scope: dict[str, Tensor] = {}
        inputs = []
        self.expect("(")
        for _ in self.items(")"):
            token, name, type = self.declaration("%")
            attrs = {"name": name, "type": type}
            tensor = Node(INPUT, (), attrs, (type,), self.origin(token)).results[0]
            self.define(scope, token, tensor)
            inputs.append(tensor)
        self.expect("{")
        while top and self.now.word.startswith("@"):
            self.variable()
        while self.now.word.startswith("%"):
            self.node(scope)
        self.expect("return", "a node '%0: type = op(...)', or 'return'")
        outputs = []
        while self.now.kind == "ref":
            outputs.append(self.operand(scope, self.next()))
            if not self.skip(","):
                break
        updates = []
        while self.skip("update"):
            updates.append(self.update(scope))
        self.expect("}", "'update' or '}'")
        return Graph(inputs, outputs, updates)

    def update(self, scope: Mapping[str, Tensor]) -> tuple[Variable, Tensor]:
        token = self.take("ref", "a variable such as @w", "@")
        variable = self.operand(scope, token)
        assert isinstance(variable, Variable)
        self.expect("=")
        spot = self.take("ref", "a value such as %0")
        tensor = self.operand(scope, spot)
        if tensor.type != variable.spec:
            self.fail(f"{token.word} is {variable.spec}, its update is {tensor.type}", spot)
        return variable, tensor

    def declaration(self, sigil: str) -> tuple[Token, str, TensorType]:
        token = self.take("ref", f"a name such as {sigil}x", sigil)
        name = self.string() if self.now.kind == "string" else token.word[1:]
        self.expect(":")
        return token, name, self.type()

    def define(self, scope: dict[str, Any], token: Token, value: Any) -> None:
        if token.word in scope:
            self.fail(f"{token.word} is given twice", token)
        scope[token.word] = value

    def variable(self) -> None:
        token, name, type = self.declaration("@")
        label = token.word[1:]
        given = self.given.get(label)
        if given is None:
            try:
                given = np.zeros(type.shape, type.dtype)
            except (MemoryError, ValueError) as error:
                self.fail(f"no room for {type}: {error}", token)
        if not isinstance(given, Variable):
            given = Variable(np.array(given, order="C"), name, self.origin(token))
        if given.spec != type:
            raise InputError(f"parse: variable {token.word} is {type}, its value is {given.spec}")
        if label in self.variables:
            self.fail(f"{token.word} is given twice", token)
        self.variables[label] = given

    def operand(self, scope: Mapping[str, Tensor], token: Token) -> Tensor:
        word = token.word
        found = self.variables.get(word[1:]) if word[0] == "@" else scope.get(word)
        if found is None:
            self.fail(f"{word} is not defined above", token)
        return found

    def origin(self, token: Token) -> tuple[str, int] | None:
        """The user's line from the comment beside the token, else the line of the text's file."""
        here = (self.source, token.line) if self.source else None
        return self.origins.get(token.line, here)

    def node(self, scope: dict[str, Tensor]) -> None:
        results: list[tuple[Token, TensorType, Token]] = []
        while not results or self.skip(","):
            token = self.take("ref", "a result such as %0", "%")
            self.expect(":")
            spot = self.now
            results.append((token, self.type(), spot))
        self.expect("=")
        spot = self.take("word", "the name of an op")
        if spot.word not in OPS:
            self.fail(f"there is no op {spot.word!r}", spot)
        op = OPS[spot.word]
        self.expect("(")
        operands: list[Tensor] = []
        attrs: dict[str, Any] = {}
        if op is CONSTANT:
            attrs["value"] = self.array(results[0][1])
            self.expect(")")
        else:
            for _ in self.items(")"):
                if self.now.kind == "ref":
                    operands.append(self.operand(scope, self.next()))
                else:
                    key = self.take("word", "an operand, or an attribute name=value")
                    self.expect("=")
                    self.define(attrs, key, self.value())
        origin = self.origin(self.tokens[self.at - 1])
        clone = 0
        if self.now.kind == "clone":
            clone = int(self.next().word.partition("=")[2][:9])
        try:
            inferred = op.infer(*(t.type for t in operands), **attrs)
        except StaticGraphError as error:
            self.fail(error.summary, spot)
        except Exception as error:  # rules index, unpack and call with whatever the text holds
            self.fail(f"{op.name} does not take these operands and attributes: {error}", spot)
        types = (inferred,) if isinstance(inferred, TensorType) else tuple(inferred)
        if len(types) != len(results):
            said = f"{op.name} has {len(types)} results, the text says {len(results)}"
            self.fail(said, results[0][0])
        for type, (_, stated, place) in zip(types, results, strict=True):
            if type != stated:
                gives = type if type.dtype in DTYPES else f"dtype {type.dtype!r}"
                self.fail(f"{op.name} gives {gives}, the text says {stated}", place)
        stated = tuple(type for _, type, _ in results)
        made = Node(op, tuple(operands), attrs, stated, origin, clone)
        for (token, _, _), tensor in zip(results, made.results, strict=True):
            self.define(scope, token, tensor)

    # ------------------------------------------------------------------------ values

    def type(self) -> TensorType:
        token = self.take("type", "a type such as f32[2, 3]")
        short, _, sizes = token.word[:-1].partition("[")
        try:
            return TensorType(LONG[short], tuple(int(n) for n in sizes.split(",") if n.strip()))
        except ValueError as error:
            self.fail(str(error), token)

    def string(self) -> str:
        token = self.next()
        try:
            return ast.literal_eval(token.word)
        except (SyntaxError, ValueError) as error:
            self.fail(f"this is no string: {error}", token)

    def number(self) -> int | float:
        token = self.take("number", "a number")
        try:
            return int(token.word) if token.word.lstrip("-").isdigit() else float(token.word)
        except ValueError as error:
            self.fail(str(error), token)

    def value(self) -> Any:
        self.depth += 1
        if self.depth > _DEPTH:
            self.fail(f"values nest deeper than {_DEPTH}")
        found = self.plain() if self.now.word != "graph" else self.graph()
        self.depth -= 1
        return found

    def plain(self) -> Any:
        token = self.now
        if token.kind == "number":
            return self.number()
        if token.kind == "string":
            return self.string()
        if token.kind == "type":
            type = self.type()
            data = self.now.word in ("[", "True", "False", "complex")
            return self.array(type) if data or self.now.kind in ("number", "blob") else type
        self.next()
        if token.word in _WORDS:
            return _WORDS[token.word]
        if token.word == "complex":
            self.expect("(")
            real = self.number()
            self.expect(",")
            imag = self.number()
            self.expect(")")
            return complex(real, imag)
        if token.word == "[":
            return [self.value() for _ in self.items("]")]
        if token.word == "(":
            return tuple([self.value() for _ in self.items(")")])
        if token.word == "{":
            return dict(self.pair() for _ in self.items("}"))
        if token.word.startswith("@"):
            return self.operand({}, token)
        if token.kind == "opaque":
            self.fail("this stands for a Python object that text cannot hold", token)
        self.fail("expected a value", token)

    def pair(self) -> tuple[Any, Any]:
        token = self.now
        key = self.value()
        if not isinstance(key, (str, int, float)):
            self.fail("a key is a string or a number", token)
        self.expect(":")
        return key, self.value()

    def array(self, type: TensorType) -> np.ndarray:
        token = self.now
        try:
            packed = token.kind == "blob"
            array = self.blob(type) if packed else arraytext.read(self.value(), type)
        except ParseError:
            raise
        except (ValueError, OverflowError, MemoryError) as error:
            self.fail(f"this is no {type}: {error}", token)
        array.flags.writeable = False
        return array

    def blob(self, type: TensorType) -> np.ndarray:
        how, _, body = self.next().word[:-1].partition("'")
        if how == "sha":
            raise ValueError("the text was printed without its large arrays")
        if how == "npy":
            if body not in self.arrays:
                raise ValueError(f"there is no array {body!r} beside the text")
            array = self.arrays[body]
            if array.dtype.name != type.dtype or array.shape != type.shape:
                raise ValueError(f"array {body!r} has {array.dtype.name}{list(array.shape)}")
            return np.array(array, type.dtype, order="C")
        return arraytext.unpack(body, type)
