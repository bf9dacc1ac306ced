"""From the name of a lab to the lab: `lab.duckdb`, a path, `:memory:`, or `postgresql://…`."""

from __future__ import annotations

from pathlib import Path

from timestep_lab.model.errors import UsageError
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.model.shown_url import without_credentials
from timestep_lab.store.base import Database
from timestep_lab.store.store import Store

POSTGRES = ("postgresql://", "postgres://")
EMBEDDED = "embedded-postgres"


def open_database(url: str | Path) -> Database:
    """Open a lab's database, creating and migrating it if needed. Close what you opened.

    `url` is a path of a DuckDB file (`duckdb:///…` too), `:memory:`, a `postgresql://` URL, or `embedded-postgres`
    (`embedded-postgres:FOLDER`), a server of the lab's own.
    Raises a `StoreError` that says why it cannot be opened and what to do, `UsageError` for a URL of another kind,
    `MissingExtraError` when Postgres is asked for and its driver is not installed.
    """
    text = str(url)
    if text.startswith(POSTGRES):
        from timestep_lab.store.postgres.database import PostgresDatabase

        return PostgresDatabase(text)
    if text == EMBEDDED or text.startswith(f"{EMBEDDED}:"):
        from timestep_lab.store.postgres.embedded_database import EmbeddedDatabase

        return EmbeddedDatabase(text)
    from timestep_lab.store.duckdb.database import open_duckdb

    if text == ":memory:":
        return open_duckdb(None)
    text = text.removeprefix("duckdb://")
    if "://" in text:
        raise UsageError(
            f"No lab can live at {without_credentials(text)!r}.",
            "Give the path of a file, `:memory:`, or a URL such as postgresql://host/lab",
        )
    if not text.strip():
        raise UsageError("The name of the lab is empty.", "Give the path of a file, such as lab.duckdb")
    return open_duckdb(Path(text).expanduser().resolve())


def open_store(url: str | Path, user_id: str = LOCAL_USER) -> Store:
    """A lab as one user sees it; `open_database` says what can go wrong. `close()` closes its database."""
    return Store(open_database(url), user_id)
