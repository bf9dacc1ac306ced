"""`local/…`: a GGUF model in this process, by the name of a pulled model or by path. Extra `[local]`.

`local/smollm2-135m`, `local/models/my.gguf`, `local//home/me/my.gguf`, `local/~/my.gguf`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.errors import MissingExtraError, ModelNotFoundError
from timestep_lab.model.records import ProviderStatus
from timestep_lab.runtime.adapters.local import KNOWN, find_weights, installed_names
from timestep_lab.runtime.router import Provider as BaseProvider

if TYPE_CHECKING:
    from agents import Model

BADGE = "tiny local model"
"""Badge of models that can be pulled by name: for offline tests, not capable assistants."""


class Provider(BaseProvider):
    prefix: ClassVar[str] = "local"
    most_at_once: ClassVar[int | None] = 1

    def status(self) -> ProviderStatus:
        if find_spec("xllamacpp") is None:
            return self.not_ready("xllamacpp is not installed", "Run: pip install 'timestep-lab[local]'", BADGE)
        names = installed_names()
        if not names:
            return self.not_ready("no weights here", "Run: timestep-lab models pull smollm2-135m", BADGE)
        return self.ready(f"in this process: {', '.join(names)}", BADGE)

    def model(self, name: str) -> Model:
        if find_spec("xllamacpp") is None:
            raise MissingExtraError(f"local/{name}", "local")
        from timestep_lab.runtime.adapters.local import LocalModel

        return LocalModel(name, self._path(name))

    async def list_models(self) -> list[str]:
        return installed_names()

    def _path(self, name: str) -> Path:
        if name.endswith(".gguf") and not self.settings.is_served:
            path = Path(name).expanduser() if name == "~" or name.startswith("~/") else Path(name)
            if path.is_file():
                return path
            raise ModelNotFoundError(f"local/{name}: there is no file {path}.", "Check the path.", provider=self.prefix)
        if self.settings.is_served and (allowed := self._allowed(name)) is not None:
            return allowed
        if "/" not in name and "\\" not in name and (weights := find_weights(name)) is not None:
            return weights
        if name in KNOWN:
            raise ModelNotFoundError(
                f"local/{name} is not on this machine.", f"Run: timestep-lab models pull {name}", provider=self.prefix
            )
        known = [*KNOWN, *installed_names()]
        raise ModelNotFoundError(
            f"There is no local model {name!r}.{did_you_mean(name, known)}",
            "Use a pulled model; the lab's owner can allow files with TIMESTEP_LAB_LOCAL_MODELS."
            if self.settings.is_served
            else f"Pass the path of a .gguf file, or pull one of: {', '.join(KNOWN)}.",
            provider=self.prefix,
        )

    def _allowed(self, name: str) -> Path | None:
        """Returns a file allowed by the owner of a served lab. Does not reveal whether any other path exists."""
        wanted = Path(name)
        for place in self.settings.local_models:
            allowed = Path(place).expanduser().resolve()
            for path in (wanted, allowed / wanted):
                resolved = path.resolve()
                if resolved.suffix == ".gguf" and resolved.is_relative_to(allowed) and resolved.is_file():
                    return resolved
        return None
