"""Hosts of views: Jupyter widgets (anywidget) with a static copy, and Panel components. Panel is imported on first use."""

from __future__ import annotations

import hashlib
import html
import os
import re
import types
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import LabError
from timestep_lab.ui.assets import build
from timestep_lab.ui.columns import json_safe
from timestep_lab.ui.view import View

if TYPE_CHECKING:
    from anywidget import AnyWidget
    from panel.viewable import Viewable

# --- The notebook host: a view as a Jupyter widget (anywidget), followed by its static copy


# --- The static copy: the view as plain HTML, a second output below the widget
#
# It remains in a saved notebook. While the widget is alive it hides its static copy (by a style for `[data-tl-static="<id>"]`, removed
# with the widget), and Python updates the static copy with `update_display`. After a page reload Jupyter no longer applies updates
# to the saved output; running the cell again does.
#
# If the kernel is gone, JupyterLab shows "Error displaying widget" instead of the widget; the static copy hides that, too. Hosts without
# HTML show the same static copy as text. A layout of ipywidgets is followed by the static copies of the views in it.


REFRESH_S = 0.5
MOST_CELL = 60
"""Maximum number of characters of a table cell on a terminal."""
_CELL = re.compile(r"<(t[dh])\b([^>]*)>")
_TO_THE_RIGHT = re.compile(r"align=['\"]?right|class=['\"]n\b")
_NO_ERROR_ABOVE = (
    ".jp-OutputArea-child:has(> .jp-OutputArea-output.jupyter-widgets):not(:has(> .jupyter-widgets > *))"
    ":has(+ .jp-OutputArea-child [data-tl-static]){display:none}"
)
"""Hides JupyterLab's message for a widget without a model, a text without elements, directly above a static copy. Where
styles are not trusted, widgets are not shown either.
"""
_displays: weakref.WeakKeyDictionary[View, list[str]] = weakref.WeakKeyDictionary()
_due: weakref.WeakSet[View] = weakref.WeakSet()


def static_block(view: View) -> str:
    """The static copy as an output; an error, such as a closed lab, is shown instead."""
    try:
        page = aligned(view.static_html())
    except LabError as error:
        page = f"<p>{html.escape(f'{type(view).__name__}: {error}')}</p>"
    # The classes: JupyterLab and nbconvert would set what stands between two dollar signs as a formula.
    return f'<div data-tl-static="{html.escape(view.id)}" class="tex2jax_ignore mathjax_ignore">{page}</div>'


def aligned(page: str) -> str:
    """The page with the alignment of each table cell as an inline style: Jupyter's stylesheet right-aligns cells and
    overrides the attribute."""

    def cell(found: re.Match[str]) -> str:
        attributes = found[2]
        if "style=" in attributes:
            return found[0]
        # A number and its unit stay together.
        style = "text-align:right;white-space:nowrap" if _TO_THE_RIGHT.search(attributes) else "text-align:left"
        return f"<{found[1]}{attributes} style='{style}'>"

    return _CELL.sub(cell, page)


def plain_text(page: str) -> str:
    """A static copy as text for a terminal: one line per paragraph, tables with aligned columns."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return "\n".join(reader.lines).strip("\n")


def display_static(view: View) -> None:
    """Display the view's static copy as a separate output."""
    from IPython.display import display

    handle = display(_bundle(view), raw=True, display_id=True)  # type: ignore[no-untyped-call]
    if handle is not None:
        _displays.setdefault(view, []).append(handle.display_id)


def refresh(view: View) -> None:
    """Update the view's static copies in half a second; further calls until then have no effect."""
    if view in _due or not _displays.get(view):
        return
    _due.add(view)
    view.in_loop(lambda: refresh_now(view), REFRESH_S)


def refresh_now(view: View) -> None:
    """Update the view's static copies now."""
    if not _displays.get(view):
        return
    from IPython.display import update_display

    _due.discard(view)
    bundle = _bundle(view)
    for display_id in _displays.get(view, ()):
        update_display(bundle, raw=True, display_id=display_id)  # type: ignore[no-untyped-call]


def _bundle(view: View) -> dict[str, str]:
    return {"text/html": f"{static_block(view)}<style>{_NO_ERROR_ABOVE}</style>", "text/plain": ""}


class _Reader(HTMLParser):
    """Collects the lines of an HTML page."""

    BLOCKS = ("p", "div", "li", "summary", "details", "pre", "caption", "h1", "h2", "h3", "h4")

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._text = ""
        self._rows: list[list[tuple[str, bool]]] | None = None
        self._to_the_right = False
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("style", "script", "svg"):
            self._hidden += 1
        elif tag == "table":
            self._end_line()
            self._rows = []
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag in ("td", "th"):
            self._text = ""
            given = " ".join(f"{name}={value!r}" for name, value in attrs)
            self._to_the_right = bool(_TO_THE_RIGHT.search(given))
        elif tag == "br" or tag in self.BLOCKS:
            self._end_line()

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "script", "svg"):
            self._hidden -= 1
        elif tag in ("td", "th") and self._rows:
            shown = " ".join(self._text.strip("\n").split("\n"))
            self._rows[-1].append(
                (shown if len(shown) <= MOST_CELL else f"{shown[: MOST_CELL - 1]}…", self._to_the_right)
            )
            self._text = ""
        elif tag == "table" and self._rows is not None:
            rows, self._rows = self._rows, None
            self._end_table([row for row in rows if row])
        elif tag in self.BLOCKS:
            self._end_line()

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._text += data.replace("\xa0", " ")

    def close(self) -> None:
        super().close()
        self._end_line()

    def _end_line(self) -> None:
        if self._rows is not None:
            self._text += " " if self._text else ""
        elif self._text.strip():
            self.lines += [line.rstrip() for line in self._text.strip("\n").split("\n")]
            self._text = ""

    def _end_table(self, rows: list[list[tuple[str, bool]]]) -> None:
        widths: list[int] = []
        for row in rows:
            widths += [0] * (len(row) - len(widths))
            widths = [max(width, len(row[n][0]) if n < len(row) else 0) for n, width in enumerate(widths)]
        for row in rows:
            cells = [
                text.rjust(width) if right else text.ljust(width)
                for (text, right), width in zip(row, widths, strict=False)
            ]
            self.lines.append("  ".join(cells).rstrip())


_NOTHING = "export default {}"
"""The module of a widget that nobody looks at; its static copy follows."""


@cache
def _widget_class(stem: str, somebody_looks: bool) -> type[AnyWidget]:
    import anywidget
    import traitlets

    class LabWidget(anywidget.AnyWidget):
        _esm = build(stem) if somebody_looks else _NOTHING
        first = traitlets.Any(None).tag(sync=True)
        view: View

        def post(self, message: Mapping[str, Json], buffers: Sequence[bytes]) -> None:
            self.send(dict(message), list(buffers) or None)

        def close(self) -> None:
            self.view.detach(self)
            super().close()

    LabWidget.__qualname__ = LabWidget.__name__ = f"Lab_{Path(stem).name}"
    return LabWidget


def notebook_widget(view: View) -> AnyWidget:
    """A widget for the view: `view.widget`, or an additional one."""
    widget = _widget_class(view.stem, _somebody_looks())()
    widget.view = view
    _show_layouts_with_static_copies()
    view.attach(widget)
    widget.on_msg(lambda _, content, buffers: view.receive(widget, content, buffers))
    return widget


@cache
def also_a_widget(kind: type[View]) -> type:
    """The value of `view.__class__` if ipywidgets is loaded: a subclass of the view's class and of `AnyWidget`, for
    `isinstance` checks. Never instantiated.
    """
    from anywidget import AnyWidget

    same = {name: getattr(kind, name) for name in ("__doc__", "__module__", "__qualname__")}
    return types.new_class(kind.__name__, (kind, AnyWidget), exec_body=lambda body: body.update(same))


def bundle(widget: Any) -> tuple[dict[str, object], dict[str, object]]:
    """The MIME bundle of a widget and its metadata, in which Colab finds its widget manager."""
    made = widget._repr_mimebundle_()
    data, metadata = made if isinstance(made, tuple) else (made, {})
    return dict(data), dict(metadata)


def _somebody_looks() -> bool:
    """Whether a user is likely to see widgets. False in papermill, `nbconvert --execute` and similar tools: they report
    that no input is possible (`allow_stdin` in Jupyter's messaging protocol) and would write each widget's module, 100
    kB, into the notebook. Voila reports the same but shows widgets."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None or "VOILA_BASE_URL" in os.environ:
        return True
    return bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin", True))


def display_in_notebook(view: View) -> None:
    """Display two outputs: the live widget, and the static copy, which a saved notebook shows without kernel, network
    or JavaScript. On a terminal, text; without a user, only the static copy."""
    from IPython import get_ipython
    from IPython.display import display
    from IPython.terminal.interactiveshell import TerminalInteractiveShell

    if isinstance(get_ipython(), TerminalInteractiveShell):
        print(view)  # noqa: T201
        return
    if not _somebody_looks():
        display_static(view)
        return
    widget = notebook_widget(view)
    data, metadata = bundle(widget)
    data["text/plain"] = f"{type(view).__name__} (a static copy follows)"
    display(data, metadata=metadata, raw=True)  # type: ignore[no-untyped-call]
    # The browser loads the component while the view reads its first data.
    try:
        first = view.first()
    except LabError:  # Shown by the static copy.
        first = None
    if first:
        widget.first = {"state": json_safe(first.value), "config": view.config, "buffers": list(first.buffers)}
    display_static(view)


def _show_layouts_with_static_copies() -> None:
    """Have IPython display each ipywidget that contains a view, such as `VBox([lab.traces])`, by `_display_layout`."""
    from IPython import get_ipython
    from ipywidgets import Widget  # type: ignore[import-untyped]

    shell = get_ipython()
    if shell is not None:
        shell.display_formatter.ipython_display_formatter.for_type(Widget, _display_layout)


def _display_layout(widget: Any) -> None:
    """Display a widget, followed by the static copies of the views in it; without views, as IPython would."""
    from IPython import get_ipython
    from IPython.display import display
    from IPython.terminal.interactiveshell import TerminalInteractiveShell

    own = getattr(widget, "_ipython_display_", None)
    if own is not None:
        own()
        return
    views = list(_views_in(widget, set()))
    if not views or widget._view_name is None or isinstance(get_ipython(), TerminalInteractiveShell):
        raise NotImplementedError  # IPython then asks its other formatters.
    data, metadata = bundle(widget)
    data["text/plain"] = f"{type(widget).__name__} (static copies follow)"
    display(data, metadata=metadata, raw=True)  # type: ignore[no-untyped-call]
    for view in views:
        display_static(view)


def _views_in(shown: object, seen: set[int]) -> Iterator[View]:
    """The views in a widget, in order: those in its traits that hold widgets, which every container marks by the same
    serializer."""
    from ipywidgets import Widget, widget_serialization

    shown = getattr(shown, "view", shown) if isinstance(shown, Widget) else shown
    if isinstance(shown, Mapping):
        shown = [*shown.values()]
    if isinstance(shown, (list, tuple)):
        for part in shown:
            yield from _views_in(part, seen)
    elif id(shown) in seen:
        return
    elif isinstance(shown, View):
        seen.add(id(shown))
        yield shown
    elif isinstance(shown, Widget):
        seen.add(id(shown))
        for name in shown.traits(to_json=lambda serializer: serializer is widget_serialization["to_json"]):
            yield from _views_in(getattr(shown, name), seen)


@cache
def _component_class(stem: str) -> type[Any]:
    from panel.custom import JSComponent

    module = build(stem, "panel")
    # Panel caches modules in the browser by class name and text length, so the name must change with the text.
    name = f"Lab_{Path(stem).name}_{hashlib.sha256(module.encode()).hexdigest()[:10]}"

    def post(self: Any, message: Mapping[str, Json], buffers: Sequence[bytes]) -> None:
        self._send_msg({"content": message, "buffers": list(buffers)})

    def _handle_msg(self: Any, data: Mapping[str, Any]) -> None:
        self.view.receive(self, data["content"], data.get("buffers") or ())

    members = {"_esm": module, "view": None, "post": post, "_handle_msg": _handle_msg}
    return type(name, (JSComponent,), members)


def panel_component(view: View, **layout: object) -> Viewable:
    """The view as a Panel component that is removed with its session."""
    import panel

    component = _component_class(view.stem)(**{"sizing_mode": "stretch_width", **layout})
    component.view = view
    view.attach(component)
    document = panel.state.curdoc
    if document is not None and document.session_context is not None:
        # Weakly, so that a component that was removed from its page does not live as long as the session.
        still = weakref.ref(component)
        document.on_session_destroyed(lambda _: None if (gone := still()) is None else gone.view.detach(gone))
    return cast("Viewable", component)
