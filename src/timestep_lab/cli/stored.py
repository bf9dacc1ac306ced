"""`timestep-lab models`: providers and models."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from timestep_lab.cli.context import console, json_option, print_json, say, store_option, with_lab
from timestep_lab.cli.render import print_rows
from timestep_lab.lab import Lab
from timestep_lab.model.errors import UsageError

# --- `timestep-lab threads`: conversations


@click.group("threads")
def threads_command() -> None:
    """List, show and remove conversations."""


@threads_command.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@json_option
@store_option
@with_lab
async def list_threads(lab: Lab, limit: int, as_json: bool) -> int:
    """List conversations, newest first."""
    threads = lab.threads.list(limit)
    if as_json:
        print_json([asdict(thread.record) for thread in threads])
    else:
        print_rows(console(), ["id", "title", "created"], [[t.id, t.title, t.record.created_at] for t in threads])
    return 0


@threads_command.command("show")
@click.argument("thread_id")
@json_option
@store_option
@with_lab
async def show_thread(lab: Lab, thread_id: str, as_json: bool) -> int:
    """Print the conversation THREAD_ID as Markdown, or its items as JSON."""
    thread = lab.threads[thread_id]
    if as_json:
        print_json([asdict(item) for item in thread.items])
    else:
        say(thread.transcript())
    return 0


@threads_command.command("remove")
@click.argument("thread_id")
@store_option
@with_lab
async def remove_thread(lab: Lab, thread_id: str) -> int:
    """Delete THREAD_ID with its items and pending approvals. Its traces are kept."""
    lab.threads[thread_id].delete()
    return 0


# --- `timestep-lab datasets`: named, versioned data sets


@click.group("datasets")
def datasets_command() -> None:
    """List, show, save and remove data sets; use one with: timestep-lab compare NAME."""


@datasets_command.command("list")
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


@datasets_command.command("show")
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


@datasets_command.command("save")
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


@datasets_command.command("remove")
@click.argument("name")
@store_option
@with_lab
async def remove_dataset(lab: Lab, name: str) -> int:
    """Remove NAME with all its versions, or only the version NAME@2."""
    lab.datasets.delete(name)
    say(f"Removed {name}.")
    return 0


# --- `timestep-lab files`: files that agents can read and search


@click.group("files")
def files_command() -> None:
    """List, add and remove files."""


@files_command.command("list")
@json_option
@store_option
@with_lab
async def list_files(lab: Lab, as_json: bool) -> int:
    """List all files, newest first."""
    rows = [[f.id, f.filename, f.content_type, f.bytes, f.created_at] for f in lab.files.list()]
    columns = ["id", "name", "type", "bytes", "created"]
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_rows(console(), columns, rows, empty="No files. Add one with: timestep-lab files add PATH")
    return 0


@files_command.command("add")
@click.argument("path", type=click.Path(path_type=Path))
@store_option
@with_lab
async def add_file(lab: Lab, path: Path) -> int:
    """Store a copy of PATH (at most 50 MB)."""
    say(lab.files.add(path).id)
    return 0


@files_command.command("remove")
@click.argument("file_id")
@store_option
@with_lab
async def remove_file(lab: Lab, file_id: str) -> int:
    """Delete FILE_ID from the store."""
    lab.files.delete(file_id)
    return 0


@click.group("models")
def models_command() -> None:
    """List providers and models; download a small local model."""


@models_command.command("list")
@click.option("--provider", help="A provider's prefix: list its models. Default: list the providers.")
@json_option
@store_option
@with_lab
async def list_models(lab: Lab, provider: str | None, as_json: bool) -> int:
    """List the providers and whether each is ready, or one provider's models."""
    if provider is not None:
        models = await lab.router.list_models(provider)
        if as_json:
            print_json(models)
        else:
            say("\n".join(models))
        return 0
    states = lab.router.providers()
    columns = ["prefix", "ready", "detail", "next step"]
    rows = [[s.prefix + "/", s.ready, s.detail, "" if s.ready else s.next_step] for s in states]
    if as_json:
        print_json([dict(zip(["prefix", "ready", "detail", "next_step"], row, strict=True)) for row in rows])
    else:
        print_rows(console(), columns, [[row[0], "yes" if row[1] else "no", *row[2:]] for row in rows])
    return 0


@models_command.command("pull")
@click.argument("name")
def pull(name: str) -> int:
    """Download the weights of a small local model (smollm2-135m, 98 MB, Apache-2.0), to use as local/NAME."""
    from timestep_lab.runtime.adapters.local import pull as fetch

    say(fetch(name))
    return 0
