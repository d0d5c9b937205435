"""Activations: what attention layers of a small model give on every row, COINCIDE's features."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int

from xmas.attention.plan import length_batches
from xmas.features.extractor import FeatureExtractor
from xmas.features.pooled import Means, Windows, halves, means_of
from xmas.models.chat.batches import Batch, micro_batches
from xmas.models.chat.tokens import TokenTable
from xmas.models.vision_cache import features_of
from xmas.models.vlm import LoadedModel, embed_in_order, language_model
from xmas.store import Stage, Store
from xmas.training.proxy import Proxy

MODES = ("fixed", "released")


@dataclasses.dataclass(frozen=True)
class Activations(Stage):
    """`values.npy` (rows, layers x 2 x hidden) float16: layer by layer an image half and a language
    half.

    A half is the mean of the layer's self-attention output, behind `o_proj` and in front of the
    residual, over the image's tokens, or over the text behind the image; then tanh, then length
    one, then divided by the root of their number. A row with an image has length one.

    Mode `fixed`: text-only rows have an image half of zeros and a language half over the tokens
    behind the prompt, that is behind as many as stand in front of an image. Mode `released`: rows
    run in batches of `batch` in an order drawn from `order_seed`, and text-only rows are treated as
    if they had an image: the image half is the mean over the positions where it would be, text and
    pads alike, the language half over as many positions behind it as they have tokens, where the
    batch has them. So their features follow from their batch mates, as the release's do; pads are
    embedded as zeros, and what is not finite is zero. The release counts 31 tokens of prompt and
    729 of the image; here both are counted in the tokens, which its template and model make equal.

    Source: COINCIDE (arXiv 2406.10995), released `extract_embed.py`.
    """

    kind: ClassVar[str] = "activations"

    proxy: Proxy  # whose model extractor at the pool
    step: int | None = None  # of the proxy's fit; null: the last; 0: its start point, no fit
    layers: Sequence[int] = (3, 7, 11, 15, 19)
    mode: str = "fixed"  # released
    weights: str = "float32"  # of model and stream: float32, bfloat16, float16
    batch_tokens: int = 8192  # padded tokens of a batch, mode fixed
    batch: int = 8  # rows, mode released
    chunks: int = 1  # of the order, a process each in the release; mode released
    order_seed: int = 42  # mode released
    mark_rows: int = 4096  # between two marks: what a killed pass loses at most

    def __post_init__(self) -> None:
        """Raises ValueError: no such mode, or no layer."""
        if self.mode not in MODES:
            raise ValueError(f"activations mode {self.mode!r}: expected one of {', '.join(MODES)}")
        if not self.layers:
            raise ValueError("features.activations.layers is empty; name one layer at least")

    def language(self, values: Float[np.ndarray, "n width"]) -> Float[np.ndarray, "n half"]:
        """The language halves of features, or of centroids of features."""
        halves = values.reshape(len(values), len(self.layers), 2, -1)
        return halves[:, :, 1].reshape(len(values), -1)

    @property
    def extractor(self) -> FeatureExtractor:
        return FeatureExtractor("activations", self.proxy, self.step, self.weights)

    def inputs(self) -> list[Stage]:
        return self.extractor.inputs()

    def compute(self, store: Store, out: Path) -> None:
        """Raises FloatingPointError: a row's activations are not finite; mode fixed names it."""
        table = self.proxy.tokens().open(store)
        extractor = self.extractor
        parts = extractor.parts(store)
        windows = Windows.of(table, released=self.mode == "released")

        def of(batch: Batch) -> Float[np.ndarray, "rows width"]:
            found = self.features(parts, batch, windows)
            if self.mode == "released":
                return np.nan_to_num(found, posinf=0.0, neginf=0.0)
            extractor.check(batch, found)
            return found

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
        """All rows: by length, or in the release's order."""
        if self.mode == "fixed":
            return length_batches(table.lengths, 0, self.batch_tokens)
        order = np.random.RandomState(self.order_seed).permutation(len(table))
        return [
            rows
            for chunk in np.array_split(order, self.chunks)
            for rows in micro_batches(chunk, self.batch)
        ]

    @torch.no_grad()
    def features(
        self, parts: LoadedModel, batch: Batch, windows: Windows
    ) -> Float[np.ndarray, "rows width"]:
        """The features of a batch's rows, float32; what is not finite is left as it is."""
        model = parts.model
        inputs = embed_in_order(
            model, batch.ids, features_of(model, batch), batch.pictures.get("sizes")
        )
        if self.mode == "released":
            inputs = inputs * batch.mask[..., None]  # the release pads with zeros, not with a token
        language = language_model(model)
        seen = Means(windows.positions(batch, model.config.image_token_id))
        with means_of(language, self.layers, seen):
            language(inputs_embeds=inputs, attention_mask=batch.mask.long(), use_cache=False)
        found = halves(torch.stack([seen.layers[layer] for layer in self.layers], dim=1))
        return found.cpu().numpy()
