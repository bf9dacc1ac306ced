"""A lab in PostgreSQL: many users and many processes at once. Imported only when a lab's URL asks for it; needs the extra `postgres`."""
