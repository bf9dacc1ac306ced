"""`ArenaView`: blind pairwise voting on two answers."""

from __future__ import annotations

import html
import math
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from timestep_lab.model.records import DuelRecord, Json, VoteOutcome, VoteRecord
from timestep_lab.store.base import in_thread
from timestep_lab.ui.view import View, handles


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

    def __init__(self, arena: ArenaLike, **options: Any) -> None:
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

    def ranking(self) -> Any:
        """Ratings from all votes so far, best first, with 95 % intervals."""
        return self._ranking

    @property
    def duel(self) -> DuelRecord | None:
        """The two answers shown, without names; None if there are none left."""
        return self._duel

    def next(self) -> DuelRecord | None:
        """Show the next duel, after a vote on the current one; None if there are none left."""
        self._next()
        self._tell()
        return self._duel

    def vote(self, outcome: VoteOutcome, duel_id: str | None = None) -> None:
        """Vote on the current duel, as the buttons do. Raises `NotFoundError` if there is none or it is not `duel_id`,
        `UsageError` for an unknown outcome."""
        self._vote(duel_id or ("" if self._duel is None else self._duel.id), outcome)
        self._tell()

    def snapshot(self) -> Json:
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
        self._tell()

    @handles("next")
    async def _next_in_browser(self) -> None:
        await in_thread(self._next)
        self._tell()

    def _vote(self, duel_id: str, outcome: VoteOutcome) -> None:
        with self._one_at_a_time:
            self._revealed = self._arena.vote(duel_id, outcome)
            self._ranking = self._arena.ranking()

    def _next(self) -> None:
        """The next duel; an open one without a vote is kept."""
        with self._one_at_a_time:
            if self._revealed is not None:
                self._duel, self._revealed = self._arena.next(), None

    def _tell(self) -> None:
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
