"""Vector stores of the calling user, their files, and search."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import Json, JsonObject
from timestep_lab.model.errors import LabError, NotFoundError, UsageError
from timestep_lab.model.records import SearchHit, VectorStoreFileRecord, VectorStoreRecord
from timestep_lab.runtime.files.embeddings import VECTOR_WEIGHT
from timestep_lab.runtime.files.vector_stores import Chunking, VectorStores, counted
from timestep_lab.server.api.operations import Strict
from timestep_lab.server.labs import CurrentLab
from timestep_lab.server.openai_api.calling import After, Id, Limit, Object, Order, deleted, unix, window
from timestep_lab.store.base import in_thread

router = APIRouter(prefix="/vector_stores")
Attributes = dict[str, str | int | float | bool]
Status = Literal["in_progress", "completed", "failed", "cancelled"]


class Expiry(Strict):
    anchor: Literal["last_active_at"] = "last_active_at"
    days: int = Field(ge=1, le=365)


class StoreBody(Strict):
    name: str = Field("", max_length=500)
    description: str | None = Field(None, max_length=2000)
    file_ids: list[str] = Field([], max_length=500)
    metadata: JsonObject | None = None
    expires_after: Expiry | None = None
    embedding_model: str | None = Field(None, max_length=500)
    """`prefix/model`; default: the lab's embedding model."""
    chunking_strategy: JsonObject | None = None


class StorePatch(Strict):
    name: str | None = Field(None, max_length=500)
    metadata: JsonObject | None = None
    expires_after: Expiry | None = None


class FileBody(Strict):
    file_id: str = Field(min_length=1, max_length=200)
    attributes: Attributes | None = None
    chunking_strategy: JsonObject | None = None


class FilePatch(Strict):
    attributes: Attributes | None


class BatchBody(Strict):
    file_ids: list[str] = Field([], max_length=2000)
    files: list[FileBody] = Field([], max_length=2000)
    attributes: Attributes | None = None
    chunking_strategy: JsonObject | None = None


class Hybrid(Strict):
    embedding_weight: float = Field(ge=0)
    text_weight: float = Field(ge=0)


class Ranking(Strict):
    ranker: Literal["auto", "none", "default-2024-11-15"] | None = None
    """There is only one ranking method; these values leave the choice to the lab."""
    score_threshold: float = Field(0.0, ge=0, le=1)
    hybrid_search: Hybrid | None = None


class SearchBody(Strict):
    query: str | Annotated[list[str], Field(min_length=1, max_length=20)]
    max_num_results: int = Field(10, ge=1, le=50)
    filters: JsonObject | None = None
    ranking_options: Ranking | None = None
    rewrite_query: bool = False


@router.post("", response_model=Object)
async def create_store(body: StoreBody, lab: CurrentLab) -> Object:
    """Create a vector store. Its files have been processed, or have failed, when this returns. The description is kept in
    its metadata.
    """
    stores: VectorStores = lab.vector_stores
    Chunking.from_strategy(body.chunking_strategy)
    for file_id in body.file_ids:
        await in_thread(lab.files.get, file_id)
    days = body.expires_after.days if body.expires_after else None
    metadata = {**(body.metadata or {}), **({"description": body.description} if body.description else {})}
    store = await stores.create(
        body.name, metadata=metadata, expires_after_days=days, embedding_model=body.embedding_model
    )
    for file_id in body.file_ids:
        await _add(stores, store.id, FileBody(file_id=file_id, chunking_strategy=body.chunking_strategy))
    return await in_thread(_store, stores, store.record)


@router.get("", response_model=Object)
async def list_stores(
    lab: CurrentLab, limit: Limit = 20, after: After = None, before: After = None, order: Order = "desc"
) -> Object:
    stores: VectorStores = lab.vector_stores
    records = await in_thread(stores.table.find)
    return window(
        [await in_thread(_store, stores, record) for record in records], after=after, before=before, limit=limit, order=order
    )  # fmt: skip


@router.get("/{store_id}", response_model=Object)
async def get_store(store_id: Id, lab: CurrentLab) -> Object:
    stores: VectorStores = lab.vector_stores
    return await in_thread(_store, stores, await in_thread(stores.table.get, store_id))


@router.post("/{store_id}", response_model=Object)
async def update_store(store_id: Id, body: StorePatch, lab: CurrentLab) -> Object:
    stores: VectorStores = lab.vector_stores
    changes: dict[str, Any] = {}
    if body.name is not None:
        changes["name"] = body.name
    if "metadata" in body.model_fields_set:
        changes["metadata"] = body.metadata or {}
    if "expires_after" in body.model_fields_set:
        changes["expires_after_days"] = body.expires_after.days if body.expires_after else None
    record = await in_thread(stores.table.get, store_id)
    if changes:
        record = await in_thread(stores.table.update, store_id, **changes)
    return await in_thread(_store, stores, record)


@router.delete("/{store_id}", response_model=Object)
async def delete_store(store_id: Id, lab: CurrentLab) -> Object:
    """Delete a vector store; its files are kept."""
    await in_thread(lab.vector_stores.delete, store_id)
    return deleted(store_id, "vector_store.deleted")


@router.post("/{store_id}/search", response_model=Object)
async def search_store(store_id: Id, body: SearchBody, lab: CurrentLab) -> Object:
    """Search, best match first. With several queries, each passage has its best score."""
    queries = [body.query] if isinstance(body.query, str) else body.query
    ranking = body.ranking_options or Ranking(score_threshold=0.0)
    if body.rewrite_query:
        raise UsageError(
            "Query rewriting is not supported.", "Omit rewrite_query.",
            param="rewrite_query", code="unsupported_parameter",
        )  # fmt: skip
    weight = VECTOR_WEIGHT
    if hybrid := ranking.hybrid_search:
        if not (total := hybrid.embedding_weight + hybrid.text_weight):
            raise UsageError("Both weights are 0.", "Set at least one above 0.", param="ranking_options.hybrid_search")
        weight = hybrid.embedding_weight / total
    stores: VectorStores = lab.vector_stores
    await in_thread(stores.table.get, store_id)
    best: dict[tuple[str, int], SearchHit] = {}
    for query in queries:
        for hit in await stores.search(
            store_id, query, body.max_num_results, filters=body.filters, min_score=ranking.score_threshold, vector_weight=weight
        ):  # fmt: skip
            known = best.get((hit.file_id, hit.position))
            best[hit.file_id, hit.position] = hit if known is None or hit.score > known.score else known
    hits = sorted(best.values(), key=lambda hit: -hit.score)[: body.max_num_results]
    data: list[Json] = [
        {
            "file_id": hit.file_id, "filename": hit.filename, "score": hit.score, "attributes": dict(hit.attributes),
            "content": [{"type": "text", "text": hit.text}], "position": hit.position, "vector_score": hit.vector_score,
            "keyword_score": hit.keyword_score,
        }
        for hit in hits
    ]  # fmt: skip
    return {
        "object": "vector_store.search_results.page", "search_query": queries, "data": data, "has_more": False,
        "next_page": None,
    }  # fmt: skip


@router.post("/{store_id}/files", response_model=Object)
async def add_file(store_id: Id, body: FileBody, lab: CurrentLab) -> Object:
    """Add a file. It has been processed when this returns; for a file without text, or an embedding error, `status` is
    `failed` and `last_error` has the reason.
    """
    await in_thread(lab.files.get, body.file_id)
    return _file(await _add(lab.vector_stores, store_id, body))


@router.get("/{store_id}/files", response_model=Object)
async def list_store_files(
    store_id: Id,
    lab: CurrentLab,
    limit: Limit = 20,
    after: After = None,
    before: After = None,
    order: Order = "desc",
    status: Annotated[Status | None, Query(alias="filter")] = None,
) -> Object:
    members = await in_thread(lab.vector_stores.store_files, store_id)
    wanted = [_file(member) for member in members if status in (None, member.status)]
    return window(wanted, after=after, before=before, limit=limit, order=order)


@router.get("/{store_id}/files/{file_id}", response_model=Object)
async def get_store_file(store_id: Id, file_id: Id, lab: CurrentLab) -> Object:
    return _file(await in_thread(lab.vector_stores.members.get, f"{store_id}/{file_id}"))


@router.post("/{store_id}/files/{file_id}", response_model=Object)
async def update_store_file(store_id: Id, file_id: Id, body: FilePatch, lab: CurrentLab) -> Object:
    update = lab.vector_stores.members.update
    return _file(await in_thread(update, f"{store_id}/{file_id}", attributes=body.attributes or {}))


@router.delete("/{store_id}/files/{file_id}", response_model=Object)
async def remove_store_file(store_id: Id, file_id: Id, lab: CurrentLab) -> Object:
    """Remove a file from the store; the file itself is kept."""
    await in_thread(lab.vector_stores.remove_file, store_id, file_id)
    return deleted(file_id, "vector_store.file.deleted")


@router.get("/{store_id}/files/{file_id}/content", response_model=Object)
async def store_file_content(store_id: Id, file_id: Id, lab: CurrentLab) -> Object:
    """The passages of a file, in order."""
    stores: VectorStores = lab.vector_stores
    await in_thread(stores.members.get, f"{store_id}/{file_id}")
    rows = await in_thread(
        lab.store.db.query, lab.store.user_id,
        "select content from chunks where user_id = $1 and vector_store_id = $2 and file_id = $3 order by position",
        [lab.store.user_id, store_id, file_id],
    )  # fmt: skip
    return {
        "object": "vector_store.file_content.page", "data": [{"type": "text", "text": row[0]} for row in rows.rows],
        "has_more": False, "next_page": None,
    }  # fmt: skip


@router.post("/{store_id}/file_batches", response_model=Object)
async def create_batch(store_id: Id, body: BatchBody, lab: CurrentLab) -> Object:
    """Add several files; each has been processed, or has failed, when this returns."""
    if bool(body.file_ids) == bool(body.files):
        raise UsageError("A batch needs either file_ids or files.", "Pass one of them.", param="file_ids")
    stores: VectorStores = lab.vector_stores
    await in_thread(stores.table.get, store_id)
    wanted = body.files or [
        FileBody(file_id=id, attributes=body.attributes, chunking_strategy=body.chunking_strategy)
        for id in dict.fromkeys(body.file_ids)
    ]
    for file in wanted:
        Chunking.from_strategy(file.chunking_strategy)
        await in_thread(lab.files.get, file.file_id)
    added_at = utc_now()
    for file in wanted:
        await _add(stores, store_id, file, added_at)
    return await in_thread(_batch, stores, store_id, _batch_id(added_at))


@router.get("/{store_id}/file_batches/{batch_id}", response_model=Object)
async def get_batch(store_id: Id, batch_id: Id, lab: CurrentLab) -> Object:
    return await in_thread(_batch, lab.vector_stores, store_id, batch_id)


@router.post("/{store_id}/file_batches/{batch_id}/cancel", response_model=Object)
async def cancel_batch(store_id: Id, batch_id: Id, lab: CurrentLab) -> Object:
    """Cancel a batch. Has no effect, since batches are complete when they are created."""
    return await in_thread(_batch, lab.vector_stores, store_id, batch_id)


@router.get("/{store_id}/file_batches/{batch_id}/files", response_model=Object)
async def list_batch_files(
    store_id: Id,
    batch_id: Id,
    lab: CurrentLab,
    limit: Limit = 20,
    after: After = None,
    before: After = None,
    order: Order = "desc",
    status: Annotated[Status | None, Query(alias="filter")] = None,
) -> Object:
    members = await in_thread(_members_of, lab.vector_stores, store_id, batch_id)
    wanted = [_file(member) for member in members if status in (None, member.status)]
    return window(wanted, after=after, before=before, limit=limit, order=order)


def _batch_id(added_at: datetime) -> str:
    """The id of a batch: its files are those added in the same microsecond; batches are not stored themselves."""
    return f"vsfb_{round(added_at.timestamp() * 1_000_000):x}"


def _members_of(stores: VectorStores, store_id: str, batch_id: str) -> list[VectorStoreFileRecord]:
    members = [m for m in stores.store_files(store_id) if _batch_id(m.created_at) == batch_id]
    if not members:
        raise NotFoundError(
            f"The vector store {store_id!r} has no file batch {batch_id!r}.", "Its files may have been removed, or added again."
        )  # fmt: skip
    return members


def _batch(stores: VectorStores, store_id: str, batch_id: str) -> Object:
    members = _members_of(stores, store_id, batch_id)
    counts = counted(members)
    return {
        "id": batch_id, "object": "vector_store.files_batch", "vector_store_id": store_id, "created_at": unix(members[0].created_at),
        "status": "in_progress" if counts["in_progress"] else "completed", "file_counts": counts,
    }  # fmt: skip


async def _add(
    stores: VectorStores, store_id: str, body: FileBody, added_at: datetime | None = None
) -> VectorStoreFileRecord:
    added_at = added_at or utc_now()
    try:
        return await stores.add_file_at(
            added_at, store_id, body.file_id, attributes=body.attributes, chunking_strategy=body.chunking_strategy,
        )  # fmt: skip
    except LabError:
        failed = await in_thread(stores.members.try_get, f"{store_id}/{body.file_id}")
        if failed is None or failed.status != "failed" or _batch_id(failed.created_at) != _batch_id(added_at):
            raise  # It was refused before it was added.
        return failed


def _store(stores: VectorStores, store: VectorStoreRecord) -> Object:
    days = store.expires_after_days
    expires_at = unix(store.last_active_at + timedelta(days=days)) if days else None
    files = stores.store_files(store.id)
    counts = counted(files)
    return {
        "id": store.id, "object": "vector_store", "name": store.name, "created_at": unix(store.created_at),
        "last_active_at": unix(store.last_active_at), "metadata": dict(store.metadata), "file_counts": counts,
        "usage_bytes": sum(file.usage_bytes for file in files),
        "status": "in_progress" if counts["in_progress"] else "completed", "expires_at": expires_at,
        "expires_after": {"anchor": "last_active_at", "days": days} if days else None, "embedding_model": store.embedding_model,
    }  # fmt: skip


def _file(member: VectorStoreFileRecord) -> Object:
    return {
        "id": member.file_id, "object": "vector_store.file", "vector_store_id": member.vector_store_id,
        "created_at": unix(member.created_at), "status": member.status, "usage_bytes": member.usage_bytes,
        "last_error": _error(member), "chunking_strategy": dict(member.chunking_strategy),
        "attributes": dict(member.attributes), "filename": member.filename, "n_chunks": member.n_chunks,
    }  # fmt: skip


def _error(member: VectorStoreFileRecord) -> Object | None:
    """The last error of a file: OpenAI has three codes, so ours is a prefix of the message."""
    if member.last_error is None:
        return None
    bad = member.last_error["code"] in ("DataError", "UsageError", "SettingsError")
    return {
        "code": "unsupported_file" if bad else "server_error",
        "message": f"{member.last_error['code']}: {member.last_error['message']}",
    }
