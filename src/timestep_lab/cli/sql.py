"""`timestep-lab sql`: read the lab as rows."""

from __future__ import annotations

import click

from timestep_lab.cli.context import console, json_option, print_json, store_option, with_lab
from timestep_lab.cli.render import print_rows
from timestep_lab.lab import Lab


@click.command("sql")
@click.argument("query")
@click.option("--limit", type=click.IntRange(1), help="At most so many rows.")
@json_option
@store_option
@with_lab
async def command(lab: Lab, query: str, limit: int | None, as_json: bool) -> int:
    """Run one read-only SQL QUERY over the lab's views (`show tables` lists them)."""
    rows = lab._select(query, limit=limit)
    if as_json:
        print_json(rows.dicts())
    else:
        print_rows(console(), rows.columns, rows.rows)
    return 0
