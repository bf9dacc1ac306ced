"""What one ChatKit request is about. A new one is made for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timestep_lab.model.protocols import LabLike
    from timestep_lab.model.records import AgentRecord, Json


@dataclass(slots=True)
class ChatKitContext:
    lab: LabLike
    """The calling user's."""
    agent: AgentRecord
    """Whom the request's path names."""
    base_url: str
    """Of this server as the caller sees it, without a slash at its end."""
    kept: set[str] = field(default_factory=set)
    """Ids of items that a run has stored already; ChatKit must not store them again."""
    answering: bool = False
    """Whether this request brings what a client's tool gave."""
    answer: tuple[str, Json] | None = None
    """A client tool's call id and what it gave, as this request brought it."""
    forgotten_runs: set[str] = field(default_factory=set)
    """Runs whose items this request takes back."""
