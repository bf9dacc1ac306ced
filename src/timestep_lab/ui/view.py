"""`View`: the state of a view, independent of its host: what is shown, which browsers are connected, and how they are
updated.

    class Counter(View):
        stem = "counter"                                  # static/counter.js, static/counter.css

        def snapshot(self) -> Json:                       # everything a browser needs to draw the view
            return {"count": self.count}

        @handles("add")                                   # link.call("add", {by: 2}) in the browser
        async def _add(self, by: int) -> int:
            self.count += by
            self.emit({"kind": "count", "value": self.count})   # link.on("count", op => …) in every browser
            return self.count                             # resolves the promise of link.call

        def static_html(self) -> str: ...                   # the same without JavaScript

A view is shown by the last line of a cell, as a child in a layout of ipywidgets, by `view.panel()` in a served page, as
text by `print(view)`, or several times at once.

Synchronisation: a browser *pulls*. When it mounts it sends `sync` and gets a snapshot. After that it receives batches
of changes, collected for 30 ms (Jupyter drops messages above 1,000 per second) and numbered; if a number is missing it
syncs again. So a reload, a second tab, a change before the first paint and a dropped message all lead to the same
state. A kernel responds only after its cell has finished, so the result of `first` is sent with the component, to be
drawn until then.

| browser to Python | Python to browser |
|---|---|
| `{op: "sync", mount}` | `{op: "snap", seq, state, config}` |
| `{op: "call", id, name, args}` and buffers | `{op: "reply", id, value}` or `{op: "reply", id, error: {message, next_step}}` and buffers |
| `{op: "bye", mount}` | `{op: "batch", seq, ops: [{kind, …, buffers?: count}]}` and buffers |
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import secrets
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, ParamSpec, Protocol, TypedDict, TypeVar, cast

from timestep_lab.model.arguments import shown
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import BusyError, LabError, UsageError
from timestep_lab.store.base import in_event_loop, in_thread
from timestep_lab.ui.columns import json_safe

if TYPE_CHECKING:
    from anywidget import AnyWidget
    from panel.viewable import Viewable

    Theme = Literal["auto", "light", "dark"]

    class ViewOptions(TypedDict, total=False):
        """The parameters of `View`."""

        theme: Theme
        height: int | None


log = logging.getLogger(__name__)


GATHER_S = 0.03
_ASKED_OF_WIDGETS = frozenset(
    {"_model_id", "comm", "get_state", "keys", "layout", "model_id", "observe", "send_state", "set_state", "unobserve"}
)
_FOR_HOSTS = frozenset(
    [
        "attach",
        "check",
        "detach",
        "emit",
        "first",
        "flush",
        "forget",
        "in_loop",
        "in_turn",
        "is_watched",
        "merge",
        "prepare",
        "receive",
        "refresh_static",
        "snapshot",
        "source",
        "start",
        "static_html",
        "stem",
        "turns",
        "watched",
    ]
)
"""Attributes for hosts and pages, which tab completion leaves out."""
F = TypeVar("F", bound=Callable[..., object])
P = ParamSpec("P")
T = TypeVar("T")


class Host(Protocol):
    """A connection to browsers: a Jupyter widget, a Panel component, or a test."""

    def post(self, message: Mapping[str, Json], buffers: Sequence[bytes]) -> None:
        """Send a message and its binary parts to the host's browsers."""


class Turns(Protocol):
    """Runs a blocking read for a user."""

    def __call__(self, read: Callable[[], T], /) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of a handler with binary parts."""

    value: Json
    buffers: Sequence[bytes] = ()


@dataclass(slots=True)
class _Connection:
    host: Host
    mounts: set[str] = field(default_factory=set)


def handles(name: str) -> Callable[[F], F]:
    """Decorator for a sync or async method that handles `link.call(name, args)`. `args` are passed as keyword
    arguments; binary buffers, if any, as `buffers: list[bytes]`."""

    def mark(method: F) -> F:
        method.__dict__["_handles"] = name
        return method

    return mark


def _check_theme(theme: object) -> None:
    if theme not in ("auto", "light", "dark"):
        raise UsageError(f"Unknown theme {shown(theme)}.", 'Use "auto", "light" or "dark".', param="theme")


class View:
    """The base class of all views. See the module docstring."""

    stem: ClassVar[str]
    _handlers: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        own = {m.__dict__["_handles"]: n for n, m in vars(cls).items() if "_handles" in getattr(m, "__dict__", {})}
        cls._handlers = {**cls._handlers, **own}

    def __init__(self, *, theme: Theme = "auto", height: int | None = None) -> None:
        _check_theme(theme)
        if height is not None and (type(height) is not int or height <= 0):
            raise UsageError(
                f"height={shown(height)} is not a height.", "Pass a whole number of pixels.", param="height"
            )
        self.id = secrets.token_hex(8)
        self._config: dict[str, Json] = {"theme": theme, "height": height}
        self._connections: dict[int, _Connection] = {}
        self._seq = 0
        self._ops: list[tuple[dict[str, Json], Sequence[bytes]]] = []
        self._lock = threading.RLock()
        self._armed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._widget: AnyWidget | None = None
        self.turns: Turns | None = None
        """How a served page runs blocking reads, so that users do not delay each other. None: each in a thread."""

    # Overridden by a view

    async def prepare(self) -> None:
        """Read the data for `snapshot` that is not there yet, with `in_turn`. Called before a browser gets its
        snapshot.
        """

    def snapshot(self) -> Json | Reply:
        """Everything that a browser needs to draw the view. A `Reply` may have binary parts."""
        raise NotImplementedError

    def first(self) -> Reply | None:
        """What a cell's browser draws until it gets its snapshot, which waits for the end of the cell. Should be small;
        may be None.
        """
        return None

    def static_html(self) -> str:
        """The view as plain HTML that is readable without JavaScript and stylesheets."""
        raise NotImplementedError

    def merge(self, last: dict[str, Json], op: dict[str, Json]) -> bool:
        """Merge `op` into the pending change `last`; False if they must stay separate. For streams of small additions."""
        return False

    # Changes

    def emit(self, op: Mapping[str, object], buffers: Sequence[bytes] = ()) -> None:
        """Send a change to every browser: `op["kind"]` is its name. Thread-safe; changes are collected for 30 ms."""
        with self._lock:
            new = cast("dict[str, Json]", dict(op))  # Records become JSON when they are sent.
            if not (self._ops and not buffers and self.merge(self._ops[-1][0], new)):
                self._ops.append((new, buffers))
            if self._armed:
                return
            self._armed = True
        self.in_loop(self.flush, GATHER_S)

    def flush(self) -> None:
        """Send pending changes now."""
        with self._lock:
            self._armed = False
            ops, self._ops = self._ops, []
            if not ops:
                return
            self._seq += 1
            message: dict[str, object] = {
                "op": "batch",
                "seq": self._seq,
                "ops": [{**op, "buffers": len(b)} if b else op for op, b in ops],
            }
            buffers = [buffer for _, many in ops for buffer in many]
            for connection in list(self._connections.values()):
                if connection.mounts:
                    self._post(connection.host, message, buffers)

    @property
    def config(self) -> dict[str, Json]:
        """Display settings sent to browsers."""
        return {**self._config, "static": self.id}

    @property
    def theme(self) -> Theme:
        """`"auto"` follows the page: JupyterLab's theme, the served app's, or the system's."""
        return cast("Theme", self._config["theme"])

    @theme.setter
    def theme(self, theme: Theme) -> None:
        _check_theme(theme)
        self._config["theme"] = theme
        self.emit({"kind": "config", "config": dict(self._config)})

    # Browsers

    def attach(self, host: Host) -> None:
        """Add a host that shows the view."""
        self._remember_loop()
        with self._lock:
            self._connections[id(host)] = _Connection(host)

    def detach(self, host: Host) -> None:
        """Remove a host."""
        with self._lock:
            self._connections.pop(id(host), None)
        self.watched(self.is_watched)

    @property
    def is_watched(self) -> bool:
        """Whether a browser shows the view."""
        return any(connection.mounts for connection in self._connections.values())

    def watched(self, now: bool) -> None:
        """Called when the first browser connects or the last one leaves; a view with live data may start or stop
        following it.
        """

    def receive(self, host: Host, content: Mapping[str, Json], buffers: Sequence[bytes | memoryview] = ()) -> None:
        """Handle a message from a browser. Hosts call this on the event loop's thread."""
        self._remember_loop()
        op = content.get("op")
        if op == "sync":
            self._sync(host, str(content.get("mount", "")))
        elif op == "bye":
            if connection := self._connections.get(id(host)):
                connection.mounts.discard(str(content.get("mount", "")))
            self.watched(self.is_watched)
        elif op == "call":
            self._call(host, content, [bytes(buffer) for buffer in buffers])
        else:
            log.warning("%s: invalid message from a browser: %r", type(self).__name__, op)

    def _sync(self, host: Host, mount: str) -> None:
        if type(self).prepare is View.prepare:
            self._snap(host, mount)
        else:
            self.start(self._prepare_and_snap(host, mount))

    async def _prepare_and_snap(self, host: Host, mount: str) -> None:
        while True:
            try:
                await self.prepare()
                break
            except BusyError as error:  # Other pages of the same user have used up the read limit.
                await asyncio.sleep(error.retry_after or 1.0)
        self._snap(host, mount)

    def _snap(self, host: Host, mount: str) -> None:
        with self._lock:
            self.flush()
            if connection := self._connections.get(id(host)):
                connection.mounts.add(mount)
            state = self.snapshot()
            reply = state if isinstance(state, Reply) else Reply(state)
            message: dict[str, object] = {
                "op": "snap",
                "seq": self._seq,
                "state": reply.value,
                "config": self.config,
            }
            self._post(host, message, reply.buffers)
        self.watched(True)

    def _call(self, host: Host, content: Mapping[str, Json], buffers: list[bytes]) -> None:
        name, call_id = str(content.get("name")), content.get("id")
        args = cast("dict[str, object]", json_safe(content.get("args") or {}))
        if buffers:
            args["buffers"] = buffers

        async def answer() -> None:
            try:
                if name not in self._handlers:
                    raise UsageError(f"{type(self).__name__} has no handler {name!r}.", "Reload the page.")
                result = getattr(self, self._handlers[name])(**args)
                if inspect.isawaitable(result):
                    result = await result
            except LabError as error:
                self._post(host, _refusal(call_id, error.message, error.next_step), ())
            except Exception as error:
                log.exception("%s: answering %r failed.", type(self).__name__, name)
                self._post(host, _refusal(call_id, f"{type(error).__name__}: {error}", "See the log."), ())
            else:
                reply = result if isinstance(result, Reply) else Reply(result)
                self.flush()  # What the call changed is there when it returns; the 30 ms are for changes that come by themselves.
                self._post(host, {"op": "reply", "id": call_id, "value": reply.value}, reply.buffers)

        self.start(answer())

    def _post(self, host: Host, message: Mapping[str, object], buffers: Sequence[bytes]) -> None:
        host.post(json_safe(message), buffers)

    # Event loop

    async def in_turn(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking read: in a thread, or in a served page in the user's queue."""
        if self.turns is None:
            return await in_thread(read, *args, **kwargs)
        return await self.turns(partial(read, *args, **kwargs))

    def _remember_loop(self) -> None:
        """Remember the loop on which browsers attach and send messages."""
        if in_event_loop():
            self._loop = asyncio.get_running_loop()

    def in_loop(self, function: Callable[[], None], delay_s: float = 0.0) -> None:
        """Call a function on the loop's thread after a delay; thread-safe. Immediately if there is no loop (a plain
        script).
        """
        if self._loop is None or self._loop.is_closed():
            self._loop = None
            self._remember_loop()
        if self._loop is None:
            function()
        else:
            self._loop.call_soon_threadsafe(self._loop.call_later, delay_s, function)

    def start(self, work: Coroutine[object, object, None]) -> None:
        """Run a coroutine in the background on the loop that is running, or else on that of the browsers; without a loop,
        run it to completion. Thread-safe.

        Browsers' messages can change from one loop to another (see `of_any_loop`), and a loop that sleeps does not notice
        a task that another thread has created on it.
        """
        if in_event_loop():
            self._begin_on(asyncio.get_running_loop(), work)
        elif self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._begin_on, self._loop, work)
        else:
            asyncio.run(work)

    def _begin_on(self, loop: asyncio.AbstractEventLoop, work: Coroutine[object, object, None]) -> None:
        task = loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: background task failed.", type(self).__name__, exc_info=error)

    # Display

    @property
    def widget(self) -> AnyWidget:
        """The view's ipywidget (an `anywidget.AnyWidget`), always the same one. Layouts accept the view itself:
        `VBox([lab.chat(), lab.traces])`, `marimo.ui.anywidget(view)`."""
        if self._widget is None:
            from timestep_lab.ui.hosts import notebook_widget

            self._widget = notebook_widget(self)
        return self._widget

    if not TYPE_CHECKING:  # For type checkers, a view has only its own class.

        @property
        def __class__(self) -> type:
            """Widget layouts check `isinstance(view, Widget)` for their children. If ipywidgets is loaded, a view
            passes the check, and its `widget` provides the attributes they use (`model_id`, `comm`, `get_state` …)."""
            if not hasattr(sys.modules.get("ipywidgets"), "VBox"):
                return type(self)
            from timestep_lab.ui.hosts import also_a_widget

            return also_a_widget(type(self))

    def __getattr__(self, name: str) -> object:
        """Called only for attributes that the view does not have."""
        if name in _ASKED_OF_WIDGETS:
            return getattr(self.widget, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def __dir__(self) -> list[str]:
        return sorted({*dir(type(self)), *self.__dict__} - _FOR_HOSTS)

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        """Called by `copy.copy`, `copy.deepcopy` and `pickle`."""
        raise UsageError(
            f"A {type(self).__name__} cannot be copied or pickled: it is connected to its lab and to browsers.",
            "Make another one, such as lab.explorer(filter=…), lab.trace(run) or lab.chat().",
        )

    def _ipython_display_(self) -> None:
        from timestep_lab.ui.hosts import display_in_notebook

        display_in_notebook(self)

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, object], dict[str, object]]:
        """For hosts that support widgets but not IPython's display hook; includes the static copy for hosts that
        support neither.
        """
        from timestep_lab.ui.hosts import bundle

        data, metadata = bundle(self.widget)
        return {**data, "text/html": self._repr_html_(), "text/plain": repr(self)}, metadata

    def _repr_html_(self) -> str:
        from timestep_lab.ui.hosts import static_block

        return static_block(self)

    def _mime_(self) -> tuple[str, str]:
        """Used by marimo, whose own widget then contains ours."""
        marimo = importlib.import_module("marimo")
        shown: tuple[str, str] = marimo.ui.anywidget(self.widget)._mime_()
        return shown

    def __repr__(self) -> str:
        """The view as text, for a terminal."""
        from timestep_lab.ui.hosts import plain_text

        try:
            return plain_text(self.static_html())
        except LabError as error:
            return f"{type(self).__name__}: {error}"

    def panel(self, **layout: object) -> Viewable:
        """The view as a Panel component. `layout`: Panel parameters (`sizing_mode`, `margin` …)."""
        from timestep_lab.ui.hosts import panel_component

        return panel_component(self, **layout)

    __panel__ = panel

    def refresh_static(self, *, now: bool = False) -> None:
        """Update the static copies in the notebook soon. Cheap to call often. `now`: before the cell, and possibly the
        kernel, ends.
        """
        from timestep_lab.ui.hosts import refresh, refresh_now

        if now:
            refresh_now(self)
        else:
            refresh(self)


async def of_any_loop(task: asyncio.Task[T]) -> T:
    """The result of a task of this event loop or of another one. JupyterLab's messages reach the kernel's own loop until
    their subshell has started, and that of the subshell from then on.
    """

    async def result() -> T:
        return await task

    if task.get_loop() is asyncio.get_running_loop():
        return await task
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(result(), task.get_loop()))


class LatestOnly:
    """Of several questions only the answer to the last one counts, in whatever order they are answered: `is_latest = self._queries.ask()`
    before asking, and then `if is_latest(): …`."""

    def __init__(self) -> None:
        self._asked = 0

    def ask(self) -> Callable[[], bool]:
        """Whether nothing was asked since, as a function to call when the answer is there."""
        self._asked += 1
        mine = self._asked
        return lambda: mine == self._asked


def _refusal(call_id: Json, message: str, next_step: str) -> dict[str, Json]:
    return {"op": "reply", "id": call_id, "error": {"message": message, "next_step": next_step}}


# --- Coalescing of change notifications


LEAST_S = 0.15


class Updates:
    """Runs `refresh` soon after `soon()` was called; thread-safe, one at a time, and using at most a fifth of the time.

    `cost_s` is the duration of the last refresh, set by the owner. A notification during a refresh causes one more.
    """

    def __init__(self, view: View, refresh: Callable[[], Awaitable[None]]) -> None:
        self._view = view
        self._refresh = refresh
        self._due = False
        self._running = False
        self.cost_s = 0.0

    def soon(self) -> None:
        """Request a refresh; pending requests are combined."""
        if self._due:
            return
        self._due = True
        self._view.in_loop(self._begin, max(LEAST_S, 4 * self.cost_s))

    def _begin(self) -> None:
        if not self._running:
            self._view.start(self._run())

    async def _run(self) -> None:
        self._running = True
        try:
            while self._due:
                self._due = False
                try:
                    await self._refresh()
                except LabError as error:
                    log.warning("%s could not be refreshed: %s", type(self._view).__name__, error)
                if self._due:
                    await asyncio.sleep(max(LEAST_S, 4 * self.cost_s))
        finally:
            self._running = False
