"""Take out of a text what would tell a voter who wrote it, and nothing else: a voter judges the words that are left.

Three kinds of names. What is nobody's ordinary word goes wherever it stands: `ChatGPT`, `gpt-4.1`, the whole name of a model or
an agent. What is also a person, an animal or a company (`Claude`, `llama`, `Microsoft`), and a name of one plain word (an agent called
`Weather`), goes only where somebody says who they are: "I am …", "trained by …", "… here". The rest stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

MASK = "▮▮▮"

_NUMBER = r"[-:\s]?v?\d[\w.:-]*"
_VERSION = rf"(?:{_NUMBER})?"
_ALWAYS = re.compile(
    r"(?<!\w)(?:"
    # Makers that are nothing else.
    r"open\s?ai|anthropic|google\s+deepmind|deepmind|meta\s+ai|mistral\s*ai|alibaba\s+cloud|deepseek(?:-[\w.:-]+)?|moonshot\s+ai|x\.ai|xai|"
    r"hugging\s?face(?:\s?tb)?|ollama|openrouter|"
    # Families that are nothing else, and the others with the number or the size that makes them one.
    rf"chat\s?gpt{_VERSION}|gpt(?:-?oss)?{_VERSION}|o[134](?:-mini|-pro)?|mixtral{_VERSION}|ministral{_VERSION}|qwen{_VERSION}|qwq{_VERSION}|"
    rf"smollm{_VERSION}|claude[-\s](?:opus|sonnet|haiku|instant){_VERSION}|(?:claude|opus|sonnet|haiku){_NUMBER}|"
    rf"gemini[-\s](?:pro|flash|ultra|nano){_VERSION}|(?:gemini|gemma|grok|mistral|phi|glm|falcon|granite){_NUMBER}|code\s?llama{_VERSION}|llama{_NUMBER}|"
    r"kimi[-\s]k\d[\w.:-]*|command[-\s]r\+?|nova[-\s](?:pro|lite|micro|premier)|titan[-\s]text"
    r")(?!\w)",
    re.IGNORECASE,
)
_AMONG_WORDS = (
    "claude", "gemini", "gemma", "llama", "mistral", "grok", "copilot", "kimi", "perplexity", "cohere", "google", "microsoft", "meta",
    "nvidia", "alibaba", "zhipu", "moonshot", "amazon", "ibm", "apple", "falcon", "granite", "phi", "nova", "opus", "sonnet", "haiku",
)  # fmt: skip
_WHO = (
    r"\b(?:i\s+am|i['’]m|my\s+name\s+is|my\s+name['’]s|call\s+me|called|named|known\s+as|"
    r"(?:made|created|built|developed|trained|provided|powered|designed|released)\s+(?:and\s+\w+\s+)?by)\s+"
)
_PRICES = re.compile(
    r"[$€£]\s?\d[\d.,]*\s*(?:/|per)\s*(?:1?[mk]\b|million|thousand|1,?000(?:,000)?)?\s*(?:input\s|output\s)?tok(?:en)?s?",
    re.IGNORECASE,
)
_DEMO = re.compile(r"demo/\w+|(?:\becho\s+)?\(?no language model\)?:?", re.IGNORECASE)
_LEAST_LETTERS = 3
"""A shorter name ("a", "v2") would take half the text with it."""
_NO_NAME = re.compile(r"prompt \d+|default (?:model|settings)|.*=.*", re.DOTALL)
_ODD = re.compile(r"[-_.\d]|[a-z][A-Z]")
"""What no ordinary word has."""


class Scrubber:
    """`names`: of candidates, agents and models, whole as they are shown (`Scout · openai/gpt-4.1 · temperature=0`)."""

    def __init__(self, names: Iterable[str]) -> None:
        self._whole: set[str] = set()
        anywhere: set[str] = set()
        plain: set[str] = set(_AMONG_WORDS)
        for name in names:
            self._whole.add(name.casefold())
            for word, is_ordinary in _parts(name):
                (plain if is_ordinary else anywhere).add(word)
        anywhere_words, plain_words = _either(anywhere), _either(plain)
        self._names = re.compile(rf"(?<!\w)(?:{anywhere_words})(?!\w)", re.IGNORECASE) if anywhere else None
        self._who = re.compile(
            rf"({_WHO})(?:{plain_words})(?!\w)|(?<!\w)(?:{plain_words})(?=\s+here\b)|(?<=\bas\s)(?:{plain_words})(?=,|\s+i\b)",
            re.IGNORECASE,
        )

    def text(self, text: str) -> str:
        """Every trace of a name becomes the same mark, whoever's name it was."""
        for pattern in (self._names, _DEMO, _PRICES, _ALWAYS):
            if pattern is not None:
                text = pattern.sub(MASK, text)
        text = self._who.sub(lambda found: f"{found[1] or ''}{MASK}", text)
        return re.sub(rf"{MASK}(?:[\s,:;/·-]*{MASK})+", MASK, text)

    def value(self, value: Any) -> Any:
        """The same for every text inside lists and objects, keys kept. A text that is a name and nothing else goes whatever it is."""
        if isinstance(value, str):
            return MASK if value.casefold() in self._whole else self.text(value)
        if isinstance(value, dict):
            return {key: self.value(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(inner) for inner in value]
        return value


def _parts(name: str) -> Iterator[tuple[str, bool]]:
    """The names in a candidate's name, and whether each is an ordinary word that a text may hold for its own sake."""
    for part in name.split(" · "):
        if _NO_NAME.fullmatch(part):
            continue
        for word in {part, *(re.split(r"[/:@]", part) if "/" in part else ())}:
            if len(word) >= _LEAST_LETTERS and not word.isdigit():
                yield word, not _ODD.search(word) and " " not in word and "/" not in word


def _either(words: Iterable[str]) -> str:
    """An alternative of each, the longest first, its parts joined by whatever a writer joins them with."""
    ordered = sorted(words, key=lambda word: (-len(word), word))
    return "|".join(r"[-_\s]*".join(map(re.escape, re.split(r"[-_\s]+", word))) for word in ordered)
