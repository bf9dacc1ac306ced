"""`{{name}}` in a prompt, filled from a case. Names only: no filters, no logic, nothing that runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from timestep_lab.types.errors import DataError
from timestep_lab.types.suggest import did_you_mean

_PLACE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_NAME = re.compile(r"[^\W\d]\w*(?:\.\w+)*")


def render(template: str, variables: Mapping[str, Any]) -> str:
    """Fill every `{{name}}`; `{{person.city}}` reaches into an object. Text goes in as it is, all else as JSON.

    Raises `DataError` for a name that there is no value for, and for anything between the braces that is not a name.
    """
    return _PLACE.sub(lambda place: _value(place.group(1).strip(), variables), template)


def names_in(template: str) -> list[str]:
    """The variables a template asks for, each once, in order."""
    return list(dict.fromkeys(place.strip().split(".")[0] for place in _PLACE.findall(template)))


def render_all(value: Any, variables: Mapping[str, Any]) -> Any:
    """`render` for every text inside lists and objects."""
    if isinstance(value, str):
        return render(value, variables)
    if isinstance(value, Mapping):
        return {key: render_all(inner, variables) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [render_all(inner, variables) for inner in value]
    return value


def _value(name: str, variables: Mapping[str, Any]) -> str:
    if not _NAME.fullmatch(name):
        raise DataError(
            f"{{{{{name}}}}} is not a variable's name.", "Between the braces stands one name, such as {{question}}."
        )
    value: Any = variables
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = ", ".join(sorted(map(str, variables))) or "none"
            raise DataError(
                f"The prompt asks for {{{{{name}}}}}, which this case does not have.{did_you_mean(part, map(str, variables))}",
                f"This case's variables: {known}.",
            )
        value = value[part]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
