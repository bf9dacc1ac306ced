"""`hf_inference_endpoints/<name>[/<model>]`: your own endpoints, named in `HF_INFERENCE_ENDPOINTS` (JSON: name to URL).

They use Chat Completions. TGI and llama.cpp accept any model name; vLLM requires its model's name after the endpoint's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from timestep_lab.runtime.providers.openai_compatible import Provider as NamedServers


class Provider(NamedServers):
    prefix: ClassVar[str] = "hf_inference_endpoints"
    variable: ClassVar[str] = "HF_INFERENCE_ENDPOINTS"
    key_name: ClassVar[str] = "HF_TOKEN"
    model_required: ClassVar[bool] = False

    @property
    def servers(self) -> Mapping[str, str]:
        return self.settings.hf_endpoints

    def key_for(self, server: str) -> str | None:
        return self.settings.hf_token

    async def list_models(self) -> list[str]:
        """Returns the names of the endpoints: each serves one model."""
        return sorted(self.servers)

    def _other_model_step(self, server: str) -> str:
        return f"If the endpoint requires a model name, use hf_inference_endpoints/{server}/<organisation>/<model>."
