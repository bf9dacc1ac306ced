"""Spans as binary columns: 100,000 of them are five megabytes and milliseconds, where JSON is seconds.

    u32 length of the header | header, JSON, padded to 8 bytes | columns, little-endian, each padded to 8 bytes

Header: `{n, t0, columns: [{name, type, offset}], words: {column: [text, …]}}`. `t0` is the first start, in milliseconds since 1970;
`start` and `end` count from there in milliseconds (`end` NaN while pending). Text columns are indexes into `words` (-1 for none).
`parent` is a row number (-1 for a root or for a parent that is not there). Numbers that are unknown are NaN. A span's id is
two u32 halves, or an index into `words.id` where ids are not 16 hex digits. The reader is static/trace/columns.js.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from timestep_lab.types.spans import SPAN_KINDS
from timestep_lab.ui.json_safe import json_safe
from timestep_lab.ui.sources import SpanColumns

if TYPE_CHECKING:
    import numpy

STATUSES = ("pending", "ok", "error")
_HEX16 = re.compile(r"(?:[0-9a-f]{16})*")


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
    if _is_hex16(ids):
        columns["id"] = np.frombuffer(bytes.fromhex("".join(ids)), dtype=">u4").astype("<u4")
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


def _numbers(values: Sequence[Any], n: int | None = None) -> numpy.ndarray[Any, Any]:
    import numpy as np

    if n is not None and len(values) != n:
        return np.full(n, np.nan)
    if getattr(values, "dtype", None) is not None:  # numpy already, with NaN for unknown
        return np.asarray(values, dtype="<f8")
    return np.fromiter((np.nan if value is None else value for value in values), dtype="<f8", count=len(values))


def _codes(values: Sequence[Any], known: Sequence[str], fallback: int) -> numpy.ndarray[Any, Any]:
    import numpy as np

    code = {name: index for index, name in enumerate(known)}
    return np.fromiter((code.get(value, fallback) for value in values), dtype="u1", count=len(values))


def _words(values: Sequence[Any], n: int) -> tuple[numpy.ndarray[Any, Any], list[str]]:
    import numpy as np

    if len(values) != n:
        return np.full(n, -1, dtype="<i4"), []
    codes: dict[str | None, int] = {}
    indexes = np.fromiter((codes.setdefault(value, len(codes)) for value in values), dtype="<i4", count=n)
    texts = list(codes)
    if None in codes:
        indexes[indexes == codes[None]] = -1
        texts[codes[None]] = ""
    return indexes, [str(text) for text in texts]


def _is_hex16(ids: Sequence[str]) -> bool:
    return all(len(span_id) == 16 for span_id in ids) and _HEX16.fullmatch("".join(ids)) is not None


def _parents(ids: Sequence[str], parents: Sequence[str | None]) -> numpy.ndarray[Any, Any]:
    import numpy as np

    row = {span_id: index for index, span_id in enumerate(ids)}
    return np.fromiter((row.get(parent, -1) if parent else -1 for parent in parents), dtype="<i4", count=len(ids))
