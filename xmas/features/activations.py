"""Activations of a small model's attention layers on every row: COINCIDE's features."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xmas.attention.plan import length_batches
from xmas.attention.reasons import refuse_several
from xmas.features.extractor import FeatureExtractor
from xmas.features.pooled import Means, Windows, halves, means_of
from xmas.models.chat.batches import Batch, micro_batches
from xmas.models.chat.tokens import TokenTable
from xmas.models.vision_cache import features_of
from xmas.models.vlm import LoadedModel, language_inputs, language_model, refuse_whole
from xmas.store import Stage, Store
from xmas.training.proxy import Proxy

MODES = ("fixed", "released")


@dataclasses.dataclass(frozen=True)
class Activations(Stage):
    """Mean self-attention outputs of some layers, over the image and over the text after it.

    Of a row with several images the image half is over the tokens of all of them, the language half
    over the text that follows the last; mode `released` refuses such rows.

    Writes `values.npy` (rows, layers x 2 x hidden) float16: for every layer an image half and a
    language half. A half is the mean of the layer's self-attention output, after `o_proj` and
    before the residual, over the image's tokens or over the text that follows the image; then
    tanh, then scaled to length one, then divided by the root of the number of halves. A row with
    an image has length one.

    Text-only rows, mode `fixed`: the image half is zero, the language half is over the tokens after
    the prompt, whose length is the usual number of tokens before an image. Mode `released`: rows
    run in batches of `batch` in a random order, and text-only rows are treated as if they had an
    image: the image half is over the positions where it would be, text and pads alike, the language
    half over as many following positions as the row has tokens after the prompt, if the batch has
    them. So their features depend on the other rows of the batch, as in the release; pads are
    embedded as zeros, and values that are not finite become zero.

    Source: COINCIDE (arXiv 2406.10995), released `extract_embed.py`. It has constants of 31 prompt
    tokens and 729 image tokens; here both are counted, which gives the same with its template and
    model.

    Args:
        proxy: whose model runs over its pool.
        step: an optimiser step of the proxy's fit; None: the last; 0: its start point, without a
            fit.
        layers: of the language model, from 0.
        weights: precision of weights and activations: float32, bfloat16, float16; None: that of the
            proxy's fit.
        batch_tokens: padded tokens of a batch, mode `fixed`.
        batch: rows of a batch, mode `released`.
        chunks: parts of the order, one per process in the release; mode `released`.
        order_seed: of the random order, mode `released`.
        mark_rows: rows between two checkpoints, the most that a killed pass loses.
    """

    kind: ClassVar[str] = "activations"
    of_images: ClassVar[bool] = True  # rows without one have no value
    together: ClassVar[bool] = True

    proxy: Proxy
    step: int | None = None
    layers: Sequence[int] = (3, 7, 11, 15, 19)
    mode: str = "fixed"  # released
    weights: str | None = None
    batch_tokens: int = 8192
    batch: int = 8
    chunks: int = 1
    order_seed: int = 42
    mark_rows: int = 4096

    def corrections(self) -> dict[str, Any]:
        """The precision, also where it is the fit's. In 16 bits, rotary frequencies stay float32;
        before they were rounded too. Chunks are the release's, all but the last of
        ceil(rows / chunks) rows; before, they were nearly equal.
        """
        buffers = {"buffers": "float32"} if self.precision != "float32" else {}
        cut = self.mode == "released" and self.chunks > 1
        chunks = {"chunk_rows": "rounded up"} if cut else {}
        return {"weights": self.precision} | buffers | chunks

    def __post_init__(self) -> None:
        """Raises ValueError: there is no such mode, no layer is named, or no chunk is made."""
        if self.mode not in MODES:
            raise ValueError(f"activations mode {self.mode!r}: expected one of {', '.join(MODES)}")
        if not self.layers:
            raise ValueError("features.activations.layers is empty; name one layer at least")
        if self.chunks < 1:
            raise ValueError(f"features.activations.chunks={self.chunks}: at least 1 is needed")

    def language(self, values: Float[np.ndarray, "n width"]) -> Float[np.ndarray, "n half"]:
        """The language halves of features, or of centroids of features, layer after layer."""
        halves = values.reshape(len(values), len(self.layers), 2, -1)
        return halves[:, :, 1].reshape(len(values), -1)

    @property
    def precision(self) -> str:
        """The precision of weights and activations, by torch's name."""
        return self.weights or self.proxy.feature_precision

    @property
    def extractor(self) -> FeatureExtractor:
        return FeatureExtractor("activations", self.proxy, self.step, self.precision)

    def inputs(self) -> list[Stage]:
        return self.extractor.inputs()

    def check(self, store: Store) -> None:
        """Raises ValueError: rows of the pool have several images, which mode `released` does not
        know.
        """
        if self.mode == "released" and self.proxy.pool.at_hand(store):
            counts = self.proxy.pool.open(store).shown.counts
            refuse_several(counts, "features.activations.mode=fixed")

    def compute(self, store: Store, out: Path) -> None:
        """Raises FloatingPointError: a row's activations are not finite; mode `fixed` only."""
        table = self.proxy.tokens().open(store)
        if self.mode == "released":
            refuse_several(table.image_counts, "features.activations.mode=fixed")
        extractor = self.extractor
        parts = extractor.parts(store)
        windows = Windows.of(table, released=self.mode == "released")

        def of(batch: Batch) -> Float[np.ndarray, "rows width"]:
            values = self.features(parts, batch, windows)
            if self.mode == "released":
                return np.nan_to_num(values, posinf=0.0, neginf=0.0)
            extractor.check(batch, values)
            return values

        extractor.fill(
            store,
            parts,
            out,
            batches=self.batches(table),
            width=language_model(parts.model).config.hidden_size * 2 * len(self.layers),
            mark_rows=self.mark_rows,
            of=of,
        )

    def batches(self, table: TokenTable) -> list[Int[np.ndarray, " _"]]:
        """The batches of all rows: by length, or in the release's order."""
        if self.mode == "fixed":
            return length_batches(table.lengths, 0, self.batch_tokens)
        order = np.random.RandomState(self.order_seed).permutation(len(table))
        size = math.ceil(len(order) / self.chunks)
        return [
            rows
            for start in range(0, len(order), size)
            for rows in micro_batches(order[start : start + size], self.batch)
        ]

    @torch.no_grad()
    def features(
        self, parts: LoadedModel, batch: Batch, windows: Windows
    ) -> Float[np.ndarray, "rows width"]:
        """The features of a batch's rows, float32; values that are not finite stay so."""
        model = parts.model
        inputs = language_inputs(
            model,
            batch.ids,
            features_of(model, batch),
            batch.pictures.get("sizes"),
            mask=batch.mask,
        )
        masked: dict[str, Tensor] = {}  # causality hides the pads at the ends of rows
        if self.mode == "released":
            refuse_whole(model, "features.activations.mode=fixed")
            if inputs.blocks is not None:
                raise ValueError(
                    f"the masks of a {model.config.model_type} are not causal inside an image; set "
                    "features.activations.mode=fixed"
                )
            mask = batch.mask.long()  # its windows have pads in them, which see no other pads
            masked = {"attention_mask": mask}
            # it pads with zeros, not with a token
            inputs = dataclasses.replace(inputs, embeddings=inputs.embeddings * mask[..., None])
        language = language_model(model)
        means = Means(windows.positions(batch, model.config.image_token_id))
        with means_of(language, self.layers, means):
            language(**inputs.arguments, **masked, use_cache=False)
        values = halves(torch.stack([means.layers[layer] for layer in self.layers], dim=1))
        return values.cpu().numpy()
