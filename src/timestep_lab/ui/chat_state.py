"""The state of a displayed conversation, and how the store and a running turn change it. `ui/chat.py` adds user actions."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Protocol, cast

from timestep_lab.model.codec import Json
from timestep_lab.model.display import cost_text, duration_text, tokens_text, transcript_line
from timestep_lab.model.errors import ConflictError, LabError
from timestep_lab.model.events import (
    Event,
    ItemAdded,
    ItemDone,
    ItemReplaced,
    ItemUpdated,
    RunEnded,
    RunFailed,
    RunStarted,
    RunStopped,
    ThreadCreated,
)
from timestep_lab.model.records import RunRecord, ThreadItem, ThreadRecord
from timestep_lab.service.runs import DEFAULT_AGENT
from timestep_lab.service.threads import ThreadPage
from timestep_lab.store.base import in_event_loop
from timestep_lab.ui.view import LatestOnly, Updates, View, of_any_loop

if TYPE_CHECKING:
    from timestep_lab.ui.view import Theme


# --- A conversation as rows, for the browser and for the static copy


Widget = Mapping[str, Json]
"""`{"root": a ChatKit widget's JSON, "copy_text": str}`."""


def item_json(item: ThreadItem, widget: Widget | None = None) -> dict[str, Json]:
    shown: dict[str, Json] = {"widget": dict(widget)} if widget else {}
    return {
        **shown, "id": item.id, "type": item.type, "data": dict(item.data), "agent": item.agent, "run_id": item.run_id,
    }  # fmt: skip


def thread_row(thread: ThreadRecord, run: RunRecord | None = None) -> dict[str, Json]:
    """A thread as a list row. `run`: the newest run of the thread."""
    state = {"agent": run.agent, "status": run.status} if run else {"agent": None, "status": None}
    return {"id": thread.id, "title": thread.title, "at": thread.updated_at.timestamp() * 1000, **state}


def _sums(run: RunRecord) -> tuple[float | None, int | None, float | None]:
    """Duration in ms, tokens and cost of a run; None where unknown."""
    tokens = run.usage.input_tokens + run.usage.output_tokens or None  # Usage of a stopped run was never reported.
    duration = (run.ended_at - run.started_at).total_seconds() * 1000 if run.ended_at else None
    return duration, tokens, run.cost_usd if tokens else None


def run_json(run: RunRecord) -> dict[str, Json]:
    duration, tokens, cost = _sums(run)
    return {
        "id": run.id, "status": run.status, "model": run.model, "duration_ms": duration, "ttft_ms": run.ttft_ms,
        "tokens": tokens, "cost_usd": cost, "trace_id": run.trace_id,
    }  # fmt: skip


def run_facts(run: RunRecord) -> str:
    """The line of facts under an answer, for the static copy."""
    duration, tokens, cost = _sums(run)
    return " · ".join(filter(None, (run.model, duration_text(duration), tokens_text(tokens), cost_text(cost))))


def static_row(item: ThreadItem) -> str:
    data, who, text = item.data, "", ""
    if item.type == "user_message":
        who, text = "You", str(data.get("text", ""))
    elif item.type == "assistant_message":
        who, text = item.agent or "Assistant", str(data.get("text", ""))
    else:
        text = transcript_line(item).replace("`", "").removeprefix("- ")
    if not text:
        return ""
    body = html.escape(text).replace("\n", "<br>")
    return (
        f'<tr><td style="vertical-align:top;text-align:left"><b>{html.escape(who)}</b></td>'
        f'<td style="text-align:left">{body}</td></tr>'
    )


def static_copy(thread: ThreadRecord | None, items: Iterable[ThreadItem]) -> str:
    """The conversation as an HTML table."""
    rows = "".join(static_row(item) for item in items)
    title = html.escape((thread.title if thread else None) or "Conversation")
    return f"<h4>{title}</h4><table><tbody>{rows or '<tr><td>Nothing was said yet.</td></tr>'}</tbody></table>"


# --- The data source of a chat; see `lab/serving.py`


@dataclass(frozen=True, slots=True)
class AgentChoice:
    name: str
    model: str | None
    """None: the lab's default model."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An unsaved agent; fields as in `agents.draft`."""

    fields: dict[str, Json]
    is_new: bool = False
    """Whether it is a new agent, not a saved one with changes."""


class ChatSource(Protocol):
    """The data source of a chat. Methods raise the errors of `model.errors`; the chat shows their message and next step."""

    async def agents(self) -> Sequence[AgentChoice]: ...

    async def models(self) -> Sequence[str]:
        """Models to choose from: those of providers that are ready."""
        ...

    async def check_model(self, name: str) -> str:
        """The full name of a model that may not be in the list. Raises an error if it is known to be invalid, without
        calling the provider.
        """
        ...

    @property
    def default_model(self) -> str: ...

    async def threads(self, search: str = "", limit: int = 50) -> ThreadPage:
        """Threads, newest first, with the newest run of each; with `search`, those whose title or messages contain the
        text.
        """
        ...

    def read_now(self, thread_id: str) -> tuple[ThreadRecord, Sequence[ThreadItem]]:
        """The thread and its items, for a static copy. Blocks."""
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
        draft: Draft | None = None,
    ) -> AsyncIterator[Event]: ...

    def decide(self, run_id: str, decisions: Mapping[str, Mapping[str, Json]]) -> AsyncIterator[Event]: ...

    def answer_client_tool(self, thread_id: str, call_id: str, output: Json) -> AsyncIterator[Event]:
        """Return the result of a client tool to the agent and continue the run."""
        ...

    async def cancel(self, run_id: str) -> None: ...
    async def rename(self, thread_id: str, title: str) -> None: ...
    async def delete(self, thread_id: str) -> None: ...

    async def attach(self, name: str, mime_type: str, content: bytes) -> Mapping[str, Json]:
        """Store a file and describe it: `{"id", "name", "mime_type", "size"}`."""
        ...

    async def branch(self, thread_id: str, before_item_id: str, goes_on: str = "") -> ThreadRecord:
        """A new thread with everything before that item, for the reader and for the model. Its title is that of the old
        thread, or if the old title came from its first message, that of the message it continues with."""
        ...

    def widget(self, output: Json) -> Mapping[str, Json] | None:
        """The widget for a tool's result, if it has one: `{"root": widget JSON, "copy_text": str}`."""
        ...

    def subscribe(self, callback: Callable[[str], None], listed: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` with a thread's id after it changed, in any process, and `listed` after a change to what a
        list of threads shows. Returns a function that unsubscribes."""
        ...


KEYLESS = "demo/assistant"
FOLLOW_S = 1.0
"""Polling interval in seconds for a run of another page or process, in addition to change notifications."""
WEATHER = ("What's the weather in Oakland?", "What's the weather in Berkeley, and do I need an umbrella?")
STARTERS = {
    "Personal Assistant": (*WEATHER, "Switch to the dark theme, please."),
    "Weather Assistant": (*WEATHER, "What's the temperature in Paris?"),
}
"""Suggested first questions for an agent."""
OTHER_STARTERS = ("What can you help me with?", "Which tools do you have, and what is each for?")


class Conversation(View):
    """The state of a chat. `on_trace(trace_id)` is called when a reader asks for an answer's trace; `trace_base` makes
    it a link instead.

    Without `agent` and `model`, an existing conversation continues with those of its last run.
    """

    stem: ClassVar[str] = "chat"

    def __init__(
        self,
        source: ChatSource,
        *,
        agent: str | None = None,
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
        self._agent, self._model = agent or DEFAULT_AGENT, model
        self._names_agent = agent is not None
        self._agent_is_given = agent is not None or model is not None
        self._thread_id, self._thread = thread_id, None
        self._trace_base, self._on_trace = trace_base, on_trace
        self._on_thread, self._on_theme = on_thread, on_theme
        self._items: dict[str, ThreadItem] = {}
        self._runs: dict[str, RunRecord] = {}
        self.draft: Draft | None = None
        """An unsaved agent that answers instead of the saved one."""
        self._agents: Sequence[AgentChoice] = ()
        self._models: Sequence[str] = ()
        self._model_choices = LatestOnly()
        self._threads = ThreadPage(data=[], has_more=False, after=None, total=None)
        self._sent_rows: list[Json] = []
        self._shows_list = False
        self._lists = Updates(self, self._list_again)
        self._search = ""
        self._turn: asyncio.Task[None] | None = None
        self._running: RunRecord | None = None
        self._loaded: asyncio.Task[None] | None = None
        self._is_loaded = False
        self._unsubscribe: Callable[[], None] | None = None
        self._stale = False

    _thread: ThreadRecord | None

    # -- state sent to browsers

    @property
    def busy(self) -> bool:
        """Whether a run is active in this conversation, started by any page or process."""
        return self._is_following() or self._running is not None

    def _is_following(self) -> bool:
        """Whether this view receives the events of a run, so it need not read the thread again."""
        return self._turn is not None and not self._turn.done()

    def _running_json(self) -> Json:
        """The active run: its agent, model, and start time (ms since 1970)."""
        run = self._running
        if run is None:
            return None
        return {"agent": run.last_agent or run.agent, "model": run.model, "since": run.started_at.timestamp() * 1000}

    def _send_activity(self) -> None:
        self.emit({"kind": "busy", "value": self.busy, "run": self._running_json()})

    def snapshot(self) -> Json:
        if self._loaded is None and self._loop is not None and in_event_loop():
            self._loaded = asyncio.get_running_loop().create_task(self._load())
            self._loaded.add_done_callback(self._loading_ended)
        return {
            "thread": self._thread_json(),
            "items": [self._item_json(item) for item in self._items.values()],
            "runs": [run_json(run) for run in self._runs.values()],
            "thread_id": self._thread_id,
            "loaded": self._is_loaded,
            "busy": self.busy,
            "run": self._running_json(),
            **self._head(),
            "threads": self._rows(),
            "trace_base": self._trace_base,
        }

    def _head(self) -> dict[str, Json]:
        return {
            "agent": self._agent,
            "model": self._model,
            "agents": [{"name": agent.name, "model": agent.model} for agent in self._agents],
            "models": list(self._models),
            "default_model": self._source.default_model,
            "thread": self._thread_json(),
            "examples": self._examples(),
            "hint": self._hint(),
        }

    def _chosen_model(self) -> str | None:
        """The model chosen here or for the agent; None for the default."""
        return self._model or next((agent.model for agent in self._agents if agent.name == self._agent), None)

    def _hint(self) -> str:
        model = self._chosen_model()
        if model is None and self._source.default_model == KEYLESS:
            return (
                f"No key is set, so {KEYLESS} answers: it follows simple rules and calls the tools, but is not a "
                "language model. Set a provider's key, or start Ollama, for a real one."
            )
        model = model or self._source.default_model
        return f"{model} answers{', by fixed rules: it is not a language model' if model.startswith('demo/') else ''}."

    def _examples(self) -> list[str]:
        model = self._chosen_model() or self._source.default_model
        calls_no_tools = model.startswith("demo/") and not model.startswith(KEYLESS)
        return list(OTHER_STARTERS if calls_no_tools else STARTERS.get(self._agent, OTHER_STARTERS))

    def static_html(self) -> str:
        if self._thread is None and self._thread_id is not None:  # Not loaded yet.
            return static_copy(*self._source.read_now(self._thread_id))
        return static_copy(self._thread, self._items.values())

    def merge(self, last: dict[str, Json], op: dict[str, Json]) -> bool:
        if op["kind"] == "delta" == last["kind"] and op["id"] == last["id"]:
            last["delta"] = f"{last['delta']}{op['delta']}"
            return True
        return False

    def watched(self, now: bool) -> None:
        if now and self._unsubscribe is None:
            self._unsubscribe = self._source.subscribe(self._changed_elsewhere, self._list_changed)
        elif not now and self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    # -- reading the store

    async def _ensure_loaded(self) -> None:
        if self._loaded is None:
            self._loaded = asyncio.ensure_future(self._load())
        await of_any_loop(self._loaded)

    async def _load(self) -> None:
        self._agents = await self._source.agents()
        if self._names_agent and self._agent not in [agent.name for agent in self._agents]:
            self._agents = [
                *self._agents,
                AgentChoice(self._agent, None),
            ]  # A specific version of an agent, or an agent given by id.
        self._models = await self._source.models()
        self._threads = await self._source.threads()
        if self._thread_id is not None:
            await self._read_thread()
            if not self._agent_is_given:
                self._go_on_with_agent()
        self._is_loaded = True
        self._redraw()

    def _loading_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LabError):
            self._loaded = None  # Tried again on the next change or poll.
            self.emit({"kind": "notice", "message": error.message, "next_step": error.next_step})
        else:
            self._finished(task)

    async def _read_thread(self) -> None:
        thread_id = self._thread_id
        assert thread_id is not None
        thread = await self._source.thread(thread_id)
        items, runs = await self._source.items(thread_id), await self._source.runs(thread_id)
        if thread_id != self._thread_id:
            return  # Another conversation was opened meanwhile.
        self._thread = thread
        self._items = {item.id: item for item in items}
        self._runs = {run.id: run for run in runs}
        self._note_running()

    def _note_running(self) -> None:
        """Determine the active run from the thread's runs, and poll while this view does not receive its events."""
        running = [run for run in self._runs.values() if run.status == "running"]
        self._running = running[-1] if running else None
        if self._running is not None and not self._is_following() and self._loop is not None:
            self.in_loop(partial(self._changed_elsewhere, self._running.thread_id), FOLLOW_S)

    def _go_on_with_agent(self) -> None:
        """Select the agent and model of the conversation's last run."""
        last = next(reversed(self._runs.values()), None)
        agent = next((agent for agent in self._agents if last is not None and agent.name == last.agent), None)
        if last is None or agent is None:  # No messages, or the agent is not one of the lab's.
            return
        self._agent = agent.name
        self._model = None if last.model in (agent.model, self._source.default_model) else last.model

    def _redraw(self) -> None:
        """Send every browser a new snapshot, after a change of more than one item."""
        with self._lock:
            self._ops.clear()
            self._seq += 2  # A gap in the sequence numbers makes browsers request a snapshot.
        self._send_activity()
        self.refresh_static()

    def _changed_elsewhere(self, thread_id: str) -> None:
        """Called on the store's thread. Changes come in bursts, and one read covers them all."""
        if self._loop is None or self._stale or thread_id not in ("", self._thread_id):
            return
        self._stale = True
        self._loop.call_soon_threadsafe(lambda: self._background(self._catch_up()))

    async def _catch_up(self) -> None:
        await asyncio.sleep(0.15)
        self._stale = False
        if self._loaded is None:
            self.snapshot()
            return
        if self._is_following() or self._thread_id is None:
            return
        was_running, thread_id = self._running, self._thread_id
        items, runs = await self._source.items(thread_id), await self._source.runs(thread_id)
        if thread_id != self._thread_id:
            return  # Another conversation was opened meanwhile.
        for item in items:
            if self._items.get(item.id) != item:
                self._put(item)
        for run in runs:
            if self._runs.get(run.id) != run:
                self._put_run(run)
        if self._is_following():  # A turn was started here while the thread was being read.
            return
        self._note_running()
        if self._running != was_running:
            self._send_activity()

    # -- a turn

    def _refuse_while_following(self) -> None:
        if self._is_following():
            raise ConflictError("The agent is still answering.", "Wait, or press Stop.")

    async def _start(self, events: AsyncIterator[Event]) -> None:
        """Follow a run in the background. Returns once it has started and its message is stored; raises if it did not start."""
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turn = asyncio.ensure_future(self._follow(events, begun))
        self._send_activity()
        await begun

    async def _follow(self, events: AsyncIterator[Event], begun: asyncio.Future[None]) -> None:
        pending: ThreadItem | None = None
        try:
            async for event in events:
                if not begun.done():
                    begun.set_result(None)
                item = self._apply(event)
                if item is not None and item.type == "client_tool_call" and item.data.get("status") == "pending":
                    pending = item
        except Exception as error:
            if not begun.done():
                begun.set_exception(error)
            elif isinstance(error, LabError):
                self.emit({"kind": "notice", "message": error.message, "next_step": error.next_step})
            else:
                raise
        finally:
            if not begun.done():
                begun.set_result(None)
            self._turn = self._running = None
            self._send_activity()
            self.refresh_static()
        if pending is not None:
            self._background(self._do_for_agent(pending))
        if self._shows_list:
            self._lists.soon()  # The change that the store announces asks for the same: it is read once.
        elif self._thread_id is not None:
            self._background(self._send_title(self._thread_id))

    def _apply(self, event: Event) -> ThreadItem | None:
        """Apply an event to this copy; returns the affected item, if any."""
        if isinstance(event, ThreadCreated):
            self._thread, self._thread_id = event.thread, event.thread.id
            self.emit({"kind": "head", **self._head()})
            if self._on_thread:
                self._on_thread(event.thread.id)
        elif isinstance(event, RunStarted):
            self._running = event.run
            self._thread_id = event.run.thread_id
            self._send_activity()
        elif isinstance(event, ItemAdded | ItemDone | ItemReplaced):
            self._put(event.item)
            return event.item
        elif isinstance(event, ItemUpdated):
            self._grow(event)
        elif isinstance(event, RunEnded):
            self._running = None
            self._put_run(event.run)
            if isinstance(event, RunFailed | RunStopped):
                self.emit({"kind": "notice", **{k: event.error.get(k, "") for k in ("message", "next_step")}})
        return None

    def _put(self, item: ThreadItem) -> None:
        self._items[item.id] = item
        self.emit({"kind": "item", "item": self._item_json(item)})
        self.refresh_static()

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
        """Execute a client tool in the view. The only one is `switch_theme`."""
        output: dict[str, Json] = {"error": f"This view has no tool {item.data.get('name')!r}."}
        if item.data.get("name") == "switch_theme":
            theme = dict(cast("Mapping[str, Json]", item.data.get("arguments") or {})).get("theme")
            if theme in ("light", "dark"):
                self.theme = theme
                self.emit({"kind": "theme", "theme": theme})
                if self._on_theme:
                    self._on_theme(theme)
                output = {"theme": theme, "result": "done"}
        assert self._thread_id is not None
        await self._start(self._source.answer_client_tool(self._thread_id, str(item.data["call_id"]), output))

    async def _read_threads(self) -> bool:
        """Read the list of threads. False if the search changed meanwhile; its result follows."""
        search = self._search
        threads = await self._source.threads(search)
        if search != self._search:
            return False
        self._threads = threads
        return True

    async def _send_threads(self) -> None:
        if await self._read_threads():
            self._send_head(self._threads.data)
            self._send_rows()

    async def _send_title(self, thread_id: str) -> None:
        self._send_head([await self._source.thread(thread_id)])

    def _send_head(self, threads: Sequence[ThreadRecord]) -> None:
        mine = next((thread for thread in threads if thread.id == self._thread_id), None)
        if mine is not None and mine != self._thread:
            self._thread = mine
            self.emit({"kind": "head", **self._head()})

    def _rows(self) -> list[Json]:
        newest = {run.thread_id: run for run in self._threads.runs}
        return [thread_row(thread, newest.get(thread.id)) for thread in self._threads.data]

    def _send_rows(self) -> None:
        self._sent_rows = self._rows()
        self.emit({"kind": "threads", "threads": self._sent_rows, "thread_id": self._thread_id})

    def _list_changed(self) -> None:
        """Called on the store's thread."""
        if self._shows_list:
            self._lists.soon()

    async def _list_again(self) -> None:
        began = time.monotonic()
        if await self._read_threads():
            self._send_head(self._threads.data)
            if self._rows() != self._sent_rows:
                self._send_rows()
        self._lists.cost_s = time.monotonic() - began

    def _background(self, work: Awaitable[None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except LabError as error:
                self.emit({"kind": "notice", "message": error.message, "next_step": error.next_step})

        task = asyncio.ensure_future(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _item_json(self, item: ThreadItem) -> dict[str, Json]:
        widget = self._source.widget(item.data.get("output")) if item.type == "tool_call" else None
        return item_json(item, widget)

    def _thread_json(self) -> Json:
        return thread_row(self._thread) if self._thread else None
