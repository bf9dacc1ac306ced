"""A place on the map as a geocoder names it, and how a person's words for one are compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
        """One of `results` of https://open-meteo.com/en/docs/geocoding-api."""
        parts = [result["name"], result.get("admin1"), result.get("country")]
        named = [part for n, part in enumerate(parts) if part and part not in parts[:n]]
        return cls(name=", ".join(named), latitude=float(result["latitude"]), longitude=float(result["longitude"]))

    @classmethod
    def from_nominatim(cls, result: Mapping[str, Any]) -> Place:
        """One entry of https://nominatim.org/release-docs/latest/api/Output/ (jsonv2, with addressdetails)."""
        address = result.get("address") or {}
        name = result.get("name") or str(result["display_name"]).split(",", 1)[0]
        parts = [name, address.get("state"), address.get("country")]
        named = [part for n, part in enumerate(parts) if part and part not in parts[:n]]
        return cls(name=", ".join(named), latitude=float(result["lat"]), longitude=float(result["lon"]))


def words_of(text: str) -> list[str]:
    """Lower-case words without accents and punctuation: `São Paulo, BR` → `["sao", "paulo", "br"]`."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return re.findall(r"[a-z0-9]+", "".join(letter for letter in plain if not unicodedata.combining(letter)))
