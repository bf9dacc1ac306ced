"""Bodies of requests and answers that are not records themselves."""

from __future__ import annotations

from typing import Any, Literal

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


ERRORS: dict[int | str, dict[str, object]] = {
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


class SqlBody(Strict):
    query: str = Field(min_length=1, max_length=100_000)
    params: list[Any] = []
    limit: int = Field(10_000, ge=1, le=1_000_000)


class SqlResult(BaseModel):
    columns: list[str]
    rows: list[dict[str, Any]]
    truncated: bool
