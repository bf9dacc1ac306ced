"""What a model is given of an attached file: an image as an image, text as bounded text, and of anything else its name."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from timestep_lab.store.base import in_thread
from timestep_lab.types.errors import UsageError
from timestep_lab.types.records import Json

if TYPE_CHECKING:
    from timestep_lab.runtime.files import Files

IMAGE_TYPES = {"image/png", "image/jpeg", "image/gif", "image/webp"}
MAX_TEXT = 100_000
"""Characters of a text file that go to the model, about 25,000 tokens; search finds the rest."""
MAX_IMAGE = 20 * 2**20


async def with_content(files: Files, described: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    """`described` name files by `id`. Each comes back as it is kept (name, type and size are the store's, not the caller's),
    with the key `input`: the content part for the model. Raises `NotFoundError`, `UsageError` for an image that is too large."""
    return [await in_thread(_with_content, files, str(one.get("id", ""))) for one in described]


def _with_content(files: Files, file_id: str) -> dict[str, Json]:
    file = files.get(file_id)
    shown = {"id": file.id, "name": file.filename, "mime_type": file.content_type, "size": file.bytes}
    return {**shown, "input": _part(files, file_id, file.filename, file.content_type, file.bytes)}


def _part(files: Files, file_id: str, name: str, content_type: str, size: int) -> dict[str, Json]:
    if content_type in IMAGE_TYPES:
        if size > MAX_IMAGE:
            raise UsageError(
                f"{name} is larger than a model takes ({MAX_IMAGE // 2**20} MB).", "Attach a smaller image."
            )
        data = base64.b64encode(files.content(file_id)).decode()
        return {"type": "input_image", "image_url": f"data:{content_type};base64,{data}", "detail": "auto"}
    if content_type.startswith("text/") or content_type in ("application/json", "application/xml", "application/yaml"):
        text = files.content(file_id).decode("utf-8", errors="replace")
        cut = f"\n[cut after {MAX_TEXT} of {len(text)} characters]" if len(text) > MAX_TEXT else ""
        return {"type": "input_text", "text": f'<file name="{name}">\n{text[:MAX_TEXT]}{cut}\n</file>'}
    return {
        "type": "input_text",
        "text": f'<file name="{name}" type="{content_type}" bytes="{size}">not readable as text</file>',
    }
