"""`timestep-lab lab`: JupyterLab on the notebooks, copied to a folder of the user's."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from timestep_lab.cli.context import say
from timestep_lab.model.errors import StoreReadOnlyError
from timestep_lab.resources import data_path, notebooks_path


@click.command("lab", context_settings={"ignore_unknown_options": True})
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), default=Path("timestep-notebooks"), show_default=True,
    help="Where the notebooks are copied to. Files already there are left alone.",
)  # fmt: skip
@click.option("--no-open", is_flag=True, help="Only copy the notebooks; do not start JupyterLab.")
@click.argument("jupyter_options", nargs=-1, type=click.UNPROCESSED)
def command(folder: Path, no_open: bool, jupyter_options: tuple[str, ...]) -> int:
    """Copy the notebooks to a folder of yours and open JupyterLab there.

    What follows `--` goes to JupyterLab as it is, for example `-- --no-browser`.
    """
    copied = copy_notebooks(folder)
    say(f"{len(copied)} new files in {folder.resolve()}")
    if no_open:
        return 0
    tour = folder / "00_tour.ipynb"
    where = ["--ServerApp.root_dir", str(folder.resolve())]
    start = [f"--LabApp.default_url=/lab/tree/{tour.name}"] if tour.exists() else []
    # JupyterLab refuses to start for root, whom a container often has for its only user. It listens on loopback, behind a token.
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *where, *start, *root, *jupyter_options])


def copy_notebooks(folder: Path) -> list[Path]:
    """Copy notebooks and the data they read; never overwrite. Raises `StoreReadOnlyError` when the folder cannot be written."""
    wanted = {path: folder / path.name for path in sorted(notebooks_path().glob("*.ipynb"))}
    for path in sorted(data_path().rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            wanted[path] = folder / "data" / path.relative_to(data_path())
    copied = []
    try:
        for source, target in wanted.items():
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                copied.append(target)
    except OSError as error:
        raise StoreReadOnlyError(
            f"The notebooks could not be copied to {folder}: {error.strerror}.", "Choose another place with --folder."
        ) from error
    return copied
