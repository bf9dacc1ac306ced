"""Binary encoding of spans by column: 100,000 spans are four megabytes and take milliseconds, where JSON takes seconds.

    u32 length of the header | header, JSON, padded to 8 bytes | columns, little-endian, each padded to 8 bytes

Header: `{n, t0, columns: [{name, type, offset}], words: {column: [text, …]}}`. `t0` is the first start, in milliseconds
since 1970. `start` and `end` are relative to it: whole microseconds (`u4`, 2³² - 1 while pending) if the trace is
shorter than an hour, else milliseconds (`f8`, NaN while pending). Text columns are indexes into `words`, starting at 1
(0 for none). `parent` is a row number (-1 for a root or a missing parent). In numeric columns NaN is unknown; a column
without values is left out. A span id is two u32 halves, or an index into `words.id` if ids are not 16 hex digits. The
decoder is static/trace/columns.js.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from itertools import repeat
from typing import TYPE_CHECKING, TypeAlias, overload

from timestep_lab.model.clock import iso
from timestep_lab.model.codec import Json
from timestep_lab.model.spans import SPAN_KINDS, SPAN_STATUSES
from timestep_lab.service.traces import SpanColumns
from timestep_lab.store.table import CodedText

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Column: TypeAlias = NDArray[numpy.generic]
    Numbers: TypeAlias = NDArray[numpy.float64]
    Rows: TypeAlias = NDArray[numpy.int32]


# --- Values that every transport can carry: strict JSON, valid UTF-8


_DEEPEST = 200


@overload
def json_safe(value: str, _depth: int = 0) -> str: ...
@overload
def json_safe(value: Mapping[str, object], _depth: int = 0) -> dict[str, Json]: ...
@overload
def json_safe(value: object, _depth: int = 0) -> Json: ...
def json_safe(value: object, _depth: int = 0) -> Json:
    """A copy of `value` that can be encoded with `json.dumps(..., allow_nan=False)` and UTF-8.

    Lone surrogates become U+FFFD, NaN and infinities None, datetimes ISO text, records dicts; other types become their
    `str`. Values nested deeper than 200 levels are replaced by a note.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _valid(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if _depth > _DEEPEST:
        return "(nested too deeply to show)"
    if isinstance(value, Mapping):
        return {_valid(str(key)): json_safe(item, _depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_safe(item, _depth + 1) for item in value]
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, Decimal):
        return json_safe(float(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(value)} bytes)"
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_safe(getattr(value, field.name), _depth + 1) for field in fields(value)}
    return _valid(str(value))


def _valid(text: str) -> str:
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


PENDING = 2**32 - 1
NO_ID = "0" * 16
"""The invalid span id in OpenTelemetry."""


def encode_spans(spans: SpanColumns, parents: Rows | None = None) -> bytes:
    """Encode the columns. `parents`: their `parent_rows`, if already computed.

    Raises `KeyError` if a required column is missing, `ValueError` if lengths differ.
    """
    import numpy as np

    ids = spans["span_id"]
    n = len(ids)
    if uneven := {name for name, values in spans.items() if len(values) != n}:
        raise ValueError(f"Columns {sorted(uneven)} do not have the {n} values that span_id has.")
    starts = numbers(spans["started_us"])
    t0_us = float(starts.min()) if n else 0.0
    words: dict[str, list[str]] = {}
    columns: dict[str, Column] = {
        **_times(starts - t0_us, numbers(spans.get("ended_us", ()), n) - t0_us),
        "kind": _codes(spans["kind"], SPAN_KINDS, SPAN_KINDS.index("other")),
        "status": _codes(spans["status"], SPAN_STATUSES, SPAN_STATUSES.index("ok")),
    }
    for name in ("name", "agent", "model"):
        columns[name], words[name] = _words(spans.get(name, ()), n)
    for name in ("input_tokens", "output_tokens", "cost_usd", "ttft_ms"):
        values = numbers(spans.get(name, ()), n)
        if not np.isnan(values).all():
            columns[name] = values.astype("<f4")
    columns["parent"] = parent_rows(spans) if parents is None else parents
    if (own := _hex16(ids)) is not None:
        columns["id"] = own.astype(">u8").view(">u4").astype("<u4")
    else:
        columns["id"], words["id"] = _words(ids, n)
    return _pack(n, t0_us / 1000.0, columns, words)


def _pack(n: int, t0: float, columns: dict[str, Column], words: dict[str, list[str]]) -> bytes:
    described, bodies, offset = [], [], 0
    for name, values in columns.items():
        body = values.tobytes()
        body += bytes(-len(body) % 8)
        described.append({"name": name, "type": f"{values.dtype.kind}{values.dtype.itemsize}", "offset": offset})
        bodies.append(body)
        offset += len(body)
    header = {"n": n, "t0": t0, "columns": described, "words": words, "kinds": SPAN_KINDS, "statuses": SPAN_STATUSES}
    text = json.dumps(json_safe(header), ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-(4 + len(text)) % 8)
    return b"".join([struct.pack("<I", len(text)), text, *bodies])


# These handle 100,000 rows, so the loops are in numpy or `map` over C functions.


def _times(starts: Numbers, ends: Numbers) -> dict[str, Column]:
    """Encoded times in microseconds after the first start, NaN while pending."""
    import numpy as np

    latest = max(starts.max(initial=0.0), np.nan_to_num(ends).max(initial=0.0))
    if latest >= PENDING or np.nan_to_num(ends).min(initial=0.0) < 0.0:
        return {"start": starts / 1000.0, "end": ends / 1000.0}
    return {"start": starts.astype("<u4"), "end": np.nan_to_num(ends, nan=PENDING).astype("<u4")}


def numbers(values: Sequence[object], n: int | None = None) -> Numbers:
    """A numeric column with NaN for unknown; all NaN if it does not have `n` values."""
    import numpy as np

    if n is not None and len(values) != n:
        return np.full(n, np.nan)
    return np.array(values, dtype="<f8")  # None becomes NaN.


def _codes(values: Sequence[object], known: Sequence[str], fallback: int) -> Column:
    import numpy as np

    text = CodedText.of(values)
    code = [known.index(word) if word in known else fallback for word in text.words]
    by_code = np.array([*code, fallback], dtype="u1")
    return by_code.take(text.codes, mode="wrap")  # Index -1 is the last element.


def _words(values: Sequence[object], n: int) -> tuple[Column, list[str]]:
    import numpy as np

    if len(values) != n:
        return np.zeros(n, dtype="u1"), []
    text = CodedText.of(values)
    # Sorted, so that the same trace always has the same encoding.
    order = sorted(range(len(text.words)), key=text.words.__getitem__)
    narrow = "u1" if len(order) < 2**8 else "<u2" if len(order) < 2**16 else "<u4"
    number = np.zeros(len(order) + 1, dtype=narrow)  # Index -1 is the last element: 0.
    number[order] = np.arange(1, len(order) + 1)
    return number[text.codes], [text.words[code] for code in order]


def _hex16(ids: Sequence[str | None]) -> Column | None:
    """The ids as numbers (0 for None), if all are 16 hex digits; else None."""
    import numpy as np

    try:
        joined = "".join(ids)  # type: ignore[arg-type]
    except TypeError:
        ids = [NO_ID if one is None else one for one in ids]
        joined = "".join(ids)  # type: ignore[arg-type]
    if set(map(len, ids)) - {16}:  # type: ignore[arg-type]
        return None
    try:
        packed = bytes.fromhex(joined)
    except ValueError:
        return None
    return np.frombuffer(packed, dtype=">u8").astype("u8") if packed.hex() == joined else None


def parent_rows(spans: SpanColumns) -> Rows:
    """The row of each span's parent, -1 if there is none."""
    import numpy as np

    ids = spans["span_id"]
    row: dict[str | None, int] = dict(zip(ids, range(len(ids)), strict=True))
    return np.fromiter(map(row.get, spans["parent_id"], repeat(-1)), dtype="<i4", count=len(ids))
