"""One call of a model through the router, without an agent around it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import StreamingResponse

from timestep_lab.model.errors import LabError, SettingsError
from timestep_lab.model.records import Json
from timestep_lab.runtime.model_settings import validate_settings
from timestep_lab.server.api.sse import HEADERS
from timestep_lab.server.detached import detached
from timestep_lab.server.error_response import error_object


@dataclass(frozen=True, slots=True)
class ModelCall:
    model: str
    input: Sequence[Mapping[str, Json]]
    """Responses input items."""
    instructions: str | None = None
    settings: Mapping[str, Json] = field(default_factory=dict)
    functions: Sequence[Mapping[str, Json]] = ()
    """`{"name", "description", "parameters", "strict"}` each. They are the caller's to run."""
    format: Mapping[str, Json] | None = None
    """What the answer must look like, as the Responses API says it: `{"type": "json_schema", "name", "schema", …}` or `{"type": "json_object"}`."""
    metadata: Mapping[str, Json] = field(default_factory=dict)
    """Kept with the call's trace."""
    workflow: str = "OpenAI API"
    """What the call's trace is called."""


async def stream(lab: Any, call: ModelCall) -> AsyncIterator[Any]:
    """Responses events, the last `response.completed`. Raises what the router raises before the first. Each call is a trace."""
    from agents import ModelSettings, ModelTracing

    from timestep_lab.runtime.attachments import with_files
    from timestep_lab.runtime.traced_call import traced_call

    input: list[Any] = await with_files(lab.files, call.input)
    model = lab.router.get_model(call.model)
    settings, functions = ModelSettings(**validate_settings(call.settings)), [_function(f) for f in call.functions]
    with traced_call(lab.writer, lab.store.user_id, call.workflow, call.metadata):
        events = model.stream_response(
            call.instructions, input, settings, functions, _schema(call), [],
            ModelTracing.ENABLED,
        )  # fmt: skip
        async for event in events:
            yield event


async def whole(lab: Any, call: ModelCall) -> Any:
    """The response when it is complete."""
    last: Any = None
    async for event in stream(lab, call):
        last = event
    return last.response


async def event_stream(pieces: AsyncIterator[bytes]) -> StreamingResponse:
    """Server-sent events. What is refused before the first one is raised, so that it is answered with its own status; what fails
    later is an event with OpenAI's error object."""
    return StreamingResponse(await detached(pieces, _broken), media_type="text/event-stream", headers=HEADERS)


def _broken(error: Exception) -> bytes:
    known = error if isinstance(error, LabError) else LabError("The lab met a fault of its own.", "Ask again.")
    return b"data: " + json.dumps(error_object(known)).encode() + b"\n\n"


def _function(given: Mapping[str, Json]) -> Any:
    from agents import FunctionTool

    tool = FunctionTool(
        name=given["name"], description=given.get("description") or "",
        params_json_schema=dict(given.get("parameters") or {"type": "object", "properties": {}}),
        on_invoke_tool=_never, strict_json_schema=False,
    )  # fmt: skip
    # Set afterwards: on the way in the SDK would rewrite the schema, which is the caller's.
    tool.strict_json_schema = bool(given.get("strict"))
    return tool


async def _never(_context: Any, _arguments: str) -> str:
    raise AssertionError("the caller runs the tools")


def read_format(given: Mapping[str, Json] | None, param: str) -> Mapping[str, Json] | None:
    """A format of the Responses API, for one that is not plain text. Raises `SettingsError` for one that is not known."""
    kind = (given or {}).get("type", "text")
    if not given or kind == "text":
        return None
    known = {"json_object": {"type"}, "json_schema": {"type", "name", "description", "schema", "strict"}}
    if kind not in known or (kind == "json_schema" and not isinstance(given.get("schema"), dict)):
        raise SettingsError(
            f"The format {given!r} is not known.",
            "There are: text, json_object, json_schema with a schema.",
            param=param,
        )
    if unknown := sorted(set(given) - known[kind]):
        raise SettingsError(f"A format of type {kind} has no {unknown[0]!r}.", "Leave it out.", param=param)
    return given


def _schema(call: ModelCall) -> Any:
    if call.format is None:
        return None
    from timestep_lab.runtime.adapters.base import AnswerSchema

    asked = call.format
    return AnswerSchema(
        asked.get("schema"), strict=bool(asked.get("strict")), name=asked.get("name") or "final_output",
        description=asked.get("description"),
    )  # fmt: skip
