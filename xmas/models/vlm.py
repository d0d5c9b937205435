"""Any vision-language model of transformers: loading, image embeddings, hidden states.

The frozen tower's features come from pixels or from an array that was computed once; either way
they pass the connector and replace the image tokens' embeddings, as in the model's own forward.
Hidden states and the language head are separate, so that a loss needs only the answers' logits and
a scan needs none. What differs between families of models is in `xmas.models.families`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from xmas.data.images.files import image_size
from xmas.models import varlen_attention
from xmas.models.chat.labels import Encoder
from xmas.models.chat.layout import Layout, text_around
from xmas.models.chat.own_template import OwnTemplate
from xmas.models.chat.saved_tokenizer import pin
from xmas.models.chat.template import Plain, Template
from xmas.models.families import (
    Features,
    HasDeepFeatures,
    HasPositions,
    OwnForward,
    WholeImages,
    family_of,
)
from xmas.models.image_blocks import ImageBlocks
from xmas.models.language_inputs import LanguageInputs
from xmas.models.model_parts import connector_parameters as connector_parameters
from xmas.models.model_parts import described_in, family_in
from xmas.models.model_parts import freeze_tower as freeze_tower
from xmas.models.model_parts import head_of as head_of
from xmas.models.model_parts import language_model as language_model
from xmas.models.model_parts import refuse_whole as refuse_whole
from xmas.models.model_parts import runs_whole as runs_whole
from xmas.models.model_parts import tower as tower
from xmas.models.model_parts import unwrap as unwrap
from xmas.models.model_parts import vocabulary_of as vocabulary_of
from xmas.models.tensor_bars import silence
from xmas.store.integrity import META

silence()


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer and image processor, as its folder contains them."""

    model: Any  # of a class in `xmas.models.families`
    tokenizer: Any
    processor: Any  # a `Processor`

    @functools.cached_property
    def layout(self) -> Layout:
        """How an image becomes tokens for this model."""
        config = self.model.config
        return family_of(config).layout(config, self.processor, self.tokenizer)

    def encoder(self, template: Template | Plain | OwnTemplate, max_length: int = 2048) -> Encoder:
        """How conversations become tokens for this model."""
        return Encoder(
            self.tokenizer,
            template,
            literal=self.layout.literal,
            around=text_around(self.layout),
            max_length=max_length,
        )

    def image_tokens(self, image: Path | bytes) -> Int[np.ndarray, " image"]:
        """The token ids of an image, given its file or the file's bytes."""
        layout = self.layout
        return layout.tokens(image_size(image) if layout.by_size else None)

    def save(self, folder: Path) -> None:
        """Write model, tokenizer and image processor as a Hugging Face folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        pin(folder)
        self.processor.save(folder)


def load(folder: Path) -> LoadedModel:
    """Load a folder that `LoadedModel.save` wrote; the model in evaluation mode.

    Raises TypeError: the folder's model is of no known family.
    """
    from transformers import AutoModelForImageTextToText

    config, tokenizer, processor = all_but_weights(folder)
    model = AutoModelForImageTextToText.from_pretrained(
        folder, config=config, local_files_only=True
    )
    return LoadedModel(model.eval(), tokenizer, processor)


def all_but_weights(folder: Path) -> tuple[PreTrainedConfig, Any, Any]:
    """The configuration, the tokenizer and the image processor that `load` loads.

    Raises TypeError: the folder's model is of no known family.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    family = family_of(config)
    tokenizer = AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True)
    return config, tokenizer, family.processor(folder)


def layout_of(folder: Path) -> Layout:
    """How images become tokens for the model of a finished result; its weights are not read."""
    return _layout_of(folder.resolve(), (folder / META).stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)  # a stage asks again and again, and tokenizers take seconds to read
def _layout_of(folder: Path, modified: int) -> Layout:
    config, tokenizer, processor = all_but_weights(folder)
    return family_of(config).layout(config, processor, tokenizer)


@torch.no_grad()
def tower_features(
    model: nn.Module,
    pixels: Float[Tensor, "..."],
    sizes: Int[Tensor, "images 2"] | None = None,
) -> Float[Tensor, "tiles patches channels"]:
    """The features of the frozen tower, the connector's input."""
    # Contiguous: in 16 bits a linear layer with a bias rounds once more where its input is not, as
    # patches after a class token are not in a batch, but those of a single image always are.
    return described_in(model).features(unwrap(model), pixels, sizes).contiguous()


def image_features(
    model: nn.Module, pictures: Mapping[str, Tensor], precision: torch.dtype | None = None
) -> Features | None:
    """What passes need of the images of a batch, once for all snapshots; None without images.

    These are the features of the tower, cached or not; for a model that runs whole, what its
    processor made.

    Args:
        pictures: of `Batch`.
        precision: of pixels and features; None: as they are.
    """
    if precision is not None:
        pictures = {
            name: tensor.to(precision) if tensor.is_floating_point() else tensor
            for name, tensor in pictures.items()
        }
    if not pictures or runs_whole(model):
        return pictures or None
    if "features" in pictures:
        return pictures["features"]
    return tower_features(model, pictures["pixels"], pictures.get("sizes"))


def embed(
    model: nn.Module,
    ids: Int[Tensor, "rows length"],
    features: Float[Tensor, "tiles patches channels"] | None,
    sizes: Int[Tensor, "images 2"] | None = None,
    *,
    image_places: Int[Tensor, " features"] | None = None,
) -> Float[Tensor, "rows length hidden"]:
    """Input embeddings, image tokens replaced by the projected features in the order of the rows.

    Without images in the batch a zero from the connector is added where gradients are wanted, so
    that its parameters get one on every rank (LLaVA adds a dummy image instead).

    Args:
        sizes: height and width of each image, where a family arranges its tiles by them.
        image_places: where the image tokens are, counted through all rows; None: found among
            `ids`, for which the host waits.

    Raises ValueError: the numbers of image tokens and features differ.
    """
    inner = unwrap(model)
    is_image: Bool[Tensor, "rows length"] = ids == inner.config.image_token_id
    embedded = inner.get_input_embeddings()(ids.masked_fill(is_image, 0))
    if features is None:
        return _with_connector(model, embedded)
    projected = described_in(model).project(inner, features, sizes)
    if image_places is None:
        image_places = is_image.flatten().nonzero()[:, 0]
    if len(image_places) != len(projected):
        raise ValueError(f"{len(image_places)} image tokens for {len(projected)} image features")
    embedded_tokens = embedded.flatten(0, 1)
    return embedded_tokens.index_copy(0, image_places, projected.to(embedded.dtype)).view_as(
        embedded
    )


def embedded_inputs(
    model: nn.Module,
    ids: Int[Tensor, "rows length"],
    features: Float[Tensor, "tiles patches channels"] | None,
    sizes: Int[Tensor, "images 2"] | None = None,
    *,
    image_places: Int[Tensor, " features"] | None = None,
) -> LanguageInputs:
    """What the language model receives but for its positions; arguments as in `embed`."""
    embedded = embed(model, ids, features, sizes, image_places=image_places)
    family, inner = family_in(model), unwrap(model)
    is_image = ids == inner.config.image_token_id
    if features is not None and isinstance(family, WholeImages):
        blocks = ImageBlocks.of(is_image, language_model(model).config)
        return LanguageInputs(embedded, blocks=blocks)
    if features is None or not isinstance(family, HasDeepFeatures):
        return LanguageInputs(embedded)
    number = is_image.flatten().cumsum(0).view_as(ids) - 1
    deep = family.deep_features(inner, features)
    return LanguageInputs(embedded, None, deep, torch.where(is_image, number, -1))


def language_inputs(
    model: nn.Module,
    ids: Int[Tensor, "rows length"],
    features: Features | None,
    sizes: Int[Tensor, "images 2"] | None = None,
    *,
    mask: Bool[Tensor, "rows length"] | None = None,
    image_places: Int[Tensor, " features"] | None = None,
    counted: Int[Tensor, "rows length"] | None = None,
) -> LanguageInputs:
    """What the language model receives for these tokens and images.

    Args:
        sizes, image_places: as in `embed`.
        mask: False for pads at the end of rows; None: there are none. Only a model that runs whole
            needs it: its masks are not always causal.
        counted: as in `positions_of`.
    """
    if isinstance(family := family_in(model), OwnForward):
        assert not isinstance(features, Tensor)
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        own = family.language_arguments(unwrap(model), ids, mask, features or {})
        embedded, positions = own.pop("inputs_embeds"), own.pop("position_ids", None)
        embedded = embedded if features else _with_connector(model, embedded)
        return LanguageInputs(embedded, positions, own=own)
    assert not isinstance(features, Mapping)
    inputs = embedded_inputs(model, ids, features, sizes, image_places=image_places)
    positions = positions_of(model, ids, sizes, counted)
    return dataclasses.replace(inputs, positions=positions)


def positions_of(
    model: nn.Module,
    ids: Int[Tensor, "rows length"],
    sizes: Int[Tensor, "images 2"] | None,
    counted: Int[Tensor, "rows length"] | None = None,
) -> Int[Tensor, "axes rows length"] | None:
    """The language model's `position_ids`; None where it counts tokens one by one.

    Args:
        counted: the number of tokens before each in its row; None: each line is a row.
    """
    family = family_in(model)
    if not isinstance(family, HasPositions):
        return None
    if counted is None:
        counted = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return family.positions(unwrap(model).config, ids, counted, sizes)


def hidden_states(
    model: nn.Module,
    ids: Int[Tensor, "rows length"],
    mask: Bool[Tensor, "rows length"],
    features: Features | None,
    *,
    sizes: Int[Tensor, "images 2"] | None = None,
    lengths: Int[Tensor, " packed"] | None = None,
    image_places: Int[Tensor, " features"] | None = None,
) -> Float[Tensor, "rows length hidden"]:
    """Last hidden states of the language model, the input of its head.

    Attention has no mask, unless the model runs whole: pads are at the end of a row, where
    causality hides them from its tokens, and torch has no flash kernel for masks.

    Args:
        mask: False for pads at the end of rows.
        image_places: of the image tokens, see `embed`.
        lengths: of rows packed into one sequence (`xmas.models.chat.packing`).
    """
    if lengths is not None:
        refuse_whole(model, "hardware.packing=false")
    language = language_model(model)
    options = {} if lengths is None else varlen_attention.arguments(language, lengths)
    inputs = language_inputs(
        model,
        ids,
        features,
        sizes,
        mask=mask,
        image_places=image_places,
        counted=options.get("position_ids"),
    )
    return language(**options | inputs.arguments, use_cache=False).last_hidden_state


def check_finite(values: np.ndarray, what: str) -> None:
    """Raise FloatingPointError naming the first row that is not finite."""
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        raise FloatingPointError(
            f"{what}: {int(bad.sum())} rows are not finite, the first is row {int(np.argmax(bad))}"
        )


def _with_connector(model: nn.Module, embedded: Tensor) -> Tensor:
    """`embedded`, with gradients of zero for the connector: other ranks wait for them."""
    if not torch.is_grad_enabled():
        return embedded
    return embedded + 0.0 * sum(weight.sum() for weight in connector_parameters(model).values())
