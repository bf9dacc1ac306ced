"""Closeness in meaning, by embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers.base import (
    Answer,
    Score,
    Tools,
    ValueScorer,
    acceptable,
    in_scorer_thread,
    passed,
    scorer,
)
from timestep_lab.model.errors import MissingExtraError


@scorer("similarity")
@dataclass(frozen=True, kw_only=True)
class Similarity(ValueScorer):
    """Cosine of answer and expected text, 0 at worst; with `at_least`, whether it is that high. With several expected texts, the closest."""

    at_least: float | None = None

    def check(self, answer: Answer, case: Case) -> Score:
        return self._score(answer, case, default_embedding)

    async def score(self, answer: Answer, case: Case, tools: Tools) -> Score:
        return await in_scorer_thread(self._score, answer, case, tools.embed or default_embedding)

    def _score(self, answer: Answer, case: Case, embed: Any) -> Score:
        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        if not answer.output.strip():
            return passed(False, "the answer is empty")
        vectors = embed([answer.output, *wanted])
        best = max(0.0, *(min(1.0, float(vectors[0] @ other)) for other in vectors[1:]))
        return Score(best) if self.at_least is None else passed(best >= self.at_least, f"cosine {best:.2f}")


def default_embedding(texts: Sequence[str]) -> Any:
    """Unit vectors of a small static embedding model that comes with the package `wordllama`: no network, no key."""
    return _model().embed(list(texts), norm=True)


@cache
def _model() -> Any:
    try:
        import wordllama  # type: ignore[import-untyped]
        from wordllama import WordLlama
    except ImportError as error:
        raise MissingExtraError("Similarity by embedding", "files") from error
    # It looks for its tokenizer in another folder than it ships it in, unless told that its own folder is the cache.
    return WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
