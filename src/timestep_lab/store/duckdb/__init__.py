"""A lab in one DuckDB file: one process owns it, all others are its clients over loopback, transparently."""

import os

# DuckDB's allocator (jemalloc) keeps all address space that it has ever used, so that `store.memory` could not limit its use. Read when
# duckdb is imported.
os.environ.setdefault("DUCKDB_JE_MALLOC_CONF", "retain:false")
