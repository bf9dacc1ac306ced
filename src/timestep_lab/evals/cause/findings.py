"""The results of root-cause analysis: shares, outlooks, suspects, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from timestep_lab.evals.statistics.intervals import wilson
from timestep_lab.model.codec import Json
from timestep_lab.model.display import cost_text

if TYPE_CHECKING:
    import pandas


# -- results


@dataclass(frozen=True, slots=True)
class Share:
    """The number of replays that succeeded. `lost`: replays that left the tape; they are not counted."""

    passed: int = 0
    n: int = 0
    lost: int = 0

    @property
    def rate(self) -> float | None:
        return self.passed / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval."""
        bounds = wilson(self.passed, self.n)
        return bounds.low, bounds.high

    def __str__(self) -> str:
        return f"{self.passed} of {self.n}"

    def __add__(self, other: Share) -> Share:
        return Share(self.passed + other.passed, self.n + other.n, self.lost + other.lost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One model response in the recorded run."""

    step: int
    """The number of the step, from 1."""
    span_id: str
    agent: str
    what: str
    """The tools it called, the agent it handed off to, or `answer`."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """The success rate after each decision, when that decision and everything after it is resampled.

    Example:
        run = await lab.run("Weather in Oslo?", agent="Weather Assistant", model="demo/assistant")
        outlook = await lab.outlook(run, "contains:Oslo", k=2)
        assert isinstance(outlook, Outlook)
    """

    trace_id: str
    decisions: tuple[Decision, ...]
    shares: tuple[Share, ...]
    right: bool
    """Whether the recorded run succeeded."""
    stopped: str = ""
    """Why it ended early, if it did."""

    def fall(self, turn: int) -> float | None:
        """How much the recorded decision lowered the success rate, from 0 to 1; negative if it raised it."""
        after = (1.0 if self.right else 0.0) if turn + 1 == len(self.shares) else self.shares[turn + 1].rate
        before = self.shares[turn].rate
        return None if before is None or after is None else before - after

    def df(self) -> pandas.DataFrame:
        """One row per decision: the success rate before it, with its interval, and the drop."""
        import pandas

        return pandas.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Json]]:
        """The rows of `df`."""
        rows: list[dict[str, Json]] = []
        for turn, (decision, share) in enumerate(zip(self.decisions, self.shares, strict=True)):
            low, high = share.interval
            rows.append(
                {
                    "step": decision.step, "agent": decision.agent, "what": decision.what, "passed": share.passed, "n": share.n,
                    "lost": share.lost, "share": share.rate, "ci_low": low, "ci_high": high, "fall": self.fall(turn),
                    "span_id": decision.span_id,
                }
            )  # fmt: skip
        return rows

    def _repr_html_(self) -> str:
        return _curve(self)

    def __repr__(self) -> str:
        lines = []
        for decision, share in zip(self.decisions, self.shares, strict=True):
            bar = "" if share.rate is None else "█" * round(20 * share.rate)
            lines.append(f"{decision.step:>3} {decision.what[:28]:<28} {bar:<20} {share}")
        lines.append(f"    {'as it was':<28} {'█' * 20 if self.right else '':<20} {'right' if self.right else 'wrong'}")
        return "\n".join([*lines, *([self.stopped] if self.stopped else [])])


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """One step with one repair, and the replay results. Shares are from the confirmation, or from the screening if it
    was not confirmed.
    """

    decision: Decision
    kind: str
    """`result`, `argument`, `handoff`, `instruction`, `model`, `history`, `loop`, or `decision` (nothing is repaired:
    chance).
    """
    repair: str
    repaired: Share
    held: Share
    """With the step as it was."""
    resampled: Share | None
    """With the decision resampled; None for tool results, which are held fixed."""
    start: Share
    """From the start, without changes."""
    p: float | None = None
    """p-value with Holm's correction over the shortlist; None if it was not on the shortlist."""
    verdict: str = ""
    branch: str | None = None
    """Id of a trace in which the step is repaired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """The result of `lab.why`: `.verdict` is a sentence, `.suspects` a table.

    Example:
        run = await lab.run("Weather in Oslo?", agent="Weather Assistant", model="demo/assistant")
        why = await lab.why(run, wrong="contains:°F", replays=3)  # Celsius was wanted
        assert isinstance(why, Why)
        print(why.verdict)
    """

    trace_id: str
    found: tuple[Suspect, ...]
    """The suspects, most important first."""
    outlook: Outlook
    replays: int
    """Number of replays run now; stored replays are not counted."""
    spent_usd: float | None
    stopped: str = ""
    """Why it ended early, if it did."""
    made: int = 0
    """Number of replays that were judged or left the tape, with the stored ones."""
    lost: int = 0
    """Those of them that left the tape."""
    lost_at: str | None = None
    """The tool at which most of them left it."""
    live: bool = False
    """Whether read-only tools were called."""
    notes: tuple[str, ...] = ()
    """What could not be tried, and why."""

    @property
    def suspects(self) -> pandas.DataFrame:
        """One row per suspect: the step, the repair, the success rate in each arm, and the verdict."""
        import pandas

        return pandas.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Json]]:
        """The rows of `suspects`."""
        return [
            {
                "step": s.decision.step, "agent": s.decision.agent, "what": s.decision.what, "kind": s.kind, "repair": s.repair,
                "repaired": str(s.repaired), "held": str(s.held), "resampled": None if s.resampled is None else str(s.resampled),
                "start": str(s.start), "p": s.p, "verdict": s.verdict, "branch": s.branch, "span_id": s.decision.span_id,
            }
            for s in self.found
        ]  # fmt: skip

    @property
    def verdict(self) -> str:
        """The conclusion in one sentence."""
        tail = f" {self.stopped}" if self.stopped else ""
        if self.found and self.found[0].verdict in ("proven", "chance"):
            return describe(self.found[0]) + tail
        if self.made and self.lost * 2 > self.made:
            advice = "Use a tape with more traces, or tools='live'."
            if self.live:
                advice = "Only read-only tools are called: mark it with timestep_lab.read_only (or readOnlyHint) if it is one, or use a tape."
            return f"Not judged: {self.lost} of {self.made} replays left the tape, most often at {self.lost_at}. {advice}{tail}"
        start = self.outlook.shares[0]
        if start.n and start.passed * 2 >= start.n:
            return (
                f"Not reproduced: {start} replays from the start come out right, and no step was found to decide it."
                + tail
            )
        if self.found and self.found[0].verdict == "suspected":
            return describe(self.found[0]) + tail
        return "No step was found that decides it alone." + tail

    def _repr_html_(self) -> str:
        columns = ("step", "what", "kind", "repair", "repaired", "held", "resampled", "verdict", "branch")
        # Jupyter aligns cells to the right, and marimo gives them no room; an id may be broken anywhere.
        styles = dict.fromkeys(columns, "text-align:left;padding:2px 10px 2px 0")
        styles["branch"] += ";word-break:break-all;min-width:9em"
        head = "".join(f"<th style='{styles[name]}'>{name}</th>" for name in columns)
        body = "".join(f"<tr>{_cells(row, styles)}</tr>" for row in self.rows()[:MOST_SHOWN])
        return (
            f"<p><strong>{escape(self.verdict)}</strong></p>{_curve(self.outlook)}"
            f"<div style='overflow-x:auto'><table><tr>{head}</tr>{body}</table></div>"
            f"{''.join(f'<p>{escape(note)}</p>' for note in self.notes)}"
            f"<p><code>lab.trace({self.trace_id!r})</code> shows it live; a branch beside it: "
            f"<code>lab.diff({self.trace_id!r}, branch)</code></p>"
        )

    def __repr__(self) -> str:
        return self.verdict


def _cells(row: Mapping[str, object], styles: Mapping[str, str]) -> str:
    return "".join(f"<td style='{style}'>{escape(str(row[name] or '–'))}</td>" for name, style in styles.items())


MOST_SHOWN = 12
"""Maximum number of suspects shown in a cell."""


def _curve(outlook: Outlook) -> str:
    """The outlook as an SVG chart: the success rate after each step, with its interval. The text and the table have the
    same data.
    """
    ends = 1.0 if outlook.right else 0.0
    points = [(share.rate, *share.interval) for share in outlook.shares] + [(ends, ends, ends)]
    step = 560 / max(1, len(points) - 1)
    spots = [
        (40 + n * step, 110 - 100 * rate, 110 - 100 * low, 110 - 100 * high)
        for n, (rate, low, high) in enumerate(points) if rate is not None
    ]  # fmt: skip
    band = [f"{x:.1f},{high:.1f}" for x, _, _, high in spots] + [
        f"{x:.1f},{low:.1f}" for x, _, low, _ in reversed(spots)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in spots)
    marks = "".join(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='#1b6fc2'/>" for x, y, _, _ in spots)
    names = "".join(
        f"<text x='{40 + n * step:.1f}' y='128' text-anchor='middle'>{n + 1 if n < len(outlook.shares) else 'end'}</text>"
        for n in range(len(points))
    )
    description = "; ".join(
        f"step {d.step} {d.what}: {s}" for d, s in zip(outlook.decisions, outlook.shares, strict=True)
    )
    return (
        f"<svg viewBox='0 0 620 134' width='620' style='max-width:100%' font-size='11' fill='currentColor' role='img' "
        f"aria-label='{escape(f'Replays that come out right. {description}', quote=True)}'>"
        "<path d='M40 10H600M40 60H600M40 110H600' stroke='currentColor' stroke-opacity='.2'/>"
        "<text x='34' y='14' text-anchor='end'>100 %</text><text x='34' y='114' text-anchor='end'>0 %</text>"
        f"<polygon points='{' '.join(band)}' fill='#1b6fc2' fill-opacity='.2'/>"
        f"<polyline points='{line}' fill='none' stroke='#1b6fc2' stroke-width='2'/>{marks}{names}</svg>"
    )


def describe(suspect: Suspect) -> str:
    """The verdict on one suspect as a sentence."""
    where = f"step {suspect.decision.step} · {suspect.decision.what}"
    if suspect.verdict == "chance":
        assert suspect.resampled is not None
        again = suspect.resampled.n - suspect.resampled.passed
        low, high = wilson(again, suspect.resampled.n).low, wilson(again, suspect.resampled.n).high
        return (
            f"{where} · CHANCE: decided here, and resampled it goes wrong in {again} of {suspect.resampled.n} (95 % CI {_percent(low)}–"
            f"{_percent(high)}); as it was, {suspect.held} replays come out right."
        )
    low, high = suspect.repaired.interval
    word = "PROVEN" if suspect.verdict == "proven" else "suspected, not proven"
    return (
        f"{where} · {word}: repaired ({suspect.repair}), {suspect.repaired} replays come out right (95 % CI {_percent(low)}–"
        f"{_percent(high)}); as it was, {suspect.held}."
    )


def _percent(share: float) -> str:
    return f"{share * 100:.0f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyPlan:
    """The maximum cost of `why`, estimated before it runs."""

    decisions: int
    repairs: int
    replays: int
    cost_usd: float | None
    """Estimated from the cost of the recorded run; None if that is unknown."""

    def __repr__(self) -> str:
        money = "at an unknown price" if self.cost_usd is None else f"for about ${self.cost_usd:.2f}"
        return f"{self.decisions} decisions, {self.repairs} repairs to try: at most {self.replays} replays {money}."


@dataclass(frozen=True, slots=True, kw_only=True)
class BlamePlan:
    """The cost of `blame`, estimated before it runs."""

    changes: tuple[str, ...]
    calls: int
    most_calls: int
    """Including the additional rows that separate pairs, if they are needed."""
    cost_usd: tuple[float, float] | None
    """For `calls` and `most_calls`, in US dollars; None if unknown."""

    def __repr__(self) -> str:
        money = (
            "cost unknown"
            if self.cost_usd is None
            else f"{cost_text(self.cost_usd[0])} to {cost_text(self.cost_usd[1])}"
        )
        n = len(self.changes)
        return (
            f"{n} change{'s' * (n != 1)} ({', '.join(self.changes)}): {self.calls} to {self.most_calls} calls; {money}."
        )
