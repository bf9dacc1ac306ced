"""`anthropic/…`: Claude with Anthropic's own protocol. `ANTHROPIC_BASE_URL` can point to another server with that protocol (llama.cpp)."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

from timestep_lab.model.records import ProviderStatus
from timestep_lab.runtime.adapters.clients import anthropic_client, without_v1
from timestep_lab.runtime.provider_errors import ErrorContext
from timestep_lab.runtime.router import PerLoop
from timestep_lab.runtime.router import Provider as BaseProvider
from timestep_lab.runtime.settings import ANTHROPIC_URL

if TYPE_CHECKING:
    from agents import Model
    from anthropic import AsyncAnthropic


class Provider(BaseProvider):
    prefix: ClassVar[str] = "anthropic"
    key_variable: ClassVar[str] = "ANTHROPIC_API_KEY"

    @property
    def _address(self) -> str:
        return without_v1(self.settings.anthropic_base_url or ANTHROPIC_URL)

    @property
    def _elsewhere(self) -> bool:
        return urlsplit(self._address).hostname != urlsplit(ANTHROPIC_URL).hostname

    @cached_property
    def _client(self) -> PerLoop[AsyncAnthropic]:
        return anthropic_client(self._address, self.settings.anthropic_api_key, self.settings.request_timeout_s)

    def status(self) -> ProviderStatus:
        if self._elsewhere:
            return self.ready(f"Messages API at {self._address} (ANTHROPIC_BASE_URL)")
        if self.settings.anthropic_api_key:
            return self.ready("Messages API, key set")
        return self.not_ready("no key", "Set ANTHROPIC_API_KEY.")

    def model(self, name: str) -> Model:
        from timestep_lab.runtime.adapters.anthropic import AnthropicModel

        self._need_key(name)
        return AnthropicModel(name, self._client)

    async def list_models(self) -> list[str]:
        self._need_key("models")
        return sorted([model.id async for model in self._client.get().models.list()])

    def context(self, model: str) -> ErrorContext:
        return ErrorContext(
            provider=self.prefix,
            model=model,
            key_variable=self.key_variable,
            address=self._address,
            secrets=self.settings.secrets,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    def _need_key(self, name: str) -> None:
        if not self._elsewhere and not self.settings.anthropic_api_key:
            raise self.missing_key(name)
