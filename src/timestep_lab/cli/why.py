"""`timestep-lab why`: which step made a run go wrong, found by replaying it."""

from __future__ import annotations

import click

from timestep_lab.cli.context import console, json_option, print_json, say, store_option, with_lab
from timestep_lab.cli.render import print_rows
from timestep_lab.cli.traces import full_id
from timestep_lab.lab import Lab

SHOWN = 12
"""Suspects in the table."""


@click.command("why")
@click.argument("trace_id")
@click.option(
    "--wrong", metavar="SCORER", help="What holds of wrong answers, e.g. contains:°F; needless for a run that failed."
)
@click.option("--right", metavar="TEXT", help="The corrected answer, which a right one contains.")
@click.option(
    "--replays",
    type=click.IntRange(2),
    default=10,
    show_default=True,
    help="Of each suspect, to confirm it; as many again where they do not settle it.",
)
@click.option("-k", type=click.IntRange(1), default=8, show_default=True, help="Continuations from each decision.")
@click.option(
    "--tools", default="tape", show_default=True, metavar="TAPE",
    help="What tools answer from: tape, tape:<filter of traces>, or live (those that only read).",
)  # fmt: skip
@click.option(
    "--on-miss", default="fail", show_default=True, metavar="WAY", help="fail, live-if-readonly or simulate:<model>."
)
@click.option("--budget", type=float, metavar="USD", help="Stop before more than this is spent.")
@click.option("--plan", is_flag=True, help="Only say what it would take.")
@json_option
@store_option
@with_lab
async def command(
    lab: Lab, trace_id: str, wrong: str | None, right: str | None, replays: int, k: int, tools: str, on_miss: str, budget: float | None,
    plan: bool, as_json: bool,
) -> int:  # fmt: skip
    """Replay the run of TRACE_ID with and without each suspect, and say which step made it go wrong. A stopped search goes on where it was."""
    from timestep_lab.evals.cause import Why

    found = await lab.why(
        full_id(lab, trace_id), wrong=wrong, right=right, replays=replays, k=k, tools=tools, on_miss=on_miss, budget_usd=budget, plan=plan
    )  # fmt: skip
    if not isinstance(found, Why):
        say(repr(found))
        return 0
    if as_json:
        print_json({"verdict": found.verdict, "replays": found.replays, "spent_usd": found.spent_usd, "suspects": found.rows(),
                    "outlook": found.outlook.rows()})  # fmt: skip
        return 0
    say(found.verdict)
    columns = ["step", "what", "repair", "repaired", "held", "anew", "start", "verdict"]
    rows = [[row[name] for name in columns] for row in found.rows()[:SHOWN]]
    print_rows(console(), columns, rows, empty="No suspects.")
    say(repr(found.outlook))
    return 0
