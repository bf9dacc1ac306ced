"""Nominatim and Open-Meteo on loopback, in their own wire forms."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from timestep_lab.runtime.settings import Settings

FORECAST = {
    "latitude": 59.91, "longitude": 10.75, "generationtime_ms": 0.1, "utc_offset_seconds": 7200,
    "timezone": "Europe/Oslo", "timezone_abbreviation": "GMT+2", "elevation": 12.0,
    "current_units": {"time": "iso8601", "interval": "seconds", "temperature_2m": "°C", "weather_code": "wmo code"},
    "current": {
        "time": "2026-10-14T21:45", "interval": 900, "temperature_2m": 10.0, "apparent_temperature": 8.2,
        "relative_humidity_2m": 81, "precipitation": 0.0, "wind_speed_10m": 16.1, "weather_code": 2, "is_day": 0,
    },
    "hourly_units": {"time": "iso8601", "temperature_2m": "°C"},
    "hourly": {
        "time": [f"2026-10-{14 + hour // 24}T{hour % 24:02d}:00" for hour in range(48)],
        "temperature_2m": [hour / 2 for hour in range(48)],
        "precipitation_probability": list(range(48)),
        "weather_code": [0] * 24 + [61] * 24,
        "is_day": [0] * 7 + [1] * 11 + [0] * 13 + [1] * 11 + [0] * 6,
    },
}  # fmt: skip


class WeatherService:
    """Knows Oslo by Nominatim and Bergen by Open-Meteo's geocoder. `.requests` is what was asked: (path, query)."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.status: dict[str, int] = {}
        """Path to an HTTP status to answer with instead."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                service.requests.append((parts.path, query))
                status = service.status.get(parts.path, 200)
                body = json.dumps(
                    service.answer(parts.path, query) if status == 200 else {"error": True, "reason": "no"}
                )
                self.send_response(status)
                self.send_header("content-type", "application/json; charset=utf-8")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def settings(self, mode: Any = "live") -> Settings:
        return Settings(
            weather_mode=mode,
            weather_nominatim_url=f"{self.url}/nominatim",
            weather_geocoding_url=f"{self.url}/geocoding",
            weather_forecast_url=f"{self.url}/forecast",
        )

    def answer(self, path: str, query: dict[str, str]) -> Any:
        if path == "/nominatim":
            return [OSLO] if "oslo" in query["q"].lower() else []
        if path == "/geocoding":
            # Open-Meteo leaves `results` out when it has found nothing.
            return (
                {"results": [BERGEN], "generationtime_ms": 0.4}
                if query["name"] == "Bergen"
                else {"generationtime_ms": 0.2}
            )
        return FORECAST

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def __enter__(self) -> WeatherService:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


OSLO = {
    "place_id": 1, "licence": "Data © OpenStreetMap contributors, ODbL 1.0.", "osm_type": "relation", "osm_id": 406091,
    "lat": "59.9133301", "lon": "10.7389701", "category": "boundary", "type": "administrative", "place_rank": 8,
    "importance": 0.7, "addresstype": "city", "name": "Oslo", "display_name": "Oslo, Norway",
    "address": {"city": "Oslo", "country": "Norway", "country_code": "no"},
    "boundingbox": ["59.8", "60.1", "10.4", "10.9"],
}  # fmt: skip
BERGEN = {
    "id": 3161732, "name": "Bergen", "latitude": 60.39299, "longitude": 5.32415, "elevation": 20.0, "feature_code": "PPLA",
    "country_code": "NO", "timezone": "Europe/Oslo", "population": 213585, "country": "Norway", "admin1": "Vestland",
}  # fmt: skip
