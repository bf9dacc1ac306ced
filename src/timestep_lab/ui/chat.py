"""`Chat`: one conversation with the agents of a lab, live in a cell or in a served page.

The truth is the store. What a reader sees is a copy of the thread's items, kept in step by the events of a run that was started here
and, for all that happens elsewhere (a second tab, another process, an approval given on another page), by reading the
thread again when the store says that it changed. So nothing is lost by a reload or a restarted kernel.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from timestep_lab.types.errors import ConflictError, LabError
from timestep_lab.types.events import (
    AgentUpdated,
    Event,
    ItemAdded,
    ItemDone,
    ItemReplaced,
    ItemUpdated,
    RunEnded,
    RunFailed,
    RunStarted,
    ThreadCreated,
)
from timestep_lab.types.records import Json, RunRecord, ThreadItem, ThreadRecord
from timestep_lab.types.transcript import transcript
from timestep_lab.ui.chat_rows import item_json, run_json, thread_row, twin_row
from timestep_lab.ui.chat_source import AgentChoice, ChatSource
from timestep_lab.ui.view import Theme, View, handles

if TYPE_CHECKING:
    import pandas

EXAMPLES = (
    "What's the weather in Oakland?",
    "What's the weather in Berkeley, and do I need an umbrella?",
    "Switch to the dark theme, please.",
)
Items = dict[str, ThreadItem]


class Chat(View):
    """`on_trace(trace_id)` is called when a reader asks for an answer's trace; `trace_base` makes it a link instead."""

    stem: ClassVar[str] = "chat"

    def __init__(
        self,
        source: ChatSource,
        *,
        agent: str = "Personal Assistant",
        model: str | None = None,
        thread_id: str | None = None,
        trace_base: str | None = None,
        on_trace: Callable[[str], None] | None = None,
        on_thread: Callable[[str | None], None] | None = None,
        on_theme: Callable[[str], None] | None = None,
        theme: Theme = "auto",
        height: int | None = None,
    ) -> None:
        super().__init__(theme=theme, height=height)
        self._source = source
        self._agent, self._model = agent, model
        self._thread_id, self._thread = thread_id, None
        self._trace_base, self._on_trace = trace_base, on_trace
        self._on_thread, self._on_theme = on_thread, on_theme
        self._items: Items = {}
        self._runs: dict[str, RunRecord] = {}
        self._agents: Sequence[AgentChoice] = ()
        self._models: Sequence[str] = ()
        self._threads: Sequence[ThreadRecord] = ()
        self._search = ""
        self._turn: asyncio.Task[None] | None = None
        self._run_id: str | None = None
        self._loaded: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._stale = False

    _thread: ThreadRecord | None

    # -- for people in Python

    @property
    def thread_id(self) -> str | None:
        return self._thread_id

    @property
    def busy(self) -> bool:
        return self._turn is not None and not self._turn.done()

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

    # -- what a browser is given

    def snapshot(self) -> Json:
        if self._loaded is None and self._loop is not None:
            self._loaded = self._loop.create_task(self._load())
        return {
            "thread": self._thread_json(),
            "items": [item_json(item) for item in self._items.values()],
            "runs": [run_json(run) for run in self._runs.values()],
            "busy": self.busy,
            **self._head(),
            "threads": [thread_row(thread) for thread in self._threads],
            "trace_base": self._trace_base,
            "examples": list(EXAMPLES),
            "hint": self._hint(),
        }

    def _head(self) -> dict[str, Json]:
        return {
            "agent": self._agent,
            "model": self._model,
            "agents": [{"name": agent.name, "model": agent.model} for agent in self._agents],
            "models": list(self._models),
            "default_model": self._source.default_model,
            "thread": self._thread_json(),
        }

    def _hint(self) -> str:
        if self._source.default_model.startswith("demo/"):
            return (
                "No key is set, so demo/assistant answers: it follows simple rules, really calls the tools, and is no "
                "language model. Set a provider's key, or start Ollama, for a real one."
            )
        return f"{self._source.default_model} answers."

    def twin_html(self) -> str:
        rows = "".join(twin_row(item) for item in self._items.values())
        title = html.escape((self._thread.title if self._thread else None) or "Conversation")
        return f"<h4>{title}</h4><table><tbody>{rows or '<tr><td>Nothing was said yet.</td></tr>'}</tbody></table>"

    def merge(self, last: dict[str, Json], op: dict[str, Json]) -> bool:
        if op["kind"] == "delta" == last["kind"] and op["id"] == last["id"]:
            last["delta"] += op["delta"]
            return True
        return False

    def watched(self, now: bool) -> None:
        if now and self._unsubscribe is None:
            self._unsubscribe = self._source.subscribe(self._changed_elsewhere)
        elif not now and self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    # -- reading the store

    async def _ensure_loaded(self) -> None:
        if self._loaded is None:
            self._loaded = asyncio.ensure_future(self._load())
        await self._loaded

    async def _load(self) -> None:
        self._agents = await self._source.agents()
        self._models = await self._source.models()
        self._threads = await self._source.threads()
        if self._thread_id is not None:
            await self._read_thread()
        self._redraw()

    async def _read_thread(self) -> None:
        assert self._thread_id is not None
        self._thread = await self._source.thread(self._thread_id)
        self._items = {item.id: item for item in await self._source.items(self._thread_id)}
        self._runs = {run.id: run for run in await self._source.runs(self._thread_id)}
        waiting = [run for run in self._runs.values() if run.status == "running"]
        self._run_id = waiting[-1].id if waiting else None

    def _redraw(self) -> None:
        """Give every browser a new snapshot: for a change that is more than an item."""
        with self._lock:
            self._ops.clear()
            self._seq += 2  # A gap in the numbers makes browsers pull.
        self.emit({"kind": "busy", "value": self.busy})
        self.refresh_twin()

    def _changed_elsewhere(self, thread_id: str) -> None:
        """On the store's thread. Changes come in bursts: one reading answers them all."""
        if self._loop is None or self._stale or thread_id not in ("", self._thread_id):
            return
        self._stale = True
        self._loop.call_soon_threadsafe(lambda: self._background(self._catch_up()))

    async def _catch_up(self) -> None:
        await asyncio.sleep(0.15)
        self._stale = False
        if self.busy or self._thread_id is None:
            return
        for item in await self._source.items(self._thread_id):
            if self._items.get(item.id) != item:
                self._put(item)
        for run in await self._source.runs(self._thread_id):
            if self._runs.get(run.id) != run:
                self._put_run(run)

    # -- what people do

    @handles("send")
    async def _send(self, text: str, attachments: list[dict[str, Json]]) -> None:
        self._refuse_while_busy()
        text = text.strip()
        if text or attachments:
            self._start(
                self._source.send(
                    text, agent=self._agent, model=self._model, thread_id=self._thread_id, attachments=attachments
                )
            )

    @handles("decide")
    async def _decide(self, run_id: str, call_id: str, decision: str, message: str = "", always: bool = False) -> None:
        self._refuse_while_busy()
        chosen = {call_id: {"decision": decision, "message": message, "always": always}}
        self._start(self._source.decide(run_id, chosen))

    @handles("stop")
    async def _stop(self) -> None:
        if self._run_id is not None:
            await self._source.cancel(self._run_id)

    @handles("edit")
    async def _edit(self, item_id: str, text: str, attachments: list[dict[str, Json]]) -> None:
        """The edited message begins a branch, so that what was said stays as it was."""
        self._refuse_while_busy()
        assert self._thread_id is not None
        branch = await self._source.branch(self._thread_id, item_id)
        await self._open(branch.id)
        await self._send(text, attachments)

    @handles("retry")
    async def _retry(self, item_id: str) -> None:
        """Ask the message before `item_id` again, in a branch."""
        items = list(self._items.values())
        at = next((n for n, item in enumerate(items) if item.id == item_id), len(items))
        asked = next((item for item in reversed(items[:at]) if item.type == "user_message"), None)
        if asked is None:
            raise ConflictError("There is no message before this answer.", "Write the message again.")
        await self._edit(asked.id, str(asked.data.get("text", "")), list(asked.data.get("attachments", [])))

    @handles("attach")
    async def _attach(self, name: str, mime_type: str, buffers: list[bytes]) -> Mapping[str, Json]:
        return await self._source.attach(name, mime_type, buffers[0])

    @handles("open")
    async def _open(self, thread_id: str) -> None:
        self._refuse_while_busy()
        self._thread_id = thread_id
        await self._read_thread()
        last = next((i.agent for i in reversed(list(self._items.values())) if i.agent), None)
        if last is not None and any(agent.name == last for agent in self._agents):
            self._agent = last
        self._threads = await self._source.threads(self._search)
        self._redraw()
        if self._on_thread:
            self._on_thread(thread_id)

    @handles("fresh")
    async def _fresh(self) -> None:
        self._refuse_while_busy()
        self._thread_id = self._thread = None
        self._items, self._runs = {}, {}
        self._redraw()
        if self._on_thread:
            self._on_thread(None)

    @handles("rename")
    async def _rename(self, thread_id: str, title: str) -> None:
        await self._source.rename(thread_id, title)
        await self._tell_threads()

    @handles("remove")
    async def _remove(self, thread_id: str) -> None:
        if thread_id == self._thread_id:
            await self._fresh()
        await self._source.delete(thread_id)
        await self._tell_threads()

    @handles("search")
    async def _search_threads(self, text: str) -> None:
        self._search = text
        await self._tell_threads()

    @handles("choose")
    async def _choose(self, agent: str | None = None, model: str | None = None) -> None:
        if agent is not None:
            self._agent = agent
        if model is not None:
            self._model = model or None
        self.emit({"kind": "head", **self._head()})

    @handles("trace")
    async def _trace(self, trace_id: str) -> None:
        if self._on_trace:
            self._on_trace(trace_id)

    @handles("act")
    async def _act(self, item_id: str, action: dict[str, Json]) -> None:
        raise ConflictError("This button is for ChatKit clients.", "Write what you want to the agent instead.")

    # -- a turn

    def _refuse_while_busy(self) -> None:
        if self.busy:
            raise ConflictError("The agent is still answering.", "Wait, or press Stop.")

    def _start(self, events: AsyncIterator[Event]) -> None:
        self._turn = asyncio.ensure_future(self._follow(events))
        self.emit({"kind": "busy", "value": True})

    async def _follow(self, events: AsyncIterator[Event]) -> None:
        pending: ThreadItem | None = None
        try:
            async for event in events:
                item = self._apply(event)
                if item is not None and item.type == "client_tool_call" and item.data.get("status") == "pending":
                    pending = item
        except LabError as error:
            self.emit({"kind": "notice", "message": error.message, "next_step": error.next_step})
        finally:
            self._turn = None
            self.emit({"kind": "busy", "value": False})
            self.refresh_twin()
        if pending is not None:
            self._background(self._do_for_agent(pending))
        self._background(self._tell_threads())

    def _apply(self, event: Event) -> ThreadItem | None:
        """Bring this copy in step with one event; the item it was about, if any."""
        if isinstance(event, ThreadCreated):
            self._thread, self._thread_id = event.thread, event.thread.id
            self.emit({"kind": "head", **self._head()})
            if self._on_thread:
                self._on_thread(event.thread.id)
        elif isinstance(event, RunStarted):
            self._run_id = event.run.id
            self._thread_id = event.run.thread_id
        elif isinstance(event, ItemAdded | ItemDone | ItemReplaced):
            self._put(event.item)
            return event.item
        elif isinstance(event, ItemUpdated):
            self._grow(event)
        elif isinstance(event, AgentUpdated) and event.previous is not None:
            self._agent = event.agent
            self.emit({"kind": "head", **self._head()})
        elif isinstance(event, RunEnded):
            self._run_id = None
            self._put_run(event.run)
            if isinstance(event, RunFailed):
                self.emit({"kind": "notice", **{k: event.error.get(k, "") for k in ("message", "next_step")}})
        return None

    def _put(self, item: ThreadItem) -> None:
        self._items[item.id] = item
        self.emit({"kind": "item", "item": item_json(item)})
        self.refresh_twin()

    def _put_run(self, run: RunRecord) -> None:
        self._runs[run.id] = run
        self.emit({"kind": "run", "run": run_json(run)})

    def _grow(self, event: ItemUpdated) -> None:
        item = self._items.get(event.item_id)
        if item is None:
            return
        grown = str(item.data.get(event.field) or "") + event.delta
        self._items[item.id] = replace(item, data={**item.data, event.field: grown})
        self.emit({"kind": "delta", "id": event.item_id, "field": event.field, "delta": event.delta})

    async def _do_for_agent(self, item: ThreadItem) -> None:
        """A client tool: something only a view can do. `switch_theme` is the one there is."""
        output: dict[str, Json] = {"error": f"This view has no tool {item.data.get('name')!r}."}
        if item.data.get("name") == "switch_theme":
            theme = dict(item.data.get("arguments") or {}).get("theme")
            if theme in ("light", "dark"):
                self.theme = theme
                self.emit({"kind": "theme", "theme": theme})
                if self._on_theme:
                    self._on_theme(theme)
                output = {"theme": theme, "result": "done"}
        assert self._thread_id is not None
        self._start(self._source.answer_client_tool(self._thread_id, str(item.data["call_id"]), output))

    async def _tell_threads(self) -> None:
        self._threads = await self._source.threads(self._search)
        if self._thread_id is not None and any(t.id == self._thread_id for t in self._threads):
            self._thread = next(t for t in self._threads if t.id == self._thread_id)
            self.emit({"kind": "head", **self._head()})
        rows = [thread_row(thread) for thread in self._threads]
        self.emit({"kind": "threads", "threads": rows, "thread_id": self._thread_id})

    def _background(self, work: Any) -> None:
        async def guarded() -> None:
            try:
                await work
            except LabError as error:
                self.emit({"kind": "notice", "message": error.message, "next_step": error.next_step})

        task = asyncio.ensure_future(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _thread_json(self) -> Json:
        return thread_row(self._thread) if self._thread else None
