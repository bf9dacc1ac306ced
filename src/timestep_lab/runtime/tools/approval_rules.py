"""When a tool call waits for a person.

A rule is `"always"`, `"never"`, or an object that looks at one argument of the call:

    {"argument": "location", "contains": "berkeley"}    text contains text, whatever the case; a list contains such a text
    {"argument": "amount", "equals": 100}               the same JSON value; texts whatever the case

An argument that the call does not have matches no rule. Arguments that are not JSON object cannot be judged, so they ask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from timestep_lab.model.errors import SettingsError
from timestep_lab.model.records import Json

Rule = Json
"""A value that `check_rule` accepts."""

_TESTS = ("contains", "equals")
_NEXT = 'Use "always", "never", or {"argument": "location", "contains": "berkeley"}.'


def check_rule(rule: Rule, where: str) -> Rule:
    """`rule` itself, when it is one. `where` names it in the message. Raises `SettingsError`."""
    if rule in ("always", "never"):
        return rule
    if not isinstance(rule, Mapping):
        raise SettingsError(f"The approval rule of {where} is {rule!r}, which is not a rule.", _NEXT, param=where)
    unknown = sorted(set(rule) - {"argument", *_TESTS})
    if unknown:
        raise SettingsError(f"The approval rule of {where} has an unknown key {unknown[0]!r}.", _NEXT, param=where)
    if not isinstance(rule.get("argument"), str) or not rule["argument"]:
        raise SettingsError(f"The approval rule of {where} does not name an argument.", _NEXT, param=where)
    if sum(test in rule for test in _TESTS) != 1:
        raise SettingsError(f"The approval rule of {where} needs exactly one of contains, equals.", _NEXT, param=where)
    if "contains" in rule and (not isinstance(rule["contains"], str) or not rule["contains"]):
        raise SettingsError(f"In the approval rule of {where}, contains must be a text.", _NEXT, param=where)
    return rule


def validate_rules(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """All of `rules` (tool, or `*`, to rule), checked. Raises `SettingsError` naming the tool."""
    return {tool: check_rule(rule, repr(tool)) for tool, rule in rules.items()}


def reason_to_ask(rule: Rule, arguments: Mapping[str, Any] | str | None) -> str | None:
    """Why this call must wait, such as `location contains "berkeley"`; None when it need not.

    `arguments` is the object the model gave, or its JSON text.
    """
    if rule == "never":
        return None
    if rule == "always":
        return "always asks"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except json.JSONDecodeError:
            return "its arguments cannot be read"
    if not isinstance(arguments, Mapping):
        return "its arguments cannot be read"
    name = rule["argument"]
    if name not in arguments:
        return None
    if "contains" in rule:
        return f'{name} contains "{rule["contains"]}"' if _contains(arguments[name], rule["contains"]) else None
    wanted = rule["equals"]
    return f"{name} equals {json.dumps(wanted, ensure_ascii=False)}" if _equal(arguments[name], wanted) else None


def _contains(value: Any, text: str) -> bool:
    if isinstance(value, str):
        return text.casefold() in value.casefold()
    if isinstance(value, list):
        return any(_contains(item, text) for item in value)
    if isinstance(value, Mapping):
        return any(_contains(item, text) for item in value.values())
    return text.casefold() in json.dumps(value).casefold()


def _equal(value: Any, wanted: Any) -> bool:
    if isinstance(value, str) and isinstance(wanted, str):
        return value.casefold() == wanted.casefold()
    # In Python True == 1; in JSON they are two values.
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)
