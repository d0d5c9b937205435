"""TensorBoard: event files that `tensorboard --logdir` shows, a folder a run."""

import dataclasses
import shutil
from pathlib import Path
from typing import cast

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from xmas.results.escaping import markdown_text
from xmas.results.logger import RunLogger
from xmas.results.logger.entry import Entry


@dataclasses.dataclass(frozen=True)
class TensorBoard(RunLogger):
    """Under `tensorboard/<group>/<kind>-<key>/`: a summary is a point at step 0, and why a number
    is missing is a text.
    """

    def begin(self, kind: str, key: str) -> Logger:
        folder = Path(self.folder) / self.where / f"{kind}-{key}"
        shutil.rmtree(folder, ignore_errors=True)
        return TensorBoardLogger(
            self.folder, name=self.where, version=folder.name, default_hp_metric=False
        )

    def end(self, logger: Logger, entry: Entry) -> None:
        logger.log_hyperparams(entry.config)
        summary = {f"summary/{name}": value for name, value in entry.summary.items()}
        logger.log_metrics(summary, 0)
        for name, why in entry.missing.items():
            cast("TensorBoardLogger", logger).experiment.add_text(
                f"missing/{name}", markdown_text(why), 0
            )
        logger.save()
        logger.finalize("success")
