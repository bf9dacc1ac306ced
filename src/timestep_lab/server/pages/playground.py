"""The Playground: one request, sent to up to four models side by side. `?trace=<id>&step=<span id>` starts with the
request of a recorded step; `?model=<name>`, once or repeated, selects the models."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Required, TypedDict, cast

from timestep_lab.model.codec import Json, object_of
from timestep_lab.model.errors import LabError, NotFoundError, UsageError
from timestep_lab.model.events import AnswerCompleted, AnswerDelta, AnswerStarted
from timestep_lab.model.records import ModelAnswer
from timestep_lab.model.spans import GenAI, OpenInference
from timestep_lab.server.pages.page_view import PageView, Shown, looked_up
from timestep_lab.server.panel import page_argument, page_arguments
from timestep_lab.service.models import ONE_ANSWER
from timestep_lab.service.traces import Traces
from timestep_lab.store.base import Topic, in_thread
from timestep_lab.store.table import CodedText
from timestep_lab.ui.messages import read_messages
from timestep_lab.ui.view import handles

if TYPE_CHECKING:
    from timestep_lab.server.labs import UserLab
    from timestep_lab.service.traces import Row

log = logging.getLogger("timestep_lab.server")
MOST_MODELS = 4
RECENT = 5
AT_ONCE = 50
"""Number of steps read at once when searching for the offered tools."""


# --- A recorded model step as a request that can be edited and sent again


@dataclass(slots=True)
class Recorded:
    """A recorded request. `notes`: what is unknown or cannot be sent again."""

    trace_id: str
    span_id: str
    agent: str | None
    model: str | None
    instructions: str = ""
    items: list[dict[str, Json]] = field(default_factory=list)
    """Responses API input items."""
    tools: list[dict[str, Json]] = field(default_factory=list)
    response_format: Json = None
    model_settings: dict[str, Json] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def recorded_request(traces: Traces, trace_id: str, span_id: str | None) -> Recorded:
    """The request of a step, or of the first model call of the trace. Blocks. Raises `NotFoundError`."""
    spans = traces.columns(trace_id)
    rows = CodedText.of(spans["kind"]).where("generation").nonzero()[0]
    order = sorted(rows.tolist(), key=lambda row: (spans["started_us"][row], spans["span_id"][row]))
    ids = [str(spans["span_id"][row]) for row in order]
    if not ids or (span_id is not None and span_id not in ids):
        what = "This trace contains no model call." if span_id is None else f"The step {span_id} is not a model call."
        raise NotFoundError(what, "Open the trace, and choose another step.")
    chosen = ids.index(span_id) if span_id is not None else 0
    [span] = traces.payloads(trace_id, [ids[chosen]])
    attributes = object_of(span.get("attributes"))
    model = cast("str | None", attributes.get(GenAI.REQUEST_MODEL) or span.get("model"))
    recorded = Recorded(trace_id, ids[chosen], span.get("agent"), model)
    recorded.instructions, recorded.items = _messages(span.get("input"), recorded.notes)
    recorded.model_settings, recorded.response_format = _settings(attributes)
    recorded.tools = _tools(traces, trace_id, span, ids[:chosen], recorded.notes)
    return recorded


_TEXTS = ("input_text", "output_text", "refusal")
_OWN_PARTS = (*_TEXTS, "input_image", "input_file")


def _is_item(item: object) -> bool:
    """Whether it is a Responses API input item, as recorded by the lab."""
    if not isinstance(item, Mapping):
        return False
    if item.get("type") in ("function_call", "function_call_output", "reasoning"):
        return "call_id" in item or item["type"] == "reasoning"
    content = item.get("content")
    plain = isinstance(content, str) or (
        isinstance(content, list)
        and all(isinstance(part, Mapping) and part.get("type") in _OWN_PARTS for part in content)
    )
    roles = ("system", "developer", "user", "assistant")
    return item.get("type") in (None, "message") and item.get("role") in roles and plain and "tool_calls" not in item


def _messages(given: Json, notes: list[str]) -> tuple[str, list[dict[str, Json]]]:
    """Instructions and items, from any recorded format."""
    if isinstance(given, list) and given and all(map(_is_item, given)):
        items = [dict(item) for item in given]
    else:
        items = _read(given, notes)
    instructions: list[str] = []
    while items and items[0].get("role") in ("system", "developer"):
        content = items.pop(0)["content"]
        instructions.append(
            content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)
        )
    return "\n\n".join(instructions), items


def _read(given: Json, notes: list[str]) -> list[dict[str, Json]]:
    messages = read_messages(given)
    if messages is None:
        notes.append("The input was not recorded as messages; it is shown as recorded.")
        return [{"role": "user", "content": json.dumps(given, ensure_ascii=False, default=str)}]
    items: list[dict[str, Json]] = []
    for message in messages:
        texts: list[str] = []
        for part in message["parts"]:
            match part["type"]:
                case "text":
                    texts.append(part["text"])
                case "call":
                    call_id = part["call_id"] or f"call_{len(items)}"
                    items.append({"type": "function_call", "call_id": call_id, "name": part["name"], "arguments": part["arguments"] or "{}"})  # fmt: skip
                case "result":
                    call_id = part["call_id"] or next((i["call_id"] for i in reversed(items) if i.get("type") == "function_call"), "call_0")  # fmt: skip
                    items.append({"type": "function_call_output", "call_id": call_id, "output": part["text"]})
                case "reasoning":
                    notes.append("The model's reasoning is left out: it cannot be sent again.")
                case "media":
                    notes.append(
                        f"The {part['what']} of a message was not recorded in a format that can be sent again."
                    )
                case _:
                    texts.append(json.dumps(part["value"], ensure_ascii=False, default=str))
        if texts:
            role = message["role"] if message["role"] in ("system", "developer", "assistant") else "user"
            text: dict[str, Json] = {"role": role, "content": "\n\n".join(texts)}
            calls = [item for item in items[-len(message["parts"]) :] if item.get("type") == "function_call"]
            at = len(items) - len(calls) if role == "assistant" and calls and items[-1] is calls[-1] else len(items)
            items.insert(at, text)
    notes[:] = dict.fromkeys(notes)
    return items


_ASKED = {
    "temperature": "temperature", "top_p": "top_p", "max_tokens": "max_tokens", "max_output_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens", "frequency_penalty": "frequency_penalty", "presence_penalty": "presence_penalty",
    "tool_choice": "tool_choice", "parallel_tool_calls": "parallel_tool_calls",
}  # fmt: skip
"""Names of settings in other programs."""


def _settings(attributes: Mapping[str, Json]) -> tuple[dict[str, Json], Json]:
    """Model settings and response format."""
    own = attributes.get("model_config")
    if isinstance(own, Mapping):
        from timestep_lab.runtime.model_settings import known_settings

        known = set(known_settings())
        return {n: v for n, v in own.items() if n in known and v not in (None, {}, [])}, own.get("response_format")
    settings = {name.removeprefix("gen_ai.request."): value for name, value in attributes.items() if name.startswith("gen_ai.request.")}  # fmt: skip
    invocation = _json(attributes.get(OpenInference.INVOCATION))
    settings |= invocation if isinstance(invocation, Mapping) else {}
    return {_ASKED[name]: value for name, value in settings.items() if name in _ASKED and value is not None}, None


def _tools(traces: Traces, trace_id: str, span: Row, before: Sequence[str], notes: list[str]) -> list[dict[str, Json]]:
    """The offered tools: from the step, or from the latest earlier step of the same agent."""
    attributes = object_of(span.get("attributes"))
    tools = _offered(attributes)
    rest = list(before)
    while tools is None and rest:
        rest, part = rest[:-AT_ONCE], rest[-AT_ONCE:]
        payloads = {s["span_id"]: s for s in traces.payloads(trace_id, part) if s.get("agent") == span.get("agent")}
        offers = (_offered(object_of(payloads[id].get("attributes"))) for id in reversed(part) if id in payloads)
        tools = next((offer for offer in offers if offer is not None), None)
    if tools is None and "model_config" not in attributes:
        notes.append("The offered tools were not recorded.")
    return tools or []


def _offered(attributes: Mapping[str, object]) -> list[dict[str, Json]] | None:
    definitions = _json(attributes.get(GenAI.TOOL_DEFINITIONS))
    if not isinstance(definitions, list):
        named = sorted((name for name in attributes if re.fullmatch(r"llm\.tools\.\d+\.tool\.json_schema", name)), key=lambda name: int(name.split(".")[2]))  # fmt: skip
        definitions = [_json(attributes[name]) for name in named] or None
    if definitions is None:
        return None
    tools = [tool.get("function", tool) for tool in definitions if isinstance(tool, Mapping)]
    return [_tool(tool) for tool in tools if isinstance(tool, Mapping) and tool.get("name")]


def _tool(definition: Mapping[str, object]) -> dict[str, Json]:
    schema = definition.get("parameters", definition.get("input_schema"))
    return {
        "name": str(definition["name"]), "description": str(definition.get("description") or ""),
        "parameters": schema if isinstance(schema, Mapping) else {"type": "object", "properties": {}},
        **({"strict": True} if definition.get("strict") is True else {}),
    }  # fmt: skip


def _json(value: object) -> object:
    """The value of an attribute that may be a structure or JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None


# --- The page


class Request(TypedDict, total=False):
    """A request of the form: arguments of `lab.models.ask`."""

    prompt: Required[str | list[dict[str, Json]]]
    instructions: str
    tools: list[dict[str, Json]]
    response_format: dict[str, Json] | None
    model_settings: dict[str, Json] | None
    timeout_s: float
    model: str
    metadata: dict[str, str]


class Kept(TypedDict, total=False):
    """What is saved as an agent."""

    instructions: str
    model: str
    model_settings: dict[str, Json]


class PlaygroundPage(PageView):
    stem = "pages/playground"
    title = "Playground"
    topics: ClassVar[frozenset[Topic]] = frozenset({"agents"})

    def __init__(
        self, lab: UserLab, trace_id: str | None = None, span_id: str | None = None, models: Sequence[str] = ()
    ) -> None:
        super().__init__(lab)
        self._trace_id, self._span_id, self._models = trace_id, span_id, models[:MOST_MODELS]
        self._recorded: Recorded | None = None
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._answers: dict[str, dict[str, Json]] = {}
        """By column: `model, status, text, reasoning, calls`, then usage or an error."""

    async def read(self) -> object:
        return await self.in_turn(self._read)

    def _read(self) -> object:
        problem = None
        if self._trace_id is not None and self._recorded is None:
            try:
                self._recorded = recorded_request(self.lab.trace_source, self._trace_id, self._span_id)
            except NotFoundError as error:
                problem = {"message": error.message, "next_step": error.next_step}
        request = self._recorded
        models, notes = self._suggested(request)
        return {
            "problem": problem,
            "request": None if request is None else {
                name: getattr(request, name) for name in ("trace_id", "span_id", "agent", "instructions", "items", "tools", "response_format", "model_settings")
            },
            "notes": [*(request.notes if request else ()), *notes], "models": models, "most_models": MOST_MODELS,
            "agents": [{"id": agent.id, "name": agent.name, "version": agent.version} for agent in self.lab.agents.list()],
            "recent": self._recent(),
        }  # fmt: skip

    def _recent(self) -> list[dict[str, object]]:
        """The newest traces with model calls, excluding those made here."""
        rows = [
            row
            for row in self.lab.trace_source.page(limit=4 * RECENT).data
            if row.get("model") and row["workflow"] != ONE_ANSWER
        ]
        listed = []
        for row in rows[:RECENT]:
            words = (
                row["input"] if isinstance(row["input"], str) and row["input"].strip() else str(row["workflow"] or "")
            )
            about = {name: row[name] for name in ("trace_id", "model", "started_at")}
            listed.append({**about, "words": words[:200]})
        return listed

    def _suggested(self, request: Recorded | None) -> tuple[list[str], list[str]]:
        """The models to select first: those of the address, else the recorded model, if it is available."""
        default = self.lab.settings.default_model
        if self._models:
            return [*self._models], []
        if request is None or not request.model:
            return [default], []
        try:
            return [self.lab.models.resolve(request.model).full], []
        except UsageError:
            return [default], [f"The recorded model {request.model} is not available here; {default} is used instead."]

    def snapshot(self) -> Json:
        return {"page": self._page, "answers": self._answers}

    def merge(self, last: dict[str, Json], op: dict[str, Json]) -> bool:
        same = all(last.get(name) == op.get(name) for name in ("kind", "column", "field", "call_id"))
        if op["kind"] != "delta" or not same:
            return False
        last["delta"] = f"{last['delta']}{op['delta']}"
        return True

    def watched(self, now: bool) -> None:
        super().watched(now)
        if not now:
            for task in self._asking.values():
                task.cancel()

    @handles("models")
    async def _known_models(self) -> list[str]:
        """The models of all providers that respond. Requested separately, because a provider may be slow."""
        models: list[str] = await self.lab.models.list_models()
        return models

    # -- sending requests

    @handles("ask")
    async def _ask(self, column: str, model: str, request: Request) -> None:
        """Send the request. The answer is streamed; an invalid request is reported in its column, too."""
        await self._stop(column)
        if len(self._asking) >= MOST_MODELS:
            raise UsageError(f"{MOST_MODELS} models are already answering.", "Stop one, or wait for it.")
        self._answers[column] = {"model": model, "status": "running", "text": "", "reasoning": "", "calls": []}
        self._send(column)
        task = self._asking[column] = asyncio.create_task(self._answer(column, model, request))
        task.add_done_callback(
            lambda done: self._asking.pop(column, None) if self._asking.get(column) is done else None
        )

    @handles("stop")
    async def _stop(self, column: str) -> None:
        """Stop an answer; its partial output is kept."""
        if (task := self._asking.pop(column, None)) is not None:
            task.cancel()
            await asyncio.wait([task])

    @handles("forget")
    async def _forget(self, column: str) -> None:
        await self._stop(column)
        self._answers.pop(column, None)

    async def _answer(self, column: str, model: str, request: Request) -> None:
        answer = self._answers[column]
        source = self._recorded
        about = {} if source is None else {"from_trace": source.trace_id, "from_step": source.span_id}
        try:
            asked: Request = {**request, "model": model, "metadata": {"asked_in": "playground", **about}}
            events = self.lab.models.ask(**asked)
            async with aclosing(events):
                async for event in events:
                    match event:
                        case AnswerStarted():
                            answer |= {"model": event.model, "trace_id": event.trace_id}
                            self._send(column)
                        case AnswerDelta():
                            self._add(column, answer, event)
                        case AnswerCompleted():
                            answer |= {"status": "done", **_facts(event.answer)}
        except asyncio.CancelledError:
            answer["status"] = "stopped"
            raise
        except LabError as error:
            answer |= {"status": "failed", "error": {"message": error.message, "next_step": error.next_step}}
        except Exception:
            log.exception("internal error in the playground")
            words = {"message": "Internal error.", "next_step": "See the server's log."}
            answer |= {"status": "failed", "error": words}
        finally:
            if self._answers.get(column) is answer:
                self._send(column)

    def _add(self, column: str, answer: dict[str, Json], event: AnswerDelta) -> None:
        if event.field == "arguments":
            calls = cast("list[dict[str, Json]]", answer["calls"])
            call = next((call for call in calls if call["call_id"] == event.call_id), None)
            if call is None:
                calls.append({"call_id": event.call_id, "tool": event.tool, "arguments": event.delta})
            else:
                call["arguments"] = f"{call['arguments']}{event.delta}"
        else:
            answer[event.field] = f"{answer[event.field]}{event.delta}"
        if self._answers.get(column) is answer:
            self.emit({"kind": "delta", "column": column, "field": event.field, "delta": event.delta, "call_id": event.call_id, "tool": event.tool})  # fmt: skip

    def _send(self, column: str) -> None:
        self.emit({"kind": "answer", "column": column, "answer": {**self._answers[column]}})

    # -- saving

    @handles("keep")
    async def _keep(
        self,
        instructions: str,
        agent: str = "",
        name: str = "",
        model: str | None = None,
        model_settings: dict[str, Json] | None = None,
    ) -> Json:
        """Save the instructions as the next version of an agent (by id), or as a new agent; with `model`, also the
        model and its settings.
        """
        changes: Kept = {"instructions": instructions}
        if model is not None:
            changes |= {"model": model, "model_settings": model_settings or {}}
        agents = self.lab.agents
        record = await in_thread(
            lambda: agents.change(agent, **changes) if agent else agents.create(name=name, **changes)
        )
        return {"id": record.id, "name": record.name, "version": record.version}


def _facts(answer: ModelAnswer) -> dict[str, Json]:
    usage = answer.usage
    return {
        "text": answer.text, "stop_reason": answer.stop_reason, "cost_usd": answer.cost_usd, "ttft_ms": answer.ttft_ms, "duration_ms": answer.duration_ms,
        "input_tokens": usage.input_tokens if usage else None, "output_tokens": usage.output_tokens if usage else None,
    }  # fmt: skip


def page(lab: UserLab, *, is_owner: bool) -> Shown:
    trace_id, models = page_argument("trace"), page_arguments("model")
    if trace_id is not None:
        with looked_up():
            lab.trace_source.read(trace_id)
    return Shown(PlaygroundPage(lab, trace_id, page_argument("step"), models))
