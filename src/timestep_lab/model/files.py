"""Files, uploads and vector stores as the store keeps them. One record is one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from timestep_lab.model.clock import utc_now
from timestep_lab.model.records import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file as it is stored, without its bytes."""

    id: str
    user_id: str
    filename: str
    """Without folders and control characters, at most 200 bytes."""
    bytes: int
    content_type: str
    """By content; what the sender said only refines one text form into another."""
    purpose: str = "assistants"
    sha256: str = ""
    status: Literal["processed"] = "processed"
    created_at: datetime = field(default_factory=utc_now)
    expires_at: datetime | None = None
    """From then on the file is gone to every reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRecord:
    """A file that arrives in parts."""

    id: str
    user_id: str
    filename: str
    bytes: int
    """As announced; the parts must add up to it."""
    content_type: str = ""
    """As announced. The file's own is found by its content."""
    purpose: str = "assistants"
    status: Literal["pending", "completed", "cancelled"] = "pending"
    part_ids: tuple[str, ...] = ()
    """In the order given when the upload was completed."""
    bytes_uploaded: int = 0
    file_id: str | None = None
    created_at: datetime = field(default_factory=utc_now)
    expires_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorStoreRecord:
    """A named set of files that can be searched by meaning."""

    id: str
    user_id: str
    name: str
    embedding_model: str
    """`prefix/model`. A store keeps to one: vectors of two models cannot be compared."""
    metadata: Mapping[str, Json] = field(default_factory=dict)
    expires_after_days: int | None = None
    """Counted from `last_active_at`."""
    created_at: datetime = field(default_factory=utc_now)
    last_active_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorStoreFileRecord:
    """A file in a vector store, whole or on its way there."""

    id: str
    """`<vector store id>/<file id>`."""
    user_id: str
    vector_store_id: str
    file_id: str
    filename: str
    status: Literal["in_progress", "completed", "failed", "cancelled"] = "in_progress"
    chunking_strategy: Mapping[str, Json] = field(default_factory=dict)
    """OpenAI's object: `{"type": "static", "static": {"max_chunk_size_tokens", "chunk_overlap_tokens"}}`."""
    last_error: Mapping[str, Json] | None = None
    """`{"code", "message"}`."""
    attributes: Mapping[str, Json] = field(default_factory=dict)
    """What searches can be filtered by."""
    n_chunks: int = 0
    usage_bytes: int = 0
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """A passage found by a search."""

    file_id: str
    filename: str
    position: int
    """Of the passage in the file, from 0."""
    text: str
    score: float
    """0 to 1: the weighted sum of the two below."""
    vector_score: float
    """Cosine similarity of meanings, negative ones as 0."""
    keyword_score: float
    """Share of the query's words that the passage has, rare words counting more."""
    attributes: Mapping[str, Json] = field(default_factory=dict)
