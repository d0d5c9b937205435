"""The metric of a row: which attention matrix, and how many of its leading singular values."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from xmas.attention.capture import CrossAttention, PrefixLines
from xmas.attention.collector import COMBINATIONS, Collector, hooked
from xmas.attention.prefix import attending
from xmas.attention.released import JoinedHeads, Window
from xmas.attention.spectrum import leading, lowrank
from xmas.store import volatile

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
BATCH_TOKENS = {"cpu": 8192, "cuda": 32768}  # on a GPU few tokens do not outlast kernel launches
CHOICES = {
    "mode": ("model", "released"),
    "combine": COMBINATIONS,
    "rows": ("all_text", "answer_only", "question_only"),
    "normalise": ("none", "sqrt_rows", "center_rows"),
    "precision": tuple(PRECISIONS),
    "images": ("all", "first"),
}


@dataclasses.dataclass(frozen=True)
class Spectra:
    """The `k` leading singular values of every row's text x image attention.

    Mode `model` is the attention of the model (`CrossAttention`), by `leading`. Mode `released` is
    the algebra of the XMAS release (`JoinedHeads`), for reproduction and regression tests, by
    `lowrank`; it does not distinguish `rows`, and counts pads as text.
    """

    k: int = 5  # values a snapshot, XMAS release
    mode: str = "model"  # or released
    layers: Sequence[int] | None = None  # null: all
    combine: str = "sum"  # of layers; or concat_text, concat_vision, last
    rows: str = "all_text"  # of the matrix; or answer_only, question_only
    normalise: str = "none"  # of the matrix; or sqrt_rows, center_rows
    precision: str = "float32"  # of products, softmax and sums; or float64
    window: Window = dataclasses.field(default_factory=Window)  # for mode released
    images: str = volatile("all")  # whose columns the matrix has; or first: the first of a row
    batch_tokens: int | None = volatile(None)  # padded tokens in a batch; null: `BATCH_TOKENS`

    def corrections(self) -> dict[str, Any]:
        """Mode `released` multiplies keys by queries since rule 2, and counts pads in ids.

        `batch_tokens` was part of the identity. Values depend on it by no more than the order of
        sums, as on the hardware, so all of them have the key of the former default.
        """
        rule = {"released_rule": 2} if self.mode == "released" else {}
        images = {} if self.images == "all" else {"images": self.images}
        return {"batch_tokens": 8192.0} | rule | images

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(choices)}")
        if self.k < 1:
            raise ValueError(f"k={self.k}: at least one value is taken")
        if self.mode == "released" and self.rows != "all_text":
            raise ValueError(f"rows={self.rows}: mode released uses every row after its window")

    def tokens_of_batch(self, device: str) -> int:
        """`batch_tokens`, or what is usual on this type of device."""
        return self.batch_tokens or BATCH_TOKENS.get(device, BATCH_TOKENS["cuda"])

    @property
    def unmasked(self) -> bool:
        """Whether the language model runs without an attention mask, pads counted as text."""
        return self.mode == "released"

    def hooked(self, language: PreTrainedModel) -> tuple[int, ...]:
        """The layers to read, ascending; by default all that attend, in a model where others
        convolve or recur. Raises ValueError: the model does not have one of them.
        """
        layers = attending(language.config) if self.layers is None else self.layers
        return hooked(layers, self.combine, language.config.num_hidden_layers)

    def kept(
        self,
        text_mask: Bool[Tensor, "rows text"],
        answers: Bool[Tensor, "rows text"] | None = None,
    ) -> Bool[Tensor, "rows text"]:
        """Which text tokens are rows of the matrix.

        Args:
            text_mask: False for pads.
            answers: True for tokens of answers; not needed for `rows="all_text"`.

        Raises:
            ValueError: `rows` needs `answers`.
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
        prefix: PrefixLines | None = None,
    ) -> Collector:
        """A collector for a batch: filled by `attention_of`, then passed to `values`.

        The arguments are those of `CrossAttention`, with `text_mask` from `kept`. Mode `released`
        has fixed positions and does not use them.
        """
        how = self.reading(language)
        if self.unmasked:
            return JoinedHeads(self.window, **how)
        return CrossAttention(
            text=text, text_mask=text_mask, image=image, image_mask=image_mask, prefix=prefix, **how
        )

    def reading(self, language: PreTrainedModel) -> dict[str, Any]:
        """Arguments of every collector: which layers are read, and how."""
        layers = self.hooked(language)
        return {"layers": layers, "combine": self.combine, "dtype": PRECISIONS[self.precision]}

    def values(self, snapshots: Sequence[Collector]) -> Float[Tensor, "rows snapshots {self.k}"]:
        """The singular values of a batch, by one call of the solver for all snapshots of a model.

        float32; NaN, never 0, for a row without text or image. Attention that is not finite, with
        which eigensolvers would fail for the whole batch, counts as 0: the caller refuses it
        (`refuse_non_finite`).
        """
        first, count = snapshots[0], len(snapshots)
        kept = first.lines().repeat(count, 1)
        matrices = normalised(torch.cat([one.total for one in snapshots]), kept, self.normalise)
        matrices.nan_to_num_(0, 0, 0)
        solve = lowrank if self.unmasked else leading
        values = solve(matrices, self.k).unflatten(0, (count, -1)).transpose(0, 1)
        return values.masked_fill(first.empty()[:, None, None], torch.nan)


def normalised(
    matrices: Float[Tensor, "rows lines columns"], kept: Bool[Tensor, "rows lines"], how: str
) -> Float[Tensor, "rows lines columns"]:
    """Normalise matrices; lines that are not `kept` stay 0.

    Args:
        how: `none`; `sqrt_rows`, A / sqrt(n) for n kept lines; `center_rows`, A - 1 mu^T with the
            mean mu of the kept lines.
    """
    if how == "none":
        return matrices
    count = kept.sum(dim=1).clamp_min(1)[:, None, None]
    if how == "sqrt_rows":
        return matrices / count.sqrt()
    return (matrices - matrices.sum(dim=1, keepdim=True) / count) * kept[..., None]
