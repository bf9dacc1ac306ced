"""JavaScript's values, operators and library functions, as far as `evals.javascript` supports them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from timestep_lab.model.errors import DataError

T = TypeVar("T")

MOST_TEXT = 2_000_000
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0"}


class ScriptError(Exception):
    """A valid script failed on this answer."""


class Undefined:
    """JavaScript's `undefined`."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED = Undefined()


@dataclass(frozen=True, slots=True)
class Pattern:
    compiled: Any
    everywhere: bool


def as_text(value: object) -> str:
    """JavaScript's string conversion; lists and objects as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    if isinstance(value, int | float):
        return "NaN" if value != value else str(value)
    if isinstance(value, Undefined):
        return "undefined"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def truthy(value: object) -> bool:
    """JavaScript's truthiness: empty lists and objects are true."""
    if isinstance(value, list | dict | Pattern):
        return True
    return bool(value) and value == value


def number(value: object) -> int | float:
    """JavaScript's `Number(value)`; NaN for values that are not numbers."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    if value is None:
        return 0
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return 0
        if re.fullmatch(r"[-+]?\d{1,15}", text):
            return int(text)
        if re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", text):
            return float(text)
    return math.nan


def _plus(a: object, b: object) -> str | int | float:
    if isinstance(a, str | list | dict) or isinstance(b, str | list | dict):
        return _bounded(as_text(a) + as_text(b))
    return number(a) + number(b)


def _divided(a: object, b: object) -> float:
    top, bottom = number(a), number(b)
    if bottom == 0:
        return math.nan if top == 0 or top != top else math.copysign(math.inf, top)
    return top / bottom


def _rest(a: object, b: object) -> float:
    whole, part = number(a), number(b)
    return math.fmod(whole, part) if part else math.nan


def _same(a: object, b: object) -> bool:
    if isinstance(a, bool) != isinstance(b, bool) or isinstance(a, list | dict) or isinstance(b, list | dict):
        return a is b
    return bool(type(a) is type(b) or (isinstance(a, int | float) and isinstance(b, int | float))) and bool(a == b)


def _alike(a: object, b: object) -> bool:
    nothing = [value is None or isinstance(value, Undefined) for value in (a, b)]
    if any(nothing):
        return all(nothing)
    if isinstance(a, str) and isinstance(b, str):
        return a == b
    if isinstance(a, list | dict) and isinstance(b, list | dict):
        return a is b
    return _same(a, b) or bool(number(a) == number(b))


def _less(a: object, b: object) -> bool:
    return bool(a < b) if isinstance(a, str) and isinstance(b, str) else bool(number(a) < number(b))


OPERATIONS: Mapping[str, Callable[[object, object], object]] = {
    "+": _plus, "-": lambda a, b: number(a) - number(b), "*": lambda a, b: number(a) * number(b), "/": _divided, "%": _rest,
    "===": _same, "!==": lambda a, b: not _same(a, b), "==": _alike, "!=": lambda a, b: not _alike(a, b),
    "<": _less, ">": lambda a, b: _less(b, a), "<=": lambda a, b: _less(a, b) or _alike(a, b), ">=": lambda a, b: _less(b, a) or _alike(a, b),
}  # fmt: skip


def type_of(value: object) -> str:
    for kinds, name in ((bool, "boolean"), (str, "string"), ((int, float), "number"), (Undefined, "undefined")):
        if isinstance(value, kinds):
            return name
    return "function" if callable(value) else "object"


def get(value: object, key: object, *, optional: bool = False) -> object:
    if value is None or isinstance(value, Undefined):
        if optional:
            return UNDEFINED
        raise ScriptError(f"there is no {as_text(key)} of {as_text(value)}")
    if key == "length" and isinstance(value, str):
        return len(value.encode("utf-16-le", "surrogatepass")) // 2  # JavaScript counts code units.
    if key == "length" and isinstance(value, list):
        return len(value)
    if isinstance(value, str) and isinstance(key, str):
        # The answer is a text here; if it contains a JSON object, promptfoo passes that object to the script.
        try:
            held = json.loads(value)
        except ValueError:
            return UNDEFINED
        return held.get(key, UNDEFINED) if isinstance(held, dict) else UNDEFINED
    if isinstance(value, dict):
        return value.get(as_text(key), UNDEFINED)
    if isinstance(value, list | str) and isinstance(place := number(key), int):
        return value[place] if 0 <= place < len(value) else UNDEFINED
    return UNDEFINED


def kind_of(value: object) -> str:
    if isinstance(value, Pattern):
        return "pattern"
    return {"string": "text", "number": "number"}.get(type_of(value), "list" if isinstance(value, list) else "")


def _bounded(text: str) -> str:
    if len(text) > MOST_TEXT:
        raise ScriptError("the script makes too long a text")
    return text


def unescaped(match: re.Match[str]) -> str:
    letter = match[1]
    return chr(int(letter[1:], 16)) if len(letter) == 5 else _ESCAPES.get(letter, letter)


_IN_PATTERN = re.compile(
    r"\\k<(?P<back>\w+)>|\\(?P<kind>[dDwW])|\\(?P<edge>[bB])|\\.|\(\?<(?P<named>\w+)>|(?P<strange>\(\?(?![:=!]|<[=!]|[ims-]+:)[^)]?)|(?P<any>\[\^\])|(?P<none>\[\])|(?P<end>\$)|(?P<open>\[)|(?P<close>\])",
    re.DOTALL,
)
_WORD = "[A-Za-z0-9_]"
_EDGES = {
    "b": f"(?:(?<!{_WORD})(?={_WORD})|(?<={_WORD})(?!{_WORD}))",
    "B": f"(?:(?<!{_WORD})(?!{_WORD})|(?<={_WORD})(?={_WORD}))",
}
_KINDS = {"d": "0-9", "D": "^0-9", "w": "A-Za-z0-9_", "W": "^A-Za-z0-9_"}


def python_pattern(source: str, *, many_lines: bool = False) -> str:
    """A JavaScript pattern in Python's syntax: `$` is the very end, `\\d`, `\\w` and `\\b` are ASCII, groups are
    `(?<name>…)`. Raises `DataError` for groups that JavaScript does not have, such as `(?i)`."""
    in_class = False

    def part(found: re.Match[str]) -> str:
        nonlocal in_class
        if kind := found["kind"]:
            return found[0] if in_class and kind in "DW" else _KINDS[kind] if in_class else f"[{_KINDS[kind]}]"
        if in_class:
            in_class = found["close"] is None
            return rf"\{found[0]}" if found["open"] else found[0]
        in_class = found["open"] is not None
        if found["strange"]:
            raise DataError(
                f"The pattern {source!r} has {found['strange']!r}, which JavaScript does not have.", "Correct it."
            )
        if found["edge"]:
            return _EDGES[found["edge"]]
        if found["back"] or found["named"]:
            return f"(?P={found['back']})" if found["back"] else f"(?P<{found['named']}>"
        if found["any"] or found["none"]:
            return r"[\s\S]" if found["any"] else r"(?!)"
        return r"\Z" if found["end"] and not many_lines else found[0]

    return _IN_PATTERN.sub(part, source)


def read_pattern(source: str, flags: str) -> Pattern:
    import regex  # type: ignore[import-untyped]

    named = python_pattern(source, many_lines="m" in flags)
    chosen = sum((regex.I if f == "i" else regex.M if f == "m" else regex.S if f == "s" else 0) for f in set(flags))
    try:
        return Pattern(regex.compile(named, chosen | regex.VERSION0), "g" in flags)
    except regex.error as error:
        raise DataError(f"The script's pattern /{source}/ is invalid: {error}.", "Fix the pattern.") from error


def _searched(what: Callable[..., T], *args: object) -> T:
    try:
        return what(*args, timeout=1.0, concurrent=True)
    except TimeoutError:
        raise ScriptError("a pattern was given up after 1 s") from None


def _replace(text: str, old: object, new: object, every: bool = False) -> str:
    if isinstance(old, Pattern):
        if callable(new):
            made: Callable[[re.Match[str]], str] = lambda found: as_text(new(found[0]))  # noqa: E731
        else:
            shape = as_text(new)
            made = lambda found: re.sub(  # noqa: E731
                r"\$(\d|&|\$)", lambda m: "$" if m[1] == "$" else found[0 if m[1] == "&" else int(m[1])] or "", shape
            )
        return _bounded(str(_searched(old.compiled.sub, made, text, 0 if old.everywhere or every else 1)))
    fresh = as_text(new(as_text(old))) if callable(new) else as_text(new)
    return _bounded(text.replace(as_text(old), fresh, -1 if every else 1))


def _match(text: str, pattern: object) -> list[object] | None:
    compiled = pattern if isinstance(pattern, Pattern) else read_pattern(as_text(pattern), "")
    if compiled.everywhere:
        return [match[0] for match in _searched(compiled.compiled.finditer, text)] or None
    match = _searched(compiled.compiled.search, text)
    return None if match is None else [match[0], *(UNDEFINED if g is None else g for g in match.groups())]


def _split(text: str, by: object = UNDEFINED, most: float | None = None) -> list[str]:
    if isinstance(by, Undefined):
        parts = [text]
    elif isinstance(by, Pattern):
        parts = [part or "" for part in _searched(by.compiled.split, text)]
    else:
        parts = list(text) if by == "" else text.split(as_text(by))
    return parts if most is None else parts[: int(most)]


def _slice(value: Sequence[object], start: object = 0, end: object = None) -> Sequence[object]:
    return value[int(number(start)) : None if end is None or isinstance(end, Undefined) else int(number(end))]


def _substring(text: str, start: object = 0, end: object = None) -> str:
    ends = sorted(min(len(text), max(0, int(number(p)))) for p in (start, len(text) if end is None else end))
    return text[ends[0] : ends[1]]


def _at(value: Sequence[object], place: object = 0) -> object:
    n = int(number(place))
    return value[n] if -len(value) <= n < len(value) else UNDEFINED


def _is_in(items: list[object], one: object) -> bool:
    return any(_same(item, one) for item in items)


def _place(items: list[object], one: object) -> int:
    return next((n for n, item in enumerate(items) if _same(item, one)), -1)


def _repeated(text: str, times: object) -> str:
    n = int(number(times))
    if n < 0 or n * len(text) > MOST_TEXT:
        raise ScriptError("the script makes too long a text")
    return text * n


def _reduced(items: list[object], join: Callable[..., object], *start: object) -> object:
    rest = list(start) + items
    if not rest:
        raise ScriptError("reduce of an empty list")
    value = rest[0]
    for one in rest[1:]:
        value = join(value, one)
    return value


METHODS: Mapping[str, Mapping[str, Callable[..., object]]] = {
    "trim": {"text": lambda t: t.strip()}, "trimStart": {"text": lambda t: t.lstrip()}, "trimEnd": {"text": lambda t: t.rstrip()},
    "toLowerCase": {"text": lambda t: t.lower()}, "toUpperCase": {"text": lambda t: t.upper()},
    "includes": {"text": lambda t, x: as_text(x) in t, "list": _is_in},
    "startsWith": {"text": lambda t, x: t.startswith(as_text(x))}, "endsWith": {"text": lambda t, x: t.endswith(as_text(x))},
    "indexOf": {"text": lambda t, x: t.find(as_text(x)), "list": _place}, "lastIndexOf": {"text": lambda t, x: t.rfind(as_text(x))},
    "slice": {"text": _slice, "list": _slice}, "substring": {"text": _substring}, "charAt": {"text": lambda t, n=0: _substring(t, n, n + 1)},
    "at": {"text": _at, "list": _at}, "split": {"text": _split}, "replace": {"text": _replace},
    "replaceAll": {"text": lambda t, old, new: _replace(t, old, new, True)}, "match": {"text": _match},
    "repeat": {"text": _repeated}, "concat": {"text": lambda t, *x: _bounded(t + "".join(map(as_text, x))), "list": lambda i, *x: i + [y for part in x for y in (part if isinstance(part, list) else [part])]},
    "test": {"pattern": lambda p, t: _searched(p.compiled.search, as_text(t)) is not None},
    "toString": {"text": str, "number": as_text}, "toFixed": {"number": lambda x, n=0: f"{x:.{min(100, int(n))}f}" if math.isfinite(x) else as_text(x)},
    "join": {"list": lambda items, by=",": _bounded(as_text(by).join("" if i is None else as_text(i) for i in items))},
    "map": {"list": lambda items, f: [f(item) for item in items]}, "filter": {"list": lambda items, f: [item for item in items if truthy(f(item))]},
    "some": {"list": lambda items, f: any(truthy(f(item)) for item in items)}, "every": {"list": lambda items, f: all(truthy(f(item)) for item in items)},
    "find": {"list": lambda items, f: next((item for item in items if truthy(f(item))), UNDEFINED)},
    "reduce": {"list": _reduced}, "reverse": {"list": lambda items: items[::-1]},
}  # fmt: skip


def _without_undefined(value: object) -> object:
    """What JSON holds of a value: no fields that are undefined, and null in their place in lists."""
    if isinstance(value, dict):
        return {key: _without_undefined(held) for key, held in value.items() if not isinstance(held, Undefined)}
    if isinstance(value, list):
        return [None if isinstance(held, Undefined) else _without_undefined(held) for held in value]
    return value


CONSTANTS: Mapping[str, float] = {"Math.PI": math.pi, "Math.E": math.e}
FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "JSON.parse": lambda t: json.loads(as_text(t)),
    "JSON.stringify": lambda v, _=None, indent=None: json.dumps(_without_undefined(v), ensure_ascii=False, separators=(",", ":")) if not indent else json.dumps(_without_undefined(v), ensure_ascii=False, indent=min(10, int(indent))),
    "Math.min": lambda *x: min(map(number, x), default=math.inf), "Math.max": lambda *x: max(map(number, x), default=-math.inf),
    "Math.abs": lambda x: abs(number(x)), "Math.floor": lambda x: math.floor(number(x)), "Math.ceil": lambda x: math.ceil(number(x)),
    "Math.round": lambda x: math.floor(number(x) + 0.5), "Math.sqrt": lambda x: math.sqrt(number(x)), "Math.log": lambda x: math.log(number(x)),
    "Object.keys": lambda o: list(o), "Object.values": lambda o: list(o.values()), "Object.entries": lambda o: [[k, v] for k, v in o.items()],
    "Array.isArray": lambda v: isinstance(v, list), "Number": number, "String": as_text, "Boolean": truthy, "Number.isInteger": lambda v: isinstance(v, int) or (isinstance(v, float) and v.is_integer()),
    "parseFloat": lambda t: number(m[0]) if (m := re.match(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", as_text(t))) else math.nan,
    "parseInt": lambda t, base=10: int(m[0]) if (m := re.match(r"\s*[-+]?\d+", as_text(t))) else math.nan,
    "isNaN": lambda v: number(v) != number(v),
}  # fmt: skip


def shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
