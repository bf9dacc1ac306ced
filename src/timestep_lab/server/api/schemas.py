"""Request and response bodies that are not records."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Rejects unknown fields."""

    model_config = ConfigDict(extra="forbid")


class ErrorObject(BaseModel):
    """An error in OpenAI's format, with the fields that a remote `Lab` needs to raise the same exception."""

    type: str
    message: str
    """What happened and the next step, on one line."""
    param: str | None = None
    code: str | None = None
    name: str | None = None
    """Class name of the error, see `timestep_lab.model.errors`."""
    details: dict[str, str | float | bool | None] = {}
    """Additional fields of the error: `next_step`, and for some `retry_after`, `position`, `provider` …"""


class ErrorBody(BaseModel):
    error: ErrorObject


ERRORS: dict[int | str, dict[str, object]] = {
    code: {"model": ErrorBody, "description": text}
    for code, text in {
        400: "Invalid request; nothing was changed.",
        401: "No valid token.",
        403: "Not allowed from another site's page, by this host name, or for a guest.",
        404: "Not found for this user.",
        409: "Someone else changed or claimed it first, or the name is taken.",
        413: "Too large.",
        422: "The body or a parameter is invalid.",
        429: "Too many requests; `Retry-After` says when to try again.",
        502: "A model provider or a tool failed.",
        503: "The store, or a provider, is temporarily unavailable; try again.",
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
