"""`python -m timestep_lab` is the command line."""

import sys

from timestep_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
