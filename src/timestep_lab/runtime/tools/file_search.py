"""`file_search`: passages from the user's vector stores, with where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from timestep_lab.model.errors import UsageError
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.runtime.files import VectorStore, VectorStores

MAX_RESULTS = 20

DESCRIPTION = (
    "Search the user's files by meaning and words. Gives passages with the file each comes from; "
    "name the files that an answer rests on."
)
INPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "description": "What to look for, in a few words or a question."},
        "vector_store": {
            "type": "string",
            "description": "Name or id of one vector store; without it, all are searched.",
        },
        "limit": {"type": "integer", "minimum": 1, "maximum": MAX_RESULTS, "default": 5},
    },
    "required": ["query"],
    "additionalProperties": False,
}


async def file_search(stores: VectorStores, query: str, vector_store: str | None, limit: int) -> Mapping[str, Any]:
    """`{"kind": "file_search", "query", "results": [{"file", "file_id", "vector_store", "passage", "score", "text"}]}`, best first.

    Raises `UsageError` for a limit out of range or when there is nothing to search, `NotFoundError` for an unknown store, and what
    embedding the query raises.
    """
    if not 1 <= limit <= MAX_RESULTS:
        raise UsageError(f"limit is {limit}.", f"Give 1 to {MAX_RESULTS}.", param="limit")
    searched: list[VectorStore]
    if vector_store:
        searched = [await in_thread(stores.get, vector_store)]
    else:
        searched = await in_thread(stores.list)
    if not searched:
        raise UsageError(
            "There is no vector store to search.", "Make one: await lab.vector_stores.create(name, files=[…])"
        )
    results: list[dict[str, Any]] = [
        {
            "file": hit.filename,
            "file_id": hit.file_id,
            "vector_store": store.name,
            "passage": hit.position,
            "score": round(hit.score, 3),
            "text": hit.text,
        }
        for store in searched
        for hit in await store.search(query, limit)
    ]
    results.sort(key=lambda result: -result["score"])
    return {"kind": "file_search", "query": query, "results": results[:limit]}
