"""Scorers for structured answers: JSON, SQL and numbers."""

from __future__ import annotations

import json
import math
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.javascript import read_script
from timestep_lab.evals.javascript_values import ScriptError, as_text
from timestep_lab.evals.scorers.base import (
    Answer,
    Deadline,
    Score,
    Scorer,
    TooSlowError,
    ValueScorer,
    acceptable,
    passed,
    scorer,
    unknown,
)
from timestep_lab.model.codec import Json, object_of
from timestep_lab.model.errors import UsageError

if TYPE_CHECKING:
    import jsonschema  # type: ignore[import-untyped]

# --- SQL written by a model, compared with the expected query by running both


Row = tuple[str | float | None, ...]
LIMIT_S = 5.0
MOST_ROWS = 100_000
_sql_FENCE = re.compile(r"```(?:sql|duckdb)?[^\S\n]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


@scorer("sql_equal")
@dataclass(frozen=True, kw_only=True)
class SqlEqual(ValueScorer):
    """The answer is an SQL query with the same result as the expected query, in DuckDB, on the tables that `setup`
    creates (SQL; default: the case's variable `setup`). Column names are ignored; the row order counts if the expected
    query has an ORDER BY.

    Queries can access only these tables and are stopped after five seconds.
    """

    main: ClassVar[str | None] = "setup"
    setup: str | None = None

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        setup = self.setup if self.setup is not None else case.vars.get("setup", "")
        if not isinstance(setup, str):
            return unknown("the variable setup is not SQL text")
        blocks = _sql_FENCE.findall(answer.output)
        query = (blocks[-1] if blocks else answer.output).strip()
        notes = []
        for right in wanted:
            try:
                expected = _rows(setup, right)
            except _NotRunError as error:
                return unknown(f"the expected query does not run: {error}")
            try:
                rows = _rows(setup, query)
            except _NotRunError as error:
                return passed(False, f"the query does not run: {error}")
            if _alike(rows, expected, ordered=re.search(r"\border\s+by\b", right, re.IGNORECASE) is not None):
                return passed(True, f"{len(rows)} rows")
            notes.append(_difference(rows, expected))
        return passed(False, notes[0])


class _NotRunError(Exception):
    """A query that DuckDB rejected, or that took too long."""


def _rows(setup: str, query: str) -> list[Row]:
    import duckdb

    with duckdb.connect(
        ":memory:",
        config={"enable_external_access": "false", "memory_limit": "256MB", "threads": "1", "temp_directory": ""},
    ) as connection:
        timer = threading.Timer(LIMIT_S, connection.interrupt)
        timer.start()
        try:
            connection.execute("set lock_configuration = true")
            if setup.strip():
                connection.execute(setup)
            statements = connection.extract_statements(query)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise _NotRunError("it is not one query")
            rows = connection.execute(statements[0]).fetchmany(MOST_ROWS + 1)
        except duckdb.InterruptException as error:
            raise _NotRunError(f"it was given up after {LIMIT_S:g} s") from error
        except duckdb.Error as error:
            raise _NotRunError(str(error).splitlines()[0]) from error
        finally:
            timer.cancel()
    if len(rows) > MOST_ROWS:
        raise _NotRunError(f"it gives more than {MOST_ROWS:,} rows")
    return [tuple(_plain(value) for value in row) for row in rows]


def _plain(value: Any) -> str | float | None:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) or type(value).__name__ == "Decimal":
        return float(f"{float(value):.9g}")
    return json.dumps(value, default=str, sort_keys=True)


def _alike(found: list[Row], expected: list[Row], *, ordered: bool) -> bool:
    return found == expected if ordered else Counter(found) == Counter(expected)


def _difference(found: list[Row], expected: list[Row]) -> str:
    if len(found) != len(expected):
        return f"{len(found)} rows, not {len(expected)}"
    missing = list((Counter(expected) - Counter(found)).elements())
    return f"missing row: {missing[0]}" if missing else "the rows are in another order"


# -- JSON Schema keywords with regular expressions, with a time limit. `jsonschema` itself uses `re`

_deadline: ContextVar[Deadline] = ContextVar("deadline of the patterns of this answer")


def check_patterns(schema: object) -> None:
    """Raises `UsageError` for a schema whose patterns cannot be limited: `unevaluatedProperties` uses `re` on other
    schemas' patterns.
    """
    if {"patternProperties", "unevaluatedProperties"} <= set(_keywords(schema)):
        raise UsageError(
            "A schema with both patternProperties and unevaluatedProperties cannot be checked in bounded time.",
            "Use additionalProperties instead.",
        )


def best_error(schema: object, value: object) -> jsonschema.ValidationError | None:
    """The most relevant validation error, or None. Remote references are not fetched.

    Raises `TooSlowError` when the time limit of the patterns is exceeded.
    """
    import jsonschema

    validator = _bounded(jsonschema.validators.validator_for(schema))(
        schema, registry=jsonschema.validators.SPECIFICATIONS
    )
    _deadline.set(Deadline())
    return jsonschema.exceptions.best_match(validator.iter_errors(value))


@cache
def _bounded(plain: type[jsonschema.protocols.Validator]) -> type[jsonschema.protocols.Validator]:
    """A validator class with time-limited keywords. Cached, since creating one takes longer than most validations."""
    import jsonschema

    theirs = plain.VALIDATORS["additionalProperties"]

    def additional_properties(
        validator: jsonschema.protocols.Validator, wanted: Json, instance: Json, schema: Mapping[str, Any]
    ) -> Iterator[jsonschema.ValidationError]:
        patterns = schema.get("patternProperties") or {}
        if patterns and validator.is_type(instance, "object"):
            # Properties that match a pattern are listed literally, so `jsonschema` needs no pattern.
            matched = {key: True for key in object_of(instance) if any(_find(name, key) for name in patterns)}
            schema = {**schema, "properties": {**matched, **schema.get("properties", {})}}
            del schema["patternProperties"]
        yield from theirs(validator, wanted, instance, schema) or ()

    ours = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": additional_properties,
    }
    made: type[jsonschema.protocols.Validator] = jsonschema.validators.extend(
        plain, {name: ours[name] for name in ours if name in plain.VALIDATORS}
    )
    made.evolve = _evolve
    return made


def _pattern(
    validator: jsonschema.protocols.Validator, wanted: str, instance: Json, schema: Mapping[str, Json]
) -> Iterator[jsonschema.ValidationError]:
    import jsonschema

    if isinstance(instance, str) and not _find(wanted, instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {wanted!r}")


def _pattern_properties(
    validator: jsonschema.protocols.Validator, wanted: Mapping[str, Json], instance: Json, schema: Mapping[str, Json]
) -> Iterator[jsonschema.ValidationError]:
    if validator.is_type(instance, "object"):
        for name, subschema in wanted.items():
            for key, value in object_of(instance).items():
                if _find(name, key):
                    yield from validator.descend(value, subschema, path=key, schema_path=name)


def _find(pattern: str, text: str) -> bool:
    return _deadline.get().find(pattern, text)


def _evolve(self: jsonschema.protocols.Validator, **changes: object) -> jsonschema.protocols.Validator:
    """Like the original, but a nested `$schema` (or a reference to the root with one) does not bring back the unlimited
    class.
    """
    return type(self)(**{f.alias: getattr(self, f.name) for f in type(self).__attrs_attrs__ if f.init} | changes)


def _keywords(value: object) -> Iterator[str]:
    """Every key in the schema, at any depth: the targets of references are not known in advance."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from _keywords(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _keywords(inner)


# --

_FENCE = re.compile(r"```(?:json)?[^\S\n]*\n(.*?)```", re.DOTALL)
_OPENING = re.compile(r"[\[{]")
_SPACE = "[ \u00a0\u2009\u202f]"
_NUMBER = re.compile(
    rf"""
    (?P<sign>(?<![\w.)\]%])[-−+])?  # after a digit it is the dash of a range
    (?:[$€£¥₹]\s?)?
    (?:
        (?P<comma>[1-9]\d{{0,2}}(?:,\d{{2}})*(?:,\d{{3}})(?:\.\d+)?(?![\d,]\d)|[1-9]\d{{0,2}}(?:,\d{{3}})+(?:\.\d+)?(?!\d))
      | (?P<point>[1-9]\d{{0,2}}(?:(?:\.\d{{3}})+,\d+|(?:\.\d{{3}}){{2,}})(?!\d))
      | (?P<space>[1-9]\d{{0,2}}(?:{_SPACE}\d{{3}})+(?:[.,]\d+)?(?!\d))
      | (?P<mark>[1-9]\d{{0,2}}(?:['’]\d{{3}})+(?:\.\d+)?(?!\d))
      | (?P<decimal>(?<!\d,)\d+,\d{{1,2}}(?!\d|,\d))
      | (?P<plain>(?:\d+(?:\.\d+)?|(?<!\d)\.\d+)(?:[eE][-+]?\d+)?)
    )
    (?P<percent>\s?%)?
    """,
    re.VERBOSE,
)
_RANGE = re.compile(r"(?<=[\d%])\s*(?:[-–—]|to|bis)\s*(?=[-−+$€£¥₹.\d])")
_CURRENCY = re.compile(r"\A[A-Z]{3}\s+(?=[-−+\d])|(?<=\d)\s*(?:[A-Z]{3}|[$€£¥₹])\Z")


@scorer("json_schema")
@dataclass(frozen=True, kw_only=True)
class JsonSchema(Scorer):
    """The answer is JSON and satisfies the schema (any JSON without one). `fenced`: a surrounding code block is
    allowed; `anywhere`: any surrounding text is."""

    main: ClassVar[str | None] = "schema"
    schema: Json = field(default_factory=dict)
    fenced: bool = True
    anywhere: bool = False

    def __post_init__(self) -> None:
        import jsonschema

        if isinstance(self.schema, str):
            try:
                object.__setattr__(self, "schema", json.loads(self.schema))
            except ValueError as error:
                raise UsageError(
                    f"The schema is not valid JSON: {error}.", "Use an object or its JSON text."
                ) from error
        try:
            jsonschema.validators.validator_for(self.schema).check_schema(self.schema)
        except jsonschema.SchemaError as error:
            raise UsageError(f"The schema is not a valid JSON Schema: {error.message}.", "Fix the schema.") from error
        check_patterns(self.schema)

    def check(self, answer: Answer, case: Case) -> Score:
        try:
            values = json_in(answer.output) if self.anywhere else [parse_json(answer.output, fenced=self.fenced)]
        except ValueError as error:
            return passed(False, f"not JSON: {error}")
        wrong: jsonschema.ValidationError | None = None
        for value in values:
            try:
                wrong = best_error(self.schema, value)
            except TooSlowError as error:
                return unknown(str(error))
            if wrong is None:
                return passed(True)
        return passed(False, "no JSON in it" if wrong is None else f"{wrong.json_path}: {wrong.message}")


@scorer("json_equals")
@dataclass(frozen=True, kw_only=True)
class JsonEquals(ValueScorer):
    """The answer is JSON and equals the value, or the case's expected one; key order is ignored. `fenced`: a
    surrounding code block is allowed."""

    fenced: bool = False

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = case.expected if self.value is None else self.value
        if wanted is None:
            return unknown("the case has no expected answer")
        try:
            return passed(parse_json(answer.output, fenced=self.fenced) == wanted)
        except ValueError as error:
            return passed(False, f"not JSON: {error}")


@scorer("json_diff")
@dataclass(frozen=True, kw_only=True)
class JsonDiff(ValueScorer):
    """The fraction of the expected JSON's leaf values that the answer has at the same path; unexpected values count
    against it. The note lists the differences. `ignore`: paths to ignore (`id,items.*.price`)."""

    main: ClassVar[str | None] = "ignore"
    ignore: Sequence[str] = ()
    fenced: bool = True

    def __post_init__(self) -> None:
        given = self.ignore.split(",") if isinstance(self.ignore, str) else self.ignore
        object.__setattr__(self, "ignore", tuple(path.strip() for path in given if path.strip()))

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = case.expected if self.value is None else self.value
        if wanted is None:
            return unknown("the case has no expected answer")
        try:
            wanted = json.loads(wanted) if isinstance(wanted, str) else wanted
        except ValueError:
            return unknown(f"the expected answer {str(wanted)[:40]!r} is not JSON")
        try:
            parsed = parse_json(answer.output, fenced=self.fenced)
        except ValueError as error:
            return passed(False, f"not JSON: {error}")
        right, left = self._leaves(wanted), self._leaves(parsed)
        places = [*right, *(path for path in left if path not in right)]
        wrong = [path for path in places if path not in left or path not in right or not _same(left[path], right[path])]
        if not places:
            return passed(True)
        notes = [f"{path or 'it'}: {_told(left, path)}, not {_told(right, path)}" for path in wrong]
        return Score(1 - len(wrong) / len(places), "; ".join(notes[:5]) or None)

    def _leaves(self, value: object, path: str = "") -> dict[str, object]:
        """Path to value, for each leaf."""
        if any(fnmatchcase(path, pattern) for pattern in self.ignore):
            return {}
        inside = list(value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ())  # fmt: skip
        if not inside:
            return {path: value}
        leaves: dict[str, object] = {}
        for name, one in inside:
            leaves |= self._leaves(one, f"{path}.{name}" if path else str(name))
        return leaves


def _told(leaves: Mapping[str, object], path: str) -> str:
    return json.dumps(leaves[path], ensure_ascii=False) if path in leaves else "nothing"


@scorer("javascript")
@dataclass(frozen=True, kw_only=True)
class JavaScript(Scorer):
    """The result of a script over `output` and `vars` (see `evals.javascript`): a bool, a number, or `{pass, score,
    reason}`.
    """

    main: ClassVar[str | None] = "script"
    script: str = ""

    def __post_init__(self) -> None:
        read_script(self.script)

    def check(self, answer: Answer, case: Case) -> Score:
        try:
            result = read_script(self.script).run(answer.output, case.template_vars())
        except ScriptError as error:
            return passed(False, f"the script failed: {error}")
        if isinstance(result, dict) and isinstance(result.get("pass", True), bool):
            yes = result.get("pass", True)
            value = float(result["score"]) if isinstance(result.get("score"), int | float) else float(yes)
            return Score(value, str(result.get("reason") or "") or None, passes=yes)
        if isinstance(result, bool):
            return passed(result)
        if isinstance(result, int | float):
            return Score(float(result), passes=None if self.pass_at is not None else result > 0)
        return unknown(f"the script gave {as_text(result)[:80]}, which is not a score")


@scorer("json_field")
@dataclass(frozen=True, kw_only=True)
class JsonField(ValueScorer):
    """The answer is JSON, and the field at `path` (`address.city`, `items.0.id`) equals the value, or the case's
    expected one.
    """

    main: ClassVar[str | None] = "path"
    path: str = ""
    fenced: bool = True

    def __post_init__(self) -> None:
        if not self.path:
            raise UsageError("The scorer json_field needs a path.", "For example: json_field:address.city")

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = case.expected if self.value is None else self.value
        if wanted is None:
            return unknown("the case has no expected answer")
        try:
            value = parse_json(answer.output, fenced=self.fenced)
        except ValueError as error:
            return passed(False, f"not JSON: {error}")
        for part in self.path.split("."):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                return passed(False, f"there is no {self.path}")
        return passed(
            _same(value, wanted),
            None if _same(value, wanted) else f"{self.path} is {json.dumps(value, ensure_ascii=False)}",
        )


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as written in a text. 50 % equals 0.5 if the other number is not a percentage."""

    value: float
    percent: bool = False

    def against(self, other: Quantity) -> float:
        """The value on the scale of `other`: a percentage compared with a non-percentage is divided by 100."""
        return self.value / 100 if self.percent and not other.percent else self.value


@scorer("number")
@dataclass(frozen=True, kw_only=True)
class Number(ValueScorer):
    """A number in the answer is within `tolerance` (absolute) or `relative` of the expected one, or within the expected
    range (`10–20`).

    `which`: the number to use if there are several: the last (where models put results), the first, or any. Thousands
    separators and currency signs are accepted; 50 % matches 50 and 0.5.
    """

    tolerance: float = 0.0
    relative: float = 0.0
    which: Literal["last", "first", "any"] = "last"

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = case.expected if self.value is None else self.value
        if wanted is None:
            return unknown("the case has no expected answer")
        try:
            targets = [_target(w) for w in (wanted if isinstance(wanted, list) else [wanted])]
        except ValueError:
            return unknown(f"the expected answer {wanted!r} is not a number")
        quantities = quantities_in(answer.output)
        if not quantities:
            return passed(False, "no number in the answer")
        looked_at = {"last": quantities[-1:], "first": quantities[:1], "any": quantities}[self.which]
        close = any(self._within(quantity, low, high) for quantity in looked_at for low, high in targets)
        return passed(close, None if close else f"{looked_at[0].value:g}")

    def _within(self, found: Quantity, low: Quantity, high: Quantity) -> bool:
        readings = [(found.against(low), low.against(found), high.against(found)), (found.value, low.value, high.value)]
        return any(
            least <= value <= most
            or any(
                math.isclose(value, end, rel_tol=self.relative, abs_tol=max(self.tolerance, 1e-12))
                for end in (least, most)
            )
            for value, least, most in readings
        )


def parse_json(text: str, *, fenced: bool = True) -> Json:
    """The JSON value of a text, or of its only code block. Raises `ValueError`."""
    try:
        value: Json = json.loads(text)
    except ValueError:
        blocks = _FENCE.findall(text) if fenced else []
        if len(blocks) != 1:
            raise
        value = json.loads(blocks[0])
    return value


def json_in(text: str) -> list[Json]:
    """Every JSON object and list in a text, regardless of surrounding text."""
    decoder, values, place = json.JSONDecoder(), [], 0
    while match := _OPENING.search(text, place):
        try:
            value, place = decoder.raw_decode(text, match.start())
            values.append(value)
        except (ValueError, RecursionError):
            place = match.end()
    return values


def quantities_in(text: str) -> list[Quantity]:
    """Numbers as people write them: `1,234.5`, `1.234,5`, `1 234`, `−3`, `2e6`, `$5`; `10-20` is two numbers."""
    return [_quantity(match) for match in _NUMBER.finditer(text)]


def _quantity(match: re.Match[str]) -> Quantity:
    kind = next(name for name in ("comma", "point", "space", "mark", "decimal", "plain") if match[name])
    digits = re.sub(r"[\s'’]", "", match[kind])
    digits = digits.replace(",", "") if kind == "comma" else digits
    digits = digits.replace(".", "") if kind == "point" else digits
    value = float(digits.replace(",", "."))
    return Quantity(-value if match["sign"] in ("-", "−") else value, match["percent"] is not None)


def _target(value: Any) -> tuple[Quantity, Quantity]:
    """Lower and upper bound of the expected value. Raises `ValueError` if it is neither a number nor a range."""
    if isinstance(value, bool):
        raise ValueError("a truth value is not a number")
    if not isinstance(value, str):
        return Quantity(float(value)), Quantity(float(value))
    text = _CURRENCY.sub("", value.strip()).strip()
    ends = [_NUMBER.fullmatch(part.strip()) for part in _RANGE.split(text)]
    if len(ends) > 2 or not all(ends):
        raise ValueError(value)
    quantities = [_quantity(end) for end in ends if end]
    low, high = quantities[0], quantities[-1]
    if high.percent and not low.percent:  # 10–20 %
        low = Quantity(low.value, True)
    return (low, high) if low.value <= high.value else (high, low)


def _same(found: object, wanted: object) -> bool:
    """Equal, or equal as text: values from CSV files are always text."""
    if isinstance(wanted, str) and not isinstance(found, str):
        return json.dumps(found, ensure_ascii=False) == wanted or str(found) == wanted
    return bool(found == wanted)
