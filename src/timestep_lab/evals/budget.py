"""A limit in money and tokens that is not passed: a call starts only if what runs and it itself are likely to fit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from timestep_lab.evals.candidates import Candidate
from timestep_lab.model.errors import LabError, UsageError
from timestep_lab.runtime.pricing import has_price

if TYPE_CHECKING:
    from timestep_lab.runtime.provider import ModelRef


@dataclass(slots=True)
class Budget:
    usd: float | None = None
    tokens: int | None = None
    spent_usd: float = 0.0
    spent_tokens: int = 0
    answers: int = 0
    running: int = 0
    judgements: int = 0
    judging_usd: float = 0.0
    judging_tokens: int = 0
    judging: int = 0
    """Judgements under way."""
    used_up: bool = False
    """A judgement was refused for want of room."""
    _first: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def judgement(self) -> AsyncIterator[None]:
        """Room for one judgement, whose size is not known before the first has come: until then one at a time. Raises `LabError`."""
        bounded = self.usd is not None or self.tokens is not None
        async with self._first if bounded and not self.judgements else nullcontext():
            fits = all(
                limit is None
                or (spent < limit and spent + self._under_way(spent, of_judging) + self._one(of_judging) <= limit)
                for limit, spent, of_judging in (
                    (self.usd, self.spent_usd, self.judging_usd),
                    (self.tokens, float(self.spent_tokens), float(self.judging_tokens)),
                )
            )
            if not fits:
                self.used_up = True
                raise LabError(
                    f"The budget of {self.words} is used up, so the judge was not asked.", "Resume with a larger one."
                )
            self.judging += 1
            try:
                yield
            finally:
                self.judging -= 1

    def _one(self, of_judging: float) -> float:
        return of_judging / self.judgements if self.judgements else 0.0

    def _under_way(self, spent: float, of_judging: float) -> float:
        """What answers and judgements that have not come yet are likely to take."""
        answer = (spent - of_judging) / self.answers if self.answers else 0.0
        return answer * self.running + self._one(of_judging) * self.judging

    def spend_on_judging(self, usd: float | None, tokens: int) -> None:
        self.spent_usd += usd or 0.0
        self.spent_tokens += tokens
        self.judging_usd += usd or 0.0
        self.judging_tokens += tokens
        self.judgements += 1

    def room_for_one(self) -> bool | None:
        """True: start another. None: wait until one of those running ends. False: the budget is used up."""
        usd = self._room(self.usd, self.spent_usd, self._one(self.judging_usd))
        tokens = self._room(self.tokens, float(self.spent_tokens), self._one(self.judging_tokens))
        if usd and tokens:
            return True
        return None if self.running else False

    def _room(self, limit: float | None, spent: float, judgement: float) -> bool:
        if limit is None:
            return True
        mean = spent / self.answers if self.answers else 0.0
        # Before the first answer nothing is known of the size of one; then a few at a time find out.
        if not self.answers and self.running >= 4:
            return False
        return spent < limit and spent + mean * (self.running + 1) + judgement * self.judging <= limit

    def spend(self, usd: float | None, tokens: int) -> None:
        self.spent_usd += usd or 0.0
        self.spent_tokens += tokens
        self.answers += 1

    @property
    def words(self) -> str:
        parts = [
            f"${self.usd:g}" if self.usd is not None else "",
            f"{self.tokens:,} tokens" if self.tokens is not None else "",
        ]
        return " and ".join(part for part in parts if part)


def check_prices(candidates: Sequence[Candidate], judges: Sequence[ModelRef], budget_usd: float | None) -> None:
    """A budget in money holds only for models, judges included, whose price is known. Raises `UsageError` naming the others."""
    if budget_usd is None:
        return
    unknown = [c.name for c in candidates if not has_price(c.model.prefix, c.model.model)]
    unknown += [f"the judge {j.full}" for j in judges if not has_price(j.prefix, j.model)]
    if unknown:
        raise UsageError(
            f"The price of {', '.join(unknown)} is not known, so a budget in money cannot be kept.",
            "Set budget_tokens instead.",
        )
