"""`lab.vector_stores` of a served lab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from os import PathLike
from typing import Any, TypeAlias

from timestep_lab.lab.remote.files import UPLOAD_S, RemoteFiles
from timestep_lab.model.errors import DataError, NotFoundError, UsageError
from timestep_lab.model.records import FileRecord, Json, SearchHit, VectorStoreFileRecord, VectorStoreRecord
from timestep_lab.runtime.files.search import VECTOR_WEIGHT
from timestep_lab.runtime.files.vector_stores import AnyFile, Hits, VectorStore, VectorStores
from timestep_lab.service.client import Connection
from timestep_lab.store.base import in_thread

PATH = "/openai/v1/vector_stores"
MOST = 100
Told: TypeAlias = "list[Mapping[str, Any]]"
Stores: TypeAlias = "list[VectorStore]"
StoreFiles: TypeAlias = "list[VectorStoreFileRecord]"


class RemoteVectorStores(VectorStores):
    """Files of this machine are sent first; texts are cut and embedded by the served lab."""

    def __init__(self, connection: Connection, files: RemoteFiles) -> None:
        self._connection, self.files, self._user_id = connection, files, files.user_id

    async def create(
        self,
        name: str,
        files: Sequence[AnyFile] = (),
        *,
        embedding_model: str | None = None,
        metadata: Mapping[str, Json] | None = None,
        expires_after_days: int | None = None,
        chunking_strategy: Mapping[str, Json] | None = None,
    ) -> VectorStore:
        expiry = None if expires_after_days is None else {"anchor": "last_active_at", "days": expires_after_days}
        body = {
            "name": name, "metadata": dict(metadata or {}), "expires_after": expiry, "embedding_model": embedding_model
        }  # fmt: skip
        record = self._record(await in_thread(self._connection.post, PATH, body))
        for file in files:
            await self.add_file(record.id, file, chunking_strategy=chunking_strategy)
        return VectorStore(self, record)

    def list(self) -> Stores:
        return [VectorStore(self, self._record(told)) for told in self._all(PATH)]

    def get(self, store: str) -> VectorStore:
        known = [one for one in self.list() if store in (one.id, one.name)]
        exact = [one for one in known if one.id == store] or known
        if not exact:
            raise NotFoundError(f"There is no vector store {store!r}.", "lab.vector_stores.list() shows them.")
        if len(exact) > 1:
            raise UsageError(
                f"{len(exact)} vector stores are called {store!r}.", "Name the one you mean by its id.", param="name"
            )
        return exact[0]

    def delete(self, store_id: str) -> None:
        self._connection.ask("DELETE", f"{PATH}/{store_id}")

    def store_files(self, store_id: str) -> StoreFiles:
        return [self._member(told) for told in self._all(f"{PATH}/{store_id}/files")[::-1]]

    async def add_file(
        self,
        store_id: str,
        file: AnyFile,
        *,
        attributes: Mapping[str, Json] | None = None,
        chunking_strategy: Mapping[str, Json] | None = None,
    ) -> VectorStoreFileRecord:
        kept = await in_thread(self._kept, file)
        body = {"file_id": kept, "attributes": attributes, "chunking_strategy": chunking_strategy}
        path = f"{PATH}/{store_id}/files"
        member = self._member(await in_thread(self._connection.post, path, body, timeout_s=UPLOAD_S))
        if member.last_error is not None:
            raise DataError(f"{member.filename} was not added. {member.last_error['message']}", "Add another file.")
        return member

    def remove_file(self, store_id: str, file_id: str) -> None:
        self._connection.ask("DELETE", f"{PATH}/{store_id}/files/{file_id}")

    async def search(
        self,
        store_id: str,
        query: str,
        k: int = 10,
        *,
        filters: Mapping[str, Json] | None = None,
        min_score: float = 0.0,
        vector_weight: float = VECTOR_WEIGHT,
    ) -> Hits:
        weights = {"embedding_weight": vector_weight, "text_weight": 1.0 - vector_weight}
        ranking = {"score_threshold": min_score, "hybrid_search": weights}
        body = {"query": query, "max_num_results": k, "filters": filters, "ranking_options": ranking}
        told = await in_thread(self._connection.post, f"{PATH}/{store_id}/search", body)
        return [
            SearchHit(
                file_id=hit["file_id"], filename=hit["filename"], position=hit["position"], text=hit["content"][0]["text"],
                score=hit["score"], vector_score=hit["vector_score"], keyword_score=hit["keyword_score"],
                attributes=hit["attributes"],
            )
            for hit in told["data"]
        ]  # fmt: skip

    # --

    def _kept(self, file: AnyFile) -> str:
        """The id of a file that the served lab has; one of this machine is sent first."""
        if isinstance(file, FileRecord):
            return file.id
        if isinstance(file, PathLike) or not file.startswith("file_"):
            return self.files.add(file).id
        return file

    def _all(self, path: str) -> Told:
        """Newest first."""
        found: Told = []
        after: str | None = None
        while True:
            told = self._connection.get(path, limit=MOST, after=after)
            found += told["data"]
            if not told["has_more"]:
                return found
            after = told["last_id"]

    def _record(self, told: Mapping[str, Any]) -> VectorStoreRecord:
        expiry = told["expires_after"]
        return VectorStoreRecord(
            id=told["id"], user_id=self._user_id, name=told["name"], embedding_model=told["embedding_model"],
            metadata=told["metadata"], expires_after_days=expiry["days"] if expiry else None,
            created_at=_moment(told["created_at"]), last_active_at=_moment(told["last_active_at"]),
        )  # fmt: skip

    def _member(self, told: Mapping[str, Any]) -> VectorStoreFileRecord:
        return VectorStoreFileRecord(
            id=f"{told['vector_store_id']}/{told['id']}", user_id=self._user_id, vector_store_id=told["vector_store_id"],
            file_id=told["id"], filename=told["filename"], status=told["status"], last_error=told["last_error"],
            chunking_strategy=told["chunking_strategy"], attributes=told["attributes"], n_chunks=told["n_chunks"],
            usage_bytes=told["usage_bytes"], created_at=_moment(told["created_at"]),
        )  # fmt: skip


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
