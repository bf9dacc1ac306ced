"""What may stand at the cursor of a filter: fields, their values as they occur, operators, and ready-made conditions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from timestep_lab.store.filters.fields import (
    SPAN_ALIASES,
    SPAN_CHOICES,
    SPAN_FIELDS,
    TRACE_ALIASES,
    TRACE_CHOICES,
    TRACE_FIELDS,
)

Facets = Mapping[str, Sequence[tuple[str, int]]]
MOST = 30

_STARTED_VALUE = re.compile(r"""((?:\w+\.)?\w+)\s*(?:==|!=)\s*(["'][^"']*)$""")
_WANTS_VALUE = re.compile(r"((?:\w+\.)?\w+)\s*(?:==|!=)\s*$")
_WANTS_OPERATOR = re.compile(r"((?:\w+\.)?\w+)\s+$")
_WANTS_JOIN = re.compile(r"""(?:["'\d)\]]|\bNone)\s+$""")
_WORD = re.compile(r"(?:\w+\.)?\w*$")
_READY = (
    ('any(s.kind == "tool" and s.status == "error" for s in spans)', "a tool failed"),
    ('started_at > ago("24h")', "started in the last day"),
    ('"berkeley" in input', "words in the question"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Text that may replace `filter[start:end]`. `detail` says what it is (`field`, `model`, `42 traces` …)."""

    text: str
    start: int
    end: int
    detail: str = ""


def suggest(text: str, cursor: int, facets: Facets) -> list[Suggestion]:
    """Best first. `facets`: field to its frequent values with the number of traces that have them."""
    left = text[:cursor]
    if match := _STARTED_VALUE.search(left):
        end = cursor + (1 if text[cursor : cursor + 1] == match[2][0] else 0)
        return _values(match[1], match[2][1:], match.start(2), end, facets)
    if match := _WANTS_VALUE.search(left):
        return _values(match[1], "", cursor, cursor, facets)
    if _WANTS_JOIN.search(left):
        return [Suggestion(text=f"{word} ", start=cursor, end=cursor) for word in ("and", "or")]
    if (match := _WANTS_OPERATOR.search(left)) and (kind := _type_of(match[1])):
        signs = ("== ", "!= ") if kind == "text" else ("> ", "< ", "== ")
        return [Suggestion(text=sign, start=cursor, end=cursor, detail=kind) for sign in signs]
    return _names(left, cursor)


def _names(left: str, cursor: int) -> list[Suggestion]:
    match = _WORD.search(left)
    word = match[0] if match else ""
    start = cursor - len(word)
    if "." in word:
        before, _, part = word.partition(".")
        fields = _starting(part, [*SPAN_FIELDS, *SPAN_ALIASES])
        return [Suggestion(text=f"{before}.{n}", start=start, end=cursor, detail="field of a step") for n in fields][
            :MOST
        ]
    details: dict[str, str] = {**TRACE_FIELDS, **TRACE_ALIASES}
    names = [name for name in _starting(word, details) if name != word]
    found = [Suggestion(text=name, start=start, end=cursor, detail=details[name]) for name in names]
    if not left.strip() or left.rstrip().endswith((" and", " or", "(")):
        found += [Suggestion(text=t, start=start, end=cursor, detail=d) for t, d in _READY if t.startswith(word)]
    return found[:MOST]


def _starting(word: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(word.lower())]


def _values(field: str, begun: str, start: int, end: int, facets: Facets) -> list[Suggestion]:
    counted: dict[str, str] = {}
    if "." in field:
        name = field.split(".")[-1]
        counted = dict.fromkeys(SPAN_CHOICES.get(SPAN_ALIASES.get(name, name), ()), "")
    else:
        name = TRACE_ALIASES.get(field, field)
        counted = {value: f"{n:,} traces" for value, n in facets.get(name, ())}
        counted |= {choice: counted.get(choice, "") for choice in TRACE_CHOICES.get(name, ())}
    wanted = begun.casefold()
    matching = [value for value in counted if wanted in value.casefold()]
    return [
        Suggestion(text=json.dumps(value, ensure_ascii=False), start=start, end=end, detail=counted[value])
        for value in matching[:MOST]
    ]


def _type_of(field: str) -> str | None:
    name = field.split(".")[-1]
    if "." in field:
        return SPAN_FIELDS.get(SPAN_ALIASES.get(name, name))
    return TRACE_FIELDS.get(TRACE_ALIASES.get(name, name))
