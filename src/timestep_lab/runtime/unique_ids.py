"""Give every output item one id that is never used twice, whatever the wrapped model does.

The Agents SDK's own Chat Completions adapter, and those of litellm and any-llm, put one constant id on everything, and a
chat view then takes the second answer of a thread for the first. Our adapters make ids themselves; this guards the rest.

Ids of calls repeat too: some servers number them anew in every answer (`0`, `functions.look:0`), and what asks and what answers
is paired by them, in a thread and in a run. So a call has an id of our own, which carries the provider's: from it the provider
is told its own id again, in whatever way the call came back (a session, an approval, a client of the OpenAI API).
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from agents.models.fake_id import FAKE_RESPONSES_ID

from timestep_lab.model.ids import new_id

_KIND_OF = {"message": "message", "function_call": "function_call", "reasoning": "reasoning"}
_MISSING = (None, "", FAKE_RESPONSES_ID)
_OWN_CALL_ID = re.compile(r"call_[0-9a-f]{12}_([A-Za-z0-9_-]+)")


def own_call_id(given: str | None) -> str:
    """A new id for a call to which the provider gave this one, or none. Letters, digits, `_` and `-`, as every provider takes it."""
    if not given:
        return new_id("call")
    carried = base64.urlsafe_b64encode(given.encode()).decode().rstrip("=")
    return f"call_{secrets.token_hex(6)}_{carried}"


def provider_call_id(call_id: str) -> str:
    """The id that the provider gave, for one of `own_call_id`; any other id as it is."""
    if (own := _OWN_CALL_ID.fullmatch(call_id)) is None:
        return call_id
    carried = own.group(1)
    try:
        return base64.urlsafe_b64decode(carried + "=" * (-len(carried) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return call_id  # somebody else's id that looks like ours


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
