"""What the environment says, and what is refused of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from timestep_lab.model.errors import SettingsError
from timestep_lab.runtime.settings import Settings


def test_the_environment_wins_over_the_dotenv_file_and_neither_is_changed(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OPENAI_API_KEY=from-file\nHF_TOKEN='quoted'\n")
    before = dict(os.environ)
    settings = Settings.load({"OPENAI_API_KEY": "from-env"}, tmp_path)
    assert (settings.openai_api_key, settings.hf_token) == ("from-env", "quoted")
    assert dict(os.environ) == before


def test_an_empty_value_counts_as_not_set() -> None:
    assert Settings.load({"OPENAI_API_KEY": " "}).openai_api_key is None


def test_no_secret_is_ever_printed() -> None:
    names = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN", "OLLAMA_API_KEY", "TIMESTEP_LAB_SECRET")
    settings = Settings.load(
        {name: f"hidden-{name}" for name in names} | {"OPENAI_COMPATIBLE_KEYS": '{"a": "hidden-a"}'}
    )
    assert "hidden" not in repr(settings)
    assert len(settings.secrets) == 6


@pytest.mark.parametrize(
    ("env", "model"),
    [
        ({}, "demo/assistant"),
        ({"DEFAULT_AGENT_MODEL": "ollama/qwen3", "OPENAI_API_KEY": "k"}, "ollama/qwen3"),
        ({"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}, "openai/gpt-4.1"),
        ({"ANTHROPIC_API_KEY": "k"}, "anthropic/claude-sonnet-5"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1"}, "demo/assistant"),
    ],
)
def test_the_default_model_is_the_configured_one_else_of_the_first_key_else_the_demo(
    env: dict[str, str], model: str
) -> None:
    assert Settings.load(env).default_model == model


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"OPENAI_BASE_URL": "127.0.0.1:8080"}, r"not a URL.*http://"),
        ({"HF_INFERENCE_ENDPOINTS": "mine=http://x"}, r"not JSON.*HF_INFERENCE_ENDPOINTS="),
        ({"HF_INFERENCE_ENDPOINTS": '["http://x"]'}, "JSON object"),
        ({"OPENAI_COMPATIBLE": '{"mine": "nowhere"}'}, r"OPENAI_COMPATIBLE\[mine\]"),
        ({"TIMESTEP_LAB_REQUEST_TIMEOUT_S": "soon"}, "not a number"),
        ({"TIMESTEP_LAB_DEMO_DELAY_MS": "-1"}, "non-negative number"),
        ({"OPENAI_USE_RESPONSES": "maybe"}, "1 or 0"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_with_its_name(env: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as raised:
        Settings.load(env)
    assert next(iter(env)) in str(raised.value)
