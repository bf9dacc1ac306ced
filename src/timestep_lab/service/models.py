"""`lab.models`: the models and providers that a lab can reach, and single model calls."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

from annotated_types import Interval, Len

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.codec import Json, JsonObject
from timestep_lab.model.errors import BudgetError, SettingsError, UsageError
from timestep_lab.model.events import AnswerCompleted, AnswerDelta, AnswerStarted, Event
from timestep_lab.model.records import ModelAnswer, ModelRef, ProviderStatus, Usage
from timestep_lab.model.spans import SpanRecord
from timestep_lab.service import operation as op
from timestep_lab.service.agents import Instructions, ModelName
from timestep_lab.service.operation import Scope
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from agents import FunctionTool, Model
    from openai.types.responses import Response, ResponseCompletedEvent, ResponseStreamEvent

    from timestep_lab.runtime.adapters.base import AnswerSchema


# --- A single call of a model through the router, without an agent. Each call is a trace of the calling user


OF_A_FUNCTION = ("type", "name", "description", "parameters", "strict")


@dataclass(frozen=True, slots=True)
class ModelCall:
    """The request of one model call."""

    model: str
    input: Sequence[Mapping[str, Json]]
    """Responses API input items."""
    instructions: str | None = None
    settings: Mapping[str, Json] = field(default_factory=dict)
    functions: Sequence[Mapping[str, Json]] = ()
    """Function tools, each `{"name", "description", "parameters", "strict"}`. The caller executes them."""
    format: Mapping[str, Json] | None = None
    """The response format, as in the Responses API: `{"type": "json_schema", "name", "schema", …}` or `{"type":
    "json_object"}`.
    """
    metadata: Mapping[str, Json] = field(default_factory=dict)
    """Stored with the call's trace."""
    workflow: str = "OpenAI API"
    """The workflow name of the call's trace."""


# --- The events of a call


async def stream(
    scope: Scope,
    call: ModelCall,
    *,
    on_start: Callable[[str, str], None] = lambda model, trace_id: None,
    on_span: Callable[[SpanRecord], None] | None = None,
) -> AsyncIterator[ResponseStreamEvent]:
    """Responses API events, ending with `response.completed`. Raises what the router raises before the first event.
    Must be closed in the task that opened it.

    `on_start` receives the model's full name and the trace id, `on_span` the recorded generation span.
    """
    from agents import ModelSettings, ModelTracing

    from timestep_lab.runtime.attachments import with_files
    from timestep_lab.runtime.model_settings import validate_settings
    from timestep_lab.runtime.tracing import traced_call

    input: list[Any] = await with_files(scope.files, call.input)
    model: Model = scope.router.get_model(call.model)
    settings, functions = ModelSettings(**validate_settings(call.settings)), [_function(f) for f in call.functions]
    _check_choice(settings.tool_choice, [tool.name for tool in functions])
    with traced_call(scope.writer, scope.store.user_id, call.workflow, call.metadata, on_span) as trace_id:
        on_start(str(getattr(model, "full", call.model)), trace_id)
        events: Any = model.stream_response(
            call.instructions, input, settings, [*functions], _schema(call), [], ModelTracing.ENABLED,
            previous_response_id=None, conversation_id=None, prompt=None,
        )  # fmt: skip
        async with aclosing(events):
            async for event in events:
                yield event


async def answer(scope: Scope, call: ModelCall, *, timeout_s: float) -> AsyncGenerator[Event, None]:
    """`AnswerStarted`, `AnswerDelta`s, `AnswerCompleted`. Closing it early ends the call; the partial output is kept in
    its trace.

    Before the first event, raises what the router raises; later `ProviderError`, and `BudgetError` after `timeout_s`
    seconds.
    """
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    # In its own task: the Agents SDK keeps the current trace in context variables, and the generator may be closed in a different task.
    task = asyncio.create_task(_ask(scope, call, timeout_s, events.put_nowait))
    task.add_done_callback(lambda _: events.put_nowait(None))
    try:
        while event := await events.get():
            yield event
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _ask(scope: Scope, call: ModelCall, timeout_s: float, emit: Callable[[Event], None]) -> None:
    recorded: list[SpanRecord] = []
    began: list[AnswerStarted] = []

    def on_start(model: str, trace_id: str) -> None:
        began.append(AnswerStarted(model=model, trace_id=trace_id))
        emit(began[0])

    calls: dict[int, tuple[str, str]] = {}
    last: ResponseStreamEvent | None = None
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit, aclosing(stream(scope, call, on_start=on_start, on_span=recorded.append)) as events:  # type: ignore[type-var]
            async for last in events:
                if delta := _delta(last, calls):
                    emit(delta)
    except TimeoutError:
        if not limit.expired():
            raise
        raise BudgetError(
            f"The answer was stopped: {call.model} took longer than {timeout_s:g} s.",
            "The partial output is kept in its trace. Increase timeout_s=…",
            code="timeout_s",
        ) from None
    finally:
        await scope.writer.barrier().reached()
    emit(AnswerCompleted(answer=_answer(began[0], cast("ResponseCompletedEvent", last).response, recorded)))


def _delta(event: ResponseStreamEvent, calls: dict[int, tuple[str, str]]) -> AnswerDelta | None:
    """The delta of a Responses API event, or None. `calls` maps output indexes to call id and tool name; it is filled
    here.
    """
    match event.type:
        case "response.output_text.delta" | "response.refusal.delta":
            return AnswerDelta(delta=event.delta)
        case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
            return AnswerDelta(field="reasoning", delta=event.delta)
        case "response.output_item.added" if event.item.type == "function_call":
            calls[event.output_index] = event.item.call_id, event.item.name
            delta = ""
        case "response.function_call_arguments.delta":
            delta = event.delta
        case _:
            return None
    call_id, tool = calls[event.output_index]
    return AnswerDelta(field="arguments", delta=delta, call_id=call_id, tool=tool)


def _answer(began: AnswerStarted, response: Response, recorded: Sequence[SpanRecord]) -> ModelAnswer:
    span = recorded[-1]
    items = tuple(item.model_dump(exclude_none=True) for item in response.output)
    parts = [part for item in items if item["type"] == "message" for part in item["content"]]
    known = span.input_tokens is not None or span.output_tokens is not None
    usage = Usage(
        requests=1, input_tokens=span.input_tokens or 0, output_tokens=span.output_tokens or 0, cached_tokens=span.cached_tokens or 0,
        reasoning_tokens=span.reasoning_tokens or 0,
    )  # fmt: skip
    took = None if span.ended_at is None else (span.ended_at - span.started_at).total_seconds() * 1000.0
    return ModelAnswer(
        model=began.model, text="".join(str(part.get("text", part.get("refusal", ""))) for part in parts), items=items,
        stop_reason=span.stop_reason, usage=usage if known else None, cost_usd=span.cost_usd, ttft_ms=span.ttft_ms,
        duration_ms=took, trace_id=began.trace_id,
    )  # fmt: skip


# --- Validation of the input items, the tools and the response format


ROLES = ("system", "developer", "user", "assistant")
NEEDS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "function_call": {"call_id": (str,), "name": (str,), "arguments": (str,)},
    "function_call_output": {"call_id": (str,), "output": (str, list)},
    "reasoning": {"summary": (list,)},
}
"""The fields that an item of a type cannot be without, with their types in JSON."""
IN_WORDS: Mapping[type, str] = {str: "a string", list: "a list"}


def read_items(given: str | Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    """Responses API input items from a text or a list. Raises `UsageError` that identifies an invalid item."""
    if not given or (isinstance(given, str) and not given.strip()):
        raise UsageError("The prompt is empty.", "Pass a non-empty prompt.", param="prompt")
    items: list[Mapping[str, Json]] = [{"role": "user", "content": given}] if isinstance(given, str) else [*given]
    for place, item in enumerate(items, 1):
        if why := _unreadable(item):
            raise UsageError(
                f"Item {place} of the prompt is invalid: {why}.",
                'Write a message as {"role": "user", "content": "…"}, a call and its result as {"type": "function_call", "call_id", "name", '
                '"arguments"} and {"type": "function_call_output", "call_id", "output"}.',
                param="prompt",
            )
    return items


def _unreadable(item: Mapping[str, Json]) -> str:
    """Why an item cannot be sent; empty if it is valid."""
    kind = item.get("type", "message")
    if isinstance(kind, str) and kind in NEEDS:
        return why_incomplete(item)
    if kind != "message":
        return f"its type is {kind!r}"
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        return f"its role is {role!r}, not one of {', '.join(ROLES)}"
    if "tool_calls" in item:
        return "tool calls must be separate items"
    parts = content if isinstance(content, list) else []
    if not isinstance(content, str) and not parts:
        return "its content is neither a string nor a list of content parts"
    return next(filter(None, map(why_unreadable, parts)), "")


def why_incomplete(item: Mapping[str, Json]) -> str:
    """Why a call, a result or reasoning cannot be sent; empty if it has what its type needs, and for other types."""
    kind = str(item.get("type"))
    for name, types in NEEDS.get(kind, {}).items():
        if name not in item:
            return f"a {kind} needs its {name}"
        if not isinstance(item[name], types):
            return f"{name} of a {kind} is not {' or '.join(IN_WORDS[one] for one in types)}"
    return ""


def why_unreadable(part: object) -> str:
    """Why a content part of the Responses API cannot be sent; empty if it can."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str):
        return "its content is neither a string nor a list of content parts"
    name = TEXT_OF_PARTS.get(kind)
    if name and not isinstance(part.get(name), str):
        return f"{name} of its {kind} is not a string"
    if (names := SOURCES_OF_PARTS.get(kind)) and not any(isinstance(part.get(name), str) for name in names):
        return f"its {kind} has no {' or '.join(names)}"
    return ""


TEXT_OF_PARTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
SOURCES_OF_PARTS = {"input_image": ("image_url", "file_id"), "input_file": ("file_id", "file_data", "file_url")}


def read_tools(given: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    """Function tools in the form of the Responses API or of Chat Completions. Raises `UsageError` that identifies an
    invalid one.
    """
    read: list[Mapping[str, Json]] = []
    for place, tool in enumerate(given, 1):
        inner = tool.get("function")
        function = {"type": tool.get("type"), **inner} if isinstance(inner, Mapping) else dict(tool)
        name = function.get("name")
        if function.get("type", "function") != "function":
            raise _tool_error(place, f"its type is {function['type']!r}, but only functions are supported")
        if not isinstance(name, str) or not name:
            raise _tool_error(place, "it has no name")
        if unknown := sorted(set(function) - set(OF_A_FUNCTION)):
            raise _tool_error(
                place, f"a function has no field {unknown[0]!r}.{did_you_mean(unknown[0], OF_A_FUNCTION)}"
            )
        if not isinstance(function.get("parameters") or {}, Mapping):
            raise _tool_error(place, "its parameters are not a JSON Schema")
        read.append(function)
    return read


def _tool_error(place: int, why: str) -> UsageError:
    return UsageError(
        f"Tool {place} is invalid: {why.rstrip('.')}.",
        'Write it as {"name": "lookup", "description": "…", "parameters": {"type": "object", "properties": {…}}}.',
        param="tools",
    )


def _function(given: Mapping[str, Json]) -> FunctionTool:
    from agents import FunctionTool

    tool = FunctionTool(
        name=cast("str", given["name"]), description=cast("str", given.get("description") or ""),
        params_json_schema=dict(cast("Mapping[str, Json]", given.get("parameters") or {"type": "object", "properties": {}})),
        on_invoke_tool=_never, strict_json_schema=False,
    )  # fmt: skip
    # Set afterwards: the SDK would rewrite the caller's schema if it were passed in.
    tool.strict_json_schema = bool(given.get("strict"))
    return tool


def _check_choice(choice: object, names: Sequence[str]) -> None:
    """Raises `SettingsError` for a tool choice that these functions cannot meet."""
    if choice in (None, "auto", "none") or (choice == "required" and names) or choice in names:
        return
    missing = "there are no tools" if not names else f"there is no tool {choice!r}"
    raise SettingsError(
        f"The tool choice {choice!r} cannot be met: {missing}.",
        f"The tools are: {', '.join(names)}." if names else "Pass tools, or omit the choice.",
        param="model_settings.tool_choice",
    )


async def _never(_context: object, _arguments: str) -> str:
    raise AssertionError("the caller runs the tools")


def read_format(given: Mapping[str, Json] | None, param: str) -> Mapping[str, Json] | None:
    """The response format for the Responses API, or None for plain text. Raises `SettingsError` for an unknown format."""
    kind = (given or {}).get("type", "text")
    if not given or kind == "text":
        return None
    known = {"json_object": {"type"}, "json_schema": {"type", "name", "description", "schema", "strict"}}
    if (
        not isinstance(kind, str)
        or kind not in known
        or (kind == "json_schema" and not isinstance(given.get("schema"), Mapping))
    ):
        raise SettingsError(
            f"Unknown response format {given!r}.",
            "Use text, json_object, or json_schema with a schema.",
            param=param,
        )
    if unknown := sorted(set(given) - known[kind]):
        raise SettingsError(f"A format of type {kind} has no field {unknown[0]!r}.", "Remove it.", param=param)
    return given


def _schema(call: ModelCall) -> AnswerSchema | None:
    if call.format is None:
        return None
    from timestep_lab.runtime.adapters.base import AnswerSchema

    asked = call.format
    return AnswerSchema(
        cast("Mapping[str, Json] | None", asked.get("schema")), strict=bool(asked.get("strict")),
        name=cast("str", asked.get("name") or "final_output"), description=cast("str | None", asked.get("description")),
    )  # fmt: skip


ONE_ANSWER = "One answer"
"""The workflow name of traces of `lab.ask`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """The status of each provider, and the default model."""

    default_model: str
    providers: list[ProviderStatus]


async def _answered(models: Models, last: Event) -> ModelAnswer:
    assert isinstance(last, AnswerCompleted)
    return last.answer


async def whole_answer(events: AsyncGenerator[Event, None]) -> ModelAnswer:
    """The completed answer of a stream of `Models.ask`."""
    async with aclosing(events):
        async for event in events:
            last = event
    assert isinstance(last, AnswerCompleted)
    return last.answer


@op.noun("models")
class Models:
    """The models known to the router, by name."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._asking = 0

    @op.get("/providers")
    def status(self) -> Providers:
        """The status of each provider."""
        return Providers(
            default_model=self._scope.settings.default_model, providers=self._scope.router.providers()
        )  # fmt: skip

    @op.get("/providers/{prefix}/models")
    async def of_provider(self, prefix: Annotated[str, Len(1, 100)]) -> list[str]:
        """The provider's models, queried now. Raises `UnknownPrefixError`, `ProviderError`."""
        return await self._scope.router.list_models(prefix)

    @op.get("/models")
    async def list(self) -> builtins.list[str]:
        """Full names of the models of all providers that are set up and answer."""
        return await self._scope.router.list_models()

    @op.stream("/models/ask", ended=_answered)
    async def ask(
        self,
        prompt: Annotated[str, Len(0, 1_000_000)] | Annotated[Sequence[JsonObject], Len(0, 10_000)],
        *,
        model: ModelName | None = None,
        instructions: Instructions = "",
        tools: Annotated[Sequence[JsonObject], Len(0, 500)] = (),
        response_format: JsonObject | None = None,
        model_settings: JsonObject | None = None,
        timeout_s: Annotated[float, Interval(gt=0, le=3600)] = 120.0,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Call a model once, without an agent. With `stream`, the answer is streamed, and closing the stream ends the
        call. The call is traced.

        `prompt`: a text, or Responses API input items. `tools`: functions that the model may request; they are not
        executed. `response_format`: `{"type": "json_schema", "name", "schema"}` or `{"type": "json_object"}`.
        `timeout_s`: in seconds. `metadata` is stored with the trace.

        Raises `UnknownPrefixError`, `MissingKeyError`, `SettingsError`, `UsageError`; during the call `ProviderError`,
        and `BudgetError` after `timeout_s`.
        """
        scope = self._scope
        call = ModelCall(
            model=scope.router.resolve(model or scope.settings.default_model).full,
            input=read_items(prompt), instructions=instructions or None,
            settings=model_settings or {}, functions=read_tools(tools), format=read_format(response_format, "response_format"),
            metadata=metadata or {}, workflow=ONE_ANSWER,
        )  # fmt: skip
        if scope.store.quota:
            scope.store.quota.check_runs(self._asking)
            await in_thread(scope.store.quota.take_traces)
        self._asking += 1
        try:
            async with aclosing(answer(scope, call, timeout_s=timeout_s)) as events:
                async for event in events:
                    yield event
        finally:
            self._asking -= 1

    @op.get("/models/{name:path}")
    def read(self, name: Annotated[str, Len(1, 500)], *, usable: bool = False) -> ModelRef:
        """Resolve a model name. Whether the provider has the model is only known when it is called.

        `usable`: also check that it could be called now. Raises `UnknownPrefixError`; with `usable` also
        `MissingKeyError`, `ModelNotFoundError`, `SettingsError`.
        """
        if usable:
            self._scope.router.get_model(name)
        return self._scope.router.resolve(name)

    def __repr__(self) -> str:
        listed = [f"  {p.prefix}/  {'ready' if p.ready else p.detail}" for p in self.providers()]
        return "\n".join(
            ["Model providers (await lab.models.list() lists the models of those that are ready):", *listed]
        )

    # -- aliases with the names of the router's methods

    def providers(self) -> builtins.list[ProviderStatus]:
        """The status of each provider: whether it is set up, and what is missing. Sends no requests."""
        return self.status().providers

    def resolve(self, name: str | None) -> ModelRef:
        """Resolve a model name; without one, the default model. Raises `UnknownPrefixError`."""
        return self.read(name or self.status().default_model)

    async def list_models(self, prefix: str | None = None) -> builtins.list[str]:
        """Full names of one provider's models, or of all providers that are ready."""
        return await (self.list() if prefix is None else self.of_provider(prefix))

    async def check(self, name: str) -> str:
        """The full name of a model, checked to be usable now. Raises as `read`."""
        return (await in_thread(self.read, name, usable=True)).full

    def add(self, kind: object) -> NoReturn:
        """Not supported: a provider is a class in the process that serves the lab."""
        from timestep_lab.service.client import unsupported_remotely

        raise unsupported_remotely("A custom provider", "Install it as an entry point where the lab is served.")
