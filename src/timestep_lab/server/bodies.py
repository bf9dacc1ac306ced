"""Bodies of uploads, counted while they come: a file over the limit is refused as soon as its first byte too many is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from timestep_lab.model.errors import TooLargeError, UsageError
from timestep_lab.runtime.files.files import MAX_BYTES

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_FIELDS = 100
MAX_FIELD = 64 * 1024
"""Bytes of a form's field that is no file."""


@dataclass(slots=True)
class Form:
    filename: str | None = None
    """As the sender called it; None when no file came."""
    content: bytes = b""
    fields: dict[str, str] = field(default_factory=dict)


async def read_upload(request: Request) -> Form:
    """A multipart form with one file, or a body that is the file itself. Raises `TooLargeError`, `UsageError`."""
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
        raise UsageError("The form names no boundary.", "Send multipart/form-data as a browser does.")
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
    """Collects the parts of a form as the parser meets them."""

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
            raise UsageError(f"The field {self._field!r} is too long.", "Send the file as a file.", param=self._field)

    def end(self) -> None:
        if self._file is not None:
            self.form.filename, self.form.content = self._file, bytes(self._bytes)
        elif len(self.form.fields) >= MAX_FIELDS:
            raise UsageError("The form has too many fields.", "Send only what is documented.")
        else:
            self.form.fields[self._field] = self._bytes.decode("utf-8", errors="replace")


def _too_large() -> TooLargeError:
    return TooLargeError(f"A file may have {MAX_BYTES // 2**20} MB.", "Split it, or leave parts out.", param="file")
