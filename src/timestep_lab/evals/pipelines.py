"""Candidates that are neither a model nor an agent: a Python function, or an HTTP service.

Both receive what a model would receive: a text, or a list of messages. They return the answer: a text, or an object
with `output` and optionally `steps`, `input_tokens`, `output_tokens`, `cost_usd`. A function may also return a run of
the Agents SDK, a reply of OpenAI's client, a pydantic model or a dataclass, or be an async generator of text pieces. Agents SDK calls inside a function become part of its trace; a service is sent a `traceparent`
header so that its spans can join the trace.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import agents as sdk
from agents.result import RunResultBase
from pydantic import BaseModel

from timestep_lab.evals.datasets.case import digest
from timestep_lab.model.codec import Json, object_of
from timestep_lab.model.errors import (
    ProviderAuthError,
    ProviderRequestError,
    ProviderUnavailableError,
    RateLimitError,
    RunError,
    UsageError,
)
from timestep_lab.model.records import AgentRecord
from timestep_lab.runtime.stream_items import output_text

if TYPE_CHECKING:
    import httpx

N = TypeVar("N", int, float)

Asked = str | Sequence[Json]
OnDelta = Callable[[str], None]

FUNCTION, HTTP = "function", "http"
AT_ONCE = 10
"""Maximum concurrent calls of a function or service, unless `concurrency` is given."""
_OUTPUT = ("output", "answer", "text", "response")
_KNOWN = (*_OUTPUT, "steps", "input_tokens", "output_tokens", "cost_usd")


@dataclass(frozen=True, slots=True)
class PipelineAnswer:
    """The parsed result of a pipeline. None: not reported."""

    output: str
    steps: tuple[Mapping[str, Json], ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    first_after_s: float | None = None
    """Time to the first piece in seconds, for a streamed answer."""


@dataclass(eq=False)
class Endpoint:
    """An HTTP service that answers `POST {"input": …}` (or `{"messages": […]}`) with JSON or text.

    Responses in the format of OpenAI's Chat Completions are supported, too.

    Example:
        pipeline = Endpoint("http://127.0.0.1:8080/answer", headers={"Authorization": "Bearer …"})
        plan = await lab.plan(["Say 4."], agents=[pipeline], scorers=["contains:4"])
    """

    url: str
    name: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    _client: httpx.AsyncClient | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        from urllib.parse import urlsplit

        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{self.url!r} is not an HTTP address.", "Use an address such as https://host/answer.")
        self.name = self.name or f"{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"

    async def __call__(self, asked: Asked, traceparent: str) -> PipelineAnswer:
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(timeout=None)
        body = {"input": asked} if isinstance(asked, str) else {"messages": asked}
        try:
            reply = await self._client.post(self.url, json=body, headers={"traceparent": traceparent, **self.headers})
        except httpx.HTTPError as error:
            raise ProviderUnavailableError(
                f"{self.name} cannot be reached: {str(error) or type(error).__name__}.",
                "Check the address.",
                provider=HTTP,
            ) from error
        if reply.status_code >= 400:
            raise _refused(self.name, reply)
        if "json" not in reply.headers.get("content-type", ""):
            return PipelineAnswer(reply.text)
        try:
            value = reply.json()
        except ValueError as error:
            raise RunError(f"{self.name} did not return valid JSON: {error}.", "Fix the service.") from error
        return as_answer(_completion(value), self.name)

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


Pipeline = Callable[..., object] | Endpoint
"""What `agents` may contain besides agents."""


def is_pipeline(value: object) -> bool:
    """Whether the value is a pipeline (a function or a service), not an agent."""
    return isinstance(value, Endpoint) or (callable(value) and not isinstance(value, type | sdk.Agent))


def as_record(value: object) -> AgentRecord:
    """Returns an agent of the lab. Raises `UsageError` for anything else, such as a class instead of an instance."""
    if isinstance(value, AgentRecord):
        return value
    if isinstance(value, type):
        raise UsageError(f"{value.__name__} is a class, not an agent.", f"Pass an instance: {value.__name__}().")
    raise UsageError(f"A {type(value).__name__} is not an agent.", "Pass an agent, its name, or a function.")


def name_of(pipeline: Pipeline) -> str:
    if isinstance(pipeline, Endpoint):
        return pipeline.name
    return str(getattr(pipeline, "__name__", None) or type(pipeline).__name__)


def kind_of(pipeline: Pipeline) -> str:
    return HTTP if isinstance(pipeline, Endpoint) else FUNCTION


def check(pipeline: Pipeline) -> str:
    """The identity of a pipeline for its fingerprint: its address, or the source of the function. Raises `UsageError`
    for a function that cannot be called with one argument."""
    if isinstance(pipeline, Endpoint):
        return digest([HTTP, pipeline.url, dict(pipeline.headers)])
    try:
        inspect.signature(pipeline).bind("")
    except TypeError as error:
        raise UsageError(
            f"The function {name_of(pipeline)} cannot be called with one text: {error}.",
            "Pass a function of one argument, such as: async def answer(question): …",
        ) from error
    except ValueError:  # A built-in without a signature.
        return digest([FUNCTION, name_of(pipeline)])
    try:
        source = inspect.getsource(pipeline)
    except (OSError, TypeError):
        source = ""
    return digest([FUNCTION, name_of(pipeline), source])


async def answer_of(pipeline: Pipeline, asked: Asked, traceparent: str, on_delta: OnDelta | None) -> PipelineAnswer:
    """Call the pipeline once. Raises whatever it raises."""
    if isinstance(pipeline, Endpoint):
        return await pipeline(asked, traceparent)
    given: object
    try:
        if inspect.iscoroutinefunction(pipeline) or inspect.isasyncgenfunction(pipeline):
            given = pipeline(asked)
        else:
            given = await asyncio.to_thread(pipeline, asked)
        if isinstance(given, Awaitable):
            given = await given
        if isinstance(given, AsyncIterator):
            return await _in_pieces(given, name_of(pipeline), on_delta)
    except SystemExit as error:  # It would end the whole program, a notebook's kernel too.
        raise RunError(
            f"{name_of(pipeline)} called sys.exit({error.code!r}).", "Raise an exception instead."
        ) from error
    return as_answer(given, name_of(pipeline))


def as_answer(value: object, name: str) -> PipelineAnswer:
    """Parse the result of a pipeline. Raises `RunError` if it is not an answer."""
    if isinstance(value, PipelineAnswer):
        return value
    value = _unwrapped(value)
    if isinstance(value, str):
        return PipelineAnswer(value)
    if not isinstance(value, Mapping):
        if value is None:
            raise RunError(f"{name} returned no answer.", "Return a text, or an object with output.")
        return PipelineAnswer(_as_json(value, name))
    output_key = next((key for key in _OUTPUT if value.get(key) is not None), None)
    if output_key is None:
        # An object without any of these fields is the answer itself.
        if set(value) & set(_KNOWN):
            raise RunError(f"{name} returned an object without output.", f"Use the key {_OUTPUT[0]} for the answer.")
        return PipelineAnswer(_as_json(value, name))
    output = value[output_key]
    steps = value.get("steps") or ()
    if not isinstance(steps, list | tuple):
        raise RunError(
            f"The steps of {name} are not a list.", 'Return [{"name": …, "arguments": {…}, "output": …}, …].'
        )
    return PipelineAnswer(
        output if isinstance(output, str) else _as_json(output, name), tuple(_step(step, name) for step in steps),
        _number(value, "input_tokens", int, name), _number(value, "output_tokens", int, name), _number(value, "cost_usd", float, name),
    )  # fmt: skip


def _unwrapped(value: object) -> object:
    """The answer in an object of a library: a run of the Agents SDK, a reply of OpenAI's client, a pydantic model or a
    dataclass. Anything else is returned unchanged."""
    if isinstance(value, RunResultBase):
        return None if value.final_output is None else output_text(value.final_output)
    if isinstance(text := getattr(value, "output_text", None), str):
        return text
    if isinstance(value, BaseModel):
        return _completion(value.model_dump(mode="json"))
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def trace_steps(steps: tuple[Mapping[str, Json], ...]) -> None:
    """Record each step as a span of the current trace."""
    for step in steps:
        if step["type"] == "handoff":
            with sdk.handoff_span(from_agent=str(step.get("from") or ""), to_agent=str(step.get("to") or "")):
                continue
        arguments = json.dumps(step.get("arguments") or {}, ensure_ascii=False, default=str)
        # A tool span without output would mean a pending call.
        output: Any = "" if step.get("output") is None else step["output"]
        with sdk.function_span(str(step["name"]), input=arguments, output=output) as span:
            if step.get("error"):
                span.set_error({"message": str(step["error"]), "data": None})


async def _in_pieces(pieces: AsyncIterator[object], name: str, on_delta: OnDelta | None) -> PipelineAnswer:
    loop = asyncio.get_running_loop()
    began, first, parts = loop.time(), None, []
    async for piece in pieces:
        if not isinstance(piece, str):
            raise RunError(f"{name} yielded a {type(piece).__name__}.", "Yield texts.")
        first = loop.time() - began if first is None and piece else first
        parts.append(piece)
        if on_delta is not None:
            on_delta(piece)
    return PipelineAnswer("".join(parts), first_after_s=first)


def _step(step: object, name: str) -> Mapping[str, Json]:
    if isinstance(step, str):
        return {"type": "tool", "name": step}
    given = object_of(step)
    if given.get("type") == "handoff":
        return {"type": "handoff", "from": given.get("from"), "to": given.get("to")}
    named = given.get("name") or given.get("tool")
    if not isinstance(named, str):
        raise RunError(f"A step of {name} has no name.", 'Return {"name": …, "arguments": {…}, "output": …}.')
    return {
        "type": "tool", "name": named, "arguments": given.get("arguments", given.get("input")),
        "output": given.get("output", given.get("result")), "error": given.get("error"),
    }  # fmt: skip


def _number(value: Mapping[str, Json], key: str, kind: type[N], name: str) -> N | None:
    given = value.get(key)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or given < 0:
        raise RunError(f"{name} gave {key}={given!r}.", "Return a number of at least 0, or omit it.")
    return kind(given)


def _as_json(value: object, name: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{name} returned a {type(value).__name__}, which is not an answer.",
            "Return a text, or an object with output.",
        ) from error


def _completion(value: object) -> object:
    """The answer in a Chat Completions response; other values unchanged."""
    reply = object_of(value)
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        return value
    message, usage = choices[0].get("message"), object_of(reply.get("usage"))
    return {
        "output": (message.get("content") if isinstance(message, Mapping) else choices[0].get("text")) or "",
        "input_tokens": usage.get("prompt_tokens"), "output_tokens": usage.get("completion_tokens"),
    }  # fmt: skip


def _refused(name: str, reply: httpx.Response) -> Exception:
    body = " ".join(reply.text.split())[:200]
    text = f"{name} answered {reply.status_code}{f': {body}' if body else ''}."
    status = reply.status_code
    if status == 429:
        wait = reply.headers.get("retry-after", "")
        seconds = float(wait) if wait.replace(".", "", 1).isdigit() else None
        return RateLimitError(text, "Reduce the concurrency: concurrency=…", provider=HTTP, retry_after=seconds)
    if status in (401, 403):
        return ProviderAuthError(text, "Pass its key: Endpoint(url, headers={…}).", provider=HTTP, status=status)
    if status >= 500:
        return ProviderUnavailableError(text, "Check the service.", provider=HTTP, status=status)
    return ProviderRequestError(text, "Check what input the service accepts.", provider=HTTP, status=status)
