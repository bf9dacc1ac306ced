"""The few words that `demo/assistant` knows. Plain patterns, so that anyone can say beforehand what it will do.

English only. A place is what follows `in`, `at`, `for`, `near` or `of` (several: joined by commas or `and`), up to the end of
the clause or a word of time; without such a word, a run of capitalised words that are none of the sentence's own.
"""

from __future__ import annotations

import re

_WEATHER = re.compile(
    r"\b(weather|forecast|temperatures?|umbrellas?|rain(?:ing|y|s)?|snow(?:ing|y|s)?|sunny|cloudy|windy?|foggy|"
    r"humid(?:ity)?|degrees|celsius|fahrenheit|raincoat|jacket)\b",
    re.IGNORECASE,
)
_THEME = re.compile(r"\b(theme|(?:dark|light) mode)\b", re.IGNORECASE)
_BEFORE_PLACE = re.compile(r"\b(?:in|at|for|near|of|to)\s+", re.IGNORECASE)
_END_OF_PLACE = re.compile(
    r"[?!;:.]|\b(?:today|tomorrow|tonight|now|right|this|next|please|currently|with|is|are|will|be|on|using|or|but|"
    r"should|do|does|what|what's|i|and (?:is|are|will|should|do|what|what's|how|tell|which|compare|then|also|think|if)|in)\b",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r"\s*,\s*(?:and\s+)?|\s+(?:and|&|vs\.?|versus)\s+", re.IGNORECASE)
_REGION = re.compile(r"^(?:[A-Z]{2}|USA|UK)$")
_NOT_A_PLACE = frozenset(
    [
        "the",
        "a",
        "an",
        "my",
        "today",
        "tomorrow",
        "tonight",
        "now",
        "celsius",
        "fahrenheit",
        "degrees",
        "general",
        "it",
        "me",
        "you",
        "us",
        "c",
        "f",
        "weather",
        "forecast",
        "temperature",
        "there",
        "here",
        "morning",
        "afternoon",
        "evening",
        "week",
        "weekend",
    ]
)
_CAPITALISED = re.compile(r"\b[A-ZÀ-Þ][\w'’-]*(?:\s+[A-ZÀ-Þ][\w'’-]*)*")
_OPENERS = frozenset(
    [
        "What",
        "What's",
        "Whats",
        "How",
        "How's",
        "Is",
        "Will",
        "Do",
        "Does",
        "Should",
        "Can",
        "Could",
        "Please",
        "Tell",
        "Show",
        "Give",
        "Get",
        "Check",
        "Compare",
        "Weather",
        "Forecast",
        "Temperature",
        "Umbrella",
        "Rain",
        "Snow",
        "And",
        "Or",
        "I",
        "I'm",
        "Which",
        "Who",
        "Celsius",
        "Fahrenheit",
        "Use",
        "Think",
        "Hello",
        "Hi",
        "Hey",
    ]
)


def about_weather(text: str) -> bool:
    return _WEATHER.search(text) is not None


def about_theme(text: str) -> bool:
    return _THEME.search(text) is not None


def theme_in(text: str) -> str | None:
    """`dark` or `light`, None when the text names neither or both."""
    named = {word.lower() for word in re.findall(r"\b(dark|light)\b", text, re.IGNORECASE)}
    return named.pop() if len(named) == 1 else None


def unit_in(text: str) -> str | None:
    found = re.search(r"\b(celsius|fahrenheit)\b", text, re.IGNORECASE)
    return found.group(1).lower() if found else None


def places_in(text: str) -> list[str]:
    """In the order named, each once. Empty when the text names none."""
    places: list[str] = []
    for start in _BEFORE_PLACE.finditer(text):
        rest = text[start.end() :]
        end = _END_OF_PLACE.search(rest)
        places += _split(rest[: end.start()] if end else rest)
    if not places:
        for run in _CAPITALISED.findall(text):
            words = run.split()
            while words and words[0] in _OPENERS:
                words.pop(0)
            places += _split(" ".join(words))
    return list(dict.fromkeys(places))


def _split(clause: str) -> list[str]:
    found: list[str] = []
    for piece in _SEPARATOR.split(f"{clause.strip()} "):
        name = re.sub(r"^(?:the|both)\s+", "", piece.strip(" '\"“”"), flags=re.IGNORECASE)
        if found and _REGION.match(name):
            found[-1] = f"{found[-1]}, {name}"
        elif name and name.lower() not in _NOT_A_PLACE and name.split()[0].lower() not in _NOT_A_PLACE:
            found.append(name)
    return found
