"""The command line against a real model on a real third-party server (llama.cpp's), by each way a user may point at one."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.cli.conftest import Done
from tests.wire.real_model import real_model_server as real_model_server

Cli = Callable[..., Done]


@pytest.mark.parametrize(
    ("variable", "value", "model"),
    [
        ("OPENAI_BASE_URL", "{url}/v1", "openai/smollm2"),
        ("ANTHROPIC_BASE_URL", "{url}", "anthropic/smollm2"),
        ("HF_INFERENCE_ENDPOINTS", '{{"small": "{url}/v1"}}', "hf_inference_endpoints/small"),
    ],
)
def test_a_real_model_answers_in_chunks_and_its_trace_tells_when(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, real_model_server: str, variable: str, value: str, model: str
) -> None:
    monkeypatch.setenv(variable, value.format(url=real_model_server))
    for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(key, "not-needed-here")
    assert cli("agents", "add", "Plain", "--instructions", "Answer in one short sentence.").code == 0
    done = cli("run", "Say hello to Ada.", "--agent", "Plain", "--model", model, "--setting", "max_tokens=24", "--json")
    assert done.code == 0, done.err
    assert done.json["output"].strip()
    assert done.json["usage"]["input_tokens"] > 0
    assert done.json["usage"]["output_tokens"] > 1
    [generation] = cli("sql", "select ttft_ms, duration_ms, status, model from generations", "--json").json
    assert generation["status"] == "ok"
    assert 0 < generation["ttft_ms"] < generation["duration_ms"], json.dumps(generation)
