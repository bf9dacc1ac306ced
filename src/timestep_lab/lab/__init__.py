"""Floor 7: the `Lab` object. It opens a store, connects the router, tools, runner and trace writer, and manages their
lifetimes.
"""

from timestep_lab.lab.lab import Lab
from timestep_lab.lab.run import Run, RunStream

__all__ = ["Lab", "Run", "RunStream"]
