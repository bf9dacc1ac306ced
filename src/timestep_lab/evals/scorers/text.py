"""Scorers that compare the text of the answer."""

from __future__ import annotations

import asyncio
import json
import re
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.datasets.rows import LETTERS
from timestep_lab.evals.scorers.base import (
    Answer,
    Deadline,
    Score,
    Scorer,
    Tools,
    TooSlowError,
    ValueScorer,
    acceptable,
    compile_pattern,
    passed,
    scorer,
    unknown,
)
from timestep_lab.evals.scorers.structured import parse_json
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import MissingExtraError, UsageError

EMPTY = "the expected text is empty; every answer would pass"
_ALIKE = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "\u00a0": " ", "\u2007": " ", "\u202f": " "})
_AROUND = "[\\s:：*_`(\\[\"'$>]*"
_LETTER = re.compile(
    rf"(?i:\b(?:answer|ans|choice|option|choose|letter)\b(?:\s+is)?){_AROUND}([A-Z])\b(?!['’])"
    r"|\\boxed\{\s*(?:\\text\{)?([A-Z])\b"
    r"|\b([A-Z])[*_`)\]\"']*\s+is\s+(?:the\s+)?(?:correct|right|best)\b"
    rf"|(?i:\bit(?:\s+is|['’]s)){_AROUND}([A-Z])(?=[*_`)\]\"'.\s]*(?:\n|\Z))"
)
_IN_WORDS = re.compile(rf"\banswer\b(?:\s+is)?{_AROUND}([^\n]+)", re.IGNORECASE)
_BEGINS = re.compile(r"[\s*_`(\[]*([A-Z])[*_`]*[.):\]]")
_LISTING = re.compile(r"(?:[-*•]|\d+[.)])\s+")
_MARKS = " \t*_`\"'$#>-()[].:"


@scorer("exact")
@dataclass(frozen=True, kw_only=True)
class Exact(ValueScorer):
    """The answer equals the expected text, or one of several, ignoring surrounding white space."""

    is_quick: ClassVar[bool] = True
    case_sensitive: bool = True
    verbatim: bool = False
    """Compare character by character, including surrounding white space."""

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        if self.verbatim:
            return passed(answer.output in wanted)
        text = fold(answer.output.strip(), self.case_sensitive)
        return passed(text in [fold(w.strip(), self.case_sensitive) for w in wanted])


@scorer("contains")
@dataclass(frozen=True, kw_only=True)
class Contains(ValueScorer):
    """The answer contains the expected text: any of several, or with `all` all of them."""

    is_quick: ClassVar[bool] = True
    case_sensitive: bool = False
    all: bool = False
    verbatim: bool = False
    """Compare character by character, apart from case."""

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        if "" in wanted:
            return unknown(EMPTY)
        text = fold(answer.output, self.case_sensitive, verbatim=self.verbatim)
        hits = [fold(w, self.case_sensitive, verbatim=self.verbatim) in text for w in wanted]
        return passed(all(hits) if self.all else any(hits))


@scorer("starts_with")
@dataclass(frozen=True, kw_only=True)
class StartsWith(ValueScorer):
    """The answer starts with the expected text."""

    is_quick: ClassVar[bool] = True
    case_sensitive: bool = True
    verbatim: bool = False
    """Compare character by character, including leading white space."""

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        if "" in wanted:
            return unknown(EMPTY)
        text = answer.output if self.verbatim else answer.output.lstrip()
        text = fold(text, self.case_sensitive, verbatim=self.verbatim)
        return passed(any(text.startswith(fold(w, self.case_sensitive, verbatim=self.verbatim)) for w in wanted))


@scorer("word_count")
@dataclass(frozen=True, kw_only=True)
class WordCount(Scorer):
    """The answer has at least `at_least` and at most `at_most` words."""

    is_quick: ClassVar[bool] = True
    main: ClassVar[str | None] = "at_most"
    at_most: int | None = None
    at_least: int = 0

    def check(self, answer: Answer, case: Case) -> Score:
        n = len(answer.output.split())
        return passed(self.at_least <= n and (self.at_most is None or n <= self.at_most), f"{n} words")


@scorer("regex")
@dataclass(frozen=True, kw_only=True)
class Regex(Scorer):
    """A regular expression (Python `re` syntax) occurs in the answer; with `full` it must match all of it.

    A pattern that takes longer than a second is stopped, and there is no score.
    """

    main: ClassVar[str | None] = "pattern"
    pattern: str = ""
    full: bool = False

    def __post_init__(self) -> None:
        if not self.pattern:
            raise UsageError("The scorer regex needs a pattern.", "For example: regex:^yes")
        compile_pattern(self.pattern)

    def check(self, answer: Answer, case: Case) -> Score:
        text = answer.output.strip() if self.full else answer.output
        try:
            return passed(Deadline().find(self.pattern, text, full=self.full))
        except TooSlowError as error:
            return unknown(str(error))


@scorer("fuzzy")
@dataclass(frozen=True, kw_only=True)
class Fuzzy(ValueScorer):
    """The similarity of answer and expected text from 0 to 1 (RapidFuzz ratio); with `at_least`, whether it is that
    high.
    """

    how: Literal["ratio", "partial_ratio", "token_sort_ratio", "token_set_ratio"] = "ratio"
    case_sensitive: bool = False
    at_least: float | None = None

    def check(self, answer: Answer, case: Case) -> Score:
        from rapidfuzz import fuzz

        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        text = fold(answer.output.strip(), self.case_sensitive)
        best = max(getattr(fuzz, self.how)(text, fold(w.strip(), self.case_sensitive)) for w in wanted) / 100.0
        return Score(best) if self.at_least is None else passed(best >= self.at_least, f"{best:.2f} alike")


@scorer("edit_distance")
@dataclass(frozen=True, kw_only=True)
class EditDistance(ValueScorer):
    """At most this many characters must be inserted, deleted or substituted to turn the answer into the expected text
    (Levenshtein distance).
    """

    at_most: int = 5
    verbatim: bool = False
    """Count every difference, also surrounding white space, in UTF-16 code units (as JavaScript does)."""

    def check(self, answer: Answer, case: Case) -> Score:
        from rapidfuzz.distance import Levenshtein

        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        text = self._units(answer.output)
        nearest = min(Levenshtein.distance(text, self._units(w)) for w in wanted)
        return passed(nearest <= self.at_most, f"{nearest} edits")

    def _units(self, text: str) -> Sequence[Hashable]:
        return (
            memoryview(text.encode("utf-16-le", "surrogatepass")).cast("H")
            if self.verbatim
            else fold(text.strip(), True)
        )


@scorer("choice")
@dataclass(frozen=True, kw_only=True)
class Choice(ValueScorer):
    """Multiple choice: the answer gives the expected letter (`B`, `(b)`, `B. Rome`, `The answer is B`, `B is correct`,
    `\\boxed{B}`, `{"answer": "B"}`, or a line with nothing else) or the text of that choice (alone, or `The answer is …`).

    If there are several, the last one counts. The letters are those of the case's `choices`, or A to Z.
    """

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        given = case.vars.get("choices")
        choices = [fold(str(choice).strip(), False) for choice in given] if isinstance(given, list) else []
        letters = LETTERS[: len(choices)] if choices else LETTERS
        if not all(len(w.strip()) == 1 and w.strip().upper() in letters for w in wanted):
            return unknown(f"the expected answer {wanted[0]!r} is not a letter from A to {letters[-1]}")
        chosen = _chosen(answer.output, letters, choices)
        if chosen is None:
            return passed(False, "no choice in the answer")
        return passed(chosen in [w.strip().upper() for w in wanted], chosen)


def _chosen(text: str, letters: str, choices: list[str]) -> str | None:
    bare = text.strip().strip("*_`()[].: ")
    if len(bare) == 1 and bare.upper() in letters:
        return bare.upper()
    if (folded := fold(text.strip().strip("*_`\"'."), False)) in choices:
        return letters[choices.index(folded)]
    in_words: str | None = None
    for match in _IN_WORDS.finditer(text):
        for stated in (match[1].strip(), match[1].strip(_MARKS)):
            if (folded := fold(stated, False)) in choices:
                in_words = letters[choices.index(folded)]
    if in_words is not None:
        return in_words
    mentioned = [letter for match in _LETTER.finditer(text) if (letter := match[match.lastindex or 0]) in letters]
    alone = [bare for line in text.splitlines() if (bare := line.strip(_MARKS)) and bare in [*letters]]
    if mentioned or alone:
        return [*alone, *mentioned][-1]
    begins = _BEGINS.match(text)
    return begins[1] if begins and begins[1] in letters else None


def fold(text: str, case_sensitive: bool, *, verbatim: bool = False) -> str:
    """Normalise a text for comparison: Unicode NFC, quotation marks, spaces and line ends; lower case unless
    `case_sensitive`. With `verbatim`, only the case."""
    if verbatim:
        return text if case_sensitive else text.lower()
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = unicodedata.normalize("NFC", text).translate(_ALIKE)
    return text if case_sensitive else unicodedata.normalize("NFC", text.casefold())


# --- Overlap with a reference, for summaries and translations


@scorer("rouge")
@dataclass(frozen=True, kw_only=True)
class Rouge(ValueScorer):
    """ROUGE F1 with the expected text, from 0 to 1 (package rouge-score). `variant`: `rougeL` (longest common
    subsequence), `rougeLsum`, `rouge1` … `rouge9`; with `at_least`, whether it is that high. With several expected
    texts, the best."""

    variant: str = "rougeL"
    stem: bool = True
    """Compare stems of English words."""
    at_least: float | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"rouge(?:[1-9]|L|Lsum)", self.variant):
            raise UsageError(f"Unknown variant {self.variant!r}.", "Use rougeL, rougeLsum, or rouge1 to rouge9.")

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        try:
            from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingExtraError("The scorer rouge", "metrics") from error
        made = RougeScorer([self.variant], use_stemmer=self.stem)
        best = max(float(made.score(text, answer.output)[self.variant].fmeasure) for text in wanted)
        return Score(best) if self.at_least is None else passed(best >= self.at_least, f"{self.variant} {best:.2f}")


@scorer("bleu")
@dataclass(frozen=True, kw_only=True)
class Bleu(ValueScorer):
    """Sentence BLEU of the answer, from 0 to 1 (package sacrebleu, default tokenizer and smoothing); several expected
    texts are the references. With `at_least`, whether it is that high."""

    at_least: float | None = None

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        try:
            from sacrebleu.metrics.bleu import BLEU
        except ImportError as error:
            raise MissingExtraError("The scorer bleu", "metrics") from error
        score = BLEU(effective_order=True).sentence_score(answer.output, wanted).score / 100
        return Score(score) if self.at_least is None else passed(score >= self.at_least, f"BLEU {score:.2f}")


# --- Classification scorers: single labels and label sets; and combined assertions


# --- Several assertions combined into one


@scorer("assert_set")
@dataclass(frozen=True, kw_only=True)
class AssertSet(Scorer):
    """The weighted mean of several scorers. Passes if all of them pass, or with `pass_at`, if the mean reaches it."""

    assertions: Sequence[Mapping[str, Json]] = ()

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
        chosen = self._label_in(answer.output)
        return Score(float(chosen in right), None if chosen in right else f"it says {chosen}", chosen)

    def _label_in(self, text: str) -> str:
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
        return [_LISTING.sub("", part.strip()).strip("\"'`*_ ") for part in re.split(r"[,;\n]", text)]
    return value if isinstance(value, list) else [value]


def _labels(value: object) -> set[str]:
    if isinstance(value, str):
        value = _listed(value)
    texts = [one if isinstance(one, str) else json.dumps(one) for one in (value if isinstance(value, list) else [value])]  # fmt: skip
    return {fold(text.strip(), False) for text in texts if text.strip()}
