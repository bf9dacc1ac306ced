"""Floor 5: the one object a user holds. It opens a store, wires router, tools, runner and tracer, and owns their lifetimes."""

from timestep_lab.lab.lab import Lab
from timestep_lab.lab.run import Run, RunStream

__all__ = ["Lab", "Run", "RunStream"]
