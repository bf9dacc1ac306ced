"""Scoring during a comparison: each answer as it arrives, and pairs of answers once all answers to a case are there.

Judges are asked each question once: readable replies are stored in the lab's cache, together with the answers.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from timestep_lab.evals.attempt import reply_key
from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.datasets.template import render, render_all
from timestep_lab.evals.scorers.base import Answer, Scorer, Tools, unknown
from timestep_lab.evals.scorers.judge import Pairwise
from timestep_lab.evals.scorers.registry import (
    ASSERTIONS,
    OVERALL,
    PASSED,
    assertion_names,
    make_scorer,
    score_answer,
    score_value,
    why_not,
    with_overall,
)
from timestep_lab.evals.scorers.text import fold
from timestep_lab.evals.statistics.intervals import Floats, expanded_quantiles, tables_behind
from timestep_lab.model.codec import Json, list_of, objects_of
from timestep_lab.model.comparison import CandidateRecord, CellRecord, ScoreValue
from timestep_lab.model.errors import DataError, UsageError
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    import pandas

    from timestep_lab.evals.attempt import CellWriter
    from timestep_lab.evals.engine import Executor
    from timestep_lab.evals.grid import Grid
    from timestep_lab.evals.plan import Budget, Candidate
    from timestep_lab.evals.results import ComparisonRows
    from timestep_lab.runtime.router import Router


# --- Precision, recall and F1 of labels over all cases of a comparison


Places = NDArray[np.int_]
RESAMPLES = 2_000
ALL = "(all)"


def label_frame(grid: Grid, scorer: str | None) -> pandas.DataFrame:
    """See `Grid.labels`."""
    import pandas

    specs = [
        spec for spec in objects_of(grid.record.scorers) if spec["type"] == "label" and scorer in (None, spec["name"])
    ]
    if not specs:
        raise UsageError(
            f"No scorer{f' {scorer!r}' if scorer else ''} gave labels here.", "Compare with scorers=['label:a,b']."
        )
    name, labels = str(specs[0]["name"]), [str(label) for label in list_of(specs[0]["labels"])]
    expected = {case.case_id: _expected(case.expected, labels) for case in grid.cases}
    rows: list[dict[str, object]] = []
    for candidate in grid.candidates:
        pairs = [
            (expected[cell.case_id], score.label)
            for cell in grid.cells if cell.candidate == candidate
            for score in cell.scores if score.scorer == name and score.value is not None
        ]  # fmt: skip
        right = np.array([labels.index(one) for one, _ in pairs if one is not None], dtype=int)
        predicted = np.array([labels.index(two) if two in labels else -1 for one, two in pairs if one is not None], dtype=int)  # fmt: skip
        if not len(right):
            continue
        table = _measures(right, predicted, len(labels))
        for place, label in enumerate(labels):
            rows.append(_row(candidate, label, int((right == place).sum()), table[:, place]))
        low, high = macro_f1_interval(right, predicted, len(labels))
        rows.append(_row(candidate, ALL, len(right), table.mean(axis=1)) | {"f1_ci_low": low, "f1_ci_high": high})
    columns = ["candidate", "label", "n", "precision", "recall", "f1", "f1_ci_low", "f1_ci_high"]
    return pandas.DataFrame(rows, columns=columns)


def _expected(value: object, labels: list[str]) -> str | None:
    one = value[0] if isinstance(value, list | tuple) and value else value
    return next((label for label in labels if isinstance(one, str) and fold(one.strip(), False) == fold(label, False)), None)  # fmt: skip


def _measures(right: Places, chosen: Places, n: int) -> Floats:
    """Precision, recall and F1 per label; 0 where the denominator is 0."""
    places = np.arange(n)[:, None]
    hits = ((right == places) & (chosen == places)).sum(axis=1).astype(float)
    claimed, there = (chosen == places).sum(axis=1), (right == places).sum(axis=1)
    precision, recall = hits / np.maximum(claimed, 1), hits / np.maximum(there, 1)
    return np.array([precision, recall, 2 * hits / np.maximum(claimed + there, 1)])


def macro_f1_interval(right: Places, chosen: Places, k: int) -> tuple[float, float]:
    """The hull of percentiles over cases drawn again, which are a point when all were right, and over `tables_behind`."""
    n = len(right)
    if n < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(0)
    counts = np.zeros((k, k + 1))
    np.add.at(counts, (right, chosen), 1.0)  # What is none of the labels, −1, stands last.
    drawn = generator.multinomial(n, counts.ravel() / n, size=RESAMPLES).reshape(-1, k, k + 1).astype(float)
    behind, none = tables_behind(counts[:, :k]), np.zeros((1, k))
    if counts[:, k].any():
        share = generator.beta(counts[:, k].sum(), counts[:, :k].sum() + k, size=(len(behind), 1, 1))
        none = share[:, 0] * (counts[:, k] / counts[:, k].sum())
        behind = behind * (1.0 - share)
    ends = [
        expanded_quantiles(_macro_f1(drawn[:, :, :k], drawn[:, :, k]), n),
        expanded_quantiles(_macro_f1(behind, none), n),
    ]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _macro_f1(tables: Floats, none: Floats) -> Floats:
    """Of many tables: rows are what is right, columns what was said; `none`: answers of each row that were no label."""
    hits = np.einsum("tii->ti", tables)
    of = tables.sum(axis=1) + tables.sum(axis=2) + none
    return np.asarray((2 * hits / np.where(of > 0, of, 1.0)).mean(axis=1))


def _row(candidate: str, label: str, n: int, measures: Floats) -> dict[str, object]:
    precision, recall, f1 = (float(one) for one in measures)
    return {"candidate": candidate, "label": label, "n": n, "precision": precision, "recall": recall, "f1": f1}


# --- The input of a candidate: the case itself, or the candidate's prompt rendered with the case


_ROLES = ("system", "developer", "user", "assistant")
_JSON = re.compile(r"\s*(?:\[|\{(?![{%#]))")
_DUMPED = re.compile(r"\s*\{\{-?\s*\w+\s*\|\s*dump\s*-?\}\}\s*")


def asked_of(candidate: CandidateRecord, case: Case) -> str | list[dict[str, Json]]:
    """The input: a text, or Responses API input items. Raises `DataError` if the prompt refers to a missing variable,
    or there is no input.

    A prompt that is a JSON list of messages (`[{"role": "system", "content": …}, …]`), or YAML that starts with `-
    role:`, is a conversation.
    """
    if candidate.prompt is not None:
        return filled(candidate.prompt, case)
    if case.messages:
        return [_case_message(message, case) for message in case.messages]
    if not case.input.strip():
        own = list(case.own_vars())
        raise DataError(
            f"Case {case.id} has no question, only variables ({', '.join(own)}).",
            f'Say which column is the question: columns={{"input": {json.dumps(own[0] if own else "…")}}}; or pass a prompt that uses them: '
            'prompts=["… {{name}} …"].',
        )
    return f"{case.vars.get('__prefix', '')}{case.input}{case.vars.get('__suffix', '')}"


def filled(prompt: str, case: Case) -> str | list[dict[str, Json]]:
    """The candidate's prompt rendered with a case. Raises `DataError`."""
    template = f"{case.vars.get('__prefix', '')}{prompt}{case.vars.get('__suffix', '')}"
    variables = case.template_vars()
    if _JSON.match(template) and '"role"' in template:
        try:
            # Variables are inserted into the parsed JSON, so quotes and newlines need no escaping.
            value = render_all(json.loads(template), variables)
        except ValueError:
            value = _json(render(template, variables))
    elif template.lstrip().startswith("- role:"):
        import yaml  # type: ignore[import-untyped]

        value = render_all(yaml.safe_load(template), variables) if "{%" not in template else None
    elif _DUMPED.fullmatch(template):
        value = _json(render(template, variables))
    else:
        return render(template, variables)
    messages = [value] if isinstance(value, Mapping) else value
    if not isinstance(messages, list) or not messages or not all(_is_message(m) for m in messages):
        return render(template, variables)
    return [_message(message) for message in messages]


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role"), str) and "content" in value


def _message(message: Mapping[str, Json]) -> dict[str, Json]:
    content = message["content"]
    strange = sorted(set(message) - {"role", "content", "name"})
    role = role_of(message, "A message of a prompt")
    if role not in _ROLES or strange:
        raise DataError(
            f"A message of a prompt has {f'the role {role!r}' if role not in _ROLES else ', '.join(strange)}, which is not supported here.",
            f"A message has a role (one of {', '.join(_ROLES)}) and content.",
        )
    if isinstance(content, list):
        content = [_part(part, role) for part in content]
    elif not isinstance(content, str):
        content = "" if content is None else json.dumps(content, ensure_ascii=False)
    return {"role": role, "content": content}


def _case_message(message: Any, case: Case) -> dict[str, Json]:
    role, content = message["role"], message["content"]
    if role not in _ROLES or content is None or message.get("tool_calls"):
        what = f"the role {role!r}" if role not in _ROLES else "tool calls instead of text"
        raise DataError(
            f"A message of case {case.id} has {what}, which is not supported here.",
            f"A message has a role (one of {', '.join(_ROLES)}) and content.",
        )
    role = role_of(message, f"A message of case {case.id}")
    return {"role": role, "content": [_part(part, role) for part in content] if isinstance(content, list) else content}


_EXAMPLES = {"example_user": "user", "example_assistant": "assistant"}
"""Names by which OpenAI marks the turns of an example, which are messages of the system."""
_MESSAGE_EXTRAS = ("name", "tool_call_id", "function_call", "reasoning_content")


def role_of(message: Mapping[str, Json], what: str) -> str:
    """The role of a message. An example's turns are sent as turns, which every provider supports. Raises `DataError` for
    anything else that a model would see besides the content; other fields are notes of the data set, which are not sent.
    """
    if (name := message.get("name")) in _EXAMPLES:
        return _EXAMPLES[name]
    if field := next((name for name in _MESSAGE_EXTRAS if message.get(name)), None):
        raise DataError(
            f"{what} has {field} {message[field]!r}, which is not supported here.",
            "Write it into the content, or remove it.",
        )
    return str(message["role"])


def _part(part: Any, role: str) -> dict[str, Json]:
    """A Chat Completions content part in the format of the Responses API."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("text", "input_text", "output_text"):
        return {"type": "output_text" if role == "assistant" else "input_text", "text": str(part.get("text", ""))}
    if kind in ("input_image", "input_file", "input_audio"):
        return dict(part)
    if kind == "image_url":
        image = part["image_url"] if isinstance(part.get("image_url"), Mapping) else {"url": part.get("image_url")}
        return {"type": "input_image", "image_url": str(image.get("url")), "detail": image.get("detail", "auto")}
    raise DataError(f"A message of a prompt contains a part of the type {kind!r}, which is not supported here.", "Use text.")  # fmt: skip


_PAIRS_AT_ONCE = 16

Round = dict[str, CellRecord]
"""The answers of all candidates to one case in one epoch, by candidate."""


class Judges:
    """Calls judge models, within the budget. `writer`, once set, stores their readable replies in the cache."""

    def __init__(
        self, router: Router, executor: Executor, budget: Budget, rows: ComparisonRows, *, writer: CellWriter | None = None
    ) -> None:  # fmt: skip
        self.writer = writer
        self._router, self._executor, self._budget, self._rows = router, executor, budget, rows
        self._replies: dict[str, str] = {}
        self._under_way: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._sought: dict[str, asyncio.Future[str | None]] = {}
        self._seeking: asyncio.Task[None] | None = None

    async def ask(self, model: str | None, instructions: str, prompt: str) -> str:
        """Ask a judge one question; traced and charged like any other call. Raises what the provider raised, and
        `LabError` if the budget is used up.
        """
        async with self._budget.judgement():
            attempted = await self._executor.judge(model, instructions, prompt)
            self._budget.spend_on_judging(
                attempted.cost_usd, (attempted.input_tokens or 0) + (attempted.output_tokens or 0)
            )
        if attempted.error is not None:
            raise attempted.error
        return attempted.output or ""

    async def get(
        self, model: str | None, instructions: str, prompt: str, ask: Callable[[], Awaitable[str]]
    ) -> tuple[str, bool]:
        """See `Replies`. Concurrent identical questions wait for the first reply."""
        key = reply_key(self._router.resolve(model).full, instructions, prompt)
        lock = self._under_way.setdefault(key, asyncio.Lock())
        async with lock:
            stored = self._replies.get(key) or await self._stored(key)
            if stored is not None:
                return stored, True
            reply = self._replies[key] = await ask()
            if self.writer is not None:
                self.writer.keep_reply(key, reply)
            return reply, False

    async def _stored(self, key: str) -> str | None:
        """A reply from the store. Lookups that arrive during a query are batched into the next one."""
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._sought[key] = future
        if self._seeking is None:
            self._seeking = asyncio.create_task(self._seek(), name="timestep-lab judgements")
        return await future

    async def _seek(self) -> None:
        while self._sought:
            sought, self._sought = self._sought, {}
            try:
                stored = await in_thread(self._rows.cached, list(sought))
            except Exception as error:  # noqa: BLE001 - passed on to all waiting callers
                for future in sought.values():
                    if not future.done():
                        future.set_exception(error)
                continue
            for key, future in sought.items():
                if not future.done():
                    future.set_result(stored[key]["reply"] if key in stored else None)
        self._seeking = None


class _Tally:
    """A replacement for judges during planning: records which questions would be asked, without asking them."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.keys: dict[str, set[str]] = defaultdict(set)

    async def ask(self, model: str | None, instructions: str, prompt: str) -> str:
        full = self._router.resolve(model).full
        self.keys[full].add(reply_key(full, instructions, prompt))
        return ""

    async def get(
        self, model: str | None, instructions: str, prompt: str, ask: Callable[[], Awaitable[str]]
    ) -> tuple[str, bool]:
        return await self.ask(model, instructions, prompt), False


async def questions_to_judges(
    scorers: Sequence[Scorer], candidates: Sequence[Candidate], router: Router, cells: Iterable[CellRecord],
    cases: Iterable[Case],
) -> dict[str, set[str]]:  # fmt: skip
    """For each judge model, the cache keys of the questions needed to score these answers. Answers that do not exist
    yet are replaced by a unique placeholder. No judge is called."""
    tally = _Tally(router)
    judging = Judging(
        [scorer for scorer in scorers if scorer.source == "judge"], candidates, Tools(ask=tally.ask, replies=tally)
    )
    judged = {
        case.id: replace(case, assertions=tuple(a for a in case.assertions if make_scorer(a).judges)) for case in cases
    }
    there = [cell for cell in cells if cell.status == "done"]
    for cell in there:
        await judging.score_again(cell, judged[cell.case_id])
        await asyncio.sleep(0)
    for (case_id, _), answers in _rounds(there).items():
        await judging.judge_round(judged[case_id], answers)
    return tally.keys


class Judging:
    """Scores answers. `tools` is passed to the scorers."""

    def __init__(self, scorers: Sequence[Scorer], candidates: Sequence[Candidate], tools: Tools) -> None:
        self._scorers = scorers
        self._pairwise = [cast(Pairwise, scorer) for scorer in scorers if scorer.pairwise]
        self._candidates = {candidate.name: candidate for candidate in candidates}
        self._tools = tools

    async def score(self, cell: CellRecord, case: Case) -> tuple[ScoreValue, ...]:
        """The scores of one answer; without `overall` while pairwise scores are pending."""
        scores = await score_answer(self._scorers, self._answer(cell, case), case, self._tools)
        return tuple(s for s in scores if s.scorer != OVERALL) if self._pairwise else scores

    async def score_again(self, cell: CellRecord, case: Case) -> list[ScoreValue]:
        """The missing scores of a cell: of scorers that have not scored it, of its own assertions, and `overall`."""
        there = {score.scorer for score in cell.scores}
        missing = [scorer for scorer in self._scorers if scorer.name not in there]
        whole_case = {ASSERTIONS, *assertion_names([case]), *({PASSED} if "__threshold" in case.vars else ())}
        own = case if case.assertions and not whole_case <= there else replace(case, assertions=())
        scores = await score_answer(missing, self._answer(cell, case), own, self._tools)
        added = [score for score in scores if score.scorer != OVERALL and score.scorer not in there]
        whole = () if self._pairwise else with_overall([*cell.scores, *added], self._scorers)
        return [*added, *(score for score in whole if score.scorer == OVERALL)]

    async def finish(
        self, cells: dict[tuple[str, str, int], CellRecord], cases: Mapping[str, Case], writer: CellWriter
    ) -> None:
        """Run pairwise judges on all answers to a case, where not done before."""
        if not self._pairwise:
            return
        await writer.flush()
        rounds = _rounds(cell for cell in cells.values() if cell.status == "done")
        gate = asyncio.Semaphore(_PAIRS_AT_ONCE)

        async def judge(case_id: str, answers: Round) -> None:
            async with gate:
                for cell, added in (await self.judge_round(cases[case_id], answers)).items():
                    old = cells[cell]
                    for score in added:
                        writer.add_score(old, score)
                    cells[cell] = _with_scores(old, added)

        await asyncio.gather(*(judge(case_id, answers) for (case_id, _), answers in rounds.items()))

    async def judge_round(self, case: Case, answers: Round) -> dict[tuple[str, str, int], list[ScoreValue]]:
        """The scores from comparing the answers to one case, by cell."""
        added: dict[tuple[str, str, int], list[ScoreValue]] = {cell.key: [] for cell in answers.values()}
        for scorer in self._pairwise:
            if all(any(s.scorer == scorer.name for s in cell.scores) for cell in answers.values()):
                continue
            try:
                scores = await scorer.score_all(
                    {name: self._answer(cell, case) for name, cell in answers.items()}, case, self._tools
                )
            except Exception as error:  # noqa: BLE001 - whatever a scorer raises, the answers are already paid for
                scores = {name: unknown(why_not(error)) for name in answers}
            for name, score in scores.items():
                if any(s.scorer == scorer.name for s in answers[name].scores):
                    continue
                added[answers[name].key].append(score_value(scorer, score))
        for cell in answers.values():
            all_scores = with_overall([*cell.scores, *added[cell.key]], self._scorers)
            if not any(s.scorer == OVERALL for s in cell.scores) and all_scores and all_scores[-1].scorer == OVERALL:
                added[cell.key].append(all_scores[-1])
        return added

    def _answer(self, cell: CellRecord, case: Case) -> Answer:
        """The cell as an `Answer`, with the input of the candidate for judges to see."""
        candidate = self._candidates[cell.candidate]
        instructions = candidate.graph.root.instructions
        return Answer.of(
            cell, asked_of(candidate.record, case), instructions if isinstance(instructions, str) else None
        )


def _rounds(cells: Iterable[CellRecord]) -> dict[tuple[str, int], Round]:
    """Answers grouped by (case, epoch)."""
    rounds: dict[tuple[str, int], Round] = defaultdict(dict)
    for cell in cells:
        rounds[cell.case_id, cell.epoch][cell.candidate] = cell
    return rounds


def _with_scores(cell: CellRecord, added: Sequence[ScoreValue]) -> CellRecord:
    return replace(cell, scores=(*cell.scores, *added))
