"""Who may read a lab's files: its user alone, unless he opens them up himself.

A lab holds the key that signs tokens, the credentials of MCP servers, and everything that was said.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def private_if_new(path: Path | None) -> Iterator[None]:
    """A lab that is made inside is its user's alone. The mode of one that is there stays as it is."""
    if path is None or path.exists():
        yield
        return
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def keep_beside(path: Path | None, ending: str) -> None:
    """Before something writes the file `path` + `ending`: if it is not there, it is made, empty, with the mode of the lab."""
    if path is None:
        return
    with contextlib.suppress(OSError):  # It is there, or whoever writes it will say why it cannot be.
        mode = stat.S_IMODE(path.stat().st_mode) & 0o666
        handle = os.open(path.with_name(path.name + ending), os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        os.close(handle)
