"""`Duel`: two models answer each message side by side, followed by a vote.

In blind mode the sides are swapped randomly, and nothing sent to the browser before the vote reveals the models: names
are removed from texts, and models, times and costs are sent after the vote. Each model has its own conversation.
Messages, answers and votes are rows of a comparison (`.comparison_id`): `lab.arena(duel.comparison_id)` ranks them,
`lab.comparison(…)` shows them.
"""

from __future__ import annotations

import asyncio
import html
import math
import re
import secrets
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Protocol, Unpack, cast

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import ConflictError, LabError, NotFoundError
from timestep_lab.model.events import (
    Event,
    ItemAdded,
    ItemDone,
    ItemReplaced,
    ItemUpdated,
    RunEnded,
    RunFailed,
    RunStarted,
    RunStopped,
)
from timestep_lab.model.records import DuelRecord, RunRecord, ThreadItem, VoteOutcome, VoteRecord
from timestep_lab.store.base import in_thread
from timestep_lab.ui.chat_state import item_json, run_json
from timestep_lab.ui.view import View, handles

if TYPE_CHECKING:
    from timestep_lab.ui.view import ViewOptions

# -- The data source of a live duel; `lab/comparing.py` implements it for a lab in this process


class DuelSource(Protocol):
    """Two candidates that get the same messages. Methods raise the errors of `model.errors`."""

    @property
    def candidates(self) -> tuple[str, str]: ...

    @property
    def comparison_id(self) -> str | None:
        """The comparison with the messages, answers and votes; None before the first message."""
        ...

    async def begin(self, text: str) -> str:
        """Store a message as a case; returns its id."""
        ...

    def ask(self, candidate: str, text: str, attachments: Sequence[Mapping[str, Json]]) -> AsyncIterator[Event]:
        """The answer of one candidate, in its own conversation, which continues from message to message."""
        ...

    def decide(self, run_id: str, decisions: Mapping[str, Mapping[str, Json]]) -> AsyncIterator[Event]: ...

    async def cancel(self, run_id: str) -> None: ...

    async def finish(self, case_id: str, candidate: str, items: Sequence[ThreadItem], run: RunRecord) -> None:
        """Store an answer as a cell."""
        ...

    async def vote(self, case_id: str, left: str, right: str, outcome: VoteOutcome) -> None:
        """Store a vote. Raises `UsageError` for an unknown outcome."""
        ...

    def votes(self) -> list[VoteRecord]:
        """Votes, oldest first."""
        ...

    def scrub(self, value: Json) -> Json:
        """The value without anything that reveals who answered."""
        ...

    async def attach(self, name: str, mime_type: str, content: bytes) -> Mapping[str, Json]: ...

    def widget(self, output: Json) -> Mapping[str, Json] | None:
        """The widget for a tool's result, as in `ChatSource`."""
        ...


# --

# -- One message of a live duel, and its two answers

WORDS_BEHIND = 4
"""The longest names of models and makers have fewer words than this."""
LOOK_EVERY = 24
"""Number of characters between two searches for names, since each search reads the whole text."""
_WORD = re.compile(r"\S+\s*")


@dataclass(slots=True, eq=False)
class Side:
    candidate: str
    items: dict[str, ThreadItem] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    """Item id to the text that blind browsers have, while it grows."""
    _looked: dict[str, int] = field(default_factory=dict)
    run_id: str | None = None
    """Set while it runs."""
    run: RunRecord | None = None
    """Set when it has ended or paused."""
    done: bool = False
    problem: str | None = None

    @property
    def answer(self) -> str:
        texts = [str(item.data.get("text", "")) for item in self.items.values() if item.type == "assistant_message"]
        return texts[-1] if texts else ""

    def grow(self, event: ItemUpdated) -> ThreadItem:
        """Append the text of an update and return the item."""
        item = self.items[event.item_id]
        grown = str(item.data.get(event.field) or "") + event.delta
        self.items[item.id] = replace(item, data={**item.data, event.field: grown})
        return self.items[item.id]

    def settled(self, item: ThreadItem) -> str | None:
        """The text without its last words, which may be the start of a name; None if that adds little to what was sent."""
        text = str(item.data.get("text") or "")
        if len(text) - self._looked.get(item.id, 0) < LOOK_EVERY:
            return None
        self._looked[item.id] = len(text)
        words = [match.end() for match in _WORD.finditer(text)]
        return text[: words[-1 - WORDS_BEHIND]] if len(words) > WORDS_BEHIND else None

    def forget(self, item_id: str) -> None:
        """The item is sent in full."""
        self.sent.pop(item_id, None)
        self._looked.pop(item_id, None)


@dataclass(slots=True, eq=False)
class Round:
    id: str
    """The case id."""
    text: str
    sides: tuple[Side, Side]
    """Left and right, as shown."""
    outcome: VoteOutcome | None = None

    @property
    def finished(self) -> bool:
        return all(side.done for side in self.sides)


# --

EXAMPLES = (
    "Explain what a handoff between agents is, in two sentences.",
    "What's the weather in Oakland?",
    "Write four lines about the sea.",
)


class Duel(View):
    """A live duel, shown as the last line of a cell or with `.panel()`. `blind=False` shows the models' names from the
    start. `questions` returns questions to ask in random order; it may block.

    Example:
        duel = lab.chat(models=["demo/assistant", "demo/echo"])
        assert isinstance(duel, Duel)
    """

    stem: ClassVar[str] = "duel"

    def __init__(
        self, source: DuelSource, *, blind: bool = True, trace_base: str | None = None,
        on_trace: Callable[[str], None] | None = None, questions: Callable[[], Sequence[str]] | None = None, **options: Unpack[ViewOptions],
    ) -> None:  # fmt: skip
        super().__init__(**options)
        self._source, self._blind = source, blind
        self._trace_base, self._on_trace = trace_base, on_trace
        self._rounds: list[Round] = []
        self._answering: set[asyncio.Task[None]] = set()
        self._votes: list[VoteRecord] = []
        self._read_questions = questions
        self._questions: list[str] = []
        """Remaining questions, the next one last."""

    # -- Python API

    @property
    def comparison_id(self) -> str | None:
        """The comparison with the messages, answers and votes; None before the first message."""
        return self._source.comparison_id

    @property
    def votes(self) -> list[VoteRecord]:
        """Votes, oldest first."""
        return list(self._votes)

    @property
    def busy(self) -> bool:
        return any(not task.done() for task in self._answering)

    async def ask(self, text: str) -> tuple[str, str]:
        """Send a message, wait for both answers, and return them (left, right) as shown."""
        await self._send(text, [])
        await asyncio.gather(*self._answering)
        left, right = self._rounds[-1].sides
        return left.answer, right.answer

    async def vote(self, outcome: VoteOutcome) -> VoteRecord:
        """Vote on the last message: `left`, `right`, `tie` or `both_bad`. The returned vote has the candidates' names."""
        if not self._rounds:
            raise NotFoundError("There is nothing to vote on.", "Send a message first.")
        await self._vote(self._rounds[-1].id, outcome)
        return self._votes[-1]

    # -- state sent to browsers

    async def prepare(self) -> None:
        if self._read_questions is not None:
            self._questions = list(dict.fromkeys(await self.in_turn(self._read_questions)))
            secrets.SystemRandom().shuffle(self._questions)
            self._read_questions = None

    def snapshot(self) -> Json:
        return {
            "rounds": [self._round_json(one) for one in self._rounds],
            "blind": self._blind,
            "candidates": list(self._source.candidates),
            "busy": self.busy,
            "examples": list(EXAMPLES),
            "left": len(self._questions),
            "trace_base": self._trace_base,
            **self._tally(),
        }

    def _round_json(self, one: Round) -> dict[str, Json]:
        return {
            "id": one.id, "text": one.text, "outcome": one.outcome, "ready": one.finished,
            "sides": [self._side_json(one, side) for side in one.sides],
        }  # fmt: skip

    def _side_json(self, one: Round, side: Side) -> dict[str, Json]:
        named = self._named(one)
        return {
            "name": side.candidate if named else None,
            "items": [self._item_json(item, named) for item in side.items.values()],
            "run": run_json(side.run) if named and side.run is not None else None,
            "problem": side.problem,
        }

    def _item_json(self, item: ThreadItem, named: bool) -> dict[str, Json]:
        widget = self._source.widget(item.data.get("output")) if item.type == "tool_call" else None
        shown = item if named else replace(item, data=cast("Mapping[str, Json]", self._source.scrub(dict(item.data))))
        # An approval is decided by its ids, even if they look like names.
        ids = {name: item.data[name] for name in ("run_id", "call_id") if name in item.data}
        return item_json(replace(shown, data={**shown.data, **ids}), widget)

    def _named(self, one: Round) -> bool:
        return not self._blind or one.outcome is not None

    def _tally(self) -> dict[str, Json]:
        wins: Counter[str] = Counter()
        for vote in self._votes:
            if vote.outcome in ("left", "right"):
                wins[vote.left_candidate if vote.outcome == "left" else vote.right_candidate] += 1
        return {
            "tally": [[name, wins[name]] for name in self._source.candidates], "votes": len(self._votes),
            "comparison_id": self.comparison_id,
        }  # fmt: skip

    def merge(self, last: dict[str, Json], op: dict[str, Json]) -> bool:
        same = op["kind"] == "delta" == last["kind"] and all(op[k] == last[k] for k in ("round", "side", "id"))
        if same:
            last["delta"] = f"{last['delta']}{op['delta']}"
        return same

    def static_html(self) -> str:
        parts = [f"<h4>{html.escape(' against '.join(self._source.candidates))}</h4><table>"]
        for one in self._rounds:
            named = self._named(one)
            heads = [side.candidate if named else letter for side, letter in zip(one.sides, "AB", strict=True)]
            cells = [html.escape(self._shown(side, named)).replace("\n", "<br>") for side in one.sides]
            parts.append(
                f"<tr><th colspan='2' style='text-align:left'>{html.escape(one.text)}</th></tr>"
                f"<tr>{''.join(f'<th>{html.escape(head)}</th>' for head in heads)}</tr>"
                f"<tr>{''.join(f'<td style=vertical-align:top;text-align:left>{cell}</td>' for cell in cells)}</tr>"
            )
        return "".join([*parts, "</table>"]) if self._rounds else f"{parts[0]}</table><p>No messages yet.</p>"

    def _shown(self, side: Side, named: bool) -> str:
        return side.answer if named else str(self._source.scrub(side.answer))

    # -- user actions

    @handles("question")
    async def _question(self) -> Json:
        """The next suggested question, and the number remaining."""
        if not self._questions:
            raise NotFoundError("All questions of the data set have been asked.", "Write your own question.")
        text = self._questions.pop()
        return {"text": text, "left": len(self._questions)}

    @handles("send")
    async def _send(self, text: str, attachments: list[dict[str, Json]]) -> None:
        if self.busy:
            raise ConflictError("The models are still answering.", "Wait, or press Stop.")
        text = text.strip()
        if not text:
            return
        one = Round(await self._source.begin(text), text, self._sides())
        self._rounds.append(one)
        self.emit({"kind": "round", "round": self._round_json(one)})
        for side in one.sides:
            self._follow(one, side, self._source.ask(side.candidate, text, attachments))

    def _sides(self) -> tuple[Side, Side]:
        a, b = self._source.candidates
        swapped = self._blind and secrets.randbelow(2) == 1
        return (Side(b), Side(a)) if swapped else (Side(a), Side(b))

    @handles("decide")
    async def _decide(self, round_id: str, side: int, run_id: str, call_id: str, decision: str, message: str = "", always: bool = False, answer: Mapping[str, Json] | None = None) -> None:  # fmt: skip
        one = self._round(round_id)
        chosen: dict[str, dict[str, Json]] = {
            call_id: {"decision": decision, "message": message, "always": always, "answer": answer}
        }
        self._follow(one, one.sides[side], self._source.decide(run_id, chosen))

    @handles("stop")
    async def _stop(self) -> None:
        running = [side.run_id for one in self._rounds for side in one.sides if side.run_id is not None]
        for run_id in running:
            await self._source.cancel(run_id)

    @handles("vote")
    async def _vote(self, round_id: str, outcome: VoteOutcome) -> None:
        one = self._round(round_id)
        if not one.finished:
            raise ConflictError("Both answers must be complete before a vote.", "Wait for them, or press Stop.")
        if one.outcome is not None:
            raise ConflictError("This message already has a vote.", "Send the next message.")
        left, right = one.sides
        await self._source.vote(one.id, left.candidate, right.candidate, outcome)
        one.outcome = outcome
        self._votes = await in_thread(self._source.votes)
        self.emit({"kind": "round", "round": self._round_json(one)})
        self.emit({"kind": "tally", **self._tally()})
        self.refresh_static()

    @handles("attach")
    async def _attach(self, name: str, mime_type: str, buffers: list[bytes]) -> Mapping[str, Json]:
        return await self._source.attach(name, mime_type, buffers[0])

    @handles("trace")
    async def _trace(self, trace_id: str) -> None:
        if self._on_trace:
            self._on_trace(trace_id)

    def _round(self, round_id: str) -> Round:
        match = next((one for one in self._rounds if one.id == round_id), None)
        if match is None:
            raise NotFoundError("This message is not in the duel.", "Reload the page.")
        return match

    # -- running two answers at once

    def _follow(self, one: Round, side: Side, events: AsyncIterator[Event]) -> None:
        side.done = False
        task = asyncio.ensure_future(self._answer(one, side, events))
        self._answering.add(task)
        self.emit({"kind": "busy", "value": True})

    async def _answer(self, one: Round, side: Side, events: AsyncIterator[Event]) -> None:
        try:
            async for event in events:
                self._apply(one, side, event)
            if side.done and side.run is not None:
                await self._source.finish(one.id, side.candidate, list(side.items.values()), side.run)
        except LabError as error:
            side.done = True
            self._notice(one, side, error.message, error.next_step)
        finally:
            side.run_id = None
            task = asyncio.current_task()
            self._answering = {other for other in self._answering if other is not task}
            if not self._answering:
                self.emit({"kind": "busy", "value": False})
            if one.finished:
                self.emit({"kind": "round", "round": self._round_json(one)})
            self.refresh_static()

    def _apply(self, one: Round, side: Side, event: Event) -> None:
        if isinstance(event, RunStarted):
            side.run_id = event.run.id
        elif isinstance(event, ItemAdded | ItemDone | ItemReplaced):
            if event.item.type != "user_message":
                side.items[event.item.id] = event.item
                side.forget(event.item.id)
                self._send_item(one, side, event.item)
        elif isinstance(event, ItemUpdated):
            self._grow(one, side, event)
        elif isinstance(event, RunEnded):
            side.run, side.run_id = event.run, None
            side.done = event.run.status != "needs_approval"
            if isinstance(event, RunFailed | RunStopped):
                self._notice(one, side, str(event.error.get("message", "")), str(event.error.get("next_step", "")))

    def _grow(self, one: Round, side: Side, event: ItemUpdated) -> None:
        if event.item_id not in side.items:
            return
        item = side.grow(event)
        if not self._named(one) and event.field != "text":
            return  # A tool's arguments are sent when they are complete.
        if self._named(one):
            self._send_delta(one, side, item.id, event.field, event.delta)
            return
        # A name may arrive in pieces: the sent text stays a few words behind, and is replaced if a name appears later.
        settled = side.settled(item)
        if settled is None:
            return
        safe, before = str(self._source.scrub(settled)), side.sent.get(item.id, "")
        side.sent[item.id] = safe
        if safe.startswith(before):
            self._send_delta(one, side, item.id, event.field, safe[len(before) :])
        else:
            self._send_item(one, side, replace(item, data={**item.data, event.field: safe}))

    def _send_delta(self, one: Round, side: Side, item_id: str, field: str, delta: str) -> None:
        at = one.sides.index(side)
        self.emit({"kind": "delta", "round": one.id, "side": at, "id": item_id, "field": field, "delta": delta})

    def _send_item(self, one: Round, side: Side, item: ThreadItem) -> None:
        shown = self._item_json(item, self._named(one))
        self.emit({"kind": "item", "round": one.id, "side": one.sides.index(side), "item": shown})

    def _notice(self, one: Round, side: Side, message: str, next_step: str) -> None:
        text = f"{message} {next_step}".strip()
        shown = text if self._named(one) else str(self._source.scrub(text))
        side.problem = shown
        self.emit({"kind": "problem", "round": one.id, "side": one.sides.index(side), "message": shown})


# --- `ArenaView`: blind pairwise voting on two answers


class RatingLike(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def rating(self) -> float: ...
    @property
    def ci_low(self) -> float: ...
    @property
    def ci_high(self) -> float: ...
    @property
    def votes(self) -> int: ...


class RankingLike(Protocol):
    @property
    def ratings(self) -> Sequence[RatingLike]: ...
    @property
    def votes(self) -> int: ...


class RevealedLike(Protocol):
    @property
    def left(self) -> str: ...
    @property
    def right(self) -> str: ...
    @property
    def outcome(self) -> VoteOutcome: ...


class ArenaLike(Protocol):
    """A source of duels that stores votes. Methods block."""

    @property
    def votes(self) -> list[VoteRecord]: ...
    def next(self) -> DuelRecord | None: ...
    def vote(self, duel_id: str, outcome: VoteOutcome) -> RevealedLike: ...
    def ranking(self) -> RankingLike: ...


class ArenaView(View):
    """Blind voting, with buttons or the keys 1 to 4. `ranking()` and `votes` return the results; `duel`, `vote(…)` and
    `next()` correspond to the buttons.

    Example:
        grid = await lab.compare(["Say 4.", "Say 5."], models=["demo/echo", "demo/assistant"], scorers=["contains:4"])
        view = lab.arena(grid)
        assert isinstance(view, ArenaView) and not view.votes
    """

    stem = "arena"

    def __init__(self, arena: ArenaLike, **options: Unpack[ViewOptions]) -> None:
        super().__init__(**options)
        self._arena = arena
        self._one_at_a_time = threading.Lock()
        self._duel = arena.next()
        self._revealed: RevealedLike | None = None
        self._ranking = arena.ranking()

    @property
    def votes(self) -> list[VoteRecord]:
        """All votes on the comparison, oldest first."""
        return self._arena.votes

    def ranking(self) -> RankingLike:
        """Ratings from all votes so far, best first, with 95 % intervals."""
        return self._ranking

    @property
    def duel(self) -> DuelRecord | None:
        """The two answers shown, without names; None if there are none left."""
        return self._duel

    def next(self) -> DuelRecord | None:
        """Show the next duel, after a vote on the current one; None if there are none left."""
        self._next()
        self._send_state()
        return self._duel

    def vote(self, outcome: VoteOutcome, duel_id: str | None = None) -> None:
        """Vote on the current duel, as the buttons do. Raises `NotFoundError` if there is none or it is not `duel_id`,
        `UsageError` for an unknown outcome."""
        self._vote(duel_id or ("" if self._duel is None else self._duel.id), outcome)
        self._send_state()

    def snapshot(self) -> dict[str, Json]:
        # The names are included only after the vote.
        return {
            "duel": None if self._duel is None else asdict(self._duel),
            "revealed": None if self._revealed is None else _revealed(self._revealed),
            "ranking": [_rating(rating) for rating in self._ranking.ratings],
            "votes": self._ranking.votes,
        }

    def static_html(self) -> str:
        rows = "".join(
            f"<tr><th scope='row'>{html.escape(r.name)}</th><td>{r.rating:.0f}</td><td>{_interval(r)}</td><td>{r.votes}</td></tr>"
            for r in self._ranking.ratings
        )
        heads = "<tr><th>candidate</th><th>rating</th><th>95 % interval</th><th>votes</th></tr>"
        return f"<p>Blind arena, {_count(self._ranking.votes)} so far. Voting needs a running kernel.</p><table>{heads}{rows}</table>"

    @handles("vote")
    async def _vote_in_browser(self, duel_id: str, outcome: VoteOutcome) -> None:
        await in_thread(self._vote, duel_id, outcome)
        self._send_state()

    @handles("next")
    async def _next_in_browser(self) -> None:
        await in_thread(self._next)
        self._send_state()

    def _vote(self, duel_id: str, outcome: VoteOutcome) -> None:
        with self._one_at_a_time:
            self._revealed = self._arena.vote(duel_id, outcome)
            self._ranking = self._arena.ranking()

    def _next(self) -> None:
        """The next duel; an open one without a vote is kept."""
        with self._one_at_a_time:
            if self._revealed is not None:
                self._duel, self._revealed = self._arena.next(), None

    def _send_state(self) -> None:
        self.emit({"kind": "arena", **self.snapshot()})
        self.refresh_static()


def _revealed(revealed: RevealedLike) -> dict[str, Json]:
    return {"left": revealed.left, "right": revealed.right, "outcome": revealed.outcome}


def _rating(rating: RatingLike) -> dict[str, Json]:
    return {name: getattr(rating, name) for name in ("name", "rating", "ci_low", "ci_high", "votes")}


def _interval(rating: RatingLike) -> str:
    known = math.isfinite(rating.ci_low) and math.isfinite(rating.ci_high)
    return f"{rating.ci_low:.0f} to {rating.ci_high:.0f}" if known else "unknown"


def _count(votes: int) -> str:
    return f"{votes} {'vote' if votes == 1 else 'votes'}"
