"""Layer 1: the databases of a lab, and all SQL. Imports only `model`; duckdb and psycopg are imported on first use."""
