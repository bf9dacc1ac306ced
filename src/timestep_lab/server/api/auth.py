"""Anonymous sign-in."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel

from timestep_lab import __version__
from timestep_lab.server.api.operations import ERRORS, TokenBody
from timestep_lab.server.gate import LIFETIME, Tokens
from timestep_lab.server.labs import CurrentLab, caller_of

router = APIRouter(prefix="/api/v1/auth", tags=["auth"], responses={429: ERRORS[429]})


class Me(BaseModel):
    user: dict[str, str]
    version: str
    """Version of the server."""
    default_model: str


@router.get("/me", response_model=Me, responses={401: ERRORS[401]})
async def who_am_i(request: Request, lab: CurrentLab) -> Me:
    """The user of the token, and the server's version."""
    return Me(user={"id": caller_of(request).user_id}, version=__version__, default_model=lab.settings.default_model)


@router.post(
    "/anonymous",
    response_model=TokenBody,
    responses={303: {"description": "With `then`: a redirect to that path, with a cookie."}},
)
async def sign_in_anonymously(
    request: Request, then: Annotated[str | None, Query(pattern=r"^/([^/\\].*)?$", max_length=2000)] = None
) -> Response | TokenBody:
    """Create an anonymous user and a token for it. With `then` (a path on this server), a browser is redirected there
    with a cookie.
    """
    tokens: Tokens = request.app.state.tokens
    user_id, token = tokens.issue_anonymous()
    if then is None:
        return TokenBody(access_token=token, user={"id": user_id})
    answer = RedirectResponse(then, status_code=303)
    answer.set_cookie(
        tokens.cookie,
        token,
        max_age=int(LIFETIME.total_seconds()),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/sign-out", status_code=204)
async def sign_out(request: Request) -> Response:
    """Delete the browser's cookie. A bearer token remains valid until it expires."""
    tokens: Tokens = request.app.state.tokens
    answer = Response(status_code=204)
    answer.delete_cookie(tokens.cookie, httponly=True, samesite="lax", secure=request.url.scheme == "https")
    return answer
