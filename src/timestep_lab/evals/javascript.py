"""A subset of JavaScript, as used in promptfoo files to select a value from an answer: `output.trim().toLowerCase()`,
`JSON.parse(output).items[0].name`, `output.length < 100 && output.includes('lamp')`.

Supported are expressions, `const` and `let`, assignments and a final `return`. Available names are `output`, `context`
and `vars`; only the methods below exist. Scripts have no access to the machine and are stopped if they take too long.
Everything else raises an error that names it when the script is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from timestep_lab.evals.javascript_values import (
    CONSTANTS,
    FUNCTIONS,
    METHODS,
    OPERATIONS,
    UNDEFINED,
    ScriptError,
    Undefined,
    as_text,
    get,
    kind_of,
    number,
    read_pattern,
    shortened,
    truthy,
    type_of,
    unescaped,
)
from timestep_lab.model.errors import DataError

Env = dict[str, Any]
Run = Callable[["_State"], object]

MOST_STEPS = 200_000

_TOKEN = re.compile(
    r"""\s+|//[^\n]*|/\*.*?\*/
    |(?P<number>\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)
    |(?P<name>[A-Za-z_$][\w$]*)
    |(?P<text>'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`)
    |(?P<mark>=>|===|!==|==|!=|<=|>=|&&|\|\||\?\?|\?\.(?!\d)|\*\*|[-+*/%<>!=?:.,;()\[\]{}])""",
    re.VERBOSE | re.DOTALL,
)
_REGEX = re.compile(r"/((?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+)/([a-z]*)")
_BINARY = {
    "??": 1, "||": 1, "&&": 2, "==": 3, "!=": 3, "===": 3, "!==": 3, "<": 4, ">": 4, "<=": 4, ">=": 4, "+": 5, "-": 5, "*": 6, "/": 6, "%": 6,
}  # fmt: skip
_GLOBALS = ("JSON", "Math", "Object", "Array", "Number", "String", "Boolean", "parseInt", "parseFloat", "isNaN")


@dataclass(slots=True)
class _State:
    names: Env
    steps: int = 0

    def step(self, n: int = 1) -> None:
        self.steps += n
        if self.steps > MOST_STEPS:
            raise ScriptError("the script takes too many steps")


@dataclass(frozen=True, slots=True)
class Script:
    """A parsed script."""

    text: str
    returns: bool
    """Whether it ends with a `return`, not with an expression."""
    _statements: tuple[tuple[str | None, Run], ...] = field(repr=False)

    def run(self, output: object, vars: Mapping[str, object]) -> object:
        """Run the script and return its value. Raises `ScriptError`."""
        state = _State({"output": output, "vars": dict(vars), "context": {"vars": dict(vars)}})
        try:
            for name, run in self._statements:
                value = run(state)
                if name is None:
                    return value
                state.names[name] = value
        except (
            TypeError,
            ValueError,
            IndexError,
            OverflowError,
            ArithmeticError,
            RecursionError,
            AttributeError,
            KeyError,
        ) as error:
            raise ScriptError(str(error) or type(error).__name__) from error
        return UNDEFINED


@lru_cache(512)
def read_script(text: str) -> Script:
    """Parse a script. Raises `DataError` for invalid or unsupported code."""
    return _Parser(text).script()


class _Parser:
    """A precedence parser. Each rule returns a function of the variables."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._kind, self._token = "", ""
        self._before = ""
        self._locals: set[str] = {"output", "vars", "context"}
        self._depth = 0
        self._next()

    # -- tokens

    def _next(self) -> str:
        was = self._token
        while self._at < len(self._text):
            match = _TOKEN.match(self._text, self._at)
            if match is None:
                raise self._unknown(self._text[self._at : self._at + 12])
            self._at = match.end()
            if match.lastgroup is not None:
                self._kind, self._token = match.lastgroup, match[0]
                return was
        self._kind, self._token = "end", ""
        return was

    def _take(self, mark: str) -> bool:
        if self._kind in ("mark", "name") and self._token == mark:
            self._next()
            return True
        return False

    def _need(self, mark: str) -> None:
        if not self._take(mark):
            raise self._unknown(self._token or "its end")

    def _unknown(self, what: str) -> DataError:
        return DataError(
            f"The script {shortened(self._text)!r} uses {what!r}, which is not supported.",
            "Write an expression over output and vars, or use another assertion.",
        )

    # -- statements

    def script(self) -> Script:
        statements: list[tuple[str | None, Run]] = []
        returns = False
        while self._kind != "end":
            if self._take(";"):
                continue
            if self._take("return"):
                returns = True
                statements.append((None, self._expression()))
                self._take(";")
                break
            declared = any(self._take(word) for word in ("const", "let", "var"))
            assigned = declared or (
                self._kind == "name"
                and self._token in self._locals
                and re.match(r"\s*=(?![=>])", self._text[self._at :])
            )
            if assigned:
                name = self._name()
                self._need("=")
                statements.append((name, self._expression()))
                self._locals.add(name)
            else:
                statements.append((None, self._expression()))
            if not self._take(";") and self._kind != "end" and "\n" not in self._text:
                raise self._unknown(self._token)
            if statements[-1][0] is None:
                break
        if self._kind != "end":
            raise self._unknown(self._token)
        if not statements:
            raise DataError("The script is empty.", "Write an expression over output.")
        return Script(self._text, returns, tuple(statements))

    def _name(self) -> str:
        if self._kind != "name":
            raise self._unknown(self._token or "its end")
        return self._next()

    # -- expressions

    def _expression(self) -> Run:
        self._depth += 1
        if self._depth > 60:
            raise self._unknown("so many brackets in brackets")
        try:
            if (arrow := self._arrow()) is not None:
                return arrow
            condition = self._binary(1)
            if not self._take("?"):
                return condition
            yes = self._expression()
            self._need(":")
            no = self._expression()
            return lambda s: yes(s) if truthy(condition(s)) else no(s)
        finally:
            self._depth -= 1

    def _arrow(self) -> Run | None:
        rest = self._text[self._at - len(self._token) :]
        match = re.match(r"(?:\(\s*((?:[A-Za-z_$][\w$]*\s*,?\s*)*)\)|([A-Za-z_$][\w$]*))\s*=>\s*(?!\{)", rest)
        if match is None or self._kind == "end":
            return None
        names = [n.strip() for n in (match[1] or match[2] or "").split(",") if n.strip()]
        self._at += match.end() - len(self._token)
        self._next()
        shadowed = self._locals
        self._locals = shadowed | set(names)
        body = self._expression()
        self._locals = shadowed

        def make(state: _State) -> Callable[..., object]:
            def call(*args: object) -> object:
                state.step()
                outer = state.names
                state.names = outer | dict(zip(names, args, strict=False))
                try:
                    return body(state)
                finally:
                    state.names = outer

            return call

        return make

    def _binary(self, least: int) -> Run:
        left = self._unary()
        while self._kind == "mark" and _BINARY.get(self._token, 0) >= least:
            mark = self._next()
            right = self._binary(_BINARY[mark] + 1)
            left = _joined(mark, left, right)
        return left

    def _unary(self) -> Run:
        if self._take("!"):
            inner = self._unary()
            return lambda s: not truthy(inner(s))
        if self._take("-"):
            inner = self._unary()
            return lambda s: -number(inner(s))
        if self._take("+"):
            inner = self._unary()
            return lambda s: number(inner(s))
        if self._take("typeof"):
            inner = self._unary()
            return lambda s: type_of(inner(s))
        return self._member(self._primary())

    def _member(self, value: Run) -> Run:
        while True:
            optional = self._take("?.")
            if optional or self._take("."):
                if optional and self._take("["):
                    value = self._indexed(value, optional=True)
                    continue
                name = self._name()
                if self._take("("):
                    value = _call(value, name, self._arguments(")"), optional=optional)
                else:
                    if name in METHODS and name not in ("length",):
                        raise self._unknown(f".{name} without brackets")
                    value = _property(value, name, optional=optional)
            elif self._take("["):
                value = self._indexed(value, optional=False)
            elif self._kind == "mark" and self._token == "(":
                raise self._unknown("(")
            else:
                return value

    def _indexed(self, value: Run, *, optional: bool) -> Run:
        key = self._expression()
        self._need("]")
        return lambda s: get(value(s), key(s), optional=optional)

    def _arguments(self, end: str) -> list[Run]:
        arguments: list[Run] = []
        while not self._take(end):
            arguments.append(self._expression())
            if not self._take(","):
                self._need(end)
                break
        return arguments

    def _primary(self) -> Run:
        kind, token = self._kind, self._token
        if kind == "mark" and token == "/":
            return self._regex()
        if kind == "number":
            self._next()
            value = float(token) if re.search(r"[.eE]", token) else int(token)
            return lambda s: value
        if kind == "text":
            if token[0] == "`" and "${" in token:
                raise self._unknown("${…}")
            self._next()
            text = re.sub(r"\\(u[0-9a-fA-F]{4}|.)", unescaped, token[1:-1], flags=re.DOTALL)
            return lambda s: text
        if self._take("("):
            inner = self._expression()
            self._need(")")
            return inner
        if self._take("["):
            items = self._arguments("]")
            return lambda s: [item(s) for item in items]
        if self._take("{"):
            return self._object()
        if kind != "name":
            raise self._unknown(token or "its end")
        self._next()
        if token in ("true", "false", "null", "undefined"):
            constant = {"true": True, "false": False, "null": None, "undefined": UNDEFINED}[token]
            return lambda s: constant
        if token == "context":
            if not (self._take(".") or self._take("?.")) or (member := self._name()) != "vars":
                raise self._unknown("context other than context.vars")
            return lambda s: s.names["context"][member]
        if token in self._locals:
            return lambda s: s.names[token]
        if token in _GLOBALS:
            return self._global(token)
        raise self._unknown(token)

    def _object(self) -> Run:
        pairs: list[tuple[str, Run]] = []
        while not self._take("}"):
            if self._kind not in ("name", "text"):
                raise self._unknown(self._token)
            quoted = self._kind == "text"
            key = self._next()
            key = key[1:-1] if quoted else key
            if self._take(":"):
                pairs.append((key, self._expression()))
            elif not quoted and key in self._locals:
                pairs.append((key, _name(key)))
            else:
                raise self._unknown(key)
            if not self._take(","):
                self._need("}")
                break
        return lambda s: {key: value(s) for key, value in pairs}

    def _regex(self) -> Run:
        start = self._at - 1
        match = _REGEX.match(self._text, start)
        if match is None or set(match[2]) - set("gimsu"):
            raise self._unknown(self._text[start : start + 12])
        pattern = read_pattern(match[1], match[2])
        self._at = match.end()
        self._next()
        return lambda s: pattern

    def _global(self, name: str) -> Run:
        if self._take("."):
            full = f"{name}.{self._name()}"
            if full in CONSTANTS:
                return lambda s: CONSTANTS[full]
        else:
            full = name
        if full not in FUNCTIONS:
            raise self._unknown(full)
        function = FUNCTIONS[full]
        if full == "Boolean" and not (self._kind == "mark" and self._token == "("):
            return lambda s: lambda *args: truthy(args[0])
        self._need("(")
        arguments = self._arguments(")")
        return lambda s: function(*(argument(s) for argument in arguments))


# -- evaluation


def _name(name: str) -> Run:
    return lambda s: s.names[name]


def _joined(mark: str, left: Run, right: Run) -> Run:
    if mark == "&&":
        return lambda s: right(s) if truthy(value := left(s)) else value
    if mark == "||":
        return lambda s: value if truthy(value := left(s)) else right(s)
    if mark == "??":
        return lambda s: right(s) if (value := left(s)) is None or isinstance(value, Undefined) else value
    operation = OPERATIONS[mark]
    return lambda s: operation(left(s), right(s))


def _property(value: Run, name: str, *, optional: bool) -> Run:
    return lambda s: get(value(s), name, optional=optional)


def _call(value: Run, name: str, arguments: Sequence[Run], *, optional: bool) -> Run:
    if name not in METHODS:
        raise DataError(
            f"A script uses .{name}(…), which is not supported.", f"Supported methods: {', '.join(sorted(METHODS))}."
        )

    def call(state: _State) -> object:
        state.step()
        target = value(state)
        if (target is None or isinstance(target, Undefined)) and optional:
            return UNDEFINED
        method = METHODS[name].get(kind_of(target))
        if method is None:
            raise ScriptError(f"{shortened(as_text(target))} has no .{name}()")
        made = method(target, *(argument(state) for argument in arguments))
        # Both the values visited and the values produced count, so that a short script cannot exhaust the memory.
        state.step(sum(len(value) // 200 for value in (target, made) if isinstance(value, str | list)))
        return made

    return call
