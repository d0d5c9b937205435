"""Early stopping at a training loss."""

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
    """Ends a fit before its rows do, once the mean loss of the last steps is below `loss`.

    Some skills are learned suddenly, at a step that depends on rounding: many rows in one run and
    few in another. The rows are then an upper bound, and the loss decides.
    """

    loss: float  # mean of the last `steps` optimiser steps
    steps: int = 50

    def __post_init__(self) -> None:
        if not self.loss > 0:
            raise ValueError(f"enough.loss {self.loss}: a loss above 0 is needed")
        if self.steps < 1:
            raise ValueError(f"enough.steps {self.steps}: at least 1 is needed")

    def reached(self, losses: list[float]) -> bool:
        """Whether a fit ends that had these losses, one for each optimiser step so far."""
        last = losses[-self.steps :]
        return len(last) == self.steps and statistics.fmean(last) < self.loss


class LossStopper(Callback):
    """Stops the trainer; the losses of a step are the same on all ranks."""

    def __init__(self, enough: StopAtLoss, label: str) -> None:
        self.enough = enough
        self.label = label

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_reached(trainer)  # a checkpoint may be of the very last step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self._stop_if_reached(trainer)

    def _stop_if_reached(self, trainer: Trainer) -> None:
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        (curve,) = (callback for callback in callbacks if isinstance(callback, Losses))
        if self.enough.reached([loss for _, loss, *_ in curve.rows[-self.enough.steps :]]):
            trainer.should_stop = True
            log.info(
                "%s: the mean loss of %d steps is below %g; stopped after step %d",
                self.label, self.enough.steps, self.enough.loss, trainer.global_step,
            )  # fmt: skip
