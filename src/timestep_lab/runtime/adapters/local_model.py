"""`local/…` as a model: free text from the model itself; tool calls by its own template, or, for a tiny model, by routing.

Chat and chunks have Chat Completions' form, so requests and answers share that adapter; only the wire is missing.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

from timestep_lab.model.records import Usage
from timestep_lab.runtime.adapters.base import AdapterModel, FunctionSpec, ModelRequest
from timestep_lab.runtime.adapters.chat_completions import ChatAnswer, chat_body
from timestep_lab.runtime.adapters.conversation import Turn, read_turn
from timestep_lab.runtime.adapters.demo_base import estimate_tokens
from timestep_lab.runtime.adapters.demo_sentences import result_sentence, weather_sentence
from timestep_lab.runtime.adapters.local_engine import LocalEngine, engine_for
from timestep_lab.runtime.adapters.local_routing import choose, fill, topics_of
from timestep_lab.runtime.emitter import Emitter

_TELL = "Answer the user in one sentence using the data."
_TINY_LIMIT = 96
"""A tiny model left alone does not stop."""


class LocalModel(AdapterModel):
    takes: ClassVar[frozenset[str]] = frozenset(
        {"temperature", "top_p", "frequency_penalty", "presence_penalty", "tool_choice", "parallel_tool_calls", "max_tokens",
         "extra_body"}
    )  # fmt: skip

    def __init__(self, model: str, path: Path) -> None:
        super().__init__(model, "local")
        self._path = path

    async def prepare(self) -> None:
        """Load the weights."""
        await engine_for(self._path)

    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[Any]:
        engine = await engine_for(self._path)
        routed = bool(request.functions) and (engine.tiny or not engine.supports_tools)
        if not routed:
            async for event in self._chat(engine, self._body(request), emitter):
                yield event
            return
        turn = read_turn(request.input)
        done = _results(turn)
        if not done and (spec := await _choice(engine, turn, request)) is not None:
            arguments = {} if spec.is_handoff else await fill(engine, turn.user, spec.parameters)
            written = json.dumps(arguments, ensure_ascii=False)
            for event in emitter.tool_call(spec.name, arguments=written):
                yield event
            usage = Usage(
                requests=1, input_tokens=estimate_tokens(turn.user), output_tokens=estimate_tokens(spec.name + written)
            )
            for event in emitter.finish(usage, "tool_calls", {"token_count": "estimate"}):
                yield event
            return
        body = self._body(request)
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            body.pop(name, None)
        body["messages"] = [
            {"role": "system", "content": _TELL if done else request.instructions or "You are a helpful assistant."},
            {"role": "user", "content": f"{turn.user}\nData: {done}" if done else turn.user},
        ]
        async for event in self._chat(engine, body, emitter):
            yield event

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        return {**chat_body(request, self.model, self.prefix), **(request.settings.extra_body or {})}  # type: ignore[dict-item]

    async def _chat(self, engine: LocalEngine, body: dict[str, Any], emitter: Emitter) -> AsyncIterator[Any]:
        if engine.tiny:
            body = {"max_tokens": _TINY_LIMIT, "temperature": 0, **body}
        answer = ChatAnswer(emitter, self.model)
        async with aclosing(engine.chat(body)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                for event in answer.read(chunk):
                    yield event
        for event in answer.end(done=True):
            yield event


def _results(turn: Turn) -> str:
    """What the tools said since the user's message, in words that even a tiny model can repeat; empty when none did."""
    found = [call for call in turn.calls if call.output is not None and not call.name.startswith("transfer_to_")]
    return " ".join(weather_sentence(c, "") if c.name == "get_weather" else result_sentence(c) for c in found)


async def _choice(engine: LocalEngine, turn: Turn, request: ModelRequest) -> FunctionSpec | None:
    wish = request.settings.tool_choice
    if wish == "none" or not turn.user:
        return None
    made = {call.name for call in turn.calls}
    left = [spec for spec in request.functions if spec.name not in made]
    if wish not in (None, "auto", "required"):
        return next((spec for spec in left if spec.name == wish), None)
    return await choose(engine, turn.user, topics_of(left), must=wish == "required")
