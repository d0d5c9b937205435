"""Checks that stop a fit at once: nothing to learn from, an absurd loss, too little memory."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from xmas.models.chat.batches import Batch
from xmas.models.chat.tokens import TokenTable
from xmas.training.fit.batch_plan import BatchPlan
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.fit.sharding import SHARDED

log = logging.getLogger(__name__)

FIRST = 8  # microbatches that are checked
GUESSING = 2.0  # times the loss of a uniform guess: labels that do not belong to their tokens


def check_rows(table: TokenTable, dealt: BatchPlan) -> None:
    """Raise ValueError: no image in the whole pool, or no label in any of the first microbatches.

    Warns of single ones without, which a fit passes over.
    """
    if (table.image_at < 0).all():
        raise no_image(len(table))
    why = "the template does not find the answers, or max_length cuts them off"
    if not any(dealt.weights[:FIRST]):
        rows = [int(row) for batch in dealt.batches[:FIRST] for row in batch]
        raise ValueError(
            f"no token of the first {min(FIRST, len(dealt.batches))} microbatches is labelled, "
            f"rows {rows}: nothing would be learnt; {why}"
        )
    if empty := [at for at, weight in enumerate(dealt.weights) if not weight]:
        log.warning(
            "%d of %d microbatches have no labelled token, the first is %d, rows %s: %s",
            len(empty), len(dealt.weights), empty[0], dealt.batches[empty[0]].tolist(), why,
        )  # fmt: skip


def no_image(rows: int) -> ValueError:
    """The error for a pool of this many rows of text alone."""
    return ValueError(
        f"none of the pool's {rows} rows has an image: a vision-language model would learn from "
        "text alone; rows name their image under `image`"
    )


class FirstBatches(Callback):
    """Checks the images and the loss of the first microbatches of a fit."""

    def __init__(self, vocabulary: int, first: int = FIRST) -> None:
        self.most = GUESSING * math.log(vocabulary)
        self.first = first
        self._losses: list[float] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Raises ValueError: images are missing, not finite or of one value; names the rows."""
        if batch_idx >= self.first or not bool((batch.image_start >= 0).any()):
            return
        rows = batch.rows[(batch.image_start >= 0).cpu().numpy()].tolist()
        numbers = (inputs for inputs in batch.pictures.values() if inputs.is_floating_point())
        if (inputs := next(numbers, None)) is None:
            raise ValueError(f"rows {rows} have images, but their batch has none: no pixels came")
        if not torch.isfinite(inputs).all():
            raise ValueError(f"the pictures of rows {rows} are not finite")
        if not bool((inputs != inputs.flatten()[0]).any()):
            raise ValueError(
                f"all pictures of rows {rows} are one flat value: nothing can be seen in them; "
                "check the image folder, or remove the cached features"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch,
        batch_idx: int,
    ) -> None:  # fmt: skip
        """Raises ValueError: the mean loss is far above that of guessing."""
        if batch_idx >= self.first or not batch.weight:
            return
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches / batch.weight
        self._losses.append(loss)
        mean = sum(self._losses) / len(self._losses)
        if mean > self.most:
            raise ValueError(
                f"the mean loss of the first {len(self._losses)} microbatches is {mean:.2f}, more "
                f"than {GUESSING:g} times that of guessing ({self.most / GUESSING:.2f}): labels do "
                "not belong to these tokens, the weights to this model, or the rate is far too high"
            )


@contextmanager
def memory_advice(recipe: Recipe, hardware: Hardware) -> Iterator[None]:
    """Convert torch's out-of-memory errors to MemoryError with the settings to change."""
    try:
        yield
    except RuntimeError as error:
        short = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not short:
            raise
        raise MemoryError(f"{error}\n{advice(recipe, hardware)}") from error


def with_the_same_loss(recipe: Recipe, hardware: Hardware) -> list[str]:
    """Settings that need less memory and change no result, the cheapest first; those not set."""
    steps = []
    if hardware.logit_rows is None:
        steps.append("hardware.logit_rows=1024 (the same loss, logits part by part)")
    if not hardware.packing:
        steps.append("hardware.packing=true (the same loss, no padding)")
    if hardware.checkpointing is None or hardware.checkpointing < 1:
        steps.append("hardware.checkpointing=1 (the same loss, about a quarter slower)")
    if recipe.micro_batch > 1 and recipe.token_mean == "step":
        steps.append(f"recipe.micro_batch={recipe.micro_batch // 2} (the same loss)")
    if hardware.strategy != "fsdp2" and recipe.precision in SHARDED:
        steps.append("hardware=fsdp (weights and optimiser sharded over several devices)")
    return steps


def advice(recipe: Recipe, hardware: Hardware) -> str:
    """Settings that need less memory, those first that change no result; only those not set."""
    steps = with_the_same_loss(recipe, hardware)
    if recipe.micro_batch > 1 and recipe.token_mean != "step":
        steps.append(
            f"recipe.micro_batch={recipe.micro_batch // 2} (the batch of {recipe.batch} stays; "
            "answers are then averaged over fewer rows, unless recipe.token_mean=step)"
        )
    steps.append("max_length below what it is (long rows are cut)")
    return "too little memory; try in this order:\n" + "\n".join(f"  {step}" for step in steps)
