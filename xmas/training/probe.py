"""Callbacks at scheduled steps of a proxy's fit: saved weights, and attention spectra."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from xmas.store import write_atomically
from xmas.store.durable import make_folder
from xmas.training.fit.sharding import full_weight


def schedule(total: int, snapshots: int) -> list[int]:
    """`snapshots` optimiser steps from near initialisation to the end, evenly apart.

    The first is at 1 % of the fit, rounded up: the release's first save is at step 200 of 20,791.
    Fewer steps than snapshots give every step.
    """
    first = math.ceil(total / 100)
    if snapshots == 1:
        return [total]
    apart = (total - first) / (snapshots - 1)
    return sorted({round(first + number * apart) for number in range(snapshots)})


class Snapshots(Callback):
    """Calls `at` after scheduled optimiser steps, on every rank, also when a fit is resumed."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = frozenset(steps)

    def at(self, trainer: Trainer, model: nn.Module) -> None:
        raise NotImplementedError

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The interrupted attempt may have ended between step and snapshot.
        self._visit(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch:
            self._visit(trainer, pl_module)

    def _visit(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step in self.steps:
            self.at(trainer, cast("nn.Module", module.model))


class SavedSteps(Snapshots):
    """Writes `steps/<step>/trained.safetensors`: the trainable weights, never optimiser states."""

    def __init__(self, steps: Sequence[int], folder: Path) -> None:
        super().__init__(steps)
        self.folder = folder

    def at(self, trainer: Trainer, model: nn.Module) -> None:
        trained = {
            name: full_weight(weight.detach()).cpu().contiguous()
            for name, weight in model.named_parameters()
            if weight.requires_grad
        }
        if not trainer.is_global_zero:
            return
        path = self.folder / str(trainer.global_step) / "trained.safetensors"
        make_folder(path.parent)
        write_atomically(path, lambda partial: save_file(trained, partial))


class AttentionProbe(Snapshots):
    """Measures the attention spectra of the whole pool at every scheduled step.

    `measure(model, step)` stores the values if they are not there yet, ranks sharing the work, and
    returns their statistics, which go to the loggers of the fit. It draws no random numbers and
    restores the mode of every module: a fit with the probe ends with the same weights as one
    without.

    Raises ValueError: the weights are sharded over several devices.
    """

    def __init__(
        self, steps: Sequence[int], measure: Callable[[nn.Module, int], Mapping[str, float] | None]
    ) -> None:
        super().__init__(steps)
        self.measure = measure

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if any(isinstance(weight, DTensor) for weight in pl_module.parameters()):
            raise ValueError(
                "attention is measured with full weights, but the strategy shards them over "
                "devices; set hardware.strategy=ddp, or fit first (goal=proxy): what it saves is "
                "measured afterwards"
            )

    def at(self, trainer: Trainer, model: nn.Module) -> None:
        step = trainer.global_step
        statistics = self.measure(model, step)
        if statistics:
            for logger in trainer.loggers:
                logger.log_metrics(logged(statistics), step)


def logged(statistics: Mapping[str, float]) -> dict[str, float]:
    """The statistics of a step by their names in a logger."""
    return {f"attention/{name}": value for name, value in statistics.items()}
