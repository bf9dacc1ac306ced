"""Tool results as ChatKit widgets: JSON trees of the components in `chatkit.widgets` (Card, Col, Row, Icon, Text, …).

A widget is made from a stored result, so a thread that is read again shows what it showed first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timestep_lab.model.records import Json
from timestep_lab.runtime.tools.weather import clock, degree_sign


@dataclass(frozen=True, slots=True)
class Widget:
    """`root` is the widget's JSON; `copy_text` is what its copy button copies."""

    root: Mapping[str, Json]
    copy_text: str


def widget_of(output: str | None) -> Widget | None:
    """The widget for a tool's result; None when the result has none."""
    try:
        answer = json.loads(output or "")
    except ValueError:
        return None
    if not isinstance(answer, dict) or answer.get("kind") != "weather":
        return None
    return Widget(weather_widget(answer), str(answer["copy_text"]))


def widget_json(output: Json) -> dict[str, Json] | None:
    """`widget_of` a call's output as the views take it: root and text to copy."""
    found = widget_of(output) if isinstance(output, str) else None
    return {"root": found.root, "copy_text": found.copy_text} if found else None


def weather_widget(answer: Mapping[str, Any]) -> dict[str, Json]:
    """`answer` is a result of `get_weather`."""
    now, unit = answer["current"], answer["unit"]
    sign = degree_sign(unit)
    place: dict[str, Json] = _col(
        {"type": "Title", "value": answer["location"], "size": "sm"},
        {"type": "Caption", "value": f"{now['condition']} · feels like {now['feels_like']} {sign}"},
        gap=1,
        flex="auto",
    )
    children: list[Json] = [
        _row(
            {"type": "Icon", "name": f"lucide:{now['icon']}", "size": "3xl"},
            place,
            {"type": "Title", "value": f"{now['temperature']} {sign}", "size": "2xl"},
            gap=3,
        ),
        {"type": "Divider"},
        _row(*(_hour(hour, unit) for hour in answer["hourly"]), justify="between", gap=2),
    ]
    if answer.get("note"):
        badge = {"type": "Badge", "label": "Recorded", "color": "warning", "variant": "soft"}
        children.append(_row(badge, {"type": "Caption", "value": answer["note"]}, gap=2))
    return {"type": "Card", "key": "weather", "size": "md", "children": children}


def _hour(hour: Mapping[str, Any], unit: str) -> dict[str, Json]:
    return _col(
        {"type": "Caption", "value": clock(hour["time"], unit)},
        {"type": "Icon", "name": f"lucide:{hour['icon']}", "size": "lg"},
        {"type": "Text", "value": f"{hour['temperature']}°", "weight": "semibold", "size": "sm"},
        align="center",
        gap=1,
    )


def _row(*children: Json, **layout: Json) -> dict[str, Json]:
    return {"type": "Row", "align": "center", **layout, "children": list(children)}


def _col(*children: Json, **layout: Json) -> dict[str, Json]:
    return {"type": "Col", **layout, "children": list(children)}
