"""Weather codes: WMO code table 4677 in the part that Open-Meteo uses, https://open-meteo.com/en/docs (WMO weather interpretation codes)."""

from __future__ import annotations

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
