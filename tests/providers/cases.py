"""Each way to a model, with the wire server that stands for its provider. One row more is one adapter more under test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tests.wire import anthropic_messages, chat_completions, ollama_chat, openai_responses
from timestep_lab.runtime.settings import Settings


@dataclass(frozen=True)
class Case:
    name: str
    protocol: ModuleType
    model: str
    settings: Callable[[str], dict[str, Any]]
    """From the server's URL to what `Settings` needs."""
    name_on_wire: str
    key: str | None = "the-key"
    """What must arrive as the bearer token; None when nothing secret may arrive."""

    def configure(self, url: str, **more: Any) -> Settings:
        return Settings(**self.settings(url), **more)

    def __str__(self) -> str:
        return self.name


CASES = [
    Case(
        "openai", openai_responses, "openai/gpt-4.1",
        lambda url: {"openai_api_key": "the-key", "openai_base_url": f"{url}/v1", "openai_responses": True}, "gpt-4.1",
    ),
    Case("openai_elsewhere", chat_completions, "openai/some-model", lambda url: {"openai_base_url": url}, "some-model", None),
    Case(
        "openai_compatible", chat_completions, "openai_compatible/mine/org/model",
        lambda url: {
            "openai_compatible": {"mine": f"{url}/v1"}, "openai_compatible_keys": {"mine": "the-key"},
            "openai_api_key": "of-another-provider",
        }, "org/model",
    ),
    Case(
        "hf_inference_providers", chat_completions, "hf_inference_providers/org/model:host",
        lambda url: {"hf_token": "the-key", "hf_base_url": f"{url}/v1"}, "org/model:host",
    ),
    Case(
        "hf_inference_endpoints", chat_completions, "hf_inference_endpoints/mine",
        lambda url: {"hf_endpoints": {"mine": url}, "hf_token": "the-key"}, "mine",
    ),
    Case(
        "anthropic", anthropic_messages, "anthropic/claude-haiku-4-5",
        lambda url: {"anthropic_api_key": "the-key", "anthropic_base_url": url}, "claude-haiku-4-5",
    ),
    Case("ollama", ollama_chat, "ollama/qwen3:8b", lambda url: {"ollama_host": url, "ollama_api_key": "for-the-cloud"}, "qwen3:8b", None),
    Case(
        "ollama_cloud", ollama_chat, "ollama/gpt-oss:20b-cloud",
        lambda url: {"ollama_api_key": "the-key", "ollama_cloud_host": url}, "gpt-oss:20b-cloud",
    ),
]  # fmt: skip

ANTHROPIC = next(case for case in CASES if case.name == "anthropic")
OLLAMA = next(case for case in CASES if case.name == "ollama")
OPENAI = next(case for case in CASES if case.name == "openai")
CHAT = next(case for case in CASES if case.name == "openai_elsewhere")
