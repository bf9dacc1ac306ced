"""The served host: the same ES module as a Panel component. Panel is imported by the first call, not before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from timestep_lab.model.records import Json
from timestep_lab.ui.assets import build
from timestep_lab.ui.view import View


@cache
def _component_class(stem: str) -> type[Any]:
    import param
    from panel.custom import JSComponent

    module = build(stem, "panel")
    # Panel caches a module in the browser by class name and length of text: the name must change with the text.
    name = f"Lab_{Path(stem).name}_{hashlib.sha256(module.encode()).hexdigest()[:10]}"

    def post(self: Any, message: Mapping[str, Json], buffers: Sequence[bytes]) -> None:
        if self.direct is None:
            self._send_msg({"content": message, "buffers": list(buffers)})
        else:
            self.direct(message, buffers)

    def _handle_msg(self: Any, data: Mapping[str, Any]) -> None:
        self.direct = None  # A browser that speaks this way has no other.
        self.view.receive(self, data["content"], data.get("buffers") or ())

    members = {
        "_esm": module, "view": None, "post": post, "_handle_msg": _handle_msg,
        # Where the server has a shorter way to the browser: what the browser calls it, and how to send by it once it is there.
        "channel": param.String(""), "direct": None,
    }  # fmt: skip
    return type(name, (JSComponent,), members)


def panel_component(view: View, **layout: Any) -> Any:
    """The view as a Panel component that leaves with its session."""
    import panel

    component = _component_class(view.stem)(**{"sizing_mode": "stretch_width", **layout})
    component.view = view
    view.attach(component)
    document = panel.state.curdoc
    if document is not None and document.session_context is not None:
        document.on_session_destroyed(lambda _: view.detach(component))
    return component
