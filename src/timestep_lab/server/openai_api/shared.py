"""What every part of the layer needs: ids in paths, pages as OpenAI lists them, Unix times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Query

from timestep_lab.model.errors import UsageError
from timestep_lab.model.records import Json

Id = Annotated[str, Path(min_length=1, max_length=200)]
Limit = Annotated[int, Query(ge=1, le=100)]
After = Annotated[str | None, Query(max_length=200)]
Order = Literal["asc", "desc"]
Object = dict[str, Any]


PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")


def checked_purpose(purpose: str) -> str:
    """Raises `UsageError`."""
    if purpose not in PURPOSES:
        raise UsageError(f"{purpose[:100]!r} is no purpose.", f"There are: {', '.join(PURPOSES)}.", param="purpose")
    return purpose


def unix(when: datetime) -> int:
    return int(when.timestamp())


def listed(data: Sequence[Mapping[str, Json]], *, has_more: bool = False) -> Object:
    """OpenAI's list object."""
    ids = [str(item["id"]) for item in data]
    return {
        "object": "list", "data": list(data), "has_more": has_more, "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }  # fmt: skip


def deleted(id: str, kind: str) -> Object:
    return {"id": id, "object": kind, "deleted": True}


def window(items: Iterable[Mapping[str, Json]], *, after: str | None, limit: int, order: Order) -> Object:
    """One page of items that stand oldest first. An `after` that is not among them begins at the first."""
    ordered = list(items) if order == "asc" else list(items)[::-1]
    ids = [item["id"] for item in ordered]
    start = ids.index(after) + 1 if after in ids else 0
    return listed(ordered[start : start + limit], has_more=len(ordered) > start + limit)
