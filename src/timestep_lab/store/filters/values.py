"""The constants of a filter: text, numbers, moments."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NoReturn

from timestep_lab.model.clock import parse_iso
from timestep_lab.store.filters.fields import UNITS_S, ValueType
from timestep_lab.store.filters.tree import Constant
from timestep_lab.store.json_text import clean

Fail = Callable[[str, str], NoReturn]
MAX_NUMBER = 2**63 - 1
_AGO = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*")
_SPOKEN: dict[ValueType, str] = {
    "text": "text", "number": "a number", "time": "a time", "bool": "true or false", "none": "None", "any": "an attribute",
}  # fmt: skip


def spoken(type: ValueType) -> str:
    return _SPOKEN[type]


def constant(value: Any, fail: Fail) -> Constant:
    match value:
        case None:
            return Constant(None, "none")
        case bool():
            fail(f"{value} is no value to compare with.", "Leave it out, or write not before a condition.")
        case str():
            if clean(value) != value:
                fail("Text with NUL or half a character is in no trace.", "Leave it out.")
            return Constant(value, "text")
        case int() | float():
            if (isinstance(value, float) and not math.isfinite(value)) or abs(value) > MAX_NUMBER:
                fail("The number is too large.", "No field holds it.")
            return Constant(value, "number")
    fail(f"{type(value).__name__} values have no meaning in a filter.", "Use text, numbers, None, or ago(…).")


def moment(text: str, fail: Fail) -> Constant:
    """A time written as ISO 8601; without a zone it is UTC."""
    try:
        return Constant(parse_iso(text), "time")
    except (ValueError, OverflowError):
        fail(f"{text!r} is no time.", 'Write "2026-11-22", "2026-11-22T16:00", or ago("24h").')


def ago(text: Any, now: datetime, fail: Fail) -> Constant:
    found = _AGO.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        fail(
            "ago() takes a length of time.", 'Write, for example: ago("30m"), ago("24h"), ago("7d"). Units: s m h d w.'
        )
    try:
        return Constant(now - timedelta(seconds=float(found[1]) * UNITS_S[found[2]]), "time")
    except OverflowError:
        fail("That is too long ago.", 'Write, for example: ago("7d").')
