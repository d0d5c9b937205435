"""What is taken of every row: which matrix, and the leading singular values of it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from xmas.attention.capture import CrossAttention
from xmas.attention.collector import COMBINATIONS, Collector, hooked
from xmas.attention.released import JoinedHeads, Window
from xmas.attention.spectrum import leading, lowrank
from xmas.store import described_fields

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
CHOICES = {
    "mode": ("model", "released"),
    "combine": COMBINATIONS,
    "rows": ("all_text", "answer_only", "question_only"),
    "normalise": ("none", "sqrt_rows", "center_rows"),
    "precision": tuple(PRECISIONS),
}


@dataclasses.dataclass(frozen=True)
class Spectra:
    """The `k` leading singular values of every row's text x image attention, and of which one.

    `model`: what the model attends (`CrossAttention`). `released`: the release's algebra
    (`JoinedHeads`), for reproduction and regression; it knows neither `rows` nor pads, and its five
    values are those of `torch.svd_lowrank`.
    """

    k: int = 5  # values a snapshot, XMAS release
    mode: str = "model"  # released
    layers: Sequence[int] | None = None  # null: all
    combine: str = "sum"  # concat_text, concat_vision, last
    rows: str = "all_text"  # answer_only, question_only
    normalise: str = "none"  # sqrt_rows, center_rows
    precision: str = "float32"  # float64: of products, softmax and sums
    window: Window = dataclasses.field(default_factory=Window)  # of mode released
    batch_tokens: int = 8192  # padded tokens of a batch

    def identity(self) -> dict[str, Any]:
        """Mode `released` counts its corrections: values made before them are not found again."""
        corrected = {"released_rule": 2} if self.mode == "released" else {}
        return described_fields(self) | corrected

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(known)}")
        if self.k < 1:
            raise ValueError(f"k={self.k}: at least one value is taken")
        if self.mode == "released" and self.rows != "all_text":
            raise ValueError(f"rows={self.rows}: mode released counts every row behind its window")

    @property
    def unmasked(self) -> bool:
        """Whether the language model is to run without an attention mask, pads as text."""
        return self.mode == "released"

    def hooked(self, language: PreTrainedModel) -> tuple[int, ...]:
        """The layers that are read, ascending. ValueError: one that the model does not have."""
        return hooked(self.layers, self.combine, language.config.num_hidden_layers)

    def kept(
        self,
        text_mask: Bool[Tensor, "rows text"],
        answers: Bool[Tensor, "rows text"] | None = None,
    ) -> Bool[Tensor, "rows text"]:
        """Which text rows count; `answers` are those whose own token is part of an answer.

        Raises ValueError: rows are told apart, but `answers` were not given.
        """
        if self.rows == "all_text":
            return text_mask
        if answers is None:
            raise ValueError(f"rows={self.rows} needs to know which tokens are answers")
        return text_mask & (answers if self.rows == "answer_only" else ~answers)

    def collector(
        self,
        language: PreTrainedModel,
        *,
        text: Int[Tensor, "rows text"],
        text_mask: Bool[Tensor, "rows text"],
        image: Int[Tensor, "rows image"],
        image_mask: Bool[Tensor, "rows image"] | None = None,
    ) -> Collector:
        """For `attention_of`, which fills it, and `values`, which reads it.

        The arguments are those of `CrossAttention`, with `text_mask` out of `kept`; `released` has
        places of its own and looks at none of them.
        """
        layers, dtype = self.hooked(language), PRECISIONS[self.precision]
        if self.unmasked:
            return JoinedHeads(self.window, layers=layers, combine=self.combine, dtype=dtype)
        return CrossAttention(
            text=text,
            text_mask=text_mask,
            image=image,
            image_mask=image_mask,
            layers=layers,
            combine=self.combine,
            dtype=dtype,
        )

    def values(
        self, seen: Collector, *, rows: Int[np.ndarray, " rows"], label: str
    ) -> Float[Tensor, "rows {self.k}"]:
        """Float32; NaN, never 0, on a row without text or image. `rows` name them in an error.

        Raises FloatingPointError: attention is not finite; rows and layers are named.
        """
        seen.refuse_non_finite(rows, label)
        matrices = normalised(seen.total, seen.lines(), self.normalise)
        values = lowrank(matrices, self.k) if self.unmasked else leading(matrices, self.k)
        return values.masked_fill(seen.empty()[:, None], torch.nan)


def normalised(
    matrices: Float[Tensor, "rows lines columns"], kept: Bool[Tensor, "rows lines"], how: str
) -> Float[Tensor, "rows lines columns"]:
    """`none`; `sqrt_rows`: divided by the root of the number of kept lines; `center_rows`: the mean
    of the kept lines taken from each of them, A - 1 mu^T. Lines that are not kept stay zero.
    """
    if how == "none":
        return matrices
    count = kept.sum(dim=1).clamp_min(1)[:, None, None]
    if how == "sqrt_rows":
        return matrices / count.sqrt()
    return (matrices - matrices.sum(dim=1, keepdim=True) / count) * kept[..., None]
