"""Weather without a network: a few places under `data/weather/`, one file each, in the wire form of Open-Meteo's two services.

The figures are made up to be plausible, not measured; whoever shows them must say that they are recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from timestep_lab.resources import data_path
from timestep_lab.runtime.tools.places import Place, words_of


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
