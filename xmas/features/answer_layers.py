"""What layers do at a row's answer: attention to the image and the most active FFN neurons."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xmas.attention.capture import CrossAttention, attention_of
from xmas.features.extractor import Columns, FeatureExtractor
from xmas.features.module_reader import modules_read, part_of
from xmas.features.shallow import images_apart, places_of
from xmas.models.chat.batches import Batch
from xmas.models.chat.labels import IGNORED
from xmas.models.vision_cache import features_of
from xmas.models.vlm import LoadedModel, hidden_states, language_model
from xmas.store import Stage, Store
from xmas.training.model_on_pool import HasWeights

DOWN = ("down_proj", "fc2")  # the last linear map of an FFN: of most models, of Phi


@dataclasses.dataclass(frozen=True)
class AnswerLayers(Stage):
    """Bridging relevance of an answer and the neurons that it activates most, layer by layer.

    Writes `bridging.npy` (rows, layers) float32: how much, and how sharply, the answer's tokens
    attend to the image, in [0, 1], see `sharpness`; and `neurons.npy` (rows, sum of `neurons`)
    int32: of each layer the neurons with the largest mean activation over the answer's tokens,
    ascending. A row without an image or without an answer has NaN and -1.

    Source: MAGIC (arXiv 2605.26004), section 3.3. Not stated there, ours: layers count from 0; an
    answer's tokens are those with a label, at their own positions; a neuron's activation is what
    enters the FFN's last linear map, with its sign; N_v counts all image tokens of a row.

    Args:
        model: a start point alone, or a proxy; runs over its pool.
        step: an optimiser step of the model's fit; None: the last; 0: its start point.
        layers: of the language model, from 0.
        neurons: how many of each layer.
        weights: precision of weights and activations: float32, bfloat16, float16; None: that of the
            model's fit, or of its stored weights.
        batch_tokens: padded tokens of a batch.
        mark_rows: rows between two checkpoints, the most that a killed pass loses.
    """

    kind: ClassVar[str] = "answer_layers"
    together: ClassVar[bool] = True

    model: HasWeights
    step: int | None = 0
    layers: Sequence[int] = (8, 12, 16, 20)
    neurons: Sequence[int] = (1, 1, 2, 3)
    weights: str | None = None
    batch_tokens: int = 8192
    mark_rows: int = 4096

    def __post_init__(self) -> None:
        """Raises ValueError: not one number of neurons for each of ascending layers."""
        layers, neurons = list(self.layers), list(self.neurons)
        if not layers or layers != sorted(set(layers)):
            raise ValueError(
                f"features.answer_layers.layers={layers}: expected ascending layers, one at least"
            )
        if len(neurons) != len(layers) or min(neurons) < 1:
            raise ValueError(
                f"features.answer_layers.neurons={neurons}: expected a number from 1 up for each "
                f"of the {len(layers)} layers {layers}"
            )

    def corrections(self) -> dict[str, Any]:
        """The precision, also where it is the model's."""
        return {"weights": self.precision}

    @property
    def precision(self) -> str:
        """The precision of weights and activations, by torch's name."""
        return self.weights or self.model.feature_precision

    @property
    def extractor(self) -> FeatureExtractor:
        return FeatureExtractor("answer_layers", self.model, self.step, self.precision)

    def inputs(self) -> list[Stage]:
        return self.extractor.inputs()

    def compute(self, store: Store, out: Path) -> None:
        """Raises FloatingPointError: a row with an image and an answer is not finite; names it."""
        extractor = self.extractor
        parts = extractor.parts(store)
        columns = {
            "bridging": Columns(np.float32, len(self.layers)),
            "neurons": Columns(np.int32, sum(self.neurons)),
        }

        def of(batch: Batch) -> Mapping[str, np.ndarray]:
            bridging = np.full((len(batch.rows), len(self.layers)), np.nan, dtype=np.float32)
            neurons = np.full((len(batch.rows), sum(self.neurons)), -1, dtype=np.int32)
            answered = (batch.labels != IGNORED).any(dim=1).cpu().numpy()
            if batch.pictures and answered.any():
                values, indices = self.signals(parts, batch)
                extractor.check(batch, np.where(answered[:, None], values, 0))
                bridging[answered], neurons[answered] = values[answered], indices[answered]
            return {"bridging": bridging, "neurons": neurons}

        extractor.fill_arrays(
            store,
            parts,
            out,
            batches=images_apart(self.model.tokens().open(store), self.batch_tokens),
            columns=columns,
            mark_rows=self.mark_rows,
            of=of,
        )

    @torch.no_grad()
    def signals(
        self, parts: LoadedModel, batch: Batch
    ) -> tuple[Float[np.ndarray, "rows layers"], Int[np.ndarray, "rows neurons"]]:
        """`bridging` and `neurons` of a batch whose rows have images; a row needs an answer."""
        model = parts.model
        language = language_model(model)
        answered = batch.labels != IGNORED
        answers, answers_mask = places_of(answered)
        image, image_mask = places_of(batch.ids == model.config.image_token_id)
        bridging = Bridging(answers, answers_mask, image, image_mask, layers=self.layers)
        setting = "features.answer_layers.layers"
        downs = {layer: part_of(language, layer, "mlp", DOWN, setting) for layer in self.layers}
        weights = answered / answered.sum(dim=1, keepdim=True).clamp_min(1)
        means: dict[int, Float[Tensor, "rows neurons"]] = {}

        def read(layer: int, activations: Tensor, _: Tensor) -> None:
            means[layer] = (weights[:, None] @ activations.float())[:, 0]

        with attention_of(language, bridging), modules_read(downs, read):
            hidden_states(
                model,
                batch.ids,
                batch.mask,
                features_of(model, batch),
                sizes=batch.pictures.get("sizes"),
            )
        values = torch.stack([bridging.by_layer[layer] for layer in self.layers], dim=1)
        largest = [
            means[layer].topk(count, dim=1).indices.sort(dim=1).values
            for layer, count in zip(self.layers, self.neurons, strict=True)
        ]
        finite = torch.stack([mean.isfinite().all(dim=1) for mean in means.values()]).all(dim=0)
        values = values.masked_fill(~finite[:, None], torch.nan)
        return values.cpu().numpy(), torch.cat(largest, dim=1).int().cpu().numpy()


class Bridging(CrossAttention):
    """The mean `sharpness` of every row's text to its image, layer by layer."""

    def __init__(
        self,
        text: Int[Tensor, "rows text"],
        text_mask: Bool[Tensor, "rows text"],
        image: Int[Tensor, "rows image"],
        image_mask: Bool[Tensor, "rows image"],
        *,
        layers: Sequence[int],
    ) -> None:
        super().__init__(text, text_mask, image, image_mask=image_mask, layers=layers)
        self.image_tokens = image_mask.sum(dim=1)
        self.by_layer: dict[int, Float[Tensor, " rows"]] = {}

    def add(self, layer: int, attention: Float[Tensor, "rows text image"]) -> None:
        """Reduce the matrices of a layer; lines of padding are zero, and so is their sharpness."""
        self.seen.append(layer)
        counts = self.text_mask.sum(dim=1)
        self.by_layer[layer] = sharpness(attention, self.image_tokens).sum(dim=1) / counts


def sharpness(
    attention: Float[Tensor, "rows text image"], image_tokens: Int[Tensor, " rows"]
) -> Float[Tensor, "rows text"]:
    """(sum_v A_tv) (1 - H(A~_t) / log N_v): a token's attention to the image times its sharpness.

    A~ is A normalised over the image, H its entropy. 0 where the sum is 0; where the image has one
    token, whose entropy and log N are 0, the sum.
    """
    mass = attention.sum(dim=2)
    shares = attention / mass.clamp_min(torch.finfo(attention.dtype).tiny)[..., None]
    entropy = -torch.special.xlogy(shares, shares).sum(dim=2)
    most = image_tokens.float().log().clamp_min(torch.finfo(torch.float32).tiny)
    return mass * (1 - entropy / most[:, None]).clamp_min(0)
