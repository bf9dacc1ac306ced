"""`timestep-lab traces`, `sql`, `why` and `blame`: list, show, import, export, score and compare traces; find causes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from timestep_lab.cli.context import console, json_option, print_json, say, store_option, with_lab
from timestep_lab.cli.render import print_rows, print_trace, progress_bar
from timestep_lab.lab import Lab
from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import list_of
from timestep_lab.model.display import ago_text, cost_text, duration_text
from timestep_lab.model.errors import UsageError
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.evals.cause import Blame, Why, WhyPlan
    from timestep_lab.evals.cause.replays import Progress, Search

T = TypeVar("T")
INTERRUPTED = 130

# --- `timestep-lab sql`: query the lab's rows


@click.command("sql")
@click.argument("query")
@click.option("--limit", type=click.IntRange(1), help="Maximum number of rows.")
@json_option
@store_option
@with_lab
async def sql_command(lab: Lab, query: str, limit: int | None, as_json: bool) -> int:
    """Run one read-only SQL QUERY over the lab's views (`show tables` lists them)."""
    rows = lab._select(query, limit=limit)
    if as_json:
        print_json(rows.dicts())
    else:
        print_rows(console(), rows.columns, rows.rows)
    return 0


SHORT_ID = 12
"""Number of characters of a trace id in lists; `show` accepts shortened ids."""


@click.group("traces")
def traces_command() -> None:
    """List, show, import, export, score and compare traces."""


@traces_command.command("list")
@click.option("--filter", "filter_", default="", help='For example: model == "gpt-4.1" and cost > 0.01')
@click.option("--search", default="", help="Words to find in the conversation.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@json_option
@store_option
@with_lab
async def list_traces(lab: Lab, filter_: str, search: str, limit: int, as_json: bool) -> int:
    """List traces, newest first."""
    rows = lab.trace_source.page(filter=filter_, search=search, limit=limit).data
    if as_json:
        print_json(list(rows))
        return 0
    out, now = console(), utc_now()

    def started(moment: datetime) -> datetime | str:
        return ago_text((now - moment).total_seconds()) if out.is_terminal else moment

    print_rows(
        out,
        ["trace", "status", "agents", "model", "started", "time", "tokens", "cost", "input"],
        [
            [
                r["trace_id"][: SHORT_ID if out.is_terminal else None], r["status"], r["agent_path"], r["model"],
                started(r["started_at"]), duration_text(r["duration_ms"]),
                (r["input_tokens"] or 0) + (r["output_tokens"] or 0), cost_text(r["cost_usd"], r["n_unpriced"]), str(r["input"] or "")[:60],
            ]
            for r in rows
        ],
        empty="No traces. Create one with: timestep-lab demo",
    )  # fmt: skip
    return 0


@traces_command.command("show")
@click.argument("trace_id")
@json_option
@store_option
@with_lab
async def show_trace(lab: Lab, trace_id: str, as_json: bool) -> int:
    """Show the span tree of TRACE_ID with durations, tokens and cost. The first characters of the id are enough."""
    trace_id = full_id(lab, trace_id)
    trace = lab.trace_source.read(trace_id)
    spans = lab.trace_source.spans(trace_id)
    if as_json:
        print_json({**trace, "spans": lab.trace_source.payloads(trace_id, [span.span_id for span in spans])})
    else:
        print_trace(console(), trace, spans)
    return 0


@traces_command.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@store_option
@with_lab
async def import_traces(lab: Lab, path: Path) -> int:
    """Import OTLP (protobuf, JSON, JSONL), OpenInference or Agents SDK exports, or a lab's own export. Importing a file
    twice adds nothing.
    """
    done = lab.import_traces(path)
    known = done.spans - done.added
    say(f"{done.added} new spans in {done.traces} traces from {path}{f'; {known} already existed' if known else ''}.")
    if done.rejected:
        say(f"{done.rejected} could not be read: {done.problem}", err=True)
    return 0


@traces_command.command("export")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("trace_ids", nargs=-1)
@click.option("--filter", "filter_", default="", help="Trace filter; default: all.")
@store_option
@with_lab
async def export_traces(lab: Lab, path: Path, trace_ids: tuple[str, ...], filter_: str) -> int:
    """Write traces to PATH, in the format of its suffix: .json (OTLP), .jsonl, .parquet, .duckdb, or .html (a
    self-contained page).
    """
    if trace_ids and filter_:
        raise UsageError("Both trace ids and a filter were given.", "Give one of them.")
    chosen = [full_id(lab, id) for id in trace_ids] or None
    count = lab.export(path, trace_ids=chosen, filter=filter_)
    say(f"{count} traces written to {path}")
    return 0


@traces_command.command("score")
@click.argument("which", required=False, default="")
@click.option("--scorers", required=True, help="Comma-separated, e.g. contains:°F,steps:5,judge:is polite")
@click.option("--limit", type=click.IntRange(1), help="Use only the first N traces.")
@click.option("--again", is_flag=True, help="Score again traces that these scorers have already scored.")
@click.option(
    "--budget", type=float, metavar="USD", help="For judges: stop before spending more than this, in US dollars."
)
@json_option
@store_option
@with_lab
async def score_traces(
    lab: Lab, which: str, scorers: str, limit: int | None, again: bool, budget: float | None, as_json: bool
) -> int:
    """Score the traces that WHICH selects: a filter, or an SQL query that returns trace_id. Default: all completed
    traces.
    """
    from timestep_lab.evals.scorers.registry import split_specs

    specs = split_specs(scorers)
    frame = await lab.score_traces(which, scorers=specs, limit=limit, again=again, budget_usd=budget)
    rows = frame.astype(object).where(frame.notna(), None)
    if as_json:
        print_json(rows.to_dict("records"))
        return 0
    out = console()
    shown = rows.assign(trace_id=[id[: SHORT_ID if out.is_terminal else None] for id in rows["trace_id"]])
    print_rows(out, list(shown.columns), shown.itertuples(index=False, name=None), empty="No trace matches.")
    for name in [column for column in frame.columns if column not in ("trace_id", "note")]:
        known = frame[name].dropna()
        if len(known):
            say(f"{name}: mean {known.astype(float).mean():.2f} of {len(known)} traces")
    return 0


@traces_command.command("diff")
@click.argument("left")
@click.argument("right")
@json_option
@store_option
@with_lab
async def diff_traces(lab: Lab, left: str, right: str, as_json: bool) -> int:
    """Align two traces and show where they first differ."""
    rows = lab.diff(full_id(lab, left), full_id(lab, right))
    if as_json:
        print_json(rows.to_dict("records"))
    else:
        print_rows(console(), list(rows.columns), rows.itertuples(index=False, name=None))
    return 0


@traces_command.command("annotate")
@click.argument("trace_id")
@click.argument("name")
@click.argument("value", type=float, required=False)
@click.option("--label", help="A text label, instead of or in addition to the value.")
@click.option("--note", help="Why.")
@click.option("--span", "span_id", help="Annotate this span of the trace.")
@store_option
@with_lab
async def annotate(
    lab: Lab, trace_id: str, name: str, value: float | None, label: str | None, note: str | None, span_id: str | None
) -> int:
    """Store the score NAME, with a VALUE or a label, on TRACE_ID."""
    score = lab.score(full_id(lab, trace_id), name, value, label=label, note=note, span_id=span_id)
    say(score.id)
    return 0


def full_id(lab: Lab, prefix: str) -> str:
    """The id of the one trace that starts with `prefix`. Raises `UsageError` if there are several."""
    matches = lab.sql("select trace_id from traces where trace_id like $1 limit 3", [prefix.replace("%", "") + "%"])
    ids = [str(trace_id) for trace_id in matches["trace_id"]]
    if len(ids) > 1 and prefix not in ids:
        raise UsageError(f"Several traces start with {prefix!r}: {', '.join(ids)}.", "Give more characters of the id.")
    return ids[0] if len(ids) == 1 else prefix


# --- `timestep-lab why`: find the step that made a run go wrong, by replaying it


SHOWN = 12
"""Maximum number of suspects in the table."""


@click.command("why")
@click.argument("trace_id")
@click.option(
    "--wrong", metavar="SCORER", help="What identifies a wrong answer, e.g. contains:°F; not needed for a failed run."
)
@click.option("--right", metavar="TEXT", help="The corrected answer; a right answer contains it.")
@click.option(
    "--replays",
    type=click.IntRange(2),
    default=10,
    show_default=True,
    help="Replays to confirm each suspect; doubled if they do not settle it.",
)
@click.option("-k", type=click.IntRange(1), default=8, show_default=True, help="Continuations after each decision.")
@click.option(
    "--tools", default="tape", show_default=True, metavar="TAPE",
    help="How tools answer: tape, tape:<trace filter>, or live (read-only tools).",
)  # fmt: skip
@click.option(
    "--on-miss",
    default="fail",
    show_default=True,
    metavar="WAY",
    help="For calls that are not on the tape: fail, live-if-readonly or simulate:<model>.",
)
@click.option("--budget", type=float, metavar="USD", help="Stop before spending more than this, in US dollars.")
@click.option("--plan", is_flag=True, help="Only print the maximum cost.")
@json_option
@store_option
@with_lab
async def why_command(
    lab: Lab, trace_id: str, wrong: str | None, right: str | None, replays: int, k: int, tools: str, on_miss: str, budget: float | None,
    plan: bool, as_json: bool,
) -> int:  # fmt: skip
    """Replay the run of TRACE_ID with and without each suspect, and report which step made it go wrong. A stopped
    search resumes where it was.
    """
    from timestep_lab.evals import cause

    lab.flush()
    question = await cause.ask(
        lab.runner, full_id(lab, trace_id), wrong=wrong, right=right, tools=tools, on_miss=on_miss
    )

    async def search(on_progress: Progress | None) -> Why | WhyPlan:
        return await cause.why(
            lab.runner, question, replays=replays, k=k, budget_usd=budget, plan=plan, on_progress=on_progress
        )

    if plan:
        say(repr(await search(None)))
        return 0
    result, code = await _searched(search, "replays", quiet=as_json)
    assert isinstance(result, cause.Why)
    if as_json:
        print_json({"verdict": result.verdict, "replays": result.replays, "spent_usd": result.spent_usd, "suspects": result.rows(),
                    "outlook": result.outlook.rows(), "notes": [*result.notes]})  # fmt: skip
        return code
    say(result.verdict)
    for note in result.notes:
        say(f"Note: {note}")
    columns = ["step", "what", "repair", "repaired", "held", "resampled", "start", "verdict"]
    rows = [[row[name] for name in columns] for row in result.rows()[:SHOWN]]
    print_rows(console(), columns, rows, empty="No suspects.")
    say(repr(result.outlook))
    return code


async def _searched(search: Callable[[Progress], Awaitable[T]], what: str, *, quiet: bool) -> tuple[T, int]:
    """The result of a search, and the exit code. Its progress is a bar on a terminal, and one line at its end otherwise. Ctrl-C ends it
    with what is known."""
    working: Search | None = None

    def amount() -> str:
        spent = None if working is None else working.spent_usd
        return "cost unknown" if spent is None else cost_text(spent)

    with progress_bar("Searching") if sys.stderr.isatty() and not quiet else nullcontext() as bar:

        def on_progress(work: Search) -> None:
            nonlocal working
            working = work
            if bar:
                bar(work.done, work.planned, amount(), None)

        task = asyncio.ensure_future(search(on_progress))
        code = 0
        try:
            result = await asyncio.shield(task)
        except asyncio.CancelledError:
            if working is None:  # Nothing has been done yet.
                task.cancel()
                await asyncio.wait([task])
                raise
            working.stop()
            result, code = await task, INTERRUPTED
    if working is not None and not bar and not quiet:
        say(f"{working.done} of at most {working.planned} {what}, {amount()}", err=True)
    return result, code


@click.command("blame")
@click.argument("good")
@click.argument("bad")
@click.argument("dataset")
@click.option("--scorers", required=True, help="Comma-separated, e.g. exact,contains; the first decides.")
@click.option("--epochs", type=click.IntRange(1), help="Number of repeats of every case.")
@click.option("--limit", type=click.IntRange(1), help="Use only the first N cases.")
@click.option("--tools", metavar="TAPE", help="'tape' or 'tape:<trace filter>': answer tool calls from recorded runs.")
@click.option(
    "--on-miss",
    metavar="WAY",
    help="For calls that are not on the tape: fail (default), live-if-readonly or simulate:<model>.",
)
@click.option("--budget", type=float, metavar="USD", help="Stop before spending more than this, in US dollars.")
@click.option("--plan", is_flag=True, help="Only print the estimated cost.")
@json_option
@store_option
@with_lab
async def blame_command(
    lab: Lab, good: str, bad: str, dataset: str, scorers: str, epochs: int | None, limit: int | None, tools: str | None, on_miss: str | None,
    budget: float | None, plan: bool, as_json: bool,
) -> int:  # fmt: skip
    """Find the change that made an agent worse, such as: blame "Front desk@3" "Front desk@7" cases.csv --scorers
    contains. The differences between the versions are tested in a subset of their combinations, each run on every case
    of DATASET."""
    from timestep_lab.evals.scorers.registry import split_specs
    from timestep_lab.lab.comparing import named
    from timestep_lab.service.causes import find_change, plan_of_change

    given = {"epochs": epochs, "limit": limit, "tools": tools, "on_miss": on_miss}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    cases, specs = await in_thread(named, lab, dataset), split_specs(scorers)
    if plan:
        say(repr(await plan_of_change(lab, good, bad, cases, specs, **options)))
        return 0

    async def search(on_progress: Progress) -> Blame:
        return await find_change(lab, good, bad, cases, specs, budget_usd=budget, on_progress=on_progress, **options)

    result, code = await _searched(search, "answers", quiet=as_json)
    if as_json:
        print_json({"verdict": result.verdict, "culprits": result.culprits, "calls": result.calls, "full_calls": result.full_calls,
                    "comparisons": [grid.id for grid in result.grids], "effects": result.rows()})  # fmt: skip
        return code
    say(result.verdict)
    rows = [
        [row["change"], f"{row['diff']:+.3f}", f"{row['ci_low']:+.3f} … {row['ci_high']:+.3f}", f"{row['p_holm']:.3g}", row["verdict"],
         ", ".join(map(str, list_of(row["not_separable_from"])))]
        for row in result.rows() if row["kind"] == "change" or row["verdict"] != "not settled"
    ]  # fmt: skip
    print_rows(console(), ["change", "difference", "95 % CI", "p (Holm)", "verdict", "not separable from"], rows)
    return code
