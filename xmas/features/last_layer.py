"""The last layer of a small model on every row: what COINCIDE's baselines compare rows by."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float

from xmas.attention.plan import length_batches
from xmas.features.extractor import FeatureExtractor
from xmas.models.chat.batches import Batch
from xmas.models.vision_cache import features_of
from xmas.models.vlm import LoadedModel, hidden_states, language_model
from xmas.store import Stage, Store
from xmas.training.proxy import Proxy

TOKENS = ("last", "mean")


@dataclasses.dataclass(frozen=True)
class LastLayer(Stage):
    """`values.npy` (rows, hidden) float16, unit vectors: the last hidden state, in front of the
    language head, of a row's last token, or its mean over all of the row, the image's included.

    The baselines look at the last position of a padded batch, a pad in all but its longest row
    (SemDeDup), and average over pads too (D2-Pruning); here no pad counts, so a row's vector does
    not depend on its batch mates. Text-only rows have a vector like others.

    Source: COINCIDE (arXiv 2406.10995), released `score_embed.py`.
    """

    kind: ClassVar[str] = "last_layer"

    proxy: Proxy  # whose model extractor at the pool
    step: int | None = None  # of the proxy's fit; null: the last; 0: its start point, no fit
    token: str = "last"  # mean
    weights: str = "float32"  # of model and stream: float32, bfloat16, float16
    batch_tokens: int = 8192  # padded tokens of a batch
    mark_rows: int = 4096  # between two marks: what a killed pass loses at most

    def __post_init__(self) -> None:
        """Raises ValueError: no such token."""
        if self.token not in TOKENS:
            raise ValueError(
                f"last_layer token {self.token!r}: expected one of {', '.join(TOKENS)}"
            )

    @property
    def extractor(self) -> FeatureExtractor:
        return FeatureExtractor("last_layer", self.proxy, self.step, self.weights)

    def inputs(self) -> list[Stage]:
        return self.extractor.inputs()

    def compute(self, store: Store, out: Path) -> None:
        """Raises FloatingPointError: a row is not finite; names it."""
        extractor = self.extractor
        parts = extractor.parts(store)
        table = self.proxy.tokens().open(store)

        def of(batch: Batch) -> Float[np.ndarray, "rows hidden"]:
            found = self.vectors(parts, batch)
            extractor.check(batch, found)
            return found

        extractor.fill(
            store,
            parts,
            out,
            batches=length_batches(table.lengths, 0, self.batch_tokens),
            width=language_model(parts.model).config.hidden_size,
            mark_rows=self.mark_rows,
            of=of,
        )

    @torch.no_grad()
    def vectors(self, parts: LoadedModel, batch: Batch) -> Float[np.ndarray, "rows hidden"]:
        """The vectors of a batch's rows, float32; NaN where the state is nothing."""
        model = parts.model
        states = hidden_states(
            model,
            batch.ids,
            batch.mask,
            features_of(model, batch),
            sizes=batch.pictures.get("sizes"),
        ).float()
        own = batch.mask.sum(dim=1)
        if self.token == "last":
            found = states[torch.arange(len(states), device=states.device), own - 1]
        else:
            found = (states * batch.mask[..., None]).sum(dim=1) / own[:, None]
        return (found / found.norm(dim=1, keepdim=True)).cpu().numpy()
