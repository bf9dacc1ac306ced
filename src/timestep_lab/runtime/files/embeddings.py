"""Text embeddings. `local/wordllama` runs offline (extra `files`); `openai/…`, `openai_compatible/<name>/…` and `ollama/…` call a server.

No data leaves the machine unless such a model is selected, by the caller or in `DEFAULT_EMBEDDING_MODEL`.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import cache, partial
from threading import Lock
from typing import Any, Protocol, TypeVar

from timestep_lab.model.errors import (
    MissingExtraError,
    MissingKeyError,
    SettingsError,
    StoreError,
    UnknownPrefixError,
    UsageError,
)
from timestep_lab.model.records import SearchHit, VectorStoreFileRecord
from timestep_lab.runtime.provider_errors import ErrorContext, as_provider_error
from timestep_lab.runtime.settings import OLLAMA_LOCAL_HOST, OPENAI_URL, Settings
from timestep_lab.store.base import Database, in_thread

T = TypeVar("T")

# --- Search in one vector store: exact cosine similarity of every passage, combined with keyword overlap
#
# Exact, without an index: 20 ms for five thousand passages in DuckDB. A weighted sum keeps the scale of both scores, which is
# meaningful to a reader; merging the two rankings would lose it.


# --- Keyword score: which of the query's words a passage has, with rare words weighted higher (inverse document frequency)


MAX_TERMS = 16


def words_column(text: str) -> str:
    """Returns the words of a passage as stored: lower case, no accents, each preceded by a space."""
    return "".join(f" {word}" for word in words(text))


def terms_of(query: str) -> list[str]:
    """Returns what to search for in stored words, at most `MAX_TERMS`: first words with digits, which name things, then the longest.

    A term is a space and a word, or two letters that follow each other in a script without spaces between words.
    """
    terms: dict[str, None] = {}
    for word in words(query):
        for run, unspaced in ((run[0], run[1]) for run in _runs().finditer(word)):
            pairs = [run[at : at + 2] for at in range(max(len(run) - 1, 1))]
            terms |= dict.fromkeys(pairs if unspaced else [f" {run}"])
    return sorted(terms, key=lambda term: (not any(c.isdigit() for c in term), -len(term), term))[:MAX_TERMS]


def words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text.casefold())
    found: list[str] = _word().findall("".join(letter for letter in plain if not unicodedata.combining(letter)))
    return found


@cache
def _word() -> Any:
    """Letters, digits, and signs that are part of letters, such as the vowels of Hindi and Thai, which are no letters to `re`."""
    import regex  # type: ignore[import-untyped]

    return regex.compile(r"[\p{L}\p{N}\p{M}]+")


@cache
def _runs() -> Any:
    """The parts of a word in scripts without spaces between words (group 1) and in others."""
    import regex

    unspaced = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー"
    return regex.compile(rf"([{unspaced}]+)|[^{unspaced}]+")


def weights(n_passages: int, hits: Sequence[int]) -> list[float]:
    """Returns one weight per term, with sum 1 (all 0 if no passage has any term): idf as in BM25, ln(1 + (N - n + 0.5) / (n + 0.5)).

    Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009, equation 3.4 (kept above 0).
    """
    idf = [math.log(1 + (n_passages - n + 0.5) / (n + 0.5)) for n in hits]
    total = sum(idf)
    return [value / total for value in idf] if any(hits) and total > 0 else [0.0] * len(idf)


VECTOR_WEIGHT = 0.7


def search(
    db: Database,
    user_id: str,
    store_id: str,
    query: str,
    vector: Sequence[float],
    files: Sequence[VectorStoreFileRecord],
    *,
    k: int,
    min_score: float,
    vector_weight: float = VECTOR_WEIGHT,
) -> list[SearchHit]:
    """Returns the `k` best passages of `files`, best first. Blocks. Raises `StoreError` if `vector` has a different length than theirs."""
    if not files or k < 1:
        return []
    by_id = {file.file_id: file for file in files}
    params: list[object] = [user_id, store_id, *by_id]
    where = f"user_id = $1 and vector_store_id = $2 and file_id in ({_places(params, 3)})"
    _check_length(db, user_id, where, params, len(vector))
    weight_of = _weights(db, user_id, where, params, terms_of(query))
    params += weight_of
    by_keyword = " + ".join(
        f"{weight!r} * {_has(len(params) - len(weight_of) + n)}" for n, weight in enumerate(weight_of.values(), 1)
    )
    params.append([float(number) for number in vector])
    # Without a term to find, the vectors alone decide, unless they were to count for nothing.
    share = 1.0 if vector_weight and not weight_of else vector_weight
    rows = db.query(
        user_id,
        f"""
        with compared as (
            select file_id, position, content, {by_keyword or "0"} as by_keyword,
                   core.cosine(embedding, ${len(params)}::real[]) as cosine
            from chunks where {where}
        ), scored as (
            -- A vector of zeros is like nothing: its cosine is NaN, which both databases hold to be greater than any number.
            select *, case when cosine between 0 and 1.001 then cosine else 0 end as by_vector from compared
        )
        select file_id, position, content, by_vector * {share!r} + by_keyword * {1.0 - share!r} as score, by_vector, by_keyword
        from scored order by score desc, file_id, position limit {int(k)}
        """,
        params,
    ).rows
    hits = [_hit(by_id[row[0]], *row[1:]) for row in rows]
    return [hit for hit in hits if hit.score >= min_score]


def _check_length(db: Database, user_id: str, where: str, params: Sequence[object], length: int) -> None:
    row = db.query(user_id, f"select array_length(embedding, 1) from chunks where {where} limit 1", params).one()
    if row is not None and row[0] != length:
        raise StoreError(
            f"The stored vectors have {row[0]} dimensions, but the model now returns {length}: the model has changed.",
            "Create the vector store again.",
        )


def _weights(
    db: Database, user_id: str, where: str, params: Sequence[object], terms: Sequence[str]
) -> dict[str, float]:
    """Returns the terms that at least one passage has, with their weights."""
    if not terms:
        return {}
    counts = ", ".join(f"sum({_has(len(params) + n)})" for n in range(1, len(terms) + 1))
    result = db.query(user_id, f"select count(*), {counts} from chunks where {where}", [*params, *terms])
    n_passages, *hits = (int(number or 0) for number in result.rows[0])
    weighted = zip(terms, weights(n_passages, hits), hits, strict=True)
    return {term: weight for term, weight, n in weighted if n}


def _has(place: int) -> str:
    """SQL that is 1 for a passage with the term, else 0. A word matches those that it begins, so that `cat` matches `cats`."""
    return f"(case when position(${place} in words) > 0 then 1 else 0 end)"


def _places(params: Sequence[object], first: int) -> str:
    return ", ".join(f"${n}" for n in range(first, len(params) + 1))


def _hit(
    file: VectorStoreFileRecord, position: int, text: str, score: float, by_vector: float, by_keyword: float
) -> SearchHit:
    # Sums of rounded shares may slightly exceed 1.
    score, by_vector, by_keyword = (min(1.0, float(number)) for number in (score, by_vector, by_keyword))
    return SearchHit(
        file_id=file.file_id,
        filename=file.filename,
        position=int(position),
        text=text,
        score=score,
        vector_score=by_vector,
        keyword_score=by_keyword,
        attributes=file.attributes,
    )


Vectors = list[list[float]]
Embed = Callable[[Sequence[str]], Awaitable[Vectors]]

OFFLINE_MODEL = "local/wordllama"
BATCH = 256
"""Texts per request."""
PREFIXES = ("local", "openai", "openai_compatible", "ollama")


LOCAL_LENGTHS = (64, 128, 256)
"""Lengths to which the offline model's vectors can be truncated: it was trained so that the first dimensions carry the most information."""


async def embed(settings: Settings, model: str, texts: Sequence[str], *, dimensions: int | None = None) -> Vectors:
    """Returns one vector per text, in order; all of the same length, the model's default or `dimensions`.

    `model` is `prefix/name`; without a prefix it is OpenAI's. Raises `UsageError` for an empty text, `UnknownPrefixError`,
    `SettingsError`, `MissingKeyError`, `MissingExtraError`, `ProviderError`.
    """
    ask = embedder(settings, model, dimensions)
    if not all(texts):
        raise UsageError("An empty text cannot be embedded.", "Remove empty texts.", param="input")
    vectors: Vectors = []
    for start in range(0, len(texts), BATCH):
        vectors += await ask(texts[start : start + BATCH])
    return vectors


def embedder(settings: Settings, model: str, dimensions: int | None = None) -> Embed:
    """Returns the function that embeds one batch. Raises the errors of `embed` that can be detected without a request."""
    prefix, slash, name = model.partition("/")
    if not slash:
        prefix, name = "openai", model
    if prefix == "local":
        if name != "wordllama":
            raise SettingsError(f"There is no local embedding model {name!r}.", f"Use {OFFLINE_MODEL}.", param="model")
        if dimensions not in (None, *LOCAL_LENGTHS):
            raise SettingsError(
                f"{OFFLINE_MODEL} does not support {dimensions} dimensions.",
                f"Supported: {', '.join(map(str, LOCAL_LENGTHS))}.",
                param="dimensions",
            )
        return partial(_wordllama, dimensions=dimensions)
    if prefix == "openai":
        if not settings.openai_api_key and not settings.openai_elsewhere:
            raise MissingKeyError(
                f"{model} requires an API key.",
                f"Set OPENAI_API_KEY, or use {OFFLINE_MODEL}, which requires none.",
                provider=prefix,
            )
        address = settings.openai_base_url or OPENAI_URL
        return _openai(settings, prefix, name, address, settings.openai_api_key, dimensions)
    if prefix == "openai_compatible":
        server, _, name = name.partition("/")
        if server not in settings.openai_compatible:
            known = ", ".join(settings.openai_compatible) or "none"
            raise SettingsError(f"OPENAI_COMPATIBLE has no server {server!r}.", f"It has: {known}.", param="model")
        key = settings.openai_compatible_keys.get(server)
        return _openai(settings, prefix, name, settings.openai_compatible[server], key, dimensions)
    if prefix == "ollama":
        return _ollama(settings, name, dimensions)
    raise UnknownPrefixError(
        f"Unknown embedding provider {prefix!r} (in {model!r}).", f"Known: {', '.join(PREFIXES)}.", param="model"
    )


async def _wordllama(texts: Sequence[str], *, dimensions: int | None) -> Vectors:
    return await in_thread(_wordllama_vectors, list(texts), dimensions)


def _wordllama_vectors(texts: list[str], dimensions: int | None) -> Vectors:
    with _LOADING:
        model = _load_wordllama()
    vectors = [[float(x) for x in vector] for vector in model.embed(texts, norm=True)]
    return vectors if dimensions is None else [_cut(vector, dimensions) for vector in vectors]


def _cut(vector: list[float], dimensions: int) -> list[float]:
    """Truncates vectors and normalizes them to length 1."""
    shortened = vector[:dimensions]
    length = math.hypot(*shortened)
    return [number / length for number in shortened] if length else shortened


_LOADING = Lock()


class _WordLlama(Protocol):
    def embed(self, texts: Sequence[str], *, norm: bool) -> Iterable[Iterable[float]]: ...


@cache
def _load_wordllama() -> _WordLlama:
    """Loads the weights and the tokenizer from the installed wheel, with a path that the loader finds without the network."""
    import logging
    from pathlib import Path

    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        import wordllama  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise MissingExtraError("The offline embedding model", "files") from None
    finally:
        # The import configures logging for the whole program, which would then log every request of every client.
        root.setLevel(level)
        root.handlers[:] = handlers
    # The wheel has `tokenizers/`, but the loader looks in `tokenizer/` and then downloads it; with the package's own folder as
    # its cache it finds both.
    model: _WordLlama = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    return model


def _openai(settings: Settings, prefix: str, name: str, address: str, key: str | None, dimensions: int | None) -> Embed:
    async def ask(texts: Sequence[str]) -> Vectors:
        from openai import omit

        from timestep_lab.runtime.adapters.clients import openai_client, with_v1

        official = prefix == "openai" and not settings.openai_elsewhere
        clients = openai_client(with_v1(address), key, settings.request_timeout_s, official=official)
        context = ErrorContext(
            provider=prefix,
            model=name,
            key_variable="OPENAI_API_KEY" if prefix == "openai" else "OPENAI_COMPATIBLE_KEYS",
            address=address,
            secrets=settings.secrets,
        )
        try:
            answer = await _asked(
                context,
                lambda: clients.get().embeddings.create(
                    model=name,
                    input=list(texts),
                    encoding_format="float",
                    dimensions=dimensions or omit,
                ),
            )
        finally:
            await clients.aclose()
        return [list(item.embedding) for item in sorted(answer.data, key=lambda item: item.index)]

    return ask


def _ollama(settings: Settings, name: str, dimensions: int | None) -> Embed:
    async def ask(texts: Sequence[str]) -> Vectors:
        from timestep_lab.runtime.adapters.clients import ollama_client

        host = settings.ollama_host or OLLAMA_LOCAL_HOST
        clients = ollama_client(host, None, settings.request_timeout_s)
        context = ErrorContext(
            provider="ollama", model=name, address=host, missing_model_step=f"Run: ollama pull {name}",
            unreachable_step=f"Start Ollama (or set OLLAMA_HOST), or use {OFFLINE_MODEL}.",
        )  # fmt: skip
        try:
            answer = await _asked(
                context, lambda: clients.get().embed(model=name, input=list(texts), dimensions=dimensions)
            )
        finally:
            await clients.aclose()
        return [list(vector) for vector in answer.embeddings]

    return ask


async def _asked(context: ErrorContext, request: Callable[[], Awaitable[T]]) -> T:
    try:
        return await request()
    except Exception as error:
        mapped = as_provider_error(error, context, started=False)
        if mapped is None:
            raise
        raise mapped from error
