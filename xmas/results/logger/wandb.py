"""Weights & Biases: one run a result, in the group of its sweep; offline where nobody is logged in.

Offline runs are in `wandb/` of the logger's folder; `wandb sync` sends them later.
"""

import csv
import dataclasses
import functools
import netrc
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger, WandbLogger

from xmas.results.logger import RunLogger
from xmas.results.logger.entry import Entry
from xmas.store.printable import one_line, plain

if TYPE_CHECKING:
    import wandb

_BEGUN: set[str] = set()  # by this process

STEP = "trainer/global_step"  # the x-axis, by Lightning's name


@dataclasses.dataclass(frozen=True)
class Wandb(RunLogger):
    """`mode` null: online with an account, else offline; `WANDB_MODE` wins over both."""

    project: str = "xmas"
    entity: str | None = None
    mode: str | None = None  # online, offline, disabled

    def begin(self, kind: str, key: str) -> Logger:
        import wandb

        folder = Path(self.folder)
        named = re.sub(r"[^\w-]", "-", self.named)  # letters that an id may have
        name = f"{kind}-{key}-{named}"
        mode = os.environ.get("WANDB_MODE") or self.mode or ("online" if _account() else "offline")
        if name in _BEGUN:
            wandb.teardown()  # its service ignores data of a run whose id it has served before
            _BEGUN.clear()
        _BEGUN.add(name)
        if mode == "offline":
            for earlier in (folder / "wandb").glob(f"offline-run-*-{name}"):
                shutil.rmtree(earlier)
        folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            id=name,  # a run of that name is replaced, not resumed
            name=one_line(f"{kind} {key}"),
            group=one_line(self.named),
            job_type=kind,
            dir=folder,
            mode=cast("Any", mode),
            reinit="create_new",
            settings=_settings(is_first=len(_BEGUN) == 1),
        )
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return WandbLogger(experiment=run)

    def end(self, logger: Logger, entry: Entry) -> None:
        import wandb

        run = _run(logger)
        run.name = one_line(entry.name)
        run.config.update(plain(entry.config), allow_val_change=True)
        missing = {f"missing/{name}": why for name, why in entry.missing.items()}
        run.summary.update(plain({**entry.summary, **missing}))
        for file in entry.files:
            if file.suffix == ".csv":
                run.log({file.stem: _table(file)})
        if entry.files:
            artifact = wandb.Artifact(f"{entry.kind}-{entry.key}", entry.kind)
            for file in entry.files:  # a result never changes, so there is no need for a copy
                artifact.add_file(str(file), policy="immutable")
            run.log_artifact(artifact)
        run.finish()

    def drop(self, logger: Logger) -> None:
        _run(logger).finish(exit_code=1)


def _table(path: Path) -> "wandb.Table":
    """A CSV as a W&B table: numbers where a cell is one, None where it is empty."""
    import wandb

    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    head: list[Any] = lines[0]
    cells: list[Any] = [[_number_or_text(cell) for cell in line] for line in lines[1:]]
    return wandb.Table(columns=head, data=cells, allow_mixed_types=True)


def _number_or_text(cell: str) -> float | str | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell


def _run(logger: Logger) -> "wandb.Run":
    return cast("wandb.Run", cast("WandbLogger", logger).experiment)


@functools.cache
def _settings(*, is_first: bool) -> Any:
    """Quiet, and without what the store records already, such as the versions of a result.

    The first run of a process lists all installed packages in W&B's `requirements.txt`, which takes
    0.1 s; the others have none.
    """
    import wandb

    return wandb.Settings(
        console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True,
        x_save_requirements=is_first,
    )  # fmt: skip


def _account() -> bool:
    """Whether W&B would find a key by itself: in the environment, or in netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except FileNotFoundError:
        return False
