"""Scorers for answers that hold data: JSON and numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers.base import Answer, Score, Scorer, ValueScorer, passed, scorer, unknown
from timestep_lab.evals.scorers.bounded import TooSlowError
from timestep_lab.evals.scorers.schema_patterns import best_error, check_patterns
from timestep_lab.types.errors import UsageError

_FENCE = re.compile(r"```(?:json)?[^\S\n]*\n(.*?)```", re.DOTALL)
_NUMBER = re.compile(r"[-−+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:[eE][-+]?\d+)?")


@scorer("json_schema")
@dataclass(frozen=True, kw_only=True)
class JsonSchema(Scorer):
    """The answer is JSON and satisfies the schema (any JSON without one). `fenced`: a code block around it is allowed."""

    main: ClassVar[str | None] = "schema"
    schema: Any = field(default_factory=dict)
    fenced: bool = True

    def __post_init__(self) -> None:
        import jsonschema  # type: ignore[import-untyped]

        if isinstance(self.schema, str):
            try:
                object.__setattr__(self, "schema", json.loads(self.schema))
            except ValueError as error:
                raise UsageError(f"The schema is not JSON: {error}.", "Give an object, or its JSON text.") from error
        try:
            jsonschema.validators.validator_for(self.schema).check_schema(self.schema)
        except jsonschema.SchemaError as error:
            raise UsageError(f"The schema is no JSON Schema: {error.message}.", "Correct it.") from error
        check_patterns(self.schema)

    def check(self, answer: Answer, case: Case) -> Score:
        try:
            value = parse_json(answer.output, fenced=self.fenced)
        except ValueError as error:
            return passed(False, f"not JSON: {error}")
        try:
            wrong = best_error(self.schema, value)
        except TooSlowError as error:
            return unknown(str(error))
        return passed(wrong is None, None if wrong is None else f"{wrong.json_path}: {wrong.message}")


@scorer("json_field")
@dataclass(frozen=True, kw_only=True)
class JsonField(ValueScorer):
    """The answer is JSON, and the field at `path` (`address.city`, `items.0.id`) equals the value, or the case's expected one."""

    main: ClassVar[str | None] = "path"
    path: str = ""
    fenced: bool = True

    def __post_init__(self) -> None:
        if not self.path:
            raise UsageError("The scorer json_field needs a path.", "Write json_field:address.city, for example.")

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = case.expected if self.value is None else self.value
        if wanted is None:
            return unknown("the case has no expected answer")
        try:
            found = parse_json(answer.output, fenced=self.fenced)
        except ValueError as error:
            return passed(False, f"not JSON: {error}")
        for part in self.path.split("."):
            if isinstance(found, Mapping) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            else:
                return passed(False, f"there is no {self.path}")
        return passed(
            _same(found, wanted),
            None if _same(found, wanted) else f"{self.path} is {json.dumps(found, ensure_ascii=False)}",
        )


@scorer("number")
@dataclass(frozen=True, kw_only=True)
class Number(ValueScorer):
    """A number in the answer lies within `tolerance` (absolute) or `relative` of the expected one.

    `which` number, when there are several: the last (where models put results), the first, or any.
    """

    tolerance: float = 0.0
    relative: float = 0.0
    which: Literal["last", "first", "any"] = "last"

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = case.expected if self.value is None else self.value
        if wanted is None:
            return unknown("the case has no expected answer")
        try:
            targets = [_as_number(w) for w in (wanted if isinstance(wanted, list) else [wanted])]
        except ValueError:
            return unknown(f"the expected answer {wanted!r} is no number")
        found = numbers_in(answer.output)
        if not found:
            return passed(False, "no number in the answer")
        looked_at = {"last": found[-1:], "first": found[:1], "any": found}[self.which]
        close = any(
            math.isclose(n, t, rel_tol=self.relative, abs_tol=max(self.tolerance, 1e-12))
            for n in looked_at
            for t in targets
        )
        return passed(close, None if close else f"{looked_at[0]:g}")


def parse_json(text: str, *, fenced: bool = True) -> Any:
    """The JSON value that a text is, or that its only code block holds. Raises `ValueError`."""
    try:
        return json.loads(text)
    except ValueError:
        blocks = _FENCE.findall(text) if fenced else []
        if len(blocks) != 1:
            raise
        return json.loads(blocks[0])


def numbers_in(text: str) -> list[float]:
    """Numbers as people write them: `1,234.5`, `−3`, `2e6`."""
    return [_as_number(match) for match in _NUMBER.findall(text) if any(c.isdigit() for c in match)]


def _as_number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("a truth value is no number")
    return float(value.strip().replace(",", "").replace("−", "-")) if isinstance(value, str) else float(value)


def _same(found: Any, wanted: Any) -> bool:
    """Equal, or equal as text: a CSV knows only text."""
    if isinstance(wanted, str) and not isinstance(found, str):
        return json.dumps(found, ensure_ascii=False) == wanted or str(found) == wanted
    return bool(found == wanted)
