"""`get_weather`: the current weather at a place and the next six hours, live from Open-Meteo or recorded."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast
from urllib.parse import urlsplit

import httpx

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import NotFoundError, SettingsError, ToolError, UsageError
from timestep_lab.resources import data_path

if TYPE_CHECKING:
    from timestep_lab.runtime.settings import Settings


# --- A place as a geocoder returns it, and how it is compared with a user's words


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    name: str
    """`Berkeley, California, United States`."""
    latitude: float
    """Degrees, north positive (WGS 84)."""
    longitude: float
    """Degrees, east positive (WGS 84)."""

    @classmethod
    def from_open_meteo(cls, result: Mapping[str, Any]) -> Place:
        """Reads one of `results` of https://open-meteo.com/en/docs/geocoding-api."""
        parts = [result["name"], result.get("admin1"), result.get("country")]
        named = [part for n, part in enumerate(parts) if part and part not in parts[:n]]
        return cls(name=", ".join(named), latitude=float(result["latitude"]), longitude=float(result["longitude"]))

    @classmethod
    def from_nominatim(cls, result: Mapping[str, Any]) -> Place:
        """Reads one entry of https://nominatim.org/release-docs/latest/api/Output/ (jsonv2, with addressdetails)."""
        address = result.get("address") or {}
        name = result.get("name") or str(result["display_name"]).split(",", 1)[0]
        parts = [name, address.get("state"), address.get("country")]
        named = [part for n, part in enumerate(parts) if part and part not in parts[:n]]
        return cls(name=", ".join(named), latitude=float(result["lat"]), longitude=float(result["lon"]))


def words_of(text: str) -> list[str]:
    """Returns lower-case words without accents and punctuation: `São Paulo, BR` → `["sao", "paulo", "br"]`."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return re.findall(r"[a-z0-9]+", "".join(letter for letter in plain if not unicodedata.combining(letter)))


# --- Live weather: Nominatim (or, if it finds nothing, Open-Meteo's geocoder) for the place, Open-Meteo for the forecast
#
# Neither requires a key. They are only called when a tool is called, and receive nothing but the requested place.


CURRENT = "temperature_2m,apparent_temperature,relative_humidity_2m,precipitation,wind_speed_10m,weather_code,is_day"
HOURLY = "temperature_2m,precipitation_probability,weather_code,is_day"
_AGENT = "timestep-lab/0.1 (weather tool; +https://pypi.org/project/timestep-lab/)"
_NOMINATIM_PAUSE_S = 1.0
"""The public Nominatim allows one request per second, https://operations.osmfoundation.org/policies/nominatim/"""


class UnreachableError(ToolError):
    """The network gave no answer, as opposed to a negative answer."""


class OpenMeteo:
    """`timeout_s` limits each connection attempt and each wait for a response."""

    def __init__(self, nominatim_url: str, geocoding_url: str, forecast_url: str, timeout_s: float) -> None:
        self._nominatim_url, self._geocoding_url, self._forecast_url = nominatim_url, geocoding_url, forecast_url
        self._timeout_s = timeout_s
        self._places: dict[tuple[str, ...], Place] = {}
        self._next_nominatim = 0.0

    async def forecast(self, location: str) -> tuple[Place, Mapping[str, Json]]:
        """Returns the place and Open-Meteo's response: degrees Celsius, km/h, local times, today and tomorrow.

        Raises `NotFoundError` if neither geocoder knows the place, `UnreachableError` if there is no response, `ToolError`
        for an unusable response.
        """
        async with httpx.AsyncClient(
            timeout=self._timeout_s, headers={"User-Agent": _AGENT}, verify=_tls(), follow_redirects=True
        ) as http:
            key = tuple(words_of(location)) or (location,)
            place = self._places.get(key) or await self._find(http, location)
            self._places[key] = place
            query = {
                "latitude": f"{place.latitude:.5f}",
                "longitude": f"{place.longitude:.5f}",
                "current": CURRENT,
                "hourly": HOURLY,
                "timezone": "auto",
                "forecast_days": "2",
            }
            answer = await _get(http, self._forecast_url, query)
            if not isinstance(answer, dict) or "current" not in answer or "hourly" not in answer:
                raise ToolError(f"{_host(self._forecast_url)} returned no forecast.", "Try again later.")
            return place, answer

    async def _find(self, http: httpx.AsyncClient, location: str) -> Place:
        places: Sequence[Mapping[str, Json]] | None = None
        try:
            await self._wait_for_turn()
            query = {"q": location, "format": "jsonv2", "addressdetails": "1", "limit": "1", "accept-language": "en"}
            places = await _get(http, self._nominatim_url, query)
        except ToolError:
            pass  # The second geocoder decides; if it fails too, its error is raised.
        if places:
            return Place.from_nominatim(places[0])
        query = {"name": location, "count": "1", "language": "en", "format": "json"}
        answer = await _get(http, self._geocoding_url, query)
        if not answer.get("results"):
            raise NotFoundError(
                f"No place named {location!r} was found.", 'Write it as "city, country", and check the spelling.'
            )
        return Place.from_open_meteo(answer["results"][0])

    async def _wait_for_turn(self) -> None:
        if not (urlsplit(self._nominatim_url).hostname or "").endswith("openstreetmap.org"):
            return
        now = time.monotonic()
        turn = max(now, self._next_nominatim)
        self._next_nominatim = turn + _NOMINATIM_PAUSE_S
        await asyncio.sleep(turn - now)


async def _get(http: httpx.AsyncClient, url: str, query: Mapping[str, str]) -> Any:
    try:
        response = await http.get(url, params=query)
    except httpx.HTTPError as error:
        raise UnreachableError(
            f"{_host(url)} cannot be reached ({type(error).__name__}).",
            "Check the network, or set WEATHER_MODE=recorded.",
        ) from error
    if response.status_code == 429:
        raise ToolError(f"{_host(url)} has received too many requests.", "Wait a minute and try again.")
    if response.status_code >= 500:
        raise UnreachableError(f"{_host(url)} returned HTTP {response.status_code}.", "Try again later.")
    if response.status_code >= 400:
        raise ToolError(f"{_host(url)} rejected the request (HTTP {response.status_code}): {_reason(response)}.")
    try:
        return response.json()
    except ValueError:
        raise ToolError(f"{_host(url)} returned a response that is not JSON.", "Check its URL.") from None


def _reason(response: httpx.Response) -> str:
    """Open-Meteo's errors are `{"error": true, "reason": "…"}`."""
    try:
        body = response.json()
    except ValueError:
        body = None
    return str(body.get("reason", "no reason given")) if isinstance(body, dict) else "no reason given"


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


@cache
def _tls() -> ssl.SSLContext:
    # Loading the certificates takes tens of milliseconds, so the client of a call is shared by its requests.
    return httpx.create_ssl_context()


# --- Conversion of Open-Meteo's response to the output of `get_weather`: one JSON object for the model, the card and the clipboard


# -- Weather codes: the part of WMO code table 4677 that Open-Meteo uses, https://open-meteo.com/en/docs (WMO weather interpretation codes)

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
    """`61` → `Light rain`; an unknown code is shown by its number."""
    return _CODES[code][0] if code in _CODES else f"Weather code {code}"


def icon(code: int, *, is_day: bool) -> str:
    """Returns the name of a Lucide icon, https://lucide.dev/icons; `thermometer` for an unknown code."""
    name = _CODES[code][1] if code in _CODES else "thermometer"
    return name if is_day else _AT_NIGHT.get(name, name)


# --

HOURS = 6

_TEMPERATURE: dict[str, Json] = {"type": "integer", "description": "Degrees in `unit`."}
OUTPUT_SCHEMA: dict[str, Json] = {
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


class Now(TypedDict):
    temperature: int
    feels_like: int
    condition: str
    icon: str
    humidity: int | None
    wind: int | None


class Hour(TypedDict):
    time: str
    temperature: int
    condition: str
    icon: str
    rain: int | None


class Report(TypedDict):
    """An object of `OUTPUT_SCHEMA`."""

    kind: str
    source: str
    note: str | None
    location: str
    observed_at: str
    timezone: str
    unit: str
    current: Now
    hourly: list[Hour]
    copy_text: str


def report(place: Place, forecast: Mapping[str, Any], *, unit: str, note: str | None) -> Report:
    """Returns a report. `note` is the reason why the forecast is recorded; None if it is live.

    `forecast` is a response of https://open-meteo.com/en/docs in its own units (degrees Celsius, km/h), converted here.
    Raises `ToolError` if a required part is missing.
    """
    try:
        now, hourly = forecast["current"], forecast["hourly"]
        answer: Report = {
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
            "copy_text": "",
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ToolError(f"The forecast for {place.name} cannot be read ({error!r}).", "Try again later.") from error
    answer["copy_text"] = _as_text(answer)
    return answer


def clock(moment: str, unit: str) -> str:
    """`2026-10-14T16:00` → `4 PM` for Fahrenheit, else `16:00`."""
    time = datetime.fromisoformat(moment)
    return f"{time.hour % 12 or 12} {'AM' if time.hour < 12 else 'PM'}" if unit == "fahrenheit" else f"{time:%H:%M}"


def degree_sign(unit: str) -> str:
    return "°F" if unit == "fahrenheit" else "°C"


def _next_hours(times: list[str], now: str) -> list[int]:
    start = datetime.fromisoformat(now)
    return [n for n, time in enumerate(times) if datetime.fromisoformat(time) > start][:HOURS]


def _hour(hourly: Mapping[str, Any], n: int, unit: str) -> Hour:
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


def _as_text(answer: Report) -> str:
    now, sign = answer["current"], degree_sign(answer["unit"])
    hours = ", ".join(f"{clock(h['time'], answer['unit'])} {h['temperature']}{sign}" for h in answer["hourly"])
    text = f"{answer['location']}: {now['temperature']} {sign}, {now['condition'].lower()}, feels like {now['feels_like']} {sign}."
    text = f"{text} Next hours: {hours}." if hours else text
    return f"{text} {answer['note']}" if answer["note"] else text


# -- Recorded weather: a few places under `data/weather/`, one file each, in the format of Open-Meteo's two services


def recorded(location: str) -> tuple[Place, Mapping[str, Json]] | None:
    """Returns the place and its forecast response; None without a recording.

    `Paris`, `paris, france` and `Paris FR` find Paris; `Paris, Texas` finds nothing, because it is another place.
    """
    wanted = words_of(location)
    for record in _records():
        [result] = record["geocoding"]["results"]
        surroundings = [result.get("admin1", ""), result["country"], result["country_code"], *record["also_called"]]
        known = {word for text in surroundings for word in words_of(text)}
        for name in (result["name"], *record["aliases"]):
            own = words_of(name)
            if wanted[: len(own)] == own and known.issuperset(wanted[len(own) :]):
                return Place.from_open_meteo(result), record["forecast"]
    return None


def recorded_places() -> list[str]:
    return sorted(record["geocoding"]["results"][0]["name"] for record in _records())


@cache
def _records() -> tuple[dict[str, Any], ...]:
    files = sorted(data_path("weather").glob("*.json"))
    return tuple(json.loads(file.read_text(encoding="utf-8")) for file in files)


# --

__all__ = ["DESCRIPTION", "INPUT_SCHEMA", "OUTPUT_SCHEMA", "Weather", "WeatherSettings"]

Mode = Literal["live", "recorded", "auto"]
MODES: tuple[Mode, ...] = ("live", "recorded", "auto")

DESCRIPTION = (
    "The current weather at a place and the next six hours. Says whether it is live or recorded; "
    "a recorded answer must be passed on as recorded."
)
INPUT_SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {
        "location": {"type": "string", "description": 'City, with state or country where needed: "Oakland, CA".'},
        "unit": {"type": "string", "enum": ["fahrenheit", "celsius"], "default": "fahrenheit"},
    },
    "required": ["location"],
    "additionalProperties": False,
}

UNREACHABLE_S = 120.0
"""In mode `auto`, how long the network counts as unavailable after a failure, so that not every call waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeatherSettings:
    """`auto` is live, or recorded if the network does not respond."""

    mode: Mode = "auto"
    nominatim_url: str = "https://nominatim.openstreetmap.org/search"
    geocoding_url: str = "https://geocoding-api.open-meteo.com/v1/search"
    forecast_url: str = "https://api.open-meteo.com/v1/forecast"
    timeout_s: float = 3.0
    """Limit for connecting, and for each response."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SettingsError(
                f"Invalid WEATHER_MODE {self.mode!r}.", "Use live, recorded, or auto.", param="weather_mode"
            )

    @classmethod
    def of(cls, settings: Settings | None) -> WeatherSettings:
        """Returns the weather part of the lab's settings. Raises `SettingsError`."""
        if settings is None:
            return cls()
        return cls(
            mode=settings.weather_mode,
            nominatim_url=settings.weather_nominatim_url,
            geocoding_url=settings.weather_geocoding_url,
            forecast_url=settings.weather_forecast_url,
        )


class Weather:
    """Provides weather reports, live or recorded."""

    def __init__(self, settings: WeatherSettings | None = None) -> None:
        self._settings = settings or WeatherSettings()
        s = self._settings
        self._live = OpenMeteo(s.nominatim_url, s.geocoding_url, s.forecast_url, s.timeout_s)
        self._away_until = 0.0

    async def get(self, location: str, unit: str = "fahrenheit") -> Report:
        """Returns a report. `unit`: `fahrenheit` or `celsius`.

        Raises `UsageError` for an invalid unit or an empty location, `NotFoundError` for an unknown place, `ToolError` if live
        weather was requested and is not available.
        """
        if unit not in ("fahrenheit", "celsius"):
            raise UsageError(f"Unknown unit {unit!r}.", "Use fahrenheit or celsius.", param="unit")
        if not location.strip():
            raise UsageError("The location is empty.", 'Give location, such as "Oakland, CA".', param="location")
        place, forecast, note = await self._forecast(location.strip())
        return report(place, forecast, unit=unit, note=note)

    async def _forecast(self, location: str) -> tuple[Place, Mapping[str, Json], str | None]:
        """Returns place, forecast, and why it is recorded (None if it is live)."""
        if self._settings.mode == "recorded":
            return *_recorded(location, "live weather is switched off (WEATHER_MODE=recorded)"), _SWITCHED_OFF
        if self._settings.mode == "auto" and time.monotonic() < self._away_until:
            return *_recorded(location, "the weather service cannot be reached"), _UNREACHABLE
        try:
            place, forecast = await self._live.forecast(location)
        except UnreachableError:
            if self._settings.mode == "live":
                raise
            self._away_until = time.monotonic() + UNREACHABLE_S
            return *_recorded(location, "the weather service cannot be reached"), _UNREACHABLE
        return place, forecast, None


_SWITCHED_OFF = "Recorded sample, not live."
_UNREACHABLE = "Recorded sample, not live: the weather service cannot be reached."


def _recorded(location: str, because: str) -> tuple[Place, Mapping[str, Json]]:
    entry = recorded(location)
    if entry is None:
        raise NotFoundError(
            f"There is no recorded weather for {location!r}, and {because}.",
            f"Recorded are {', '.join(recorded_places())}; for any other place set WEATHER_MODE=live with a network.",
            param="location",
        )
    return entry


# --- Tool results as ChatKit widgets: JSON trees of the components in `chatkit.widgets` (Card, Col, Row, Icon, Text, …)
#
# A widget is built from a stored result, so a thread shows the same widget when it is loaded again.


@dataclass(frozen=True, slots=True)
class Widget:
    """`root` is the widget's JSON; `copy_text` is the text that its copy button copies."""

    root: Mapping[str, Json]
    copy_text: str


def widget_of(output: str | None) -> Widget | None:
    """Returns the widget for a tool's result; None if the result has none."""
    try:
        answer = json.loads(output or "")
    except ValueError:
        return None
    if not isinstance(answer, dict) or answer.get("kind") != "weather":
        return None
    return Widget(weather_widget(cast(Report, answer)), str(answer["copy_text"]))


def widget_json(output: Json) -> dict[str, Json] | None:
    """Returns `widget_of` a call's output for the views: root and text to copy."""
    widget = widget_of(output) if isinstance(output, str) else None
    return {"root": widget.root, "copy_text": widget.copy_text} if widget else None


def weather_widget(answer: Report) -> dict[str, Json]:
    """Builds the weather card. `answer` is a result of `get_weather`."""
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
        _row(*(_widgets_hour(hour, unit) for hour in answer["hourly"]), justify="between", gap=2),
    ]
    if answer.get("note"):
        badge = {"type": "Badge", "label": "Recorded", "color": "warning", "variant": "soft"}
        children.append(_row(badge, {"type": "Caption", "value": answer["note"]}, gap=2))
    return {"type": "Card", "key": "weather", "size": "md", "children": children}


def _widgets_hour(hour: Hour, unit: str) -> dict[str, Json]:
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
