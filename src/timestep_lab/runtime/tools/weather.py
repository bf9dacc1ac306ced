"""`get_weather`: the weather at a place now and over the next six hours, live from Open-Meteo or recorded."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from timestep_lab.model.errors import NotFoundError, SettingsError, UsageError
from timestep_lab.resources import data_path
from timestep_lab.runtime.tools.open_meteo import OpenMeteo, UnreachableError
from timestep_lab.runtime.tools.places import Place, words_of
from timestep_lab.runtime.tools.weather_report import OUTPUT_SCHEMA, report

if TYPE_CHECKING:
    from timestep_lab.runtime.settings import Settings


# -- Weather without a network: a few places under `data/weather/`, one file each, in the wire form of Open-Meteo's two services


def recorded(location: str) -> tuple[Place, Mapping[str, Any]] | None:
    """The place and its forecast response; None when there is no recording for it.

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
INPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "location": {"type": "string", "description": 'City, with state or country where needed: "Oakland, CA".'},
        "unit": {"type": "string", "enum": ["fahrenheit", "celsius"], "default": "fahrenheit"},
    },
    "required": ["location"],
    "additionalProperties": False,
}

UNREACHABLE_S = 120.0
"""In `auto`, how long the network counts as away after it did not answer, so that not every call waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeatherSettings:
    """`auto` is live, and recorded when the network does not answer."""

    mode: Mode = "auto"
    nominatim_url: str = "https://nominatim.openstreetmap.org/search"
    geocoding_url: str = "https://geocoding-api.open-meteo.com/v1/search"
    forecast_url: str = "https://api.open-meteo.com/v1/forecast"
    timeout_s: float = 3.0
    """Longest wait for a connection, and for an answer."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SettingsError(f"WEATHER_MODE is {self.mode!r}.", "Use live, recorded, or auto.", param="weather_mode")

    @classmethod
    def of(cls, settings: Settings | None) -> WeatherSettings:
        """The weather part of the lab's settings. Raises `SettingsError`."""
        if settings is None:
            return cls()
        return cls(
            mode=settings.weather_mode,
            nominatim_url=settings.weather_nominatim_url,
            geocoding_url=settings.weather_geocoding_url,
            forecast_url=settings.weather_forecast_url,
        )


class Weather:
    """Where weather comes from."""

    def __init__(self, settings: WeatherSettings | None = None) -> None:
        self._settings = settings or WeatherSettings()
        s = self._settings
        self._live = OpenMeteo(s.nominatim_url, s.geocoding_url, s.forecast_url, s.timeout_s)
        self._away_until = 0.0

    async def get(self, location: str, unit: str = "fahrenheit") -> dict[str, Any]:
        """A report as `weather_report.report` makes it. `unit`: `fahrenheit` or `celsius`.

        Raises `UsageError` for another unit or no place, `NotFoundError` for a place that is not known, `ToolError` when live
        weather was asked for and cannot be had.
        """
        if unit not in ("fahrenheit", "celsius"):
            raise UsageError(f"There is no unit {unit!r}.", "Use fahrenheit or celsius.", param="unit")
        if not location.strip():
            raise UsageError("No place was given.", 'Give location, such as "Oakland, CA".', param="location")
        place, forecast, note = await self._forecast(location.strip())
        return report(place, forecast, unit=unit, note=note)

    async def _forecast(self, location: str) -> tuple[Place, Mapping[str, Any], str | None]:
        """Place, forecast, and why it is recorded (None: it is live)."""
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


def _recorded(location: str, because: str) -> tuple[Place, Mapping[str, Any]]:
    found = recorded(location)
    if found is None:
        raise NotFoundError(
            f"There is no recorded weather for {location!r}, and {because}.",
            f"Recorded are {', '.join(recorded_places())}; for any other place set WEATHER_MODE=live with a network.",
            param="location",
        )
    return found
