"""`lab.files` and `lab.vector_stores` as operations."""

from __future__ import annotations

from timestep_lab.model.awaiting import says_await
from timestep_lab.runtime.files import files, vector_stores
from timestep_lab.service import operation as op

MOST_SHOWN = 50


@op.noun("files")
class Files(files.Files):
    """A user's files, by id. Calls block."""

    page = op.get("/files")(files.Files.page)
    add_bytes = op.post("/files", status=201, local={"file_id": "Omit file_id: the served lab assigns one."})(
        files.Files.add_bytes
    )
    get = op.get("/files/{file_id}")(files.Files.get)
    content = op.get("/files/{file_id}/content")(files.Files.content)
    delete = op.delete("/files/{file_id}")(files.Files.delete)

    def __repr__(self) -> str:
        page = self.page(limit=MOST_SHOWN)
        listed = [f"  {file.id}  {file.filename}  {file.bytes:,} bytes" for file in page.data]
        more = ["  … and more: lab.files.list()"] if page.has_more else []
        return (
            "\n".join(["Files, newest first:", *listed, *more]) if listed else "No files. Add one: lab.files.add(path)"
        )


@says_await("lab.vector_stores")
@op.noun("vector_stores")
class VectorStores(vector_stores.VectorStores):
    """A user's vector stores. Calls that compute embeddings are async, the others block. Local files are stored in
    `lab.files` first.
    """

    records = op.get("/vector-stores")(vector_stores.VectorStores.records)
    add_store = op.post("/vector-stores", status=201)(vector_stores.VectorStores.add_store)
    delete = op.delete("/vector-stores/{store_id}")(vector_stores.VectorStores.delete)
    store_files = op.get("/vector-stores/{store_id}/files")(vector_stores.VectorStores.store_files)
    put_file = op.post("/vector-stores/{store_id}/files", status=201)(vector_stores.VectorStores.put_file)
    remove_file = op.delete("/vector-stores/{store_id}/files/{file_id}")(vector_stores.VectorStores.remove_file)
    search = op.post("/vector-stores/{store_id}/search")(vector_stores.VectorStores.search)

    def __repr__(self) -> str:
        listed = [f"  {store.id}  {store.name}" for store in self.list()]
        return (
            "\n".join(["Vector stores, newest first:", *listed])
            if listed
            else "No vector stores. Create one: await lab.vector_stores.create(name, files=[…])"
        )
