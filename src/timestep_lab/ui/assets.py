"""Bundles the sources in `static/` into the single ES module that a host runs.

The sources are ordinary ES modules with relative imports such as `import { a, b } from "./shared/dom.js";`, so editors
understand them and browsers can load them directly. A notebook output needs one text without imports. `build` follows
the imports, wraps each file in its own scope in dependency order, and adds the stylesheets (`static/<name>.css` for
each used `<name>.js`, after the tokens) as one string that the module inserts into its own element: in Panel that is a
shadow root, which styles in the document's head do not reach.

Not supported are `export default` except in a component's own file, `export { a, b }` lists, and imports from outside
of `static/`.

In a wheel all sources are one file, `static/sources.json`, which maps paths to texts (`.ci/pack_sources.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

STATIC = Path(__file__).with_name("static")
HostKind = Literal["notebook", "panel", "served", "page"]

_IMPORT = re.compile(r'^import\s*\{([^}]*)\}\s*from\s*"(\.{1,2}/[^"]+)";[ \t]*\n?', re.MULTILINE)
_EXPORT = re.compile(r"^export (?:async )?(?:function\*?|const|let|class) ([A-Za-z_$][\w$]*)", re.MULTILINE)
_FOREIGN = re.compile(r"^\s*(?:import\b(?!\s*\()|export (?!default\b))", re.MULTILINE)
_ALWAYS = ("tokens.css", "base.css")


@cache
def sources() -> Mapping[Path, str]:
    """All scripts and stylesheets by path, in either form of `static/`."""
    packed = STATIC / "sources.json"
    if packed.exists():
        return {STATIC.resolve() / name: text for name, text in json.loads(packed.read_text("utf-8")).items()}
    files = (file for file in STATIC.resolve().rglob("*") if file.suffix in (".js", ".css"))
    return {file: file.read_text("utf-8") for file in files}


def _read(path: Path) -> str:
    """The text of a source, in `static/` or elsewhere. Raises `FileNotFoundError`."""
    return sources().get(path) or path.read_text("utf-8")


@cache
def build(stem: str, host: HostKind = "notebook") -> str:
    """The module of the component `static/<stem>.js` for a host. An absolute `stem` is a component stored elsewhere.

    Raises `FileNotFoundError` for an unknown component, `ValueError` for a source that cannot be bundled.
    """
    names: dict[Path, str] = {}
    parts: list[str] = []
    entry = _collect((STATIC / f"{stem}.js").resolve(), names, parts)
    offline = _collect((STATIC / "offline" / "page.js").resolve(), names, parts) if host == "page" else ""
    component = f"{{ render: (context) => $withStyle({entry}.default, context) }}"
    body = "\n".join([f"const $style = {json.dumps(_stylesheet(list(names)))};", *parts, _WITH_STYLE])
    if host in ("panel", "served"):
        return f"{body}\nconst $component = {component};\n{_read(STATIC.resolve() / f'{host}_host.js')}"
    if host == "page":
        return f"{body}\n{offline}.mountOffline({component}, document.getElementById('view'), document.getElementById('data'));\n"
    return f"{body}\nexport default {component};\n"


_WITH_STYLE = """function $withStyle(component, context) {
  const style = document.createElement("style");
  style.textContent = $style;
  context.el.append(style);
  return component.render(context);
}"""


def _collect(path: Path, names: dict[Path, str], parts: list[str], pending: tuple[Path, ...] = ()) -> str:
    """Append `path` as a scoped module after its imports; returns its name in the bundle."""
    if path in names:
        return names[path]
    if path in pending:
        raise ValueError(f"{path.name} imports itself through {' -> '.join(p.name for p in pending)}.")
    source = _read(path)
    bindings: list[str] = []
    for match in _IMPORT.finditer(source):
        wanted, target = match.group(1), (path.parent / match.group(2)).resolve()
        _collect(target, names, parts, (*pending, path))
        bindings.append(f"const {{{wanted.replace(' as ', ': ')}}} = {names[target]};")
    source = _IMPORT.sub("", source)
    exported = _EXPORT.findall(source)
    source = re.sub(r"^export (?=(?:async )?(?:function|const|let|class)\b)", "", source, flags=re.MULTILINE)
    if "\nexport default " in f"\n{source}":
        source = re.sub(r"^export default ", "const $default = ", source, count=1, flags=re.MULTILINE)
        exported.append("default: $default")
    if (leftover := _FOREIGN.search(source)) is not None:
        raise ValueError(
            f"{path.name}: {leftover.group(0).strip()!r} is a form of import or export that build() does not support."
        )
    name = f"$m{len(names)}"
    names[path] = name
    parts.append(
        f"const {name} = (() => {{ // {path.name}\n"
        + "\n".join([*bindings, source.strip(), f"return {{ {', '.join(exported)} }};"])
        + "\n})();"
    )
    return name


def _stylesheet(modules: list[Path]) -> str:
    sheets = [STATIC.resolve() / name for name in _ALWAYS] + [path.with_suffix(".css") for path in modules]
    return "\n".join(_read(sheet) for sheet in sheets if sheet in sources() or sheet.exists())
