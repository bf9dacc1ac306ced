"""Components are joined into one module that a host can run, and never parse data as markup."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from timestep_lab.ui.assets import STATIC, build

COMPONENTS = ("explorer", "trace", "handoff_graph")


@pytest.mark.parametrize("stem", COMPONENTS)
def test_a_built_module_imports_nothing_and_exports_one_default(stem: str) -> None:
    for host in ("notebook", "panel"):
        module = build(stem, host)  # type: ignore[arg-type]
        assert not re.search(r"^\s*import\b", module, re.MULTILINE)
        assert len(re.findall(r"^export ", module, re.MULTILINE)) == 1
        assert "export default" in module


def test_no_source_parses_text_as_markup_or_code() -> None:
    forbidden = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\bimport\(")
    for path in STATIC.rglob("*.js"):
        found = forbidden.search(path.read_text("utf-8"))
        assert found is None, f"{path.relative_to(STATIC)}: {found and found.group(0)}"


def test_no_source_reaches_the_network_but_a_served_page_its_own_server() -> None:
    for path in STATIC.rglob("*.js"):
        source = path.read_text("utf-8")
        assert "XMLHttpRequest" not in source
        for called in re.findall(r"\bfetch\((.{0,12})", source):
            assert re.match(r"./[^/]", called), f"{path.name}: fetch({called}"


def test_stylesheets_fetch_nothing_and_stay_inside_their_root() -> None:
    for path in STATIC.rglob("*.css"):
        css = re.sub(r"/\*.*?\*/", "", path.read_text("utf-8"), flags=re.DOTALL)
        assert "url(" not in css
        assert "@import" not in css
        without_at = re.sub(r"@[^{;]+\{|@[^;{]+;", "", css)
        for selector in re.findall(r"([^{}]+)\{", without_at):
            for one in re.split(r",(?![^(]*\))", selector):
                one = one.strip()
                assert one.startswith(".tl-") or one in ("from", "to") or one[0].isdigit(), f"{path.name}: {one}"


def test_a_form_of_import_that_is_not_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.js").write_text('import x from "./y.js";\nexport default {};\n', "utf-8")
    with pytest.raises(ValueError, match="form of import"):
        build(str(tmp_path / "odd"))


def test_files_that_import_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text('import { b } from "./b.js";\nexport const a = 1;\n', "utf-8")
    (tmp_path / "b.js").write_text('import { a } from "./a.js";\nexport const b = 1;\n', "utf-8")
    with pytest.raises(ValueError, match="imports itself"):
        build(str(tmp_path / "a"))
