"""Questions of a server during a tool call: to fill in a form (elicitation), or to use the model (sampling).

The run that called the tool has an asker in `ASKER`; without one, in a direct call or a comparison, nobody can be asked, and the server
is told so. A server asks on its connection, not on a call: the call is known only if all active calls on the connection belong to one
run; otherwise the server is told that nobody can be asked now.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from timestep_lab.model.codec import Json, objects_of

if TYPE_CHECKING:
    from mcp.client.session import ClientRequestContext
    from mcp.types import (
        CreateMessageRequestParams,
        CreateMessageResult,
        ElicitRequestParams,
        ElicitResult,
        ErrorData,
        PromptMessage,
        SamplingMessage,
    )

_REFUSED = -1
"""Error code for a rejected sampling request, as in the specification's examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question of a server. `schema` is that of a form; None for a page to visit (`url`) or a sampling request (`messages`)."""

    kind: Literal["elicitation", "sampling"]
    server: str
    tool: str
    """The tool that is being called."""
    message: str
    schema: Mapping[str, Json] | None = None
    url: str | None = None
    messages: tuple[Mapping[str, Json], ...] = ()
    """For sampling: the model's input, as Responses input items."""
    instructions: str | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a question. `content`: values of the form. `text`, `model` and `is_cut`: for sampling."""

    decision: Literal["approved", "rejected", "dismissed"]
    content: Mapping[str, Json] = field(default_factory=dict)
    text: str = ""
    model: str = ""
    is_cut: bool = False
    """Whether the text ends at the limit of tokens."""


Asker = Callable[[Question], Coroutine[object, None, Reply]]
ASKER: ContextVar[Asker | None] = ContextVar("timestep_lab_asker", default=None)


@dataclass(eq=False)
class CallUnderWay:
    """A tool call in progress, during which the server may ask questions."""

    tool: str
    limit: asyncio.Timeout
    longest_wait_s: float
    asker: Asker | None = field(default_factory=ASKER.get)
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    waits: int = 0
    is_over: bool = False

    def progressed(self) -> None:
        """Restarts the timeout of a call in progress, unless a person is being asked, which has no timeout."""
        if not (self.waits or self.is_over):
            self.limit.reschedule(asyncio.get_running_loop().time() + self.longest_wait_s)

    async def ask(self, question: Question) -> Reply:
        assert self.asker is not None
        self.waits += 1
        self.limit.reschedule(None)
        try:
            # In the call's own context, so that a sampled model belongs to its run and trace.
            return await asyncio.get_running_loop().create_task(self.asker(question), context=self.context)
        finally:
            self.waits -= 1
            self.progressed()


class Questions:
    """Questions on one connection. `server` is the server's name."""

    def __init__(self, server: str) -> None:
        self._server = server
        self.under_way: list[CallUnderWay] = []

    def ended(self, call: CallUnderWay) -> None:
        self.under_way.remove(call)
        call.is_over = True

    def _whose(self) -> CallUnderWay | None:
        """Returns the newest call if all calls belong to one run."""
        askers = {call.asker for call in self.under_way}
        return self.under_way[-1] if len(askers) == 1 and None not in askers else None

    async def elicit(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult | ErrorData:
        from mcp.types import ElicitResult

        call = self._whose()
        if call is None:
            return ElicitResult(action="cancel")
        schema = getattr(params, "requested_schema", None)
        reply = await call.ask(
            Question(
                kind="elicitation", server=self._server, tool=call.tool, message=params.message, schema=schema, url=getattr(params, "url", None)
            )
        )  # fmt: skip
        if reply.decision != "approved":
            return ElicitResult(action="cancel" if reply.decision == "dismissed" else "decline")
        if schema is None:
            return ElicitResult(action="accept")
        content = cast(dict[str, str | int | float | list[str] | None], dict(reply.content))
        return ElicitResult(action="accept", content=content)

    async def sample(
        self, context: ClientRequestContext, params: CreateMessageRequestParams
    ) -> CreateMessageResult | ErrorData:
        from mcp.types import CreateMessageResult, ErrorData, TextContent

        call = self._whose()
        if call is None:
            return ErrorData(code=_REFUSED, message="Nobody is available to approve the use of a model.")
        messages = tuple(message_item(message) for message in params.messages)
        last = str(next(objects_of(messages[-1]["content"]), {}).get("text", "")) if messages else ""
        reply = await call.ask(
            Question(
                kind="sampling", server=self._server, tool=call.tool, message=f"It wants to ask the model: {last[:500]}", messages=messages,
                instructions=params.system_prompt, max_tokens=params.max_tokens,
            )
        )  # fmt: skip
        if reply.decision != "approved":
            return ErrorData(code=_REFUSED, message="User rejected sampling request")
        content = TextContent(type="text", text=reply.text)
        ended = "maxTokens" if reply.is_cut else "endTurn"
        return CreateMessageResult(role="assistant", content=content, model=reply.model, stop_reason=ended)


def message_item(message: SamplingMessage | PromptMessage) -> dict[str, Json]:
    """Converts a server's message (of sampling, or of a prompt) to a Responses input item."""
    blocks = message.content if isinstance(message.content, list) else [message.content]
    kind = "output_text" if message.role == "assistant" else "input_text"
    parts: list[Json] = []
    for block in blocks:
        if block.type == "image":
            parts.append({"type": "input_image", "image_url": f"data:{block.mime_type};base64,{block.data}"})
        elif block.type == "text":
            parts.append({"type": kind, "text": block.text})
        elif block.type == "resource" and hasattr(block.resource, "text"):
            parts.append({"type": kind, "text": block.resource.text})
        else:
            parts.append({"type": kind, "text": block.model_dump_json()})
    return {"role": message.role, "content": parts}
