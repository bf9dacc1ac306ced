"""A lab in PostgreSQL, for many users and processes. Imported only for such URLs; needs the extra `postgres`."""
