"""The dashboard of a sweep in W&B, as code: built and checked anywhere, sent only when asked to.

It shows what `logger=wandb` has logged: training curves and spectra of the runs, scores and hours
of their summaries, and the table's means and intervals, which `goal=table logger=wandb` logs.
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from xmas.results.dashboard.charts import CHARTS
from xmas.results.pages import page_path, write_page
from xmas.store import Store

if TYPE_CHECKING:
    import wandb_workspaces.workspaces

_NOBODY = "entity"  # the account in the file, where none is configured


@dataclasses.dataclass(frozen=True)
class Dashboard:
    """What `goal=dashboard` makes. Not a stage: nothing of the store is in it but its file."""

    project: str = "xmas"
    entity: str | None = None  # null: W&B's own default
    group: str | None = None  # the sweep; null: all of the project
    name: str = "xmas"
    push: bool = False  # to W&B's server, which needs an account

    def make(self, store: Store) -> str:
        """Write `dashboard.json`, the view and its charts as W&B keeps them, into the store.

        Its path, or the address of what was sent.
        """
        if self.push:
            return self._send()
        view = json.loads(
            self.view(self.entity or _NOBODY)._to_model().model_dump_json(by_alias=True)
        )
        content = {"view": view, "charts": CHARTS}
        (path,) = self.files(store)
        write_page(path, json.dumps(content, indent=2))
        return f"{path}\nnothing was sent; dashboard.push=true sends it"

    def files(self, store: Store) -> list[Path]:
        """What `make` writes."""
        return [page_path(store, "dashboard.json")]

    def view(self, entity: str) -> "wandb_workspaces.workspaces.Workspace":
        """The view; its custom charts are those of `entity`."""
        from xmas.results.dashboard.workspace import workspace

        return workspace(entity, self.project, self.name, self.group)

    def _send(self) -> str:
        """Raises wandb's errors: no account, no such entity."""
        import wandb

        api = wandb.Api()
        entity = self.entity or str(api.default_entity)
        for name, spec in CHARTS.items():
            api.create_custom_chart(entity, name, spec["title"], "vega2", "private", spec)
        return str(self.view(entity).save().url)
