"""Traces as a single `.html` file with explorer and data, which opens without a server or network access."""

from __future__ import annotations

import base64
import gzip
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from timestep_lab.model.codec import object_of, objects_of
from timestep_lab.model.errors import UsageError
from timestep_lab.model.spans import GenAI
from timestep_lab.service.traces import Row, TracePage, TraceQuery, Traces
from timestep_lab.ui.assets import build
from timestep_lab.ui.columns import encode_spans, json_safe
from timestep_lab.ui.explorer import explorer_html
from timestep_lab.ui.messages import read_messages
from timestep_lab.ui.trace_reader import read_conversation, read_trace
from timestep_lab.ui.trace_view import trace_html

MOST_TRACES = 1_000
MOST_SPANS = 5_000
"""Maximum number of steps per trace whose contents are included; the waterfall has all steps."""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:">
<style>html{{color-scheme:light dark}}body{{margin:0;--tl-height:100vh}}noscript{{display:block;padding:16px;font:14px system-ui}}h1{{position:absolute;width:1px;height:1px;margin:0;overflow:hidden;clip-path:inset(50%)}}</style></head>
<body><main id="view">{heading}</main><noscript>{static_copy}</noscript>
<script type="application/octet-stream" id="data">{data}</script>
<script type="module">{module}</script></body></html>
"""


def export_html(
    source: Traces,
    path: Path | str,
    *,
    trace_ids: Sequence[str] | None = None,
    query: TraceQuery | None = None,
    title: str = "Traces",
) -> Path:
    """Write the given traces, or those that match, newest first; a single trace becomes a page of that trace.

    The file is written completely or not at all. Raises `UsageError` if nothing matches or there are more than 1,000
    traces.
    """
    rows = _rows(source, trace_ids, query or TraceQuery())
    if len(rows) == 1:
        return _write(Path(path), trace_page(source, rows[0]["trace_id"], title=title))
    data = {
        "single": None,
        "rows": rows,
        "sql": source.page(**(query or TraceQuery()).words(), limit=1).sql,
        "graph": asdict(source.graph(**(query or TraceQuery()).words())),
        "traces": {row["trace_id"]: _trace(source, row["trace_id"]) for row in rows},
    }
    page = TracePage(data=[*rows], has_more=False, after=None, total=len(rows), sql="")
    return _write(Path(path), _page("explorer", data, explorer_html(source, page, None), title))


def trace_page(source: Traces, trace_id: str, *, title: str | None = None) -> str:
    """One trace as an HTML page: its steps with contents, its annotations, and the participating agents; nothing else
    of the lab, and no user or conversation ids. Raises `NotFoundError`."""
    row = _own(source.read(trace_id))
    traces = {trace_id: _trace(source, trace_id)}
    data = {"single": trace_id, "rows": [row], "sql": "", "graph": None, "traces": traces}
    named = title or f"{str(row.get('input') or row.get('workflow') or 'Trace')[:80]} · Timestep Lab"
    return _page("trace", data, trace_html(source, trace_id), named, heading=f"<h1>{escape(named)}</h1>")


def _own(row: Mapping[str, object]) -> dict[str, object]:
    """A row, an annotation or attributes without the fields that identify the owner."""
    return {name: value for name, value in row.items() if name not in ("user_id", "thread_id", GenAI.CONVERSATION_ID)}


def _page(component: str, data: Mapping[str, object], static_copy: str, title: str, *, heading: str = "") -> str:
    """`heading`: for screen readers, if the component has none of its own."""
    return _PAGE.format(
        title=escape(title),
        heading=heading,
        static_copy=static_copy,
        data=_packed(data),
        module=_inline(build(component, "page")),
    )


def _rows(source: Traces, trace_ids: Sequence[str] | None, query: TraceQuery) -> list[Row]:
    if trace_ids is not None:
        rows: list[Row] = [dict(source.read(trace_id)) for trace_id in trace_ids]
        too_many = len(rows) > MOST_TRACES
    else:
        page = source.page(**query.words(), limit=MOST_TRACES)
        rows = [dict(row) for row in page.data]
        too_many = page.has_more
    if not rows:
        raise UsageError("No trace matches, so there is nothing to export.", "Use a less restrictive filter.")
    if too_many:
        raise UsageError(
            f"A page holds at most {MOST_TRACES:,} traces.", "Narrow the filter, or export Parquet or a .duckdb file."
        )
    return rows


def _trace(source: Traces, trace_id: str) -> dict[str, object]:
    spans = source.columns(trace_id)
    whole = source.payloads(trace_id, list(spans["span_id"])[:MOST_SPANS])
    scores: dict[str, list[object]] = {}
    for score in source.scores(trace_id):
        scores.setdefault(score.target_id, []).append(_own(asdict(score)))
    value = object_of(read_trace(source, trace_id).value)
    return {
        "value": {
            **value,
            "trace": _own(object_of(value["trace"])),
            "scores": [*map(_own, objects_of(value["scores"]))],
            "is_copy": True,
        },
        "columns": base64.b64encode(encode_spans(spans)).decode(),
        "spans": {span["span_id"]: _span(span, scores.get(span["span_id"], [])) for span in whole},
        "conversation": read_conversation(source, trace_id),
        "graph": asdict(source.handoffs(trace_id=[trace_id])),
    }


def _span(span: Row, scores: list[object]) -> dict[str, object]:
    speaks = span["kind"] in ("generation", "agent", "task", "turn", "other")
    return {
        "span": {**_own(span), "attributes": _own(span.get("attributes") or {})},
        "input_messages": read_messages(span.get("input")) if speaks else None,
        "output_messages": read_messages(span.get("output"), role="assistant") if speaks else None,
        "scores": scores,
    }


def _packed(data: Mapping[str, object]) -> str:
    text = json.dumps(json_safe(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _inline(module: str) -> str:
    """Escape a module so that it cannot end its script element."""
    return module.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _write(path: Path, text: str) -> Path:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
