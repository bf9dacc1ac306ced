"""How a comparison is carried out: everything but what is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from timestep_lab.types.errors import UsageError
from timestep_lab.types.suggest import did_you_mean

Cache = Literal["models", "all", "off"]
DEFAULT_CONCURRENCY = 10
MOST_CONCURRENCY = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    epochs: int = 1
    """How often every case is asked. Repeats are never answered from one another's cache."""
    group: str | None = None
    """A column of the data that says which cases belong together (`document`): intervals and tests then count groups, not cases."""
    concurrency: int | None = None
    """Calls under way with one provider at most. None: begins at 10 and grows to 64 as long as the provider takes it."""
    timeout_s: float = 120.0
    """For one try of one answer, from its start to its end; waits for a slot or a rate limit do not count."""
    retries: int = 2
    """Further tries of a case whose run failed for a passing reason, on top of what the router repeats by itself."""
    budget_usd: float | None = None
    budget_tokens: int | None = None
    cache: Cache = "models"
    """`models`: answers of candidates without tools are used again; `all`: of all candidates; `off`: none."""
    max_turns: int = 10
    approve: Literal["all", "none"] = "none"
    """What happens to a tool call that needs approval; nobody is there to be asked."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("retries", 0), ("max_turns", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(
                    f"{name}={value!r} is not possible.", f"Give a whole number from {least} up.", param=name
                )
        if self.concurrency is not None and self.concurrency < 1:
            raise UsageError(
                f"concurrency={self.concurrency!r} is not possible.",
                "Give a whole number from 1 up.",
                param="concurrency",
            )
        for name in ("timeout_s", "budget_usd", "budget_tokens"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name}={value!r} is not possible.", "Give a number above 0.", param=name)
        if self.cache not in ("models", "all", "off"):
            raise UsageError(f"cache={self.cache!r} is not known.", "Use 'models', 'all' or 'off'.", param="cache")
        if self.approve not in ("all", "none"):
            raise UsageError(f"approve={self.approve!r} is not possible here.", "Use 'all' or 'none'.", param="approve")

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Options:
        """Raises `UsageError` for a name that is no option."""
        names = cls.__dataclass_fields__
        strange = next((name for name in given if name not in names), None)
        if strange is not None:
            raise UsageError(
                f"A comparison has no option {strange!r}.{did_you_mean(strange, names)}",
                f"Its options: {', '.join(names)}.",
            )
        values = dict(given)
        if isinstance(values.get("cache"), bool):
            values["cache"] = "models" if values["cache"] else "off"
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
