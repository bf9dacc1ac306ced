"""`timestep-lab datasets`: named, versioned data sets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from timestep_lab.cli.context import console, json_option, print_json, say, store_option, with_lab
from timestep_lab.cli.render import print_rows
from timestep_lab.lab import Lab
from timestep_lab.model.errors import UsageError


@click.group("datasets")
def command() -> None:
    """List, show, save and remove data sets; use one with: timestep-lab compare NAME."""


@command.command("list")
@json_option
@store_option
@with_lab
async def list_datasets(lab: Lab, as_json: bool) -> int:
    """List all versions, newest first."""
    records = lab.datasets.rows()
    if as_json:
        print_json([asdict(record) for record in records])
    else:
        print_rows(
            console(), ["data set", "cases", "tags", "created"],
            [[f"{r.name}@{r.version}", r.n_cases, ", ".join(r.tags), r.created_at] for r in records],
            empty="No data sets. Save one with: timestep-lab datasets save NAME FILE",
        )  # fmt: skip
    return 0


@command.command("show")
@click.argument("name")
@json_option
@store_option
@with_lab
async def show_dataset(lab: Lab, name: str, as_json: bool) -> int:
    """Print the cases of NAME, or of its version NAME@2."""
    dataset = lab.datasets[name]
    if as_json:
        print_json([asdict(case) for case in dataset])
    else:
        print_rows(console(), ["case", "input", "expected"], [[c.id, c.input, c.expected] for c in dataset])
    return 0


@command.command("save")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--traces", "filter_", metavar="FILTER", help="Instead of a file: the inputs of these traces.")
@click.option("--failures", metavar="ID", help="Instead of a file: the cases that failed in a comparison.")
@click.option("--tags", help="Comma-separated.")
@store_option
@with_lab
async def save_dataset(
    lab: Lab, name: str, path: Path | None, filter_: str | None, failures: str | None, tags: str | None
) -> int:
    """Save a new version of NAME from a file, from traces, or from the failures of a comparison."""
    if sum(one is not None for one in (path, filter_, failures)) != 1:
        raise UsageError("Give exactly one source of cases.", "Use a file, --traces FILTER or --failures ID.")
    chosen = [tag.strip() for tag in (tags or "").split(",") if tag.strip()]
    if filter_ is not None:
        record = lab.datasets.from_traces(name, filter_, tags=chosen)
    else:
        data = path if failures is None else lab.comparison(failures).failures()
        record = lab.datasets.save(name, data, tags=chosen)
    say(f"{record.name}@{record.version}: {record.n_cases} {'case' if record.n_cases == 1 else 'cases'}")
    return 0


@command.command("remove")
@click.argument("name")
@store_option
@with_lab
async def remove_dataset(lab: Lab, name: str) -> int:
    """Remove NAME with all its versions, or only the version NAME@2."""
    lab.datasets.delete(name)
    say(f"Removed {name}.")
    return 0
