"""Bodies of requests and answers that are not records themselves."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """An unknown field is a mistake of the caller's, and is said."""

    model_config = ConfigDict(extra="forbid")


class ErrorObject(BaseModel):
    """OpenAI's form, and what a remote `Lab` needs to raise the same error."""

    type: str
    message: str
    """What happened and the next step, as one line."""
    param: str | None = None
    code: str | None = None
    name: str | None = None
    """Class of the error, as in `timestep_lab.model.errors`."""
    details: dict[str, str | float | bool | None] = {}
    """What the error carries besides: `next_step`, and for some `retry_after`, `position`, `provider` …"""


class ErrorBody(BaseModel):
    error: ErrorObject


ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody, "description": text}
    for code, text in {
        400: "The request is wrong; nothing was changed.",
        401: "No valid token.",
        403: "Not from a page of another site, by another host name, or for a guest.",
        404: "There is no such thing, for this caller.",
        409: "Somebody else changed or claimed it first, or the name is taken.",
        413: "Too large.",
        422: "The body or a parameter has the wrong form.",
        429: "Too many requests; `Retry-After` says when to try again.",
        502: "A model provider or a tool failed.",
        503: "The store, or a provider, cannot be reached now; try again.",
        504: "A provider did not answer in time.",
    }.items()
}


class TokenBody(BaseModel):
    access_token: str
    token_type: Literal["bearer"] = "bearer"
    user: dict[str, str]


class ContentPart(BaseModel):
    """A part of a message, in the words of the Responses API."""

    model_config = ConfigDict(extra="allow")
    type: Literal["input_text", "output_text", "input_image", "input_file"]
    text: str | None = None


class InputMessage(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[ContentPart]


class LimitsBody(Strict):
    """What a run may take at most; see `lab.run`."""

    budget_usd: float | None = Field(None, gt=0)
    max_tokens_total: int | None = Field(None, ge=1)
    timeout_s: float | None = Field(None, gt=0)
    max_tool_calls: int | None = Field(None, ge=0)

    def limits(self) -> dict[str, Any]:
        return self.model_dump(include=set(LimitsBody.model_fields))


class RunBody(LimitsBody):
    """What `lab.run` takes. With `stream`, the answer is server-sent events; else it comes when the run ends or pauses."""

    prompt: Annotated[str, Field(max_length=1_000_000)] | Annotated[list[InputMessage], Field(max_length=10_000)]
    agent: str = "Personal Assistant"
    model: str | None = None
    model_settings: dict[str, Any] | None = None
    thread_id: str | None = None
    approve: Literal["ask", "all", "none"] = "ask"
    max_turns: int = Field(10, ge=1, le=100)
    attachments: list[str] = Field([], max_length=100)
    """Ids of files of the caller."""
    metadata: dict[str, str] = {}
    tools: str | None = Field(None, max_length=10_000)
    """`tape`, or `tape:` and a filter of traces: its tools answer from recorded runs."""
    on_miss: str = Field("fail", max_length=500)
    """On tape, what becomes of a call that was never recorded: `fail`, `live-if-readonly`, `ask`, `simulate:<model>`."""
    stream: bool = False


class Decision(Strict):
    decision: Literal["approved", "rejected"] = "approved"
    message: str = Field("", max_length=10_000)
    always: bool = False


class ApproveBody(Strict):
    """Decisions by call id; none given: all that waits is approved. Nothing else is taken from a client."""

    decisions: dict[str, Decision] | None = None
    stream: bool = False


class ClientToolBody(Strict):
    """What a client tool gave: any JSON."""

    output: Any = None
    stream: bool = False


class ForkBody(LimitsBody):
    """What `lab.fork` takes: where it goes live again, and what is different."""

    span_id: str | None = Field(None, max_length=200)
    prompt: str | None = Field(None, max_length=1_000_000)
    model: Annotated[str, Field(max_length=500)] | dict[str, str] | None = None
    """One for all agents, or one by agent name."""
    instructions: Annotated[str, Field(max_length=200_000)] | dict[str, str] | None = None
    """Those of the first agent, or by agent name."""
    tools: dict[str, Any] = {}
    results: dict[str, Any] = {}
    again: bool = False
    on_tools: str | None = Field(None, max_length=10_000)
    """What becomes of live calls of tools: `ask`, `live`, `tape`, or `tape:` and a filter of traces."""
    on_miss: str = Field("fail", max_length=500)
    stream: bool = False


class SqlBody(Strict):
    query: str = Field(min_length=1, max_length=100_000)
    params: list[Any] = []
    limit: int = Field(10_000, ge=1, le=1_000_000)


class SqlResult(BaseModel):
    columns: list[str]
    rows: list[dict[str, Any]]
    truncated: bool


class McpServerBody(Strict):
    name: str = Field(min_length=1, max_length=200)
    url: str | None = Field(None, max_length=2000)
    headers: dict[str, str] = {}
    allowed_tools: list[str] | None = None
    require_approval: dict[str, Any] = {}
    timeout_s: float = Field(30.0, gt=0, le=600)


class McpServerView(BaseModel):
    """A server as it may be shown: header names without their values."""

    id: str
    name: str
    url: str | None
    command: list[str]
    header_names: list[str]
    allowed_tools: list[str] | None
    require_approval: dict[str, Any]
    timeout_s: float
    created_at: datetime


class ScoreTracesBody(Strict):
    """`which`: a filter, an SQL query that gives `trace_id`, or ids; empty: all that completed."""

    which: Annotated[str, Field(max_length=100_000)] | list[str] = ""
    scorers: list[dict[str, Any] | str] = Field(min_length=1)
    limit: int | None = Field(None, ge=1, le=100_000)
    keep: bool = True
    again: bool = False
    budget_usd: float | None = Field(None, gt=0)
