"""A model and the pool that it is fitted to or measured on: tokens, images, one call of `fit`.

Proxy, target, the stages before them and an unfitted start point have the same fields for this; the
fields stay theirs, since keys of results are made from them.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from xmas.data.pool import Pool
from xmas.models.chat.own_template import OwnTemplate
from xmas.models.chat.template import Plain, Template
from xmas.models.chat.tokens import Tokenised
from xmas.models.checked_images import CheckedImages
from xmas.models.start_point import StartPoint
from xmas.models.vision_cache import (
    Pictures,
    VisionFeatures,
    pictures_of,
)
from xmas.models.vlm import LoadedModel, load
from xmas.store import Stage, Store, stages_of_fields
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.fit.sanity import no_image
from xmas.training.fit.sharding import check_precision
from xmas.training.fit.trainer import fit


@runtime_checkable
class OnPool(Protocol):
    """The fields of a model on a pool."""

    @property
    def pool(self) -> Pool: ...

    @property
    def start(self) -> StartPoint: ...

    @property
    def template(self) -> Template | Plain | OwnTemplate: ...

    @property
    def max_length(self) -> int:
        """Tokens of a row, the image counted."""
        ...

    @property
    def cache_vision(self) -> bool:
        """Tower features are computed once and kept on disk: for small images."""
        ...

    @property
    def hardware(self) -> Hardware: ...

    @property
    def feature_precision(self) -> str:
        """Torch's name of the precision of passes over the pool."""
        ...


@runtime_checkable
class SeesPool(OnPool, Protocol):
    """A model on a pool with the methods of `ModelOnPool`, or its versions of them."""

    def tokens(self) -> Tokenised: ...

    def image_stage(self) -> VisionFeatures | CheckedImages: ...

    def inputs(self) -> Iterable[Stage]: ...

    def pictures(self, store: Store, loaded: LoadedModel) -> Pictures: ...


@runtime_checkable
class HasWeights(SeesPool, Protocol):
    """A model on a pool, and its weights after one or more optimiser steps of a fit."""

    def steps(self, store: Store) -> list[int]: ...

    def weights_at(self, store: Store, step: int) -> dict[str, Tensor]: ...


@runtime_checkable
class FittedOnPool(SeesPool, Protocol):
    """The fields of a stage that fits a model to a pool."""

    @property
    def recipe(self) -> Recipe: ...

    @property
    def seed(self) -> int: ...


class ModelOnPool:
    """Tokens and images of the pool for a model with the fields of `OnPool`."""

    @property
    def feature_precision(self: Any) -> str:  # as a protocol, a check of it would call it again
        """Torch's name of the precision of features; where there is no fit, it is overridden."""
        return self.recipe.feature_precision

    def tokens(self: OnPool) -> Tokenised:
        """All conversations of the pool as token ids."""
        return Tokenised(
            self.pool, self.start.tokenizer, self.template, self.start.image, self.max_length
        )

    def check(self: OnPool, store: Store) -> None:
        """Raises ValueError: no row of the pool, if it is there, has an image; or the precision of
        a fit goes neither with its strategy nor with its attention.
        """
        if isinstance(self, FittedOnPool):
            check_precision(self.recipe, self.hardware)
            self.hardware.check(self.recipe)
        if self.pool.at_hand(store) and not (rows := self.pool.open(store)).has_image.any():
            raise no_image(len(rows))

    def corrections(self: SeesPool) -> dict[str, Any]:
        """Where cached features have the 16 bits of a fit: before, they were float32."""
        stage = self.image_stage()
        if not isinstance(stage, VisionFeatures) or stage.precision == "float32":
            return {}
        return {"vision": stage.precision}

    def image_stage(self: SeesPool) -> VisionFeatures | CheckedImages:
        """The stage that decodes every image before a fit needs one."""
        if not self.cache_vision:
            return CheckedImages(self.pool)
        return VisionFeatures(
            self.pool,
            self.start.tower,
            precision=self.feature_precision,
            accelerator=self.hardware.accelerator,
        )

    def inputs(self: SeesPool) -> list[Stage]:
        """The stages that tokens, images and weights come from, but for a fit of this one."""
        return [*stages_of_fields(self), self.tokens(), self.image_stage()]

    def pictures(self: SeesPool, store: Store, loaded: LoadedModel) -> Pictures:
        """The images of the pool by row, for the model that was loaded from `start`."""
        return pictures_of(self.image_stage(), loaded.processor, store)


def load_at(model: HasWeights, store: Store, step: int) -> LoadedModel:
    """The model as it was after an optimiser step; 0: its start point, without a fit.

    Raises ValueError: its weights belong to another model.
    """
    loaded = load(store.get(model.start))
    if step == 0:
        return loaded
    keys = loaded.model.load_state_dict(model.weights_at(store, step), strict=False)
    if keys.unexpected_keys:
        kind = type(model).__name__.lower()
        raise ValueError(f"{kind} step {step}: no place for weights {keys.unexpected_keys}")
    return loaded


def fit_on_pool(
    stage: FittedOnPool,
    store: Store,
    out: Path,
    trainable: Callable[[LoadedModel], nn.Module],
    *,
    label: str,
    rows: Int[np.ndarray, " rows"] | None = None,
    callbacks: Sequence[Callback] = (),
    logger: Logger | None = None,
) -> tuple[LoadedModel, nn.Module]:
    """Fit the model of `stage.start` to its pool; writes `out/loss.csv`, resumes `out/last.ckpt`.

    Args:
        trainable: gives the model to fit, with what trains requiring gradients.
        label: of the progress bar.
        rows: of the pool; None: all that have an answer.

    Returns: what was loaded from the start point, and the fitted model.

    Raises: as `xmas.training.fit.trainer.fit`.
    """
    check_precision(stage.recipe, stage.hardware)
    table = stage.tokens().open(store)
    loaded = load(store.get(stage.start))
    pictures = stage.pictures(store, loaded)
    model = trainable(loaded)
    fit(
        model,
        table,
        np.flatnonzero(table.answered) if rows is None else rows,
        pictures,
        recipe=stage.recipe,
        hardware=stage.hardware,
        seed=stage.seed,
        out=out,
        label=label,
        pad=loaded.tokenizer.pad_token_id,
        tower=not stage.cache_vision,
        callbacks=callbacks,
        logger=logger,
    )
    return loaded, model
