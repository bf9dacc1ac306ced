"""The static twin: the same view as plain HTML, a second output below the widget.

It is what remains in a saved notebook. While the widget lives it hides its twin (by a style for `[data-tl-twin="<id>"]`, removed
when the widget goes), and Python keeps the twin fresh with `update_display`. After a page reload Jupyter no longer carries updates
into the saved output; running the cell again does.
"""

from __future__ import annotations

import html
import weakref

from timestep_lab.ui.view import View

REFRESH_S = 0.5
_displays: weakref.WeakKeyDictionary[View, list[str]] = weakref.WeakKeyDictionary()
_due: weakref.WeakSet[View] = weakref.WeakSet()


def twin_block(view: View) -> str:
    """The twin as it stands in an output."""
    return f'<div data-tl-twin="{html.escape(view.id)}">{view.twin_html()}</div>'


def display(view: View) -> None:
    from IPython.display import display as show

    handle = show(_bundle(view), raw=True, display_id=True)  # type: ignore[no-untyped-call]
    if handle is not None:
        _displays.setdefault(view, []).append(handle.display_id)


def refresh(view: View) -> None:
    """Bring the view's twins up to date in half a second; further calls until then cost nothing."""
    if view in _due or not _displays.get(view):
        return
    _due.add(view)
    view.in_loop(lambda: _refresh_now(view), REFRESH_S)


def _refresh_now(view: View) -> None:
    from IPython.display import update_display

    _due.discard(view)
    bundle = _bundle(view)
    for display_id in _displays.get(view, ()):
        update_display(bundle, raw=True, display_id=display_id)  # type: ignore[no-untyped-call]


def _bundle(view: View) -> dict[str, str]:
    return {"text/html": twin_block(view), "text/plain": ""}
