"""`ollama/…`: your own server (`OLLAMA_HOST`), or Ollama's cloud with `OLLAMA_API_KEY` for names that end in `-cloud`.

The host is chosen per call by the model's name, and the key is only sent to the cloud.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from timestep_lab.model.records import ProviderStatus
from timestep_lab.runtime.adapters.clients import ollama_client
from timestep_lab.runtime.pricing import is_ollama_cloud
from timestep_lab.runtime.provider_errors import ErrorContext
from timestep_lab.runtime.router import PerLoop
from timestep_lab.runtime.router import Provider as BaseProvider
from timestep_lab.runtime.settings import OLLAMA_LOCAL_HOST

if TYPE_CHECKING:
    from agents import Model
    from ollama import AsyncClient


class Provider(BaseProvider):
    prefix: ClassVar[str] = "ollama"
    key_variable: ClassVar[str] = "OLLAMA_API_KEY"

    @property
    def _host(self) -> str:
        return self.settings.ollama_host or OLLAMA_LOCAL_HOST

    @cached_property
    def _local(self) -> PerLoop[AsyncClient]:
        return ollama_client(self._host, None, self.settings.request_timeout_s)

    @cached_property
    def _cloud(self) -> PerLoop[AsyncClient]:
        return ollama_client(
            self.settings.ollama_cloud_host, self.settings.ollama_api_key, self.settings.request_timeout_s
        )

    def status(self) -> ProviderStatus:
        cloud = "cloud key set" if self.settings.ollama_api_key else "no cloud key"
        if self.settings.ollama_host or self.settings.ollama_api_key:
            return self.ready(f"server at {self._host}; {cloud}")
        return self.not_ready(
            f"OLLAMA_HOST is not set; using {self._host}; {cloud}",
            "Start Ollama (https://ollama.com/download) and use `ollama/<model>`, or set OLLAMA_API_KEY for `-cloud` models.",
        )

    def model(self, name: str) -> Model:
        from timestep_lab.runtime.adapters.ollama_chat import OllamaModel

        if not is_ollama_cloud(name):
            return OllamaModel(name, self._local)
        if not self.settings.ollama_api_key:
            raise self.missing_key(name)
        return OllamaModel(name, self._cloud)

    async def list_models(self) -> list[str]:
        listed = await self._local.get().list()
        return sorted(model.model for model in listed.models if model.model)

    def context(self, model: str) -> ErrorContext:
        cloud = is_ollama_cloud(model)
        return ErrorContext(
            provider=self.prefix,
            model=model,
            key_variable=self.key_variable if cloud else "",
            address=self.settings.ollama_cloud_host if cloud else self._host,
            missing_model_step="" if cloud else f"Run: ollama pull {model}",
            unreachable_step="" if cloud else "Start Ollama (or set OLLAMA_HOST), or use `demo/assistant`.",
            secrets=self.settings.secrets,
        )

    async def aclose(self) -> None:
        await self._local.aclose()
        await self._cloud.aclose()
