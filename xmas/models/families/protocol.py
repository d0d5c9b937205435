"""What a file of this folder says about one family of vision-language models of transformers.

All of them are a frozen vision tower, a connector and a language model with a head. They differ in
the names of these parts, in the tiles an image is cut into, and in how tiles become tokens.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from xmas.data.images.pixels import Processor
from xmas.models.chat.layout import Layout
from xmas.models.shape import Shape

Features = (
    Tensor | Mapping[str, Tensor]
)  # of the tower; of an `OwnForward`, its processor's tensors
Configs = Mapping[str, Callable[[], Any]]  # functions that build configurations of transformers


@runtime_checkable
class Parts(Protocol):
    """Where a model's parts are and how an image becomes tokens: of any model.

    Models, configurations and tokenizers are typed Any: those of transformers have no common base
    that names their parts.
    """

    @property
    def model_type(self) -> str:
        """`model_type` of its configuration, by which the family is found."""
        ...

    @property
    def tower(self) -> str:
        """Path of the vision tower inside the model; frozen in every fit."""
        ...

    @property
    def language(self) -> str:
        """Path of the language model without its head; LoRA is on its linear layers."""
        ...

    @property
    def connector(self) -> tuple[str, ...]:
        """Names of the trainable modules and parameters between tower and language model."""
        ...

    def processor(
        self, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})
    ) -> Processor:
        """The image processor that a model folder describes, with `changes` to its values."""
        ...

    def layout(self, config: Any, processor: Any, tokenizer: Any) -> Layout:
        """How an image becomes tokens.

        Raises ValueError: configuration and image processor disagree.
        """
        ...

    def shape(self, config: Any, *, image_tokens: int | None = None, tiles: float = 1.0) -> Shape:
        """The model in numbers, from its configuration alone.

        Args:
            image_tokens: of an image on average, where images differ in theirs.
            tiles: of an image on average.
        """
        ...


@runtime_checkable
class Family(Parts, Protocol):
    """A described family: how an image passes through the parts, and which models are published."""

    @property
    def full_size(self) -> Configs:
        """Whole models of published size, by the name of their YAML."""
        ...

    @property
    def hub_configs(self) -> Configs:
        """Configurations of repositories on the hub, whole models or one half of them, so that
        costs are known without a download.
        """
        ...

    def features(
        self,
        model: Any,
        pixels: Float[Tensor, "..."],
        sizes: Int[Tensor, "images 2"] | None = None,
    ) -> Float[Tensor, "tiles patches channels"]:
        """Run the vision tower over `pixels` as the family's image processor makes them.

        Args:
            sizes: height and width of each image, where the processor gives them.
        """
        ...

    def project(
        self,
        model: Any,
        features: Float[Tensor, "tiles patches channels"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Float[Tensor, "tokens hidden"]:
        """Run the connector: the embeddings of all images' tokens, image after image."""
        ...


@runtime_checkable
class OwnForward(Parts, Protocol):
    """A family whose rows pass through the model's own forward, images as its processor gives them.

    Its features are not cached, and its rows are neither packed nor continued from a KV cache of
    others.
    """

    def language_arguments(
        self,
        model: Any,
        ids: Int[Tensor, "rows length"],
        mask: Bool[Tensor, "rows length"],
        pictures: Mapping[str, Tensor],
    ) -> dict[str, Any]:
        """What the model's own forward passes to its language model.

        Args:
            mask: False for pads at the end of rows.
            pictures: of all images of the rows, as its own processor makes them.
        """
        ...

    def seen(self, shape: Shape, processor: Any, layout: Any) -> Shape:
        """`shape` with what the processor makes of an image of usual size."""
        ...

    def logits(
        self, model: Any, hidden: Float[Tensor, "tokens hidden"]
    ) -> Float[Tensor, "tokens vocabulary"]:
        """What the model's own forward makes of last hidden states."""
        ...


@runtime_checkable
class HasPositions(Protocol):
    """A family whose language model does not count tokens one by one, as Qwen's M-RoPE."""

    def positions(
        self,
        config: Any,
        ids: Int[Tensor, "rows length"],
        counted: Int[Tensor, "rows length"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Int[Tensor, "axes rows length"]:
        """The language model's `position_ids`, without waiting for the device.

        Args:
            counted: the number of tokens before each in its row, of which a line may have several.
            sizes: height and width of each image in `ids`; None without images.
        """
        ...


@runtime_checkable
class WholeImages(Protocol):
    """A family whose tokens of an image see each other, also those that follow."""

    @property
    def whole_images(self) -> bool: ...


@runtime_checkable
class HasDeepFeatures(Protocol):
    """A family that adds features of images to the outputs of its language model's first layers.

    The language model takes them as `deepstack_visual_embeds` and `visual_pos_masks`
    (DeepStack, arXiv 2406.04334). `features` contains what they are made of, so that the tower
    runs once an image.
    """

    def deep_features(
        self, model: Any, features: Float[Tensor, "tiles patches channels"]
    ) -> list[Float[Tensor, "tokens hidden"]]:
        """What is added to the output of the first layer, the second and so on, for all images'
        tokens in the order of `project`.
        """
        ...


@runtime_checkable
class Exportable(Protocol):
    """A family whose models are written as folders for plain transformers and vLLM."""

    @property
    def hub_names(self) -> Mapping[str, str]:
        """Prefixes of weights in transformers 5, and their prefixes in the hub's folders."""
        ...

    def hub_processor(self, config: Any, processor: Any, tokenizer: Any, image: str) -> Any:
        """transformers' own processor (images and text) that does what `processor` does.

        Args:
            image: what the image token is called.
        """
        ...


@runtime_checkable
class HasMarks(Protocol):
    """A family whose images are between marks, which have names in the published tokenizers."""

    @property
    def marks(self) -> Mapping[str, str]:
        """Names of tokens, by the field of the configuration with their id: added to a tokenizer
        that was trained for randomly initialised weights.
        """
        ...

    def chat_image(self, image: str) -> str:
        """What a chat template writes for an image, whose token is called `image`."""
        ...


@runtime_checkable
class HasVideos(Protocol):
    """An exportable family whose processor in transformers contains one of videos as well, which
    is not built here: its settings are written, those of images.
    """

    @property
    def video_processor(self) -> str:
        """Its class in transformers."""
        ...
