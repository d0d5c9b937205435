"""Classes of vision-language models of transformers, each taken apart in a file of its own.

They are all a frozen tower, a connector and a language model with a head. They differ in how many
tiles an image gives, how tiles become tokens, and in what the parts are called. Everything else in
the house works with any of them through `Family`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedConfig

from xmas.data.images import Processor
from xmas.models.chat.layout import Layout
from xmas.models.families.idefics3 import Idefics3
from xmas.models.families.llava import Llava
from xmas.models.families.onevision import Onevision
from xmas.models.families.qwen25_vl import Qwen25Vl


@runtime_checkable
class Family(Protocol):
    """Where a model's parts are, and how an image passes through them.

    Models are typed Any: their classes have no common base that names their parts.
    """

    @property
    def tower(self) -> str:
        """The frozen module."""
        ...

    @property
    def language(self) -> str:
        """The language model without its head."""
        ...

    @property
    def connector(self) -> tuple[str, ...]:
        """Names of modules and parameters between the two, which train."""
        ...

    def features(
        self,
        model: Any,
        pixels: Float[Tensor, "..."],  # as its processor makes them
        sizes: Int[Tensor, "images 2"] | None = None,
    ) -> Float[Tensor, "tiles patches channels"]:
        """What the tower gives the connector."""
        ...

    def project(
        self,
        model: Any,
        features: Float[Tensor, "tiles patches channels"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Float[Tensor, "tokens hidden"]:
        """The embeddings of all images' tokens, one image behind the other."""
        ...

    def processor(
        self, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})
    ) -> Processor:
        """The image processor that a model folder describes, with some of its values changed."""
        ...

    def layout(self, config: Any, processor: Any, tokenizer: Any) -> Layout:
        """How an image becomes tokens."""
        ...


@runtime_checkable
class HasPositions(Protocol):
    """A family whose language model counts tokens otherwise than one by one."""

    def positions(
        self,
        config: Any,
        ids: Int[Tensor, "rows length"],
        mask: Bool[Tensor, "rows length"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Int[Tensor, "axes rows length"]:
        """What its language model takes as `position_ids`."""
        ...


FAMILIES: Mapping[str, Family] = {
    "llava": Llava(),
    "llava_onevision": Onevision(),
    "qwen2_5_vl": Qwen25Vl(),
    "idefics3": Idefics3("idefics3", "Idefics3ImageProcessorPil"),
    "smolvlm": Idefics3("smolvlm", "SmolVLMImageProcessorPil"),
}


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a model, by its configuration. Raises TypeError: it is none of them."""
    if config.model_type not in FAMILIES:
        raise TypeError(f"models of type {config.model_type} are not among {sorted(FAMILIES)}")
    return FAMILIES[config.model_type]
