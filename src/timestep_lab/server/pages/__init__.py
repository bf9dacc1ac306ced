"""The pages of the served app. One function per page creates its view for one user; `shell` adds the navigation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from timestep_lab.model.errors import LabError
from timestep_lab.server import panel as view_channel
from timestep_lab.server.pages import shell
from timestep_lab.server.pages import shell as assets
from timestep_lab.server.pages.page_view import NotHere, Notice, Shown, not_here, trouble
from timestep_lab.server.panel import PanelPages, add_panel_pages, at_session_end, caller_of_session

if TYPE_CHECKING:
    from fastapi import FastAPI
    from panel.template import Template

    from timestep_lab.server.labs import Labs, UserLab

logger = logging.getLogger("timestep_lab.server")


def add_pages(api: FastAPI, labs: Labs, *, secret: str, loopback: bool = False) -> PanelPages:
    """Add the pages to the app. `loopback`: only this machine can reach the server, so its user is the lab's owner."""
    api.include_router(assets.router)
    api.include_router(view_channel.router)

    def page(entry: shell.Entry) -> Callable[[], Template]:
        def make() -> Template:
            caller = caller_of_session()
            is_own_user = caller == labs.root.store.user_id
            guest = loopback and not is_own_user
            lab, let_go = labs.hold(caller)
            at_session_end(let_go)
            shown = _shown(entry, lab, is_owner=loopback and is_own_user, guest=guest)
            if isinstance(shown, Notice):
                view_channel.answer_with(shown.status)
            key = view_channel.offer(shown.view, caller, api.state.reads) if isinstance(shown, Shown) else ""
            return shell.around(entry, shown, key, guest=guest)

        return make

    served = add_panel_pages(api, {entry.path: page(entry) for entry in shell.entries()}, secret=secret)
    api.state.metrics.page_sessions = served.open_sessions
    return served


def _shown(entry: shell.Entry, lab: UserLab, *, is_owner: bool, guest: bool) -> Shown | Notice:
    """The page, or a notice why it cannot be shown. Panel would show a traceback."""
    try:
        made = entry.make(lab, is_owner=is_owner)
    except NotHere:
        return not_here(*entry.things, entry.path, guest=guest)
    except LabError as error:
        return trouble(error, entry.path)
    except Exception as error:
        logger.exception("internal error in the page %s", entry.path)
        return trouble(error, entry.path)
    return made if isinstance(made, Shown) else Shown(made)
