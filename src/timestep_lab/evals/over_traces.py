"""Scores recorded traces with the same scorers as comparisons; and removes names from answers for blind voting."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from timestep_lab.evals.attempt import CellWriter, limited
from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.datasets.load import is_query
from timestep_lab.evals.engine import LocalExecutor
from timestep_lab.evals.judging import Judges
from timestep_lab.evals.plan import Budget, Options, check_prices
from timestep_lab.evals.results import ComparisonRows, EvalContext
from timestep_lab.evals.scorers.base import Answer, Scorers, Tools
from timestep_lab.evals.scorers.registry import make_scorers, score_answer
from timestep_lab.model.codec import Json, objects_of
from timestep_lab.model.comparison import JUDGE
from timestep_lab.model.errors import DataError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import ScoreRecord
from timestep_lab.store.base import Statement, in_thread
from timestep_lab.store.store import Store

T = TypeVar("T")

# --- Remove from a text only what would reveal its author to a voter, who judges the remaining words
#
# There are three kinds of names. Unambiguous names are removed everywhere: `ChatGPT`, `gpt-4.1`, the full name of a model or an agent.
# Names that also denote a person, an animal or a company (`Claude`, `llama`, `Microsoft`), and single plain words (an agent called
# `Weather`), are removed only in statements of identity: "I am …", "trained by …", "… here". Everything else stays.


MASK = "▮▮▮"

_NUMBER = r"[-:\s]?v?\d[\w.:-]*"
_VERSION = rf"(?:{_NUMBER})?"
_ALWAYS = re.compile(
    r"(?<!\w)(?:"
    # Unambiguous makers.
    r"open\s?ai|anthropic|google\s+deepmind|deepmind|meta\s+ai|mistral\s*ai|alibaba\s+cloud|deepseek(?:-[\w.:-]+)?|moonshot\s+ai|x\.ai|xai|"
    r"hugging\s?face(?:\s?tb)?|ollama|openrouter|"
    # Unambiguous model families; the others only with the number or size that makes them a model name.
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
"""Minimum length of a name; a shorter one ("a", "v2") would remove too much of the text."""
_NO_NAME = re.compile(r"prompt \d+|default (?:model|settings)|.*=.*", re.DOTALL)
_ODD = re.compile(r"[-_.\d]|[a-z][A-Z]")
"""What ordinary words do not contain."""


class Scrubber:
    """Removes the names of candidates, agents and models, given as displayed (`Scout · openai/gpt-4.1 ·
    temperature=0`).
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._whole: set[str] = set()
        anywhere: set[str] = set()
        plain: set[str] = set(_AMONG_WORDS)
        for name in names:
            self._whole.add(name.casefold())
            for word, is_ordinary in _scrub_parts(name):
                (plain if is_ordinary else anywhere).add(word)
        anywhere_words, plain_words = _either(anywhere), _either(plain)
        self._names = re.compile(rf"(?<!\w)(?:{anywhere_words})(?!\w)", re.IGNORECASE) if anywhere else None
        self._who = re.compile(
            rf"({_WHO})(?:{plain_words})(?!\w)|(?<!\w)(?:{plain_words})(?=\s+here\b)|(?<=\bas\s)(?:{plain_words})(?=,|\s+i\b)",
            re.IGNORECASE,
        )

    def text(self, text: str) -> str:
        """Replaces every occurrence of a name with the same mark."""
        for pattern in (self._names, _DEMO, _PRICES, _ALWAYS):
            if pattern is not None:
                text = pattern.sub(MASK, text)
        text = self._who.sub(lambda found: f"{found[1] or ''}{MASK}", text)
        return re.sub(rf"{MASK}(?:[\s,:;/·-]*{MASK})+", MASK, text)

    def value(self, value: Json) -> Json:
        """Applies `text` to all texts in nested lists and objects; keys are kept. A text that consists only of a name
        is always replaced.
        """
        if isinstance(value, str):
            return MASK if value.casefold() in self._whole else self.text(value)
        if isinstance(value, dict):
            return {key: self.value(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(inner) for inner in value]
        return value


def _scrub_parts(name: str) -> Iterator[tuple[str, bool]]:
    """The parts of a candidate's name, each with whether it is an ordinary word that may occur in a text for other
    reasons.
    """
    for part in name.split(" · "):
        if _NO_NAME.fullmatch(part):
            continue
        for word in {part, *(re.split(r"[/:@]", part) if "/" in part else ())}:
            if len(word) >= _LEAST_LETTERS and not word.isdigit():
                yield word, not _ODD.search(word) and " " not in word and "/" not in word


def _either(words: Iterable[str]) -> str:
    """A regular expression that matches any of these names, longest first, with any separator between their parts."""
    ordered = sorted(words, key=lambda word: (-len(word), word))
    return "|".join(r"[-_\s]*".join(map(re.escape, re.split(r"[-_\s]+", word))) for word in ordered)


ALL_TRACES = (
    f"select trace_id from traces where status = 'completed' and workflow <> '{JUDGE}' order by started_at desc"
)
"""All completed traces except those of judges."""
_ASKED_AT_ONCE = 200
_SYSTEM = ("system", "developer")
_SCORED_AT_ONCE = 16


async def score_traces(
    context: EvalContext, which: str | Sequence[str], scorers: Scorers, *, limit: int | None = None, keep: bool = True,
    again: bool = False, budget_usd: float | None = None,
) -> list[dict[str, Json]]:  # fmt: skip
    """Score traces; one row per trace: `trace_id`, each scorer's value, and in `note` why one could not score.

    `which`: an explorer filter, an SQL query that returns `trace_id` (and optionally `expected`), or ids; empty: all
    completed traces. `keep` stores the scores, so that they appear in the view `scores` and in the explorer. Traces
    that these scorers have scored before are skipped, unless `again`; then the new scores replace the old ones. Raises
    `QueryError`, `FilterError`, `DataError`.
    """
    made = make_scorers(scorers)
    if not made:
        raise UsageError("No scorer was given.", "Pass scorers=[…].", param="scorers")
    if late := next((scorer for scorer in made if scorer.pairwise), None):
        raise UsageError(
            f"The scorer {late.name!r} compares answers with each other.", "Use it in a comparison.", param="scorers"
        )
    store = context.store
    await context.writer.barrier().reached()
    rows = await in_thread(_chosen, store, which, limit)
    judged = any(scorer.judges for scorer in made)
    answers = await in_thread(answers_of, store, [trace_id for trace_id, _ in rows], conversations=judged)
    known = {} if again else await in_thread(_known, store, list(answers), [scorer.name for scorer in made])
    models = sorted({str(getattr(judge, "model", None) or "") for scorer in made for judge in scorer.judges})
    judges_of = [context.router.resolve(name or None) for name in models]
    for model in judges_of:
        context.router.get_model(model.full)
    check_prices([], judges_of, budget_usd)
    cache = ComparisonRows(store.db, context.user_id)
    executor = LocalExecutor(context, Options())
    judges = Judges(context.router, executor, Budget(budget_usd), cache)
    judges.writer = CellWriter(cache, "", lambda cell: None)
    tools, gate = Tools(ask=judges.ask, replies=None if again else judges), asyncio.Semaphore(_SCORED_AT_ONCE)

    async def one(trace_id: str, expected: Json) -> tuple[dict[str, Json], list[ScoreRecord]]:
        asked, answer = answers[trace_id]
        there = known.get(trace_id, {})
        async with gate:
            scores = await score_answer(
                [scorer for scorer in made if scorer.name not in there], answer, Case(input=asked, expected=expected), tools
            )  # fmt: skip
        values = there | {score.scorer: score.value for score in scores}
        notes = [f"{s.scorer}: {s.note or 'it gave no reason'}" for s in scores if s.value is None]
        return (
            {"trace_id": trace_id, **{s.name: values.get(s.name) for s in made}, "note": "; ".join(notes) or None},
            [
                ScoreRecord(
                    id=new_id("score"), user_id=store.user_id, target="trace", target_id=trace_id, name=s.scorer, value=s.value,
                    label=s.label, note=s.note, source=s.source,
                )
                for s in scores if s.value is not None
            ],
        )  # fmt: skip

    try:
        with limited(context.router, {model.prefix for model in judges_of}, None):
            done = await asyncio.gather(*(one(id, expected) for id, expected in rows if id in answers))
            await judges.writer.flush()
    finally:
        await executor.aclose()
        await context.writer.barrier().reached()
    if keep:
        await in_thread(_keep, store, [record for _, records in done for record in records])
    return [row for row, _ in done]


def _chosen(store: Store, which: str | Sequence[str], limit: int | None) -> list[tuple[str, Json]]:
    """(trace id, expected answer if the query returns one) of the traces to score."""
    if not isinstance(which, str):
        chosen: list[tuple[str, Json]] = [(str(id), None) for id in which]
        return chosen[:limit]
    query = which if is_query(which) else ALL_TRACES if not which.strip() else store.traces.sql(which)
    asked = store.typed_sql(query, limit=limit)
    if "trace_id" not in asked.columns:
        raise DataError("The query returns no column trace_id.", "Start it with: select trace_id from traces …")
    by_trace: dict[str, Json] = {}
    for row in asked.dicts():
        if row["trace_id"] is not None:
            by_trace.setdefault(str(row["trace_id"]), row.get("expected"))
    return list(by_trace.items())


def _known(store: Store, trace_ids: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Existing scores of these scorers for these traces."""
    scores: dict[str, dict[str, float]] = {}
    for part in _parts(trace_ids):
        places = ", ".join(f"${n}" for n in range(1, len(part) + 1))
        named = ", ".join(f"${n}" for n in range(len(part) + 1, len(part) + len(names) + 1))
        sql = (
            f"select target_id, name, value from scores where target = 'trace' and source <> 'human' and target_id in ({places}) "
            f"and name in ({named}) and value is not null order by created_at"
        )
        for trace_id, name, value in store.sql(sql, [*part, *names]).rows:
            scores.setdefault(trace_id, {})[name] = value
    return scores


def _keep(store: Store, records: Sequence[ScoreRecord]) -> None:
    """Store scores, replacing earlier ones of the same scorers and traces."""
    for part in _parts(records):
        old = [
            Statement(
                "delete from score_rows where user_id = $1 and target = 'trace' and target_id = $2 and name = $3 and source <> 'human'",
                [store.user_id, record.target_id, record.name],
            )
            for record in part
        ]
        statements = [*old, *(store.scores.insert_statement(record) for record in part)]
        changes = [change for record in part for change in store.scores.changes(record.id)]
        store.db.write(store.user_id, statements, changes=changes)


def _parts(items: Sequence[T]) -> Iterable[list[T]]:
    return (list(items[start : start + _ASKED_AT_ONCE]) for start in range(0, len(items), _ASKED_AT_ONCE))


def answers_of(
    store: Store, trace_ids: Sequence[str], *, conversations: bool = False
) -> dict[str, tuple[str, Answer]]:  # fmt: skip
    """(input, answer with its steps in order) of each existing trace; with `conversations` also everything that was
    sent to the model, with system text separate. Blocks."""
    answers: dict[str, tuple[str, Answer]] = {}
    for part in _parts(trace_ids):
        places = ", ".join(f"${n}" for n in range(1, len(part) + 1))
        steps: dict[str, list[tuple[datetime, dict[str, Json]]]] = defaultdict(list)
        sql = f"select trace_id, agent, tool, arguments, approval, error, started_at from tool_calls where trace_id in ({places})"
        for call in store.sql(sql, part).dicts():
            step = {
                "type": "tool", "name": call["tool"], "arguments": _parsed(call["arguments"]), "agent": call["agent"],
                "approval": call["approval"], "error": call["error"],
            }  # fmt: skip
            steps[call["trace_id"]].append((call["started_at"], step))
        for move in store.sql(f"select * from handoffs where trace_id in ({places})", part).dicts():
            step = {"type": "handoff", "from": move["from_agent"], "to": move["to_agent"]}
            steps[move["trace_id"]].append((move["started_at"], step))
        sent: dict[str, list[Mapping[str, Json]]] = {}
        if conversations:
            sql = f"select trace_id, input from generations where trace_id in ({places}) order by started_at"
            for trace_id, given in store.sql(sql, part).rows:
                messages = _parsed(given)
                if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
                    sent.setdefault(trace_id, list(objects_of(messages)))
        sql = (
            "select trace_id, input, output, duration_ms, input_tokens, output_tokens, "
            "case when n_unpriced = 0 then cost_usd end as cost_usd "
            f"from traces where trace_id in ({places})"
        )
        for trace in store.sql(sql, part).dicts():
            ordered = sorted(steps[trace["trace_id"]], key=lambda timed: timed[0])
            first = sent.get(trace["trace_id"], [])
            system = [_text(message.get("content")) for message in first if message.get("role") in _SYSTEM]
            answer = Answer(
                asked=[message for message in first if message.get("role") not in _SYSTEM] or None,
                instructions="\n\n".join(system) or None,
                output=_text(trace["output"]), steps=tuple(step for _, step in ordered), latency_ms=trace["duration_ms"],
                input_tokens=trace["input_tokens"], output_tokens=trace["output_tokens"], cost_usd=trace["cost_usd"],
            )  # fmt: skip
            answers[trace["trace_id"]] = (_text(trace["input"]), answer)
    return answers


def _parsed(value: Json) -> Json:
    if not isinstance(value, str):
        return value
    try:
        parsed: Json = json.loads(value)
        return parsed
    except ValueError:
        return value


def _text(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
