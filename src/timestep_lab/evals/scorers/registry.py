"""From what a user writes to scorers: `"exact"`, `"not:contains"`, `"regex:^yes"`, `"fuzzy?at_least=0.9&weight=2"`, `{"type": "number",
"tolerance": 0.5}`, a function, or a scorer object."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import parse_qsl

from timestep_lab.evals import scorers as package
from timestep_lab.evals.javascript import read_script
from timestep_lab.evals.scorers.base import SCORERS, Scorer
from timestep_lab.evals.scorers.function import Function
from timestep_lab.model.errors import UsageError
from timestep_lab.model.suggest import did_you_mean

_SPEC = re.compile(r"(?P<type>[A-Za-z_][\w-]*)(?P<rest>.*)", re.DOTALL)
_ENTRY_POINTS = "timestep_lab.scorers"


def make_scorers(specs: Iterable[Any] | Any) -> list[Scorer]:
    """Scorers with distinct names. Raises `UsageError` for unknown names, options, or a name used twice."""
    if isinstance(specs, str | Mapping | Scorer) or callable(specs):
        specs = [specs]
    made = [make_scorer(spec) for spec in specs]
    names = [scorer.name for scorer in made]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"Two scorers are called {twice!r}.", 'Give one another name: {"type": …, "name": …}.')
    return made


def split_specs(text: str) -> list[str]:
    """A comma-separated list as a command line has it. A comma inside what follows a colon or a question mark belongs to that scorer
    (`tool_order:search,fetch`, `regex:\\d{1,3}`), unless the name of a scorer comes after it."""
    found: list[str] = []
    for part in text.split(","):
        match = _SPEC.match(_negation(part.strip())[1])
        begins = (
            match is not None
            and match["type"].replace("-", "_") in _catalogue()
            and match["rest"][:1] in ("", ":", "?")
        )
        if found and not begins and any(mark in _negation(found[-1])[1] for mark in ":?"):
            found[-1] += f",{part}"
        elif part.strip():
            found.append(part.strip())
    return found


def make_scorer(spec: Any) -> Scorer:
    """One scorer from what a user wrote. Raises `UsageError`."""
    if isinstance(spec, Scorer):
        return spec if spec.name else dataclasses.replace(spec, name=spec.type)
    if isinstance(spec, str):
        return _of_text(spec)
    if isinstance(spec, Mapping):
        options = dict(spec)
        kind = options.pop("type", None)
        if not isinstance(kind, str):
            raise UsageError(
                "A scorer given as an object needs a type.", 'For example {"type": "contains", "value": "Paris"}.'
            )
        negated, kind = _negation(kind)
        return _build(kind, {**options, **({"negate": True} if negated else {})}, {})
    if callable(spec):
        name = getattr(spec, "__name__", type(spec).__name__)
        return Function(name=name, function=spec)
    raise UsageError(
        f"A {type(spec).__name__} is no scorer.", f"Known: {', '.join(known())}; or give a Python function."
    )


def to_spec(scorer: Scorer) -> dict[str, Any]:
    """A scorer as the object it could be made from again; a function only by its name."""
    if isinstance(scorer, Function):
        return {"type": "function", "name": scorer.name, "weight": scorer.weight, "negate": scorer.negate}
    given = {
        f.name: getattr(scorer, f.name)
        for f in dataclasses.fields(scorer)
        if f.name == "name" or getattr(scorer, f.name) != _default(f)
    }
    return {"type": scorer.type, **json.loads(json.dumps(given, default=list))}


def known() -> list[str]:
    """Names of all scorers, ours and those of entry points."""
    return sorted(_catalogue())


@cache
def _catalogue() -> Mapping[str, type[Scorer]]:
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for entry in entry_points(group=_ENTRY_POINTS):
        entry.load()
    return SCORERS


def _of_text(text: str) -> Scorer:
    negated, rest = _negation(text.strip())
    match = _SPEC.fullmatch(rest)
    kind, tail = (match["type"], match["rest"]) if match else (rest, "")
    options: dict[str, Any] = {"negate": True} if negated else {}
    as_text: dict[str, str] = {}
    if tail.startswith(":"):
        main = _class(kind).main
        if main is None:
            raise UsageError(f"The scorer {kind} takes nothing after a colon.", f"Write {kind}.")
        as_text[main] = tail[1:]
    elif tail.startswith("?"):
        as_text.update(parse_qsl(tail[1:], keep_blank_values=True))
    elif tail:
        raise UsageError(
            f"The scorer {text!r} cannot be read.", "Write name, name:value or name?option=value&option=value."
        )
    shown = re.sub(r"[?&]weight=[^&]*", "", text.strip())
    return _build(kind, {"name": shown, **options}, as_text)


def _negation(text: str) -> tuple[bool, str]:
    for mark in ("not:", "not-"):
        if text.startswith(mark):
            return True, text[len(mark) :]
    return False, text


def _class(kind: str) -> type[Scorer]:
    catalogue = _catalogue()
    found = catalogue.get(kind) or catalogue.get(kind.replace("-", "_"))
    if found is None:
        raise UsageError(
            f"There is no scorer {kind!r}.{did_you_mean(kind, catalogue)}",
            f"Known: {', '.join(known())}, each also as not:name; or give a Python function.",
        )
    return found


def _build(kind: str, options: Mapping[str, Any], as_text: Mapping[str, str]) -> Scorer:
    cls = _class(kind)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {
        **options,
        **{name: _typed(text, fields[name]) if name in fields else text for name, text in as_text.items()},
    }
    strange = next((name for name in values if name not in fields), None)
    if strange is not None:
        common = ("name", "weight", "negate", "pass_at", "transform")
        own = [name for name in fields if name not in common]
        raise UsageError(
            f"The scorer {kind} has no option {strange!r}.{did_you_mean(strange, fields)}",
            f"Its options: {', '.join([*own, *common])}.",
        )
    values.setdefault("name", f"not:{kind}" if values.get("negate") else kind)
    if "transform" in values:
        scripts = values["transform"]
        values["transform"] = tuple(
            read_script(script).text for script in ([scripts] if isinstance(scripts, str) else scripts)
        )
    return cls(**values)


def _typed(text: str, option: dataclasses.Field[Any]) -> Any:
    """Text from a spec to the type of the option it fills."""
    hint = str(option.type)
    try:
        if hint.startswith("bool"):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if hint.startswith("int"):
            return int(text)
        if hint.startswith("float"):
            return float(text)
        if hint.startswith("Mapping"):
            return json.loads(text)
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"The option {option.name}={text!r} is not of its kind ({hint}).", "Correct the value."
        ) from error
    return text


def _default(option: dataclasses.Field[Any]) -> Any:
    return option.default_factory() if option.default_factory is not dataclasses.MISSING else option.default
