"""Classification scorers: single labels and label sets; and combined assertions."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers.base import (
    Answer,
    Score,
    Scorer,
    Tools,
    ValueScorer,
    acceptable,
    passed,
    scorer,
    unknown,
)
from timestep_lab.evals.scorers.structured import parse_json
from timestep_lab.evals.scorers.text import fold
from timestep_lab.model.errors import UsageError

# --- Several assertions combined into one


@scorer("assert_set")
@dataclass(frozen=True, kw_only=True)
class AssertSet(Scorer):
    """The weighted mean of several scorers. Passes if all of them pass, or with `pass_at`, if the mean reaches it."""

    assertions: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if not self._made():
            raise UsageError("The scorer assert_set needs assertions.", 'Use [{"type": "contains", …}, …].')

    def _made(self) -> list[Scorer]:
        from timestep_lab.evals.scorers.registry import make_scorer

        return [make_scorer(spec) for spec in self.assertions]

    @property
    def judges(self) -> Sequence[Scorer]:
        return [judge for inner in self._made() for judge in inner.judges]

    def check(self, answer: Answer, case: Case) -> Score:
        return asyncio.run(self.score(answer, case, Tools()))

    async def score(self, answer: Answer, case: Case, tools: Tools) -> Score:
        from timestep_lab.evals.scorers.registry import score_with_parts, together

        scored = [await score_with_parts(inner, answer, case, tools) for inner in self._made()]
        results = [(score, passes) for score, passes, _ in scored]
        mean, passes, note = together(results, self.pass_at)
        parts = [part for score, _, inner in scored for part in (score, *inner)]
        judged = [score.cached for score, _ in results if score.source == "judge"]
        return Score(mean, note, cached=bool(judged) and all(judged), passes=passes, parts=tuple(parts))


NO_LABEL = "(none)"
"""The label of an answer that contains none of the labels."""


@scorer("label")
@dataclass(frozen=True, kw_only=True)
class Label(Scorer):
    """The answer gives the expected label (`label:bug,question,praise`) and no other. The label is stored, so that
    `grid.labels()` can compute precision, recall and F1. If an answer contains several labels, the last one counts."""

    main: ClassVar[str | None] = "labels"
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        given = self.labels.split(",") if isinstance(self.labels, str) else self.labels
        object.__setattr__(self, "labels", tuple(str(label).strip() for label in given if str(label).strip()))
        if len(self.labels) < 2:
            raise UsageError("The scorer label needs a list of labels.", "For example: label:bug,question,praise")

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = acceptable(None, case)
        if isinstance(wanted, Score):
            return wanted
        known = {fold(label, False): label for label in self.labels}
        right = [known.get(fold(one.strip(), False)) for one in wanted]
        if None in right:
            return unknown(f"the expected answer {wanted[0]!r} is none of {', '.join(self.labels)}")
        chosen = self._said(answer.output)
        return Score(float(chosen in right), None if chosen in right else f"it says {chosen}", chosen)

    def _said(self, text: str) -> str:
        folded = fold(text, False)
        bare = folded.strip().strip("*_`\"'.,:;!")
        for label in self.labels:
            if bare == fold(label, False):
                return label
        # Longer labels first if one is a prefix of another: "not spam" before "spam".
        pattern = "|".join(re.escape(fold(label, False)) for label in sorted(self.labels, key=len, reverse=True))
        matches = re.findall(rf"(?<!\w)(?:{pattern})(?!\w)", folded)
        return next((label for label in self.labels if matches and fold(label, False) == matches[-1]), NO_LABEL)


@scorer("label_set")
@dataclass(frozen=True, kw_only=True)
class LabelSet(ValueScorer):
    """The quality of a set of labels: F1 (or `measure`: precision or recall) of the labels in the answer (a JSON list,
    or separated by commas or newlines) against the expected list."""

    main: ClassVar[str | None] = "measure"
    measure: Literal["f1", "precision", "recall"] = "f1"

    def __post_init__(self) -> None:
        if self.measure not in ("f1", "precision", "recall"):
            raise UsageError(f"Unknown measure {self.measure!r}.", "Use f1, precision or recall.")

    def check(self, answer: Answer, case: Case) -> Score:
        given = case.expected if self.value is None else self.value
        if given is None:
            return unknown("the case has no expected labels")
        wanted, predicted = _labels(given), _labels(_listed(answer.output))
        right = len(wanted & predicted)
        if not wanted and not predicted:
            return passed(True, "no label, as expected")
        precision = right / len(predicted) if predicted else 0.0
        recall = right / len(wanted) if wanted else 0.0
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        missing, extra = sorted(wanted - predicted), sorted(predicted - wanted)
        notes = [f"missing: {', '.join(missing)}"] if missing else []
        notes += [f"too many: {', '.join(extra)}"] if extra else []
        return Score({"f1": f1, "precision": precision, "recall": recall}[self.measure], "; ".join(notes) or None)


def _listed(text: str) -> object:
    try:
        value = parse_json(text)
    except ValueError:
        return [part.strip().lstrip("-*• ") for part in re.split(r"[,;\n]", text)]
    return value if isinstance(value, list) else [value]


def _labels(value: object) -> set[str]:
    if isinstance(value, str):
        value = _listed(value)
    texts = [one if isinstance(one, str) else json.dumps(one) for one in (value if isinstance(value, list) else [value])]  # fmt: skip
    return {fold(text.strip(), False) for text in texts if text.strip()}
