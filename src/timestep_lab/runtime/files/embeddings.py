"""Texts as vectors. `local/wordllama` runs offline (extra `files`); `openai/…`, `openai_compatible/<name>/…` and `ollama/…` ask a server.

Nothing leaves the machine unless such a model is named, by the caller or in `DEFAULT_EMBEDDING_MODEL`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import cache, partial
from threading import Lock
from typing import Any

from timestep_lab.model.errors import MissingExtraError, MissingKeyError, SettingsError, UnknownPrefixError, UsageError
from timestep_lab.runtime.adapters.clients import ollama_client, openai_client, with_v1
from timestep_lab.runtime.provider_errors import ErrorContext, as_provider_error
from timestep_lab.runtime.settings import OLLAMA_LOCAL_HOST, OPENAI_URL, Settings
from timestep_lab.store.base import in_thread

Vectors = list[list[float]]
Embed = Callable[[Sequence[str]], Awaitable[Vectors]]

OFFLINE_MODEL = "local/wordllama"
BATCH = 256
"""Texts in one request."""
PREFIXES = ("local", "openai", "openai_compatible", "ollama")


LOCAL_LENGTHS = (64, 128, 256)
"""To which the offline model's vectors can be cut: it was trained so that their first numbers say the most."""


async def embed(settings: Settings, model: str, texts: Sequence[str], *, dimensions: int | None = None) -> Vectors:
    """One vector a text, in order; all of one length, the model's own or `dimensions`.

    `model` is `prefix/name`; without a prefix it is OpenAI's. Raises `UsageError` for an empty text, `UnknownPrefixError`,
    `SettingsError`, `MissingKeyError`,
    `MissingExtraError`, `ProviderError`.
    """
    ask = embedder(settings, model, dimensions)
    if not all(texts):
        raise UsageError("An empty text has no vector.", "Leave empty texts out.", param="input")
    vectors: Vectors = []
    for start in range(0, len(texts), BATCH):
        vectors += await ask(texts[start : start + BATCH])
    return vectors


def embedder(settings: Settings, model: str, dimensions: int | None = None) -> Embed:
    """What turns one batch into vectors. Raises what `embed` raises before anything is asked."""
    prefix, slash, name = model.partition("/")
    if not slash:
        prefix, name = "openai", model
    if prefix == "local":
        if name != "wordllama":
            raise SettingsError(f"There is no local embedding model {name!r}.", f"Use {OFFLINE_MODEL}.", param="model")
        if dimensions not in (None, *LOCAL_LENGTHS):
            raise SettingsError(
                f"The vectors of {OFFLINE_MODEL} cannot have {dimensions} numbers.",
                f"They can have: {', '.join(map(str, LOCAL_LENGTHS))}.",
                param="dimensions",
            )
        return partial(_wordllama, dimensions=dimensions)
    if prefix == "openai":
        if not settings.openai_api_key and not settings.openai_elsewhere:
            raise MissingKeyError(
                f"{model} needs a key.",
                f"Set OPENAI_API_KEY, or use {OFFLINE_MODEL}, which needs none.",
                provider=prefix,
            )
        address = settings.openai_base_url or OPENAI_URL
        return _openai(settings, prefix, name, address, settings.openai_api_key, dimensions)
    if prefix == "openai_compatible":
        server, _, name = name.partition("/")
        if server not in settings.openai_compatible:
            known = ", ".join(settings.openai_compatible) or "none"
            raise SettingsError(f"OPENAI_COMPATIBLE has no {server!r}.", f"It has: {known}.", param="model")
        key = settings.openai_compatible_keys.get(server)
        return _openai(settings, prefix, name, settings.openai_compatible[server], key, dimensions)
    if prefix == "ollama":
        return _ollama(settings, name, dimensions)
    raise UnknownPrefixError(
        f"There are no embeddings by {prefix!r} (in {model!r}).", f"Known: {', '.join(PREFIXES)}.", param="model"
    )


async def _wordllama(texts: Sequence[str], *, dimensions: int | None) -> Vectors:
    return await in_thread(_wordllama_vectors, list(texts), dimensions)


def _wordllama_vectors(texts: list[str], dimensions: int | None) -> Vectors:
    with _LOADING:
        model = _load_wordllama()
    vectors = [[float(x) for x in vector] for vector in model.embed(texts, norm=True)]
    return vectors if dimensions is None else [_cut(vector, dimensions) for vector in vectors]


def _cut(vector: list[float], dimensions: int) -> list[float]:
    """The first numbers, again of length 1."""
    kept = vector[:dimensions]
    length = math.hypot(*kept)
    return [number / length for number in kept] if length else kept


_LOADING = Lock()


@cache
def _load_wordllama() -> Any:
    """The weights and the tokenizer that come in the wheel, from a folder without the spelling that makes the loader miss them."""
    import logging
    from pathlib import Path

    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        import wordllama  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise MissingExtraError("The offline embedding model", "files") from None
    finally:
        # It sets up logging for the whole program, and every request of every client would be printed from then on.
        root.setLevel(level)
        root.handlers[:] = handlers
    # The wheel has `tokenizers/`, its loader looks in `tokenizer/` and then asks the network; with the package's own folder as
    # its cache it finds both.
    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)


def _openai(settings: Settings, prefix: str, name: str, address: str, key: str | None, dimensions: int | None) -> Embed:
    async def ask(texts: Sequence[str]) -> Vectors:
        from openai import omit

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


async def _asked(context: ErrorContext, request: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await request()
    except Exception as error:
        mapped = as_provider_error(error, context, started=False)
        if mapped is None:
            raise
        raise mapped from error
