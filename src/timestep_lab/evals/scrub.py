"""Take out of a text what would tell a voter who wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

MASK = "▮▮▮"

_MAKERS = (
    r"open\s?ai|anthropic|google\s+deepmind|deepmind|meta\s+ai|mistral\s*ai|mistral|alibaba(?:\s+cloud)?|deepseek|moonshot(?:\s+ai)?|zhipu|"
    r"cohere|x\.?ai|microsoft|nvidia|hugging\s?face|hugging\s?face\s?tb|ollama|openrouter|perplexity"
)
_VERSION = r"(?:[-:\s]?v?\d[\w.:-]*)?"
_FAMILIES = (
    rf"chat\s?gpt{_VERSION}|gpt(?:-?oss)?{_VERSION}|o[134](?:-mini|-pro)?|(?:claude[-\s])?(?:opus|sonnet|haiku){_VERSION}|claude{_VERSION}|"
    rf"gemini(?:[-\s](?:pro|flash|ultra|nano))?{_VERSION}|gemma{_VERSION}|(?:code\s?)?llama{_VERSION}|mixtral{_VERSION}|ministral{_VERSION}|"
    rf"qwen{_VERSION}|qwq{_VERSION}|deepseek(?:-[\w.:-]+)?|kimi(?:[-\s]k\d[\w.:-]*)?|grok{_VERSION}|phi-\d[\w.:-]*|command[-\s]r\+?|"
    rf"glm-?\d[\w.:-]*|smollm{_VERSION}|nova[-\s](?:pro|lite|micro|premier)|titan[-\s]text|falcon[-\s]?\d[\w.:-]*|granite[-\s]?\d[\w.:-]*|copilot"
)
_WORDS = re.compile(rf"(?<![\w])(?:{_MAKERS}|{_FAMILIES})(?![\w])", re.IGNORECASE)
_PRICES = re.compile(
    r"[$€£]\s?\d[\d.,]*\s*(?:/|per)\s*(?:1?[mk]\b|million|thousand|1,?000(?:,000)?)?\s*(?:input\s|output\s)?tok(?:en)?s?",
    re.IGNORECASE,
)
_DEMO = re.compile(r"demo/\w+|\(?no language model\)?:?", re.IGNORECASE)
_LEAST_LETTERS = 3
"""Shorter parts of a candidate's name ("a", "v2") would take half the text with them."""


class Scrubber:
    """Knows the candidates of a comparison: their names, and the parts of their models' names, go as well."""

    def __init__(self, names: Iterable[str]) -> None:
        parts: set[str] = set()
        for name in names:
            parts.add(name)
            parts.update(re.split(r"[/:·,\s@]+", name))
        words = sorted((p for p in parts if len(p) >= _LEAST_LETTERS and not p.isdigit()), key=len, reverse=True)
        self._names = (
            re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words), re.IGNORECASE) if words else None
        )

    def text(self, text: str) -> str:
        """Every trace of a name becomes the same mark, whoever's name it was."""
        for pattern in (self._names, _DEMO, _PRICES, _WORDS):
            if pattern is not None:
                text = pattern.sub(MASK, text)
        return re.sub(rf"{MASK}(?:[\s,:;/·-]*{MASK})+", MASK, text)

    def value(self, value: Any) -> Any:
        """The same for every text inside lists and objects, keys kept."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.value(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(inner) for inner in value]
        return value
