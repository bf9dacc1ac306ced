"""Import and export of traces: OTLP over HTTP and as files, Agents SDK exports, Phoenix span lines, and the lab's JSONL, Parquet and DuckDB
files.

    read_otlp(body, content_type, content_encoding, user_id) -> Decoded      the body of `POST /v1/traces`
    import_file(path, store) -> Imported                                     any of the formats, detected by content
    export_file(path, store, trace_ids) -> int                               the format follows the file extension

Importing is idempotent: a span is identified by its trace and span id.
"""

from timestep_lab.runtime.interchange.export import EXPORT_FORMATS, Decoded, export_file
from timestep_lab.runtime.interchange.files import Imported, import_file
from timestep_lab.runtime.interchange.otlp_in import read_otlp

__all__ = ["EXPORT_FORMATS", "Decoded", "Imported", "export_file", "import_file", "read_otlp"]
