"""The ChatKit server of a lab: requests are executed by `lab.runner`, and its events are translated to ChatKit's."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated

from chatkit import store as ck_store
from chatkit import types as ck
from chatkit.actions import Action
from chatkit.errors import CustomStreamError
from chatkit.server import ChatKitServer, NonStreamingResult
from chatkit.store import NotFoundError as ChatKitNotFound
from fastapi import APIRouter, Path, Query, Request
from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response, StreamingResponse

from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import Json, list_of, object_of, objects_of
from timestep_lab.model.errors import BusyError, ConflictError, LabError, NotFoundError, UsageError
from timestep_lab.model.events import (
    Event,
    ItemAdded,
    ItemDone,
    ItemReplaced,
    ItemUpdated,
    Progress,
    RunCancelled,
    RunFailed,
    RunStopped,
)
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import ThreadItem
from timestep_lab.runtime.attachments import IMAGE_TYPES
from timestep_lab.runtime.files.files import MAX_BYTES, safe_name, too_large
from timestep_lab.runtime.run import read_turn
from timestep_lab.server.api.changes import HEADERS
from timestep_lab.server.api.operations import ERRORS
from timestep_lab.server.chatkit.items import DECISIONS, WRITTEN_BY_CHATKIT, message_text, to_item
from timestep_lab.server.chatkit.store import ATTACHMENT, ChatKitContext, LabChatKitStore
from timestep_lab.server.errors import read_upload
from timestep_lab.server.labs import CurrentLab
from timestep_lab.server.panel import detached
from timestep_lab.store.base import Statement, in_thread
from timestep_lab.store.table import Table

if TYPE_CHECKING:
    from timestep_lab.model.records import FileRecord
    from timestep_lab.server.labs import UserLab


# --- Translates a run's events into ChatKit events. Items are already stored; their ids are added to `context.kept`


THOUGHT_STEP = 80
"""A thought is sent again after this many new characters, or a quarter more: each update contains the whole text."""


async def chatkit_events(events: AsyncIterator[Event], context: ChatKitContext) -> AsyncIterator[ck.ThreadStreamEvent]:
    translation = Translation(context)
    async for event in events:
        for shown in translation.of(event):
            yield shown
    for shown in translation.rest():
        yield shown


class Translation:
    """The state of the translation of one stream."""

    def __init__(self, context: ChatKitContext) -> None:
        self._kept = context.kept
        self._growing: dict[str, ThreadItem] = {}
        self._text: dict[str, str] = {}
        self._thought_shown: dict[str, int] = {}
        self._for_client: dict[str, ThreadItem] = {}
        """Calls of client tools; they are executed when the stream ends, so they are sent last."""

    def of(self, event: Event) -> Iterator[ck.ThreadStreamEvent]:
        if isinstance(event, ItemAdded):
            yield from self._added(event.item)
        elif isinstance(event, ItemUpdated):
            yield from self._updated(event)
        elif isinstance(event, ItemDone):
            yield from self._done(event.item)
        elif isinstance(event, ItemReplaced):
            yield from self._replaced(event.item)
        elif isinstance(event, Progress):
            yield ck.ProgressUpdateEvent(text=event.text)
        elif isinstance(event, RunFailed):
            message = " ".join(str(event.error[part]) for part in ("message", "next_step") if event.error.get(part))
            yield ck.ErrorEvent(code="custom", message=message, allow_retry=True)
        elif isinstance(event, RunStopped):
            yield ck.NoticeEvent(level="warning", message=str(event.error["message"]))
        elif isinstance(event, RunCancelled):
            yield ck.NoticeEvent(level="info", message="Stopped.")

    def rest(self) -> Iterator[ck.ThreadStreamEvent]:
        for item in self._for_client.values():
            yield ck.ThreadItemDoneEvent(item=to_item(item))

    def _added(self, item: ThreadItem) -> Iterator[ck.ThreadStreamEvent]:
        self._kept.add(item.id)
        if item.type != "client_tool_call":
            self._growing[item.id] = item
            yield ck.ThreadItemAddedEvent(item=to_item(item))

    def _updated(self, event: ItemUpdated) -> Iterator[ck.ThreadStreamEvent]:
        item = self._growing.get(event.item_id)
        if item is None or event.field != "text":
            return
        before = self._text.get(item.id, "")
        text = self._text[item.id] = before + event.delta
        if item.type == "assistant_message":
            if not before:
                yield _update(item, ck.AssistantMessageContentPartAdded(content_index=0, content=_content("")))
            yield _update(item, ck.AssistantMessageContentPartTextDelta(content_index=0, delta=event.delta))
        elif item.type == "reasoning":
            yield from self._thought(item, text)

    def _thought(self, item: ThreadItem, text: str) -> Iterator[ck.ThreadStreamEvent]:
        shown = self._thought_shown.get(item.id)
        task = ck.ThoughtTask(content=text)
        if shown is None:
            yield _update(item, ck.WorkflowTaskAdded(task_index=0, task=task))
        elif len(text) >= max(shown + THOUGHT_STEP, shown * 1.25):
            yield _update(item, ck.WorkflowTaskUpdated(task_index=0, task=task))
        else:
            return
        self._thought_shown[item.id] = len(text)

    def _done(self, item: ThreadItem) -> Iterator[ck.ThreadStreamEvent]:
        if item.type == "user_message":
            return  # ChatKit announced it before the run started.
        self._kept.add(item.id)
        if item.type == "client_tool_call":
            self._for_client[item.id] = item
            return
        shown = to_item(item)
        if self._text.get(item.id) and isinstance(shown, ck.AssistantMessageItem) and shown.content:
            yield _update(item, ck.AssistantMessageContentPartDone(content_index=0, content=shown.content[0]))
        yield ck.ThreadItemDoneEvent(item=shown)

    def _replaced(self, item: ThreadItem) -> Iterator[ck.ThreadStreamEvent]:
        self._kept.add(item.id)
        if item.id in self._for_client:
            self._for_client[item.id] = item
        else:
            yield ck.ThreadItemReplacedEvent(item=to_item(item))


def _content(text: str) -> ck.AssistantMessageContent:
    return ck.AssistantMessageContent(text=text)


def _update(item: ThreadItem, update: ck.ThreadItemUpdate) -> ck.ThreadItemUpdatedEvent:
    return ck.ThreadItemUpdatedEvent(item_id=item.id, update=update)


# -- Retrying a message: later messages are removed from the model's session


async def forget_runs(lab: UserLab, thread_id: str, run_ids: Iterable[str]) -> None:
    """Remove what these runs added to the thread's session; their pending approvals are withdrawn. Their traces are
    kept.
    """
    store = lab.store
    for run_id in run_ids:
        run = await in_thread(store.runs.get, run_id)
        if run.status == "needs_approval":
            await lab.runs.cancel(run_id)
    statements = [
        Statement(
            "delete from session_items where user_id = $1 and thread_id = $2 and run_id = $3",
            [store.user_id, thread_id, run_id],
        )
        for run_id in run_ids
    ]
    await in_thread(store.db.write, store.user_id, statements, changes=store.threads.changes(thread_id))


# --

# -- Attachments in two phases: announced here, then uploaded; stored as files under the attachment's id

_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")
"""RFC 6838, section 4.2."""
UNKNOWN_TYPE = "application/octet-stream"
PURPOSE = "user_data"


class LabAttachments(ck_store.AttachmentStore[ChatKitContext]):
    def __init__(self, store: LabChatKitStore) -> None:
        self._store = store

    async def create_attachment(self, input: ck.AttachmentCreateParams, context: ChatKitContext) -> ck.Attachment:
        """Announce an attachment. The file name is sanitised; the declared type is used until the content has been
        uploaded and its type detected.
        """
        if input.size < 0:
            raise UsageError(f"A file cannot have {input.size} bytes.", "Give its size.", param="params.size")
        if input.size > MAX_BYTES:
            raise too_large(safe_name(input.name), input.size)
        file_id = new_id("file")
        path = f"/api/v1/agents/{context.agent.id}/chatkit/upload?attachment_id={file_id}"
        descriptor = {"url": context.base_url + path, "method": "PUT", "headers": {"Content-Type": UNKNOWN_TYPE}}
        mime_type = input.mime_type if _MEDIA_TYPE.fullmatch(input.mime_type) else UNKNOWN_TYPE
        shown = _shown(file_id, safe_name(input.name), mime_type, context)
        return ATTACHMENT.validate_python({**shown, "upload_descriptor": descriptor})

    async def delete_attachment(self, attachment_id: str, context: ChatKitContext) -> None:
        await self._store.load_attachment(attachment_id, context)  # Raises if there is no such attachment.
        try:
            await in_thread(context.lab.files.delete, attachment_id)
        except NotFoundError:
            return  # It was never uploaded.

    async def take(
        self, attachment_id: str | None, name: str, content: bytes, context: ChatKitContext
    ) -> ck.Attachment:
        """Store the content of an announced attachment, or of a new one. Raises `ConflictError` for a second upload."""
        if attachment_id is not None:
            announced = await self._store.load_attachment(attachment_id, context)
            if announced.upload_descriptor is None:
                raise ConflictError(
                    f"The attachment {attachment_id!r} has already been uploaded.", "Create a new attachment."
                )
            name = announced.name
        file = await in_thread(context.lab.files.add_bytes, name, content, purpose=PURPOSE, file_id=attachment_id)
        attachment = described(file, context)
        await self._store.save_attachment(attachment, context)
        return attachment


def described(file: FileRecord, context: ChatKitContext) -> ck.Attachment:
    return ATTACHMENT.validate_python(_shown(file.id, file.filename, file.content_type, context))


def _shown(file_id: str, name: str, media_type: str, context: ChatKitContext) -> dict[str, str]:
    plain = {"id": file_id, "name": name, "mime_type": media_type, "type": "file"}
    if media_type in IMAGE_TYPES:
        plain |= {"type": "image", "preview_url": f"{context.base_url}/openai/v1/files/{file_id}/content"}
    return plain


# --


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackRecord:
    id: str
    """The item id: a new thought replaces an earlier one with the same id."""
    user_id: str
    thread_id: str
    item_id: str
    kind: str
    created_at: datetime = field(default_factory=utc_now)


class LabChatKitServer(ChatKitServer[ChatKitContext]):
    def __init__(self) -> None:
        self.lab_store = LabChatKitStore()
        self.lab_attachments = LabAttachments(self.lab_store)
        super().__init__(self.lab_store, self.lab_attachments)

    async def respond(
        self, thread: ck.ThreadMetadata, input_user_message: ck.UserMessageItem | None, context: ChatKitContext
    ) -> AsyncIterator[ck.ThreadStreamEvent]:
        """Answer a message; without one, continue after a client tool result or a submitted form."""
        if input_user_message is not None:
            begin = self._send_message(thread, input_user_message, context)
        elif context.answer is not None:
            call_id, output = context.answer
            begin = _now(context.lab.runner.client_tool_output(thread.id, call_id, output))
        else:
            begin = self._send_answers(thread, context)
        async for event in _thread_events(begin, context):
            yield event

    async def action(
        self,
        thread: ck.ThreadMetadata,
        action: Action[str, object],
        sender: ck.WidgetItem | None,
        context: ChatKitContext,
    ) -> AsyncIterator[ck.ThreadStreamEvent]:
        """Handle a button of an approval card. The payload only names a call; the call itself is read from the store."""
        async for event in _thread_events(self._decide(thread, action, context), context):
            yield event

    async def sync_action(
        self,
        thread: ck.ThreadMetadata,
        action: Action[str, object],
        sender: ck.WidgetItem | None,
        context: ChatKitContext,
    ) -> ck.SyncCustomActionResponse:
        raise UsageError(
            f"The action {action.type!r} starts a run, which is streamed.", "Send it as threads.custom_action."
        )

    async def transcribe(self, audio_input: ck.AudioInput, context: ChatKitContext) -> ck.TranscriptionResult:
        raise UsageError("This lab has no speech-to-text model.", "Type the message.")

    async def add_feedback(
        self, thread_id: str, item_ids: list[str], feedback: ck.FeedbackKind, context: ChatKitContext
    ) -> None:
        for item_id in item_ids:
            await self.store.load_item(thread_id, item_id, context)
        rows = context.lab.store
        table = Table(rows.db, rows.user_id, "feedback", FeedbackRecord, noun="feedback")
        for item_id in item_ids:
            record = FeedbackRecord(
                id=item_id, user_id=rows.user_id, thread_id=thread_id, item_id=item_id, kind=feedback
            )  # fmt: skip
            await in_thread(table.upsert, record)

    async def handle_stream_cancelled(
        self, thread: ck.ThreadMetadata, pending_items: list[ck.ThreadItem], context: ChatKitContext
    ) -> None:
        """The reader left or pressed stop: the run was cancelled with its stream and has stored its partial output."""

    # -- what a request starts

    async def _send_message(
        self, thread: ck.ThreadMetadata, message: ck.UserMessageItem, context: ChatKitContext
    ) -> AsyncIterator[Event]:
        lab, options = context.lab, message.inference_options
        thread.title = thread.title or read_turn(message_text(message), _ids(message)).title
        item = await in_thread(lab.store.threads.get_item, message.id)
        if item.run_id:  # It was answered before: this is `threads.retry_after_item`.
            await forget_runs(lab, thread.id, {item.run_id, *context.forgotten_runs})
        attachments = await lab.attachments(_ids(message))
        settings = {"tool_choice": options.tool_choice.id} if options.tool_choice else None
        events: AsyncIterator[Event] = lab.runner.stream(
            message_text(message), agent=context.agent, thread_id=thread.id, model=options.model, model_settings=settings,
            attachments=attachments, user_item=item,
        )  # fmt: skip
        return events

    async def _send_answers(self, thread: ck.ThreadMetadata, context: ChatKitContext) -> AsyncIterator[Event]:
        """A submitted form: send its questions and answers to the model as a user message."""
        records = await in_thread(context.lab.store.threads.all_items, thread.id)
        filled = [r for r in records if r.type == "structured_input" and r.data["status"] != "pending"]
        if not filled:
            raise UsageError("There is no message to answer.", "Send a message first.")
        events: AsyncIterator[Event] = context.lab.runner.stream(
            answers_text(filled[-1].data), agent=context.agent, thread_id=thread.id, user_item=filled[-1]
        )
        return events

    async def _decide(
        self, thread: ck.ThreadMetadata, action: Action[str, object], context: ChatKitContext
    ) -> AsyncIterator[Event]:
        decision = DECISIONS.get(action.type)
        if decision is None:
            raise UsageError(f"There is no action {action.type!r}.", f"Known: {', '.join(DECISIONS)}.")
        named = action.payload if isinstance(action.payload, Mapping) else {}
        run_id, call_id = str(named.get("run_id", "")), str(named.get("call_id", ""))
        run = await in_thread(context.lab.store.runs.get, run_id)
        if run.thread_id != thread.id:
            raise NotFoundError(f"Thread {thread.id} has no run {run_id!r}.", "Reload the conversation.")
        events: AsyncIterator[Event] = context.lab.runner.resume(run_id, {call_id: decision})
        return events


def answers_text(form: Mapping[str, Json]) -> str:
    """The text of a form, given as the JSON of a structured input."""
    assert WRITTEN_BY_CHATKIT in form
    lines = []
    for question in objects_of(form["inputs"]):
        answer = object_of(question.get("answer"))
        given = ", ".join(map(str, list_of(answer.get("values")))) if not answer.get("skipped") else "(skipped)"
        lines.append(f"{question['question']}\n{given}")
    return "\n\n".join(lines)


async def _thread_events(
    begin: Awaitable[AsyncIterator[Event]], context: ChatKitContext
) -> AsyncIterator[ck.ThreadStreamEvent]:
    """The events of an operation; an error before it starts becomes an event in the stream."""
    try:
        async for event in chatkit_events(await begin, context):
            yield event
    except LabError as error:
        raise CustomStreamError(str(error), allow_retry=isinstance(error, BusyError | ConflictError)) from error


async def _now(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    return events


def _ids(message: ck.UserMessageItem) -> list[dict[str, Json]]:
    return [{"id": attachment.id} for attachment in message.attachments]


# --- One ChatKit request, with the SDK's errors translated


MOST = 1000
"""Maximum number of entries per page."""
REQUEST: TypeAdapter[ck.ChatKitReq] = TypeAdapter(ck.ChatKitReq)


@cache
def server() -> LabChatKitServer:
    """The server, shared by all users; the user is part of each request's context."""
    return LabChatKitServer()


async def process(body: bytes, context: ChatKitContext) -> bytes | AsyncIterator[bytes]:
    """Process a request: a response, or a stream of events. Raises, for a stream before its first event, `UsageError`,
    `NotFoundError`, and the lab's own errors."""
    with _refused():
        request: ck.ChatKitReq = REQUEST.validate_json(body)
        await _check(request, context)
        context.answering = isinstance(request, ck.ThreadsAddClientToolOutputReq)
        result = await server().process(body, context)
        return result.json if isinstance(result, NonStreamingResult) else _events(aiter(result))


async def _check(request: ck.ChatKitReq, context: ChatKitContext) -> None:
    """Reject requests that the SDK would answer with an empty result: invalid page sizes, items of an unknown thread,
    an answer to an unknown message.
    """
    match request:
        case ck.ThreadsListReq() | ck.ItemsListReq() if (
            request.params.limit is not None and not 1 <= request.params.limit <= MOST
        ):
            raise UsageError(
                f"A page cannot have {request.params.limit} entries.",
                f"Use a limit from 1 to {MOST}.",
                param="params.limit",
            )
        case ck.ItemsListReq() | ck.ItemsFeedbackReq():
            await server().lab_store.load_thread(request.params.thread_id, context)
        case ck.ThreadsRetryAfterItemReq():
            await server().lab_store.load_item(request.params.thread_id, request.params.item_id, context)


async def _events(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    with _refused():
        async for event in events:
            yield event


async def take(attachment_id: str | None, name: str, content: bytes, context: ChatKitContext) -> bytes:
    """Store the content of an attachment; returns its JSON."""
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
        raise UsageError(
            f"This is not a ChatKit request: {where or 'the body'}: {first['msg']}.", param=where or None
        ) from error
    except ValueError as error:  # The SDK's error for a request that does not fit its thread.
        raise UsageError(f"{error}.") from error


# --- The two ChatKit routes of an agent. The SDK is imported on the first request, in a thread, because that takes seconds


router = APIRouter(prefix="/api/v1/agents", tags=["chatkit"], responses=ERRORS)
AgentId = Annotated[str, Path(min_length=1, max_length=200)]
BROKEN = {"type": "error", "code": "stream.error", "allow_retry": True}
ANSWERS: dict[int | str, dict[str, object]] = {
    200: {
        "content": {"text/event-stream": {}},
        "description": "The ChatKit response: JSON, or server-sent events for streaming requests.",
    }
}


async def context_of(agent_id: str, request: Request, lab: UserLab) -> ChatKitContext:
    from timestep_lab.server.chatkit.store import ChatKitContext

    agent = await in_thread(lab.agents.get, agent_id)
    return ChatKitContext(lab=lab, agent=agent, base_url=str(request.base_url).rstrip("/"))


@router.post("/{agent_id}/chatkit", response_class=Response, responses=ANSWERS)
async def chatkit(agent_id: AgentId, request: Request, lab: CurrentLab) -> Response:
    """All operations of the ChatKit protocol, by the `type` in the body."""
    context = await context_of(agent_id, request, lab)
    body = await request.body()
    answer = await process(body, context)
    if isinstance(answer, bytes):
        return Response(answer, media_type="application/json")
    stream = await detached(answer, lambda _: b"data: " + json.dumps(BROKEN).encode() + b"\n\n")
    return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)


@router.put("/{agent_id}/chatkit/upload", response_class=Response)
@router.post("/{agent_id}/chatkit/upload", response_class=Response)
async def upload(
    agent_id: AgentId,
    request: Request,
    lab: CurrentLab,
    attachment_id: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """Upload an attachment, as the raw body or as a form with one file, at most 50 MB. `attachment_id`: of an
    attachment announced with `attachments.create`; without it, a new one is created."""
    context = await context_of(agent_id, request, lab)
    form = await read_upload(request)
    if form.filename is None:
        raise UsageError("The form has no file.", "Send one part with a file name.", param="file")
    return Response(await take(attachment_id, form.filename, form.content, context), media_type="application/json")
