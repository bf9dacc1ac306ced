"""Where the files that come with the package are: in the wheel beside the code, in a checkout at the top level."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parent.parent


def data_path(name: str = "") -> Path:
    """A file or folder below `data/`. Raises `FileNotFoundError` when it is not there."""
    return _find("_data", "data", name)


def notebooks_path() -> Path:
    """The folder of the notebooks, in the package or in a source tree."""
    return _find("_notebooks", "notebooks", "")


def _find(in_wheel: str, in_checkout: str, name: str) -> Path:
    for folder in (_PACKAGE / in_wheel, _CHECKOUT / in_checkout):
        path = folder / name
        if path.exists():
            return path
    raise FileNotFoundError(
        f"{name or in_checkout} is missing from this installation of timestep-lab; install it again."
    )
