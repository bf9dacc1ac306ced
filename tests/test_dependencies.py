"""What the program imports is what an installation brings: nothing works only because something else happens to be installed."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "timestep_lab"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = {
    "local": {"xllamacpp"},
    "postgres": {"psycopg", "psycopg_pool", "pgvector"},
    "files": {"openpyxl", "pypdf", "striprtf", "wordllama"},
    "metrics": {"rouge_score", "sacrebleu"},
}
"""What only an extra brings. The code says which one when it is missing."""
IN_AN_EXTRA = {"psycopg-pool": "psycopg"}
"""Distributions that come as an extra of another: `psycopg[pool]`."""


OF_TYPE_CHECKERS = {"_typeshed"}
"""Modules that every type checker has and that do not exist at run time."""


def distribution(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def imported(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"timestep_lab"}


@cache
def installed() -> Mapping[str, list[str]]:
    """Module to distributions. It reads the metadata of every installed package."""
    return packages_distributions()


def undeclared(modules: set[str], requirements: list[str]) -> set[str]:
    """The modules of which no distribution is required."""
    declared = {distribution(requirement) for requirement in requirements}
    names = {module: {distribution(name) for name in installed().get(module, [module])} for module in modules}
    return {m for m, of in names.items() if not {IN_AN_EXTRA.get(name, name) for name in of} & declared}


EVERYWHERE = set().union(*(imported(ast.parse(path.read_text("utf-8"))) for path in SOURCE.rglob("*.py")))


def test_every_import_of_the_program_is_required() -> None:
    optional = set().union(*EXTRAS.values())
    assert undeclared(EVERYWHERE - optional - OF_TYPE_CHECKERS, PROJECT["dependencies"]) == set()


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_is_optional_comes_with_its_extra(extra: str) -> None:
    assert undeclared(EXTRAS[extra] & EVERYWHERE, PROJECT["optional-dependencies"][extra]) == set()


def test_an_import_that_nothing_requires_is_found() -> None:
    assert undeclared({"rich", "duckdb"}, [r for r in PROJECT["dependencies"] if not r.startswith("rich")]) == {"rich"}
