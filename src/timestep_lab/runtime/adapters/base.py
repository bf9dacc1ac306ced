"""Base of all adapters: translates the SDK's `Model` interface to one request object and one emitter.

An adapter implements `_stream(request, emitter)`: it yields the emitter's events, ends with `emitter.finish(…)`, and lets its
client's exceptions propagate (the routed model handles errors, retries and timing). It never opens a span.
"""

from __future__ import annotations

import abc
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypedDict, cast

from agents import AgentOutputSchemaBase, Handoff, Model, ModelResponse, ModelSettings, ModelTracing
from agents import Usage as SdkUsage
from agents.items import TResponseInputItem, TResponseStreamEvent
from agents.models import get_default_model_settings
from agents.tool import FunctionTool, Tool

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import UNSUPPORTED_PARAMETER, LabError, ProviderUnavailableError, SettingsError
from timestep_lab.runtime.attachments import files_as_text, generated_image
from timestep_lab.runtime.emitter import Emitter, provider_call_id

if TYPE_CHECKING:
    from openai.types.responses import Response
    from openai.types.responses.response_prompt_param import ResponsePromptParam

ALWAYS_TAKEN = frozenset({"retry", "timeout", "preserve_raw_usage", "include_usage"})
"""Settings handled by the SDK's runner, or always supported."""


Content: TypeAlias = str | Sequence[Mapping[str, Json]]
"""Content of a message, or the output of a tool: text or parts."""


class ProviderData(TypedDict, total=False):
    """What the adapters keep with an output item, and read when it is sent back."""

    model: str
    field: str
    signature: str
    think_tags: str | bool
    anthropic_blocks: list[dict[str, Json]]


class InputItem(TypedDict, total=False):
    """The fields of Responses input items that the adapters read, of all types."""

    type: str
    role: str
    content: Content
    call_id: str
    name: str
    arguments: str
    output: Content
    summary: Sequence[Mapping[str, str]]
    provider_data: ProviderData


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSpec:
    """A tool or handoff as offered to a model."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of an object."""
    strict: bool = False
    is_handoff: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One request to a model."""

    instructions: str | None
    input: list[InputItem]
    """Responses input items."""
    settings: ModelSettings
    functions: tuple[FunctionSpec, ...]
    schema: Mapping[str, Any] | None
    """JSON schema of the answer."""
    schema_strict: bool = False
    schema_name: str = "final_output"
    schema_description: str | None = None
    any_json: bool = False
    """Any JSON object is accepted; `schema` says nothing more."""

    @property
    def effort(self) -> str | None:
        reasoning = self.settings.reasoning
        return None if reasoning is None else reasoning.effort


@lru_cache(maxsize=1)
def _sdk_default_settings() -> ModelSettings:
    return get_default_model_settings()


class AnswerSchema(AgentOutputSchemaBase):
    """Output schema requested by a client of the OpenAI API, with its name and description. Without `schema`: any JSON object."""

    def __init__(
        self,
        schema: Mapping[str, object] | None,
        *,
        strict: bool = False,
        name: str = "final_output",
        description: str | None = None,
    ) -> None:
        self.any_json = schema is None
        self.description = description
        self._schema, self._strict, self._name = dict(schema or {"type": "object"}), strict, name

    def is_plain_text(self) -> bool:
        return False

    def name(self) -> str:
        return self._name

    def json_schema(self) -> dict[str, object]:
        return self._schema

    def is_strict_json_schema(self) -> bool:
        return self._strict

    def validate_json(self, json_str: str) -> Json:
        value: Json = json.loads(json_str)
        return value

    def response_format(self) -> dict[str, object]:
        """Returns the schema in the form of the Responses API."""
        if self.any_json:
            return {"type": "json_object"}
        described = {"description": self.description} if self.description is not None else {}
        return {
            "type": "json_schema", "name": self._name, "strict": self._strict, "schema": self._schema, **described,
        }  # fmt: skip


def response_format_of(schema: AgentOutputSchemaBase) -> dict[str, object]:
    """Returns an output schema in the form of the Responses API."""
    if isinstance(schema, AnswerSchema):
        return schema.response_format()
    return {
        "type": "json_schema", "name": "final_output", "strict": schema.is_strict_json_schema(), "schema": schema.json_schema(),
    }  # fmt: skip


@contextmanager
def reading(provider: str, model: str) -> Iterator[None]:
    """Context manager for parsing a server's response: a parsing error becomes a `ProviderUnavailableError`."""
    try:
        yield
    except (LabError, json.JSONDecodeError, UnicodeDecodeError):
        raise
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        what = str(error).partition("\n")[0][:200]
        raise ProviderUnavailableError(
            f"{provider}/{model} sent an invalid response ({type(error).__name__}: {what}).",
            "Partial output is kept. Try again; if it recurs, the server needs to be fixed.",
            provider=provider,
        ) from error


class AdapterModel(Model):
    """Base class of adapters. `model` is the provider's name of the model."""

    takes: ClassVar[frozenset[str]] = frozenset()
    """Supported `ModelSettings` fields. Setting any other raises `SettingsError`."""

    takes_of_reasoning: ClassVar[frozenset[str]] = frozenset({"effort"})
    """Supported fields of the `reasoning` setting."""

    takes_files: ClassVar[frozenset[str]] = frozenset()
    """Media types that can be sent as files; other files are sent as text."""

    def __init__(self, model: str, provider: str) -> None:
        self.model = model
        self.prefix = provider

    async def prepare(self) -> None:
        """Does one-time work before the first request, which must not count as waiting for the provider."""
        return None

    def reading(self) -> AbstractContextManager[None]:
        return reading(self.prefix, self.model)

    @abc.abstractmethod
    def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[TResponseStreamEvent]: ...

    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: ResponsePromptParam | None = None,
        brief: bool = False,
    ) -> AsyncIterator[TResponseStreamEvent]:
        """Streams the answer. For `brief` see `Emitter`."""
        for name, value in (
            ("previous_response_id", previous_response_id), ("conversation_id", conversation_id), ("prompt", prompt),
        ):  # fmt: skip
            if value is not None:
                raise SettingsError(
                    f"{self.prefix}/ does not store conversations, so it does not support {name}.", param=name
                )
        if model_settings == _sdk_default_settings():
            # The SDK sets these for an agent without a model; they are meant for its own default model.
            model_settings = ModelSettings()
        self._check(model_settings)
        schema = None if output_schema is None or output_schema.is_plain_text() else output_schema
        items = [{"role": "user", "content": input}] if isinstance(input, str) else images_as_parts(input)
        if not all(isinstance(item.get("content"), str) for item in items):
            items = await files_as_text(items, self.takes_files)
        request = ModelRequest(
            instructions=system_instructions,
            input=cast("list[InputItem]", items),
            settings=model_settings,
            functions=(*map(self._tool, tools), *map(_handoff, handoffs)),
            schema=None if schema is None else schema.json_schema(),
            schema_strict=schema is not None and schema.is_strict_json_schema(),
        )
        if isinstance(output_schema, AnswerSchema):
            request = replace(
                request, schema_name=output_schema.name(), schema_description=output_schema.description,
                any_json=output_schema.any_json,
            )  # fmt: skip
        emitter = Emitter(self.model, brief=brief)
        if not brief:
            for event in emitter.start():
                yield event
        stream = self._stream(request, emitter)
        try:
            async for event in stream:
                yield event
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        """Returns the complete answer, using the same code as streaming."""
        return await whole_response(self.stream_response(*args, **kwargs))

    def _check(self, settings: ModelSettings) -> None:
        given = {field.name for field in fields(settings) if getattr(settings, field.name) not in (None, {}, [])}
        if refused := sorted(given - self.takes - ALWAYS_TAKEN):
            raise SettingsError(
                f"{self.prefix}/{self.model} does not take the model setting{'s' * (len(refused) > 1)} {', '.join(refused)}.",
                f"It takes: {', '.join(sorted(self.takes)) or 'none'}.",
                param=f"model_settings.{refused[0]}",
                code=UNSUPPORTED_PARAMETER,
            )
        inside = set() if settings.reasoning is None else set(settings.reasoning.model_dump(exclude_none=True))
        if refused := sorted(inside - self.takes_of_reasoning):
            raise SettingsError(
                f"{self.prefix}/{self.model} does not take {', '.join(f'reasoning.{name}' for name in refused)}.",
                f"It takes: {', '.join(f'reasoning.{name}' for name in sorted(self.takes_of_reasoning))}.",
                param="model_settings.reasoning",
                code=UNSUPPORTED_PARAMETER,
            )

    def _tool(self, tool: object) -> FunctionSpec:
        if not isinstance(tool, FunctionTool):
            raise SettingsError(
                f"{self.prefix}/ cannot run the hosted tool {getattr(tool, 'name', type(tool).__name__)!r}.",
                "Hosted tools run at OpenAI: use a model of `openai/`, or give the agent a function or an MCP tool.",
                param="tools",
                code=UNSUPPORTED_PARAMETER,
            )
        return FunctionSpec(
            name=tool.name,
            description=tool.description or "",
            parameters=tool.params_json_schema,
            strict=tool.strict_json_schema,
        )


def _handoff(handoff: Handoff) -> FunctionSpec:
    return FunctionSpec(
        name=handoff.tool_name,
        description=handoff.tool_description or "",
        parameters=handoff.input_json_schema or {"type": "object", "properties": {}},
        strict=handoff.strict_json_schema,
        is_handoff=True,
    )


NAMELESS = "unnamed"
"""Name given to a call for which the server sent none; calls without a name cannot be sent back."""
SET_ASIDE = "settings_set_aside"
"""Metadata key of a response: settings that were omitted because the model does not support them (comma-separated)."""

COST = "cost_usd"
"""Metadata key of a response: its cost, where the server states it."""


def set_aside_note(names: Sequence[str]) -> dict[str, str]:
    return {SET_ASIDE: ",".join(names)} if names else {}


async def whole_response(stream: AsyncIterator[TResponseStreamEvent]) -> ModelResponse:
    """Reads a stream to its end and returns the response. Raises `RuntimeError` when the stream did not complete."""
    last: Response | None = None
    async for event in stream:
        if event.type == "response.completed":
            last = event.response
    if last is None:
        raise RuntimeError("The stream of a model ended without response.completed.")
    used = last.usage
    usage = (
        SdkUsage(requests=1)
        if used is None
        else SdkUsage(
            requests=1,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            total_tokens=used.total_tokens,
            input_tokens_details=used.input_tokens_details,
            output_tokens_details=used.output_tokens_details,
        )
    )
    return ModelResponse(output=last.output, usage=usage, response_id=last.id)


_COMBINED = ("anyOf", "oneOf", "allOf")


def plain_object(spec: FunctionSpec) -> FunctionSpec:
    """Returns a spec for providers that allow no combinators or references at the top of a tool's schema: one object with the fields of all
    alternatives. Fields required by every alternative are required, and the full schema is appended to the description."""
    given = spec.parameters
    plain = _merged(given, given)
    if plain is None:
        return replace(spec, parameters={"type": "object", "properties": {}, **given})
    description = f"{spec.description}\nThe arguments must follow this JSON schema: {json.dumps(given)}".strip()
    return replace(spec, parameters=plain, description=description)


def _merged(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> dict[str, Any] | None:
    """Returns the merged object, or None for a schema that needs no merging."""
    if "$ref" not in schema and not any(name in schema for name in _COMBINED):
        return None
    properties: dict[str, Json] = {}
    required = set(schema.get("required") or ())
    targets = [_target(root, str(schema["$ref"]))] if "$ref" in schema else []
    for together, forms in [(True, [schema]), (True, targets)] + [
        (name == "allOf", schema.get(name) or ()) for name in _COMBINED
    ]:
        needed = []
        for form in forms:
            if not isinstance(form, Mapping):
                continue
            inner = form if form is schema or depth > 8 else _merged(form, root, depth + 1) or form
            properties |= {
                name: value for name, value in (inner.get("properties") or {}).items() if name not in properties
            }
            needed.append(set(inner.get("required") or ()))
        if needed:
            required |= set.union(*needed) if together else set.intersection(*needed)
    definitions = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    return {"type": "object", "properties": properties, "required": sorted(required & set(properties)), **definitions}


def _target(root: Mapping[str, object], reference: str) -> object:
    node: object = root
    for step in reference.removeprefix("#").strip("/").split("/") if reference.startswith("#") else ("",):
        node = node.get(step.replace("~1", "/").replace("~0", "~")) if step and isinstance(node, Mapping) else node
    return node


def parts_of(content: Content | None) -> list[Mapping[str, Json]]:
    """Returns a message's content as a list of parts."""
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else list(content or ())


def text_of(content: Content | None) -> str:
    """Returns the text of a message's content or of a tool's output; other parts have none."""
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in parts_of(content))


THINK_TAGS = {"<think>": "</think>", "<thought>": "</thought>", "[THINK]": "[/THINK]"}
"""Tags around reasoning that a server sends as text: of DeepSeek, Qwen and most others; of Gemini; of Mistral."""


class ThinkTags:
    """Separates reasoning from text when a server sends both as text, with the reasoning in tags at the start of an answer."""

    def __init__(self) -> None:
        self.opening = ""
        """The tag that started the reasoning."""
        self._held = ""
        """Text that may be the start of a tag."""
        self._place: Literal["before", "inside", "after"] = "before"
        self._answer_begun = False

    def read(self, text: str) -> Iterator[tuple[Literal["thought", "text"], str]]:
        if self._answer_begun and self._place == "after" and text:
            yield "text", text
            return
        text, self._held = self._held + text, ""
        if self._place == "before":
            begun = text.lstrip()
            if any(len(begun) < len(tag) and tag.startswith(begun) for tag in THINK_TAGS):
                self._held = text
                return
            self.opening = next((tag for tag in THINK_TAGS if begun.startswith(tag)), "")
            self._place = "inside" if self.opening else "after"
            self._answer_begun = self._place == "after"
            text = begun.removeprefix(self.opening) if self.opening else text
        if self._place == "inside":
            closing = THINK_TAGS[self.opening]
            thought, closed, text = text.partition(closing)
            if not closed:
                sure = len(thought) - _overlap(thought, closing)
                thought, self._held = thought[:sure], thought[sure:]
            else:
                self._place = "after"
            if thought:
                yield "thought", thought
        if not self._answer_begun:
            text = text.lstrip()
        if self._place == "after" and text:
            self._answer_begun = True
            yield "text", text

    def end(self) -> Iterator[tuple[Literal["thought", "text"], str]]:
        held, self._held = self._held, ""
        if held:
            yield ("thought" if self._place == "inside" else "text"), held


def between_tags(opening: str, thought: str) -> str:
    """Returns reasoning in the text form in which it was sent."""
    return f"{opening}{thought}{THINK_TAGS[opening]}\n\n"


def _overlap(text: str, tag: str) -> int:
    """Returns how many characters at the end of `text` may start `tag`."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0)


class CallIds:
    """Maps call ids to unique ids in the format that a server accepts. The server's own ids in that format are restored."""

    def __init__(self, form: str, made: Callable[[str], str]) -> None:
        """`form`: a regular expression. `made`: creates an id of that form from 64 letters and digits."""
        self._form, self._made = re.compile(form), made
        self._used: set[str] = set()
        self._open: dict[str, list[str]] = {}
        self._answered: dict[str, str] = {}

    def of_call(self, call_id: str) -> str:
        for sent in (provider_call_id(call_id), call_id):
            if self._form.fullmatch(sent) and sent not in self._used:
                break
        else:
            times = len(self._used)  # counted, so that the same conversation always produces the same ids
            sent = self._made(hashlib.sha256(f"{times}/{call_id}".encode()).hexdigest())
        self._used.add(sent)
        self._open.setdefault(call_id, []).append(sent)
        return sent

    def of_answer(self, call_id: str) -> str:
        """Returns the id of the first call with this id that has no result yet."""
        if waiting := self._open.get(call_id):
            self._answered[call_id] = waiting.pop(0)
        return self._answered.get(call_id, provider_call_id(call_id))


TEXT_PARTS = ("input_text", "output_text", "text", "refusal")


def results_as_text(items: Sequence[InputItem]) -> list[InputItem]:
    """For protocols with text-only tool results: moves other parts, such as images, to a user message after the results."""
    sent: list[InputItem] = []
    behind: list[Mapping[str, Json]] = []
    names = {item["call_id"]: item["name"] for item in items if item.get("type") == "function_call"}
    for item in items:
        if item.get("type") != "function_call_output":
            if behind:
                sent.append({"role": "user", "content": behind})
                behind = []
            sent.append(item)
            continue
        parts = parts_of(item.get("output"))
        if others := [part for part in parts if part.get("type") not in TEXT_PARTS]:
            name = names.get(item["call_id"], "the tool")
            behind += [{"type": "input_text", "text": f"The rest of the result of {name}:"}, *others]
            item = {**item, "output": text_of(parts) or "The result is in the next message."}
        sent.append(item)
    return [*sent, {"role": "user", "content": behind}] if behind else sent


def images_as_parts(items: Iterable[Mapping[str, Any]], *, only_of_adapters: bool = False) -> list[dict[str, Any]]:
    """Returns copies of the items, with images that a model made as parts of the next user message, because no other message may have any.

    `only_of_adapters`: those that the Responses API made stay as they are.
    """
    sent: list[dict[str, Json]] = []
    made: list[Mapping[str, Json]] = []
    for item in items:
        if item.get("type") == "image_generation_call" and ("provider_data" in item or not only_of_adapters):
            if image := generated_image(item):
                made.append(image)
        elif made and item.get("role") == "user":
            sent.append({**item, "content": [*_made(made), *parts_of(item.get("content"))]})
            made = []
        else:
            sent.append(dict(item))
    return [*sent, {"role": "user", "content": _made(made)}] if made else sent


def _made(images: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    return [
        {"type": "input_text", "text": f"Generated by the assistant: {len(images)} image{'s' * (len(images) > 1)}."},
        *images,
    ]


def items_of(items: Sequence[InputItem]) -> Iterator[tuple[str, InputItem]]:
    """Yields (type, item) for each input item. A message may lack its type."""
    for item in items:
        yield str(item.get("type") or "message"), item


# --- Input items as seen by a rule: the last user message and the calls since


@dataclass(frozen=True, slots=True)
class Call:
    """An earlier function call of the model, and its result."""

    name: str
    arguments: Mapping[str, Json]
    output: str | None
    """None without a result."""


@dataclass(frozen=True, slots=True)
class Turn:
    """`user`: the last user message. `calls`: the calls since then, in order."""

    user: str
    calls: tuple[Call, ...]

    def called(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]


def read_turn(items: Iterable[InputItem]) -> Turn:
    """Reads the current turn. Arguments that are not valid JSON count as empty."""
    user = ""
    calls: list[tuple[str, str, str]] = []
    outputs: dict[str, str] = {}
    for item in items:
        kind = item.get("type") or "message"
        if kind == "message" and item.get("role") == "user":
            user, calls = text_of(item.get("content")), []
        elif kind == "function_call":
            calls.append((item["call_id"], item["name"], item.get("arguments") or "{}"))
        elif kind == "function_call_output":
            outputs[item["call_id"]] = plain_output(item.get("output"))
    return Turn(user, tuple(Call(name, _object(text), outputs.get(call_id)) for call_id, name, text in calls))


def plain_output(output: Content | None) -> str:
    """Returns a tool's result as text. MCP results are wrapped as `{"type": "text", "text": …}`, alone or in a list."""
    text = output if isinstance(output, str) else text_of(output)
    try:
        value = json.loads(text)
    except ValueError:
        return text
    parts = value if isinstance(value, list) else [value]
    if parts and all(isinstance(part, dict) and part.get("type") == "text" and "text" in part for part in parts):
        return "\n".join(str(part["text"]) for part in parts)
    return text


def _object(text: str) -> Mapping[str, Json]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
