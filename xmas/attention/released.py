"""Mode `released`: the matrix that XMAS's public code decomposes, for reproduction and regression.

It is not what the model attends: outputs of `q_proj` and `k_proj` before any norm and rotation, the
heads joined to one, S = softmax(k q^T / sqrt(width)) over all positions, future and pads included,
and the fixed windows of another prompt. Rows are *keys* and columns *queries*, each row normalised
over the queries: the release calls `attention_scores(q_proj, k_proj)`, a function of `(k_proj,
q_proj)`. What an example has depends on its batch mates.
Source: `BigML-CS-UCLA/XMAS` at c3e95c8, `get_trajectory.py`; written anew from its formulas.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from xmas.attention.collector import Collector
from xmas.attention.shares import image_shares
from xmas.attention.stream import StopPass

FUSED = ("Phi3Attention", "Phi4MultimodalAttention")  # queries, then keys, then values, heads whole


@dataclasses.dataclass(frozen=True)
class Window:
    """Positions in the padded batch, by default those of LLaVA-1.5's prompt.

    In StableLM's prompt the image is at 31 to 606 and the text starts at 607: the release loses
    five text tokens and four patches.
    """

    text_from: int = 612
    image_from: int = 35
    image_to: int = 611


class JoinedHeads(Collector):
    """S[text_from:, image_from:image_to] of every layer that is read, combined: how text keys are
    distributed over image queries.

    Where a model has fewer key heads than query heads, the release repeats each *feature* of the
    keys and so pairs the wrong ones; that is kept: the same products are those of the keys with
    sums of neighbouring query features. Not kept: float16, in which the release multiplies, sums
    and can overflow, and text-only rows, which it decomposes as if they had an image (here they
    are not given to a model at all). A batch no longer than `text_from` has no rows and no values.
    """

    def __init__(
        self,
        window: Window,
        *,
        layers: Collection[int] | None = None,
        combine: str = "sum",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(layers, combine)
        self.window = window
        self.dtype = dtype

    @contextlib.contextmanager
    def reading(self, language: PreTrainedModel, stop: bool) -> Iterator[None]:
        """Read the outputs of the projections of `language` within the context.

        Raises ValueError: the projections of a layer are unknown, or a pass has an attention mask
        or a filled KV cache, which the release never has.
        """

        def read(layer: int, query: Tensor, key: Tensor) -> None:
            self._read(layer, query, key)
            if stop and layer == self.last:
                raise StopPass

        with contextlib.ExitStack() as hooks:
            guard = language.register_forward_pre_hook(_refuse_masked, with_kwargs=True)
            hooks.callback(guard.remove)
            attentions = {
                cast("int", module.layer_idx): module
                for module in language.modules()
                if hasattr(module, "layer_idx") and _projections(module)
            }
            for layer in self.layers or ():
                if layer not in attentions:
                    raise ValueError(f"layer {layer} has neither q_proj and k_proj nor qkv_proj")
                hooks.enter_context(_projected(attentions[layer], layer, read))
            yield

    def _read(
        self,
        layer: int,
        query: Float[Tensor, "rows length width"],
        key: Float[Tensor, "rows length narrow"],
    ) -> None:
        length, width = query.shape[1:]
        queries = query[:, None].to(self.dtype).unflatten(-1, (key.shape[2], -1)).sum(dim=-1)
        text_keys = key[:, None, self.window.text_from :].to(self.dtype)
        image = torch.arange(
            self.window.image_from, min(self.window.image_to, length), device=key.device
        )
        self.add(
            layer,
            image_shares(
                text_keys,
                queries,
                torch.zeros(1, 1, text_keys.shape[2], length, device=key.device),
                image.expand(len(key), -1),
                scale=width**-0.5,
                dtype=self.dtype,
            ),
        )

    def lines(self) -> Bool[Tensor, "rows lines"]:
        return torch.ones(self.total.shape[:2], dtype=torch.bool, device=self.total.device)

    def empty(self) -> Bool[Tensor, " rows"]:
        rows, lines, columns = self.total.shape
        return torch.full((rows,), not lines * columns, device=self.total.device)


def _projections(attention: nn.Module) -> list[nn.Module]:
    """The modules that compute queries and keys: two, a fused one, or none if unknown."""
    if hasattr(attention, "q_proj") and hasattr(attention, "k_proj"):
        names = ["q_proj", "k_proj"]
    else:
        names = ["qkv_proj"] if type(attention).__name__ in FUSED else []
    return [attention.get_submodule(name) for name in names]


def _split(attention: nn.Module, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Queries and keys, heads concatenated, from the outputs of the projections."""
    if len(outputs) == 2:
        return outputs[0], outputs[1]
    config = cast("PreTrainedConfig", attention.config)
    width = cast("int", attention.head_dim)
    sizes = [config.num_attention_heads * width, *[config.num_key_value_heads * width] * 2]
    query, key, _ = outputs[0].split(sizes, dim=-1)
    return query, key


def _refuse_masked(_: nn.Module, __: tuple, arguments: dict[str, Any]) -> None:
    cache = arguments.get("past_key_values")
    if arguments.get("attention_mask") is not None:
        raise ValueError("mode released counts pads as text: give the model no attention mask")
    if cache is not None and cache.get_seq_length():
        raise ValueError("mode released reads whole passes: give the model no filled cache")


@contextlib.contextmanager
def _projected(
    attention: nn.Module, layer: int, read: Callable[[int, Tensor, Tensor], None]
) -> Iterator[None]:
    """Call `read` whenever both queries and keys of this attention layer have been projected."""
    outputs: list[Tensor] = []

    def keep(_: nn.Module, __: tuple, output: Tensor) -> None:
        outputs.append(output.detach())
        if len(outputs) == len(projections):
            query, key = _split(attention, outputs)
            outputs.clear()
            with torch.no_grad():
                read(layer, query, key)

    projections = _projections(attention)
    handles = [projection.register_forward_hook(keep) for projection in projections]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
