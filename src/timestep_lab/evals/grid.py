"""`Grid`: the result of a comparison, finished or not: tables, tests, exports, and a static HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from timestep_lab.evals.results import (
    ScoreTables,
    asked_scorers,
    candidate_names,
    candidate_rows,
    deciding,
    few_groups,
    group_of,
    own_scores,
    pair_rows,
    scorer_names,
)
from timestep_lab.evals.rules import decide
from timestep_lab.evals.statistics.intervals import agreement, mean_interval
from timestep_lab.evals.statistics.paired import fisher, paired_difference
from timestep_lab.evals.stopping import Watch
from timestep_lab.evals.verdict import verdict
from timestep_lab.model.arguments import checks_arguments, did_you_mean
from timestep_lab.model.codec import Json
from timestep_lab.model.comparison import (
    CandidateRow,
    CaseRecord,
    CellRecord,
    ComparisonRecord,
    DecisionRow,
    PairRow,
    TapeUse,
    conclusion,
    failed_calls,
    from_cache,
    unscored,
)
from timestep_lab.model.errors import UsageError
from timestep_lab.model.records import ScoreRecord

if TYPE_CHECKING:
    import pandas
    from anywidget import AnyWidget
    from panel.viewable import Viewable

    from timestep_lab.evals.datasets.case import Case
    from timestep_lab.evals.exports import Regression
    from timestep_lab.evals.rules import RuleResult

    class LiveView(Protocol):
        """The live view of a grid: a `GridView`."""

        @property
        def widget(self) -> AnyWidget: ...

        def panel(self, **layout: object) -> Viewable: ...

        def _mime_(self) -> tuple[str, str]: ...


DF_COLUMNS = (
    "comparison_id", "case_id", "candidate", "epoch", "output", "latency_ms", "ttft_ms", "input_tokens", "output_tokens", "cost_usd",
    "trace_id", "error", "cached",
)  # fmt: skip
BASELINE_FORM = 1


class Shows(Protocol):
    """How a grid is shown live."""

    def __call__(self, grid: Grid) -> None:
        """In the cell of a notebook."""

    def view(self, grid: Grid) -> LiveView:
        """Anywhere else: the `GridView`."""


@checks_arguments("grid")
class Grid:
    """The result of a comparison. Rows are cases, columns are candidates. Statistics are computed on first access and
    cached.

    Example:
        grid = await lab.compare(["Say 4.", "Say 5."], models=["demo/echo", "demo/assistant"], scorers=["contains:4"])
        print(grid.summary()[["name", "n"]])
    """

    def __init__(
        self, record: ComparisonRecord, cases: Sequence[CaseRecord], cells: Sequence[CellRecord], *, seed: int = 0,
        labels: Sequence[ScoreRecord] = (),
    ) -> None:  # fmt: skip
        """`labels`: human annotations of the answers' traces, by scorer name."""
        self.record, self.cases, self._labels = record, tuple(cases), tuple(labels)
        order = {case.case_id: case.position for case in cases}
        column = {name: place for place, name in enumerate(self.candidates)}
        known = [cell for cell in cells if cell.case_id in order and cell.candidate in column]
        self.cells = tuple(sorted(known, key=lambda c: (order[c.case_id], column[c.candidate], c.epoch)))
        self._seed = seed
        self.shown_by: Shows | None = None
        """Set by the owner of a live view; without it, static HTML is shown."""

    @property
    def id(self) -> str:
        """The id of the comparison, `cmp_…`."""
        return self.record.id

    @property
    def status(self) -> str:
        """The stored status of the comparison."""
        return self.record.status

    @property
    def candidates(self) -> list[str]:
        """Names of the candidates, in the given order."""
        return candidate_names(self.record)

    @cached_property
    def scorers(self) -> list[str]:
        """Names of the scorers, including those without scores because there were no answers."""
        return scorer_names(self.cells, asked_scorers(self.record, self.cases))

    @cached_property
    def tables(self) -> ScoreTables:
        """All scores, by candidate and scorer."""
        epochs = max((cell.epoch + 1 for cell in self.cells), default=self.record.epochs)
        return ScoreTables([case.case_id for case in self.cases], max(epochs, self.record.epochs), self.cells)

    @cached_property
    def groups(self) -> list[str] | None:
        """The group of each case, if the comparison has a `group` column; else None."""
        column = self.record.settings.get("group")
        return None if column is None else [group_of(case, str(column)) or case.case_id for case in self.cases]

    @cached_property
    def candidate_rows(self) -> list[CandidateRow]:
        """Summary statistics, one row per candidate."""
        return candidate_rows(
            self.candidates, self.scorers, self.cells, self.tables, self.groups, own_scores(self.cases)
        )

    @cached_property
    def pair_rows(self) -> list[PairRow]:
        """Differences with interval and test, one row per pair of candidates and scorer."""
        if self.watch is not None:
            return [row for scorer in self.scorers for row in self.watch.rows(scorer)]
        return pair_rows(
            self.candidates, self.scorers, self.tables, seed=self._seed, groups=self.groups, margin=self.margin
        )

    @property
    def margin(self) -> float | None:
        """The non-inferiority margin of the comparison, in the score's units."""
        value = cast("float | None", self.record.settings.get("margin"))
        return None if value is None else float(value)

    @cached_property
    def decision(self) -> list[DecisionRow]:
        """Every candidate relative to the first one in quality, cost and time: better, no worse, worse, or not settled.
        Empty with one candidate.
        """
        pairs = [pair for pair in self.pair_rows if pair.scorer == self.deciding_scorer]
        return decide(self.candidates, self.cells, pairs, margin=self.margin, seed=self._seed)

    @cached_property
    def watch(self) -> Watch | None:
        """The interim looks of a comparison with early stopping; None otherwise."""
        decides = self.deciding_scorer
        if not self.record.settings.get("stop") or decides is None or len(self.candidates) < 2:
            return None
        watch = Watch(self.record, [case.case_id for case in self.cases], self.scorers, decides, self.groups)
        watch.take(self.cells)
        return watch

    @cached_property
    def verdict(self) -> str:
        """The result on the first scorer (or `overall`): which candidate is better, and whose calls failed; with many
        candidates, the leader, the ties, and what would settle them, one line each. Empty with one candidate."""
        pairs = [pair for pair in self.pair_rows if pair.scorer == self.deciding_scorer]
        words = verdict(pairs, self.candidate_rows, tail="" if self.watch is None else self.watch.words)
        return f"{words} {tape_sentence(self.tape)}".strip() if self.tape and words else words

    @cached_property
    def conclusion(self) -> str:
        """The result in one line: `No winner: A, C and D tie; B is worse.` Empty with one candidate."""
        return conclusion([pair for pair in self.pair_rows if pair.scorer == self.deciding_scorer])

    @cached_property
    def tape(self) -> TapeUse | None:
        """How many tool calls were answered from the tape and how many were missing, by candidate; None if tools were
        called for real.
        """
        return TapeUse.of(self.candidates, self.cells) if self.record.settings.get("tools") else None

    @cached_property
    def notes(self) -> list[str]:
        """Remarks: why calls failed, one sentence per candidate; what could not be scored and why, one sentence per
        scorer; cached answers.
        """
        return [
            *few_groups(self.groups), *failed_calls(self.cells), *unscored(self.cells), *from_cache(self.cells),
            *self.judge_notes,
        ]  # fmt: skip

    @cached_property
    def judge_errors(self) -> list[JudgeError]:
        """The agreement of each judge with human annotations, on answers that have both. Annotate with
        `lab.trace_source.score("trace", id, "faithfulness", 1.0)`. Empty without annotations; `lab.comparison(id)`
        includes new ones."""
        return judge_errors(self.cells, self._labels)

    @property
    def judge_notes(self) -> list[str]:
        """The same as sentences, one per judge."""
        return [error.sentence for error in self.judge_errors]

    @property
    def deciding_scorer(self) -> str | None:
        """The scorer used for the verdict: `overall` if it exists, else the first."""
        return deciding(self.scorers)

    # -- frames

    def df(self) -> pandas.DataFrame:
        """One row per cell: the columns of the view `comparisons`, whether it was cached, and a column per scorer;
        where judgements were cached, also a column that says which.
        """
        import pandas

        rows = [
            {name: getattr(cell, name) for name in DF_COLUMNS}
            | {score.scorer: score.value for score in cell.scores}
            | {f"{score.scorer}_cached": score.cached for score in cell.scores}
            for cell in self.cells
        ]
        judged_before = {score.scorer for cell in self.cells for score in cell.scores if score.cached}
        marked = [[name, f"{name}_cached"] if name in judged_before else [name] for name in self.scorers]
        return pandas.DataFrame(rows, columns=[*DF_COLUMNS, *(name for names in marked for name in names)])

    def summary(self, *, by: str | None = None) -> pandas.DataFrame:
        """One row per candidate: answers, errors, each scorer's mean with its 95 % interval, cost, times, tokens.

        `by`: slice by a column of the data (such as `topic`): one row per slice, candidate and scorer, with
        simultaneous intervals over all slices.
        """
        import pandas

        if by is not None:
            from timestep_lab.evals.results import means

            return pandas.DataFrame(means(self, by))
        rows = []
        for row in self.candidate_rows:
            flat: dict[str, Json] = {"name": row.name, "n": row.n, "errors": row.errors}
            for scorer, numbers in row.scores.items():
                flat |= {scorer if key == "mean" else f"{scorer}_{key}": value for key, value in numbers.items()}
            flat |= {
                "cost_usd": row.cost_usd, "latency_ms_p50": row.latency_ms_p50, "ttft_ms_p50": row.ttft_ms_p50,
                "input_tokens": row.input_tokens, "output_tokens": row.output_tokens,
            }  # fmt: skip
            rows.append(flat)
        return pandas.DataFrame(rows)

    def significance(self, *, by: str | None = None) -> pandas.DataFrame:
        """One row per pair and scorer. `diff` is b − a; `p_holm` is corrected over all pairs of a scorer, and with `by`
        over all slices.
        """
        import pandas

        if by is not None:
            from timestep_lab.evals.results import differences

            return pandas.DataFrame(differences(self, by))

        columns = [name for name in PairRow.__dataclass_fields__ if name != "points"]
        return pandas.DataFrame([{name: getattr(p, name) for name in columns} for p in self.pair_rows], columns=columns)

    def labels(self, scorer: str | None = None) -> pandas.DataFrame:
        """Precision, recall and F1 of each label and candidate, for a `label` scorer. Rows `(all)` are unweighted means
        over labels, with the 95 % interval of F1 (bootstrap over cases). Raises `UsageError` if no scorer gave labels."""
        from timestep_lab.evals.judging import label_frame

        return label_frame(self, scorer)

    def failures(self, scorer: str | None = None, *, candidate: str | None = None, below: float = 1.0) -> list[Case]:
        """The cases in which a candidate (default: any) scored less than `below`, could not be scored, or gave no
        answer. Useful as a data set: `lab.datasets.save("failures", grid.failures())`. `scorer`: default is the
        deciding one. Raises `UsageError`."""
        from timestep_lab.evals.datasets.case import from_record

        wanted = scorer or self.deciding_scorer
        for name, known in ((wanted, self.scorers), (candidate, self.candidates)):
            if name is not None and name not in known:
                raise UsageError(
                    f"There is no {name!r} here.{did_you_mean(name, known)}", f"Known: {', '.join(known)}."
                )
        failed: dict[str, list[str]] = {}
        for cell in self.cells:
            value = next((score.value for score in cell.scores if score.scorer == wanted), None)
            if candidate in (None, cell.candidate) and (cell.status == "error" or value is None or value < below):
                failed.setdefault(cell.case_id, []).append(cell.candidate)
        cases = []
        for case in self.cases:
            if case.case_id in failed:
                about = {**case.metadata, "failed": list(dict.fromkeys(failed[case.case_id])), "comparison": self.id}
                cases.append(replace(from_record(case), metadata=about))
        return cases

    def to_json(self, *, by: str | None = None) -> dict[str, Json]:
        """The output of `timestep-lab compare --json`; `by` adds the slices of a column of the data."""
        if by is not None:
            from timestep_lab.evals.results import differences, means

            return {**self.to_json(), "slices": means(self, by), "slice_pairs": differences(self, by)}
        return {
            "id": self.id,
            "status": self.status,
            "candidates": [
                {
                    name: getattr(row, name)
                    for name in CandidateRow.__dataclass_fields__
                    if name != "not_judged" or self.tape
                }
                for row in self.candidate_rows
            ],
            "pairs": [
                {name: _finite(getattr(pair, name)) for name in PairRow.__dataclass_fields__ if name != "points"}
                for pair in self.pair_rows
            ],
            "decision": [
                {name: getattr(row, name) for name in DecisionRow.__dataclass_fields__} for row in self.decision
            ],
            "conclusion": self.conclusion,
            "verdict": self.verdict,
            "notes": self.notes,
            **({"tape": str(self.tape)} if self.tape else {}),
        }

    # -- files, rules, baselines

    def save(self, path: str | Path) -> Path:
        """Write a file in the format of its suffix: `.csv .jsonl .parquet .html .xml` (JUnit), `.dpo.jsonl` (preference
        pairs), `.json` (a baseline for `regression`). Raises `UsageError`."""
        from timestep_lab.evals.exports import save

        return save(self, Path(path))

    def check(self, rules: Sequence[str] | str, *, min_scored: float = 1.0) -> list[RuleResult]:
        """Evaluate `--fail-under` rules, such as `exact>=0.8` or `openai/gpt-4.1:exact.ci_low>=0.7`. A rule about a
        scorer fails if less than the fraction `min_scored` of the answers could be scored. Raises `UsageError`."""
        from timestep_lab.evals.rules import check

        return check(self, [rules] if isinstance(rules, str) else rules, min_scored)

    def regression(self, baseline: Grid | str | Path) -> list[Regression]:
        """Compare each candidate with itself in a baseline: a `Grid`, or a file written by `save("….json")`."""
        from timestep_lab.evals.exports import compare_with

        return compare_with(self, baseline)

    # -- display

    @property
    def view(self) -> LiveView:
        """The matrix as a view, as `lab.traces` is one: a child of layouts (`VBox([grid.view, lab.traces])`), with `.panel()` and `.widget`.

        Raises `UsageError` for a grid that is of no lab.
        """
        if self.shown_by is None:
            raise UsageError(
                "This grid is of no lab, so it has no live view.", "Show it as it is, or: lab.comparison(id)"
            )
        return self.shown_by.view(self)

    def __panel__(self) -> Viewable:
        return self.view.panel()

    def _mime_(self) -> tuple[str, str]:
        """Asked by marimo."""
        return self.view._mime_() if self.shown_by else ("text/html", self._repr_html_())

    def _ipython_display_(self) -> None:
        if self.shown_by is None:
            raise NotImplementedError  # For IPython, None means: use the other representations.
        self.shown_by(self)

    def _repr_html_(self) -> str:
        from timestep_lab.evals.exports import grid_html

        return grid_html(self)

    def __repr__(self) -> str:
        done = f"{len(self.cases)} cases × {len(self.candidates)} candidates, {self.status}"
        return f"<Grid {self.id}: {done}. {self.verdict}>" if self.verdict else f"<Grid {self.id}: {done}>"

    def cell(self, case_id: str, candidate: str, epoch: int = 0) -> CellRecord:
        """One cell. Raises `UsageError` if there is no such cell."""
        cell = next((c for c in self.cells if c.key == (case_id, candidate, epoch)), None)
        if cell is None:
            raise UsageError(f"There is no answer of {candidate!r} to {case_id!r}.", "grid.df() lists all cells.")
        return cell


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeError:
    """The agreement of a judge with human annotations on the same answers."""

    scorer: str
    n: int
    agree: int
    """Number of answers on which both are at least ½, or both below."""
    agree_low: float
    """95 % interval of that share. With several answers to a case, cases are the unit; NaN for fewer than six of them."""
    agree_high: float
    kappa: float
    """Cohen's kappa of that agreement (Cohen 1960)."""
    diff: float
    """Mean of the judge's score minus the human score."""
    ci_low: float
    ci_high: float

    @property
    def sentence(self) -> str:
        """The agreement as a sentence."""
        about = (
            [f"95 % CI {100 * self.agree_low:.0f} to {100 * self.agree_high:.0f} %"]
            if self.agree_low == self.agree_low
            else []
        )
        about += [] if math.isnan(self.kappa) else [f"kappa {self.kappa:.2f}"]
        words = f"{self.scorer} is a judge's: it agrees with people on {self.agree} of {self.n} answers"
        words += f" ({', '.join(about)})" if about else ""
        if math.isnan(self.ci_low):
            return f"{words}."
        way = "above" if self.diff > 0 else "below"
        return f"{words}, and is {abs(self.diff):.2f} {way} them on average (95 % CI {self.ci_low:+.2f} to {self.ci_high:+.2f})."


def judge_errors(cells: Sequence[CellRecord], labels: Sequence[ScoreRecord]) -> list[JudgeError]:
    """The agreement of each scorer that used a judge; the latest annotation of a trace under the scorer's name counts."""
    labelled = {
        (one.target_id, one.name): one.value
        for one in sorted(labels, key=lambda one: one.created_at)
        if one.value is not None
    }
    pairs: dict[str, list[tuple[float, float, str]]] = {}
    for cell in cells:
        for score in cell.scores:
            right = labelled.get((cell.trace_id or "", score.scorer))
            if score.source == "judge" and score.value is not None and right is not None:
                pairs.setdefault(score.scorer, []).append((score.value, right, cell.case_id))
    errors = []
    for scorer, both in pairs.items():
        judge, people = (np.array([[score] for score in side]) for side in list(zip(*both, strict=True))[:2])
        cases = [case for *_, case in both]
        groups = cases if len(set(cases)) < len(cases) else None  # Answers to one case are not independent.
        result = agreement([bool(v) for v in judge[:, 0] >= 0.5], [bool(v) for v in people[:, 0] >= 0.5])
        alike = (judge >= 0.5) == (people >= 0.5)
        share, error = (
            mean_interval(alike.astype(float), groups=groups),
            paired_difference(people, judge, groups=groups),
        )
        errors.append(
            JudgeError(
                scorer=scorer, n=result.n, agree=int(alike.sum()), agree_low=share.low, agree_high=share.high, kappa=result.kappa,
                diff=error.diff, ci_low=error.ci_low, ci_high=error.ci_high,
            )
        )  # fmt: skip
    return errors


def tape_sentence(use: TapeUse) -> str:
    """How many answers are not judged because they left the tape, with a warning if candidates differ in that; empty if
    none did.
    """
    if not any(use.not_judged.values()):
        return ""
    lost = " and ".join(f"{use.not_judged[name]} of {use.answers[name]} answers of {name}" for name in use.calls)
    sentence = f"On tape, {lost} needed results that were never recorded and are not judged."
    pairs = list(combinations(use.calls, 2))
    for a, b in pairs:
        p = fisher(use.not_judged[a], use.answers[a], use.not_judged[b], use.answers[b])
        if p <= 0.05 / len(pairs):
            sentence += (
                f" {a} and {b} leave the tape unequally often (p = {p:.2g}): they are compared only where both did as was recorded, "
                "which may favour either; record more runs, or compare them live."
            )
    return sentence


def _finite(value: Json) -> Json:
    return None if isinstance(value, float) and value != value else value
