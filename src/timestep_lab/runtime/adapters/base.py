"""What every adapter shares: the SDK's `Model` interface on one side, one request object and one emitter on the other.

A concrete adapter writes `_stream(request, emitter)`: it yields the emitter's events, ends with `emitter.finish(…)`, and
raises whatever its client raises (the routed model maps errors, retries and times). It never opens a span.
"""

from __future__ import annotations

import abc
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

from agents import AgentOutputSchemaBase, Model, ModelResponse, ModelSettings
from agents import Usage as SdkUsage
from agents.models import get_default_model_settings
from agents.tool import FunctionTool

from timestep_lab.model.errors import LabError, ProviderUnavailableError, SettingsError
from timestep_lab.runtime.attachments import files_as_text
from timestep_lab.runtime.emitter import Emitter, provider_call_id

ALWAYS_TAKEN = frozenset({"retry", "timeout", "preserve_raw_usage", "include_usage"})
"""Settings that the SDK's runner acts on, or that we always grant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSpec:
    """A tool or a handoff, as a model is told of it."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of an object."""
    strict: bool = False
    is_handoff: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One call of a model."""

    instructions: str | None
    input: list[dict[str, Any]]
    """Responses input items."""
    settings: ModelSettings
    functions: tuple[FunctionSpec, ...]
    schema: Mapping[str, Any] | None
    """JSON schema that the answer must follow."""
    schema_strict: bool = False
    schema_name: str = "final_output"
    schema_description: str | None = None
    any_json: bool = False
    """Any JSON object will do; `schema` says no more than that."""

    @property
    def effort(self) -> str | None:
        reasoning = self.settings.reasoning
        return None if reasoning is None else reasoning.effort


@lru_cache(maxsize=1)
def _sdk_default_settings() -> ModelSettings:
    return get_default_model_settings()


class AnswerSchema(AgentOutputSchemaBase):
    """The form of an answer that a caller of the OpenAI API asks for, with all that it said of it. Without `schema`: any JSON object."""

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

    def json_schema(self) -> dict[str, Any]:
        return self._schema

    def is_strict_json_schema(self) -> bool:
        return self._strict

    def validate_json(self, json_str: str) -> Any:
        return json.loads(json_str)

    def response_format(self) -> dict[str, Any]:
        """As the Responses API has it."""
        if self.any_json:
            return {"type": "json_object"}
        described = {"description": self.description} if self.description is not None else {}
        return {
            "type": "json_schema", "name": self._name, "strict": self._strict, "schema": self._schema, **described,
        }  # fmt: skip


def response_format_of(schema: AgentOutputSchemaBase) -> dict[str, Any]:
    """What an answer must look like, as the Responses API has it."""
    if isinstance(schema, AnswerSchema):
        return schema.response_format()
    return {
        "type": "json_schema", "name": "final_output", "strict": schema.is_strict_json_schema(), "schema": schema.json_schema(),
    }  # fmt: skip


class AdapterModel(Model):
    """Base of our adapters. `model` is the provider's name of the model."""

    takes: ClassVar[frozenset[str]] = frozenset()
    """Names of the `ModelSettings` fields that this protocol can honour. Any other that is set is refused."""

    takes_of_reasoning: ClassVar[frozenset[str]] = frozenset({"effort"})
    """The same for what is inside `reasoning`."""

    takes_files: ClassVar[frozenset[str]] = frozenset()
    """Media types that this protocol takes as files; of others the model is given the text."""

    def __init__(self, model: str, provider: str) -> None:
        self.model = model
        self.prefix = provider

    async def prepare(self) -> None:
        """What must be done once before the first request, and is not to count as waiting for the provider."""
        return None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around what reads a server's answer: one that is not of the protocol is the server's fault, and told as such."""
        try:
            yield
        except (LabError, json.JSONDecodeError, UnicodeDecodeError):
            raise
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            what = str(error).partition("\n")[0][:200]
            raise ProviderUnavailableError(
                f"{self.prefix}/{self.model} sent what is not of its protocol ({type(error).__name__}: {what}).",
                "What had arrived is kept. Try again; if it happens again, the server has to be mended.",
                provider=self.prefix,
            ) from error

    @abc.abstractmethod
    def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[Any]: ...

    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[Any],
        model_settings: ModelSettings,
        tools: list[Any],
        output_schema: Any,
        handoffs: list[Any],
        tracing: Any,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: Any = None,
        brief: bool = False,
    ) -> AsyncIterator[Any]:
        """`brief`: see `Emitter`."""
        for name, value in (
            ("previous_response_id", previous_response_id), ("conversation_id", conversation_id), ("prompt", prompt),
        ):  # fmt: skip
            if value is not None:
                raise SettingsError(
                    f"{self.prefix}/ does not keep conversations, so it cannot take {name}.", param=name
                )
        if model_settings == _sdk_default_settings():
            # What the SDK gives an agent that names no model: meant for its own default model, and nobody's wish here.
            model_settings = ModelSettings()
        self._check(model_settings)
        wants_schema = output_schema is not None and not output_schema.is_plain_text()
        items = [{"role": "user", "content": input}] if isinstance(input, str) else [dict(item) for item in input]
        request = ModelRequest(
            instructions=system_instructions,
            input=await files_as_text(items, self.takes_files),
            settings=model_settings,
            functions=(*map(self._tool, tools), *map(_handoff, handoffs)),
            schema=output_schema.json_schema() if wants_schema else None,
            schema_strict=wants_schema and output_schema.is_strict_json_schema(),
            **_asked(output_schema),
        )
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
        """The whole answer at once; the same path as streaming."""
        return await whole_response(self.stream_response(*args, **kwargs))

    def _check(self, settings: ModelSettings) -> None:
        given = {field.name for field in fields(settings) if getattr(settings, field.name) not in (None, {}, [])}
        if refused := sorted(given - self.takes - ALWAYS_TAKEN):
            raise SettingsError(
                f"{self.prefix}/{self.model} does not take the model setting{'s' * (len(refused) > 1)} {', '.join(refused)}.",
                f"It takes: {', '.join(sorted(self.takes)) or 'none'}.",
                param=f"model_settings.{refused[0]}",
            )
        inside = set() if settings.reasoning is None else set(settings.reasoning.model_dump(exclude_none=True))
        if refused := sorted(inside - self.takes_of_reasoning):
            raise SettingsError(
                f"{self.prefix}/{self.model} does not take {', '.join(f'reasoning.{name}' for name in refused)}.",
                f"It takes: {', '.join(f'reasoning.{name}' for name in sorted(self.takes_of_reasoning))}.",
                param="model_settings.reasoning",
            )

    def _tool(self, tool: object) -> FunctionSpec:
        if not isinstance(tool, FunctionTool):
            raise SettingsError(
                f"{self.prefix}/ cannot run the hosted tool {getattr(tool, 'name', type(tool).__name__)!r}.",
                "Hosted tools run at OpenAI: use a model of `openai/`, or give the agent a function or an MCP tool.",
                param="tools",
            )
        return FunctionSpec(
            name=tool.name,
            description=tool.description or "",
            parameters=tool.params_json_schema,
            strict=tool.strict_json_schema,
        )


def _asked(schema: object) -> dict[str, Any]:
    if not isinstance(schema, AnswerSchema):
        return {}
    return {"schema_name": schema.name(), "schema_description": schema.description, "any_json": schema.any_json}


def _handoff(handoff: Any) -> FunctionSpec:
    return FunctionSpec(
        name=handoff.tool_name,
        description=handoff.tool_description or "",
        parameters=handoff.input_json_schema or {"type": "object", "properties": {}},
        strict=handoff.strict_json_schema,
        is_handoff=True,
    )


NAMELESS = "unnamed"
"""What a call is named for which the server sent no name; it cannot be sent back without one."""
SET_ASIDE = "settings_set_aside"
"""Key in a response's metadata: settings that were left out because the model has no such knob (comma-separated)."""


def set_aside_note(names: Sequence[str]) -> dict[str, str]:
    return {SET_ASIDE: ",".join(names)} if names else {}


async def whole_response(stream: AsyncIterator[Any]) -> ModelResponse:
    """Read a stream to its end. Raises `RuntimeError` when it never completed: adapters raise before that."""
    last: Any = None
    async for event in stream:
        if event.type == "response.completed":
            last = event.response
    if last is None:
        raise RuntimeError("A model's stream ended without response.completed.")
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
    """For providers that take no choice and no reference at the top of a tool's schema: one object with the fields of all forms,
    of which those are required that every form requires; what that loses is told in words."""
    given = spec.parameters
    plain = _merged(given, given)
    if plain is None:
        return replace(spec, parameters={"type": "object", "properties": {}, **given})
    description = f"{spec.description}\nThe arguments must follow this JSON schema: {json.dumps(given)}".strip()
    return replace(spec, parameters=plain, description=description)


def _merged(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> dict[str, Any] | None:
    """None for a schema that is plain already."""
    if "$ref" not in schema and not any(name in schema for name in _COMBINED):
        return None
    properties: dict[str, Any] = {}
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


def _target(root: Mapping[str, object], reference: str) -> Any:
    node: Any = root
    for step in reference.removeprefix("#").strip("/").split("/") if reference.startswith("#") else ("",):
        node = node.get(step.replace("~1", "/").replace("~0", "~")) if step and isinstance(node, Mapping) else node
    return node


def parts_of(content: Any) -> list[Mapping[str, Any]]:
    """A message's content as a list of parts, whichever form it came in."""
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else list(content or ())


def text_of(content: object) -> str:
    """The text of a message's content or of a tool's output; other parts have none."""
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in parts_of(content))


THINK_TAGS = {"<think>": "</think>", "<thought>": "</thought>", "[THINK]": "[/THINK]"}
"""Between which models put their thinking where a server sends it as text: DeepSeek's, Qwen's and most; Gemini's; Mistral's."""


class ThinkTags:
    """Tells thinking from text where a server sends both as text: between tags at the beginning of an answer."""

    def __init__(self) -> None:
        self.opening = ""
        """The tag with which thinking began."""
        self._held = ""
        """What may be the beginning of a tag."""
        self._place: Literal["before", "inside", "after"] = "before"
        self._answer_begun = False

    def read(self, text: str) -> Iterator[tuple[Literal["thought", "text"], str]]:
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
    """Thinking as the text that it came as."""
    return f"{opening}{thought}{THINK_TAGS[opening]}\n\n"


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` may begin `tag`."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0)


class CallIds:
    """Ids of calls in the form that a server takes, none twice. Ids that it gave itself go back as they came where they have that form."""

    def __init__(self, form: str, made: Callable[[str], str]) -> None:
        """`form`: a regular expression. `made`: an id of that form from 64 letters and digits."""
        self._form, self._made = re.compile(form), made
        self._used: set[str] = set()
        self._open: dict[str, list[str]] = {}
        self._answered: dict[str, str] = {}

    def of_call(self, call_id: str) -> str:
        for sent in (provider_call_id(call_id), call_id):
            if self._form.fullmatch(sent) and sent not in self._used:
                break
        else:
            times = len(self._used)  # counted, so that the same conversation is always sent in the same words
            sent = self._made(hashlib.sha256(f"{times}/{call_id}".encode()).hexdigest())
        self._used.add(sent)
        self._open.setdefault(call_id, []).append(sent)
        return sent

    def of_answer(self, call_id: str) -> str:
        """Of the first call with this id that has no answer yet."""
        if waiting := self._open.get(call_id):
            self._answered[call_id] = waiting.pop(0)
        return self._answered.get(call_id, call_id)


TEXT_PARTS = ("input_text", "output_text", "text", "refusal")


def results_as_text(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For protocols in which what a tool says is a text: its images come in a message of the user's behind the results."""
    sent: list[dict[str, Any]] = []
    behind: list[Mapping[str, Any]] = []
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


def items_of(items: Sequence[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(type, item) for each input item. A message may come without its type."""
    for item in items:
        yield str(item.get("type") or "message"), item


# --- The input items of a call, read the way a rule needs them: what the user said last, and what was done about it since


@dataclass(frozen=True, slots=True)
class Call:
    """A function call that the model made earlier, and what came of it."""

    name: str
    arguments: Mapping[str, Any]
    output: str | None
    """None while there is no result."""


@dataclass(frozen=True, slots=True)
class Turn:
    """`user`: the last thing the user said. `calls`: those made since then, in order."""

    user: str
    calls: tuple[Call, ...]

    def called(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]


def read_turn(items: Iterable[Mapping[str, Any]]) -> Turn:
    """Unreadable arguments count as none: they are the model's own, and rules only look at what they can read."""
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


def plain_output(output: object) -> str:
    """A tool's result as text. MCP results come wrapped as `{"type": "text", "text": …}`, once or in a list."""
    text = output if isinstance(output, str) else text_of(output)
    try:
        value = json.loads(text)
    except ValueError:
        return text
    parts = value if isinstance(value, list) else [value]
    if parts and all(isinstance(part, dict) and part.get("type") == "text" and "text" in part for part in parts):
        return "\n".join(str(part["text"]) for part in parts)
    return text


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
