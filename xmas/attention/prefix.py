"""Prefix sharing: a KV cache computed once, from which several rows continue."""

from typing import cast

from jaxtyping import Int
from torch import Tensor, cat
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class _Lent(DynamicLayer):
    """A layer of a cache whose rows continue from the prefixes `which`, and add nothing to it.

    The keys are copied for every row only while the layer runs.
    """

    def __init__(self, layer: DynamicLayer, which: Int[Tensor, " rows"]) -> None:
        super().__init__()
        self.keys, self.values = layer.keys, layer.values
        self.which = which
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return (
            cat([self.keys[self.which], key_states], dim=-2),
            cat([self.values[self.which], value_states], dim=-2),
        )


class _Unkept(DynamicLayer):
    """A layer of a cache that is empty and stays so."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        return key_states, value_states


def nothing_cached(layers: int) -> Cache:
    """A KV cache for rows that do not continue from anything.

    Without a cache, transformers would compare position ids to see whether rows are packed, for
    which the host waits.
    """
    return Cache(layers=[_Unkept() for _ in range(layers)])


def branches(prefix: DynamicCache, which: Int[Tensor, " rows"]) -> Cache:
    """A KV cache for rows that each continue from a prefix.

    Args:
        prefix: keys and values (prefixes, groups, length, width) of every layer.
        which: the number of each row's prefix.
    """
    return Cache(layers=[_Lent(cast("DynamicLayer", layer), which) for layer in prefix.layers])


def attending(config: PreTrainedConfig) -> list[int] | None:
    """The layers with softmax attention, from 0, where others have none; None: all have it."""
    kinds = getattr(config, "layer_types", None) or []
    layers = [
        layer
        for layer, kind in enumerate(kinds)
        if kind.endswith("attention") and not kind.startswith("linear")
    ]
    return None if len(layers) == len(kinds) else layers


def can_be_shared(config: PreTrainedConfig, longest: int) -> bool:
    """Whether rows of up to `longest` tokens may continue from a KV cache.

    They may if all masks are causal. The cache of a sliding-window layer drops keys that left the
    window, among them those of the image.
    """
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    kinds |= {"sliding_attention"} if window else set()
    if window and longest < window:
        kinds.discard("sliding_attention")
    return kinds <= {"full_attention"}
