"""A GGUF file running in this process (llama.cpp through xllamacpp). One engine a file, loaded when first used and kept.

The library always opens a port on loopback; it is locked with a random key and never used, calls go in directly.
The interpreter lock is released while it computes, so each call runs in a thread.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from timestep_lab.model.errors import MissingExtraError, ProviderRequestError, ProviderUnavailableError

CONTEXT_TOKENS = 8192
TINY_BELOW_PARAMETERS = 1_000_000_000
SMALL_FILE_BYTES = 500_000_000
"""Below this one thread computes: several would wait for each other at every layer, and on a busy machine for seconds."""
_END = object()

_engines: dict[Path, LocalEngine] = {}
_loading = threading.Lock()


class LocalEngine:
    """`supports_tools` and `tiny` decide whether the model's own tool calling is used (see `local_model.py`)."""

    def __init__(self, path: Path) -> None:
        try:
            import xllamacpp  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingExtraError("A local/ model", "local") from error
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = CONTEXT_TOKENS
        parameters.n_parallel = 1
        parameters.cpuparams.poll = 0
        if path.stat().st_size < SMALL_FILE_BYTES:
            parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
        parameters.warmup = False
        parameters.verbosity = -1
        parameters.ui = False
        parameters.endpoint_slots = False
        parameters.cors_origins = ""
        key = secrets.token_hex(16)
        parameters.api_keys = [key]
        try:
            self._server = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise ProviderUnavailableError(
                f"{path} could not be loaded ({error}).",
                "Is it a whole GGUF file, and is there memory for it?",
                provider="local",
            ) from error
        facts = _facts(self._server.listening_address, key)
        self.supports_tools: bool = facts["supports_tools"]
        self.tiny: bool = facts["parameters"] < TINY_BELOW_PARAMETERS

    async def complete(
        self, prompt: str, *, tokens: int, grammar: str = "", schema: Mapping[str, Any] | None = None
    ) -> str:
        """Greedy completion, its start kept for the next call (`cache_prompt`). `grammar` (GBNF) or `schema` bind it."""
        body: dict[str, Any] = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "cache_prompt": True}
        if grammar:
            body["grammar"] = grammar
        if schema is not None:
            body["json_schema"] = dict(schema)
        pieces = [piece async for piece in self._run(self._server.handle_completions, body)]
        return "".join(choice["text"] for piece in pieces for choice in piece.get("choices", ()))

    def chat(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Chunks in Chat Completions' form. Leaving the iterator stops the computation."""
        return self._run(self._server.handle_chat_completions, {**body, "stream": True})

    async def _run(self, call: Callable[..., Any], body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Any] = asyncio.Queue()
        stopped = threading.Event()

        def pass_on(thing: Any) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, thing)

        def each(piece: Any) -> bool:
            if not stopped.is_set():
                pass_on(piece)
            return stopped.is_set()  # True stops the computation

        def work() -> None:
            try:
                call(body, each)
            except (RuntimeError, ValueError) as error:
                pass_on(
                    ProviderRequestError(f"The local model refused the request: {error}", provider="local", status=400)
                )
            finally:
                pass_on(_END)

        working = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            while (thing := await arrived.get()) is not _END:
                if isinstance(thing, Exception):
                    raise thing
                if "error" in thing:
                    said = thing["error"].get("message", thing["error"])
                    raise ProviderRequestError(
                        f"The local model refused the request: {said}", provider="local", status=400
                    )
                yield thing
        finally:
            stopped.set()
            await asyncio.shield(working)


async def engine_for(path: Path) -> LocalEngine:
    """The engine of a file, loading it in a thread the first time."""
    return await asyncio.to_thread(_load, path)


def _load(path: Path) -> LocalEngine:
    path = path.resolve()
    with _loading:
        if path not in _engines:
            _engines[path] = LocalEngine(path)
        return _engines[path]


def _facts(address: str, key: str) -> dict[str, Any]:
    """What the library says of the file it loaded, asked once over its own port: it has no call for it."""
    import httpx

    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=30.0) as client:
        properties = client.get("/props").json()
        models = client.get("/v1/models").json()
    capabilities = properties.get("chat_template_caps") or {}
    meta = (models.get("data") or [{}])[0].get("meta") or {}
    return {"supports_tools": bool(capabilities.get("supports_tools")), "parameters": int(meta.get("n_params") or 0)}
