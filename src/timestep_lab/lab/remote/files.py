"""`lab.files` of a served lab: what is not one request."""

from __future__ import annotations

import io
from collections.abc import Iterator

from timestep_lab.runtime.files.files import PART_BYTES
from timestep_lab.service.client import unsupported_remotely
from timestep_lab.service.files import Files


class RemoteFiles(Files):
    """`add` reads a file of this machine and sends it."""

    def stream(self, file_id: str) -> Iterator[bytes]:
        """The bytes in parts of at most 1 MiB. Raises `NotFoundError` at once."""
        whole = io.BytesIO(self.content(file_id))
        return iter(lambda: whole.read(PART_BYTES), b"")

    def purge(self) -> int:
        """The served lab deletes what has expired."""
        raise unsupported_remotely("Purging files", "Nothing is to be done: the served lab deletes what has expired.")
