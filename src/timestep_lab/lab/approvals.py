"""`lab.approvals`: every run that waits for a person, started by whichever process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from timestep_lab.model.errors import NotFoundError

if TYPE_CHECKING:
    from timestep_lab.lab.lab import Lab
    from timestep_lab.lab.run import Run


class Approvals:
    """Acts like a mapping from run id to the waiting `Run`, oldest first."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def list(self) -> list[Run]:
        """Every run that waits for a decision."""
        states = self._lab.store.run_states.find(status="pending")
        return [self._lab.get_run(state.run_id) for state in states]

    def __getitem__(self, run_id: str) -> Run:
        """Raises `NotFoundError` when that run waits for nothing."""
        run = self._lab.get_run(run_id)
        if run.status != "needs_approval":
            waiting = ", ".join(r.id for r in self.list()) or "none"
            raise NotFoundError(f"Run {run_id} waits for no approval: it is {run.status}.", f"Waiting now: {waiting}.")
        return run

    def __iter__(self) -> Iterator[Run]:
        return iter(self.list())

    def __len__(self) -> int:
        return len(self.list())

    def __repr__(self) -> str:
        runs = self.list()
        if not runs:
            return "Nothing waits for approval."
        lines = [f"  {r.id}  {i.name}({i.arguments})  asked by {i.agent}" for r in runs for i in r.interruptions]
        return "Waiting for approval (await lab.approvals[run_id].approve()):\n" + "\n".join(lines)
