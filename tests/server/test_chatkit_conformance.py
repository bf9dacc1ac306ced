"""The test suite that comes with `openai-chatkit`, run against our store. It is fetched, never kept here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TESTS_THEN = 111
"""How many there were with 1.6.5; fewer would mean that they were not found."""

TYPES = """
from dataclasses import dataclass


@dataclass
class RequestContext:
    user_id: str
"""


def archive() -> Path:
    """The source distribution of the installed version, fetched once and kept in the user's cache folder."""
    name = f"openai_chatkit-{version('openai-chatkit')}.tar.gz"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "timestep-lab-tests"
    kept = folder / name
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            done = subprocess.run(
                [*command, "--dest", fresh, f"openai-chatkit=={version('openai-chatkit')}"],
                capture_output=True, text=True, timeout=500, check=False,
            )  # fmt: skip
            if not (Path(fresh) / name).exists():
                pytest.fail(
                    f"The source distribution of openai-chatkit could not be had; these tests need a package index. "
                    f"Connect to one (or set PIP_INDEX_URL), or put {name} into {folder}.\n{done.stderr[-2000:]}"
                )
            (Path(fresh) / name).replace(kept)  # At once, for whoever else is looking for it.
    return kept


def test_the_sdks_own_tests_pass_with_our_store(tmp_path: Path) -> None:
    packed = archive()
    with tarfile.open(packed) as opened:
        safely: dict[str, Any] = (
            {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        )  # Not before Python 3.11.4.
        opened.extractall(tmp_path, **safely)
    tests = tmp_path / packed.name.removesuffix(".tar.gz") / "tests"
    home = tmp_path / "chatkit"
    (home / "helpers").mkdir(parents=True)
    (home / "tests").mkdir()
    for file in ("test_store.py", "test_chatkit_server.py", "test_agents.py"):
        (home / "tests" / file).write_text((tests / file).read_text(encoding="utf-8"), encoding="utf-8")
    (home / "tests" / "__init__.py").touch()
    (home / "tests" / "_types.py").write_text(TYPES, encoding="utf-8")
    (home / "helpers" / "__init__.py").touch()
    double = (Path(__file__).parent / "chatkit_double.py").read_text(encoding="utf-8")
    (home / "helpers" / "mock_store.py").write_text(double, encoding="utf-8")
    (home / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n", encoding="utf-8"
    )

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin", "-W", "ignore::DeprecationWarning", "tests"],
        cwd=home, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": f"{home}{os.pathsep}{ROOT / 'src'}"}, capture_output=True, text=True,
        timeout=500, check=False,
    )  # fmt: skip

    said = done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0, said
    assert passed is not None, said
    assert int(passed[1]) >= TESTS_THEN, said
    assert "skipped" not in done.stdout, said
