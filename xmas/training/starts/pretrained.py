"""A small LLaVA with a trained vision tower: built, then fitted to captions.

Where LLaVA starts from Vicuna, the language model here starts from random weights, so it is trained
together with the projector. Proxy and target of the demo start from the same folder.
"""

import dataclasses
from pathlib import Path
from typing import ClassVar, cast

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import LlavaForConditionalGeneration

from xmas.data.images.pixels import SquareImages
from xmas.data.pool import Pool
from xmas.models.chat.template import Plain, Template
from xmas.models.shape import Decoder, Shape, Tower
from xmas.models.start_point import StartPoint
from xmas.models.vision_cache import FromCache, VisionFeatures
from xmas.models.vlm import LoadedModel, freeze_tower
from xmas.store import Made, Stage, Store, distributed, volatile
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.model_on_pool import ModelOnPool, fit_on_pool
from xmas.training.starts.initial_weights import (
    attend_alike,
    embed_as_predicted,
    project_unchanged,
)
from xmas.training.starts.towers import TOKEN_HEAD, TwoTower


@dataclasses.dataclass(frozen=True)
class SmallLlava(StartPoint):
    """An untrained `LlavaForConditionalGeneration` around a trained vision tower.

    Its words start as what the tower predicts them from, its projector as the identity, and its
    attention finds what resembles the query: see `initial_weights`.

    Args:
        hidden: width of the language model; that of the tower.
        alike: correlation of keys with queries, and of outputs with values, in [0, 1).

    Raises:
        ValueError: `hidden` is not the tower's width.
    """

    kind: ClassVar[str] = "small_llava"
    version: ClassVar[int] = 3

    towers: TwoTower
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 352
    max_length: int = 512  # tokens
    alike: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.hidden != self.towers.width:
            raise ValueError(
                f"hidden {self.hidden}: image features are passed on unchanged, so it is the "
                f"tower's width; set untrained.hidden={self.towers.width}"
            )

    @property
    def tower(self) -> "SmallLlava":
        return self

    @property
    def image(self) -> int:
        return (self.towers.image_size // self.towers.patch) ** 2

    @property
    def tokenizer(self) -> Made:
        return Made(self.towers.tokenizer, "")

    def inputs(self) -> list[Stage]:
        return [self.towers, self.towers.tokenizer]

    def shape(self) -> Shape:
        """The model in numbers, before it is built."""
        towers, head_dim = self.towers, self.hidden // self.heads
        vocabulary = _padded(towers.tokenizer.vocabulary)
        return Shape(
            Decoder(
                self.layers, self.hidden, self.heads, self.heads, head_dim, self.feed_forward,
                vocabulary, tied=True,
            ),
            Tower(towers.layers, towers.width, 4 * towers.width, self.image, towers.patch),
            (towers.width, self.hidden, self.hidden),
            self.image,
        )  # fmt: skip

    def compute(self, store: Store, out: Path) -> None:
        from transformers import AutoTokenizer, CLIPModel, LlamaConfig, LlavaConfig

        folder = store.get(self.towers)
        clip = CLIPModel.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(store.get(self.towers.tokenizer))
        text = LlamaConfig(
            vocab_size=_padded(len(tokenizer)),
            hidden_size=self.hidden,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.max_length,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            # The usual 0.02 is made for wide models; at 128 learning starts slowly with it.
            initializer_range=self.hidden**-0.5,
            tie_word_embeddings=True,
        )
        config = LlavaConfig(
            text_config=text,
            vision_config=clip.config.vision_config,
            image_token_index=len(tokenizer),
            image_seq_length=self.image,
            vision_feature_layer=-1,  # the last patches are trained, unlike those of OpenAI's CLIP
            vision_feature_select_strategy="default",
            projector_hidden_act="gelu",
            tie_word_embeddings=True,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = LlavaForConditionalGeneration(config)
        model.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
        head = load_file(folder / TOKEN_HEAD)
        embeddings = cast("nn.Embedding", model.get_input_embeddings())
        embed_as_predicted(embeddings, head["weight"], self.seed)
        projector = model.model.multi_modal_projector
        project_unchanged(projector.linear_1, projector.linear_2, head["mean"], float(head["std"]))
        for block in model.model.language_model.layers:
            attend_alike(block.self_attn, self.alike)
        LoadedModel(model, tokenizer, SquareImages.load(folder)).save(out)


@dataclasses.dataclass(frozen=True)
class Pretrained(ModelOnPool, StartPoint):
    """A start point after one more pool: projector and language model trained, the tower frozen.

    With captions and `Plain` it is LLaVA's first stage, which trains the projector only. A second
    one, started from the first, can teach what a pretrained language model would know.
    Source: LLaVA `scripts/v1_5/pretrain.sh`.
    """

    kind: ClassVar[str] = "pretrained"
    together: ClassVar[bool] = True

    start: "SmallLlava | Pretrained"
    pool: Pool
    recipe: Recipe
    drawings: Pool | None = None  # with all pictures of the pool: one cache of features
    template: Template | Plain = dataclasses.field(default_factory=Plain)
    hardware: Hardware = volatile(default_factory=Hardware)
    seed: int = 0

    @property
    def tower(self) -> SmallLlava:
        """The stage that brought the vision tower, which stays as it was there."""
        return self.start.tower

    @property
    def image(self) -> int:
        return self.start.image

    @property
    def max_length(self) -> int:
        return self.start.max_length

    @property
    def tokenizer(self) -> Made:
        return self.start.tokenizer

    def shape(self) -> Shape:
        """The model in numbers, before it is built."""
        return self.tower.shape()

    @property
    def cache_vision(self) -> bool:
        """Always: its images are small."""
        return True

    def tuned(self, store: Store) -> str | None:
        return self.start.tuned(store)

    def image_stage(self) -> VisionFeatures:
        """The tower's features, of `drawings` where one cache serves several pools."""
        return VisionFeatures(
            self.drawings or self.pool, self.tower, accelerator=self.hardware.accelerator
        )

    def pictures(self, store: Store, loaded: LoadedModel) -> FromCache:
        return self.image_stage().pictures(store, of=self.pool)

    def compute(self, store: Store, out: Path) -> None:
        loaded, _ = fit_on_pool(
            self,
            store,
            out,
            lambda loaded: freeze_tower(loaded.model),
            label=self.pool.name,
            logger=store.fit_logger(self),
        )
        if distributed.leads():
            loaded.save(out)


def _padded(vocabulary: int) -> int:
    """Rows of the embedding: one more for the image token, a multiple of 64."""
    return -(-(vocabulary + 1) // 64) * 64
