"""Read the inputs and outputs of modules in chosen layers from a forward pass that ends there."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from xmas.attention.stream import StopPass


@contextlib.contextmanager
def modules_read(
    modules: Mapping[int, nn.Module], read: Callable[[int, Tensor, Tensor], None]
) -> Iterator[None]:
    """Call `read` with the layer, the first input and the output of each of these modules.

    The pass ends after the module of the highest layer, and with it the block: statements after the
    call of the model do not run. The hooks are removed in any case.

    Args:
        modules: one of each layer that is read, by its number.

    Raises RuntimeError: at the end of the block, a layer was not run.
    """
    seen: set[int] = set()
    last = max(modules)

    def hook(layer: int):
        def call(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
            hidden = output[0] if isinstance(output, tuple) else output  # layers of old versions
            assert isinstance(hidden, Tensor)
            read(layer, inputs[0], hidden)
            seen.add(layer)
            if layer == last:
                raise StopPass

        return call

    hooks = [module.register_forward_hook(hook(layer)) for layer, module in modules.items()]
    try:
        with contextlib.suppress(StopPass):
            yield
    finally:
        for handle in hooks:
            handle.remove()
    if missed := sorted(set(modules) - seen):
        raise RuntimeError(f"layers {missed} were not run")


def decoder_layer(language: PreTrainedModel, layer: int, setting: str) -> nn.Module:
    """A decoder layer, counted from 0.

    Raises ValueError: the model has no such layer; the message has `setting`, which names layers.
    """
    count = language.config.num_hidden_layers
    if not 0 <= layer < count:
        raise ValueError(f"layer {layer}: the model has layers 0 to {count - 1}; set {setting}")
    return language.get_submodule(f"layers.{layer}")


def part_of(
    language: PreTrainedModel, layer: int, part: str, names: Sequence[str], setting: str
) -> nn.Module:
    """The first of `names` that a part of a decoder layer has.

    Args:
        part: `self_attn`, `mlp`.
        setting: as of `decoder_layer`.

    Raises:
        ValueError: the model has no such layer.
        TypeError: the part has none of `names`.
    """
    inside = decoder_layer(language, layer, setting).get_submodule(part)
    for name in names:
        if hasattr(inside, name):
            return inside.get_submodule(name)
    raise TypeError(f"{type(inside).__name__} has none of {', '.join(names)}")
