"""Parses a filter: a Python expression, parsed by `ast` and never evaluated, becomes a typed tree or raises `FilterError`."""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Literal, NoReturn, cast

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import FilterError
from timestep_lab.store.filters import tree as values
from timestep_lab.store.filters.evaluate import Scope
from timestep_lab.store.filters.suggestions import TRACE_LISTS
from timestep_lab.store.filters.tree import (
    Aggregate,
    Always,
    Arithmetic,
    Both,
    Compare,
    Condition,
    Constant,
    Field,
    Holds,
    IsNone,
    Lowered,
    Negation,
    OneOf,
    Row,
    Some,
    Spans,
    TextTest,
    Value,
)

MAX_LENGTH = 10_000
MAX_DEPTH = 60
MAX_LOOKS = 20
"""How many times one filter may iterate over spans. Each time is a subquery."""
FUNCTIONS = ("any", "all", "len", "count", "sum", "min", "max", "ago", "now")
METHODS = ("lower", "upper", "startswith", "endswith", "contains")
_COMPARE = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_ARITHMETIC = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_BITWISE: dict[type[ast.operator | ast.unaryop], tuple[str, str]] = {
    ast.BitAnd: ("&", "and"), ast.BitOr: ("|", "or"), ast.Invert: ("~", "not"),
}  # fmt: skip
NOTHING = Constant(None, "none")
_PARSING = threading.Lock()
"""Before Python 3.11.8 two threads that create syntax trees at the same time can fail: their depth of recursion is counted in one place."""
EXAMPLE = 'Write, for example: model == "gpt-4.1" and cost > 0.01'


def read_filter(text: str, *, now: datetime | None = None) -> Condition:
    """Parses a filter; the empty filter is always true. `now` is the reference time of `ago`. Raises `FilterError` with the position."""
    if not text.strip():
        return Always(True)
    if len(text) > MAX_LENGTH:
        raise FilterError(f"The filter is longer than {MAX_LENGTH} characters.", "Shorten it.")
    # Newlines become spaces; positions stay the same.
    line = re.sub(r"\s", " ", text)
    offset = len(line) - len(line.lstrip())
    try:
        with _PARSING:
            tree = ast.parse(line[offset:], mode="eval")
    except SyntaxError as error:
        raise _unreadable(line, offset + max((error.offset or 1) - 1, 0), error) from None
    except (ValueError, RecursionError, MemoryError):  # NUL, or unlimited parentheses
        raise FilterError("The filter cannot be parsed.", EXAMPLE) from None
    return _Reader(line[offset:], offset, now or utc_now()).condition(tree.body, Scope({}), 0)


def started_since(condition: Condition) -> datetime | None:
    """Returns the latest time such that every matching trace has started at or after it; None if the filter implies no such time."""
    match condition:
        case Both("and", parts):
            moments = [moment for part in parts if (moment := started_since(part)) is not None]
            return max(moments, default=None)
        case Compare(">" | ">=" | "==", Field(Row(""), "started_at"), Constant(datetime() as moment)):
            return moment
        case Compare("<" | "<=" | "==", Constant(datetime() as moment), Field(Row(""), "started_at")):
            return moment
    return None


_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_SINGLE_EQUALS = re.compile(r"(?<![=!<>])=(?!=)")
_WITH_UNIT = re.compile(r"\b\d[\d._]*[A-Za-z]\w*")


def _unreadable(text: str, place: int, error: SyntaxError) -> FilterError:
    place = min(place, len(text))
    for written, meant in (("&&", "and"), ("||", "or"), ("!", "not")):
        if text[max(place - 1, 0) : place + 1].endswith(written) or text.startswith(written, place):
            return FilterError(
                f"{written} is not supported in filters (at character {place + 1} of the filter)",
                f"Use {meant} instead.",
                position=place,
            )
    outside = _QUOTED.sub(lambda quoted: " " * len(quoted[0]), text)
    hint = 'Compare with "==", not "=".' if _SINGLE_EQUALS.search(outside) else EXAMPLE
    if any(number.start() <= place + 1 and place <= number.end() for number in _WITH_UNIT.finditer(outside)):
        hint = 'Write numbers without a unit, such as duration_ms > 1000, and times as ago("24h").'
    return FilterError(f"The filter cannot be parsed at character {place + 1}: {error.msg}.", hint, position=place)


class _Reader:
    def __init__(self, text: str, offset: int, now: datetime) -> None:
        self._text, self._offset, self._now = text, offset, now
        self._looks = 0

    # -- conditions

    def condition(self, node: ast.expr, scope: Scope, depth: int) -> Condition:
        if depth > MAX_DEPTH:
            self.fail(node, "The filter is nested too deep.", "Split it.")
        match node:
            case ast.BoolOp(op=op, values=parts):
                read = tuple(self.condition(part, scope, depth + 1) for part in parts)
                return Both("and" if isinstance(op, ast.And) else "or", read)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Negation(self.condition(operand, scope, depth + 1))
            case ast.Compare():
                return self._comparison(node, scope, depth)
            case ast.Call():
                return self._call_condition(node, scope, depth)
            case ast.Constant(value=bool(value)):
                return Always(value)
        self.value(node, scope, depth)  # An unknown name is the better error, so check names first.
        self.fail(
            node,
            f"{ast.unparse(node)} is not a condition.",
            "Compare it, for example with ==, > or `is None`.",
        )

    def _comparison(self, node: ast.Compare, scope: Scope, depth: int) -> Condition:
        operands = [node.left, *node.comparators]
        steps = [
            self._step(operator, left, right, scope, depth + 1)
            for operator, left, right in zip(node.ops, operands, operands[1:], strict=False)
        ]
        return steps[0] if len(steps) == 1 else Both("and", tuple(steps))

    def _step(self, operator: ast.cmpop, left: ast.expr, right: ast.expr, scope: Scope, depth: int) -> Condition:
        if isinstance(operator, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                self.fail(right, "`is` can only be used with None.", "Use == for other values.")
            condition: Condition = IsNone(self.value(left, scope, depth))
            return Negation(condition) if isinstance(operator, ast.IsNot) else condition
        if isinstance(operator, ast.In | ast.NotIn):
            condition = self._membership(left, right, scope, depth)
            return Negation(condition) if isinstance(operator, ast.NotIn) else condition
        a, b = self.value(left, scope, depth), self.value(right, scope, depth)
        symbol = cast(Literal["==", "!=", "<", "<=", ">", ">="], _COMPARE[type(operator)])
        if NOTHING in (a, b):
            if symbol not in ("==", "!="):
                self.fail(right, f"None cannot be compared with {symbol}.", "Use `is None` or `is not None`.")
            value = b if a == NOTHING else a
            return IsNone(value) if symbol == "==" else Negation(IsNone(value))
        a, b = self._agree(left, a, b), self._agree(right, b, a)
        if symbol in ("==", "!="):
            a, b = self._choice(left, a, b), self._choice(right, b, a)
        return Compare(symbol, a, b)

    def _membership(self, left: ast.expr, right: ast.expr, scope: Scope, depth: int) -> Condition:
        if isinstance(right, ast.Tuple | ast.List | ast.Set):
            value = self.value(left, scope, depth)
            choices = []
            for element in right.elts:
                choice = self.value(element, scope, depth)
                if choice != NOTHING:
                    choice = self._agree(element, choice, value)
                choices.append(self._choice(element, choice, value))
            return OneOf(value, tuple(choices))
        part, text = self.value(left, scope, depth), self.value(right, scope, depth)
        self._need_text(left, part, "The left side of `in`")
        self._need_text(right, text, "The right side of `in`")
        between = TRACE_LISTS.get(right.id) if isinstance(right, ast.Name) else None
        if between is not None and isinstance(text, Field) and isinstance(part, Constant):
            return Holds(text, str(part.value), between)
        return TextTest("contains", text, part)

    def _call_condition(self, node: ast.Call, scope: Scope, depth: int) -> Condition:
        name = self._called(node)
        if name in ("any", "all"):
            spans, inner, wanted, _ = self._comprehension(node, scope, depth)
            element = self.condition(wanted, inner.scope, depth + 1)
            if name == "any":
                return Some(spans, inner.all_of(element))
            return Negation(Some(spans, inner.all_of(Negation(element))))
        if isinstance(node.func, ast.Attribute) and name in ("startswith", "endswith", "contains"):
            text = self.value(node.func.value, scope, depth)
            self._need_text(node.func.value, text, f".{name}()")
            part = self._one_argument(node, scope, depth)
            self._need_text(node, part, f"The argument of .{name}()")
            return TextTest(cast(Literal["contains", "startswith", "endswith"], name), text, part)
        self.value(node, scope, depth)
        self.fail(node, f"{name}(…) is a value, not a condition.", "Compare it, for example: > 1")

    # -- values

    def value(self, node: ast.expr, scope: Scope, depth: int) -> Value:
        if depth > MAX_DEPTH:
            self.fail(node, "The filter is nested too deep.", "Split it.")
        match node:
            case ast.Constant(value=literal):
                return values.constant(literal, self._failing(node))
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float() as number)):
                return values.constant(-number if isinstance(sign, ast.USub) else number, self._failing(node))
            case ast.Name() | ast.Attribute() | ast.Subscript():
                return scope.resolve(node, self.fail)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                sides = [self.value(side, scope, depth + 1) for side in (left, right)]
                for side, read in zip((left, right), sides, strict=True):
                    if read.type != "number":
                        self.fail(side, f"{ast.unparse(side)} is not a number.", "Arithmetic works with numbers.")
                return Arithmetic(cast(Literal["+", "-", "*", "/"], _ARITHMETIC[type(op)]), sides[0], sides[1])
            case ast.Call():
                return self._call_value(node, scope, depth)
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                self.fail(node, "Expected a value but found a condition.", "Join conditions with and, or, not.")
        if isinstance(node, ast.BinOp | ast.UnaryOp) and type(node.op) in _BITWISE:
            written, meant = _BITWISE[type(node.op)]
            self.fail(node, f"{written} is not supported in filters.", f"Use {meant} instead.")
        self.fail(node, f"{type(node).__name__} is not supported in filters.", EXAMPLE)

    def _call_value(self, node: ast.Call, scope: Scope, depth: int) -> Value:
        name = self._called(node)
        if isinstance(node.func, ast.Attribute):
            if name not in ("lower", "upper"):
                self.condition(node, scope, depth + 1)
                self.fail(
                    node, f".{name}() is a condition, not a value.", "Use it on its own, joined with and, or, not."
                )
            text = self.value(node.func.value, scope, depth + 1)
            self._need_text(node.func.value, text, f".{name}()")
            if node.args or node.keywords:
                self.fail(node, f".{name}() takes no argument.", f"Write .{name}()")
            return Lowered(text, cast(Literal["lower", "upper"], name))
        if name == "now" and not node.args:
            return Constant(self._now, "time")
        if name == "ago":
            argument = node.args[0] if len(node.args) == 1 and not node.keywords else None
            length = argument.value if isinstance(argument, ast.Constant) else None
            return values.ago(length, self._now, self._failing(node))
        if name in ("len", "count", "sum", "min", "max"):
            return self._aggregate(node, name, scope, depth)
        self.condition(node, scope, depth + 1)
        self.fail(node, f"{name}(…) is a condition, not a value.", "Use it on its own, joined with and, or, not.")

    def _aggregate(self, node: ast.Call, name: str, scope: Scope, depth: int) -> Value:
        if name == "len" and len(node.args) == 1 and isinstance(node.args[0], ast.Name | ast.Attribute):
            self._look(node)
            return Aggregate("count", Spans("each span", scope.spans_of(node.args[0], self.fail)), Always(True), None)
        spans, inner, wanted, is_list = self._comprehension(node, scope, depth)
        if name == "len":
            if not is_list:
                self.fail(node, "len() requires a list.", 'Write len([s for s in spans if s.kind == "tool"])')
            return Aggregate("count", spans, inner.all_of(), None)
        if name == "count":
            own_row = isinstance(wanted, ast.Name) and wanted.id == spans.name
            return Aggregate(
                "count",
                spans,
                inner.all_of() if own_row else inner.all_of(self.condition(wanted, inner.scope, depth + 1)),
                None,
            )
        value = self.value(wanted, inner.scope, depth + 1)
        if value.type != "number":
            self.fail(wanted, f"{name}() requires numbers.", f"Write {name}(s.duration_ms for s in spans)")
        return Aggregate(cast(Literal["sum", "min", "max"], name), spans, inner.all_of(), value)

    def _comprehension(self, node: ast.Call, scope: Scope, depth: int) -> tuple[Spans, _Inner, ast.expr, bool]:
        """Parses `any(<wanted> for s in spans if …)`: returns the spans, the conditions on them, the element, and whether it is a list."""
        argument = node.args[0] if len(node.args) == 1 and not node.keywords else None
        if not isinstance(argument, ast.GeneratorExp | ast.ListComp) or len(argument.generators) != 1:
            name = self._called(node)
            self.fail(node, f"{name}() requires a comprehension over spans.", f'Write {name}(s.kind == "tool" for s in spans)' if name != "len" else
                      'Write len([s for s in spans if s.kind == "tool"])')  # fmt: skip
        self._look(node)
        loop = argument.generators[0]
        if not isinstance(loop.target, ast.Name) or loop.is_async:
            self.fail(loop.target, "Each span needs a simple name.", "Write: for s in spans")
        of = scope.spans_of(loop.iter, self.fail)
        inner_scope = scope.with_span(loop.target, self.fail)
        tests = tuple(self.condition(test, inner_scope, depth + 1) for test in loop.ifs)
        wanted = argument.elt
        is_list = isinstance(argument, ast.ListComp)
        return Spans(loop.target.id, of), _Inner(inner_scope, tests), wanted, is_list

    def _look(self, node: ast.expr) -> None:
        self._looks += 1
        if self._looks > MAX_LOOKS:
            self.fail(
                node,
                f"The filter iterates over the spans more than {MAX_LOOKS} times.",
                'Join conditions on one span: any(s.agent == "a" and s.kind == "tool" for s in spans); or use `in (…)`.',
            )

    # -- checks

    def _called(self, node: ast.Call) -> str:
        match node.func:
            case ast.Name(id=name) if name in FUNCTIONS:
                return name
            case ast.Name(id=name):
                self.fail(
                    node,
                    f"There is no function {name}().{did_you_mean(name, FUNCTIONS)}",
                    f"There are: {', '.join(FUNCTIONS)}.",
                )
            case ast.Attribute(attr=name) if name in METHODS:
                return name
            case ast.Attribute(attr=name):
                self.fail(
                    node, f"There is no .{name}().{did_you_mean(name, METHODS)}", f"There are: {', '.join(METHODS)}."
                )
        self.fail(
            node, "Only the functions of the filter language can be called.", f"There are: {', '.join(FUNCTIONS)}."
        )

    def _one_argument(self, node: ast.Call, scope: Scope, depth: int) -> Value:
        if len(node.args) != 1 or node.keywords:
            self.fail(
                node, f".{self._called(node)}() takes one argument.", 'Write, for example: name.startswith("get_")'
            )
        return self.value(node.args[0], scope, depth + 1)

    def _need_text(self, node: ast.expr, value: Value, what: str) -> None:
        if value.type not in ("text", "any"):
            self.fail(
                node,
                f"{what} must be text, but {ast.unparse(node)} is {values.spoken(value.type)}.",
                'Write text in quotes: "berkeley"',
            )

    def _agree(self, node: ast.expr, value: Value, other: Value) -> Value:
        """Returns `value` converted to the type of `other`. Raises `FilterError` at `node` if the two cannot be compared."""
        if value.type == other.type or "any" in (value.type, other.type):
            if value.type == "any" == other.type:
                self.fail(node, "Two attributes cannot be compared with each other.", "Compare with text or a number.")
            if "any" in (value.type, other.type) and {"time", "bool", "none"} & {value.type, other.type}:
                self.fail(
                    node,
                    "An attribute can only be compared with text or a number.",
                    'Write, for example: s.attributes["key"] == "text"',
                )
            return value
        if other.type == "time" and isinstance(value, Constant) and isinstance(value.value, str):
            return values.moment(value.value, self._failing(node))
        if value.type == "time" and isinstance(other, Constant) and isinstance(other.value, str):
            return value  # The other side is converted when it is checked.
        self.fail(node, f"{ast.unparse(node)} is {values.spoken(value.type)} but is compared with {values.spoken(other.type)}.",
                  'Text is written in quotes, numbers without; times as ago("24h") or "2026-11-22T16:00".')  # fmt: skip

    def _choice(self, node: ast.expr, value: Value, field: Value) -> Value:
        """Returns `value` as stored in the field. Raises `FilterError` at `node` if the field never has this value."""
        if not (isinstance(value, Constant) and isinstance(value.value, str) and isinstance(field, Field)):
            return value
        choices = Scope.choices(field)
        if not choices or value.value in choices:
            return value
        if stored := Scope.shown_words(field).get(value.value.casefold()):
            return Constant(stored, "text")
        self.fail(
            node,
            f"{field.name} is never {value.value!r}.{did_you_mean(value.value, choices)}",
            f"It is one of: {', '.join(choices)}.",
        )

    def _failing(self, node: ast.expr) -> Callable[[str, str], NoReturn]:
        def fail(message: str, next_step: str) -> NoReturn:
            self.fail(node, message, next_step)

        return fail

    def fail(self, node: ast.expr, message: str, next_step: str) -> NoReturn:
        before = self._text.encode()[: node.col_offset].decode("utf-8", "ignore")  # ast counts bytes.
        place = self._offset + len(before)
        raise FilterError(f"{message} (at character {place + 1} of the filter)", next_step, position=place)


class _Inner:
    """The inside of a comprehension: its names and the conditions of its `if` clauses."""

    def __init__(self, scope: Scope, tests: tuple[Condition, ...]) -> None:
        self.scope, self._tests = scope, tests

    def all_of(self, *more: Condition) -> Condition:
        parts = (*self._tests, *more)
        if not parts:
            return Always(True)
        return parts[0] if len(parts) == 1 else Both("and", parts)
