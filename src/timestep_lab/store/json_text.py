"""Any value as text that both databases can hold: never fails, never changes what can be kept.

Neither database takes lone surrogates, Postgres takes no NUL, JSON takes no NaN: these become U+FFFD or a word, all else stays.
"""

from __future__ import annotations

import json
import json.encoder
import math
from collections.abc import Callable, Mapping
from typing import Any

MAX_DEPTH = 200
REPLACEMENT = "\ufffd"


def clean(text: str) -> str:
    """`text` without NUL and lone surrogates; pairs of surrogates become the character they stand for."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", REPLACEMENT) if "\0" in text else text


def to_json(value: Any) -> str:
    """Compact JSON with non-ASCII letters as they are, so that they can be searched.

    What JSON has no word for becomes its `str`; NaN and the infinities become the strings `NaN`, `Infinity`, `-Infinity`.
    """
    try:
        text = _dump(value)
    except (ValueError, TypeError, RecursionError):
        return _dump(_plain(value, 0))
    return _dump(_plain(value, 0)) if "\\u0000" in text or (not text.isascii() and clean(text) != text) else text


def from_json(text: str) -> Any:
    return json.loads(text)


def _foreign(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "model_dump"):  # A pydantic model, such as the SDK's and the providers' objects.
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)


def _dumper() -> Callable[[Any], str]:
    """`JSONEncoder.encode` sets its C encoder up at every call, which takes longer than most values; this one is kept.

    A circle of values ends as one that is nested too deep does, in a `RecursionError`.
    """
    plain = json.JSONEncoder(
        ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"), default=_foreign
    )
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # A Python without the C part.
        return plain.encode
    chunks = make(None, _foreign, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    return lambda value: "".join(chunks(value, 0))


_dump = _dumper()


def _plain(value: Any, depth: int) -> Any:
    """`value` rebuilt of what JSON can say. Deeper than MAX_DEPTH (or in a circle) it is cut and says so."""
    if depth > MAX_DEPTH:
        return "(nested too deep)"
    match value:
        case None | bool() | int():
            return value
        case str():
            return clean(value)
        case float():
            return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
        case Mapping():
            return {clean(str(key)): _plain(inner, depth + 1) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner, depth + 1) for inner in value]
    return _plain(_foreign(value), depth + 1)
