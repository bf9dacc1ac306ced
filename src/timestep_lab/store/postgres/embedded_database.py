"""A lab in an embedded Postgres server: opening it starts the server, closing it stops the server unless others use it."""

from __future__ import annotations

from pathlib import Path

from timestep_lab.store.postgres.database import PostgresDatabase
from timestep_lab.store.postgres.embedded import EmbeddedPostgres

SCHEME = "embedded-postgres"
DEFAULT_FOLDER = "lab.postgres"


class EmbeddedDatabase(PostgresDatabase):
    """`url` is `embedded-postgres` (the folder `lab.postgres` here) or `embedded-postgres:FOLDER`."""

    def __init__(self, url: str) -> None:
        folder = url.removeprefix(SCHEME).removeprefix(":").removeprefix("//") or DEFAULT_FOLDER
        self._server = EmbeddedPostgres(Path(folder).expanduser().resolve()).start()
        try:
            super().__init__(lambda: self._server.url, revive=self._server.ensure_running)
        except BaseException:
            self._server.close()
            raise
        self.url = f"{SCHEME}:{folder}"

    def close(self) -> None:
        super().close()
        self._server.close()
