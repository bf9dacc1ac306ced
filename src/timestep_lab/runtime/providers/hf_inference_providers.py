"""`hf_inference_providers/<organisation>/<model>[:<provider>]`: Hugging Face's router for open models. Chat Completions, `HF_TOKEN`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from timestep_lab.model.records import ProviderStatus
from timestep_lab.runtime.adapters.clients import openai_client
from timestep_lab.runtime.router import PerLoop
from timestep_lab.runtime.router import Provider as BaseProvider

if TYPE_CHECKING:
    from agents import Model
    from openai import AsyncOpenAI

ROUTER_URL = "https://router.huggingface.co/v1"


class Provider(BaseProvider):
    prefix: ClassVar[str] = "hf_inference_providers"
    key_variable: ClassVar[str] = "HF_TOKEN"

    @cached_property
    def _client(self) -> PerLoop[AsyncOpenAI]:
        return openai_client(
            self.settings.hf_base_url or ROUTER_URL, self.settings.hf_token, self.settings.request_timeout_s
        )

    def status(self) -> ProviderStatus:
        if self.settings.hf_token:
            return self.ready("Hugging Face's router, token set")
        return self.not_ready("no token", "Set HF_TOKEN.")

    def model(self, name: str) -> Model:
        from timestep_lab.runtime.adapters.chat_completions import ChatCompletionsModel

        if not self.settings.hf_token:
            raise self.missing_key(name)
        return ChatCompletionsModel(name, self.prefix, self._client)

    async def list_models(self) -> list[str]:
        if not self.settings.hf_token:
            raise self.missing_key("models")
        return sorted([model.id async for model in self._client.get().models.list()])

    async def aclose(self) -> None:
        await self._client.aclose()
