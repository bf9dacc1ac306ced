"""`lab.serve` in a notebook: runs `timestep-lab serve` in a child process that ends with the kernel."""

from __future__ import annotations

import atexit
import html
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import UsageError
from timestep_lab.model.events import Event
from timestep_lab.model.records import RunRecord, ThreadItem, ThreadRecord
from timestep_lab.runtime.approvals import read_decision
from timestep_lab.runtime.attachments import file_ids_of
from timestep_lab.runtime.run import read_turn
from timestep_lab.runtime.tools.weather import widget_json
from timestep_lab.service.runs import MOST
from timestep_lab.service.threads import ThreadPage
from timestep_lab.store.base import Change, in_thread
from timestep_lab.ui.chat_state import AgentChoice, Draft

if TYPE_CHECKING:
    from timestep_lab.lab.lab import Lab
    from timestep_lab.service.models import Models


START_S = 60
STOP_S = 45
"""Time in seconds that the server's runs have to finish when it stops."""
LINES_KEPT = 50


class Serving:
    """A running server: `url` is its address, and `link` also signs you in. A cell shows the link.

    `stop()`, or leaving the `with` block, ends it.

    Example:
        kept = Lab("lab.duckdb")
        served = kept.serve(port=0)
        assert isinstance(served, Serving)
        print(served.url)
        served.stop()
        await kept.aclose()
    """

    def __init__(self, store: str, host: str, port: int) -> None:
        """Start the server and wait until it answers. `store` may contain a password, so it is passed in the
        environment. Raises `UsageError` with the server's own message if it does not start.
        """
        command = [sys.executable, "-m", "timestep_lab", "serve", "--host", host, "--port", str(port), "--with-input"]
        self._output: deque[str] = deque(maxlen=LINES_KEPT)
        self._signed_in = threading.Event()
        self.url = self.link = ""
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
            errors="replace", env={**os.environ, "TIMESTEP_LAB_STORE": store, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        atexit.register(self.stop)
        self._reader = threading.Thread(target=self._read, name="timestep-lab serving", daemon=True)
        self._reader.start()
        answers = self._signed_in.wait(START_S)
        if not answers or not self.link:
            self.stop()
            raise _why(self._output)

    def _read(self) -> None:
        """Read the server's output to its end, so that the pipe does not fill up."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._output.append(line.rstrip())
            if "/?key=" in line:
                self.link = line.split()[-1]
                self.url = self.link.partition("/?key=")[0]
                self._signed_in.set()
        self._process.stdout.close()
        self._signed_in.set()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Stop the server; the partial output of its runs is kept. Safe to call twice."""
        atexit.unregister(self.stop)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Serving({self.url!r}{'' if self.is_running else ', stopped'})"

    def _repr_html_(self) -> str:
        if not self.is_running:
            return f"<div>The lab was served at {html.escape(self.url)}; it is stopped.</div>"
        link = f'<a href="{html.escape(self.link)}" target="_blank" rel="noopener">{html.escape(self.url)}</a>'
        return f"<div>The lab is served at {link} until <code>.stop()</code> or until this kernel ends. The link signs you in.</div>"


def _why(lines: deque[str]) -> UsageError:
    reason = next((line for line in reversed(lines) if line), "It printed no output.")
    return UsageError(
        f"The server did not start. {reason.removeprefix('error: ')}", "lab.serve(port=0) picks a free port."
    )


# --- `LabChatSource`: the data source of the chat component, for local and served labs


class LabChatSource:
    """Connects a chat to a lab. Runs continue when the reader disconnects, so closing a tab does not lose an answer."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._models: Models = lab.models

    @property
    def default_model(self) -> str:
        return self._lab.default_model

    async def agents(self) -> Sequence[AgentChoice]:
        return [AgentChoice(agent.name, agent.model) for agent in await in_thread(self._lab.agents.list)]

    async def models(self) -> Sequence[str]:
        return list(dict.fromkeys(await self._models.list()))

    async def check_model(self, name: str) -> str:
        return await self._models.check(name)

    async def threads(self, search: str = "", limit: int = 50) -> ThreadPage:
        return await in_thread(self._lab.threads.page, search=search, limit=limit, count=False, runs=True)

    def read_now(self, thread_id: str) -> tuple[ThreadRecord, Sequence[ThreadItem]]:
        return self._lab.threads.read(thread_id), self._lab.threads.all_items(thread_id)

    async def thread(self, thread_id: str) -> ThreadRecord:
        return await in_thread(self._lab.threads.read, thread_id)

    async def items(self, thread_id: str) -> Sequence[ThreadItem]:
        return await in_thread(self._lab.threads.all_items, thread_id)

    async def runs(self, thread_id: str) -> Sequence[RunRecord]:
        views = await in_thread(self._lab.runs.list, thread_id=thread_id, limit=MOST)
        return [one.run for one in reversed(views)]

    def send(
        self,
        text: str,
        *,
        agent: str,
        model: str | None,
        thread_id: str | None,
        attachments: Sequence[Mapping[str, Json]],
        draft: Draft | None = None,
    ) -> AsyncIterator[Event]:
        files = file_ids_of(attachments)
        who = None if draft is not None and draft.is_new else agent
        return self._lab.runs.start(
            text, agent=who, model=model, thread_id=thread_id, attachments=files, draft=draft.fields if draft else None
        )

    def decide(self, run_id: str, decisions: Mapping[str, Mapping[str, Json]]) -> AsyncIterator[Event]:
        given = {call_id: read_decision(call_id, decision) for call_id, decision in decisions.items()}
        return self._lab.runs.decide(run_id, given)

    def answer_client_tool(self, thread_id: str, call_id: str, output: Json) -> AsyncIterator[Event]:
        return self._lab.runs.answer_client_tool(thread_id, call_id, output)

    async def cancel(self, run_id: str) -> None:
        await self._lab.runs.cancel(run_id)

    async def rename(self, thread_id: str, title: str) -> None:
        await in_thread(self._lab.threads.rename, thread_id, title)

    async def delete(self, thread_id: str) -> None:
        await in_thread(self._lab.threads.delete, thread_id)

    async def attach(self, name: str, mime_type: str, content: bytes) -> Mapping[str, Json]:
        file = await in_thread(self._lab.files.add_bytes, name, content)
        return {"id": file.id, "name": file.filename, "mime_type": file.content_type, "size": file.bytes}

    async def branch(self, thread_id: str, before_item_id: str, goes_on: str = "") -> ThreadRecord:
        title = read_turn(goes_on).title if goes_on.strip() else None
        return await in_thread(self._lab.threads.branch, thread_id, before_item_id, title=title)

    def widget(self, output: Json) -> Mapping[str, Json] | None:
        return widget_json(output)

    def subscribe(self, callback: Callable[[str], None], listed: Callable[[], None]) -> Callable[[], None]:
        def changed(change: Change) -> None:
            if change.topic == "threads":
                callback(change.id)
            if change.topic in ("threads", "runs"):
                listed()

        return self._lab._subscribe(changed)
