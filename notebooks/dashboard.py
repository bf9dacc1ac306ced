"""A dashboard of your own around a lab: `panel serve notebooks/dashboard.py`.

Every view of a lab is a Panel component and can be used like any other. Each browser session has its own `lab.traces`; all sessions share
one lab, which is closed when the server ends.
"""

import atexit

import pandas as pd
import panel as pn
from bokeh.plotting import figure

from timestep_lab import Lab


def open_lab() -> Lab:
    lab = Lab()  # ./lab.duckdb, or TIMESTEP_LAB_STORE
    atexit.register(lab.close)
    return lab


pn.extension(sizing_mode="stretch_width")
pn.theme.Fast._resources["font"] = {}  # The template would load its font from Google; use the system's instead.
lab = pn.state.as_cached("lab", open_lab)
explorer = lab.traces

# A widget sets the explorer's filter.
status = pn.widgets.Select(
    name="Status", options={"all": "", "done": 'status == "completed"', "failed": 'status == "failed"'}
)
status.param.watch(lambda event: setattr(explorer, "filter", event.new), "value")

# Your own components follow the explorer.
counts = pn.pane.Markdown(name="Counts")
plot = pn.pane.Bokeh(height=220)
handoffs = pn.Column()


def times_and_tokens(rows: pd.DataFrame) -> figure:
    plot = figure(x_axis_label="time (s)", y_axis_label="output tokens", tools="", toolbar_location=None)
    plot.scatter(rows.duration_ms / 1000, rows.output_tokens, size=7)
    return plot


def update(explorer) -> None:
    """Called when the explorer's filter, rows or selected trace change, in code or in the browser."""
    rows = explorer.df()
    failed = int((rows.status == "failed").sum())
    counts.object = f"**{len(rows)}** trace{'s' if len(rows) != 1 else ''}, **{failed}** failed"
    plot.object = times_and_tokens(rows)
    # The handoffs of the selected trace, or of all that match the filter.
    selected = explorer.selection
    handoffs.objects = [lab.handoffs(traces=selected) if selected else lab.handoffs(filter=explorer.filter)]


explorer.on_change(update)
update(explorer)

pn.template.FastListTemplate(
    title="My agents",
    sidebar=[status, counts, plot],
    main=[pn.Tabs(("Traces", explorer), ("Chat", lab.chat())), handoffs],
).servable()
