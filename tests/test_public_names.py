"""Every public name is documented: what a user holds in a notebook, meets as an error or a row, or builds on."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import timestep_lab

PUBLIC = (
    "model.records", "model.clock", "model.comparison", "model.errors", "model.events", "model.ids",
    "model.records", "lab.lab", "lab.views", "lab.run", "resources",
    "runtime.mcp.toolbox", "runtime.router", "runtime.settings", "ui.view", "ui.explorer", "ui.trace_view",
    "ui.handoff_graph", "ui.chat", "evals.grid", "evals.scorers",
)  # fmt: skip
"""What `Lab` gives out, what it raises and stores, and what a provider, a scorer or a view is made from."""


def modules(prefixes: tuple[str, ...] = ("",)) -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(timestep_lab.__path__, "timestep_lab."):
        name = found.name.removeprefix("timestep_lab.")
        if name != "__main__" and any(not p or name == p or name.startswith(f"{p}.") for p in prefixes):
            yield importlib.import_module(found.name)


def own(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Public classes and functions that the module itself defines, and the public members of its classes."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing) or inspect.isfunction(thing):
            yield name, thing
        if inspect.isclass(thing) and not getattr(thing, "_is_protocol", False):
            for member, value in vars(thing).items():
                if (
                    not member.startswith("_")
                    and (inspect.isroutine(value) or hasattr(value, "__get__"))
                    and callable(code(value))
                ):
                    yield f"{name}.{member}", getattr(thing, member)


def code(value: Any) -> Any:
    """The function in a method, a property or a cached property."""
    for attribute in ("fget", "func", "__func__"):
        value = getattr(value, attribute, value)
    return value if inspect.isfunction(value) else None


def undocumented(module: ModuleType) -> list[str]:
    """A member that overrides a documented one has its text. A dataclass without a text of its own has only its signature."""
    found = []
    for name, thing in own(module):
        text = thing.__doc__ if inspect.isclass(thing) else inspect.getdoc(thing)
        if not text or (inspect.isclass(thing) and text.startswith(f"{thing.__name__}(")):
            found.append(f"{module.__name__}.{name}")
    return found


def test_every_public_name_is_documented() -> None:
    assert [name for module in modules(PUBLIC) for name in undocumented(module)] == []


def test_every_module_says_what_it_is_for() -> None:
    assert [module.__name__ for module in modules() if not (module.__doc__ or "").strip()] == []


@pytest.mark.parametrize("name", timestep_lab.__all__)
def test_every_name_of_the_package_is_there(name: str) -> None:
    assert getattr(timestep_lab, name)
    assert name in dir(timestep_lab)


def test_a_name_without_a_text_is_found() -> None:
    module = ModuleType("sample")
    source = "class Told:\n    'What it is.'\n    def silent(self): ...\n\nclass Bare: ...\n\ndef bare(): ...\n\ndef _hidden(): ...\n"
    exec(source, module.__dict__)
    assert undocumented(module) == ["sample.Told.silent", "sample.Bare", "sample.bare"]
