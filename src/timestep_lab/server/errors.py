"""HTTP errors in OpenAI's format: `{"error": {"type", "message", "param", "code"}}`, without tracebacks.

A browser that opens an unknown address gets an HTML page instead.
"""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from timestep_lab.model.codec import error_json
from timestep_lab.model.errors import (
    BusyError,
    LabError,
    ProviderUnavailableError,
    RateLimitError,
    StoreUnavailableError,
    TooLargeError,
    TooSlowError,
    UsageError,
)
from timestep_lab.runtime.files.files import MAX_BYTES

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


# --- Upload bodies, counted while they arrive: a file over the limit is rejected at the first excess byte


MAX_FIELDS = 100
MAX_FIELD = 64 * 1024
"""Maximum size in bytes of a form field that is not a file."""


@dataclass(slots=True)
class Form:
    filename: str | None = None
    """The file name sent by the client; None if there is no file."""
    content: bytes = b""
    fields: dict[str, str] = field(default_factory=dict)


async def read_upload(request: Request) -> Form:
    """Read a multipart form with one file, or a body that is the file itself. Raises `TooLargeError`, `UsageError`."""
    announced = request.headers.get("content-length", "")
    multipart = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    if not multipart:
        if announced.isdigit() and int(announced) > MAX_BYTES:
            raise _too_large()
        content = bytearray()
        async for piece in request.stream():
            content += piece
            if len(content) > MAX_BYTES:
                raise _too_large()
        return Form(filename="", content=bytes(content))
    return await _read_form(request)


async def _read_form(request: Request) -> Form:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary")
    if not boundary:
        raise UsageError("The form has no boundary.", "Send multipart/form-data as a browser does.")
    parts = _Parts()
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": parts.begin, "on_header_field": parts.header_name, "on_header_value": parts.header_value,
            "on_header_end": parts.header_end, "on_headers_finished": parts.headers_end, "on_part_data": parts.data,
            "on_part_end": parts.end,
        },
    )  # fmt: skip
    try:
        async for piece in request.stream():
            parser.write(piece)
        parser.finalize()
    except FormParserError as error:
        raise UsageError(f"The form cannot be read: {error}.", "Send multipart/form-data as a browser does.") from error
    return parts.form


class _Parts:
    """Collects the parts of a form as they are parsed."""

    def __init__(self) -> None:
        self.form = Form()
        self._name = self._value = b""
        self._headers: dict[str, bytes] = {}
        self._file: str | None = None
        self._field = ""
        self._bytes = bytearray()

    def begin(self) -> None:
        self._headers, self._bytes = {}, bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value
        self._name = self._value = b""

    def headers_end(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        self._field = options.get(b"name", b"").decode("utf-8", errors="replace")
        named = options.get(b"filename")
        self._file = None if named is None else named.decode("utf-8", errors="replace")
        if self._file is not None and self.form.filename is not None:
            raise UsageError("The form has more than one file.", "Send one file at a time.", param="file")

    def data(self, data: bytes, start: int, end: int) -> None:
        self._bytes += data[start:end]
        if self._file is not None and len(self._bytes) > MAX_BYTES:
            raise _too_large()
        if self._file is None and len(self._bytes) > MAX_FIELD:
            raise UsageError(
                f"The field {self._field!r} is too long.", "Send large content as a file part.", param=self._field
            )

    def end(self) -> None:
        if self._file is not None:
            self.form.filename, self.form.content = self._file, bytes(self._bytes)
        elif len(self.form.fields) >= MAX_FIELDS:
            raise UsageError("The form has too many fields.", "Send only what is documented.")
        else:
            self.form.fields[self._field] = self._bytes.decode("utf-8", errors="replace")


def _too_large() -> TooLargeError:
    return TooLargeError(f"A file may have at most {MAX_BYTES // 2**20} MB.", "Split it, or omit parts.", param="file")


logger = logging.getLogger("timestep_lab.server")


def error_object(error: LabError) -> dict[str, object]:
    """The error in OpenAI's format."""
    return {"error": error_json(error)}


RETRY_S = 5.0
"""Seconds after which a request may be sent again that was answered 503."""


def error_response(error: LabError, *, retry_after: float | None = None) -> JSONResponse:
    if retry_after is None and error.http_status == 503:
        retry_after = RETRY_S
    headers = {"Retry-After": str(max(1, math.ceil(retry_after)))} if retry_after is not None else {}
    if isinstance(error, TooSlowError):
        headers["Connection"] = "close"
    if error.http_status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="timestep-lab"'
    return JSONResponse(error_object(error), status_code=error.http_status, headers=headers)


def install(app: FastAPI) -> None:
    """Install handlers that turn every failure of `app` into an error object."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.responses import HTMLResponse

    from timestep_lab.server.gate import API_PREFIXES, Caller
    from timestep_lab.server.pages.shell import nowhere

    async def on_lab_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, LabError)
        retry_after = (
            error.retry_after if isinstance(error, BusyError | RateLimitError | ProviderUnavailableError) else None
        )
        return error_response(error, retry_after=retry_after)

    def is_lost_browser(request: Request) -> bool:
        return not request.url.path.startswith(API_PREFIXES) and "text/html" in request.headers.get("accept", "")

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        # FastAPI reports an exception while reading the body as a 400 with our error as its cause (body too large).
        if isinstance(error.__cause__, LabError):
            return await on_lab_error(request, error.__cause__)
        if error.status_code == 404 and is_lost_browser(request):
            caller: Caller | None = getattr(request.state, "caller", None)
            is_guest = caller is not None and caller.user_id != request.app.state.labs.root.store.user_id
            is_guest = is_guest and request.app.state.loopback
            return HTMLResponse(nowhere(request.url.path, guest=is_guest), 404)
        kind = "invalid_request_error" if error.status_code < 500 else "server_error"
        message, code = str(error.detail), None
        if (
            error.status_code in (404, 405) and message == HTTPStatus(error.status_code).phrase
        ):  # Raised without a message: no route.
            message = f"{request.method} {request.url.path} is no endpoint of this API. See /api/openapi.json for those that are."
            code = "unknown_url"
        body = {"error": {"type": kind, "message": message, "param": None, "code": code}}
        return JSONResponse(body, status_code=error.status_code, headers=error.headers)

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        # The error furthest inside: of a value that may have several types, the others are only not of its type.
        first = max(error.errors(), key=lambda one: len(one["loc"]))
        where = ".".join(str(part) for part in first["loc"])
        message = f"{where}: {first['msg']}. See /api/openapi.json for what is expected."
        sent_as = request.headers.get("content-type", "")
        if where == "body" and isinstance(error.body, bytes) and sent_as.partition(";")[0] != "application/json":
            message = f"The body was sent as {sent_as or 'no type'}. Send JSON, with the header Content-Type: application/json."
        body = {"error": {"type": "invalid_request_error", "message": message, "param": where, "code": first["type"]}}
        return JSONResponse(body, status_code=422)

    app.add_exception_handler(LabError, on_lab_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_middleware(AnswersFaults)


class AnswersFaults:
    """Logs unexpected exceptions and responds with status 500, keeping the connection open; with 503 to a request that the server cancels
    because it is shutting down.

    Starlette's handler for `Exception` re-raises after responding, which makes uvicorn close the connection without
    announcing it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except asyncio.CancelledError:
            if not scope["app"].state.stopping:
                raise
            if not begun:
                stopping = StoreUnavailableError("The server is shutting down.", "Try again in a few seconds.")
                await error_response(stopping)(scope, receive, send)
        except Exception as error:
            if (
                begun
            ):  # The response was partly sent: only closing the connection tells the client that the rest is missing.
                raise
            logger.exception("internal error while answering %s %s", scope["method"], scope["path"], exc_info=error)
            message = "Internal error while answering. Try again, or see the server's log."
            body = {"error": {"type": "server_error", "message": message, "param": None, "code": None}}
            await JSONResponse(body, 500)(scope, receive, send)
