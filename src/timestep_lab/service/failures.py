"""What went wrong on the other side, as the error it was there; and what keeps the other side from answering at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

from timestep_lab.model import errors
from timestep_lab.model.errors import LabError, StoreError, StoreUnavailableError, UsageError

BY_STATUS: Mapping[int, type[LabError]] = {
    400: errors.UsageError, 401: errors.AuthError, 403: errors.ForbiddenError, 404: errors.NotFoundError,
    409: errors.ConflictError, 413: errors.TooLargeError, 422: errors.UsageError, 429: errors.BusyError,
    502: errors.StoreUnavailableError, 503: errors.StoreUnavailableError, 504: errors.StoreUnavailableError,
}  # fmt: skip
"""For an answer that names no class of ours: a body of the wrong form, or something that stands before the lab."""


def only_here(what: str, next_step: str) -> UsageError:
    """For a part of the interface that a served lab does not have."""
    return UsageError(f"{what} cannot be had from a served lab.", next_step)


def error_of(status: int, body: bytes, url: str) -> LabError:
    try:
        told = json.loads(body)["error"]
        return rebuilt(told, status)
    except (ValueError, KeyError, TypeError, AttributeError):
        kind = BY_STATUS.get(status, StoreError)
        return kind(f"{url} answered {status}, and not as a served lab does.", "Check the address.")


def rebuilt(told: Mapping[str, Any], status: int = 500) -> LabError:
    """The error that the server raised, of the same class, with the same words."""
    carried = dict(told.get("details") or {})
    next_step = str(carried.pop("next_step", ""))
    message = str(told["message"]).removesuffix(next_step).strip()
    kind = getattr(errors, str(told.get("name")), None)
    if not (isinstance(kind, type) and issubclass(kind, LabError)):
        return BY_STATUS.get(status, LabError)(message, next_step)
    error = kind.__new__(kind)
    LabError.__init__(error, message, next_step, param=told.get("param"), code=told.get("code"))
    vars(error).update(carried)
    return error


def unreachable(error: httpx.HTTPError | OSError, url: str) -> LabError:
    if isinstance(error, httpx.UnsupportedProtocol):
        return UsageError(f"{url} is no address of a served lab.", "Write it as http://host:port.")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return StoreUnavailableError(
            f"{url} cannot be reached ({str(error) or 'no answer'}).", "Start it with: timestep-lab serve. Or check the address."
        )  # fmt: skip
    if isinstance(error, httpx.TimeoutException):
        return StoreUnavailableError(f"{url} does not answer.", "Look at its log, or try again.")
    return StoreUnavailableError(
        f"{url} broke off while it answered.", "It may have been stopped. Try again; what it acknowledged is kept."
    )
