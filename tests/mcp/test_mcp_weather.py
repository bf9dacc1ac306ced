"""`get_weather`: live over the wire forms of Nominatim and Open-Meteo, recorded without a network."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from tests.mcp.weather_service import WeatherService
from timestep_lab.model.errors import NotFoundError, SettingsError, ToolError, UsageError
from timestep_lab.runtime.tools.weather import Weather, WeatherSettings, recorded_places, widget_of

RECORDED = Weather(WeatherSettings(mode="recorded"))


def live(service: WeatherService, mode: Any = "live") -> Weather:
    return Weather(WeatherSettings.of(service.settings(mode)))


async def test_live_weather_says_where_it_is_how_it_is_and_how_the_next_six_hours_will_be(
    weather_service: WeatherService,
) -> None:
    answer = await live(weather_service).get("Oslo")
    assert (answer["source"], answer["note"], answer["location"]) == ("live", None, "Oslo, Norway")
    assert answer["unit"] == "fahrenheit"
    assert answer["current"] == {
        "temperature": 50, "feels_like": 47, "condition": "Partly cloudy", "icon": "cloud-moon", "humidity": 81, "wind": 10,
    }  # fmt: skip
    assert [hour["time"][8:] for hour in answer["hourly"]] == [
        "14T22:00", "14T23:00", "15T00:00", "15T01:00", "15T02:00", "15T03:00",
    ]  # fmt: skip
    assert [hour["condition"] for hour in answer["hourly"]] == ["Clear sky"] * 2 + ["Light rain"] * 4
    assert [hour["rain"] for hour in answer["hourly"]] == [22, 23, 24, 25, 26, 27]
    assert "10 PM 52°F" in answer["copy_text"]


async def test_celsius_is_given_when_asked_for(weather_service: WeatherService) -> None:
    answer = await live(weather_service).get("Oslo", "celsius")
    assert (answer["current"]["temperature"], answer["current"]["wind"]) == (10, 16)
    assert "22:00 11°C" in answer["copy_text"]


async def test_open_meteo_finds_the_place_that_nominatim_does_not_know(weather_service: WeatherService) -> None:
    answer = await live(weather_service).get("Bergen")
    assert answer["location"] == "Bergen, Vestland, Norway"
    assert weather_service.paths() == ["/nominatim", "/geocoding", "/forecast"]
    assert weather_service.requests[2][1]["latitude"] == "60.39299"


async def test_open_meteo_finds_the_place_when_nominatim_is_down(weather_service: WeatherService) -> None:
    weather_service.status["/nominatim"] = 503
    assert (await live(weather_service).get("Bergen"))["source"] == "live"


async def test_a_place_is_looked_up_once(weather_service: WeatherService) -> None:
    weather = live(weather_service)
    await weather.get("Oslo")
    await weather.get("oslo ")
    assert weather_service.paths() == ["/nominatim", "/forecast", "/forecast"]


async def test_an_unknown_place_is_refused_with_what_to_do(weather_service: WeatherService) -> None:
    for mode in ("live", "auto"):
        with pytest.raises(NotFoundError, match=r"No place named 'Atlantis' was found\. Write it as .city, country."):
            await live(weather_service, mode).get("Atlantis")


async def test_auto_gives_recorded_weather_when_no_service_answers_and_says_so(weather_service: WeatherService) -> None:
    weather_service.status = {"/nominatim": 503, "/geocoding": 503}
    weather = live(weather_service, "auto")
    answer = await weather.get("Berkeley")
    assert answer["source"] == "recorded"
    assert answer["note"] == "Recorded sample, not live: the weather service cannot be reached."
    assert answer["copy_text"].endswith(answer["note"])
    asked = len(weather_service.requests)
    await weather.get("London")
    assert len(weather_service.requests) == asked  # for a while nobody waits for it again


async def test_live_fails_rather_than_give_recorded_weather(weather_service: WeatherService) -> None:
    weather_service.status = {"/nominatim": 503, "/geocoding": 503}
    with pytest.raises(ToolError, match="HTTP 503"):
        await live(weather_service).get("Berkeley")


async def test_a_refusal_is_told_with_its_reason(weather_service: WeatherService) -> None:
    weather_service.status = {"/forecast": 400}
    with pytest.raises(ToolError, match=r"rejected the request \(HTTP 400\): no"):
        await live(weather_service).get("Oslo")


async def test_recorded_weather_asks_nobody_and_never_pretends_to_be_live() -> None:
    for place in recorded_places():
        answer = await RECORDED.get(place)
        assert (answer["source"], answer["note"]) == ("recorded", "Recorded sample, not live.")
        assert len(answer["hourly"]) == 6
    assert len(recorded_places()) >= 12


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("berkeley, ca", "Berkeley, California, United States"),
        ("Oakland California USA", "Oakland, California, United States"),
        ("sf", "San Francisco, California, United States"),
        ("Sao Paulo", "São Paulo, Brazil"),
        ("New York", "New York, United States"),
        ("LONDON, UK", "London, England, United Kingdom"),
    ],
)
async def test_people_write_places_in_many_ways(asked: str, found: str) -> None:
    assert (await RECORDED.get(asked))["location"] == found


@pytest.mark.parametrize("elsewhere", ["Paris, Texas", "London, Ontario", "Berkeley Springs", "Pari"])
async def test_another_place_of_the_same_name_is_not_given_its_weather(elsewhere: str) -> None:
    with pytest.raises(NotFoundError, match=r"no recorded weather for .* Recorded are Berkeley, London"):
        await RECORDED.get(elsewhere)


async def test_a_wrong_unit_no_place_and_a_wrong_mode_are_refused() -> None:
    with pytest.raises(UsageError, match="Use fahrenheit or celsius"):
        await RECORDED.get("Oslo", "kelvin")
    with pytest.raises(UsageError, match="The location is empty"):
        await RECORDED.get("  ")
    with pytest.raises(SettingsError, match="Use live, recorded, or auto"):
        WeatherSettings(mode="sometimes")  # type: ignore[arg-type]


async def test_a_stored_result_becomes_a_card_that_chatkit_takes() -> None:
    answer = await RECORDED.get("Oslo", "celsius")
    widget = widget_of(json.dumps(answer))
    assert widget is not None
    assert widget.copy_text == answer["copy_text"]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # ChatKit wants templates; the components are what they make
        from chatkit.widgets import Card

        card = Card.model_validate(widget.root)
    assert json.loads(card.model_dump_json(exclude_none=True)) == json.loads(json.dumps(widget.root))
    assert "Recorded" in json.dumps(widget.root)
    assert json.dumps(widget.root).count("lucide:") == 7


@pytest.mark.parametrize("output", [None, "", "plain text", "[1]", '{"error": "no"}', '{"kind": "other"}'])
def test_other_results_have_no_card(output: str | None) -> None:
    assert widget_of(output) is None
