"""Live weather: Nominatim (or, where it knows nothing, Open-Meteo's own geocoder) for the place, Open-Meteo for the forecast.

Neither wants a key. They are asked only when a tool is called, with the place that was asked for and nothing else.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from timestep_lab.model.errors import NotFoundError, ToolError
from timestep_lab.runtime.tools.places import Place, words_of

CURRENT = "temperature_2m,apparent_temperature,relative_humidity_2m,precipitation,wind_speed_10m,weather_code,is_day"
HOURLY = "temperature_2m,precipitation_probability,weather_code,is_day"
_AGENT = "timestep-lab/0.1 (weather tool; +https://pypi.org/project/timestep-lab/)"
_NOMINATIM_PAUSE_S = 1.0
"""The public Nominatim takes one request a second, https://operations.osmfoundation.org/policies/nominatim/"""


class UnreachableError(ToolError):
    """No answer from the network, in contrast to an answer that says no."""


class OpenMeteo:
    """`timeout_s` bounds each connection attempt and each wait for an answer."""

    def __init__(self, nominatim_url: str, geocoding_url: str, forecast_url: str, timeout_s: float) -> None:
        self._nominatim_url, self._geocoding_url, self._forecast_url = nominatim_url, geocoding_url, forecast_url
        self._timeout_s = timeout_s
        self._places: dict[tuple[str, ...], Place] = {}
        self._next_nominatim = 0.0

    async def forecast(self, location: str) -> tuple[Place, Mapping[str, Any]]:
        """The place and Open-Meteo's response: degrees Celsius, km/h, local times, today and tomorrow.

        Raises `NotFoundError` for a place that neither geocoder knows, `UnreachableError` when there is no answer, `ToolError`
        for an answer that cannot be used.
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
                raise ToolError(f"{_host(self._forecast_url)} answered without a forecast.", "Try again later.")
            return place, answer

    async def _find(self, http: httpx.AsyncClient, location: str) -> Place:
        found: Any = None
        try:
            await self._wait_for_turn()
            query = {"q": location, "format": "jsonv2", "addressdetails": "1", "limit": "1", "accept-language": "en"}
            found = await _get(http, self._nominatim_url, query)
        except ToolError:
            pass  # the second geocoder decides; when it fails too, its error is the one to tell
        if found:
            return Place.from_nominatim(found[0])
        query = {"name": location, "count": "1", "language": "en", "format": "json"}
        answer = await _get(http, self._geocoding_url, query)
        if not answer.get("results"):
            raise NotFoundError(
                f"There is no place {location!r} on the map.", 'Write it as "city, country", and check the spelling.'
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
        raise ToolError(f"{_host(url)} says there were too many requests.", "Wait a minute and try again.")
    if response.status_code >= 500:
        raise UnreachableError(f"{_host(url)} answered HTTP {response.status_code}.", "Try again later.")
    if response.status_code >= 400:
        raise ToolError(f"{_host(url)} refused the request (HTTP {response.status_code}): {_reason(response)}.")
    try:
        return response.json()
    except ValueError:
        raise ToolError(f"{_host(url)} answered with something that is not JSON.", "Check its URL.") from None


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
    # Reading the certificates takes tens of milliseconds; a client a call shares them.
    return httpx.create_ssl_context()
