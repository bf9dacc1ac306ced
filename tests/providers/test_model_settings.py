"""Model settings as users write them."""

from __future__ import annotations

from typing import Any

import pytest

from timestep_lab.model.errors import SettingsError
from timestep_lab.runtime.model_settings import known_settings, validate_settings


def test_camel_case_comes_out_as_the_sdk_writes_it() -> None:
    given = {"toolChoice": "auto", "maxTokens": 5, "parallelToolCalls": True, "reasoning": {"effort": "low"}}
    assert validate_settings(given) == {
        "tool_choice": "auto", "max_tokens": 5, "parallel_tool_calls": True, "reasoning": {"effort": "low"},
    }  # fmt: skip


def test_an_effort_alone_and_other_programs_words_are_understood() -> None:
    assert validate_settings({"reasoningEffort": "high", "maxOutputTokens": 3}) == {
        "reasoning": {"effort": "high"},
        "max_tokens": 3,
    }


def test_nulls_are_left_out_and_nothing_is_nothing() -> None:
    assert validate_settings({"temperature": None}) == validate_settings({}) == validate_settings(None) == {}


def test_keys_that_belong_to_the_provider_are_left_as_they_are() -> None:
    extra = {"extra_body": {"topK": 1}, "extra_headers": {"X-Mine": "1"}}
    assert validate_settings(extra) == extra


def test_what_was_validated_validates_to_itself() -> None:
    once = validate_settings({"toolChoice": "required", "temperature": 0.5})
    assert validate_settings(once) == once


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temprature": 1}, "Did you mean 'temperature'"),
        ({"toolchoice_": "auto"}, "Did you mean 'tool_choice'"),
        ({"temperature": 3}, "from 0 to 2"),
        ({"temperature": True}, "from 0 to 2"),
        ({"temperature": float("nan")}, "from 0 to 2"),
        ({"max_tokens": 0}, "whole number from 1"),
        ({"max_tokens": 1, "maxTokens": 2}, "given twice"),
        ({"reasoning": {"effort": "hihg"}}, "Did you mean 'high'"),
        ({"reasoning": {"efort": "low"}}, "Did you mean 'effort'"),
        ({"parallel_tool_calls": "sometimes"}, "parallel_tool_calls"),
        ({"retry": {"maxretries_": 1}}, "retry"),
        (["temperature"], "object of names and values"),
    ],
)
def test_what_nobody_would_honour_is_refused(given: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as raised:
        validate_settings(given)
    assert (raised.value.param or "").startswith("model_settings")


def test_every_setting_of_the_sdk_is_known() -> None:
    assert {"temperature", "top_p", "tool_choice", "max_tokens", "reasoning", "verbosity"} <= set(known_settings())
