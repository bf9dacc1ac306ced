"""The one module that knows bokeh-fastapi: Panel pages inside the FastAPI app, with five holes of it closed.

- Its websocket handler never notices that a browser left, so sessions would stay for ever.
- It looks for unused sessions from the lifespan of the app, which has begun long before the pages are added: `forget_unused` does it.
- Session tokens are unsigned by default; ours are signed, since they say whose session it is. And a session opens for its user alone.
- A browser's cookies would be written into the page, where scripts can read them; all stay out. The user's id goes in instead, as a
  header that the gate sets and no client can.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from timestep_lab.server.gate import USER_HEADER

if TYPE_CHECKING:
    from fastapi import FastAPI

SEEN_HEADER = "-".join(word.capitalize() for word in USER_HEADER.split("-"))
"""Tornado's way of writing the name."""
GONE, NOT_YOURS = 1001, 1008
CHECK_UNUSED_MS = 5_000
KEEP_UNUSED_MS = 10_000


class PanelPages:
    """The pages as served."""

    def __init__(self, bokeh: Any) -> None:
        self._bokeh = bokeh

    def open_sessions(self) -> int:
        return sum(len(list(context.sessions)) for context in self._bokeh._applications.values())

    async def forget_unused(self) -> None:
        """Ends sessions whose browser left, until cancelled."""
        await self._bokeh._cleanup_loop()


def add_panel_pages(api: FastAPI, pages: Mapping[str, Callable[[], Any]], *, secret: str) -> PanelPages:
    """Serve each function's result at its path. Importing Panel takes about a second."""
    from bokeh_fastapi.handler import WSHandler
    from panel.io.fastapi import add_applications

    _close_when_browser_leaves(WSHandler)
    _open_to_own_user_only(WSHandler)
    bokeh = add_applications(
        dict(pages),
        app=api,
        title="Timestep Lab",
        secret_key=secret.encode(),
        sign_sessions=True,
        include_headers=[SEEN_HEADER],
        include_cookies=[],
        check_unused_sessions_milliseconds=CHECK_UNUSED_MS,
        unused_session_lifetime_milliseconds=KEEP_UNUSED_MS,
    )
    for route in api.routes:
        if getattr(route, "path", None) in pages:
            route.include_in_schema = False  # type: ignore[attr-defined]
    return PanelPages(bokeh)


def caller_of_session() -> str:
    """The user id of the page that is being made."""
    import panel

    return str(panel.state.headers[SEEN_HEADER])


def at_session_end(call: Callable[[], object]) -> None:
    """Call it when the browser has left the page that is being made."""
    import panel

    def ended(_: Any) -> None:
        call()

    document = panel.state.curdoc
    assert document is not None, "no page is being made"
    document.on_session_destroyed(ended)


def page_arguments(name: str) -> list[str]:
    """All values of an argument in the page's address."""
    import panel

    return [value.decode("utf-8", errors="replace") for value in panel.state.session_args.get(name, ())]


def page_argument(name: str) -> str | None:
    return next(iter(page_arguments(name)), None)


def _close_when_browser_leaves(handler: Any) -> None:
    if getattr(handler, "_timestep_lab_closes", False):
        return
    receive_loop = handler._receive_loop

    async def closing_loop(self: Any) -> None:
        try:
            await receive_loop(self)
        finally:
            self.on_close(GONE, "the browser left")

    handler._receive_loop = closing_loop
    handler._timestep_lab_closes = True


def _open_to_own_user_only(handler: Any) -> None:
    if getattr(handler, "_timestep_lab_checks", False):
        return
    connect = handler.ws_connect

    async def own_session(self: Any, websocket: Any) -> None:
        offered = websocket.scope["subprotocols"]
        if len(offered) == 2 and _user_of(offered[1]) != websocket.headers.get(USER_HEADER):
            await websocket.accept("bokeh")  # Only then a browser is told the code.
            await websocket.close(NOT_YOURS, "This page was made for another user. Open it anew.")
            return
        await connect(self, websocket)

    handler.ws_connect = own_session
    handler._timestep_lab_checks = True


def _user_of(token: str) -> str | None:
    """For whom the page was made. That nobody else wrote it is checked by Bokeh, when the session is opened."""
    from bokeh_fastapi.handler import get_token_payload

    try:
        payload: dict[str, Any] = get_token_payload(token)
        return str(payload["headers"][SEEN_HEADER])
    except (ValueError, KeyError, TypeError, zlib.error):
        return None
