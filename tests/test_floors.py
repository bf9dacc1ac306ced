"""The shape of the package: who may import whom, and what importing it costs."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import timestep_lab

PACKAGE = Path(timestep_lab.__file__).parent
FLOORS = {
    "model": 0,
    "resources": 0,
    "store": 1,
    "runtime": 2,
    "evals": 3,
    "service": 4,
    "ui": 5,
    "server": 6,
    "lab": 7,
    "cli": 7,
}
OPEN_TO_ALL = {"__init__", "__main__"}
UI_SEES = {"model", "resources", "store", "service", "ui"}
HEAVY = ("agents", "openai", "anthropic", "panel", "pandas", "nbformat", "chatkit", "fastapi", "duckdb", "mcp")


def modules() -> list[Path]:
    """Without the notebooks, which a wheel carries beside the modules."""
    return sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "_notebooks")


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def imports(path: Path) -> list[tuple[int, str]]:
    """Every module of this package that a file imports, at the top or inside a function, with its line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return [(line, name) for line, name in found if name.split(".")[0] == "timestep_lab"]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_own_floor_or_below(path: Path) -> None:
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if room in OPEN_TO_ALL:
        return
    wrong = []
    for line, name in imports(path):
        other = room_of(name)
        if other in OPEN_TO_ALL or other == "__version__":
            continue
        sideways = FLOORS[other] == FLOORS[room] and other != room and FLOORS[room] not in (0, 7)
        if FLOORS[other] > FLOORS[room] or sideways or (room == "ui" and other not in UI_SEES):
            wrong.append(f"{path.relative_to(PACKAGE)}:{line} {room} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_floor() -> None:
    rooms = {
        p.stem if p.is_file() else p.name
        for p in PACKAGE.iterdir()
        if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert rooms - OPEN_TO_ALL == set(FLOORS)


def test_importing_the_package_loads_nothing_heavy_and_costs_little() -> None:
    """At most 0.25 s on two cores, by the interpreter's own account of a fresh process."""
    code = "import sys, timestep_lab; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & set(HEAVY)
    total_us = next(int(line.split("|")[1]) for line in done.stderr.splitlines() if line.endswith("| timestep_lab"))
    assert total_us < 250_000


@pytest.mark.parametrize(
    "module", ["runtime.interchange.otlp_in", "runtime.files.extract", "evals.datasets.files", "service.files"]
)
def test_what_a_child_process_runs_and_what_files_need_loads_no_sdk(module: str) -> None:
    """Such a process is started for one PDF, or with the first traces; the Agents SDK alone takes it more than a second."""
    code = f"import sys, timestep_lab.{module}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in done.stdout.split()} & set(HEAVY)


def test_modules_stay_small_enough_to_read_in_one_sitting() -> None:
    too_long = {str(p.relative_to(PACKAGE)): n for p in modules() if (n := len(p.read_text().splitlines())) > 600}
    assert not too_long


@pytest.mark.parametrize("dialect", ["duckdb", "postgres"])
def test_migrations_are_numbered_one_after_another(dialect: str) -> None:
    files = sorted((PACKAGE / "store" / "migrations" / dialect).glob("*.sql"))
    assert [int(path.name[:4]) for path in files] == [*range(1, len(files) + 1)], [path.name for path in files]


def top_imports() -> dict[str, set[str]]:
    """Each module and what it imports while it is itself imported: of a package, its `__init__` as well."""
    files = {name_of(path): path for path in modules()}
    graph: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("timestep_lab."):
                continue
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                target = below if below in files else str(node.module)
                while "." in target:
                    if target in files and target != name and not name.startswith(f"{target}."):
                        graph[name].add(target)
                    target = target.rpartition(".")[0]
    return graph


def name_of(path: Path) -> str:
    parts = ["timestep_lab", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts).removesuffix(".__init__")


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        list(graphlib.TopologicalSorter(top_imports()).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_a_short_module_with_one_importer_is_part_of_it() -> None:
    """But for plug-ins that are found by their name, routes that the server mounts, and what the package offers by name."""
    importers: dict[str, set[str]] = {}
    for path in modules():
        for _, full in imports(path):
            for target in (full, full.rpartition(".")[0]):
                importers.setdefault(target, set()).add(name_of(path))
    found_by_name = ("providers", "scorers", "pages", "tools", "api", "openai_api", "cli", "remote")
    fragments = [
        name_of(path)
        for path in modules()
        if len(importers.get(name_of(path), ())) == 1
        and len(path.read_text().splitlines()) < 100
        and path.name != "__init__.py"
        and path.parent.name not in found_by_name
    ]
    assert fragments == []


def test_every_public_name_resolves_and_is_documented() -> None:
    for name in timestep_lab.__all__:
        value = getattr(timestep_lab, name)
        assert name == "__version__" or value.__doc__, name
