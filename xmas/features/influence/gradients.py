"""Every row's gradient of a model's LoRA weights, projected to a few thousand numbers."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int

from xmas.attention.plan import length_batches, packed_batches
from xmas.data.pool import Pool
from xmas.features.extractor import fill
from xmas.features.influence.projection import Projected, Signs
from xmas.features.influence.row_gradients import (
    given_to,
    lora_layers,
    rows_of_answers,
    summed_losses,
)
from xmas.models import varlen_attention
from xmas.models.chat.batches import Batch
from xmas.models.chat.own_template import OwnTemplate
from xmas.models.chat.packing import pack
from xmas.models.chat.template import Template
from xmas.models.device import device_for
from xmas.models.precision import cast_parameters
from xmas.models.vision_cache import features_of
from xmas.models.vlm import (
    LoadedModel,
    head_of,
    hidden_states,
    language_model,
    refuse_whole,
    unwrap,
    vocabulary_of,
)
from xmas.store import Stage, Store, nearest_stages, volatile
from xmas.training.model_on_pool import SeesPool
from xmas.training.starts.unfitted import Unfitted


@runtime_checkable
class HasAdapter(SeesPool, Protocol):
    """A model that was fitted to a pool with LoRA: a target."""

    @property
    def template(self) -> Template | OwnTemplate: ...

    def adapted(self, store: Store) -> LoadedModel:
        """The fitted model with its adapter, not merged; on the CPU."""
        ...


@dataclasses.dataclass(frozen=True)
class Gradients(Stage):
    """Unit vectors of the gradient of every row's loss in the LoRA weights of a model.

    Writes `values.npy` (rows, width) float16; NaN of a row without an answer token. The loss is the
    mean cross-entropy of the row's answer tokens; dropout is off; the connector, which trains in
    full too, is left out. A row's gradient is its own in a batch too, and the signs that
    project it depend on nothing but `seed` and its place.

    Source: LESS (arXiv 2402.04333); of images ICONS (arXiv 2501.00654), whose warm-up has 500
    steps of LoRA of rank 128, which projects to 5,120 numbers with seed 0, and which has plain
    gradients where LESS has those of Adam.

    Args:
        model: after a short fit with LoRA, on a sample of the pool.
        pool: whose rows; None: the model's own pool.
        width: numbers of a row.
        seed: of the projection.
        weights: precision of weights and activations: float32, bfloat16, float16; None: that of the
            model's fit. Gradients of rows and their projection are float32.
        batch_tokens: tokens of a batch, including pads.
        mark_rows: rows between two checkpoints, the most that a killed pass loses.
        resident_bytes: for the signs of the projection; those that do not fit are made again for
            every batch.
        packing: rows are packed end to end, as in fits, instead of padded; the same values up to
            rounding. Batches are of rows of similar length anyway: of the demo's tokens 1.8 % are
            pads, and it is not faster there (experiments/influence).
    """

    kind: ClassVar[str] = "gradients"
    together: ClassVar[bool] = True

    model: HasAdapter
    pool: Pool | None = None
    width: int = 5120
    seed: int = 0
    weights: str | None = None
    batch_tokens: int = 8192
    mark_rows: int = 4096
    resident_bytes: int = volatile(1 << 30)
    packing: bool = volatile(False)

    @property
    def precision(self) -> str:
        """The precision of weights and activations, by torch's name."""
        return self.weights or self.model.feature_precision

    @property
    def seen(self) -> SeesPool:
        """The rows, as the model reads them."""
        if self.pool is None:
            return self.model
        model = self.model
        return Unfitted(
            self.pool,
            model.start,
            model.template,
            max_length=model.max_length,
            hardware=model.hardware,
        )

    def inputs(self) -> list[Stage]:
        seen = self.seen
        own = [*nearest_stages(seen.pool), *nearest_stages(seen.start)]
        return [*nearest_stages(self.model), *own, seen.tokens(), seen.image_stage()]

    def compute(self, store: Store, out: Path) -> None:
        """Raises FloatingPointError: a gradient is not finite, or zero; names the rows.

        Raises ValueError: the model has no LoRA, or one with more than its two matrices; or
        `packing` is set and the model cannot keep packed rows apart.
        """
        for stage in nearest_stages(self.model):
            store.get(stage)
        parts = self.model.adapted(store)
        device = device_for(self.model.hardware.accelerator)
        cast_parameters(parts.model, getattr(torch, self.precision), device).eval()
        layers = lora_layers(parts.model)
        if self.packing:
            refuse_whole(parts.model, "features.gradients.packing=false")
            varlen_attention.prepare(
                language_model(parts.model), setting="features.gradients.packing"
            )
        head, vocabulary = head_of(parts.model), vocabulary_of(parts.model)
        matrix = Signs(self.seed, self.width, self.resident_bytes)

        def of(batch: Batch) -> Float[np.ndarray, "rows width"]:
            projected = Projected(matrix, len(batch.rows), device)
            rows = rows_of_answers(batch.labels, batch.lengths)
            if len(rows):
                with given_to(projected.add, layers, batch.lengths):
                    hidden = hidden_states(
                        parts.model,
                        batch.ids,
                        batch.mask,
                        features_of(parts.model, batch),
                        sizes=batch.pictures.get("sizes"),
                        lengths=batch.lengths,
                        image_places=None if batch.places is None else batch.places.images,
                    )
                    summed_losses(
                        head, hidden, batch.labels, rows, vocabulary=vocabulary
                    ).backward()
                parts.model.zero_grad(set_to_none=True)
            values = projected.unit().cpu().numpy()
            answered = np.unique(rows.cpu().numpy())
            _check(values[answered], batch.rows[answered])
            return values

        table = self.seen.tokens().open(store)
        fill(
            self.kind,
            dataclasses.replace(parts, model=unwrap(parts.model)),
            table,
            self.seen.pictures(store, parts),
            out,
            batches=packed_batches(table.lengths, self.batch_tokens)
            if self.packing
            else length_batches(table.lengths, 0, self.batch_tokens),
            width=self.width,
            mark_rows=self.mark_rows,
            workers=self.model.hardware.workers,
            of=of,
            change=pack if self.packing else None,
        )


def _check(values: Float[np.ndarray, "rows width"], rows: Int[np.ndarray, " rows"]) -> None:
    """Raise FloatingPointError naming the rows that have no direction."""
    broken = ~np.isfinite(values).all(axis=1)
    if broken.any():
        raise FloatingPointError(
            f"gradients: those of rows {sorted(rows[broken].tolist())} are zero or not finite; set "
            "features.gradients.weights=float32, or inspect these rows"
        )
