"""`<lab>.owner.json`: where the process that owns the lab's file listens. Readable by its user alone, replaced whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Owner:
    pid: int
    port: int
    token: str
    """Whoever can read the file may use the lab; nobody else on the machine may."""
    schema: int
    """The last migration the owner knows. A client that knows others would misread the tables."""


class OwnerFile:
    def __init__(self, lab: Path) -> None:
        self.path = lab.with_name(lab.name + ".owner.json")

    def read(self) -> Owner | None:
        """None when there is none, or it is not one of ours."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return Owner(int(found["pid"]), int(found["port"]), str(found["token"]), int(found["schema"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, owner: Owner) -> None:
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        handle = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(owner), file)
        draft.replace(self.path)

    def remove(self, owner: Owner) -> None:
        """Only if it still names this owner."""
        if self.read() == owner:
            self.path.unlink(missing_ok=True)
