"""Floor 5: the command line. It parses, calls `Lab`, and prints; what it can do, `Lab` can do."""

from timestep_lab.cli.root import main

__all__ = ["main"]
