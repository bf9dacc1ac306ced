"""When a tool call waits for a person."""

from __future__ import annotations

from typing import Any

import pytest

from timestep_lab.model.errors import SettingsError
from timestep_lab.runtime.approvals import reason_to_ask, validate_rules

BERKELEY = {"argument": "location", "contains": "berkeley"}


@pytest.mark.parametrize(
    ("rule", "arguments", "reason"),
    [
        ("always", {}, "this tool always asks"),
        ("never", {"location": "Berkeley"}, None),
        (BERKELEY, {"location": "South BERKELEY, CA"}, 'location contains "berkeley"'),
        (BERKELEY, {"location": "Oakland"}, None),
        (BERKELEY, {"place": "Berkeley"}, None),
        (BERKELEY, {"location": ["Oakland", "Berkeley"]}, 'location contains "berkeley"'),
        (BERKELEY, {"location": {"city": "Berkeley"}}, 'location contains "berkeley"'),
        (BERKELEY, '{"location": "berkeley"}', 'location contains "berkeley"'),
        (BERKELEY, "", None),
        ({"argument": "amount", "equals": 100}, {"amount": 100}, "amount equals 100"),
        ({"argument": "amount", "equals": 1}, {"amount": True}, None),
        ({"argument": "to", "equals": "Boss"}, {"to": "boss"}, 'to equals "Boss"'),
        ({"argument": "n", "contains": "1"}, {"n": 41}, 'n contains "1"'),
    ],
)
def test_a_rule_says_why_a_call_waits(rule: Any, arguments: Any, reason: str | None) -> None:
    assert reason_to_ask(rule, arguments) == reason


@pytest.mark.parametrize("arguments", ["{not json", "[1]", None])
def test_arguments_that_cannot_be_read_always_ask(arguments: str | None) -> None:
    assert reason_to_ask(BERKELEY, arguments) == "its arguments cannot be read"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("sometimes", "is 'sometimes', which is not valid"),
        (True, "is True, which is not valid"),
        ({"contains": "x"}, "does not name an argument"),
        ({"argument": "x"}, "needs exactly one of contains, equals"),
        ({"argument": "x", "contains": "a", "equals": "b"}, "needs exactly one of contains, equals"),
        ({"argument": "x", "contains": ""}, "contains must be a string"),
        ({"argument": "x", "matches": "y"}, "has an unknown key 'matches'"),
    ],
)
def test_a_rule_that_is_none_is_refused_by_its_tools_name(rule: Any, message: str) -> None:
    with pytest.raises(
        SettingsError, match=f"rule of 'get_weather' {message}|rule of 'get_weather', {message}"
    ) as caught:
        validate_rules({"think": "never", "get_weather": rule})
    assert 'Use "always", "never", or' in caught.value.next_step
