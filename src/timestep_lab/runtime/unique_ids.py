"""Give every output item one id that is never used twice, whatever the wrapped model does.

The Agents SDK's own Chat Completions adapter, and those of litellm and any-llm, put one constant id on everything, and a
chat view then takes the second answer of a thread for the first. Our adapters make ids themselves; this guards the rest.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from agents.models.fake_id import FAKE_RESPONSES_ID

from timestep_lab.types.ids import new_id

_KIND_OF = {"message": "message", "function_call": "function_call", "reasoning": "reasoning"}
_MISSING = (None, "", FAKE_RESPONSES_ID)


async def with_unique_ids(stream: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    """The same events. Ids that a provider really gave are left alone; placeholders are replaced, one id an output index."""
    ids: dict[int, str] = {}
    response_id = new_id("response")

    def name(item: Any, index: int) -> None:
        if getattr(item, "id", None) in _MISSING:
            item.id = ids.setdefault(index, new_id(_KIND_OF.get(item.type, "item")))

    try:
        async for event in stream:
            index = getattr(event, "output_index", None)
            if index is not None and (item := getattr(event, "item", None)) is not None:
                name(item, index)
            if getattr(event, "item_id", "given") in _MISSING and index in ids:
                event.item_id = ids[index]
            if (response := getattr(event, "response", None)) is not None:
                if response.id in _MISSING:
                    response.id = response_id
                for place, item in enumerate(response.output):
                    name(item, place)
            yield event
    finally:
        # A model may return any async iterator; a generator must be closed here and now, or its connection lives on.
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
