"""Traces in and out: OTLP over HTTP and as files, Agents SDK exports, Phoenix's span lines, our own JSONL, Parquet and DuckDB files.

    read_otlp(body, content_type, content_encoding, user_id) -> Decoded      what `POST /v1/traces` hands over
    import_file(path, store) -> Imported                                     any of the formats, told apart by content
    export_file(path, store, trace_ids) -> int                               the format follows the file's ending

Importing the same twice adds nothing: a span is known by its trace and span id.
"""

from timestep_lab.runtime.interchange.export import EXPORT_FORMATS, export_file
from timestep_lab.runtime.interchange.files import Imported, import_file
from timestep_lab.runtime.interchange.lab_rows import Decoded
from timestep_lab.runtime.interchange.otlp_in import read_otlp

__all__ = ["EXPORT_FORMATS", "Decoded", "Imported", "export_file", "import_file", "read_otlp"]
