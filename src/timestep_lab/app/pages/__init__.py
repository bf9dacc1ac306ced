"""The served app's pages. One function a page makes its view for one user; `shell` puts the navigation around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from timestep_lab.app import view_channel
from timestep_lab.app.pages import assets, shell
from timestep_lab.app.panel_server import PanelPages, add_panel_pages, at_session_end, caller_of_session

if TYPE_CHECKING:
    from fastapi import FastAPI

    from timestep_lab.app.labs import Labs


def add_pages(api: FastAPI, labs: Labs, *, secret: str, loopback: bool = False) -> PanelPages:
    """`loopback`: only this machine reaches the server, so that the lab's own user is who sits at it."""
    api.include_router(assets.router)
    api.include_router(view_channel.router)

    def page(entry: shell.Entry) -> Callable[[], Any]:
        def make() -> Any:
            caller = caller_of_session()
            is_owner = loopback and caller == labs.root.store.user_id
            lab, let_go = labs.hold(caller)
            at_session_end(let_go)
            view = entry.make(lab, is_owner=is_owner)
            view_channel.offer(view, caller)
            return shell.around(entry, view)

        return make

    served = add_panel_pages(api, {entry.path: page(entry) for entry in shell.entries()}, secret=secret)
    api.state.metrics.page_sessions = served.open_sessions
    return served
