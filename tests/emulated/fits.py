"""Fits of the toy on the emulated device, small enough that a module makes a dozen of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from torch import nn
from toy import RECIPE, Toy, losses

from xmas.models.vlm import LoadedModel, load
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.fit.trainables import Lora, trainable
from xmas.training.fit.trainer import fit

ROWS = np.arange(16)  # four microbatches, two steps an epoch; two rows of text alone
LORA = Lora(rank=4, alpha=8)


def recipe(**options: Any) -> Recipe:
    return dataclasses.replace(RECIPE, **options)


def fitted(toy: Toy, out: Path, **options: Any) -> tuple[list[dict[str, float]], nn.Module]:
    """The loss curve of a fit of the toy on a few rows, and the fitted model."""
    return fit_model(toy, out, load(toy.store.get(toy.start)), **options)


def fit_model(
    toy: Toy,
    out: Path,
    loaded: LoadedModel,
    *,
    recipe: Recipe = RECIPE,
    lora: Lora | None = LORA,
    accelerator: str = "gpu",
    pictures: Any = None,
    callbacks: Sequence[Callback] = (),
    **hardware: Any,
) -> tuple[list[dict[str, float]], nn.Module]:
    """The same, of a model with the toy's tower and tokens."""
    out.mkdir(exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = trainable(loaded.model, lora, recipe.precision)
    fit(
        model,
        toy.proxy.tokens().open(toy.store),
        ROWS,
        pictures or toy.vision.pictures(toy.store),
        recipe=recipe,
        hardware=Hardware(accelerator=accelerator, **hardware),
        seed=0,
        out=out,
        label="fit",
        pad=loaded.tokenizer.pad_token_id,
        callbacks=callbacks,
    )
    return losses(out), model
