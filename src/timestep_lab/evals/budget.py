"""A limit in money and tokens that is not passed: a call starts only if what runs and it itself are likely to fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from timestep_lab.evals.candidates import Candidate
from timestep_lab.runtime.pricing import price
from timestep_lab.types.errors import UsageError
from timestep_lab.types.records import Usage


@dataclass(slots=True)
class Budget:
    usd: float | None = None
    tokens: int | None = None
    spent_usd: float = 0.0
    spent_tokens: int = 0
    answers: int = 0
    running: int = 0

    def room_for_one(self) -> bool | None:
        """True: start another. None: wait until one of those running ends. False: the budget is used up."""
        usd = self._room(self.usd, self.spent_usd)
        tokens = self._room(self.tokens, float(self.spent_tokens))
        if usd and tokens:
            return True
        return None if self.running else False

    def _room(self, limit: float | None, spent: float) -> bool:
        if limit is None:
            return True
        mean = spent / self.answers if self.answers else 0.0
        # Before the first answer nothing is known of the size of one; then a few at a time find out.
        if not self.answers and self.running >= 4:
            return False
        return spent < limit and spent + mean * (self.running + 1) <= limit

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


def check_prices(candidates: Sequence[Candidate], budget_usd: float | None) -> None:
    """A budget in money holds only for models whose price is known. Raises `UsageError` naming the others."""
    if budget_usd is None:
        return
    one = Usage(requests=1, input_tokens=1, output_tokens=1)
    unknown = [c.name for c in candidates if price(c.model.prefix, c.model.model, one) is None]
    if unknown:
        raise UsageError(
            f"The price of {', '.join(unknown)} is not known, so a budget in money cannot be kept.",
            "Set budget_tokens instead.",
        )
