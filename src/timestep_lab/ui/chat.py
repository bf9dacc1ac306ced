"""`Chat`: one conversation with the agents of a lab, live in a cell or in a served page.

The truth is the store. What a reader sees is a copy of the thread's items, kept in step by the events of a run that was started here
and, for all that happens elsewhere (a second tab, another process, an approval given on another page), by reading the
thread again when the store says that it changed. So nothing is lost by a reload or a restarted kernel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from timestep_lab.model.display import transcript
from timestep_lab.model.errors import ConflictError
from timestep_lab.model.records import Json
from timestep_lab.ui.chat_state import Conversation
from timestep_lab.ui.view import handles

if TYPE_CHECKING:
    import pandas


ASKED_S = 10.0
"""How long a decision may wait for the turn that asked for it to pause."""


class Chat(Conversation):
    """A chat to show as the last line of a cell, or with `.panel()` in a served page.

    `on_trace(trace_id)` is called when a reader asks for an answer's trace; `trace_base` makes it a link instead. `on_thread(id)`
    tells which conversation is open, `on_theme(name)` that an agent switched the theme.

    Example:
        chat = lab.chat(agent="Weather Assistant", model="demo/assistant")
        assert isinstance(chat, Chat)
    """

    # -- for people in Python

    @property
    def thread_id(self) -> str | None:
        """Id of the conversation shown; None for one that has not begun."""
        return self._thread_id

    def transcript(self) -> str:
        """The conversation as Markdown, as far as this view has read it."""
        return transcript(self._items.values(), self._thread.title if self._thread else None)

    def df(self) -> pandas.DataFrame:
        """One row an item: item_index, type, agent, text, created_at, trace_id, item_id."""
        import pandas

        columns = ["item_index", "type", "agent", "text", "created_at", "trace_id", "item_id"]
        rows = [
            (i.item_index, i.type, i.agent, i.data.get("text"), i.created_at, i.trace_id, i.id)
            for i in self._items.values()
        ]
        return pandas.DataFrame.from_records(rows, columns=columns)

    async def ask(self, text: str) -> str:
        """Send a message as if it had been typed, wait for the end of the turn, and return the answer's text."""
        await self._ensure_loaded()
        await self._send(text=text, attachments=[])
        if self._turn is not None:
            await self._turn
        answers = [i for i in self._items.values() if i.type == "assistant_message"]
        return str(answers[-1].data.get("text", "")) if answers else ""

    # -- what people do

    @handles("send")
    async def _send(self, text: str, attachments: list[dict[str, Json]]) -> None:
        """Answers once the message is stored. Raises `ConflictError` while a run goes on in the conversation."""
        self._refuse_while_following()
        await self._ensure_loaded()  # It goes to the agent that the conversation has.
        text = text.strip()
        if text or attachments:
            await self._start(
                self._source.send(
                    text,
                    agent=self._agent,
                    model=self._model,
                    thread_id=self._thread_id,
                    attachments=attachments,
                    draft=self.draft,
                )
            )

    @handles("decide")
    async def _decide(
        self, run_id: str, call_id: str, decision: str, message: str = "", always: bool = False, answer: Mapping[str, Json] | None = None
    ) -> None:  # fmt: skip
        if self._turn is not None and not self._turn.done():  # It has just asked, and what is left of it ends now.
            await asyncio.wait({self._turn}, timeout=ASKED_S)
        self._refuse_while_following()
        chosen = {call_id: {"decision": decision, "message": message, "always": always, "answer": answer}}
        await self._start(self._source.decide(run_id, chosen))

    @handles("stop")
    async def _stop(self) -> None:
        if self._running is not None:
            await self._source.cancel(self._running.id)

    @handles("edit")
    async def _edit(self, item_id: str, text: str, attachments: list[dict[str, Json]]) -> None:
        """The edited message begins a branch, so that what was said stays as it was."""
        await self._say_in_branch(item_id, text, attachments, title_of=text)

    @handles("retry")
    async def _retry(self, item_id: str) -> None:
        """Ask the message that led to `item_id`, or is it, again, in a branch."""
        items = list(self._items.values())
        at = next((n for n, item in enumerate(items) if item.id == item_id), len(items))
        asked = next((item for item in reversed(items[: at + 1]) if item.type == "user_message"), None)
        if asked is None:
            raise ConflictError("There is no message before this answer.", "Write the message again.")
        text, attachments = str(asked.data.get("text", "")), list(asked.data.get("attachments", []))
        await self._say_in_branch(asked.id, text, attachments)

    async def _say_in_branch(
        self, item_id: str, text: str, attachments: list[dict[str, Json]], title_of: str = ""
    ) -> None:
        self._refuse_while_following()
        assert self._thread_id is not None
        branch = await self._source.branch(self._thread_id, item_id, title_of)
        await self._open(branch.id)
        await self._send(text, attachments)

    @handles("attach")
    async def _attach(self, name: str, mime_type: str, buffers: list[bytes]) -> Mapping[str, Json]:
        return await self._source.attach(name, mime_type, buffers[0])

    @handles("open")
    async def _open(self, thread_id: str) -> None:
        self._refuse_while_following()
        self._thread_id = thread_id
        await self._read_thread()
        await self._read_threads()
        if thread_id != self._thread_id:
            return  # Another conversation was opened meanwhile.
        self._go_on_with_agent()
        self._redraw()
        if self._on_thread:
            self._on_thread(thread_id)

    @handles("fresh")
    async def _fresh(self) -> None:
        self._refuse_while_following()
        self._thread_id = self._thread = self._running = None
        self._items, self._runs = {}, {}
        self._redraw()
        if self._on_thread:
            self._on_thread(None)

    @handles("rename")
    async def _rename(self, thread_id: str, title: str) -> None:
        """An empty title changes nothing: a conversation without a name is not to be found again."""
        if title.strip():
            await self._source.rename(thread_id, title)
        await self._tell_threads()

    @handles("remove")
    async def _remove(self, thread_id: str) -> None:
        if thread_id == self._thread_id:
            await self._fresh()
        await self._source.delete(thread_id)
        await self._tell_threads()

    @handles("list")
    async def _show_list(self, shown: bool) -> None:
        """The list of conversations is followed while the browser shows it."""
        self._shows_list = shown
        if shown:
            self._search = ""
            await self._tell_threads()

    @handles("search")
    async def _search_threads(self, text: str) -> None:
        self._search = text
        await self._tell_threads()

    @handles("choose")
    async def _choose(self, agent: str | None = None, model: str | None = None) -> None:
        if model is not None:
            is_latest = self._model_choices.ask()
            if model and model not in self._models:
                model = await self._source.check_model(model)
            if is_latest():
                self._model = model or None
        if agent is not None:
            self._agent = agent
        self.emit({"kind": "head", **self._head()})

    @handles("trace")
    async def _trace(self, trace_id: str) -> None:
        if self._on_trace:
            self._on_trace(trace_id)

    @handles("act")
    async def _act(self, item_id: str, action: dict[str, Json]) -> None:
        raise ConflictError("This button is for ChatKit clients.", "Write what you want to the agent instead.")
