"""TensorBoard: event files that `tensorboard --logdir` shows, a folder a run."""

import dataclasses
import shutil
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from xmas.results.logger import Journal
from xmas.results.logger.entry import Entry


@dataclasses.dataclass(frozen=True)
class TensorBoard(Journal):
    """Under `tensorboard/<group>/<kind>-<key>/`; a summary is a point at step 0."""

    def begin(self, kind: str, key: str) -> Logger:
        place = Path(self.folder) / self.where / f"{kind}-{key}"
        shutil.rmtree(place, ignore_errors=True)
        return TensorBoardLogger(
            self.folder, name=self.where, version=place.name, default_hp_metric=False
        )

    def end(self, logger: Logger, said: Entry) -> None:
        logger.log_hyperparams(said.config)
        logger.log_metrics({f"summary/{name}": held for name, held in said.summary.items()}, 0)
        logger.save()
        logger.finalize("success")
