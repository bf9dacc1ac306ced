"""`Chat`: a conversation with an agent, live in a notebook cell or a served page.

The store is the source of truth. A view shows a copy of the thread's items, updated by the events of a run that was
started here and, for everything else (a second tab, another process, an approval on another page), by reading the
thread again when the store announces a change. So nothing is lost by a reload or a kernel restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from timestep_lab.model.codec import Json
from timestep_lab.model.display import transcript
from timestep_lab.model.errors import ConflictError
from timestep_lab.ui.chat_state import Conversation
from timestep_lab.ui.view import handles

if TYPE_CHECKING:
    import pandas


ASKED_S = 10.0
"""Time in seconds that a decision waits for the turn that requested it to pause."""


class Chat(Conversation):
    """A chat, shown as the last line of a cell or with `.panel()` in a served page.

    `on_trace(trace_id)` is called when a reader asks for an answer's trace; `trace_base` makes it a link instead.
    `on_thread(id)` is called with the open conversation, `on_theme(name)` when an agent switches the theme.

    Example:
        chat = lab.chat(agent="Weather Assistant", model="demo/assistant")
        assert isinstance(chat, Chat)
    """

    # -- Python API

    @property
    def thread_id(self) -> str | None:
        """Id of the conversation shown; None if it has not started."""
        return self._thread_id

    def transcript(self) -> str:
        """The conversation as Markdown, as far as this view has read it."""
        return transcript(self._items.values(), self._thread.title if self._thread else None)

    def df(self) -> pandas.DataFrame:
        """One row per item: item_index, type, agent, text, created_at, trace_id, item_id."""
        import pandas

        columns = ["item_index", "type", "agent", "text", "created_at", "trace_id", "item_id"]
        rows = [
            (i.item_index, i.type, i.agent, i.data.get("text"), i.created_at, i.trace_id, i.id)
            for i in self._items.values()
        ]
        return pandas.DataFrame.from_records(rows, columns=columns)

    async def ask(self, text: str) -> str:
        """Send a message, wait for the end of the turn, and return the text of the answer."""
        await self._ensure_loaded()
        await self._send(text=text, attachments=[])
        if self._turn is not None:
            await self._turn
        answers = [i for i in self._items.values() if i.type == "assistant_message"]
        return str(answers[-1].data.get("text", "")) if answers else ""

    # -- user actions

    @handles("send")
    async def _send(self, text: str, attachments: list[dict[str, Json]]) -> None:
        """Send a message; returns once it is stored. Raises `ConflictError` while a run is active in the conversation."""
        self._refuse_while_following()
        await self._ensure_loaded()  # It is sent to the conversation's agent.
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
        if (
            self._turn is not None and not self._turn.done()
        ):  # The turn has just asked for the decision and is about to end.
            await asyncio.wait({self._turn}, timeout=ASKED_S)
        self._refuse_while_following()
        chosen: dict[str, dict[str, Json]] = {
            call_id: {"decision": decision, "message": message, "always": always, "answer": answer}
        }
        await self._start(self._source.decide(run_id, chosen))

    @handles("stop")
    async def _stop(self) -> None:
        if self._running is not None:
            await self._source.cancel(self._running.id)

    @handles("edit")
    async def _edit(self, item_id: str, text: str, attachments: list[dict[str, Json]]) -> None:
        """Edit a message. The edited message starts a branch, so the original is kept."""
        await self._send_in_branch(item_id, text, attachments, title_of=text)

    @handles("retry")
    async def _retry(self, item_id: str) -> None:
        """Repeat the user message before (or at) `item_id`, in a branch."""
        items = list(self._items.values())
        at = next((n for n, item in enumerate(items) if item.id == item_id), len(items))
        asked = next((item for item in reversed(items[: at + 1]) if item.type == "user_message"), None)
        if asked is None:
            raise ConflictError("There is no message before this answer.", "Send the message again.")
        attachments = cast("list[dict[str, Json]]", asked.data.get("attachments", []))
        await self._send_in_branch(asked.id, str(asked.data.get("text", "")), list(attachments))

    async def _send_in_branch(
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
        """Rename a conversation. An empty title changes nothing: an unnamed conversation would be hard to find."""
        if title.strip():
            await self._source.rename(thread_id, title)
        await self._send_threads()

    @handles("remove")
    async def _remove(self, thread_id: str) -> None:
        if thread_id == self._thread_id:
            await self._fresh()
        await self._source.delete(thread_id)
        await self._send_threads()

    @handles("list")
    async def _show_list(self, shown: bool) -> None:
        """Follow the list of conversations while the browser shows it."""
        self._shows_list = shown
        if shown:
            self._search = ""
            await self._send_threads()

    @handles("search")
    async def _search_threads(self, text: str) -> None:
        self._search = text
        await self._send_threads()

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
        raise ConflictError("This button is for ChatKit clients.", "Send the agent a message instead.")
