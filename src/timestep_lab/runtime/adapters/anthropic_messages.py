"""Anthropic's Messages API, streamed by its official client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from timestep_lab.model.records import Usage
from timestep_lab.runtime.adapters.anthropic_request import BLOCKS, message_request, set_aside
from timestep_lab.runtime.adapters.base import NAMELESS, AdapterModel, ModelRequest, set_aside_note
from timestep_lab.runtime.emitter import Emitter, Events
from timestep_lab.runtime.output_text import arguments_object
from timestep_lab.runtime.provider import PerLoop

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

_STOP_REASONS = {
    "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "model_context_window_exceeded": "length",
    "tool_use": "tool_calls", "refusal": "refusal",
}  # fmt: skip
DECLINED = "The model declined to answer."


class AnthropicModel(AdapterModel):
    takes_files: ClassVar[frozenset[str]] = frozenset({"application/pdf"})
    takes: ClassVar[frozenset[str]] = frozenset(
        {
            "temperature", "top_p", "max_tokens", "tool_choice", "parallel_tool_calls", "reasoning", "extra_query",
            "extra_body", "extra_headers", "extra_args",
        }
    )  # fmt: skip

    takes_of_reasoning: ClassVar[frozenset[str]] = frozenset({"effort", "summary"})
    """Thinking always comes summarised; asking for it changes nothing."""

    def __init__(self, model: str, client: PerLoop[AsyncAnthropic]) -> None:
        super().__init__(model, "anthropic")
        self._client = client

    async def prepare(self) -> None:
        await self._client.prepare()

    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[Any]:
        answer = _Answer(emitter, self.model, set_aside_note(set_aside(self.model, request)))
        stream = await self._client.get().messages.create(**message_request(self.model, request), stream=True)
        async with stream:
            async for event in stream:
                for ours in answer.read(event):
                    yield ours


class _Answer:
    """Reads the API's events into ours. Completes only when the API said `message_stop`."""

    def __init__(self, emitter: Emitter, model: str, metadata: Mapping[str, str]) -> None:
        self._emit = emitter
        self._model = model
        self._metadata = metadata
        self._usage: dict[str, Any] = {}
        self._stop_reason = ""
        self._declined_because = ""
        self._said_anything = False
        self._kind = ""
        """The type of the open block."""
        self._index: int | None = None
        """Its place in the message."""
        self._kept: list[dict[str, Any]] = []
        """Blocks of the open reasoning item."""
        self._input = ""
        self._block_start = 0
        self._citations: list[Any] = []

    def read(self, event: Any) -> Events:
        handler = getattr(self, f"_{event.type}", None)
        if handler is not None:
            yield from handler(event)

    def _message_start(self, event: Any) -> Events:
        self._usage.update(_counted(event.message.usage))
        yield from ()

    def _content_block_start(self, event: Any) -> Events:
        block = event.content_block
        if event.index == self._index:
            return  # told twice
        self._index, self._kind = event.index, block.type
        if block.type not in ("text", "tool_use"):
            yield from self._keep(block)
            return
        self._kept = []
        self._said_anything = True
        if block.type == "tool_use":
            yield from self._emit.tool_call(block.name, block.id)
        else:
            self._block_start = len(self._emit.text_so_far)
            self._citations = []
            yield from self._emit.text(block.text)

    def _keep(self, block: Any) -> Events:
        """Thinking, what Anthropic's own tools are asked and answer, and kinds of blocks yet to come: they go back as they came."""
        thinks = block.type == "thinking"
        self._kept.append(
            {"type": "thinking", "thinking": "", "signature": ""} if thinks else block.to_dict(mode="json")
        )
        self._said_anything = self._said_anything or "thinking" not in block.type
        self._input = ""
        yield from self._emit.reasoning(provider_data={"model": self._model, BLOCKS: self._kept})

    def _lost_beginning(self, event: Any) -> Events:
        """Open what a delta belongs to although nobody told that it begins."""
        self._index = event.index
        self._kind = {"input_json_delta": "tool_use", "thinking_delta": "thinking"}.get(event.delta.type, "text")
        self._said_anything = self._said_anything or self._kind != "thinking"
        if self._kind == "tool_use":
            yield from self._emit.tool_call(NAMELESS)
        elif self._kind == "text":
            self._block_start, self._citations = len(self._emit.text_so_far), []
        else:
            self._kept.append({"type": "thinking", "thinking": "", "signature": ""})
            yield from self._emit.reasoning(provider_data={"model": self._model, BLOCKS: self._kept})

    def _content_block_delta(self, event: Any) -> Events:
        delta = event.delta
        if event.index != self._index:
            yield from self._lost_beginning(event)
        if delta.type == "text_delta" and self._kind == "text":
            yield from self._emit.text(delta.text)
        elif delta.type == "input_json_delta" and self._kind == "tool_use":
            yield from self._emit.arguments(delta.partial_json)
        elif delta.type == "input_json_delta":
            self._input += delta.partial_json
        elif delta.type == "thinking_delta":
            self._kept[-1]["thinking"] += delta.thinking
            yield from self._emit.reasoning(delta.thinking)
        elif delta.type == "signature_delta":
            self._kept[-1]["signature"] += delta.signature
        elif delta.type == "citations_delta" and self._kind == "text":
            self._citations.append(delta.citation)

    def _content_block_stop(self, event: Any) -> Events:
        if event.index != self._index:
            return
        if self._kind not in ("text", "tool_use", "thinking"):
            block = self._kept[-1]
            if self._input:
                block["input"] = arguments_object(self._input)
            if step := _step(block):
                yield from self._emit.reasoning(step)
        # A block's citations are for the whole of its text, wherever in the block they arrived.
        for citation in self._citations:
            address = getattr(citation, "url", None) or getattr(citation, "source", None)
            if address:
                yield from self._emit.annotation(address, citation.title or "", self._block_start)
            else:
                name = citation.document_title or f"document {citation.document_index + 1}"
                yield from self._emit.file_citation(getattr(citation, "file_id", None) or name, name)
        self._citations = []

    def _message_delta(self, event: Any) -> Events:
        self._usage.update(_counted(event.usage))
        self._stop_reason = event.delta.stop_reason or self._stop_reason
        self._declined_because = getattr(event.delta.stop_details, "explanation", None) or ""
        yield from ()

    def _message_stop(self, event: Any) -> Events:
        reason = _STOP_REASONS.get(self._stop_reason, self._stop_reason or "incomplete")
        if reason == "refusal":
            yield from self._emit.refusal(self._declined_because or DECLINED, after_text=True)
        yield from self._emit.finish(self._total(), reason, self._metadata)

    def _total(self) -> Usage:
        """`input_tokens` of this API leave out what was read from or written to the cache; ours contain all."""
        used = self._usage
        cached, written = used.get("cache_read_input_tokens", 0), used.get("cache_creation_input_tokens", 0)
        thought = used.get("output_tokens_details") or {}
        return Usage(
            requests=1,
            input_tokens=used.get("input_tokens", 0) + cached + written,
            output_tokens=used.get("output_tokens", 0),
            cached_tokens=cached,
            cache_write_tokens=written,
            reasoning_tokens=thought.get("thinking_tokens", 0),
        )


def _step(block: Mapping[str, Any]) -> str:
    """What one of Anthropic's own tools was asked or found, as a line to read; empty for what says neither."""
    if "name" in block and "input" in block:
        return f"{block['name']} {json.dumps(block['input'], ensure_ascii=False)}\n"
    content = block.get("content")
    found = content if isinstance(content, list) else [content]
    lines = [
        " ".join(str(one[key]) for key in ("title", "url", "error_code") if one.get(key))
        for one in found
        if isinstance(one, dict)
    ]
    return "".join(f"{line}\n" for line in lines if line)


def _counted(usage: Any) -> dict[str, Any]:
    """Later counts replace earlier ones; one that is left out changes nothing."""
    return {name: value for name, value in usage.model_dump().items() if value is not None}
