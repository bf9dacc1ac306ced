"""The notebook host: a view as a Jupyter widget (anywidget), followed by its static twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from timestep_lab.model.records import Json
from timestep_lab.ui import twin
from timestep_lab.ui.assets import build
from timestep_lab.ui.json_safe import json_safe
from timestep_lab.ui.view import View


@cache
def _widget_class(stem: str) -> type[Any]:
    import anywidget
    import traitlets

    class LabWidget(anywidget.AnyWidget):
        _esm = build(stem)
        first = traitlets.Any(None).tag(sync=True)
        view: View

        def post(self, message: Mapping[str, Json], buffers: Sequence[bytes]) -> None:
            self.send(dict(message), list(buffers) or None)

        def close(self) -> None:
            self.view.detach(self)
            super().close()

    LabWidget.__qualname__ = LabWidget.__name__ = f"Lab_{Path(stem).name}"
    return LabWidget


def notebook_widget(view: View) -> Any:
    """A widget that shows the view: `view.widget`, or another one."""
    widget = _widget_class(view.stem)()
    widget.view = view
    view.attach(widget)
    widget.on_msg(lambda _, content, buffers: view.receive(widget, content, buffers))
    return widget


def bundle(widget: Any) -> dict[str, Any]:
    """What a widget is displayed by."""
    made = widget._repr_mimebundle_()
    return dict(made[0] if isinstance(made, tuple) else made)


def display_in_notebook(view: View) -> None:
    """Two outputs: the live widget, and the twin that a saved notebook shows without kernel, network or JavaScript. On a terminal, text."""
    from IPython import get_ipython
    from IPython.display import display
    from IPython.terminal.interactiveshell import TerminalInteractiveShell

    if isinstance(get_ipython(), TerminalInteractiveShell):
        print(view)  # noqa: T201
        return
    widget = notebook_widget(view)
    data = bundle(widget)
    data["text/plain"] = f"{type(view).__name__} (a static copy follows)"
    display(data, raw=True)  # type: ignore[no-untyped-call]
    # The browser makes the component ready while the view reads what it shows first.
    if first := view.first():
        widget.first = {"state": json_safe(first.value), "config": view.config, "buffers": list(first.buffers)}
    twin.display(view)
