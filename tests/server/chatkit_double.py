"""Our ChatKit store under the name and with the arguments that the SDK's own tests expect of their `helpers.mock_store`."""

from __future__ import annotations

from functools import cache
from typing import Any

from timestep_lab.server.chatkit.store import ChatKitStore
from timestep_lab.store.store import Store, open_store


@cache
def _lab() -> Store:
    return open_store(":memory:", "nobody")


class SQLiteStore(ChatKitStore):
    """Each `db_path` is a set of users of its own in one lab in memory."""

    def __init__(self, db_path: str) -> None:
        self.db_path = db_path

    def rows(self, context: Any) -> Store:
        return _lab().for_user(f"{self.db_path}/{context.user_id}")
