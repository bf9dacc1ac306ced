"""Floor 7: the command line. It parses arguments, calls `Lab` and prints; it adds no functionality of its own."""

from timestep_lab.cli.root import main

__all__ = ["main"]
