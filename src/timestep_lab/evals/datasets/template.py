"""Prompt templates: `{{name}}`, `{{person.city}}`, `{% if premium %}…{% endif %}`, `{% for … %}`, `{{ tags | join(', ')
}}`.

Templates are rendered by Jinja2 in its sandbox, and support what Jinja2 and nunjucks (promptfoo's engine) have in
common: conditions, loops, `set`, and the filters in `FILTERS`. Where the two disagree, nunjucks is followed: empty lists
and objects are true, `==` converts texts to numbers, and filters have its semantics. Other features raise an error that
names them. A template can read only its variables.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from timestep_lab.evals.javascript_values import (
    FUNCTIONS,
    METHODS,
    OPERATIONS,
    UNDEFINED,
    ScriptError,
    as_text,
    truthy,
)
from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.errors import DataError

if TYPE_CHECKING:
    import jinja2

T = TypeVar("T")

MOST_WORK = 4_000_000
"""Maximum work of one rendering, in units: about one per value visited and per eight characters, and twenty per loop
iteration.
"""
MOST_TEXT = 4_000_000
FILTERS = (
    "abs", "capitalize", "d", "default", "dictsort", "dump", "e", "escape", "first", "float", "int", "join", "last", "length", "list",
    "load", "lower", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "sort", "string", "sum", "title",
    "trim", "truncate", "upper", "urlencode", "wordcount",
)  # fmt: skip
_TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_OPERATORS = {
    "eq": "==", "ne": "!=", "lt": "<", "lteq": "<=", "gt": ">", "gteq": ">=", "eq strictly": "===", "ne strictly": "!==",
}  # fmt: skip
_STRICTLY = "__strictly"
_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|[!=]==")


def render(template: str, variables: Mapping[str, object]) -> str:
    """Render a template. Texts are inserted verbatim, None as an empty text, other values as JSON.

    Raises `DataError` for a variable without a value (unless guarded by `{% if name %}` or `{{ name | default('') }}`),
    and for unsupported syntax.
    """
    if "{{" not in template and "{%" not in template and "{#" not in template:
        return template
    import jinja2

    made = _compiled(template)
    spent = _SPENT.set(_Spent(template))
    size, parts = 0, []
    try:
        for part in made.generate(**variables):
            size += len(part)
            if size > MOST_TEXT:
                raise DataError(f"{_named(template)} produces more than {MOST_TEXT:,} characters.", "Shorten it.")
            parts.append(part)
    except DataError:
        raise
    except _Missing as missing:
        known = ", ".join(sorted(str(name) for name in variables if not str(name).startswith("__"))) or "none"
        raise DataError(
            f"The prompt refers to {{{{{missing.path}}}}}, which this case does not have.{did_you_mean(missing.name, map(str, variables))}",
            f"This case's variables: {known}. If it may be missing: {{{{ {missing.path} | default('') }}}}.",
        ) from missing
    except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RecursionError, ScriptError) as error:  # fmt: skip
        raise DataError(f"{_named(template)} cannot be rendered: {error}.", "Fix the template or the case.") from error
    finally:
        _SPENT.reset(spent)
    return "".join(parts)


def check_template(template: str) -> None:
    """Raises `DataError` for a template that cannot be rendered with any case."""
    if "{{" in template or "{%" in template or "{#" in template:
        _compiled(template)


def render_all(value: object, variables: Mapping[str, object]) -> object:
    """Apply `render` to all texts in nested lists and objects."""
    if isinstance(value, str):
        return render(value, variables)
    if isinstance(value, Mapping):
        return {key: render_all(inner, variables) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [render_all(inner, variables) for inner in value]
    return value


class _Missing(Exception):
    def __init__(self, path: str, name: str) -> None:
        super().__init__(path)
        self.path, self.name = path, name


class _Spent:
    """The work done by one rendering so far."""

    def __init__(self, template: str) -> None:
        self._template, self._left = template, MOST_WORK

    def work(self, units: int) -> None:
        self._left -= units
        if self._left < 0:
            raise DataError(f"{_named(self._template)} takes too long to render.", "Reduce the loops.")


_SPENT: ContextVar[_Spent | None] = ContextVar("spent", default=None)


def _weighed(value: T) -> T:
    """Returns the value and counts its total size, including repeats: nested lists can grow exponentially."""
    spent = _SPENT.get() or _Spent("")
    stack: list[object] = [value]
    while stack:
        one = stack.pop()
        spent.work(1 + len(one) // 8 if isinstance(one, str) else 1)
        if isinstance(one, Mapping):
            stack += [*one, *one.values()]
        elif isinstance(one, list | tuple | range):
            stack += one
    return value


def _turns(items: Iterable[object] | None, names: int) -> Iterator[object]:
    """The items of a loop; for an object with two loop variables, its keys and values (as in nunjucks)."""
    spent = _SPENT.get() or _Spent("")
    if isinstance(items, Mapping):
        if names != 2:
            raise DataError("A template loops over an object.", "Use two names: {% for key, value in … %}.")
        items = list(items.items())
    for item in () if items is None else items:
        spent.work(20)
        yield item


def _joined(*parts: object) -> str:
    _weighed(parts)
    return "".join(str(_written(part)) for part in parts)


class _List(list[object]):
    """A list that is true, even if it is empty."""

    def __bool__(self) -> bool:
        return True


class _Object(dict[str, object]):
    """An object that is true, even if it is empty."""

    def __bool__(self) -> bool:
        return True


def _tested(value: object) -> object:
    """The value of an operand of `if`, `and`, `or` and `not`."""
    return _List() if value == [] else _Object() if value == {} else value


def _compared(operator: str, left: object, right: object) -> bool:
    left, right = (UNDEFINED if type(one).__name__ == "Missing" else one for one in (left, right))
    return bool(OPERATIONS[operator](left, right))


@lru_cache(256)
def _compiled(template: str) -> jinja2.Template:
    import jinja2
    from jinja2 import nodes
    from jinja2.visitor import NodeTransformer

    environment = _environment()
    try:
        tree = environment.parse(_shared(template))
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        reason = getattr(error, "message", None) or error
        raise DataError(f"{_named(template)} is invalid: {reason}", "Fix the template.") from error
    refused: tuple[type[nodes.Node], ...] = (
        nodes.Macro, nodes.CallBlock, nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block, nodes.FilterBlock,
        nodes.With, nodes.ScopedEvalContextModifier,
    )  # fmt: skip
    for node in tree.find_all(refused):
        raise DataError(
            f"{_named(template)} uses {{% {type(node).__name__.lower()} %}}, which is not supported here.", "Write it out."
        )  # fmt: skip
    for filter_node in tree.find_all(nodes.Filter):
        if filter_node.name not in FILTERS:
            raise DataError(
                f"{_named(template)} uses the filter {filter_node.name!r}, which is not supported here.{did_you_mean(filter_node.name, FILTERS)}",
                f"Known: {', '.join(FILTERS)}.",
            )
        if filter_node.kwargs and filter_node.name != "sort":
            option = filter_node.kwargs[0].key
            raise DataError(
                f"{_named(template)} names the option {option!r} of the filter {filter_node.name!r}, which is not supported here.",
                "Pass it by position.",
            )
    if any(name.name == "_conversation" for name in tree.find_all(nodes.Name)):
        raise DataError(f"{_named(template)} uses _conversation, which is not supported here.", "Use cases with messages.")  # fmt: skip
    for call in tree.find_all(nodes.Call):
        name = call.node.attr if isinstance(call.node, nodes.Getattr) else getattr(call.node, "name", "")
        known = name in METHODS if isinstance(call.node, nodes.Getattr) else name == "range"
        if not known:
            raise DataError(f"{_named(template)} calls {name}(), which is not supported here.", "Use a filter.")
    for loop in tree.find_all(nodes.For):
        if loop.recursive or loop.test is not None:
            what = "a recursive loop" if loop.recursive else "a loop with a condition"
            raise DataError(
                f"{_named(template)} uses {what}, which is not supported here.", "Use {% if %} in the loop."
            )
        inside = {id(name) for name in loop.find_all(nodes.Name)}
        outside = {name.name for name in tree.find_all(nodes.Name) if id(name) not in inside}
        for name in (n for set_ in loop.find_all((nodes.Assign, nodes.AssignBlock)) for n in set_.find_all(nodes.Name)):
            if name.ctx == "store" and name.name in outside:
                raise DataError(
                    f"{_named(template)} sets {name.name!r} in a loop and uses it outside, which is not supported here.",
                    "Use a filter such as sum, join or last.",
                )

    class Guarded(NodeTransformer):
        """Wraps loops and value-producing expressions with the functions above."""

        def _call(self, name: str, node: nodes.Node, *args: nodes.Node) -> nodes.Call:
            call = nodes.Call(nodes.Name(name, "load"), list(args), [], None, None, lineno=node.lineno)
            call.set_environment(environment)
            return call

        def visit_For(self, node: nodes.For) -> nodes.Node:
            self.generic_visit(node)
            names = len(node.target.items) if isinstance(node.target, nodes.Tuple) else 1
            node.iter = self._call("_turns", node, node.iter, nodes.Const(names))
            return node

        def visit_If(self, node: nodes.If | nodes.CondExpr) -> nodes.Node:
            self.generic_visit(node)
            node.test = self._call("_tested", node, node.test)
            return node

        def visit_CondExpr(self, node: nodes.CondExpr) -> nodes.Node:
            node.expr2 = node.expr2 or nodes.Const("")
            return self.visit_If(node)

        def visit_And(self, node: nodes.BinExpr) -> nodes.Node:
            self.generic_visit(node)
            node.left, node.right = self._call("_tested", node, node.left), self._call("_tested", node, node.right)
            return node

        visit_Or = visit_And

        def visit_Not(self, node: nodes.Not) -> nodes.Node:
            self.generic_visit(node)
            node.node = self._call("_tested", node, node.node)
            return node

        def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
            self.generic_visit(node)
            operators, others = [one.op for one in node.ops], [one.expr for one in node.ops]
            if len(others) == 2 and getattr(others[0], "name", "") == _STRICTLY:
                operators, others = [f"{operators[0]} strictly"], others[1:]
            if len(others) > 1:
                raise DataError(
                    f"{_named(template)} compares several values at once, which is not supported here.",
                    "Join two comparisons with `and`.",
                )
            if operators[0] not in _OPERATORS:
                return node
            return self._call("_compared", node, nodes.Const(_OPERATORS[operators[0]]), node.expr, others[0])

        def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
            self.generic_visit(node)
            return self._call("_joined", node, *node.nodes)

        def visit_List(self, node: nodes.Expr) -> nodes.Node:
            self.generic_visit(node)
            return node if getattr(node, "ctx", "load") == "store" else self._call("_weighed", node, node)

        visit_Dict = visit_Tuple = visit_List

    tree = Guarded().visit(tree)
    return jinja2.Template.from_code(environment, environment.compile(tree), environment.make_globals(None), None)


@lru_cache(1)
def _environment() -> jinja2.Environment:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Missing(jinja2.Undefined):
        """An undefined variable: may be tested, but not rendered."""

        def _path(self) -> _Missing:
            name = str(self._undefined_name)
            return _Missing(name, name.rpartition(".")[2])

        def __str__(self) -> str:
            raise self._path()

        def __getattr__(self, name: str) -> Missing:
            if name.startswith("__"):
                raise AttributeError(name)
            return Missing(name=f"{self._undefined_name}.{name}")

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["+", "*", "**", "%"])

        def call_binop(self, context: jinja2.runtime.Context, operator: str, left: object, right: object) -> object:
            of_numbers = isinstance(left, int | float) and isinstance(right, int | float)
            if operator == "**" or (operator != "+" and not of_numbers):
                raise DataError(f"A template uses {operator} on values that do not support it.", "Use numbers.")
            if of_numbers:
                return OPERATIONS[operator](left, right)
            if isinstance(left, list | tuple | Mapping) or isinstance(right, list | tuple | Mapping):
                raise DataError("A template uses + on a list or an object.", "Use the filter join.")
            return _joined(left, right)

        def getattr(self, obj: object, attribute: str) -> object:
            return self._of(obj, attribute)

        def getitem(self, obj: Any, argument: object) -> object:
            if isinstance(argument, str):
                return self._of(obj, argument)
            is_from_end = isinstance(argument, int) and argument < 0 and isinstance(obj, str | list | tuple)
            try:
                return Missing(name=f"…[{argument}]") if is_from_end else obj[argument]
            except (LookupError, TypeError):
                return Missing(name=f"…[{argument}]")

        def _of(self, obj: object, name: str) -> object:
            if isinstance(obj, Mapping):
                return obj[name] if name in obj else Missing(name=f"….{name}")
            if isinstance(obj, Missing):
                return getattr(obj, name)
            if isinstance(obj, str | list | tuple):
                if name == "length":
                    return len(obj)
                method = METHODS.get(name, {}).get("text" if isinstance(obj, str) else "list")
                if method is not None and name not in ("map", "filter", "some", "every", "find", "reduce"):
                    return _bound(method, obj)
            if type(obj).__name__ in ("LoopContext", "AsyncLoopContext") and not name.startswith("_"):
                return getattr(obj, name)
            return Missing(name=name)

        def is_safe_callable(self, obj: object) -> bool:
            return getattr(obj, "of_template", False) or obj in (_turns, _joined, _weighed, _tested, _compared, _range)

    environment = Sandbox(
        undefined=Missing, autoescape=False, keep_trailing_newline=True, finalize=lambda value: _written(value)
    )
    own: dict[str, Callable[..., object]] = {name: _of_nothing(filter) for name, filter in _OWN.items()}
    own["length"] = lambda value: 0 if value is None or value is False or isinstance(value, Missing) else len(value)
    own["default"] = own["d"] = lambda value, other="", falsy=False: (
        other if isinstance(value, Missing) or (truthy(falsy) and not truthy(value)) else value
    )
    tests: Any = environment.tests
    tests |= {
        "null": lambda value: value is None,
        "truthy": truthy,
        "falsy": lambda value: not truthy(value),
    }
    for name, wanted in (("select", True), ("reject", False)):
        own[name] = lambda items, test="truthy", *args, wanted=wanted: [
            item for item in items if bool(tests[test](item, *args)) is wanted
        ]
    filters = {name: _guarded(own.get(name) or environment.filters[name]) for name in FILTERS}
    environment.filters.clear()
    environment.filters.update(filters)
    environment.globals.clear()
    environment.globals.update(
        range=_range, _turns=_turns, _joined=_joined, _weighed=_weighed, _tested=_tested, _compared=_compared
    )
    return environment


def _guarded(function: Callable[..., object]) -> Callable[..., object]:
    """A filter with limits on its input and output. Attributes that Jinja2 sets on it (such as pass_environment) are
    kept.
    """

    @wraps(function)
    def call(*args: object, **options: object) -> object:
        _weighed([arg for arg in args if isinstance(arg, str | list | tuple | Mapping)])
        made = function(*args, **options)
        if isinstance(made, Iterator):
            made = list(made)
        return _weighed(made)

    return call


def _of_nothing(function: Callable[..., object]) -> Callable[..., object]:
    """The filter, with None and false taken as an empty text where nunjucks does."""

    @wraps(function)
    def call(value: object, *args: object, **options: object) -> object:
        return function("" if function in _OF_TEXT and (value is None or value is False) else value, *args, **options)

    return call


def _replaced(text: object, old: object, new: object, most: int = -1) -> object:
    if isinstance(old, bool) or not isinstance(old, str | int | float) or not isinstance(text, str | int | float):
        return text
    whole, part, instead = _joined(text), _joined(old), _joined(new)
    (_SPENT.get() or _Spent("")).work(whole.count(part) * len(instead) // 8)
    return whole.replace(part, instead, most)


def _rounded(value: float, digits: int = 0, method: str = "common") -> float:
    factor = 10.0**digits
    to_whole = {"ceil": math.ceil, "floor": math.floor}.get(method, lambda number: math.floor(number + 0.5))
    return to_whole(value * factor) / factor


def _truncated(text: str, length: int = 255, within_words: bool = False, end: str = "...") -> str:
    if len(text) <= length:
        return text
    space = -1 if within_words else text.rfind(" ", 0, length + 1)
    return text[: length if space < 0 else space] + end


def _sorted(
    items: Iterable[object], reverse: bool = False, case_sensitive: bool = False, attribute: str | None = None
) -> list[object]:
    def key(item: Any) -> Any:
        value = item if attribute is None else item[attribute]
        return value.lower() if isinstance(value, str) and not case_sensitive else value

    return sorted(items, key=key, reverse=reverse)


def _summed(items: Iterable[Any], attribute: str | None = None, start: float = 0) -> object:
    return sum((item[attribute] if attribute else item for item in items), start)


def _parsed(name: str) -> Callable[..., object]:
    def parse(value: object, other: object = None) -> object:
        number = FUNCTIONS[name](value)
        return other if number != number else number

    return parse


def _listed(value: Iterable[object]) -> list[object]:
    return [{"key": k, "value": v} for k, v in value.items()] if isinstance(value, Mapping) else list(value)


def _in_url(value: str | Iterable[tuple[object, object]]) -> str:
    if isinstance(value, str):
        return quote(value, safe="-_.!~*'()")
    pairs = value.items() if isinstance(value, Mapping) else value
    return "&".join(f"{_in_url(as_text(name))}={_in_url(as_text(held))}" for name, held in pairs)


def _as_title(text: str) -> str:
    return " ".join(word.capitalize() for word in text.split(" "))


def _words(text: str) -> int | None:
    return len(re.findall(r"[A-Za-z0-9_]+", text)) or None


def _upper(text: object) -> str:
    return as_text(text).upper()


def _lower(text: object) -> str:
    return as_text(text).lower()


def _capital(text: object) -> str:
    return as_text(text).capitalize()


_OF_TEXT = (_upper, _lower, _capital, _as_title, _truncated, _words)
_OWN: Mapping[str, Callable[..., object]] = {
    "upper": _upper, "lower": _lower, "capitalize": _capital, "title": _as_title, "truncate": _truncated, "wordcount": _words,
    "replace": _replaced, "round": _rounded, "sort": _sorted, "sum": _summed, "int": _parsed("parseInt"),
    "float": _parsed("parseFloat"), "list": _listed, "urlencode": _in_url, "string": as_text,
    "dump": lambda value, indent=None: FUNCTIONS["JSON.stringify"](value, None, indent), "load": json.loads,
    "join": lambda items, by="", of=None: METHODS["join"]["list"]([item if of is None else item[of] for item in items], by),
    "selectattr": lambda items, name: [item for item in items if truthy(item.get(name))],
    "rejectattr": lambda items, name: [item for item in items if not truthy(item.get(name))],
}  # fmt: skip


def _bound(method: Callable[..., object], obj: object) -> Callable[..., object]:
    def call(*args: object) -> object:
        _weighed((obj, args))
        return _weighed(method(obj, *args))

    call.of_template = True  # type: ignore[attr-defined]
    return call


def _range(*args: int) -> range:
    numbers = range(*args)
    (_SPENT.get() or _Spent("")).work(len(numbers))
    return numbers


def _written(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, str) or type(value).__name__ == "Missing":
        return value
    if isinstance(value, list | tuple | dict):
        _weighed(value)
    return as_text(value)


def _shared(template: str) -> str:
    """Translate nunjucks' `===`, `!==` and `elseif`, which Jinja2 does not know."""

    def tag(found: re.Match[str]) -> str:
        text = _QUOTED.sub(
            lambda part: f"{part[0][:2]} {_STRICTLY} {part[0][:2]}" if part[0] in ("===", "!==") else part[0], found[0]
        )
        return re.sub(r"\A(\{%-?\s*)else\s?if\b", r"\1elif", text)

    return _TAG.sub(tag, template)


def _named(template: str) -> str:
    line = " ".join(template.split())
    return f"The prompt {line if len(line) <= 40 else line[:39] + '…'!r}"
