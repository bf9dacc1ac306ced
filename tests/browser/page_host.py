"""A host for tests: views on blank pages of a loopback server, each talking to the real Python state over a websocket.

The page's model has the few methods of anywidget's (`send`, `on`, `off`), so a component cannot tell it from JupyterLab. A strict
Content-Security-Policy lets the page reach nothing but its own socket: a component that tries is a console error, and fails its test.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from timestep_lab.ui.assets import build
from timestep_lab.ui.hosts import static_block
from timestep_lab.ui.view import View

CSP = "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A view</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>body{margin:0;padding:%(padding)s}@media (prefers-color-scheme:dark){body{background:#16191d}}</style></head>
<body><main id="view"></main>%(static)s<script type="module">
import component from "/%(id)s/module.js";
const listeners = new Set(), held = [];
let socket, expected = null, parts = [];
window.dropped = 0; window.dropBatches = 0;
const model = {
  send(content, _callbacks, buffers = []) {
    const frames = [JSON.stringify({content, buffers: buffers.length}), ...buffers];
    if (socket.readyState === 1) frames.forEach((frame) => socket.send(frame)); else held.push(...frames);
  },
  on: (_event, listener) => listeners.add(listener), off: (_event, listener) => listeners.delete(listener),
};
const deliver = () => {
  const {content} = expected, buffers = parts; expected = null; parts = [];
  if (content.op === "batch" && window.dropBatches > 0) { window.dropBatches -= 1; window.dropped += 1; return; }
  for (const listener of [...listeners]) listener(content, buffers);
};
socket = new WebSocket(`ws://${location.host}/%(id)s/socket`); socket.binaryType = "arraybuffer";
socket.onopen = () => held.splice(0).forEach((frame) => socket.send(frame));
socket.onmessage = ({data}) => {
  if (typeof data === "string") expected = JSON.parse(data); else parts.push(new DataView(data));
  if (parts.length === expected.buffers) deliver();
};
window.mounted = performance.now();
const look = () => {
  if (document.querySelector(".tl-wf-row[aria-rowindex], .tl-list-row")) setTimeout(() => { window.firstRows = performance.now(); });
  else requestAnimationFrame(look);
};
requestAnimationFrame(look);
window.unmount = await component.render({model, el: document.getElementById("view")});
</script></body></html>"""


class _Socket:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.outgoing: asyncio.Queue[str | bytes] = asyncio.Queue()

    def post(self, message: Mapping[str, Any], buffers: Sequence[bytes]) -> None:
        head = json.dumps({"content": message, "buffers": len(buffers)}, allow_nan=False, ensure_ascii=False)
        for frame in (head, *buffers):
            self.loop.call_soon_threadsafe(self.outgoing.put_nowait, frame)


class PageHost:
    """`host.show(view)` gives the address of a page with it."""

    def __init__(self) -> None:
        self.views: dict[str, tuple[View, str]] = {}
        routes = [
            Route("/{id}", self._page),
            Route("/{id}/module.js", self._module),
            WebSocketRoute("/{id}/socket", self._socket),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes),
            port=0,
            log_level="error",
            ws="websockets-sansio",
            lifespan="off",
            ws_per_message_deflate=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            threading.Event().wait(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def show(self, view: View, *, padding: str = "0") -> str:
        self.views[view.id] = (view, padding)
        return f"http://127.0.0.1:{self.port}/{view.id}"

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    async def _page(self, request: Request) -> Response:
        view, padding = self.views[request.path_params["id"]]
        page = PAGE % {"id": view.id, "static": static_block(view), "padding": padding}
        return HTMLResponse(page, headers={"content-security-policy": CSP})

    async def _module(self, request: Request) -> Response:
        view, _ = self.views[request.path_params["id"]]
        return Response(build(view.stem), media_type="text/javascript")

    async def _socket(self, socket: WebSocket) -> None:
        view, _ = self.views[socket.path_params["id"]]
        await socket.accept()
        host = _Socket(asyncio.get_running_loop())
        view.attach(host)
        sender = asyncio.create_task(self._send(socket, host))
        try:
            while True:
                message = json.loads(await socket.receive_text())
                buffers = [await socket.receive_bytes() for _ in range(message["buffers"])]
                view.receive(host, message["content"], buffers)
        except WebSocketDisconnect:
            view.detach(host)
        finally:
            sender.cancel()

    @staticmethod
    async def _send(socket: WebSocket, host: _Socket) -> None:
        while True:
            frame = await host.outgoing.get()
            await (socket.send_text(frame) if isinstance(frame, str) else socket.send_bytes(frame))
