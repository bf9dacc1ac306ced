"""`timestep-lab compare`: run candidates on the same cases and compare them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from timestep_lab.cli.context import console, json_option, print_json, say, store_option, with_lab
from timestep_lab.cli.render import print_rows, progress_bar
from timestep_lab.lab import Lab
from timestep_lab.model.codec import object_of
from timestep_lab.model.comparison import (
    SHOWN_MEASURES,
    ComparisonProgress,
    ComparisonStarted,
    decision_table,
    failed_calls,
)
from timestep_lab.model.display import cost_text, count_text, duration_text
from timestep_lab.model.errors import LabError, UsageError
from timestep_lab.model.events import Event

if TYPE_CHECKING:
    from timestep_lab.evals.grid import Grid
    from timestep_lab.evals.plan import Plan
    from timestep_lab.lab.remote.comparing import RemoteComparison

RULE_NOT_MET = 100


@click.command("compare")
@click.argument("dataset", type=click.Path(path_type=Path), required=False)
@click.option("--models", help="Comma-separated, e.g. openai/gpt-4.1,ollama/qwen3")
@click.option("--agents", help="Comma-separated: names, module:function, or https://…")
@click.option("--scorers", help="Comma-separated, e.g. exact,contains,tool_order:search,fetch")
@click.option("--epochs", type=click.IntRange(1), help="Number of repeats of every case.")
@click.option(
    "--group", metavar="COLUMN", help="Column that groups related cases, e.g. document; statistics then count groups."
)
@click.option("--by", metavar="COLUMN", help="Column to slice the results by, e.g. topic.")
@click.option(
    "--concurrency", type=click.IntRange(1), help="Maximum concurrent calls; default: as many as the provider accepts."
)
@click.option("--budget", type=float, metavar="USD", help="Stop before spending more than this, in US dollars.")
@click.option("--limit", type=click.IntRange(1), help="Use only the first N cases.")
@click.option(
    "--approve",
    type=click.Choice(["all", "none"]),
    help="Approve all or none of the tool calls that need approval; default: none.",
)
@click.option("--tools", metavar="TAPE", help="'tape' or 'tape:<trace filter>': answer tool calls from recorded runs.")
@click.option(
    "--on-miss",
    metavar="WAY",
    help="For calls that are not on the tape: fail (default), live-if-readonly or simulate:<model>.",
)
@click.option(
    "--fail-under",
    "rules",
    multiple=True,
    metavar="RULE",
    help="E.g. exact>=0.8; exit code 100 if not met. Repeatable.",
)
@click.option(
    "--min-scored", type=click.FloatRange(0, 1), default=1.0, show_default=True, metavar="SHARE",
    help="Fraction of answers that a scorer must have scored for its rules to pass.",
)  # fmt: skip
@click.option(
    "--stop", type=click.Choice(["settled"]), help="Check after every case, and stop as soon as the result is settled."
)
@click.option(
    "--margin", type=click.FloatRange(0), help="Non-inferiority margin; default 0.05, five points of a score from 0 to 1."
)  # fmt: skip
@click.option(
    "--alpha",
    type=click.FloatRange(0, 0.5, min_open=True),
    help="With --stop: the false positive rate; default 0.05.",
)
@click.option("--open-ended", is_flag=True, default=None, help="With --stop: cases may be added later.")
@click.option("--resume", metavar="ID", help="Resume a comparison that was stopped.")
@click.option(
    "--rescore", metavar="ID", help="Score the stored answers of a comparison with --scorers; no model is called."
)
@click.option("--plan", is_flag=True, help="Only print the estimated cost.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write .csv .jsonl .parquet .html .xml (JUnit) .dpo.jsonl or .json."
)
@json_option
@store_option
@with_lab
async def command(
    lab: Lab, dataset: Path | None, models: str | None, agents: str | None, scorers: str | None, epochs: int | None, group: str | None, by: str | None,
    concurrency: int | None, budget: float | None, limit: int | None, approve: str | None, tools: str | None, on_miss: str | None, rules: tuple[str, ...], min_scored: float,
    stop: str | None, margin: float | None, alpha: float | None, open_ended: bool | None, resume: str | None, rescore: str | None,
    plan: bool, out: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Run every candidate on every case of DATASET, and report which is better and whether the difference is
    significant.

    DATASET is a file, or the name of a stored data set; with `list`, the stored comparisons are listed.
    """
    if dataset == Path("list") and models is None and agents is None:
        return _list(lab, as_json)
    if sum(one is not None for one in (dataset, resume, rescore)) != 1:
        raise UsageError(
            "Give exactly one of: a dataset, --resume, --rescore.",
            "--resume and --rescore take the id of a comparison.",
        )
    given = {
        "models": _split(models), "agents": _agents(agents), "scorers": _specs(scorers), "epochs": epochs, "group": group, "concurrency": concurrency,
        "budget_usd": budget, "limit": limit, "approve": approve, "tools": tools, "on_miss": on_miss, "stop": stop, "margin": margin, "alpha": alpha, "open_ended": open_ended,
    }  # fmt: skip
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    names_its_own = dataset is not None and dataset.suffix.lower() in (".yaml", ".yml", ".json")
    _refuse_early(rules, out, None if resume or rescore or names_its_own else _specs(scorers) or [])
    if plan:
        return _show_plan(await lab.plan(dataset, **options), as_json)
    if rescore is not None:
        grid = await lab.rescore(rescore, scorers=options.pop("scorers", ()), **options)
    else:
        grid = await _compared(lab, dataset, resume, options, rules, by, quiet=as_json)
    if as_json:
        print_json(grid.to_json(by=by))
    else:
        print_grid(console(), grid)
        if by is not None:
            _print_slices(console(), grid, by)
    if out is not None:
        grid.save(out)
    if grid.status in ("over_budget", "cancelled", "interrupted"):
        say(_go_on(grid.id), err=True)
    broken = [result for result in grid.check(rules, min_scored=min_scored) if not result.holds] if rules else []
    for result in broken:
        say(f"not met: {result}", err=True)
    if broken:
        return RULE_NOT_MET
    if grid.cells and all(cell.status == "error" for cell in grid.cells):
        raise LabError(
            f"Every call failed. {' '.join(failed_calls(grid.cells))}",
            f"Fix the cause, then retry with: timestep-lab compare --resume {grid.id}",
        )
    return 0 if grid.status == "completed" else 1


def _list(lab: Lab, as_json: bool) -> int:
    """The newest stored comparisons."""
    records = lab.comparisons()
    if as_json:
        print_json([asdict(record) for record in records])
    else:
        print_rows(
            console(), ["comparison", "name", "status", "candidates", "cases", "started"],
            [[r.id, r.name, r.status, ", ".join(str(object_of(c).get("name")) for c in r.candidates), r.n_cases, r.created_at] for r in records],
            empty="No comparisons. Run one with: timestep-lab compare DATASET --models demo/echo",
        )  # fmt: skip
    return 0


def _refuse_early(rules: Sequence[str], out: Path | None, scorers: Sequence[str] | None) -> None:
    """Check rules and output paths before anything is spent. `scorers`: None if they are not known yet. Raises
    `UsageError`.
    """
    from timestep_lab.evals.exports import check_path
    from timestep_lab.evals.rules import read, refuse_unscored
    from timestep_lab.evals.scorers.registry import make_scorers

    if out is not None:
        check_path(out)
    for rule in rules:
        read(rule)
    if rules and scorers is not None:
        refuse_unscored(rules, [scorer.name for scorer in make_scorers(scorers)])


async def _compared(
    lab: Lab, dataset: Path | None, resume: str | None, options: dict[str, Any], rules: Sequence[str], by: str | None,
    *, quiet: bool,
) -> Grid:  # fmt: skip
    """Run the comparison to the end. If stopped by Ctrl-C, print how to resume it."""
    from timestep_lab.evals.engine import Comparison
    from timestep_lab.evals.results import slices_of
    from timestep_lab.evals.rules import refuse_unknown

    prepared = await lab.prepare_comparison(dataset, resume=resume, **options)
    comparison = cast("Comparison | RemoteComparison", prepared)
    try:
        refuse_unknown(comparison.grid(), rules)
        if by is not None:
            slices_of(comparison.grid().cases, by)
    except UsageError:
        if not isinstance(comparison, Comparison):  # In a served lab it is already running.
            comparison.cancel()
            await comparison.run()
        raise
    if comparison.forecast and not quiet:
        say(comparison.forecast, err=True)
    started = False
    with progress_line(quiet=quiet) as show:

        def on_event(event: Event) -> None:
            nonlocal started
            started = started or isinstance(event, ComparisonStarted)
            show(event)

        try:
            return await comparison.run(on_event)
        except asyncio.CancelledError:
            if started:  # Before that, it is not in the store.
                say(_go_on(comparison.record.id), err=True)
            raise


def _go_on(id: str) -> str:
    return f"Stopped. Resume with: timestep-lab compare --resume {id}"


def print_grid(out: Console, grid: Grid) -> None:
    """The winner first; then the recommendation, with quality, cost and time relative to the first candidate; then the
    verdict, failures, answers that could not be scored, and a row per candidate."""
    if grid.conclusion:
        out.print(f"[bold]{escape(grid.conclusion)}[/]\n")
    if grid.decision and grid.scorers:
        shipped = Table(box=None, pad_edge=False, header_style="bold")
        for name in (f"beside {grid.decision[0].reference}", *SHOWN_MEASURES):
            shipped.add_column(escape(name), overflow="fold")
        for name, cells in decision_table(grid.decision):
            shipped.add_row(escape(name), *map(escape, cells))
        out.print(shipped)
        out.print()
    if grid.verdict:
        out.print(f"{escape(grid.verdict)}\n")
    for note in grid.notes:
        out.print(f"[yellow]{escape(note)}[/]")
    # In a narrow window, a cell wraps to two lines rather than cutting a name or a number.
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("candidate", overflow="fold", min_width=min(14, max(len(row.name) for row in grid.candidate_rows)))
    for name in [*grid.scorers, "errors", "cost", "p50", "first token", "tokens"]:
        table.add_column(name, justify="right", overflow="fold")
    for row in grid.candidate_rows:
        scores = [_score(row.scores.get(name)) for name in grid.scorers]
        tokens = None if row.input_tokens is None else row.input_tokens + (row.output_tokens or 0)
        table.add_row(
            escape(row.name), *scores, str(row.errors), cost_text(row.cost_usd), duration_text(row.latency_ms_p50),
            duration_text(row.ttft_ms_p50), count_text(tokens),
        )  # fmt: skip
    out.print(table)
    out.print(f"[dim]{grid.id} · {len(grid.cases)} cases · {grid.status.replace('_', ' ')}[/]")


def _print_slices(out: Console, grid: Grid, by: str) -> None:
    """One row per slice and candidate with a column per scorer, followed by the differences between candidates."""
    from timestep_lab.evals.results import differences, means

    cells: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in means(grid, by):
        cells.setdefault((row["slice"], row["candidate"]), {})[row["scorer"]] = row
    lines = [
        [part, candidate, max(row["n"] for row in scores.values()), *(_score(scores[name]) for name in grid.scorers)]
        for (part, candidate), scores in cells.items()
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in [by, "candidate", "cases", *grid.scorers]:
        table.add_column(name, overflow="fold", justify="left" if name in (by, "candidate") else "right")
    for line in lines:
        table.add_row(escape(line[0]), escape(line[1]), str(line[2]), *line[3:])
    out.print()
    out.print(table)
    settled = [
        row for row in differences(grid, by)
        if row["p_holm"] is not None and row["p_holm"] <= 0.05 and row["ci_low"] is not None and not row["ci_low"] <= 0 <= row["ci_high"]
    ]  # fmt: skip
    for row in settled:
        ahead, behind = (row["b"], row["a"]) if row["diff"] > 0 else (row["a"], row["b"])
        out.print(escape(f"On {by} {row['slice']} ({row['n']} cases) {ahead} is ahead of {behind} on {row['scorer']}."))
    if not settled and len(grid.candidates) > 1:
        out.print(
            f"[dim]No slice shows a difference between the candidates ({len({row[0] for row in lines})} slices).[/]"
        )


def _score(score: object) -> str:
    if not isinstance(score, dict) or score.get("mean") is None:
        return "–"
    low, high = score.get("ci_low"), score.get("ci_high")
    interval = "" if low is None or high is None else f" [dim]{low:.2f}–{high:.2f}[/]"
    missing = f" [dim]({score['unscored']} not scored)[/]" if score.get("unscored") else ""
    return f"{score['mean']:.2f}{interval}{missing}"


@contextlib.contextmanager
def progress_line(*, quiet: bool) -> Iterator[Callable[[Event], None]]:
    """A progress bar on a terminal; nothing in a pipe."""
    if quiet or not sys.stderr.isatty():
        yield lambda event: None
        return
    with progress_bar("Comparing") as update:

        def show(event: Event) -> None:
            if isinstance(event, ComparisonProgress):
                p = event.progress
                note = f"{p.errors} errors · {p.cached} cached · {cost_text(p.spent_usd) if p.spent_usd else ''}"
                update(p.done, p.total, note, _short_interval(event) if event.verdict else None)

        yield show


def _short_interval(event: ComparisonProgress) -> str:
    """The widest interval among the pairs that are not settled."""
    known = [pair for pair in event.pairs if pair.ci_low == pair.ci_low]
    if not known:
        return "Comparing"
    widest = max(known, key=lambda pair: pair.ci_high - pair.ci_low)
    scale = 100 if widest.points else 1
    return f"Comparing ({widest.ci_low * scale:+.1f} to {widest.ci_high * scale:+.1f} after {widest.looked} cases)"


def _show_plan(plan: Plan, as_json: bool) -> int:
    if as_json:
        print_json([asdict(row) for row in plan.rows])
    else:
        print_rows(console(), list(plan.df().columns), plan.df().itertuples(index=False, name=None))
        say(str(plan))
    return 0


def _split(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _agents(text: str | None) -> list[object] | None:
    """Agents from the command line: names, addresses of services, and functions as `module:function`."""
    import importlib
    import importlib.util
    import re

    agents: list[object] = []
    for name in _split(text) or ():
        module, _, function = name.partition(":")
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
            agents.append(name)
            continue
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)
        try:
            there = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            there = False
        if not there:
            agents.append(name)
        elif not callable(made := getattr(importlib.import_module(module), function, None)):
            raise UsageError(f"The module {module} has no function {function!r}.", "Check --agents.")
        else:
            agents.append(made)
    return None if text is None else agents


def _specs(text: str | None) -> list[str] | None:
    from timestep_lab.evals.scorers.registry import split_specs

    return None if text is None else split_specs(text)
