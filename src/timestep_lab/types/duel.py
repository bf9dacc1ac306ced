"""A live duel: what it asks of the lab behind it. `lab/dueling.py` answers for a lab in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from timestep_lab.types.arena import VoteOutcome, VoteRecord
from timestep_lab.types.events import Event
from timestep_lab.types.records import Json, RunRecord, ThreadItem


class DuelSource(Protocol):
    """Two candidates who are asked the same. Every method raises the errors of `types.errors`."""

    @property
    def candidates(self) -> tuple[str, str]: ...

    @property
    def comparison_id(self) -> str | None:
        """The comparison that holds messages, answers and votes; None before the first message."""
        ...

    async def begin(self, text: str) -> str:
        """Keep a message as a case; its id."""
        ...

    def ask(self, candidate: str, text: str, attachments: Sequence[Mapping[str, Json]]) -> AsyncIterator[Event]:
        """The answer of one candidate, in a conversation of its own that goes on from message to message."""
        ...

    def decide(self, run_id: str, decisions: Mapping[str, Mapping[str, Json]]) -> AsyncIterator[Event]: ...

    async def cancel(self, run_id: str) -> None: ...

    async def finish(self, case_id: str, candidate: str, items: Sequence[ThreadItem], run: RunRecord) -> None:
        """Keep an answer as a cell."""
        ...

    async def vote(self, case_id: str, left: str, right: str, outcome: VoteOutcome) -> None:
        """Keep a vote. Raises `UsageError` for an outcome that is none."""
        ...

    def votes(self) -> list[VoteRecord]:
        """Oldest first."""
        ...

    def scrub(self, value: Json) -> Json:
        """The same without anything that tells who answered."""
        ...

    async def attach(self, name: str, mime_type: str, content: bytes) -> Mapping[str, Json]: ...

    def widget(self, output: Json) -> Mapping[str, Json] | None:
        """How a tool's result looks, as in `ChatSource`."""
        ...
