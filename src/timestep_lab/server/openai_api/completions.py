"""Completions, which older programs ask for: a prompt goes to the model as what its user says, and its answer is the text."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from timestep_lab.model.errors import UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.server.api.schemas import Strict
from timestep_lab.server.labs import CurrentLab
from timestep_lab.server.openai_api.calling import ModelCall, event_stream, stream, whole
from timestep_lab.server.openai_api.chat import StreamOptions, about_the_call
from timestep_lab.server.openai_api.chat_form import answer_message, finish_reason, usage
from timestep_lab.server.openai_api.parameters import OF_CHAT, beside, merged, passed_on, refuse
from timestep_lab.server.openai_api.shared import Object

router = APIRouter()


class CompletionBody(Strict):
    model: str | None = Field(None, max_length=500)
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=100)]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: int | None = None
    best_of: int | None = None
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None


@router.post("/completions", response_class=Response)
async def create_text_completion(body: CompletionBody, lab: CurrentLab) -> Response:
    """One choice a prompt. With `stream`, server-sent events and `data: [DONE]`."""
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not all(prompt.strip() for prompt in prompts):
        raise UsageError("A prompt is empty.", "Give a text.", param="prompt")
    model = lab.router.resolve(body.model).full
    calls = [_call(body, prompt, model, openai_elsewhere=lab.settings.openai_elsewhere) for prompt in prompts]
    head: Object = {
        "id": f"cmpl-{new_id('response')}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }
    if body.stream:
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        return await event_stream(_chunks(lab, calls, head, with_usage))
    choices, counted = [], []
    for index, call in enumerate(calls):
        response = await whole(lab, call)
        text = answer_message(response.output)["content"] or ""
        choices.append(_choice(index, text, finish_reason(response)))
        counted.append(usage(response))
    return Response(json.dumps({**head, "choices": choices, "usage": _total(counted)}), media_type="application/json")


def _call(body: CompletionBody, prompt: str, model: str, *, openai_elsewhere: bool) -> ModelCall:
    refuse({"suffix": body.suffix, "echo": body.echo, "logprobs": body.logprobs}, model, neutral=(None, "", False))
    refuse({"n": body.n, "best_of": body.best_of}, model, neutral=(None, 1))
    settings = {
        "temperature": body.temperature, "top_p": body.top_p, "max_tokens": body.max_tokens,
        "frequency_penalty": body.frequency_penalty, "presence_penalty": body.presence_penalty,
    }  # fmt: skip
    more = merged(
        passed_on({name: getattr(body, name) for name in OF_CHAT}, model, openai_elsewhere=openai_elsewhere),
        beside({"user": body.user}, model, openai_elsewhere=openai_elsewhere),
    )
    content = [{"type": "input_text", "text": prompt}]
    return ModelCall(
        model=model, input=[{"role": "user", "content": content}], settings={**settings, **more}, workflow="completions",
        metadata=about_the_call(None, body.user),
    )  # fmt: skip


async def _chunks(lab: Any, calls: list[ModelCall], head: Object, with_usage: bool) -> AsyncIterator[bytes]:
    counted = []
    for index, call in enumerate(calls):
        async for event in stream(lab, call):
            if event.type in ("response.output_text.delta", "response.refusal.delta"):
                yield _piece({**head, "choices": [_choice(index, event.delta, None)]})
            elif event.type == "response.completed":
                yield _piece({**head, "choices": [_choice(index, "", finish_reason(event.response))]})
                counted.append(usage(event.response))
    if with_usage:
        yield _piece({**head, "choices": [], "usage": _total(counted)})
    yield b"data: [DONE]\n\n"


def _choice(index: int, text: str, finish: str | None) -> Object:
    return {"index": index, "text": text, "finish_reason": finish, "logprobs": None}


def _total(counted: list[Object | None]) -> Object | None:
    """None when a provider counted nothing."""
    known = [one for one in counted if one is not None]
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: sum(one[name] for one in known) for name in names} if len(known) == len(counted) else None


def _piece(value: Object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
