"""How a comparison is carried out: everything but what is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from timestep_lab.model.errors import UsageError
from timestep_lab.model.suggest import did_you_mean

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
    """Of the bootstrap, and of the order in which a comparison that stops itself asks its cases."""
    stop: Literal["settled"] | None = None
    """`settled`: looked at after every case, and stopped when one candidate is better than, or no worse than, each other one."""
    margin: float | None = None
    """How much worse is still called no worse, in the score's units. None: 0.05 for scores from 0 to 1; 0: only better counts."""
    alpha: float = 0.05
    """With `stop`: the chance of calling one better where there is no difference, over all looks and pairs together."""
    open_ended: bool = False
    """With `stop`: cases may be added later, so the test never uses its α up. It needs more cases than one that knows its end."""
    tools: str | Sequence[str] | None = None
    """What tools answer from: None, themselves; `tape`, the traces that the cases name (their column `trace_id`); `tape:<filter>`, the
    traces that a filter finds; or ids of traces. A case's own trace comes first."""
    on_miss: str = "fail"
    """What becomes of a call that the tape does not have: `fail` (the answer is not judged), `live-if-readonly`, `simulate:<model>`."""
    ignore: Mapping[str, Sequence[str] | str] | None = None
    """On tape: tool to the arguments that say nothing, `*` for all of them."""
    near: Mapping[str, Sequence[str] | str] | None = None
    """On tape: tool to the text arguments that need only be nearly alike."""

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
        if self.tools is None and (self.on_miss != "fail" or self.ignore or self.near):
            raise UsageError("on_miss, ignore and near are about a tape.", "Say which: tools='tape'.", param="tools")
        if self.tools is not None:
            from timestep_lab.runtime.tape import check_on_miss

            check_on_miss(self.on_miss, may_ask=False)
        if self.cache not in ("models", "all", "off"):
            raise UsageError(f"cache={self.cache!r} is not known.", "Use 'models', 'all' or 'off'.", param="cache")
        if self.stop is not None and self.group is not None:
            raise UsageError(
                "A comparison of grouped cases cannot stop itself: its looks would count cases, not groups.",
                "Leave stop or group away.",
                param="group",
            )
        if self.stop not in (None, "settled"):
            raise UsageError(f"stop={self.stop!r} is not known.", "Use 'settled', or leave it away.", param="stop")
        if self.margin is not None and not 0 <= self.margin < float("inf"):
            raise UsageError(f"margin={self.margin!r} is not possible.", "Give a number from 0 up.", param="margin")
        if not 0 < self.alpha <= 0.5:
            raise UsageError(
                f"alpha={self.alpha!r} is not possible.", "Give a number above 0, up to 0.5.", param="alpha"
            )
        if self.stop is None and (self.open_ended or self.alpha != 0.05):
            name = "open_ended" if self.open_ended else "alpha"
            raise UsageError(f"{name} is for a comparison that stops itself.", "Add stop='settled'.", param=name)
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
        if hasattr(values.get("tools"), "spec"):  # A `Tape`.
            spec = values["tools"].spec("fail")
            values = {"ignore": spec["ignore"] or None, "near": spec["near"] or None, **values, "tools": spec["traces"]}
        if isinstance(values.get("cache"), bool):
            values["cache"] = "models" if values["cache"] else "off"
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
