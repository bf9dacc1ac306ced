"""The examples in the docstrings of the public names, which the reference shows: each is run as it stands."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

import timestep_lab
from timestep_lab import Lab, LabError

EXAMPLE = re.compile(r"^Example:\n((?:    .*\n|\n)+)", re.MULTILINE)


def example(name: str) -> str | None:
    found = EXAMPLE.search(f"{inspect.getdoc(getattr(timestep_lab, name)) or ''}\n")
    return textwrap.dedent(found[1]) if found else None


def shown_by_another(name: str) -> bool:
    thing = getattr(timestep_lab, name)
    return name == "__version__" or (inspect.isclass(thing) and issubclass(thing, LabError) and thing is not LabError)


NAMES = [name for name in timestep_lab.__all__ if not shown_by_another(name)]


def test_every_public_name_has_an_example() -> None:
    assert [name for name in NAMES if example(name) is None] == []


@pytest.mark.parametrize("name", NAMES)
async def test_the_example_of_a_public_name_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable, value in {"WEATHER_MODE": "recorded", "TIMESTEP_LAB_DEMO_DELAY_MS": "0"}.items():
        monkeypatch.setenv(variable, value)
    lab = Lab(":memory:")
    known: dict[str, Any] = {**{each: getattr(timestep_lab, each) for each in NAMES}, "lab": lab}
    code = compile(example(name) or "", f"the example of {name}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    done = eval(code, known)
    if isinstance(done, Awaitable):
        await done
    await lab.aclose()
