"""`timestep-lab files`: files that agents can read and search."""

from __future__ import annotations

from pathlib import Path

import click

from timestep_lab.cli.context import console, json_option, print_json, say, store_option, with_lab
from timestep_lab.cli.render import print_rows
from timestep_lab.lab import Lab


@click.group("files")
def command() -> None:
    """List, add and remove files."""


@command.command("list")
@json_option
@store_option
@with_lab
async def list_files(lab: Lab, as_json: bool) -> int:
    """List all files, oldest first."""
    rows = [[f.id, f.filename, f.content_type, f.bytes, f.created_at] for f in lab.files.list()]
    columns = ["id", "name", "type", "bytes", "created"]
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_rows(console(), columns, rows, empty="No files. Add one with: timestep-lab files add PATH")
    return 0


@command.command("add")
@click.argument("path", type=click.Path(path_type=Path))
@store_option
@with_lab
async def add_file(lab: Lab, path: Path) -> int:
    """Store a copy of PATH (at most 50 MB)."""
    say(lab.files.add(path).id)
    return 0


@command.command("remove")
@click.argument("file_id")
@store_option
@with_lab
async def remove_file(lab: Lab, file_id: str) -> int:
    """Delete FILE_ID from the store."""
    lab.files.delete(file_id)
    return 0
