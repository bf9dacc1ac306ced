"""What a chat needs from the lab behind it. `lab/chat_source.py` answers for a lab in this process, `lab/remote…` for a served one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from timestep_lab.model.events import Event
from timestep_lab.model.records import Json, RunRecord, ThreadItem, ThreadRecord


@dataclass(frozen=True, slots=True)
class AgentChoice:
    name: str
    model: str | None
    """None: the lab's default model."""


class ChatSource(Protocol):
    """Every method raises the errors of `model.errors`; the chat shows their message and next step."""

    async def agents(self) -> Sequence[AgentChoice]: ...

    async def models(self) -> Sequence[str]:
        """Models a person may want to choose: of providers that are ready."""
        ...

    async def check_model(self, name: str) -> str:
        """The full name of a model that the list may not have. Raises what is wrong with it, as far as can be known unasked."""
        ...

    @property
    def default_model(self) -> str: ...

    async def threads(self, search: str = "", limit: int = 50) -> Sequence[ThreadRecord]:
        """Newest first; with `search`, those whose title or messages hold the text."""
        ...

    async def thread(self, thread_id: str) -> ThreadRecord: ...
    async def items(self, thread_id: str) -> Sequence[ThreadItem]: ...

    async def runs(self, thread_id: str) -> Sequence[RunRecord]: ...

    def send(
        self,
        text: str,
        *,
        agent: str,
        model: str | None,
        thread_id: str | None,
        attachments: Sequence[Mapping[str, Json]],
    ) -> AsyncIterator[Event]: ...

    def decide(self, run_id: str, decisions: Mapping[str, Mapping[str, Json]]) -> AsyncIterator[Event]: ...

    def answer_client_tool(self, thread_id: str, call_id: str, output: Json) -> AsyncIterator[Event]:
        """Tell the agent what the view did for it, and run on."""
        ...

    async def cancel(self, run_id: str) -> None: ...
    async def rename(self, thread_id: str, title: str) -> None: ...
    async def delete(self, thread_id: str) -> None: ...

    async def attach(self, name: str, mime_type: str, content: bytes) -> Mapping[str, Json]:
        """Keep a file and describe it: `{"id", "name", "mime_type", "size"}`."""
        ...

    async def branch(self, thread_id: str, before_item_id: str, goes_on: str = "") -> ThreadRecord:
        """A new thread that holds what came before that item, for the reader and for the model. It has the title of the old one, or,
        as a thread has that of its first message, that of the message which it goes on with."""
        ...

    def widget(self, output: Json) -> Mapping[str, Json] | None:
        """How a tool's result looks, for those that have a look: `{"root": widget JSON, "copy_text": str}`."""
        ...

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call back with a thread's id after something in it changed, from any process. Returns what ends it."""
        ...
