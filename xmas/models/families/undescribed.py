"""A family that no file describes: its parts by their names, its inputs by its own forward.

The model's own forward runs as far as its language model, and what that receives is what every pass
here runs it with: embeddings, positions, masks and features for inner layers are the model's own by
construction. Nothing is cached: the tower runs in every pass, for every snapshot, and no rows share
a prefix. A described family computes the same several times faster.
"""

import contextlib
import dataclasses
import functools
import inspect
import itertools
import json
import re
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from xmas.models.counted_shape import counted_shape
from xmas.models.own_processor import OwnProcessor, OwnTokens, own_processor
from xmas.models.shape import Shape

TYPES = ("mm_token_type_ids", "token_type_ids")  # 1 at the tokens of images
USUAL = (480, 640)  # height and width of an image, pixels
_INSIDE = re.compile(r"merger|projector|connector|aligner|resampler")  # connectors inside a tower
_OTHERS = re.compile(r"audio|speech|video|generation|vqmodel|talker")  # of other modalities
_UNUSED = ("input_ids", "past_key_values", "use_cache", "return_dict", "cache_position")


@dataclasses.dataclass(frozen=True)
class Undescribed:
    """The parts of a class of models, as `parts_of` finds them.

    Args:
        accepted: names of the tensors of images that the model's forward takes.
        types: which of `TYPES` it takes.
    """

    model_type: str
    tower: str
    language: str
    connector: tuple[str, ...]
    accepted: frozenset[str]
    types: tuple[str, ...]

    def language_arguments(
        self,
        model: Any,
        ids: Int[Tensor, "rows length"],
        mask: Bool[Tensor, "rows length"],
        pictures: Mapping[str, Tensor],
    ) -> dict[str, Any]:
        """What the model's own forward passes to its language model, without the KV cache.

        Args:
            mask: False for pads at the end of rows.
            pictures: of all images of the rows, as its own processor makes them.
        """
        images = {name: value for name, value in pictures.items() if name in self.accepted}
        types = (ids == model.config.image_token_id).long()
        with _received(model.get_submodule(self.language)) as arguments:
            model(
                input_ids=ids,
                attention_mask=mask.long(),
                use_cache=False,
                **images,
                **dict.fromkeys(self.types, types),
            )
        return arguments

    def logits(
        self, model: Any, hidden: Float[Tensor, "tokens hidden"]
    ) -> Float[Tensor, "tokens vocabulary"]:
        """What the model's own forward makes of last hidden states: some heads cap or scale."""
        language = model.get_submodule(self.language)
        ids = torch.zeros(len(hidden), 1, dtype=torch.long, device=hidden.device)
        types = dict.fromkeys(self.types, ids)
        with _replaced(language, hidden[:, None]):
            return model(input_ids=ids, use_cache=False, **types).logits[:, 0]

    def processor(
        self, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})
    ) -> OwnProcessor:
        return own_processor(folder, changes)

    def layout(self, config: Any, processor: OwnProcessor, tokenizer: Any) -> OwnTokens:
        """Raises ValueError: the processor does not work as the passes here need it; says why."""
        layout = OwnTokens(processor, config.image_token_id, tokenizer, self.types)
        layout.tokens(USUAL)
        return layout

    def shape(self, config: Any, *, image_tokens: int | None = None, tiles: float = 1.0) -> Shape:
        """Counted on the built model, see `counted_shape`."""
        shape = _counted(self, config.to_json_string(), type(config))
        tokens = image_tokens or round(tiles * shape.image_tokens)
        return dataclasses.replace(shape, image_tokens=tokens, tiles=tiles)

    def seen(self, shape: Shape, processor: OwnProcessor, layout: OwnTokens) -> Shape:
        """`shape` with the tiles, patches and tokens of an image of `USUAL` size."""
        pixels = _pixels(processor.pictures([Image.new("RGB", (USUAL[1], USUAL[0]))]))
        tiles, patches = 1, pixels[..., 0].numel()  # a line of numbers for each patch
        if pixels.dim() > 3:
            height, width = pixels.shape[-2:]
            tiles = pixels.numel() // (3 * height * width)
            patches = (height // shape.tower.patch) * (width // shape.tower.patch)
        return dataclasses.replace(
            shape,
            tower=dataclasses.replace(shape.tower, patches=patches),
            image_tokens=len(layout.tokens(USUAL)),
            tiles=float(tiles),
        )


def _built(config: PreTrainedConfig) -> PreTrainedModel:
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


@functools.lru_cache
def _counted(parts: Undescribed, config_json: str, kind: type[PreTrainedConfig]) -> Shape:
    model = _built(kind.from_dict(json.loads(config_json)))
    return counted_shape(model, parts.language, parts.tower, parts.connector)


def parts_of(config: PreTrainedConfig) -> Undescribed:
    """The parts of a model, from its configuration alone: built without weights, once.

    Raises TypeError: the model does not work as a pass here needs it; says why.
    """
    known, parts = _PARTS.get(id(config), (None, None))
    if known is None or known() is not config or parts is None:
        parts = _parts_of(type(config), config.to_json_string())
        _PARTS[id(config)] = weakref.ref(config), parts
    return parts


_PARTS: dict[int, tuple[weakref.ref, Undescribed]] = {}  # of configurations in use, by their ids


@functools.lru_cache
def _parts_of(type_of_config: type[PreTrainedConfig], config_json: str) -> Undescribed:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    config = type_of_config.from_dict(json.loads(config_json))
    kind = config.model_type
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise TypeError(f"a {kind} is no AutoModelForImageTextToText of transformers")
    if config.is_encoder_decoder:
        raise TypeError(
            f"a {kind} has an encoder for the question and a decoder for the answer: there is no "
            "attention of text to image in one sequence, and no answer follows its image"
        )
    if getattr(config, "image_token_id", None) is None:
        raise TypeError(
            f"the configuration of a {kind} has no image_token_id: nothing says which tokens of a "
            "row are its image"
        )
    model = _built(config)
    names = {module: name for name, module in model.named_modules()}
    language = _language(model, kind)
    tower = model.get_encoder(modality="image")
    if tower is model or tower not in names:
        raise TypeError(
            f"a {kind} has no vision tower next to its language model; a file in "
            "xmas/models/families has to describe its parts"
        )
    crossing = {type(module).__name__ for module in language.modules()}
    if crossing := sorted(name for name in crossing if "CrossAttention" in name):
        raise TypeError(
            f"a {kind} sees images by {crossing[0]}, not as tokens among those of the text: there "
            "is no block of text and image in its attention"
        )
    if not language._supports_attention_backend:
        raise TypeError(
            f"the {type(language).__name__} of a {kind} does not take its attention by "
            "transformers' interface, so that it cannot be read"
        )
    return Undescribed(
        kind,
        names[tower],
        names[language],
        _connector(model, names[tower], names[language]),
        frozenset(_accepted(model)),
        tuple(name for name in TYPES if name in _accepted(model)),
    )


def _language(model: PreTrainedModel, kind: str) -> PreTrainedModel:
    """The language model without its head. Raises TypeError: it has no list of blocks."""
    language: Any = model.get_decoder()
    if not hasattr(language, "layers") and language is not model:
        language = language.base_model  # of a language model with its head
    if not hasattr(language, "layers"):
        raise TypeError(f"the {type(language).__name__} of a {kind} has no `layers`")
    return language


def _connector(model: PreTrainedModel, tower: str, language: str) -> tuple[str, ...]:
    """What has weights next to tower and language model; else what is named so inside the tower."""
    pairs = zip(tower.split("."), language.split("."), strict=False)
    body = ".".join(one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    sides = [path.removeprefix(f"{body}.").split(".")[0] for path in (tower, language)]
    heads = (model.get_output_embeddings(), model.get_input_embeddings())
    names = [name for name, _ in model.get_submodule(body).named_parameters(recurse=False)]
    for name, part in model.get_submodule(body).named_children():
        known = name in sides or part in heads or _OTHERS.search(name)
        if not known and next(part.parameters(), None) is not None:
            names += _modules(name, part)
    if names:
        return tuple(names)
    for path, part in model.get_submodule(tower).named_modules():
        name = path.rpartition(".")[2]
        if _INSIDE.search(name) and not any(f".{other}." in f".{path}." for other in names):
            names += _modules(name, part)
    return tuple(dict.fromkeys(names))


def _modules(name: str, part: nn.Module) -> list[str]:
    """A module by its name, or those of a list: peft trains modules, not lists."""
    is_list = isinstance(part, nn.ModuleList | nn.ModuleDict)
    return [f"{name}.{child}" for child, _ in part.named_children()] if is_list else [name]


def _accepted(model: PreTrainedModel) -> set[str]:
    """The names of the tensors that the model's forward takes, beyond those of text."""
    forwards = (model.forward, model.base_model.forward)
    names = {name for forward in forwards for name in inspect.signature(forward).parameters}
    return names - {"input_ids", "attention_mask", "labels", "position_ids"}


@contextlib.contextmanager
def _received(language: nn.Module) -> Iterator[dict[str, Any]]:
    """Collect the arguments of a language model's first call, which is not made: the context ends
    there.

    Raises RuntimeError: it is not called, or with token ids.
    """
    names = list(inspect.signature(language.forward).parameters)
    arguments: dict[str, Any] = {}

    def reached(_: nn.Module, positional: tuple, named: dict[str, Any]) -> None:
        received = dict(zip(names, positional, strict=False)) | named
        arguments.update(
            (name, value)
            for name, value in received.items()
            if name not in _UNUSED and value is not None
        )
        raise _Reached

    hook = language.register_forward_pre_hook(reached, prepend=True, with_kwargs=True)
    try:
        with contextlib.suppress(_Reached):
            yield arguments
    finally:
        hook.remove()
    if "inputs_embeds" not in arguments:
        raise RuntimeError(
            f"{type(language).__name__} was not called with inputs_embeds by its model's forward, "
            f"but with {sorted(arguments)}"
        )


@contextlib.contextmanager
def _replaced(language: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Within the context, the language model's last hidden states are these."""
    language.forward = lambda *_, **__: MoeModelOutputWithPast(last_hidden_state=hidden)  # pyright: ignore
    try:
        yield
    finally:
        del language.forward


def _pixels(pictures: Mapping[str, Tensor]) -> Tensor:
    """The largest tensor of numbers that a processor makes of images."""
    return max((one for one in pictures.values() if one.is_floating_point()), key=Tensor.numel)


class _Reached(Exception):  # noqa: N818 - no error: the language model's inputs are there
    """Ends the model's own forward before its language model."""
