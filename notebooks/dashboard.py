"""A dashboard of your own around a lab: `panel serve notebooks/dashboard.py`.

Every view of a lab is a Panel component, so it goes wherever one goes. `lab.traces` is each browser session's own; the lab is one for all
sessions and is closed once, when the server ends.
"""

import atexit

import panel as pn

from timestep_lab import Lab


def open_lab() -> Lab:
    lab = Lab()  # ./lab.duckdb, or TIMESTEP_LAB_STORE
    atexit.register(lab.close)
    return lab


pn.extension(sizing_mode="stretch_width")
pn.theme.Fast._resources["font"] = {}  # The template would load its font from Google; the system's will do.
lab = pn.state.as_cached("lab", open_lab)
explorer = lab.traces

status = pn.widgets.Select(
    name="Status", options={"all": "", "done": 'status == "completed"', "failed": 'status == "failed"'}
)
status.param.watch(lambda event: setattr(explorer, "filter", event.new), "value")

counted = pn.pane.Markdown("", name="count")


def count(shown) -> None:
    """What is shown has changed, here or by somebody's click."""
    rows = shown.df()
    counted.object = f"**{len(rows)}** traces, **{int((rows.status == 'failed').sum())}** failed"


explorer.on_change(count)
count(explorer)

pn.template.FastListTemplate(
    title="My agents",
    sidebar=[status, counted],
    main=[pn.Tabs(("Traces", explorer), ("Chat", lab.chat()), ("Handoffs", lab.handoffs()))],
).servable()
