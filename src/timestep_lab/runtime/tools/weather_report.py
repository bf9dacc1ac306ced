"""Open-Meteo's response as the answer of `get_weather`: one JSON object for model, card and clipboard."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from timestep_lab.model.errors import ToolError
from timestep_lab.runtime.tools.places import Place

# -- Weather codes: WMO code table 4677 in the part that Open-Meteo uses, https://open-meteo.com/en/docs (WMO weather interpretation codes)

_CODES: dict[int, tuple[str, str]] = {
    0: ("Clear sky", "sun"),
    1: ("Mainly clear", "sun"),
    2: ("Partly cloudy", "cloud-sun"),
    3: ("Overcast", "cloud"),
    45: ("Fog", "cloud-fog"),
    48: ("Freezing fog", "cloud-fog"),
    51: ("Light drizzle", "cloud-drizzle"),
    53: ("Drizzle", "cloud-drizzle"),
    55: ("Dense drizzle", "cloud-drizzle"),
    56: ("Light freezing drizzle", "cloud-hail"),
    57: ("Freezing drizzle", "cloud-hail"),
    61: ("Light rain", "cloud-rain"),
    63: ("Rain", "cloud-rain"),
    65: ("Heavy rain", "cloud-rain-wind"),
    66: ("Light freezing rain", "cloud-hail"),
    67: ("Freezing rain", "cloud-hail"),
    71: ("Light snow", "cloud-snow"),
    73: ("Snow", "cloud-snow"),
    75: ("Heavy snow", "snowflake"),
    77: ("Snow grains", "cloud-snow"),
    80: ("Light showers", "cloud-sun-rain"),
    81: ("Showers", "cloud-rain"),
    82: ("Violent showers", "cloud-rain-wind"),
    85: ("Light snow showers", "cloud-snow"),
    86: ("Snow showers", "snowflake"),
    95: ("Thunderstorm", "cloud-lightning"),
    96: ("Thunderstorm with hail", "cloud-lightning"),
    99: ("Thunderstorm with heavy hail", "cloud-lightning"),
}
_AT_NIGHT = {"sun": "moon", "cloud-sun": "cloud-moon", "cloud-sun-rain": "cloud-moon-rain"}


def condition(code: int) -> str:
    """`61` → `Light rain`; a code outside the table is named by its number."""
    return _CODES[code][0] if code in _CODES else f"Weather code {code}"


def icon(code: int, *, is_day: bool) -> str:
    """Name of a Lucide icon, https://lucide.dev/icons; `thermometer` for a code outside the table."""
    name = _CODES[code][1] if code in _CODES else "thermometer"
    return name if is_day else _AT_NIGHT.get(name, name)


# --

HOURS = 6

_TEMPERATURE = {"type": "integer", "description": "Degrees in `unit`."}
OUTPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"const": "weather"},
        "source": {"enum": ["live", "recorded"]},
        "note": {"type": ["string", "null"], "description": "Why it is recorded; null when it is live."},
        "location": {"type": "string"},
        "observed_at": {"type": "string", "description": "Local time there, ISO 8601."},
        "timezone": {"type": "string"},
        "unit": {"enum": ["fahrenheit", "celsius"]},
        "current": {
            "type": "object",
            "properties": {
                "temperature": _TEMPERATURE,
                "feels_like": _TEMPERATURE,
                "condition": {"type": "string"},
                "icon": {"type": "string", "description": "Name of a Lucide icon."},
                "humidity": {"type": ["integer", "null"], "description": "Percent."},
                "wind": {"type": ["integer", "null"], "description": "mph with fahrenheit, km/h with celsius."},
            },
            "required": ["temperature", "condition", "icon"],
        },
        "hourly": {
            "type": "array",
            "maxItems": HOURS,
            "items": {
                "type": "object",
                "properties": {
                    "time": {"type": "string"},
                    "temperature": _TEMPERATURE,
                    "condition": {"type": "string"},
                    "icon": {"type": "string"},
                    "rain": {"type": ["integer", "null"], "description": "Probability of precipitation, percent."},
                },
                "required": ["time", "temperature", "condition", "icon"],
            },
        },
        "copy_text": {"type": "string"},
    },
    "required": ["kind", "source", "location", "unit", "current", "hourly", "copy_text"],
}


def report(place: Place, forecast: Mapping[str, Any], *, unit: str, note: str | None) -> dict[str, Any]:
    """An object of `OUTPUT_SCHEMA`. `note` says why the forecast is recorded, None that it is live.

    `forecast` is a response of https://open-meteo.com/en/docs in its own units (degrees Celsius, km/h), converted here.
    Raises `ToolError` when it lacks what it should have.
    """
    try:
        now, hourly = forecast["current"], forecast["hourly"]
        answer: dict[str, Any] = {
            "kind": "weather",
            "source": "live" if note is None else "recorded",
            "note": note,
            "location": place.name,
            "observed_at": now["time"],
            "timezone": forecast.get("timezone", ""),
            "unit": unit,
            "current": {
                "temperature": _degrees(now["temperature_2m"], unit),
                "feels_like": _degrees(now.get("apparent_temperature", now["temperature_2m"]), unit),
                "condition": condition(now["weather_code"]),
                "icon": icon(now["weather_code"], is_day=bool(now.get("is_day", 1))),
                "humidity": _whole(now.get("relative_humidity_2m")),
                "wind": _speed(now.get("wind_speed_10m"), unit),
            },
            "hourly": [_hour(hourly, n, unit) for n in _next_hours(hourly["time"], now["time"])],
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ToolError(f"The forecast for {place.name} cannot be read ({error!r}).", "Try again later.") from error
    return {**answer, "copy_text": _as_text(answer)}


def clock(moment: str, unit: str) -> str:
    """`2026-10-14T16:00` → `4 PM` where temperatures are in Fahrenheit, else `16:00`."""
    time = datetime.fromisoformat(moment)
    return f"{time.hour % 12 or 12} {'AM' if time.hour < 12 else 'PM'}" if unit == "fahrenheit" else f"{time:%H:%M}"


def degree_sign(unit: str) -> str:
    return "°F" if unit == "fahrenheit" else "°C"


def _next_hours(times: list[str], now: str) -> list[int]:
    start = datetime.fromisoformat(now)
    return [n for n, time in enumerate(times) if datetime.fromisoformat(time) > start][:HOURS]


def _hour(hourly: Mapping[str, Any], n: int, unit: str) -> dict[str, Any]:
    code = hourly["weather_code"][n]
    return {
        "time": hourly["time"][n],
        "temperature": _degrees(hourly["temperature_2m"][n], unit),
        "condition": condition(code),
        "icon": icon(code, is_day=bool(hourly["is_day"][n]) if "is_day" in hourly else True),
        "rain": _whole(hourly["precipitation_probability"][n]) if "precipitation_probability" in hourly else None,
    }


def _degrees(celsius: float, unit: str) -> int:
    return round(celsius * 9 / 5 + 32 if unit == "fahrenheit" else celsius)


def _speed(km_per_hour: float | None, unit: str) -> int | None:
    return None if km_per_hour is None else round(km_per_hour / 1.609344 if unit == "fahrenheit" else km_per_hour)


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)


def _as_text(answer: Mapping[str, Any]) -> str:
    now, sign = answer["current"], degree_sign(answer["unit"])
    hours = ", ".join(f"{clock(h['time'], answer['unit'])} {h['temperature']}{sign}" for h in answer["hourly"])
    text = f"{answer['location']}: {now['temperature']} {sign}, {now['condition'].lower()}, feels like {now['feels_like']} {sign}."
    text = f"{text} Next hours: {hours}." if hours else text
    return f"{text} {answer['note']}" if answer["note"] else text
