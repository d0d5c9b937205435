"""Features from the first layers of a language model: PRISM's and ScalSelect's, from one pass."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xmas.attention.capture import CrossAttention, attention_of
from xmas.attention.plan import length_batches
from xmas.features.extractor import Columns, FeatureExtractor
from xmas.features.module_reader import decoder_layer, modules_read
from xmas.models.chat.batches import Batch
from xmas.models.chat.labels import IGNORED
from xmas.models.chat.tokens import TokenTable
from xmas.models.vision_cache import features_of
from xmas.models.vlm import LoadedModel, hidden_states, language_model
from xmas.store import Stage, Store
from xmas.training.model_on_pool import HasWeights


@dataclasses.dataclass(frozen=True)
class Shallow(Stage):
    """Means of hidden states over a row's image tokens, after the first layers.

    Writes `values.npy` (rows, hidden) float16, the mean over all image tokens after `layer` layers,
    which PRISM ranks by; `attended.npy` (rows, hidden) float16, ScalSelect's feature: the mean
    after the first layer over the image tokens that the question attends to most, see
    `attended_mean`. Both come from one pass, which ends after the last layer that is needed. Rows
    without an image are NaN.

    Sources: PRISM (arXiv 2502.12119), whose layer is known to be shallow only: `layer` is ours, the
    one that ScalSelect needs anyway. ScalSelect (arXiv 2602.11636), released `feature_extract.py`,
    `representation_utils.py`. Deviation: the release counts the pads of a batch and the end mark of
    an answer as question; here neither counts, so a row's feature does not depend on its batch.

    Args:
        model: a start point alone, as published, or a proxy; runs over its pool.
        step: an optimiser step of the model's fit; None: the last; 0: its start point.
        layer: decoder layers before the mean of PRISM; 1: the first. Before the final norm.
        mass: fraction of the question's attention to the image that ScalSelect's tokens get.
        weights: precision of weights and activations: float32, bfloat16, float16; None: that of the
            model's fit, or of its stored weights.
        batch_tokens: padded tokens of a batch.
        mark_rows: rows between two checkpoints, the most that a killed pass loses.
    """

    kind: ClassVar[str] = "shallow"
    of_images: ClassVar[bool] = True
    together: ClassVar[bool] = True

    model: HasWeights
    step: int | None = 0
    layer: int = 1
    mass: float = 0.9
    weights: str | None = None
    batch_tokens: int = 8192
    mark_rows: int = 4096

    def __post_init__(self) -> None:
        """Raises ValueError: no layer runs, or `mass` is no fraction."""
        if self.layer < 1:
            raise ValueError(f"features.shallow.layer={self.layer}: at least 1, the first layer")
        if not 0 < self.mass <= 1:
            raise ValueError(f"features.shallow.mass={self.mass} is not within (0, 1]")

    def corrections(self) -> dict[str, Any]:
        """The precision, also where it is the model's."""
        return {"weights": self.precision}

    @property
    def precision(self) -> str:
        """The precision of weights and activations, by torch's name."""
        return self.weights or self.model.feature_precision

    @property
    def extractor(self) -> FeatureExtractor:
        return FeatureExtractor("shallow", self.model, self.step, self.precision)

    def inputs(self) -> list[Stage]:
        return self.extractor.inputs()

    def compute(self, store: Store, out: Path) -> None:
        """Raises FloatingPointError: a row with an image is not finite; names it."""
        extractor = self.extractor
        parts = extractor.parts(store)
        table = self.model.tokens().open(store)
        hidden = language_model(parts.model).config.hidden_size
        columns = Columns(np.float16, hidden)

        def of(batch: Batch) -> Mapping[str, Float[np.ndarray, "rows hidden"]]:
            if not batch.pictures:
                none = np.full((len(batch.rows), hidden), np.nan, dtype=np.float16)
                return {"values": none, "attended": none}
            means = {
                name: mean.half().cpu().numpy() for name, mean in self.means(parts, batch).items()
            }
            for mean in means.values():
                extractor.check(batch, mean)
            return means

        extractor.fill_arrays(
            store,
            parts,
            out,
            batches=images_apart(table, self.batch_tokens),
            columns={"values": columns, "attended": columns},
            mark_rows=self.mark_rows,
            of=of,
        )

    @torch.no_grad()
    def means(self, parts: LoadedModel, batch: Batch) -> dict[str, Float[Tensor, "rows hidden"]]:
        """`values` and `attended` of a batch whose rows have images, float32."""
        model = parts.model
        language = language_model(model)
        is_image = batch.ids == model.config.image_token_id
        image, image_mask = places_of(is_image)
        asked, asked_mask = places_of(batch.mask & ~is_image & (batch.labels == IGNORED))
        collector = CrossAttention(asked, asked_mask, image, image_mask=image_mask, layers=(0,))
        read = {0, self.layer - 1}
        layers = {n: decoder_layer(language, n, "features.shallow.layer") for n in read}
        states: dict[int, Float[Tensor, "rows length hidden"]] = {}
        with (
            attention_of(language, collector),
            modules_read(layers, lambda layer, _, output: states.update({layer: output})),
        ):
            hidden_states(
                model,
                batch.ids,
                batch.mask,
                features_of(model, batch),
                sizes=batch.pictures.get("sizes"),
            )
        attended = attended_tokens(collector.total, image_mask, self.mass)
        at_image = is_image.float()
        at_attended = torch.zeros_like(at_image).scatter_add_(1, image, attended.float())
        return {
            "values": mean_at(states[self.layer - 1], at_image),
            "attended": mean_at(states[0], at_attended),
        }


def images_apart(table: TokenTable, batch_tokens: int) -> list[Int[np.ndarray, " _"]]:
    """All rows of a pool in batches by length; no batch has rows with and without an image."""
    has_image = table.image_at >= 0
    return [
        rows[batch]
        for rows in (np.flatnonzero(has_image), np.flatnonzero(~has_image))
        for batch in length_batches(table.lengths[rows], 0, batch_tokens)
    ]


def places_of(
    where: Bool[Tensor, "rows length"],
) -> tuple[Int[Tensor, "rows most"], Bool[Tensor, "rows most"]]:
    """The positions of every row that are True, ascending, and False where they are padding.

    There is one column at least.
    """
    counts = where.sum(dim=1)
    most = max(1, int(counts.max()))
    places = where.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return places, torch.arange(most, device=where.device) < counts[:, None]


def attended_tokens(
    attention: Float[Tensor, "rows text image"], image_mask: Bool[Tensor, "rows image"], mass: float
) -> Bool[Tensor, "rows image"]:
    """The image tokens that get most of the attention of a row's text.

    The mean over the text, normalised over the image: sorted, as many as sum up to at most `mass`,
    and one more. Of equal ones the first. Where no text attends to the image, all are equal.

    Source: ScalSelect, released `representation_utils.py`.
    """
    weights = attention.double().sum(dim=1)
    total = weights.sum(dim=1, keepdim=True)
    shares = torch.where(total > 0, weights / total, image_mask / image_mask.sum(1, keepdim=True))
    ordered, order = shares.masked_fill(~image_mask, -1).sort(dim=1, descending=True, stable=True)
    kept = 1 + (ordered.clamp_min(0).cumsum(dim=1) <= mass).sum(dim=1, keepdim=True)
    first = torch.arange(order.shape[1], device=order.device) < kept
    return torch.zeros_like(image_mask).scatter(1, order, first) & image_mask


def mean_at(
    states: Float[Tensor, "rows length hidden"], where: Float[Tensor, "rows length"]
) -> Float[Tensor, "rows hidden"]:
    """The mean of the states at the positions that are 1, float32."""
    weights = where / where.sum(dim=1, keepdim=True)
    return (weights[:, None] @ states.float())[:, 0]
