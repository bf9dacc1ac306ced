"""`Run` and `RunStream`: the result of a run, and its stream of events."""

from __future__ import annotations

import contextlib
import html
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from timestep_lab.model.arguments import checks_arguments
from timestep_lab.model.awaiting import interrupted_at_once, says_await
from timestep_lab.model.codec import object_of
from timestep_lab.model.display import cost_text, duration_text, tokens_text
from timestep_lab.model.errors import ConflictError, NotFoundError
from timestep_lab.model.events import Event, ItemUpdated, RunEnded, RunStarted
from timestep_lab.model.records import Interruption, RunRecord, Usage
from timestep_lab.service.runs import MOST

if TYPE_CHECKING:
    import agents as sdk

    from timestep_lab.lab.lab import Lab
    from timestep_lab.model.codec import Json
    from timestep_lab.model.records import RunStatus
    from timestep_lab.service.threads import Thread
    from timestep_lab.ui.trace_view import TraceView


# --- `lab.approvals`: all runs that wait for approval, whichever process started them


@checks_arguments("lab.approvals")
class Approvals:
    """The runs that wait for approval: a mapping of run id to `Run`, oldest first.

    Example:
        waiting = await lab.run("What's the weather in Berkeley?", model="demo/assistant")
        for run in lab.approvals:
            print(run.id, [call.name for call in run.interruptions])
        run = await lab.approvals[waiting.id].reject("Not today.")
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def list(self) -> Sequence[Run]:
        """All runs that wait for approval."""
        waiting = self._lab.runs.list(status="needs_approval", limit=MOST)
        return [Run(self._lab, one.run, tuple(one.interruptions)) for one in reversed(waiting)]

    def __getitem__(self, run_id: str) -> Run:
        """The waiting run with this id. Raises `NotFoundError` if it is not waiting."""
        run = self._lab.get_run(run_id)
        if run.status != "needs_approval":
            waiting = ", ".join(r.id for r in self.list()) or "none"
            raise NotFoundError(
                f"Run {run_id} is not waiting for approval; its status is {run.status}.",
                f"Currently waiting: {waiting}.",
            )
        return run

    def __iter__(self) -> Iterator[Run]:
        return iter(self.list())

    def __len__(self) -> int:
        return len(self.list())

    def __repr__(self) -> str:
        runs = self.list()
        if not runs:
            return "No run is waiting for approval."
        lines = [f"  {r.id}  {i.name}({i.arguments})  asked by {i.agent}" for r in runs for i in r.interruptions]
        return "Waiting for approval (await lab.approvals[run_id].approve()):\n" + "\n".join(lines)


MOST_SHOWN = 4_000
"""Maximum number of characters of an answer in the display of a run."""


@says_await("run")
@checks_arguments("run")
class Run:
    """The result of `lab.run`. It is read from the store, so it can be loaded again later or in another process.

    Example:
        run = await lab.run("What's the weather in Berkeley?", model="demo/assistant")
        if run.status == "needs_approval":
            run = await run.approve()
        print(run.output, run.usage.output_tokens, run.trace.df().shape)
    """

    def __init__(self, lab: Lab, record: RunRecord, interruptions: tuple[Interruption, ...] = ()) -> None:
        self._lab = lab
        self.record = record
        self.interruptions = interruptions
        """The tool calls that wait for approval; empty unless `status` is `needs_approval`."""

    @property
    def id(self) -> str:
        """The run id, `run_…`, as used by `lab.get_run` and `timestep-lab approve`."""
        return self.record.id

    @property
    def status(self) -> RunStatus:
        """`running`, `needs_approval`, `completed`, `stopped` (a limit was reached), `failed`, `cancelled`, or
        `interrupted` (its process ended).
        """
        return self.record.status

    @property
    def output(self) -> str | None:
        """The text of the answer; partial if the run did not complete."""
        return self.record.output

    @property
    def error(self) -> str | None:
        """What went wrong, or which limit was reached, and what to do next; None if the run ended normally."""
        return self.record.error

    @property
    def agent(self) -> str:
        """Name of the agent that answered or is waiting."""
        return self.record.last_agent or self.record.agent

    @property
    def model(self) -> str | None:
        """The requested model as `prefix/name`; None if unknown."""
        return self.record.model

    @property
    def usage(self) -> Usage:
        """Number of requests and tokens so far."""
        return self.record.usage

    @property
    def cost(self) -> float | None:
        """Cost in US dollars; None if a price is unknown."""
        return self.record.cost_usd

    @property
    def trace_id(self) -> str:
        """The trace id: 32 hexadecimal digits, as in OpenTelemetry."""
        return self.record.trace_id

    @property
    def thread_id(self) -> str:
        """The id of the run's thread, `thr_…`."""
        return self.record.thread_id

    @property
    def trace(self) -> TraceView:
        """The run's trace: waterfall, handoff graph, conversation and raw JSON."""
        return self._lab.trace(self.trace_id)

    @property
    def thread(self) -> Thread:
        """The thread (conversation) of this run."""
        return self._lab.threads[self.thread_id]

    @property
    def duration_ms(self) -> float | None:
        """Time from start to end in milliseconds, including pauses; None while it runs."""
        if self.record.ended_at is None:
            return None
        return (self.record.ended_at - self.record.started_at).total_seconds() * 1000

    async def approve(
        self, call_id: str | None = None, *, always: bool = False, answer: Mapping[str, Json] | None = None,
        agent: sdk.Agent | None = None,
    ) -> Run:  # fmt: skip
        """Approve the waiting calls (or only `call_id`) and continue the run.

        Args:
            call_id: Approve only this call.
            always: Do not ask again for this tool in this thread.
            answer: Values for the form that the tool's MCP server asks for (`interruption.form`), where the defaults do not fit.
            agent: The run's Agents SDK `Agent`, constructed again, if the process that started the run has ended.

        Raises `ConflictError` if nothing is waiting any more or another decision is in progress, and `RunError` if the
        run's agents cannot be loaded; the run then keeps waiting.
        """
        return await self._decide("approved", call_id, "", always, agent, answer)

    async def reject(self, message: str = "", call_id: str | None = None, *, agent: sdk.Agent | None = None) -> Run:
        """Reject the waiting calls (or only `call_id`) and continue the run; the model reads `message`. `agent` and
        errors as in `approve`.
        """
        return await self._decide("rejected", call_id, message, False, agent)

    async def dismiss(self, call_id: str | None = None, *, agent: sdk.Agent | None = None) -> Run:
        """Dismiss the waiting questions of tools' servers (or only `call_id`), neither accepting nor declining, and continue
        the run. Raises `UsageError` for a call that asks no question; other errors and `agent` as in `approve`.
        """
        return await self._decide("dismissed", call_id, "", False, agent)

    async def _decide(
        self, decision: str, call_id: str | None, message: str, always: bool, agent: sdk.Agent | None,
        answer: Mapping[str, Json] | None = None,
    ) -> Run:  # fmt: skip
        if self.status != "needs_approval":
            raise ConflictError(
                f"Run {self.id} is not waiting for approval; its status is {self.status}.",
                "lab.approvals lists the runs that are waiting.",
            )
        known = [waiting.call_id for waiting in self.interruptions]
        if call_id is not None and call_id not in known:
            raise NotFoundError(
                f"Run {self.id} has no waiting call {call_id!r}.", f"Waiting calls: {', '.join(known)}."
            )
        chosen = known if call_id is None else [call_id]
        filled: dict[str, Json] = {} if answer is None else {"answer": dict(answer)}
        decisions: dict[str, dict[str, Json]] = {
            id: {"decision": decision, "message": message, "always": always, **filled} for id in chosen
        }
        return await self._lab.resume(self.id, decisions, agent=agent).result()

    def __deepcopy__(self, memo: object) -> Run:
        """A run does not change, so it needs no copy (`dataclasses.asdict` makes one)."""
        return self

    def __repr__(self) -> str:
        lines = [_shortened(self.output, "run.output")] if self.output else []
        lines += [
            f"{i.name}: {i.server} asks: {i.reason} await {_answer(i)}, run.reject() or run.dismiss()"
            if i.asks
            else f"{i.name}({i.arguments}) waits for approval: await run.approve() or run.reject()"
            for i in self.interruptions
        ]
        if self.error:
            lines.append(f"{self.record.error_type}: {self.error}")
        return "\n".join([*lines, self.facts])

    @property
    def facts(self) -> str:
        """A one-line summary: status, agent, model, duration, time to first token, tokens, cost."""
        parts = [self.status.replace("_", " "), self.agent, self.model or "", duration_text(self.duration_ms)]
        if self.record.ttft_ms is not None:
            parts.append(f"first token {duration_text(self.record.ttft_ms)}")
        parts += [tokens_text(self.usage.input_tokens + self.usage.output_tokens), cost_text(self.cost)]
        return " · ".join(part for part in parts if part)

    def _repr_html_(self) -> str:
        text = _shortened(self.output, "run.output") if self.output else _shortened(self.error or "", "run.error")
        body = html.escape(text).replace("\n", "<br>")
        waits = "".join(
            f"<p><b>{html.escape(str(i.server))}</b> asks, called as <b>{html.escape(i.name)}</b>: {html.escape(i.reason)} "
            f"<code>run = await {html.escape(_answer(i))}</code>, <code>run.reject()</code> or <code>run.dismiss()</code></p>"
            if i.asks
            else f"<p><b>{html.escape(i.name)}</b> waits for approval: <code>{html.escape(i.arguments)}</code>. "
            "<code>run = await run.approve()</code> or <code>run.reject(…)</code></p>"
            for i in self.interruptions
        )
        return (
            "<div style='border:1px solid rgba(128,128,128,.35);border-radius:6px;padding:8px 12px;max-width:72em'>"
            f"<div style='margin-bottom:4px'>{body}</div>{waits}<small>{html.escape(self.facts)}</small></div>"
        )


def _answer(question: Interruption) -> str:
    """Code that accepts a question of a tool's server."""
    fields = ", ".join(f'"{name}": …' for name in object_of((question.form or {}).get("properties")))
    return f"run.approve(answer={{{fields}}})" if fields else "run.approve()"


def _shortened(text: str, whole: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} … ({len(text):,} characters; full text: {whole})"


@says_await("stream")
class RunStream:
    """An async iterator over a run's events. Leaving it early cancels the run; its partial output is kept.

    `.run` is the run as last stored, available after the first event. `await .result()` reads to the end.

    Example:
        stream = lab.stream("Hello", model="demo/echo")
        kinds = [event.type async for event in stream]
        print(stream.run.output)
    """

    def __init__(self, lab: Lab, events: Callable[[], AsyncGenerator[Event, None]]) -> None:
        self._lab = lab
        self._events = events()
        self._started: RunRecord | None = None
        self._last: RunEnded | None = None
        self.text = ""
        """The answer text received so far."""

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._read()

    async def _read(self) -> AsyncIterator[Event]:
        with interrupted_at_once():
            async with contextlib.aclosing(self._events) as events:
                async for event in events:
                    if isinstance(event, RunStarted):
                        self._started = event.run
                    elif isinstance(event, RunEnded):
                        self._last = event
                    elif isinstance(event, ItemUpdated) and event.field == "text":
                        self.text += event.delta
                    yield event

    @property
    def run(self) -> Run:
        """The run as of the last event. Raises `ConflictError` before the first event."""
        record = self._last.run if self._last else self._started
        if record is None:
            raise ConflictError("The run has not started.", "Read its events first: async for event in stream: …")
        return Run(self._lab, record, getattr(self._last, "interruptions", ()))

    async def result(self) -> Run:
        """Read all remaining events and return the run."""
        async for _ in self:
            pass
        return self.run

    async def cancel(self) -> None:
        """Stop the run. Its partial output stays in the thread, marked incomplete."""
        await self._lab.cancel(self.run.id)
