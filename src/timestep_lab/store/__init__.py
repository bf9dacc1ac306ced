"""Floor 1: the databases a lab can live in, and all SQL. Imports `types` only; duckdb and psycopg are imported when first used."""
