"""Spans as binary columns: 100,000 of them are five megabytes and milliseconds, where JSON is seconds.

    u32 length of the header | header, JSON, padded to 8 bytes | columns, little-endian, each padded to 8 bytes

Header: `{n, t0, columns: [{name, type, offset}], words: {column: [text, …]}}`. `t0` is the first start, in milliseconds since 1970;
`start` and `end` count from there in milliseconds (`end` NaN while pending). Text columns are indexes into `words` (-1 for none).
`parent` is a row number (-1 for a root or for a parent that is not there). Numbers that are unknown are NaN. A span's id is
two u32 halves, or an index into `words.id` where ids are not 16 hex digits. The reader is static/trace/columns.js.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from timestep_lab.types.spans import SPAN_KINDS
from timestep_lab.ui.json_safe import json_safe
from timestep_lab.ui.sources import SpanColumns

if TYPE_CHECKING:
    import numpy

STATUSES = ("pending", "ok", "error")


def encode_spans(spans: SpanColumns) -> bytes:
    """Pack the columns. Raises `KeyError` without a needed column, `ValueError` when lengths differ."""
    import numpy as np

    ids = list(spans["span_id"])
    n = len(ids)
    if uneven := {name for name, values in spans.items() if len(values) != n}:
        raise ValueError(f"Columns {sorted(uneven)} do not have the {n} values that span_id has.")
    starts = _numbers(spans["started_us"])
    ends = _numbers(spans.get("ended_us", ()), n)
    t0 = float(starts.min()) / 1000.0 if n else 0.0
    words: dict[str, list[str]] = {}
    columns: dict[str, numpy.ndarray[Any, Any]] = {
        "start": starts / 1000.0 - t0,
        "end": ends / 1000.0 - t0,
        "parent": _parents(ids, spans["parent_id"]).astype("<i4"),
        "kind": _codes(spans["kind"], SPAN_KINDS, SPAN_KINDS.index("other")),
        "status": _codes(spans["status"], STATUSES, STATUSES.index("ok")),
    }
    for name in ("name", "agent", "model"):
        columns[name], words[name] = _words(spans.get(name, ()), n)
    for name in ("input_tokens", "output_tokens", "cost_usd", "ttft_ms"):
        columns[name] = _numbers(spans.get(name, ()), n).astype("<f4")
    packed_ids = _hex16(ids)
    if packed_ids is not None:
        columns["id"] = np.frombuffer(packed_ids, dtype=">u4").astype("<u4")
    else:
        columns["id"], words["id"] = _words(ids, n)
    return _pack(n, t0, columns, words)


def _pack(n: int, t0: float, columns: dict[str, numpy.ndarray[Any, Any]], words: dict[str, list[str]]) -> bytes:
    described, bodies, offset = [], [], 0
    for name, values in columns.items():
        body = values.tobytes()
        body += bytes(-len(body) % 8)
        described.append({"name": name, "type": f"{values.dtype.kind}{values.dtype.itemsize}", "offset": offset})
        bodies.append(body)
        offset += len(body)
    header = {"n": n, "t0": t0, "columns": described, "words": words, "kinds": SPAN_KINDS, "statuses": STATUSES}
    text = json.dumps(json_safe(header), ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-(4 + len(text)) % 8)
    return b"".join([struct.pack("<I", len(text)), text, *bodies])


# 100,000 rows pass through each of these: the loops are `map` over C functions, not Python's.


def _numbers(values: Sequence[Any], n: int | None = None) -> numpy.ndarray[Any, Any]:
    import numpy as np

    if n is not None and len(values) != n:
        return np.full(n, np.nan)
    return np.array(values, dtype="<f8")  # None becomes NaN.


def _codes(values: Sequence[Any], known: Sequence[str], fallback: int) -> numpy.ndarray[Any, Any]:
    import numpy as np

    code = {name: known.index(name) if name in known else fallback for name in dict.fromkeys(values)}
    return np.fromiter(map(code.__getitem__, values), dtype="u1", count=len(values))


def _words(values: Sequence[Any], n: int) -> tuple[numpy.ndarray[Any, Any], list[str]]:
    import numpy as np

    if len(values) != n:
        return np.full(n, -1, dtype="<i4"), []
    texts = [value for value in dict.fromkeys(values) if value is not None]
    codes: dict[Any, int] = {text: code for code, text in enumerate(texts)}
    codes[None] = -1
    indexes = np.fromiter(map(codes.__getitem__, values), dtype="<i4", count=n)
    return indexes, [str(text) for text in texts]


def _hex16(ids: Sequence[str]) -> bytes | None:
    """The ids as bytes, if each is 16 hex digits."""
    if set(map(len, ids)) - {16}:
        return None
    joined = "".join(ids)
    try:
        packed = bytes.fromhex(joined)
    except ValueError:
        return None
    return packed if packed.hex() == joined else None


def _parents(ids: Sequence[str], parents: Sequence[str | None]) -> numpy.ndarray[Any, Any]:
    import numpy as np

    row: dict[str | None, int] = dict(zip(ids, range(len(ids)), strict=True))
    return np.fromiter((row.get(parent, -1) for parent in parents), dtype="<i4", count=len(ids))
