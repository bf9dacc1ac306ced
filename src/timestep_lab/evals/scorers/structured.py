"""Scorers for structured answers: JSON, SQL and numbers."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from timestep_lab.evals.datasets.case import Case, plain
from timestep_lab.evals.datasets.files import parsed_yaml
from timestep_lab.evals.javascript import read_script
from timestep_lab.evals.javascript_values import ScriptError, as_text
from timestep_lab.evals.json_schemas import FORMATS, best_error, check_patterns, formats_of
from timestep_lab.evals.scorers.base import (
    Answer,
    Score,
    Scorer,
    TooSlowError,
    ValueScorer,
    acceptable,
    passed,
    same_json,
    scorer,
    unknown,
)
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import DataError, UsageError

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


# -- JSON and numbers in answers

_FENCE = re.compile(r"```(?:json)?[^\S\n]*\n(.*?)```|```json\b[^\S\n]*([^\n]*?)```", re.DOTALL | re.IGNORECASE)
_COMMENT = re.compile(r"""("(?:\\.|[^"\\])*"|'[^']*')|(?<!:)//[^\n]*""")
_NOT_JSON = object()
OBJECTS_S = 2.0
"""Time limit in seconds for looking for objects in one answer."""
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
    allowed; `anywhere`: any surrounding text is; `objects`: the same, but only objects count, also with unquoted names,
    single quotes, comments or a missing end. `formats`: `format` is checked, as ajv-formats does."""

    main: ClassVar[str | None] = "schema"
    schema: Json = field(default_factory=dict)
    fenced: bool = True
    anywhere: bool = False
    objects: bool = False
    formats: bool = False

    def __post_init__(self) -> None:
        import jsonschema  # type: ignore[import-untyped]

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
        if self.formats and (strange := sorted(formats_of(self.schema) - {*FORMATS})):
            raise UsageError(
                f"The schema has the format {strange[0]!r}, which is not supported here.",
                f"Supported: {', '.join(sorted(FORMATS))}.",
            )

    def check(self, answer: Answer, case: Case) -> Score:
        problem = None
        try:
            for value in self._values(answer.output):
                wrong = best_error(self.schema, value, formats=self.formats)
                if wrong is None:
                    return passed(True)
                problem = f"{wrong.json_path}: {wrong.message}"
        except ValueError as error:
            return passed(False, f"not JSON: {error}")
        except TooSlowError as error:
            return unknown(str(error))
        return passed(False, problem or "no JSON in it")

    def _values(self, text: str) -> Sequence[Json]:
        if self.objects:
            return objects_in(text)
        return json_in(text) if self.anywhere else [parse_json(text, fenced=self.fenced)]


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
            found = parse_json(answer.output, fenced=self.fenced)
        except ValueError as error:
            return passed(False, f"not JSON: {error}")
        return passed(same_json(found, wanted) or (isinstance(wanted, str) and same_json(found, _read(wanted))))


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
        value: object = _read(wanted) if isinstance(wanted, str) else wanted
        if value is _NOT_JSON:
            return unknown(f"the expected answer {str(wanted)[:40]!r} is not JSON")
        try:
            parsed = parse_json(answer.output, fenced=self.fenced)
        except ValueError as error:
            return passed(False, f"not JSON: {error}")
        right, left = self._leaves(value), self._leaves(parsed)
        places = [*right, *(path for path in left if path not in right)]
        wrong = [path for path in places if path not in left or path not in right or not _same(left[path], right[path])]
        if not places:
            return passed(True)
        notes = [f"{path or 'it'}: {_value_at(left, path)}, not {_value_at(right, path)}" for path in wrong]
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


def _value_at(leaves: Mapping[str, object], path: str) -> str:
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
            given = answer.output if answer.value is None else answer.value
            result = read_script(self.script).run(given, case.template_vars())
        except ScriptError as error:
            return Score(0.0, f"the script failed: {error}", broken=True)
        if isinstance(result, dict) and isinstance(result.get("pass", True), bool):
            yes = result.get("pass", True)
            value = float(result["score"]) if isinstance(result.get("score"), int | float) else float(yes)
            return Score(value, str(result.get("reason") or "") or None, passes=yes)
        if isinstance(result, bool):
            return passed(result)
        if isinstance(result, int | float):
            return Score(float(result), passes=None if self.pass_at is not None else result > 0)
        return Score(0.0, f"the script gave {as_text(result)[:80]}, which is not a score", broken=True)


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
        return _parsed(text)
    except ValueError:
        blocks = _FENCE.findall(text) if fenced else []
        if len(blocks) != 1:
            raise
        return _parsed("".join(blocks[0]))


def _parsed(text: str) -> Json:
    """A JSON value by the standard, which has no NaN and no Infinity. Raises `ValueError`."""
    try:
        value: Json = json.loads(text.removeprefix("\ufeff"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not a JSON value")


def _read(text: str) -> object:
    """The JSON value of an expected text, as a table has it; `_NOT_JSON` if it is none."""
    try:
        return _parsed(text)
    except ValueError:
        return _NOT_JSON


def json_in(text: str) -> list[Json]:
    """Every JSON object and list in a text, regardless of surrounding text."""
    decoder, values, place = json.JSONDecoder(parse_constant=_refuse_constant), [], 0
    while match := _OPENING.search(text, place):
        try:
            value, place = decoder.raw_decode(text, match.start())
            values.append(value)
        except (ValueError, RecursionError):
            place = match.end()
    return values


def objects_in(text: str) -> list[Json]:
    """Every object in a text, regardless of surrounding text, by the rules of promptfoo: an object may be written as in
    YAML, have comments, or lack its end. Raises `TooSlowError`."""
    found: list[Json] = []
    place, until = text.find("{"), time.monotonic() + OBJECTS_S
    while place >= 0:
        depth = 0
        end = len(text)
        for brace in re.compile("[{}]").finditer(text, place):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                end = brace.end()
                break
        value = _object(text[place:end] + "}" * depth)
        if value is not None:
            found.append(value)
        if time.monotonic() > until:
            raise TooSlowError(f"looking for JSON was given up after {OBJECTS_S:g} s on {len(text):,} characters")
        place = text.find("{", place + 1 if value is None else end)
    return found


def _object(text: str) -> Json:
    """The object that a text holds as JSON or YAML; None if it holds none."""
    try:
        return _parsed(text)
    except ValueError:
        pass
    try:
        value = plain(parsed_yaml(_COMMENT.sub(lambda found: found[1] or "", text), "the answer"), "the answer")
    except DataError:
        return None
    return value if isinstance(value, dict) else None


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
    return same_json(found, wanted)
