"""A fit that ends once it has learned what it is for."""

import dataclasses
import logging
import statistics
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from xmas.models.chat.batches import Batch
from xmas.training.fit.callbacks import Losses

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class StopAtLoss:
    """Below which loss a fit ends before its rows do.

    What is learned all at once, at a step that hangs on roundings, takes many rows in one run and
    few in another: rows are then a bound, and the loss says when it is learned.
    """

    loss: float  # mean of the last `steps` optimiser steps
    steps: int = 50

    def __post_init__(self) -> None:
        if not self.loss > 0:
            raise ValueError(f"enough.loss {self.loss}: a loss above 0 is needed")
        if self.steps < 1:
            raise ValueError(f"enough.steps {self.steps}: at least 1 is needed")

    def reached(self, losses: list[float]) -> bool:
        """Whether a fit with these losses, one for each optimiser step so far, is to end."""
        last = losses[-self.steps :]
        return len(last) == self.steps and statistics.fmean(last) < self.loss


class LossStopper(Callback):
    """Ends a fit when it is enough; of the losses of a step, which all ranks share."""

    def __init__(self, enough: StopAtLoss, label: str) -> None:
        self.enough = enough
        self.label = label

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_enough(trainer)  # a checkpoint may be of the very last step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self._stop_if_enough(trainer)

    def _stop_if_enough(self, trainer: Trainer) -> None:
        (kept,) = (one for one in trainer.callbacks if isinstance(one, Losses))  # type: ignore[attr-defined]
        if self.enough.reached([loss for _, loss, *_ in kept.rows[-self.enough.steps :]]):
            trainer.should_stop = True
            log.info("%s: enough after %d steps", self.label, trainer.global_step)
