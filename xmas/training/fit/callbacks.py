"""Callbacks of every fit: a progress bar, the loss curve, checkpoints that survive power cuts."""

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from xmas.models.chat.batches import Batch, Loader
from xmas.store.checkpoint import save_checkpoint, state_being_saved
from xmas.store.progress import bar

COLUMNS = ("step", "loss", "rate", "answer_tokens")


class Losses(Callback):
    """`loss.csv`: optimiser step, mean loss of its microbatches, learning rate, answer tokens.

    The rows are part of the checkpoint, so that a resumed fit neither repeats nor misses one. The
    fit's logger gets the same rows, at its start those of the interrupted attempts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[list[float]] = []
        self._open: list[float] = []
        self._weight = 0.0
        self._tokens = 0
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
        # Lightning has divided the loss by the accumulation; the curve shows the mean.
        self._open.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        self._weight += batch.weight
        self._tokens += int((batch.labels >= 0).sum()) if batch.weight else 0
        if trainer.global_step > (self.rows[-1][0] if self.rows else 0):
            loss, weight, tokens = self._summed(trainer)
            mean = loss / weight if weight else 0.0  # no answer in the whole step
            self.rows.append([trainer.global_step, mean, self._rate, int(tokens)])
            _log(trainer, self.rows[-1])
            self._open, self._weight, self._tokens = [], 0.0, 0

    def _summed(self, trainer: Trainer) -> list[float]:
        """Loss, weight and tokens of the step, over all ranks."""
        own = [sum(self._open), self._weight, self._tokens]
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
        return {
            "rows": self.rows,
            "open": self._open,
            "weight": self._weight,
            "tokens": self._tokens,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self._open, self._tokens = state_dict["open"], state_dict["tokens"]
        self._weight = state_dict["weight"]


def _log(trainer: Trainer, row: list[float]) -> None:
    step, *values = row
    for logger in trainer.loggers:
        logger.log_metrics(dict(zip(COLUMNS[1:], values, strict=True)), int(step))


class Progress(Callback):
    """A progress bar that counts rows, with the loss of the last microbatch.

    Args:
        counts: rows of each microbatch of all ranks, in order.
    """

    def __init__(self, label: str, counts: Sequence[int]) -> None:
        self.label = label
        self.counts = counts
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
        self._bar.set_postfix_str(
            f"loss {float(outputs['loss']) * trainer.accumulate_grad_batches:.3f}", refresh=False
        )
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
