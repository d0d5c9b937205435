"""The last hidden state of a model on every row, as COINCIDE's baselines and DICS use it."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from xmas.attention.plan import length_batches
from xmas.features.extractor import FeatureExtractor
from xmas.models.chat.batches import Batch
from xmas.models.vision_cache import features_of
from xmas.models.vlm import LoadedModel, hidden_states, language_model
from xmas.store import Stage, Store, volatile
from xmas.training.model_on_pool import HasWeights

TOKENS = ("last", "mean")


@dataclasses.dataclass(frozen=True)
class LastLayer(Stage):
    """The last hidden state, before the language head, as unit vectors or as it is.

    Writes `values.npy` (rows, hidden) float16: of a row's last token, or of the mean over all its
    tokens, image tokens included. Text-only rows have a vector too.

    Source: COINCIDE (arXiv 2406.10995), released `score_embed.py`. Deviation: its baselines use the
    last position of a padded batch, a pad in all but the longest row (SemDeDup), and average over
    pads (D2-Pruning); here pads are excluded, so a row's vector does not depend on its batch.

    Args:
        proxy: whose model runs over its pool; a target or a start point can be one.
        step: an optimiser step of the proxy's fit; None: the last; 0: its start point, without a
            fit.
        token: `last` or `mean`.
        weights: precision of weights and activations: float32, bfloat16, float16; None: that of the
            proxy's fit.
        batch_tokens: padded tokens of a batch.
        mark_rows: rows between two checkpoints, the most that a killed pass loses.
        unit: whether vectors are divided by their norm; False: as DICS compares them.
    """

    kind: ClassVar[str] = "last_layer"
    together: ClassVar[bool] = True

    proxy: HasWeights
    step: int | None = None
    token: str = "last"
    weights: str | None = None
    batch_tokens: int = 8192
    mark_rows: int = 4096
    unit: bool = volatile(True)

    def corrections(self) -> dict[str, Any]:
        """The precision, also where it is the fit's. In 16 bits, rotary frequencies stay float32;
        before they were rounded too.
        """
        buffers = {"buffers": "float32"} if self.precision != "float32" else {}
        plain = {} if self.unit else {"unit": False}
        return {"weights": self.precision} | buffers | plain

    def __post_init__(self) -> None:
        """Raises ValueError: `token` is neither `last` nor `mean`."""
        if self.token not in TOKENS:
            raise ValueError(
                f"last_layer token {self.token!r}: expected one of {', '.join(TOKENS)}"
            )

    @property
    def precision(self) -> str:
        """The precision of weights and activations, by torch's name."""
        return self.weights or self.proxy.feature_precision

    @property
    def extractor(self) -> FeatureExtractor:
        return FeatureExtractor("last_layer", self.proxy, self.step, self.precision)

    def inputs(self) -> list[Stage]:
        return self.extractor.inputs()

    def compute(self, store: Store, out: Path) -> None:
        """Raises FloatingPointError: a row is not finite; names it."""
        extractor = self.extractor
        parts = extractor.parts(store)
        table = self.proxy.tokens().open(store)

        def of(batch: Batch) -> Float[np.ndarray, "rows hidden"]:
            values = self.vectors(parts, batch)
            with np.errstate(over="ignore"):  # states may be too large for what they are kept in
                extractor.check(batch, values.astype(np.float16))
            return values

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
        """The vectors of a batch's rows, float32; NaN where the state of a unit vector is zero."""
        model = parts.model
        states = hidden_states(
            model,
            batch.ids,
            batch.mask,
            features_of(model, batch),
            sizes=batch.pictures.get("sizes"),
        ).float()
        lengths = batch.mask.sum(dim=1)
        if self.token == "last":
            pooled = states[torch.arange(len(states), device=states.device), lengths - 1]
        else:
            pooled = (states * batch.mask[..., None]).sum(dim=1) / lengths[:, None]
        if self.unit:
            pooled = pooled / pooled.norm(dim=1, keepdim=True)
        return pooled.cpu().numpy()
