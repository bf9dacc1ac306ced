"""`openai_compatible/<name>/<model>`: any server with Chat Completions (vLLM, LM Studio, OpenRouter), under a name of your choice.

`OPENAI_COMPATIBLE='{"lmstudio": "http://127.0.0.1:1234/v1"}'`, with keys, if needed, in `OPENAI_COMPATIBLE_KEYS` under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.errors import MissingKeyError, ModelNotFoundError
from timestep_lab.model.records import ProviderStatus
from timestep_lab.runtime.adapters.clients import openai_client, with_v1
from timestep_lab.runtime.provider_errors import ErrorContext
from timestep_lab.runtime.router import PerLoop
from timestep_lab.runtime.router import Provider as BaseProvider

if TYPE_CHECKING:
    from agents import Model
    from openai import AsyncOpenAI

    from timestep_lab.runtime.settings import Settings


class Provider(BaseProvider):
    prefix: ClassVar[str] = "openai_compatible"
    variable: ClassVar[str] = "OPENAI_COMPATIBLE"
    """Environment variable with the names and URLs of the servers."""
    key_name: ClassVar[str] = "OPENAI_COMPATIBLE_KEYS"
    model_required: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._clients: dict[str, PerLoop[AsyncOpenAI]] = {}

    @property
    def servers(self) -> Mapping[str, str]:
        """Maps a name to its base URL."""
        return self.settings.openai_compatible

    def key_for(self, server: str) -> str | None:
        return self.settings.openai_compatible_keys.get(server)

    def status(self) -> ProviderStatus:
        if not self.servers:
            step = f'Set {self.variable}=\'{{"my-server": "http://…/v1"}}\'.'
            return self.not_ready("no server configured", step)
        return self.ready(", ".join(f"{name} at {url}" for name, url in self.servers.items()))

    def model(self, name: str) -> Model:
        from timestep_lab.runtime.adapters.chat_completions import ChatCompletionsModel

        server, model = self._split(name)
        return ChatCompletionsModel(name, self.prefix, self._client(server), name_on_wire=model)

    async def list_models(self) -> list[str]:
        names = []
        for server in self.servers:
            names += [f"{server}/{model.id}" async for model in self._client(server).get().models.list()]
        return sorted(names)

    def context(self, model: str) -> ErrorContext:
        server = model.partition("/")[0]
        return ErrorContext(
            provider=self.prefix,
            model=model,
            key_variable=self.key_name,
            address=self.servers.get(server, ""),
            missing_model_step=self._other_model_step(server),
            secrets=self.settings.secrets,
        )

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    def _other_model_step(self, server: str) -> str:
        return f"`timestep-lab models list {self.prefix}` lists the models of {server}."

    def _client(self, server: str) -> PerLoop[AsyncOpenAI]:
        if server not in self._clients:
            self._clients[server] = openai_client(
                with_v1(self.servers[server]), self.key_for(server), self.settings.request_timeout_s
            )
        return self._clients[server]

    def _split(self, name: str) -> tuple[str, str]:
        server, _, model = name.partition("/")
        if server not in self.servers:
            known = ", ".join(self.servers) or "none"
            raise MissingKeyError(
                f"{self.prefix}/{name}: no server is named {server!r}.{did_you_mean(server, self.servers)}",
                f"Servers in {self.variable}: {known}. Add it there, or use `demo/assistant`.",
                provider=self.prefix,
            )
        if not model and self.model_required:
            raise ModelNotFoundError(
                f"{self.prefix}/{name} names a server but no model.",
                f"Use {self.prefix}/{server}/<model>.",
                provider=self.prefix,
            )
        return server, model or server
