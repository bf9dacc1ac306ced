"""The IPython extension `%load_ext timestep_lab`: shows the trace of a cell below the cell.

    %%trace                    trace this cell: agent runs, or the cell itself if it ran none
    %%trace Rain check         the same, with a name for the trace
    %%trace --lab other        write to the lab in the variable `other`
    %trace on                  show a trace below every later cell that runs an agent
    %trace off

Traced are: runs of a lab; runs and spans of the plain Agents SDK (`Runner.run`, `custom_span`), which in a `%%trace`
cell become one trace with the cell as its root; and spans of an OpenTelemetry tracer provider that was set up in an
earlier cell. Traces are written to the lab in the variable `lab`, or else to the most recent `Lab` in the namespace; if
there is none, `Lab()` is opened and assigned to `lab`.

The cell runs unchanged, including `await` and other magics; only the first line is removed.
"""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, cast

from timestep_lab.lab.lab import Lab
from timestep_lab.model.errors import LabError, UsageError

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider

    from timestep_lab.runtime.tracing import CellTrace, StoreProcessor, TraceContext


# --- Spans that a cell creates with the OpenTelemetry SDK: read from the process's tracer provider, in addition to its own exporters


LATEST = 256
"""How many traces are remembered, so that spans ending after their cell has finished are still stored."""


class Cell(Protocol):
    lab: Lab

    def began(self, trace_id: str, lab: Lab) -> None: ...


class OtelCells:
    """An OpenTelemetry span processor. `cell()` returns the traced cell that the caller runs in, if any."""

    def __init__(self, cell: Callable[[], Cell | None]) -> None:
        self._cell = cell
        self._provider: TracerProvider | None = None
        self._lock = threading.Lock()
        self._labs: dict[int, Lab] = {}
        self._held: list[tuple[Lab, ReadableSpan]] | None = None

    def attach(self) -> None:
        """Register with the process's tracer provider, if it is one of the OpenTelemetry SDK. Safe to call repeatedly."""
        if "opentelemetry.sdk.trace" not in sys.modules:
            return
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace import get_tracer_provider

        provider = get_tracer_provider()
        if isinstance(provider, TracerProvider) and provider is not self._provider:
            self._provider = provider
            provider.add_span_processor(self)  # type: ignore[arg-type] # duck-typed: has the methods of SpanProcessor without subclassing it

    def hold(self) -> None:
        """Buffer spans that end from now on, until `store` is called."""
        self._held = []

    def store(self) -> None:
        """Write the buffered spans. Spans that end later are written immediately."""
        with self._lock:
            held, self._held = self._held or [], None
        for lab in dict.fromkeys(lab for lab, _ in held):
            _store(lab, [span for owner, span in held if owner is lab])

    # Called by OpenTelemetry

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        cell = self._cell()
        trace_id = span.get_span_context().trace_id
        if cell is None or trace_id in self._labs:
            return
        with self._lock:
            self._labs[trace_id] = cell.lab
            while len(self._labs) > LATEST:
                del self._labs[next(iter(self._labs))]
        cell.began(f"{trace_id:032x}", cell.lab)

    def _on_ending(self, span: Span) -> None:
        """Called just before a span ends, while it can still be modified."""

    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        lab = self._labs.get(context.trace_id) if context else None
        if lab is None:
            return
        with self._lock:
            if self._held is not None:
                self._held.append((lab, span))
                return
        _store(lab, [span])

    def shutdown(self) -> None:
        """Does nothing: the lab has its own lifetime."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def _store(lab: Lab, spans: list[ReadableSpan]) -> None:
    from timestep_lab.runtime.interchange.otlp_in import read_otlp_json
    from timestep_lab.runtime.interchange.otlp_json import otlp_request

    read_otlp_json(otlp_request(spans), lab.store.user_id).store(lab.store.db)


MAGIC = "%%trace"
MOST_VIEWS = 3
"""Up to this many traces are shown one by one; above that, a list is shown."""
_here: ContextVar[_Cell | None] = ContextVar("timestep_lab_cell", default=None)
"""The cell whose code is running in this context. Tasks that outlive their cell keep it."""


class _Cell:
    """A running cell and the traces started in it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.own: CellTrace | None = None
        self.traces: dict[str, Lab] = {}

    def began(self, trace_id: str, lab: Lab) -> None:
        self.traces.setdefault(trace_id, lab)


class CellTraces:
    """The extension of one IPython shell. `load` registers it, `unload` removes it."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell: Any = shell  # Some of its methods have no annotations.
        self._is_on = False
        self._cell: _Cell | None = None
        self._inner = 0
        """Nesting depth of cells run inside this one: magics such as `%%capture` run their body as a cell."""
        self._homes: dict[int, Lab] = {}
        self._otel: OtelCells | None = None
        self._stop_watching: Callable[[], None] | None = None

    # -- the extension

    def load(self) -> None:
        self._shell.input_transformers_cleanup.append(without_magic)
        self._shell.events.register("pre_run_cell", self._before)
        self._shell.events.register("post_run_cell", self._after)
        self._shell.register_magic_function(self.trace, "line_cell", "trace")

    def unload(self) -> None:
        self._shell.input_transformers_cleanup.remove(without_magic)
        self._shell.events.unregister("pre_run_cell", self._before)
        self._shell.events.unregister("post_run_cell", self._after)
        for kind in ("line", "cell"):
            self._shell.magics_manager.magics[kind].pop("trace", None)
        if self._stop_watching:
            from timestep_lab.runtime.tracing import uninstall

            self._stop_watching()
            for lab in self._homes.values():
                uninstall(lab.writer)

    def trace(self, line: str, cell: str | None = None) -> None:
        """`%%trace [--lab NAME] [name]` shows what ran in a cell below it; `%trace on` does so for every cell that runs
        an agent.
        """
        if cell is not None:
            self._shell.run_cell(f"{MAGIC} {line}\n{cell}")
            return
        word = line.strip()
        if word not in ("on", "off", ""):
            raise UsageError(
                f"%trace {word} is not a known option.", "Use %trace on, %trace off, or %%trace above a cell."
            )
        if word == "on":
            self._ready(None)
        self._is_on = word == "on" if word else self._is_on
        print(f"Show a trace below each cell that runs an agent: {'on' if self._is_on else 'off'}.")  # noqa: T201

    # -- a cell

    def _before(self, info: ExecutionInfo) -> None:
        if self._cell is not None:
            self._inner += 1
            return
        written = cast(str, info.raw_cell)
        asked = magic_line(written)
        if asked is None and not self._is_on:
            return
        try:
            lab_name, name = (None, "") if asked is None else _options(asked)
            lab, processor = self._ready(lab_name)
        except LabError as error:
            print(f"{error} The cell runs untraced.", file=sys.stderr)  # noqa: T201
            return
        self._cell = _Cell(lab)
        _here.set(self._cell)
        if self._otel is not None:
            self._otel.attach()
            self._otel.hold()
        if asked is not None:
            from timestep_lab.runtime.tracing import CellTrace

            source = "".join(without_magic(written.lstrip("\n").splitlines(keepends=True))).lstrip("\n")
            name = name or next((line.strip() for line in source.splitlines() if line.strip()), "Cell")
            self._cell.own = CellTrace(processor, lab.writer, lab.store.user_id, name[:80], source)

    def _after(self, result: ExecutionResult) -> None:
        if self._inner:
            self._inner -= 1
            return
        cell, self._cell = self._cell, None
        if cell is None:
            return
        same_context = _here.get() is cell
        if same_context:
            _here.set(None)
        if self._otel is not None:
            self._otel.store()
        shown = list(cell.traces.items())
        if cell.own is not None:
            error = result.error_before_exec or result.error_in_exec
            cell.own.end(output=result.result, error=error, is_wanted=not shown, same_context=same_context)
            if cell.own.has_begun:
                shown.insert(0, (cell.own.trace_id, cell.lab))
        for lab in dict.fromkeys(lab for _, lab in shown):
            lab.flush()
        self._show(shown)

    def _show(self, traces: list[tuple[str, Lab]]) -> None:
        if not hasattr(self._shell, "kernel"):
            _print(traces)
        elif len(traces) <= MOST_VIEWS:
            for trace_id, lab in traces:
                lab.trace(trace_id)._ipython_display_()
        else:
            for lab in dict.fromkeys(lab for _, lab in traces):
                ids = ", ".join(f'"{trace_id}"' for trace_id, owner in traces if owner is lab)
                lab.explorer(filter=f"trace_id in ({ids})")._ipython_display_()

    # -- which lab receives the traces

    def _ready(self, name: str | None) -> tuple[Lab, StoreProcessor]:
        """The lab to write traces to, with trace processing installed."""
        from timestep_lab.runtime.tracing import install

        lab = self._lab(name)
        processor = install(lab.writer)
        if id(lab) in self._homes:
            from timestep_lab.runtime.tracing import uninstall

            uninstall(lab.writer)  # One registration is enough; the newest one stays last.
        self._homes[id(lab)] = lab
        if self._stop_watching is None:
            self._stop_watching = processor.watch(self._started)
            self._otel = OtelCells(self._running)
        return lab, processor

    def _lab(self, name: str | None) -> Lab:
        known = self._shell.user_ns
        if name is not None:
            variable = known.get(name)
            if not isinstance(variable, Lab):
                raise UsageError(f"The variable {name!r} is not a lab.", f"Create one first: {name} = Lab()")
            return variable
        labs = [value for value in known.values() if isinstance(value, Lab)]
        if isinstance(known.get("lab"), Lab):
            return known["lab"]  # type: ignore[no-any-return]
        if labs:
            return labs[-1]
        lab = Lab()
        known.setdefault("lab", lab)
        print(f"Opened {lab.store.db.url} as lab.")  # noqa: T201
        return lab

    def _running(self) -> _Cell | None:
        """The current cell. A thread that the cell started has no context, so the shell's running cell is used."""
        return _here.get() or self._cell

    def _started(self, route: TraceContext) -> None:
        cell = self._running()
        if cell is None or route.root:  # A trace with its own root is the trace of the cell itself.
            return
        labs = [value for value in self._shell.user_ns.values() if isinstance(value, Lab)]
        owner = next((lab for lab in labs if lab.writer is route.writer), cell.lab)
        cell.began(route.trace_id, owner)


def magic_line(source: str) -> str | None:
    """The rest of the line after `%%trace` at the top of a cell; None if the cell does not start with it."""
    first = source.lstrip("\n").partition("\n")[0]
    if first != MAGIC and not first.startswith(f"{MAGIC} "):
        return None
    return first[len(MAGIC) :].strip()


def without_magic(lines: list[str]) -> list[str]:
    """An input transformer that removes the `%%trace` line. Line numbers are kept, unless another cell magic follows
    and must be first.
    """
    if not lines or magic_line(lines[0]) is None:
        return lines
    return lines[1:] if len(lines) > 1 and lines[1].startswith("%%") else ["\n", *lines[1:]]


def _options(line: str) -> tuple[str | None, str]:
    """The lab's variable name (or None) and the trace name."""
    try:
        words = shlex.split(line)
    except ValueError:
        return None, line
    if words[:1] == ["--lab"]:
        if len(words) < 2:
            raise UsageError("--lab needs the name of a variable.", f"For example: {MAGIC} --lab other")
        return words[1], " ".join(words[2:])
    return None, " ".join(words)


def _print(traces: list[tuple[str, Lab]]) -> None:
    """Print the traces in a terminal."""
    from timestep_lab.cli.context import console
    from timestep_lab.cli.render import print_trace

    for trace_id, lab in traces:
        print_trace(console(), lab.store.traces.get(trace_id), lab.store.traces.spans(trace_id))


_loaded: dict[int, CellTraces] = {}


def load(shell: InteractiveShell) -> None:
    if id(shell) not in _loaded:
        _loaded[id(shell)] = CellTraces(shell)
        _loaded[id(shell)].load()


def unload(shell: InteractiveShell) -> None:
    if extension := _loaded.pop(id(shell), None):
        extension.unload()
