"""One ChatKit request, with the SDK's errors as ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from chatkit import types as ck
from chatkit.server import NonStreamingResult
from chatkit.store import NotFoundError as ChatKitNotFound
from pydantic import TypeAdapter, ValidationError

from timestep_lab.model.errors import NotFoundError, UsageError
from timestep_lab.server.chatkit.context import ChatKitContext
from timestep_lab.server.chatkit.server import LabChatKitServer

MOST = 1000
"""Entries of a page."""
REQUEST: TypeAdapter[Any] = TypeAdapter(ck.ChatKitReq)


@cache
def server() -> LabChatKitServer:
    """One for all users: whose rows are meant comes with each request."""
    return LabChatKitServer()


async def process(body: bytes, context: ChatKitContext) -> bytes | AsyncIterator[bytes]:
    """An answer, or a stream of events. What is refused is raised, by a stream before its first event: `UsageError`, `NotFoundError`,
    and what the lab itself raises."""
    with _refused():
        request: ck.ChatKitReq = REQUEST.validate_json(body)
        await _check(request, context)
        context.answering = isinstance(request, ck.ThreadsAddClientToolOutputReq)
        result = await server().process(body, context)
        return result.json if isinstance(result, NonStreamingResult) else _events(aiter(result))


async def _check(request: ck.ChatKitReq, context: ChatKitContext) -> None:
    """What the SDK answers as if there were nothing: pages of a size that is none, items of no thread, an answer to no message."""
    match request:
        case ck.ThreadsListReq() | ck.ItemsListReq() if (
            request.params.limit is not None and not 1 <= request.params.limit <= MOST
        ):
            raise UsageError(
                f"A page cannot have {request.params.limit} entries.", f"Ask for 1 to {MOST}.", param="params.limit"
            )
        case ck.ItemsListReq():
            await server().lab_store.load_thread(request.params.thread_id, context)
        case ck.ThreadsRetryAfterItemReq():
            await server().lab_store.load_item(request.params.thread_id, request.params.item_id, context)


async def _events(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    with _refused():
        async for event in events:
            yield event


async def take(attachment_id: str | None, name: str, content: bytes, context: ChatKitContext) -> bytes:
    """Keep an attachment's bytes; its JSON."""
    with _refused():
        attachment = await server().lab_attachments.take(attachment_id, name, content, context)
    json: str = attachment.model_dump_json(exclude_none=True, context={"exclude_metadata": True})
    return json.encode()


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except ChatKitNotFound as error:
        raise NotFoundError(str(error), "Reload the conversation.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"This is no ChatKit request: {where or 'the body'}: {first['msg']}.", param=where) from error
    except ValueError as error:  # How the SDK says that a request does not fit its thread.
        raise UsageError(f"{error}.") from error
