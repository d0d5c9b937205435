"""Callbacks of every fit: a progress bar, the loss curve, checkpoints that survive power cuts."""

import csv
import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from xmas.models.chat.batches import Batch, Loader, Places
from xmas.store.checkpoint import save_checkpoint, state_being_saved
from xmas.store.progress import bar
from xmas.training.fit.module import FitModule

COLUMNS = ("step", "loss", "rate", "answer_tokens")


@dataclasses.dataclass(frozen=True)
class _Microbatch:
    """What the loss curve needs of a microbatch."""

    number: int  # among those of all ranks
    rows: Int[np.ndarray, " rows"]
    loss: Float[Tensor, ""]  # weighted, divided by the accumulation
    weight: float
    answer_tokens: int


class Losses(Callback):
    """`loss.csv`: optimiser step, mean loss of its microbatches, learning rate, answer tokens.

    The rows are part of the checkpoint, so that a resumed fit neither repeats nor misses one. The
    fit's logger gets the same rows, at its start those of the interrupted attempts. Losses stay on
    the device until the step has ended: the host waits for it once a step, and with several ranks
    once more for their sum.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[list[float]] = []
        self._open: list[_Microbatch] = []  # of this rank, in the step that has not ended
        self._rate = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for row in self.rows:
            _log(trainer, row)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self._open.append(
            _Microbatch(
                number=cast("FitModule", pl_module).microbatch(batch_idx),
                rows=batch.rows,
                loss=outputs["loss"].detach(),
                weight=batch.weight,
                answer_tokens=len(cast("Places", batch.places).answers) if batch.weight else 0,
            )
        )
        if trainer.global_step > (self.rows[-1][0] if self.rows else 0):
            loss, weight, tokens = self._summed(trainer)
            mean = loss / weight if weight else 0.0  # no answer in the whole step
            self.rows.append([trainer.global_step, mean, self._rate, int(tokens)])
            _log(trainer, self.rows[-1])

    def _summed(self, trainer: Trainer) -> list[float]:
        """Loss, weight and tokens of the step that ended, over all ranks.

        Raises FloatingPointError: a loss is not finite; names the microbatch and its rows.
        """
        step, self._open = self._open, []
        losses = torch.stack([microbatch.loss for microbatch in step]).tolist()
        for microbatch, loss in zip(step, losses, strict=True):
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"loss is {loss} at microbatch {microbatch.number}, rows "
                    f"{microbatch.rows.tolist()}; lower the learning rate, set recipe.clip, or "
                    "check these rows"
                )
        own = [
            # Lightning has divided the losses by the accumulation; the curve shows the mean.
            sum(loss * trainer.accumulate_grad_batches for loss in losses),
            sum(microbatch.weight for microbatch in step),
            sum(microbatch.answer_tokens for microbatch in step),
        ]
        if trainer.world_size == 1:
            return own
        device = trainer.strategy.root_device
        totals = torch.tensor(own, dtype=torch.float64, device=device)
        return trainer.strategy.reduce(totals, reduce_op="sum").tolist()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            with self.path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(COLUMNS)
                writer.writerows(self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}  # a checkpoint is between two steps: no microbatch is open

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]


def _log(trainer: Trainer, row: list[float]) -> None:
    step, *values = row
    for logger in trainer.loggers:
        logger.log_metrics(dict(zip(COLUMNS[1:], values, strict=True)), int(step))


class Progress(Callback):
    """A progress bar that counts rows, with the loss of the last step.

    Args:
        counts: rows of each microbatch of all ranks, in order.
        curve: the callback that is called before this one.
    """

    def __init__(self, label: str, counts: Sequence[int], curve: Losses) -> None:
        self.label = label
        self.counts = counts
        self.curve = curve
        self._bar: Any = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        if not trainer.is_global_zero:
            return
        world = trainer.world_size
        if self._bar is None:
            done = sum(self.counts[: batch_idx * world])
            self._bar = bar(total=sum(self.counts), label=self.label, initial=done)
        if self.curve.rows:
            self._bar.set_postfix_str(f"loss {self.curve.rows[-1][1]:.3f}", refresh=False)
        self._bar.update(sum(self.counts[batch_idx * world : (batch_idx + 1) * world]))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()


class Checkpoints(Callback):
    """Checkpoints of an unfinished fit, every `seconds`, between two optimiser steps.

    The last one, in the draft, is complete whenever a process dies; see `xmas.store.checkpoint`.
    """

    def __init__(self, draft: Path, seconds: float) -> None:
        self.draft = draft
        self.seconds = seconds
        self._last = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        cast("Loader", trainer.train_dataloader).consumed = batch_idx + 1
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        due = time.monotonic() - self._last >= self.seconds
        if trainer.strategy.broadcast(due):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """All ranks write or take part in writing; rank 0 renames."""
        if trainer.is_global_zero:
            save_checkpoint(self.draft, trainer.save_checkpoint)
        else:
            trainer.save_checkpoint(state_being_saved(self.draft))
        trainer.strategy.barrier()
        self._last = time.monotonic()


class StateFile(TorchCheckpointIO):
    """Writes a checkpoint straight to its place; `save_checkpoint` makes that atomic.

    Lightning's own writes it into memory, copies it there, then to the folder of temporary files
    and, where that is another disk, once more to its place.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        # To a path torch writes by itself, and says of a full disk only "iostream error".
        with open(path, "wb") as file:
            torch.save(checkpoint, file)
