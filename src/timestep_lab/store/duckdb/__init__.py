"""A lab in one DuckDB file: one process owns it, all others are its clients over loopback, transparently."""
