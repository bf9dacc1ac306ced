"""Attachments as model input: images as images, PDFs as PDFs where supported, other files as bounded text, or else only by name."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from timestep_lab.model.codec import Json, list_of, object_of
from timestep_lab.model.errors import DataError, MissingExtraError, NotFoundError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.model.records import FileRecord
    from timestep_lab.runtime.files.files import Files

IMAGE_TYPES = {"image/png", "image/jpeg", "image/gif", "image/webp"}
PDF = "application/pdf"
MAX_TEXT = 100_000
"""Maximum number of characters of a file sent to the model, about 25,000 tokens; search covers the rest."""
MAX_IMAGE = 20 * 2**20
MAX_PDF = 20 * 2**20
"""In base64 still below Claude's request limit of 32 MB. A larger file is sent as text."""

Part = Mapping[str, Json]


# -- files of the lab as content parts


async def with_content(files: Files, described: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    """Returns files given by `id` with their stored name, type and size, and with the key `input`: the content part for the model; those
    that have it are returned as they are. Raises `NotFoundError`, and `UsageError` for what names no file and for an image that is too large.
    """
    ids = file_ids_of(described)
    return [
        one if one.get("input") else await in_thread(_with_content, files, id)
        for one, id in zip(described, ids, strict=True)
    ]


def file_ids_of(attachments: Sequence[object]) -> list[str]:
    """Returns the ids of attached files. Raises `UsageError` for what names no file."""
    ids = []
    for one in attachments:
        id = one.get("id") if isinstance(one, Mapping) else None
        if not isinstance(id, str) or not id:
            raise UsageError(
                f"{str(one)[:100]!r} is not an attachment.", 'Pass files of the lab as {"id": file.id}.', param="attachments"
            )  # fmt: skip
        ids.append(id)
    return ids


def _with_content(files: Files, file_id: str) -> dict[str, Json]:
    file = files.get(file_id)
    shown: dict[str, Json] = {"id": file.id, "name": file.filename, "mime_type": file.content_type, "size": file.bytes}
    return {**shown, "input": _part_of(files, file)}


async def with_files(
    files: Files, items: Sequence[Mapping[str, Json]], *, deleted_too: bool = False
) -> list[dict[str, Json]]:
    """Returns Responses input items with the content of the files that they refer to by `file_id`. Only finds files of this user.

    Raises `NotFoundError` for a missing file; with `deleted_too`, for earlier messages, the model is told that it was deleted.
    """

    def content(part: Part) -> Part:
        file_id = part.get("file_id")
        if not file_id or any(part.get(given) for given in ("file_data", "file_url", "image_url")):
            return part
        try:
            file = files.get(str(file_id))
            file_part = _part_of(files, file)
        except NotFoundError:
            if not deleted_too:
                raise
            return {"type": "input_text", "text": f'<file id="{file_id}">deleted</file>'}
        if part["type"] != "input_image":
            return file_part
        if file_part["type"] != "input_image":
            raise UsageError(
                f"The file {file.filename!r} is {file.content_type}, not a supported image.",
                "Send it as input_file.",
                param="file_id",
            )
        return {**file_part, "detail": part.get("detail") or "auto"}

    return await _changed(items, lambda part: bool(part.get("file_id")), content)


def _part_of(files: Files, file: FileRecord) -> Part:
    from timestep_lab.runtime.files.extract import READABLE

    if file.content_type in IMAGE_TYPES and file.bytes > MAX_IMAGE:
        raise UsageError(
            f"{file.filename} exceeds the size limit of models ({MAX_IMAGE // 2**20} MB).", "Attach a smaller image."
        )
    if file.content_type not in IMAGE_TYPES | READABLE:
        return _unreadable(file.filename, file.content_type, file.bytes)
    return _part(file.filename, file.content_type, files.content(file.id))


def _part(name: str, content_type: str, content: bytes) -> Part:
    if content_type in IMAGE_TYPES:
        return {"type": "input_image", "image_url": _data_url(content_type, content), "detail": "auto"}
    if content_type == PDF and len(content) <= MAX_PDF:
        return {"type": "input_file", "filename": name, "file_data": _data_url(content_type, content)}
    return _text_part(name, content_type, content)


# -- files in content parts, as a protocol supports them


async def files_as_text(items: Sequence[Mapping[str, Json]], takes: frozenset[str]) -> list[dict[str, Json]]:
    """Returns the items with files replaced by their text unless their type is in `takes`. Raises `UsageError`."""

    def readable(part: Part) -> Part:
        given, name = str(part["file_data"]), str(part.get("filename") or "file")
        head, comma, data = given.partition(",")
        try:
            content = base64.b64decode(data if comma else head, validate=True)
        except binascii.Error as error:
            raise UsageError(f"The content of {name!r} is not base64 ({error}).", param="file_data") from error
        return _readable(part, name, content, takes)

    return await _changed(
        items, lambda part: part.get("type") == "input_file" and bool(part.get("file_data")), readable
    )


def _readable(part: Part, name: str, content: bytes, takes: frozenset[str]) -> Part:
    from timestep_lab.runtime.files.files import content_type_of

    content_type = content_type_of(content, name)
    if content_type in takes:
        return {**part, "file_data": _data_url(content_type, content)}
    if content_type in IMAGE_TYPES:
        return _part(name, content_type, content)
    return _text_part(name, content_type, content)


_extracted: dict[tuple[str, str, bytes], str] = {}
"""Text of the latest PDFs and documents, because the whole conversation is sent again in every step of a run."""
_MOST_EXTRACTED = 16


def _text_part(name: str, content_type: str, content: bytes) -> Part:
    from timestep_lab.runtime.files.extract import READABLE, text_of
    from timestep_lab.runtime.files.files import IPYNB, TEXT_TYPES, decode_text

    if content_type in TEXT_TYPES - {IPYNB}:
        return _in_words(f'<file name="{name}">', decode_text(content) or "")
    if content_type not in READABLE:
        return _unreadable(name, content_type, len(content))
    key = (name, content_type, hashlib.sha256(content).digest())
    text = _extracted.get(key)
    if text is None:
        try:
            text = text_of(content, content_type, name)
        except (DataError, MissingExtraError) as error:
            # The model tells the reader. Raising would also fail every later turn of the conversation.
            return _unreadable(name, content_type, len(content), f": {error}")
        while len(_extracted) >= _MOST_EXTRACTED:
            _extracted.pop(next(iter(_extracted)), None)
        _extracted[key] = text
    return _in_words(f'<file name="{name}" type="{content_type}">', text)


def _unreadable(name: str, content_type: str, size: int, why: str = "") -> Part:
    text = f'<file name="{name}" type="{content_type}" bytes="{size}">not readable as text{why}</file>'
    return {"type": "input_text", "text": text}


def _in_words(head: str, text: str) -> Part:
    cut = f"\n[cut after {MAX_TEXT} of {len(text)} characters]" if len(text) > MAX_TEXT else ""
    return {"type": "input_text", "text": f"{head}\n{text[:MAX_TEXT]}{cut}\n</file>"}


def _data_url(content_type: str, content: bytes) -> str:
    return f"data:{content_type};base64,{base64.b64encode(content).decode()}"


_IMAGE = re.compile(r"data:(image/[a-z0-9.+-]+)[^,]*;base64,", re.IGNORECASE)
_NAMED = ("png", "webp", "jpeg", "gif", "svg")
"""Image formats that the Responses API has names for."""


def image_call(address: str) -> dict[str, Any] | None:
    """Returns the fields of the `image_generation_call` whose result is the image of a `data:` URL; None for any other address."""
    if (head := _IMAGE.match(address)) is None:
        return None
    media_type = head.group(1).lower()
    kind = media_type.removeprefix("image/").removesuffix("+xml")
    return {
        "id": new_id("item"), "type": "image_generation_call", "status": "completed", "result": address[head.end() :],
        "provider_data": {"media_type": media_type}, **({"output_format": kind} if kind in _NAMED else {}),
    }  # fmt: skip


def generated_image(item: Mapping[str, Json]) -> dict[str, Json] | None:
    """Returns the image of an `image_generation_call` as a content part; None for any other item, and without a result."""
    if item.get("type") != "image_generation_call" or not item.get("result"):
        return None
    provider_data = object_of(item.get("provider_data"))
    media_type = provider_data.get("media_type") or f"image/{item.get('output_format') or 'png'}"
    return {"type": "input_image", "image_url": f"data:{media_type};base64,{item['result']}", "detail": "auto"}


async def _changed(
    items: Iterable[Mapping[str, Json]], concerns: Callable[[Part], bool], change: Callable[[Part], Part]
) -> list[dict[str, Json]]:
    """Returns copies of the items with `change` applied, in a thread, to the content parts for which `concerns` is true."""

    def changed(item: Mapping[str, Json]) -> dict[str, Json]:
        return {**item, **{key: [changed_part(part) for part in list_of(item[key])] for key in _lists(item)}}

    def changed_part(part: Json) -> Json:
        return change(part) if isinstance(part, Mapping) and concerns(dict(part)) else part

    def concerned(part: Json) -> bool:
        return isinstance(part, Mapping) and concerns(dict(part))

    made = []
    for item in items:
        touched = any(concerned(part) for key in _lists(item) for part in list_of(item[key]))
        made.append(await in_thread(changed, item) if touched else dict(item))
    return made


def _lists(item: Mapping[str, object]) -> list[str]:
    return [key for key in ("content", "output") if isinstance(item.get(key), list | tuple)]
