"""`lab.vector_stores`: files split into passages with embeddings, searched by meaning and keywords."""

from __future__ import annotations

import builtins
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from annotated_types import Interval, Len

from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import Json, JsonObject, object_of
from timestep_lab.model.errors import (
    ConflictError,
    DataError,
    LabError,
    NotFoundError,
    SettingsError,
    TooLargeError,
    UsageError,
)
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import FileRecord, SearchHit, VectorStoreFileRecord, VectorStoreRecord
from timestep_lab.runtime.files.embeddings import OFFLINE_MODEL, VECTOR_WEIGHT, embed, embedder, search, words_column
from timestep_lab.runtime.files.extract import text_of
from timestep_lab.runtime.files.files import FileId, Files
from timestep_lab.runtime.settings import Settings
from timestep_lab.store.base import Statement, in_thread
from timestep_lab.store.table import Table

if TYPE_CHECKING:
    from timestep_lab.store.store import Store


# -- Splitting text into passages: long enough to be meaningful, short enough for one vector, split at sentence ends

CHARS_PER_TOKEN = 4
ATTEMPTS = 5
"""How often the same file is begun anew when others add it at the same moment."""
LONGEST_DAYS = 36_500
"""A hundred years."""
"""For English prose, approximately; OpenAI's API gives sizes in tokens, and passages are split by characters."""

_ENDS = (re.compile(r"\n\s*\n"), re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*"), re.compile(r"\n"), re.compile(r"\s+"))
"""Where a passage may end, best first: paragraph, sentence, line, word."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """`size`: the most characters of a passage. `overlap`: the approximate number of characters it shares with the previous one."""

    size: int = 900
    overlap: int = 150

    @classmethod
    def from_strategy(cls, strategy: Mapping[str, Json] | None) -> Chunking:
        """Reads OpenAI's `chunking_strategy`: None and `{"type": "auto"}` select the defaults. Raises `SettingsError`."""
        if not strategy or strategy.get("type") == "auto":
            return cls()
        sizes = strategy.get("static")
        if strategy.get("type") != "static" or not isinstance(sizes, Mapping):
            raise SettingsError(
                f"The chunking strategy {dict(strategy)!r} is unknown.",
                'Use {"type": "auto"}, or {"type": "static", "static": {"max_chunk_size_tokens", "chunk_overlap_tokens"}}.',
                param="chunking_strategy",
            )
        size, overlap = sizes.get("max_chunk_size_tokens", 800), sizes.get("chunk_overlap_tokens", 400)
        if not (
            isinstance(size, int) and isinstance(overlap, int) and 100 <= size <= 4096 and 0 <= overlap <= size // 2
        ):
            raise SettingsError(
                f"Invalid chunk size {size} with overlap {overlap} (tokens).",
                "Use 100 to 4096 tokens, and an overlap of at most half of that.",
                param="chunking_strategy",
            )
        return cls(size * CHARS_PER_TOKEN, overlap * CHARS_PER_TOKEN)

    def as_strategy(self) -> dict[str, Json]:
        tokens = {
            "max_chunk_size_tokens": self.size // CHARS_PER_TOKEN,
            "chunk_overlap_tokens": self.overlap // CHARS_PER_TOKEN,
        }
        return {"type": "static", "static": tokens}

    def split(self, text: str) -> list[str]:
        """Returns the passages in order; none for text that is only whitespace."""
        text = text.strip()
        passages: list[str] = []
        start = 0
        while start < len(text):
            end = len(text) if len(text) - start <= self.size else self._end(text, start)
            passage = text[start:end].strip()
            if passage:
                passages.append(passage)
            if end == len(text):
                break
            start = self._next_start(text, start, end)
        return passages

    def _end(self, text: str, start: int) -> int:
        """Returns the best end of a passage in the second half of the allowed size."""
        earliest, latest = start + self.size // 2, start + self.size
        for boundary in _ENDS:
            ends = [match.end() for match in boundary.finditer(text, earliest, latest)]
            if ends:
                return ends[-1]
        return latest

    def _next_start(self, text: str, start: int, end: int) -> int:
        """Returns the position of the first word that starts within the overlap."""
        if not self.overlap:
            return end
        space = re.compile(r"\s+").search(text, max(start + 1, end - self.overlap), end)
        return space.end() if space else max(start + 1, end - self.overlap)


# --

# -- Filters on a file's attributes, in OpenAI's format:

_COMPARE: dict[str, Callable[..., object]] = {
    "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le,
}  # fmt: skip
_KNOWN = (*_COMPARE, "in", "nin", "and", "or")


def matches(rule: Json, attributes: Mapping[str, Json]) -> bool:
    """Whether a file with these attributes matches. A missing attribute matches `ne` and `nin` only. Raises `SettingsError`."""
    given = object_of(rule)
    kind = given.get("type")
    if kind in ("and", "or"):
        inner = given.get("filters")
        if not isinstance(inner, list) or not inner:
            raise _refuse(rule, "it has no filters")
        results = [matches(one, attributes) for one in inner]
        return all(results) if kind == "and" else any(results)
    key = given.get("key")
    if not isinstance(kind, str) or kind not in _KNOWN or not isinstance(key, str) or "value" not in given:
        raise _refuse(rule, "it requires type, key and value")
    value = given["value"]
    if kind in ("in", "nin"):
        if not isinstance(value, list):
            raise _refuse(rule, "its value must be a list")
        return (key in attributes and any(_compared("eq", attributes[key], one) for one in value)) is (kind == "in")
    if key not in attributes:
        return bool(kind == "ne")
    return _compared(kind, attributes[key], value)


def _compared(kind: str, mine: Json, value: Json) -> bool:
    if isinstance(mine, bool) is not isinstance(value, bool):
        return kind == "ne"  # In Python, True is 1.
    are_texts = isinstance(mine, str) and isinstance(value, str)
    are_numbers = isinstance(mine, int | float) and isinstance(value, int | float)
    if kind not in ("eq", "ne") and not (are_texts or are_numbers):
        return False
    return bool(_COMPARE[kind](mine, value))


def _refuse(rule: object, why: str) -> SettingsError:
    step = f'Known types: {", ".join(_KNOWN)}; for example {{"type": "eq", "key": "year", "value": 2026}}.'
    return SettingsError(f"The filter {rule!r} is invalid: {why}.", step, param="filters")


# --

StoreId = Annotated[str, Len(1, 200)]
AnyFile: TypeAlias = "FileRecord | str | PathLike[str]"
"""A file of the lab (its record or id), or a path on this machine."""
# In the class below, `list` is a method.
Stores: TypeAlias = "builtins.list[VectorStore]"
Records: TypeAlias = "builtins.list[VectorStoreRecord]"
Hits: TypeAlias = "builtins.list[SearchHit]"
StoreFiles: TypeAlias = "builtins.list[VectorStoreFileRecord]"
Passages: TypeAlias = "list[str]"
Statements: TypeAlias = "builtins.list[Statement]"


class VectorStores:
    """The vector stores of one user. Calls that embed are async; the others block.

    Example:
        assert isinstance(lab.vector_stores, VectorStores)
        print(lab.vector_stores.list())
    """

    def __init__(self, store: Store, settings: Settings | None = None) -> None:
        self._db, self._user_id, self._quota = store.db, store.user_id, store.quota
        self.settings = settings or Settings()
        self.files = Files(store)
        self.table = Table(
            store.db, store.user_id, "vector_stores", VectorStoreRecord, noun="vector store", topic="files"
        )
        self.members = Table(
            store.db,
            store.user_id,
            "vector_store_files",
            VectorStoreFileRecord,
            noun="file of a vector store",
            topic="files",
        )

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
        """Creates a store with these files.

        `embedding_model`: `local/wordllama` (the default), `openai/…`, `openai_compatible/<name>/…`, `ollama/…`. Raises the errors of
        `embeddings.embed`, and `DataError` for files without text (the store then exists, with all other files).
        """
        record = await self.add_store(
            name, embedding_model=embedding_model, metadata=None if metadata is None else dict(metadata),
            expires_after_days=expires_after_days,
        )  # fmt: skip
        refused: list[LabError] = []
        for file in files:
            try:
                await self.add_file(record.id, file, chunking_strategy=chunking_strategy)
            except (DataError, TooLargeError) as error:
                refused.append(error)
        if len(refused) == 1:
            raise refused[0]
        if refused:
            raise DataError(
                f"{len(refused)} of {len(files)} files were not added: {' '.join(error.message for error in refused)}",
                "The store exists, with the other files.",
            )
        return VectorStore(self, record)

    async def add_store(
        self,
        name: Annotated[str, Len(0, 1000)],
        *,
        embedding_model: Annotated[str, Len(1, 500)] | None = None,
        metadata: JsonObject | None = None,
        expires_after_days: int | None = None,
    ) -> VectorStoreRecord:
        """Creates a store without files."""
        if expires_after_days is not None and not 1 <= expires_after_days <= LONGEST_DAYS:
            raise UsageError(
                f"Invalid expires_after_days: {expires_after_days}.",
                f"Use 1 to {LONGEST_DAYS}, or omit it for a store that does not expire.",
                param="expires_after_days",
            )
        model = embedding_model or self.settings.default_embedding_model or OFFLINE_MODEL
        embedder(self.settings, model)
        record = VectorStoreRecord(
            id=new_id("vector_store"), user_id=self._user_id, name=name.strip(), embedding_model=model, metadata=metadata or {},
            expires_after_days=expires_after_days,
        )  # fmt: skip
        if self._quota:
            await in_thread(self._quota.take_vector_store)
        return await in_thread(self.table.insert, record)

    def records(self) -> Records:
        """Returns all stores, newest first."""
        return self.table.find(newest_first=True)

    def list(self) -> Stores:
        """Yields all stores, newest first."""
        return [VectorStore(self, record) for record in self.records()]

    def get(self, store: str) -> VectorStore:
        """Returns a store by id, or by name if the name is unique. Raises `NotFoundError`."""
        records = self.records()
        hits = [one for one in records if one.id == store] or [one for one in records if one.name == store]
        if not hits:
            raise NotFoundError(f"There is no vector store {store!r}.", "lab.vector_stores.list() shows them.")
        if len(hits) > 1:
            raise UsageError(f"{len(hits)} vector stores have the name {store!r}.", "Use the id instead.", param="name")
        return VectorStore(self, hits[0])

    def delete(self, store_id: StoreId) -> None:
        """Deletes the store and its passages; the files stay. Raises `NotFoundError`."""
        self.table.get(store_id)
        mine = [self._user_id, store_id]
        self._db.write(
            self._user_id,
            [
                Statement("delete from chunks where user_id = $1 and vector_store_id = $2", mine),
                Statement("delete from vector_store_files where user_id = $1 and vector_store_id = $2", mine),
                Statement("delete from vector_stores where user_id = $1 and id = $2", mine),
            ],
            changes=self.table.changes(store_id),
        )

    def store_files(self, store_id: StoreId) -> StoreFiles:
        """Returns the files of a store, oldest first. Raises `NotFoundError`."""
        self.table.get(store_id)
        self.files.purge()
        return self.members.find(vector_store_id=store_id)

    def counts(self, store_id: str) -> dict[str, int]:
        """Returns the number of files per status, and `total`."""
        return counted(self.store_files(store_id))

    async def add_file(
        self,
        store_id: str,
        file: AnyFile,
        *,
        attributes: Mapping[str, Json] | None = None,
        chunking_strategy: Mapping[str, Json] | None = None,
    ) -> VectorStoreFileRecord:
        """Splits a file into passages and adds them; a file that is already in the store is replaced.

        On failure, the store keeps the file with status `failed` and the reason, and the error is raised.
        """
        return await self.put_file(
            store_id, await in_thread(self._kept, file), attributes=None if attributes is None else dict(attributes),
            chunking_strategy=None if chunking_strategy is None else dict(chunking_strategy),
        )  # fmt: skip

    async def put_file(
        self, store_id: StoreId, file_id: FileId, *, attributes: JsonObject | None = None, chunking_strategy: JsonObject | None = None
    ) -> VectorStoreFileRecord:  # fmt: skip
        """Like `add_file`, for a file that is already stored."""
        return await self.add_file_at(
            utc_now(), store_id, file_id, attributes=attributes, chunking_strategy=chunking_strategy
        )

    async def add_file_at(
        self,
        added_at: datetime,
        store_id: str,
        file_id: str,
        *,
        attributes: Mapping[str, Json] | None = None,
        chunking_strategy: Mapping[str, Json] | None = None,
    ) -> VectorStoreFileRecord:
        """Like `put_file`, for a file of a batch: the files of a batch have the same time of addition."""
        chunking = Chunking.from_strategy(chunking_strategy)
        store = await in_thread(self._active, store_id)
        record = await in_thread(self.files.get, file_id)
        member = VectorStoreFileRecord(
            id=f"{store_id}/{record.id}",
            user_id=self._user_id,
            vector_store_id=store_id,
            file_id=record.id,
            filename=record.filename,
            chunking_strategy=chunking.as_strategy(),
            attributes=dict(attributes or {}),
            created_at=added_at,
        )
        await in_thread(self._begin, member)
        try:
            passages = await in_thread(self._passages, record, chunking)
            vectors = await embed(self.settings, store.embedding_model, passages)
        except BaseException as error:
            code = type(error).__name__ if isinstance(error, LabError) else "server_error"
            message = error.message if isinstance(error, LabError) else "Adding the file was broken off."
            failed = {"code": code, "message": message}
            with suppress(ConflictError, NotFoundError):  # It was removed or added again meanwhile.
                await in_thread(
                    self.members.update, member.id, expect=_being_added(member), status="failed", last_error=failed
                )
            raise
        return await in_thread(self._finish, member, passages, vectors)

    def remove_file(self, store_id: StoreId, file_id: FileId) -> None:
        """Removes a file's passages from a store; the file stays. Raises `NotFoundError`."""
        self.members.get(f"{store_id}/{file_id}")
        self._db.write(self._user_id, self._removal(store_id, file_id), changes=self.table.changes(store_id))

    async def search(
        self,
        store_id: StoreId,
        query: Annotated[str, Len(0, 100_000)],
        k: Annotated[int, Interval(ge=1, le=10_000)] = 10,
        *,
        filters: JsonObject | None = None,
        min_score: float = 0.0,
        vector_weight: Annotated[float, Interval(ge=0, le=1)] = VECTOR_WEIGHT,
    ) -> Hits:
        """Returns the `k` best passages, best first; `filters` as in `attribute_filters`. `vector_weight`: the weight of semantic
        similarity in a score, from 0 to 1; the rest is the weight of keywords.

        Raises `NotFoundError`, `FilterError`, and the errors of embedding the query.
        """
        if not query.strip():
            raise UsageError("The query is empty.", "Give a query.", param="query")
        store = await in_thread(self._active, store_id)
        files = [file for file in await in_thread(self.store_files, store_id) if file.status == "completed"]
        if filters is not None:
            files = [file for file in files if matches(filters, file.attributes)]
        [vector] = await embed(self.settings, store.embedding_model, [query])
        return await in_thread(
            search, self._db, self._user_id, store_id, query, vector, files, k=k, min_score=min_score, vector_weight=vector_weight
        )  # fmt: skip

    # -- runs in a thread

    def _active(self, store_id: str) -> VectorStoreRecord:
        """Returns the store and marks it as used. Raises `NotFoundError` if it has expired."""
        store = self.table.get(store_id)
        now = utc_now()
        if store.expires_after_days and store.last_active_at + timedelta(days=store.expires_after_days) < now:
            raise NotFoundError(
                f"The vector store {store.name!r} expired after {store.expires_after_days} days without use.",
                "Create it again.",
            )
        return self.table.update(store_id, last_active_at=now)

    def _kept(self, file: AnyFile) -> str:
        """Returns the id of a file; a local file is stored first."""
        if isinstance(file, FileRecord):
            return file.id
        if isinstance(file, str) and not Path(file).expanduser().is_file():
            with suppress(NotFoundError):
                return self.files.get(file).id
            if file.startswith("file_"):
                return file
        return self.files.add(file).id

    def _passages(self, record: FileRecord, chunking: Chunking) -> Passages:
        return chunking.split(text_of(self.files.content(record.id), record.content_type, record.filename))

    def _begin(self, member: VectorStoreFileRecord) -> None:
        statements = [
            *self._removal(member.vector_store_id, member.file_id),
            self.members.insert_statement(member),
            Statement(
                "update vector_store_files set process_id = $3 where user_id = $1 and id = $2",
                [self._user_id, member.id, self._db.process_id],
            ),
        ]
        for left in reversed(range(ATTEMPTS)):
            try:
                self._db.write(self._user_id, statements, changes=self.table.changes(member.vector_store_id))
                return
            except ConflictError:  # The same file was added by someone else between the removal and the insertion.
                if not left:
                    raise

    def _finish(
        self, member: VectorStoreFileRecord, passages: Sequence[str], vectors: Sequence[Sequence[float]]
    ) -> VectorStoreFileRecord:
        """Stores the passages, unless the file was removed (`NotFoundError`) or added again meanwhile: then that addition counts."""
        columns = ("user_id", "vector_store_id", "file_id", "position", "content", "words", "embedding")
        rows = [
            (self._user_id, member.vector_store_id, member.file_id, n, text, words_column(text), list(vector))
            for n, (text, vector) in enumerate(zip(passages, vectors, strict=True))
        ]
        usage = sum(len(text.encode()) + 4 * len(vector) for text, vector in zip(passages, vectors, strict=True))
        done = self.members.update_statement(
            member.id, expect=_being_added(member), status="completed", n_chunks=len(rows), usage_bytes=usage
        )
        with suppress(ConflictError):
            self._db.append(
                self._user_id,
                {"chunks": (columns, rows)} if rows else {},
                then=[done],
                changes=self.table.changes(member.vector_store_id),
            )
        kept = self.members.try_get(member.id)
        if kept is None:
            raise NotFoundError(
                f"{member.filename} was removed from the vector store while it was being added.", "Add it again."
            )
        return kept

    def _removal(self, store_id: str, file_id: str) -> Statements:
        where = "where user_id = $1 and vector_store_id = $2 and file_id = $3"
        mine = [self._user_id, store_id, file_id]
        return [
            Statement(f"delete from chunks {where}", mine),
            Statement(f"delete from vector_store_files {where}", mine),
        ]


def counted(files: Sequence[VectorStoreFileRecord]) -> dict[str, int]:
    by_status: Counter[str] = Counter(file.status for file in files)
    known = ("in_progress", "completed", "failed", "cancelled")
    return {**{status: by_status[status] for status in known}, "total": len(files)}


def _being_added(member: VectorStoreFileRecord) -> dict[str, object]:
    """What distinguishes this addition of the file from a later one."""
    return {"status": "in_progress", "created_at": member.created_at}


@dataclass(frozen=True, slots=True)
class VectorStore:
    """One vector store and its operations."""

    stores: VectorStores
    record: VectorStoreRecord

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    async def search(
        self, query: str, k: int = 10, *, filters: Mapping[str, Json] | None = None, min_score: float = 0.0
    ) -> Hits:
        """See `VectorStores.search`."""
        return await self.stores.search(
            self.id, query, k, filters=None if filters is None else dict(filters), min_score=min_score
        )

    async def add(
        self,
        file: AnyFile,
        *,
        attributes: Mapping[str, Json] | None = None,
        chunking_strategy: Mapping[str, Json] | None = None,
    ) -> VectorStoreFileRecord:
        """See `VectorStores.add_file`."""
        return await self.stores.add_file(self.id, file, attributes=attributes, chunking_strategy=chunking_strategy)

    def files(self) -> StoreFiles:
        return self.stores.store_files(self.id)

    def delete(self) -> None:
        self.stores.delete(self.id)

    def __repr__(self) -> str:
        counts = self.stores.counts(self.id)
        return f"VectorStore({self.name!r}, {counts['completed']} of {counts['total']} files, {self.record.embedding_model})"
