"""Official clients, made the same way for every provider: one for each event loop, no retries of their own (the router repeats, so
that every repeat is timed), a limit to silence, and no idle connections to plain-http servers.

The last because llama.cpp's server closes a connection after a stream without saying so; the next request on it would be lost.
"""

from __future__ import annotations

import ssl
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from timestep_lab.runtime.adapters.chat_completions import response_hook
from timestep_lab.runtime.router import PerLoop
from timestep_lab.runtime.span_records import HTTP_HOOKS
from timestep_lab.runtime.stream_items import arguments_object

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from ollama import AsyncClient
    from openai import AsyncOpenAI


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    """The certificate authorities, read from disk once: it costs 50 ms of CPU, and each client would do it."""
    import httpx2

    return httpx2.create_ssl_context()


CONNECT_TIMEOUT_S = 10.0
KEPT_CONNECTIONS = 100
"""Idle ones, to one host over TLS: as many as a comparison has calls under way, so that none shakes hands twice."""
NO_KEY = "no-key"
"""What a server of one's own is sent, which asks for no key: the clients insist on having one."""


def _hooks(http: ModuleType, *first: Any) -> dict[str, list[Any]]:
    """Of a client of `http`; `first` are called with a request before any other."""
    return {
        "request": [*first, *HTTP_HOOKS["request"]],
        "response": [*HTTP_HOOKS["response"], response_hook(http)],
    }


def openai_client(base_url: str, key: str | None, timeout_s: float, *, official: bool = False) -> PerLoop[AsyncOpenAI]:
    """`official`: OpenAI itself, which alone may learn which organisation and project the environment names."""

    def make() -> AsyncOpenAI:
        import httpx2
        from openai import AsyncOpenAI, DefaultAsyncHttpx2Client, Omit

        http = DefaultAsyncHttpx2Client(
            timeout=httpx2.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            verify=_trusted(),
            limits=httpx2.Limits(max_keepalive_connections=0 if base_url.startswith("http:") else KEPT_CONNECTIONS),
            event_hooks=_hooks(httpx2),
        )
        headers = {} if official else {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
        return AsyncOpenAI(
            base_url=base_url,
            api_key=key or NO_KEY,
            max_retries=0,
            http_client=http,
            default_headers=headers,  # type: ignore[arg-type]
        )

    return PerLoop(make, lambda client: client.close(), "openai")


def anthropic_client(base_url: str, key: str | None, timeout_s: float) -> PerLoop[AsyncAnthropic]:
    def make() -> AsyncAnthropic:
        import httpx2
        from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

        http = DefaultAsyncHttpxClient(
            timeout=httpx2.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            verify=_trusted(),
            limits=httpx2.Limits(max_keepalive_connections=0 if base_url.startswith("http:") else KEPT_CONNECTIONS),
            event_hooks=_hooks(httpx2),
        )
        return AsyncAnthropic(base_url=base_url, api_key=key or NO_KEY, max_retries=0, http_client=http)

    return PerLoop(make, lambda client: client.close(), "anthropic")


def ollama_client(host: str, key: str | None, timeout_s: float) -> PerLoop[AsyncClient]:
    """The client would send `OLLAMA_API_KEY` of the environment to any host; only `key` is sent here, if there is one."""

    def make() -> AsyncClient:
        import httpx
        from ollama import AsyncClient

        async def own_key_only(request: httpx.Request) -> None:
            request.headers.pop("authorization", None)
            if key:
                request.headers["authorization"] = f"Bearer {key}"

        class Client(AsyncClient):
            """Takes calls whose arguments are no object, over which the official client's types would throw."""

            async def _request(self, cls: Any, *args: Any, **options: Any) -> Any:
                def made(**part: Any) -> Any:
                    if isinstance(message := part.get("message"), dict):
                        said = {name: value for name, value in message.items() if value is not None}
                        part["message"] = {"role": "assistant", **said}
                    for call in part["message"].get("tool_calls") or () if isinstance(message, dict) else ():
                        call["function"]["arguments"] = arguments_object(call["function"].get("arguments") or {})
                    return cls(**part)

                return await super()._request(made, *args, **options)  # type: ignore[call-overload]

        return Client(
            host=host,
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            verify=_trusted(),
            event_hooks=_hooks(httpx, own_key_only),
        )

    return PerLoop(make, lambda client: client.close(), "ollama")  # type: ignore[no-untyped-call]


def with_v1(url: str) -> str:
    """An address without a path gets `/v1`, where such servers keep their API."""
    parts = urlsplit(url)
    return url if parts.path.strip("/") else urlunsplit(parts._replace(path="/v1"))


def without_v1(url: str) -> str:
    """For Anthropic's client, which adds `/v1` itself."""
    return url.rstrip("/").removesuffix("/v1")
