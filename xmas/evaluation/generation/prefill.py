"""Prefill: prompts and images through the model, in chunks that continue from cached positions."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from xmas.attention.prefix import attending, can_be_shared
from xmas.evaluation.generation.answer_file import GenerationError
from xmas.evaluation.generation.kv_cache import SlotCache
from xmas.evaluation.generation.prompts import ImageInputs, Prompt
from xmas.models.families import Features
from xmas.models.language_inputs import LanguageInputs
from xmas.models.vlm import (
    embedded_inputs,
    head_of,
    image_features,
    language_inputs,
    positions_of,
    runs_whole,
    tower_features,
    unwrap,
)


@dataclasses.dataclass(eq=False)
class SharedImage:
    """The image of a prompt group: pixels, then tower features, then a cached prefix."""

    inputs: ImageInputs
    reused: bool = False  # by several prompts, so that its keys and values are worth caching
    features: Features | None = None
    sizes: Tensor | None = None
    cache: SlotCache | None = None  # with keys and values up to the end of the image
    slot: int = 0  # of that cache


@dataclasses.dataclass
class PrefillChunk:
    """Token ids that continue from a slot of a cache and are written into a slot of another."""

    slot: int  # to write to
    ids: Int[np.ndarray, " tokens"]
    source: SlotCache | None  # to continue from
    source_slot: int
    prefix: int  # cached positions that precede the ids
    image: SharedImage | None  # whose features replace the image tokens among the ids
    position_ids: Int[Tensor, "axes tokens"] | None = None  # None: those of the cache


def prefill_batches(
    chunks: Sequence[PrefillChunk], max_tokens: int
) -> Iterator[list[PrefillChunk]]:
    """Batches of chunks with equal prefix and similar length, of at most `max_tokens` with pads."""

    def order(chunk: PrefillChunk) -> tuple[int, int]:
        return chunk.prefix, len(chunk.ids)

    batch: list[PrefillChunk] = []
    for chunk in sorted(chunks, key=order):
        fits = not batch or chunk.prefix == batch[0].prefix
        if batch and not (fits and (len(batch) + 1) * len(chunk.ids) <= max_tokens):
            yield batch
            batch = []
        batch.append(chunk)
    if batch:
        yield batch


def by_source(
    chunks: Sequence[PrefillChunk],
) -> Iterator[tuple[SlotCache, list[PrefillChunk]]]:
    """Chunks by the cache that they continue from; those that start a sequence are left out."""
    groups: dict[int, tuple[SlotCache, list[PrefillChunk]]] = {}
    for chunk in chunks:
        if chunk.source is not None:
            groups.setdefault(id(chunk.source), (chunk.source, []))[1].append(chunk)
    yield from groups.values()


def embed_inputs(
    model: nn.Module,
    ids: Int[Tensor, "lines tokens"],
    images: Sequence[SharedImage] = (),
    *,
    positions: Int[Tensor, "*axes lines tokens"] | None = None,
) -> LanguageInputs:
    """Inputs of the language model, with the features of `images` in place of the image tokens.

    Args:
        positions: the model's position ids.
    """
    if runs_whole(model):
        return _whole_inputs(model, ids, images, positions)
    if not images:
        return LanguageInputs(unwrap(model).get_input_embeddings()(ids), positions)
    features = torch.cat([of for image in images if isinstance(of := image.features, Tensor)])
    sizes = [image.sizes for image in images if image.sizes is not None]
    inputs = embedded_inputs(model, ids, features, torch.cat(sizes) if sizes else None)
    return dataclasses.replace(inputs, positions=positions)


def _whole_inputs(
    model: nn.Module,
    ids: Int[Tensor, "lines tokens"],
    images: Sequence[SharedImage],
    positions: Int[Tensor, "*axes lines tokens"] | None,
) -> LanguageInputs:
    """As `embed_inputs`, of a model that runs whole: prompts with its own positions and masks; or
    decode steps, of given positions or those of the cache, where every cached token is seen.
    """
    inputs = language_inputs(model, ids, images[0].features if images else None)
    if ids.shape[1] > 1:
        return inputs
    own = {name: value for name, value in inputs.own.items() if name != "attention_mask"}
    return dataclasses.replace(inputs, positions=positions, own=own)


def causal_mask(
    positions: Int[Tensor, "masks tokens"], upto: int, dtype: torch.dtype
) -> Float[Tensor, "masks 1 tokens upto"]:
    """An additive mask: 0 up to a token's own position, -inf after it."""
    hidden = torch.arange(upto, device=positions.device) > positions[..., None]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(hidden, float("-inf"))[:, None]


def encode_images(model: nn.Module, images: Sequence[SharedImage]) -> None:
    """Run the vision tower over images that have pixels, and replace those by features."""
    images = [image for image in images if image.inputs]
    if not images:
        return
    parameter = next(model.parameters())
    if runs_whole(model):
        for image in images:
            pictures = {name: tensor.to(parameter.device) for name, tensor in image.inputs.items()}
            image.features, image.inputs = image_features(model, pictures, parameter.dtype), {}
        return
    tiles = [len(image.inputs["pixels"]) for image in images]
    pixels = torch.cat([image.inputs["pixels"] for image in images])
    for image in images:
        image.sizes = image.inputs.get("sizes")
    image_sizes = [image.sizes for image in images if image.sizes is not None]
    sizes = torch.cat(image_sizes) if image_sizes else None
    features = tower_features(model, pixels.to(parameter.device, parameter.dtype), sizes)
    for image, of_image in zip(images, features.split(tiles), strict=True):
        image.features, image.inputs = of_image, {}


def position_ids(
    model: nn.Module, ids: Int[np.ndarray, " tokens"], image: SharedImage | None
) -> Int[Tensor, "axes tokens"] | None:
    """The model's own position ids of a prompt, on the host; None where they are 0, 1, 2, ..."""
    line = torch.from_numpy(ids)[None]
    sizes = None if image is None else image.sizes
    positions = positions_of(model, line, sizes)
    return None if positions is None else positions[:, 0]


def padded_position_ids(
    chunks: Sequence[PrefillChunk], width: int
) -> Int[Tensor, "axes chunks width"] | None:
    """The position ids of all chunks, with zeros as padding; None where no chunk has its own."""
    rows = [chunk.position_ids for chunk in chunks if chunk.position_ids is not None]
    if not rows:
        return None
    padded = torch.zeros(len(rows[0]), len(chunks), width, dtype=torch.long)
    for line, row in enumerate(rows):
        padded[:, line, : row.shape[1]] = row
    return padded


def greedy(
    model: nn.Module, hidden: Float[Tensor, "lines hidden"]
) -> Int[Tensor, "token_and_finite lines"]:
    """The token with the largest logit in every line, the first of several that are equal; and 1
    where all logits of the line are finite.
    """
    logits = head_of(model)(hidden).float()
    return torch.stack([logits.argmax(dim=-1), logits.isfinite().all(dim=-1).long()])


def checked_tokens(
    tokens_and_finite: Int[Tensor, "token_and_finite lines"],
    prompts: Sequence[Prompt],
    lengths: Sequence[int],
) -> list[int]:
    """The tokens of `greedy` on the host, which waits for the device here.

    `lengths` count the tokens generated before. Raises GenerationError: logits are not finite.
    """
    tokens, finite = tokens_and_finite.tolist()
    for prompt, length, is_finite in zip(prompts, lengths, finite, strict=True):
        if not is_finite:
            raise GenerationError(
                f"{prompt.name}: the logits of new token {length + 1} are not finite; the model or "
                "the precision is at fault (try generation.precision=bfloat16 or float32)"
            )
    return tokens


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def check_cached(config: PreTrainedConfig) -> None:
    """Raise ValueError for a model whose layers keep other states than keys and values."""
    if attending(config) is not None:
        others = sorted({kind for kind in config.layer_types if not kind.endswith("attention")})
        raise ValueError(
            f"layers of a {config.model_type} keep other states than keys and values "
            f"({', '.join(others) or 'linear attention'}), so that it is not answered with here; "
            "set generation=endpoint, a server that serves the exported folder"
        )


def check_attention(config: PreTrainedConfig, longest: int) -> None:
    """Raise ValueError unless sequences of `longest` tokens can share a prefix and a batch."""
    implementation = config._attn_implementation
    if implementation not in ("sdpa", "eager") or not can_be_shared(config, longest):
        raise ValueError(
            f"a {config.model_type} with {implementation} attention, {longest} tokens a row: a "
            "batch needs sdpa or eager attention and layers without a sliding window; set "
            "generation.batch=1"
        )
