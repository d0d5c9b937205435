"""A vision-language model in numbers: what its parameters, FLOPs and bytes follow from.

Start points say their shape before anything is loaded, so that costs are known before any weights
are there. Numbers only, no torch.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

_UNGATED = ("phi", "gpt_neox", "gpt2", "opt", "falcon", "starcoder2")  # two matrices, not three


@dataclasses.dataclass(frozen=True)
class Decoder:
    """A language model: grouped queries, a gated or a plain feed-forward, an embedding, a head."""

    layers: int
    width: int
    heads: int
    groups: int  # heads of keys and values
    head_dim: int
    feed_forward: int
    vocabulary: int
    gated: bool = True
    tied: bool = False  # the head is the embedding

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of a block's linear layers, queries, keys and values first."""
        inner, shared = self.heads * self.head_dim, self.groups * self.head_dim
        up = 2 if self.gated else 1
        return [
            (self.width, inner),
            *[(self.width, shared)] * 2,
            (inner, self.width),
            *[(self.width, self.feed_forward)] * up,
            (self.feed_forward, self.width),
        ]

    @property
    def linear(self) -> int:
        """Weights that every token is multiplied with, all layers, without the head."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.matrices)

    @property
    def parameters(self) -> int:
        """Linear layers, embedding, head unless tied, and norms; biases are left out."""
        tables = (1 if self.tied else 2) * self.vocabulary * self.width
        return self.linear + tables + (2 * self.layers + 1) * self.width

    def lora(self, rank: int) -> int:
        """Parameters of LoRA on every linear layer."""
        return self.layers * sum(rank * sum(matrix) for matrix in self.matrices)

    @classmethod
    def of(cls, config: Any) -> "Decoder":
        """From a text configuration of transformers (Llama, StableLM, Qwen2, Phi, Gemma, …)."""
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            heads=heads,
            groups=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            feed_forward=config.intermediate_size,
            vocabulary=config.vocab_size,
            gated=config.model_type not in _UNGATED,
            tied=bool(getattr(config, "tie_word_embeddings", False)),
        )


@dataclasses.dataclass(frozen=True)
class Tower:
    """A vision transformer of CLIP's or SigLIP's kind; frozen in every fit but its own."""

    layers: int
    width: int
    feed_forward: int
    patches: int  # of an image, or of one of its tiles
    patch: int  # pixels
    class_token: bool = True
    deep: int = 0  # weights of linear layers after inner blocks (DeepStack)
    merged: int = 1  # patches that these take at once

    @property
    def tokens(self) -> int:
        return self.patches + self.class_token

    @property
    def linear(self) -> int:
        """Weights that every token is multiplied with, all layers."""
        return self.layers * (4 * self.width**2 + 2 * self.width * self.feed_forward)

    @property
    def parameters(self) -> int:
        """Weights and biases of the blocks, patch and position embeddings, norms around them."""
        biases = self.layers * (9 * self.width + self.feed_forward)
        embedded = 3 * self.patch**2 + self.tokens + self.class_token
        return self.linear + self.deep + biases + (embedded + 4) * self.width

    @classmethod
    def of(cls, config: Any) -> "Tower":
        """From a vision configuration of transformers (CLIP, SigLIP, Idefics3)."""
        return cls(
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            feed_forward=config.intermediate_size,
            patches=(config.image_size // config.patch_size) ** 2,
            patch=config.patch_size,
            class_token=config.model_type.startswith("clip"),
        )


@dataclasses.dataclass(frozen=True)
class Shape:
    """A tower, a projector of linear layers, a language model, and how long an image is in it.

    Args:
        counted: parameters of the whole model, where they were counted; None: those of the parts.
        whole: rows run whole, by the model's own forward: the tower sees an image again for every
            row and snapshot, and no rows share what they begin with.
    """

    decoder: Decoder
    tower: Tower
    projector: tuple[int, ...]  # widths from input to output
    image_tokens: int  # of an image in the language model
    tiles: float = 1.0  # images that the tower sees for one of the pool
    counted: int | None = None
    whole: bool = False

    @property
    def path(self) -> str:
        """What an estimate says of passes that run whole; nothing of others."""
        return ", by the model's own forward, the tower again each time" if self.whole else ""

    @property
    def projector_parameters(self) -> int:
        """Weights and biases."""
        steps = zip(self.projector, self.projector[1:], strict=False)
        return sum((inputs + 1) * outputs for inputs, outputs in steps)

    @property
    def parameters(self) -> int:
        if self.counted is not None:
            return self.counted
        return self.decoder.parameters + self.tower.parameters + self.projector_parameters

    @classmethod
    def of(
        cls,
        config: Any,
        *,
        image_tokens: int | None = None,
        tiles: float = 1.0,
        folded: int = 1,
        linears: int = 2,
    ) -> "Shape":
        """From a configuration of transformers with square tiles, all of one size.

        Args:
            image_tokens: of an image on average; None: its tiles' patches, `folded` to a token.
            tiles: of an image on average.
            folded: patches that become one token.
            linears: layers of the connector.
        """
        decoder, tower = Decoder.of(config.text_config), Tower.of(config.vision_config)
        projector = (tower.width * folded, *[decoder.width] * linears)
        patches = round(tiles * tower.patches) // folded
        return cls(decoder, tower, projector, image_tokens or patches, tiles)


@runtime_checkable
class Shaped(Protocol):
    """A start point that says what it will be."""

    def shape(self) -> Shape: ...


class ShapelessError(ValueError):
    """A start point does not say its shape, so nothing can be said of what is made from it."""


def shape_of(start: object) -> Shape:
    """The shape of a start point. Raises ShapelessError: it has no method `shape`."""
    if not isinstance(start, Shaped):
        raise ShapelessError(
            f"{type(start).__name__} has no method shape() -> xmas.models.shape.Shape"
        )
    return start.shape()


VICUNA_7B = Decoder(32, 4096, 32, 32, 128, 11008, 32064)  # lmsys/vicuna-7b-v1.5, padded to 64
STABLELM_1_6B = Decoder(24, 2048, 32, 32, 64, 5632, 100352)  # stabilityai/stablelm-2-zephyr-1_6b
CLIP_L_336 = Tower(24, 1024, 4096, 576, 14)  # openai/clip-vit-large-patch14-336
LLAVA_15_7B = Shape(VICUNA_7B, CLIP_L_336, (1024, 4096, 4096), 576)
TINYLLAVA = Shape(STABLELM_1_6B, CLIP_L_336, (1024, 2048, 2048), 576)  # the XMAS release's proxy
