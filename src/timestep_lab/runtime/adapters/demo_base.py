"""What the `demo/` models share: an answer in several chunks with small pauses, and tokens that are only estimated."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from timestep_lab.model.records import Usage
from timestep_lab.runtime.adapters.base import AdapterModel, ModelRequest
from timestep_lab.runtime.emitter import Emitter

NO_MODEL = "no language model"
CHARACTERS_PER_TOKEN = 4.0
"""A rule of thumb for English; nothing here has a real tokenizer."""

ESTIMATE = {"token_count": "estimate"}
"""In the response's metadata: the usage is a guess from the number of characters."""


class DemoModel(AdapterModel):
    """`delay_ms` is the pause between two chunks."""

    takes: ClassVar[frozenset[str]] = frozenset(
        {"temperature", "top_p", "frequency_penalty", "presence_penalty", "reasoning", "verbosity", "metadata", "store",
         "tool_choice", "parallel_tool_calls", "max_tokens"}
    )  # fmt: skip
    """Sampling and effort change nothing in an answer that follows rules, so they are honoured by being without effect."""

    takes_of_reasoning: ClassVar[frozenset[str]] = frozenset({"effort", "summary", "generate_summary"})

    def __init__(self, model: str, *, delay_ms: float) -> None:
        super().__init__(model, "demo")
        self.delay_ms = delay_ms

    async def say(self, emitter: Emitter, text: str, request: ModelRequest) -> AsyncIterator[Any]:
        """Stream `text` word by word and finish. `max_tokens` cuts it, as it would a model's answer."""
        words = re.findall(r"\S+\s*", text) or [text]
        limit = request.settings.max_tokens
        kept: list[str] = []
        for word in words:
            if limit is not None and estimate_tokens("".join([*kept, word])) > limit:
                break
            await asyncio.sleep(self.delay_ms / 1000.0)
            kept.append(word)
            for event in emitter.text(word):
                yield event
        stop_reason = "stop" if len(kept) == len(words) else "length"
        for event in emitter.finish(self.usage(request, "".join(kept)), stop_reason, ESTIMATE):
            yield event

    def usage(self, request: ModelRequest, written: str) -> Usage:
        read = (request.instructions or "") + json.dumps(request.input, ensure_ascii=False, default=str)
        return Usage(requests=1, input_tokens=estimate_tokens(read), output_tokens=estimate_tokens(written))


def estimate_tokens(text: str) -> int:
    return max(1, round(len(text) / CHARACTERS_PER_TOKEN)) if text else 0
