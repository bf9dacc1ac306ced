"""The reference of the public names, from their docstrings: `python .ci/reference.py FOLDER`. Needs `pip install '.[docs]'`.

A warning ends it with 1: a name that is not there, an annotation that cannot be read, a link that leads nowhere.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.render

import timestep_lab

ONLY_PUBLIC = ("timestep_lab", "!timestep_lab[.].+")


def main(folder: Path) -> int:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="(?!timestep_lab)")
    for name in timestep_lab.__all__:  # They are imported when first used; a reference uses them all.
        setattr(timestep_lab, name, getattr(timestep_lab, name))
    pdoc.render.configure(docformat="google", show_source=False, footer_text="Timestep Lab")
    pdoc.pdoc(*ONLY_PUBLIC, output_directory=folder)
    page = (folder / "timestep_lab.html").read_text("utf-8")
    missing = [name for name in timestep_lab.__all__ if name != "__version__" and f'id="{name}"' not in page]
    print(f"{len(timestep_lab.__all__) - 1 - len(missing)} names in {folder}", *missing)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
