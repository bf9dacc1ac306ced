"""`openai/…`, and all names without a prefix. Uses the Responses API at OpenAI, Chat Completions if `OPENAI_BASE_URL` points elsewhere."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from timestep_lab.model.records import ProviderStatus
from timestep_lab.runtime.adapters.clients import openai_client, with_v1
from timestep_lab.runtime.provider_errors import ErrorContext
from timestep_lab.runtime.router import PerLoop
from timestep_lab.runtime.router import Provider as BaseProvider
from timestep_lab.runtime.settings import OPENAI_URL

if TYPE_CHECKING:
    from agents import Model
    from openai import AsyncOpenAI


class Provider(BaseProvider):
    prefix: ClassVar[str] = "openai"
    key_variable: ClassVar[str] = "OPENAI_API_KEY"

    @property
    def _elsewhere(self) -> bool:
        return self.settings.openai_elsewhere

    @property
    def _address(self) -> str:
        return with_v1(self.settings.openai_base_url or OPENAI_URL)

    @cached_property
    def _client(self) -> PerLoop[AsyncOpenAI]:
        settings = self.settings
        return openai_client(
            self._address, settings.openai_api_key, settings.request_timeout_s, official=not self._elsewhere
        )

    def status(self) -> ProviderStatus:
        if self._elsewhere:
            return self.ready(f"Chat Completions at {self._address} (OPENAI_BASE_URL)")
        if self.settings.openai_api_key:
            return self.ready("Responses API, key set")
        return self.not_ready("no key", "Set OPENAI_API_KEY.")

    def model(self, name: str) -> Model:
        if self._elsewhere:
            from timestep_lab.runtime.adapters.chat_completions import ChatCompletionsModel

            return ChatCompletionsModel(name, self.prefix, self._client)
        if not self.settings.openai_api_key:
            raise self.missing_key(name)
        from timestep_lab.runtime.adapters.openai_responses import ResponsesModel

        return ResponsesModel(name, self._client)

    async def list_models(self) -> list[str]:
        if not self._elsewhere and not self.settings.openai_api_key:
            raise self.missing_key("models")
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
