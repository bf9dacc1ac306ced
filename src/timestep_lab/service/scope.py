"""What the operations of one user work on. A `Lab` in this process is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from timestep_lab.runtime.router import Router
    from timestep_lab.store.store import Store


class Scope(Protocol):
    """The user's view of the store, and the parts that all users share. Who calls an operation is here, not an argument of each."""

    store: Store

    def flush(self) -> None:
        """Wait until every span so far can be read."""
        ...

    @property
    def router(self) -> Router:
        """From a model's name to a model."""
        ...
