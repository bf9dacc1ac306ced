"""The Files page: files and vector stores."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import LabError, MissingExtraError
from timestep_lab.runtime.files.embeddings import OFFLINE_MODEL, embedder
from timestep_lab.runtime.files.files import MAX_BYTES, Uploads
from timestep_lab.server.pages.page_view import PageView
from timestep_lab.store.base import Topic, in_thread
from timestep_lab.ui.view import handles

if TYPE_CHECKING:
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.server.labs import UserLab

# --- Whether embeddings are available, without calling a model


def default_embeddings(settings: Settings) -> dict[str, Json]:
    """The default embedding model, and why it is unavailable, if it is. Does not detect a server that is down."""
    model = settings.default_embedding_model or OFFLINE_MODEL
    problem: dict[str, Json] | None = None
    try:
        embedder(settings, model)
        if model == OFFLINE_MODEL and find_spec("wordllama") is None:
            raise MissingExtraError("The offline embedding model", "files")
    except LabError as error:
        problem = {"message": error.message, "next_step": error.next_step}
    return {"model": model, "problem": problem}


# --- The page: upload, list and delete files; create, fill and search vector stores


PART_BYTES = 2**20
"""Size of an upload part: small enough for any websocket, and a step of the progress bar."""


class FilesPage(PageView):
    """The page. A file is uploaded in parts, each stored before the next is requested; it exists once the last part has
    arrived.
    """

    stem = "pages/files"
    title = "Files"
    topics: ClassVar[frozenset[Topic]] = frozenset({"files"})

    def __init__(self, lab: UserLab) -> None:
        super().__init__(lab)
        self._uploads = Uploads(lab.store)

    async def read(self) -> object:
        return await self.in_turn(self._read)

    def _read(self) -> object:
        stores = self.lab.vector_stores
        return {
            "files": [
                {"id": f.id, "name": f.filename, "bytes": f.bytes, "type": f.content_type, "created_at": f.created_at}
                for f in self.lab.files.list()
            ],
            "stores": [
                {
                    "id": store.id, "name": store.name, "embedding_model": store.record.embedding_model,
                    "files": [
                        {"id": m.file_id, "name": m.filename, "status": m.status, "n_chunks": m.n_chunks,
                         "error": (m.last_error or {}).get("message")}
                        for m in stores.store_files(store.id)
                    ],
                }
                for store in stores.list()
            ],
            "embeddings": default_embeddings(self.lab.settings),
            "most_bytes": MAX_BYTES,
            "part_bytes": PART_BYTES,
        }  # fmt: skip

    # -- files

    @handles("begin")
    async def _begin(self, name: str, size: int) -> str:
        """Start an upload. Raises `TooLargeError` before a byte is sent."""
        upload = await in_thread(self._uploads.create, name, size)
        return upload.id

    @handles("part")
    async def _part(self, upload_id: str, buffers: list[bytes]) -> str:
        part = await in_thread(self._uploads.add_part, upload_id, buffers[0])
        return part.id

    @handles("finish")
    async def _finish(self, upload_id: str, part_ids: list[str]) -> str:
        record = await in_thread(self._uploads.complete, upload_id, part_ids)
        await self.refresh()
        return record.id

    @handles("cancel")
    async def _cancel(self, upload_id: str) -> None:
        await in_thread(self._uploads.cancel, upload_id)

    @handles("delete_file")
    async def _delete_file(self, file_id: str) -> None:
        await in_thread(self.lab.files.delete, file_id)
        await self.refresh()

    # -- vector stores

    @handles("create_store")
    async def _create_store(self, name: str, file_ids: list[str]) -> str:
        try:
            store = await self.lab.vector_stores.create(name, file_ids)
        finally:
            await self.refresh()
        return str(store.id)

    @handles("add_to_store")
    async def _add_to_store(self, store_id: str, file_id: str) -> None:
        try:
            await self.lab.vector_stores.add_file(store_id, file_id)
        finally:
            await self.refresh()

    @handles("take_from_store")
    async def _take_from_store(self, store_id: str, file_id: str) -> None:
        await in_thread(self.lab.vector_stores.remove_file, store_id, file_id)
        await self.refresh()

    @handles("delete_store")
    async def _delete_store(self, store_id: str) -> None:
        await in_thread(self.lab.vector_stores.delete, store_id)
        await self.refresh()

    @handles("search")
    async def _search(self, store_id: str, query: str) -> Json:
        hits = await self.lab.vector_stores.search(store_id, query, k=10)
        return [
            {"filename": hit.filename, "position": hit.position, "text": hit.text, "score": hit.score,
             "vector_score": hit.vector_score, "keyword_score": hit.keyword_score}
            for hit in hits
        ]  # fmt: skip


def page(lab: UserLab, *, is_owner: bool) -> FilesPage:
    return FilesPage(lab)
