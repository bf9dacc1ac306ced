"""Imports a file of traces in any format; the format is detected from the content, not from the name."""

from __future__ import annotations

import hashlib
import json
import re
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timestep_lab.model.clock import parse_iso, to_naive_utc
from timestep_lab.model.errors import DataError, TooLargeError
from timestep_lab.model.spans import GenAI, Lab, OpenInference
from timestep_lab.runtime.interchange.conventions import span_row
from timestep_lab.runtime.interchange.export import FLAT_COLUMNS, Decoded, is_lab_row, read_flat_rows, read_lab_rows
from timestep_lab.runtime.interchange.foreign_spans import (
    is_console_span,
    is_jaeger_trace,
    is_phoenix_span,
    is_zipkin_span,
    read_console,
    read_jaeger,
    read_phoenix,
    read_zipkin,
)
from timestep_lab.runtime.interchange.otlp_in import (
    MAX_BODY,
    decompressed,
    read_logs_json,
    read_logs_protobuf,
    read_otlp_json,
    read_otlp_protobuf,
)
from timestep_lab.store.imported_trace import STATED
from timestep_lab.store.spans import Row
from timestep_lab.store.store import Store
from timestep_lab.store.worker import MEMORY, Worker, WorkerDied

if TYPE_CHECKING:
    import duckdb


# --- Reads exports of the Agents SDK: objects `trace` and `trace.span`, alone, in a list, under `data`, or one per line


TRACE, SPAN = "trace", "trace.span"
_KINDS = {
    "agent": "agent", "generation": "generation", "response": "generation", "function": "tool", "handoff": "handoff",
    "guardrail": "guardrail", "task": "task", "turn": "turn", "transcription": "task", "speech": "task",
}  # fmt: skip
_SPEECH = {"transcription": "transcription", "speech": "speech_generation"}
_TRACE_ID = re.compile(r"(?:trace_)?([0-9a-f]{32})")
_SPAN_ID = re.compile(r"(?:span_)?([0-9a-f]{16})[0-9a-f]*")


def is_sdk_export(value: object) -> bool:
    return isinstance(value, Mapping) and value.get("object") in (TRACE, SPAN)


def read_sdk_export(objects: Iterable[Mapping[str, Any]], user_id: str) -> Decoded:
    """Decodes the objects; any that are neither a trace nor a span are counted as rejected."""
    decoded = Decoded(user_id)
    for entry in objects:
        try:
            if entry.get("object") == TRACE:
                about = {
                    "workflow": entry.get("workflow_name") or None,
                    "thread_id": entry.get("group_id") or None,
                    "metadata": {**(entry.get("metadata") or {}), Lab.SDK_ID: entry["id"]},
                }
                decoded.learn(_trace_id(str(entry["id"])), STATED, about)
            elif entry.get("object") == SPAN:
                decoded.spans.append(_span(entry, user_id))
            else:
                decoded.reject(f"An object {entry.get('object')!r} is neither a trace nor a span.")
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            decoded.reject(f"A span could not be read: {error!r}")
    return decoded.finish()


def _span(found: Mapping[str, Any], user_id: str) -> Row:
    data: Mapping[str, Any] = found["span_data"]
    inner = data.get("data") if isinstance(data.get("data"), Mapping) else {}
    assert isinstance(inner, Mapping)
    # Tasks and turns are exported as custom spans that state what they are.
    kind = _KINDS.get(str(inner.get("sdk_span_type") or data["type"]), "other")
    attributes: dict[str, object] = {Lab.KIND: kind, Lab.SDK_ID: found["id"]}
    attributes.update(_of_kind(kind, data, inner))
    error = found.get("error")
    ended_at = found.get("ended_at")
    return span_row(
        user_id, _trace_id(str(found["trace_id"])), _span_id(str(found["id"])),
        _span_id(str(found["parent_id"])) if found.get("parent_id") else None,
        str(inner.get("name") or data.get("name") or data.get("model") or data["type"]),
        to_naive_utc(parse_iso(found["started_at"])), to_naive_utc(parse_iso(ended_at)) if ended_at else None,
        str(error.get("message") or error) if isinstance(error, Mapping) else str(error) if error else None,
        {name: value for name, value in attributes.items() if value is not None},
    )  # fmt: skip


def _of_kind(kind: str, data: Mapping[str, Any], inner: Mapping[str, object]) -> dict[str, object]:
    match kind:
        case "generation":
            usage = data.get("usage") or {}
            return {
                GenAI.REQUEST_MODEL: data.get("model"), GenAI.PROVIDER: "openai" if data["type"] == "response" else None,
                GenAI.INPUT_TOKENS: usage.get("input_tokens", usage.get("prompt_tokens")),
                GenAI.OUTPUT_TOKENS: usage.get("output_tokens", usage.get("completion_tokens")),
                GenAI.RESPONSE_ID: data.get("response_id"), "model_config": data.get("model_config") or None,
                OpenInference.INPUT: data.get("input"), OpenInference.OUTPUT: data.get("output"),
            }  # fmt: skip
        case "task" if data["type"] in _SPEECH:
            return {
                GenAI.OPERATION: _SPEECH[data["type"]],
                GenAI.REQUEST_MODEL: data.get("model"),
                OpenInference.INPUT: data.get("input"),
                OpenInference.OUTPUT: data.get("output"),
            }
        case "tool":
            server = (data.get("mcp_data") or {}).get("server")
            return {
                OpenInference.INPUT: data.get("input"),
                OpenInference.OUTPUT: data.get("output"),
                Lab.SERVER: server,
            }
        case "handoff":
            return {Lab.FROM_AGENT: data.get("from_agent"), Lab.TO_AGENT: data.get("to_agent")}
        case "agent":
            return {GenAI.AGENT_NAME: data.get("name"), "tools": data.get("tools"), "handoffs": data.get("handoffs")}
        case "turn":
            return {GenAI.AGENT_NAME: inner.get("agent_name"), "turn": inner.get("turn"), "usage": inner.get("usage")}
        case "guardrail":
            return {OpenInference.OUTPUT: {"triggered": bool(data.get("triggered"))}}
    return {name: value for name, value in {**data, **inner}.items() if name not in ("type", "name", "data")}


def _trace_id(sdk_id: str) -> str:
    match = _TRACE_ID.fullmatch(sdk_id)
    return match[1] if match else hashlib.sha256(sdk_id.encode()).hexdigest()[:32]


def _span_id(sdk_id: str) -> str:
    match = _SPAN_ID.fullmatch(sdk_id)
    return match[1] if match else hashlib.sha256(sdk_id.encode()).hexdigest()[:16]


# --

_GZIP, _PARQUET, _DUCKDB, _ZSTD, _ZIP = b"\x1f\x8b", b"PAR1", b"DUCK", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_OF_FINDER = "__MACOSX/"
"""What the Finder adds to an archive."""
MAX_ROWS = 1_000_000
MAX_UNPACKED = 2**30
"""Limit for the values of a Parquet or DuckDB file, which may take a thousand times the size of the file."""
ROWS_AT_ONCE = 20_000
BYTES_AT_ONCE = 128 * 2**20
KNOWN = (
    "OTLP (protobuf, JSON, JSONL), also from Tempo, traces of Jaeger and Zipkin as JSON, Agents SDK exports, Phoenix spans, and the lab's own "
    "JSONL, Parquet and DuckDB files; all but the last two also in .gz and .zip"
)


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import: `spans` were decoded, `added` of them were new, `rejected` could not be decoded (`problem` says why).

    Example:
        await lab.run("Say 4.", model="demo/echo")
        lab.export("traces.jsonl")
        imported = lab.import_traces("traces.jsonl")
        assert isinstance(imported, Imported) and imported.added == 0  # they are there already
    """

    traces: int
    spans: int
    added: int
    rejected: int = 0
    problem: str = ""


def import_file(path: str | Path, store: Store, *, time_limit_s: float | None = None) -> Imported:
    """Imports a file of traces. Blocks. With a time limit, the file is untrusted: it is parsed in a separate process (`store.worker`).

    Raises `DataError` if the file is missing or in no supported format, `TooLargeError` if it is too large or takes longer than
    `time_limit_s`; spans stored by then stay, and are not added again.
    """
    began = time.monotonic()
    source = Path(path)
    traces, spans, added, rejected, problem = set[str](), 0, 0, 0, ""
    for decoded in (
        _read_apart(source, store.user_id, time_limit_s) if time_limit_s else read_file(source, store.user_id)
    ):
        if store.quota:
            store.quota.take_traces(len(decoded.trace_ids() - traces))
        added += decoded.store(store.db, source="imported")
        spans += len(decoded.spans)
        traces |= decoded.trace_ids()
        rejected += decoded.rejected
        problem = problem or decoded.problem
        if time_limit_s is not None and time.monotonic() - began > time_limit_s:
            raise TooLargeError(
                f"The import exceeded its time limit of {time_limit_s:g} s; {added:,} spans were added.",
                "Send the spans in smaller files.",
            )
    if not spans and rejected:
        raise DataError(f"No span of {source.name} could be read. {problem}", f"Supported formats: {KNOWN}.")
    return Imported(len(traces), spans, added, rejected, problem)


def _read_apart(source: Path, user_id: str, time_limit_s: float) -> Iterator[Decoded]:
    with Worker() as worker:
        try:
            yield from worker.stream(f"{__name__}:{read_file.__name__}", source, user_id, time_limit_s=time_limit_s)
        except WorkerDied as died:
            raise died.as_error(MEMORY) from None


def read_file(source: Path, user_id: str) -> Iterator[Decoded]:
    """Yields batches of spans. Error messages contain the file's name without its folder, because an uploaded file has a temporary one."""
    try:
        with source.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}.", f"Check the file: ls -l {source}") from None
    if head[:4] == _PARQUET or head[8:12] == _DUCKDB:
        yield from _read_columns(source, head, user_id)
        return
    if head[:4] == _ZIP:
        yield from _read_archive(source, user_id)
    else:
        yield from _read_data(source.name, source.read_bytes(), user_id)


def _read_archive(source: Path, user_id: str) -> Iterator[Decoded]:
    """Reads each file of a .zip archive in memory: not Parquet and DuckDB, which DuckDB reads from disk. A file that has no traces is
    counted as rejected."""
    n_files, room = 0, MAX_BODY
    try:
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                if member.is_dir() or member.filename.startswith(_OF_FINDER):
                    continue
                room -= member.file_size
                if room < 0:
                    raise TooLargeError(
                        f"The files in {source.name} have more than {MAX_BODY >> 20} MB.", "Split the archive."
                    )
                n_files += 1
                try:
                    yield from _read_data(f"{source.name}: {member.filename}", archive.read(member), user_id)
                except TooLargeError:
                    raise
                except DataError as error:
                    yield Decoded(user_id, rejected=1, problem=error.message)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{source.name} cannot be unpacked: {error}.", "Unpack it, and import its files.") from None
    if not n_files:
        raise DataError(f"{source.name} is empty.", f"Supported formats: {KNOWN}.")


def _read_data(name: str, data: bytes, user_id: str) -> Iterator[Decoded]:
    head = data[:8]
    if head[:2] == _GZIP:
        data = decompressed(data, "gzip")
    if not data.strip():
        raise DataError(f"{name} is empty.", f"Supported formats: {KNOWN}.")
    if _ZSTD in (head[:4], head[4:8]):
        raise DataError(f"{name} is compressed with zstd.", "Decompress it, or compress it with gzip instead.")
    if data[:2] in _UTF16:  # As PowerShell redirects output.
        data = data.decode("utf-16", "replace").encode()
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start in (b"{", b"["):
        yield from _read_json(name, data, user_id)
    else:
        yield from _read_protobuf(name, data, user_id)


def _read_columns(source: Path, head: bytes, user_id: str) -> Iterator[Decoded]:
    """Yields batches of rows: a file of 100 KB may have millions. Raises `TooLargeError` before reading if the unpacked size is too
    large."""
    import duckdb

    settings = {"autoinstall_known_extensions": False, "autoload_known_extensions": False, "memory_limit": "512MB"}
    try:
        with duckdb.connect(":memory:", config=settings) as connection:  # type: ignore[arg-type]
            connection.execute("set TimeZone = 'UTC'")
            literal = str(source).replace("'", "''")
            if head[:4] == _PARQUET:
                table = f"read_parquet('{literal}')"
            else:
                connection.execute(f"attach '{literal}' as other (read_only)")
                table = "other.lab_spans"
            described = connection.execute(f"describe select * from {table}").fetchall()
            kinds = {name: kind for name, kind, *_ in described if name in FLAT_COLUMNS}
            if missing := [
                name for name in ("trace_id", "span_id", "kind", "status", "started_at") if name not in kinds
            ]:
                raise _no_export(source, f"it has no column {missing[0]}")
            if nested := [
                name
                for name, kind in kinds.items()
                if kind.startswith(("STRUCT", "MAP", "UNION")) or kind.endswith("]")
            ]:
                raise _no_export(source, f"its column {nested[0]} has no scalar type")
            largest = _check_size(connection, source, table, list(kinds))
            result = connection.execute(f"select {', '.join(kinds)} from {table}")
            at_once = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(largest, 1)))
            while rows := result.fetchmany(at_once):
                yield read_flat_rows(list(kinds), rows, user_id)
    except duckdb.Error as error:
        raise _no_export(source, str(error).splitlines()[0].replace(str(source), source.name)) from None


def _check_size(connection: duckdb.DuckDBPyConnection, source: Path, table: str, columns: list[str]) -> int:
    """Returns the bytes of the largest row. DuckDB computes sizes without materializing the values, which is fast and needs little
    memory."""
    [(count,)] = connection.execute(f"select count(*) from {table}").fetchall()
    if count > MAX_ROWS:
        raise TooLargeError(
            f"{source.name} has {count:,} spans; the limit is {MAX_ROWS:,} per file.",
            "Split the export into several files.",
        )
    size = " + ".join(f"coalesce(strlen({name}::varchar), 0)" for name in columns)
    [(total, largest)] = connection.execute(f"select sum({size}), max({size}) from {table}").fetchall()
    if (total or 0) > MAX_UNPACKED:
        raise TooLargeError(
            f"{source.name} unpacks to {int(total) >> 20:,} MB; the limit is {MAX_UNPACKED >> 20:,} MB per file.",
            "Split the export into several files.",
        )
    return int(largest or 0)


def _no_export(source: Path, why: str) -> DataError:
    return DataError(
        f"{source.name} has no exported traces: {why}.".replace("..", "."),
        "Create an export with lab.export(path).",
        command="Export some with: timestep-lab traces export",
    )


def _read_protobuf(name: str, data: bytes, user_id: str) -> Iterator[Decoded]:
    """Reads one request, or several with a length before each: of four bytes, as the OpenTelemetry Collector's file exporter writes it, or
    a varint, as protobuf's own libraries do."""
    for messages in (iter([data]), _length_prefixed(data, _four_bytes), _length_prefixed(data, _varint)):
        first = _request_in(next(messages, b""), user_id)
        if first is not None:
            yield first
            break
    else:
        raise DataError(f"{name} is not a file of traces.", f"Supported formats: {KNOWN}.")
    for message in messages:
        decoded = _request_in(message, user_id) if message else None
        yield decoded or Decoded(user_id, rejected=1, problem=f"{name} ends or is damaged in the middle of a request.")


def _request_in(message: bytes, user_id: str) -> Decoded | None:
    """Decodes a request of spans, or of log records, which has the same outer form. None for what is neither."""
    try:
        decoded = read_otlp_protobuf(message, user_id)
        if decoded.rejected and not decoded.spans:
            of_logs = read_logs_protobuf(message, user_id)
            return of_logs if of_logs.events or of_logs.scores else decoded
    except DataError:
        return None
    return decoded if decoded.spans or decoded.rejected else None


def _length_prefixed(data: bytes, read_length: Callable[[bytes, int], tuple[int, int]]) -> Iterator[bytes]:
    """Yields the messages; an empty one for the rest if that is none. `read_length`: of the data from a place, the length and where it
    ends."""
    at = 0
    while at < len(data):
        length, at = read_length(data, at)
        if not 0 < length <= len(data) - at:
            yield b""
            return
        yield data[at : at + length]
        at += length


def _four_bytes(data: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + 4], "big"), at + 4


def _varint(data: bytes, at: int) -> tuple[int, int]:
    length = 0
    for place, byte in enumerate(data[at : at + 5]):
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return length, at + place + 1
    return 0, at


_REQUESTS = frozenset({"resourceSpans", "resource_spans", "batches"})
"""Names of the list of spans in an OTLP request; the last is Tempo's."""
_LOGS = frozenset({"resourceLogs", "resource_logs"})
_NO_SPACE = re.compile(r"[^ \t\r\n]")
_MOST_UNREAD = 1000
"""Number of lines that are not JSON after which a file is read no further."""

_READERS: tuple[tuple[Callable[[object], bool], Callable[[Iterable[Mapping[str, Any]], str], Decoded]], ...] = (
    (is_lab_row, read_lab_rows), (is_sdk_export, read_sdk_export), (is_console_span, read_console), (is_phoenix_span, read_phoenix),
    (is_jaeger_trace, read_jaeger), (is_zipkin_span, read_zipkin),
)  # fmt: skip
"""Of objects that have one form, which is that of the first that fits."""


def _read_json(name: str, data: bytes, user_id: str) -> Iterator[Decoded]:
    objects, unread = _json_objects(name, data)
    of_form: list[list[Mapping[str, object]]] = [[] for _ in _READERS]
    logs, strangers = [], 0
    for entry in objects:
        if not entry.keys().isdisjoint(_REQUESTS):
            yield read_otlp_json({"resourceSpans": entry["batches"]} if "batches" in entry else entry, user_id)
        elif not entry.keys().isdisjoint(_LOGS):
            logs.append(entry)
        else:
            form = next((place for place, (is_one, _) in enumerate(_READERS) if is_one(entry)), None)
            if form is None:
                strangers += 1
            else:
                of_form[form].append(entry)
    for request in logs:
        yield read_logs_json(request, user_id)
    for (_, read), mine in zip(_READERS, of_form, strict=True):
        if mine:
            yield read(mine, user_id)
    if strangers:
        yield Decoded(
            user_id, rejected=strangers, problem=f"{strangers} JSON objects are not spans in a form that the lab knows."
        )
    if unread:
        stopped = f" The rest was not read, after {_MOST_UNREAD:,} such lines." if len(unread) == _MOST_UNREAD else ""
        yield Decoded(user_id, rejected=len(unread), problem=f"Line {unread[0]} of {name} is not JSON.{stopped}")


def _json_objects(name: str, data: bytes) -> tuple[list[Mapping[str, object]], list[int]]:
    """Returns the objects of a JSON document (itself, its list, or the list under `data` or `spans`), of each line, or of documents one
    after the other; and the numbers of the lines that are none, in a file that was cut off or written by two programs at once.

    Raises `DataError` if there is no object."""
    text = data.decode("utf-8-sig", "replace")
    try:
        return list(_unwrapped(json.loads(text))), []
    except ValueError as error:
        whole = error
    except RecursionError:
        raise DataError(f"{name} is nested too deep.", f"Supported formats: {KNOWN}.") from None
    objects: list[Mapping[str, object]] = []
    unread: list[int] = []
    decoder, at, line, counted = json.JSONDecoder(), 0, 1, 0
    while (found := _NO_SPACE.search(text, at)) and len(unread) < _MOST_UNREAD:
        at = found.start()
        try:
            value, at = decoder.raw_decode(text, at)
            objects.extend(_unwrapped(value))
        except (ValueError, RecursionError):
            line, counted = line + text.count("\n", counted, at), at
            unread.append(line)
            at = (text.find("\n", at) + 1) or len(text)
    if not objects:
        raise DataError(f"{name} is neither JSON nor JSON lines: {whole}.", f"Supported formats: {KNOWN}.")
    return objects, unread


def _unwrapped(value: object) -> Iterator[Mapping[str, object]]:
    if isinstance(value, list):
        for inner in value:
            yield from _unwrapped(inner)
    elif isinstance(value, Mapping):
        whole = value.get("trace")  # Of Tempo.
        if isinstance(whole, Mapping) and not whole.keys().isdisjoint(_REQUESTS):
            yield whole
            return
        for key in ("data", "spans"):
            if isinstance(value.get(key), list) and "object" not in value and not is_jaeger_trace(value):
                yield from _unwrapped(value[key])
                return
        yield value
