"""The Settings page: what is set up, and what is missing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from timestep_lab import __version__
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import LabError
from timestep_lab.server.pages.files import default_embeddings
from timestep_lab.server.pages.page_view import PageView
from timestep_lab.store.base import in_thread
from timestep_lab.ui.view import handles

if TYPE_CHECKING:
    from timestep_lab.server.labs import UserLab
    from timestep_lab.service.my_data import Kind

# -- The page: providers and how to set them up; the user's data, and what others can see of it


class SettingsPage(PageView):
    """The page. `is_owner`: whether this is the lab's own user, who may see where the store is."""

    stem = "pages/settings"
    title = "Settings"

    def __init__(self, lab: UserLab, *, is_owner: bool = False) -> None:
        super().__init__(lab)
        self._is_owner = is_owner

    async def read(self) -> object:
        quota = self.lab.store.quota
        usage = await self.in_turn(quota.kept) if quota else {}
        settings, db = self.lab.settings, self.lab.store.db
        return {
            "providers": self.lab.models.status().providers,
            "default_model": settings.default_model,
            "default_model_is_chosen": settings.default_agent_model is not None,
            "embeddings": default_embeddings(settings),
            "store": {"kind": "DuckDB" if db.dialect == "duckdb" else "Postgres", "place": self._place(str(db.url))},
            "user_id": self.lab.store.user_id,
            "is_owner": self._is_owner,
            "guest_limits": [
                {"name": name, "most": most, "kept": usage.get(name)} for name, most in asdict(settings.guests).items()
            ],
            "version": __version__,
            "my_data": asdict(await self.in_turn(self.lab.my_data.counts)),
            "links": [asdict(link) for link in await self.in_turn(self.lab.trace_source.shares)],
        }

    def _place(self, url: str) -> str | None:
        """The location of the store, without its password; None for other users."""
        if not self._is_owner:
            return None
        parts = urlsplit(url)
        return f"{parts.hostname or ''}{parts.path}" if parts.netloc else url

    @handles("delete")
    async def _delete(self, kind: Kind | Literal["everything"]) -> None:
        """Delete all data of one kind, or everything."""
        if kind == "everything":
            await in_thread(self.lab.my_data.delete_everything)
        else:
            await in_thread(self.lab.my_data.delete, kind)
        await self.refresh()

    @handles("revoke")
    async def _revoke(self, share_id: str) -> None:
        await in_thread(self.lab.trace_source.revoke, share_id)
        await self.refresh()

    @handles("ask")
    async def _ask(self, prefix: str) -> Json:
        """Check whether a provider responds now: its models, or the error."""
        try:
            return {"models": await self.lab.models.list_models(prefix)}
        except LabError as error:
            return {"problem": error.message, "next_step": error.next_step}


# --


def page(lab: UserLab, *, is_owner: bool) -> SettingsPage:
    return SettingsPage(lab, is_owner=is_owner)
