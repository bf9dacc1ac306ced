"""A lab in one DuckDB file: one process owns it, every other one is its client over loopback, and nobody need know which."""
