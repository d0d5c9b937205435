"""The parts of a vision-language model of any family: tower, connector, language model, head."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from xmas.models.families import Family, OwnForward, Parts, family_of

if TYPE_CHECKING:
    from peft import PeftModel


def unwrap(model: nn.Module) -> Any:
    """The vision-language model inside a peft wrapper, or `model` itself.

    Raises TypeError: it is none of transformers, or of no known family.
    """
    wrapped = hasattr(model, "get_base_model")
    inner = cast("PeftModel", model).get_base_model() if wrapped else model
    if not isinstance(inner, PreTrainedModel):
        raise TypeError(f"{type(inner).__name__} is no model of transformers")
    family_of(inner.config)
    return inner


def language_model(model: nn.Module) -> PreTrainedModel:
    """The language model without its head."""
    inner = unwrap(model)
    return inner.get_submodule(family_of(inner.config).language)


def tower(model: nn.Module) -> nn.Module:
    """The vision tower."""
    inner = unwrap(model)
    return inner.get_submodule(family_of(inner.config).tower)


def freeze_tower(model: nn.Module) -> nn.Module:
    """`model`, all of it trainable but the vision tower: the base recipe of TinyLLaVA and of full
    LLaVA. A connector inside the tower, as Qwen's merger, is trainable.
    """
    inner = unwrap(model)
    inner.requires_grad_(True)
    if runs_whole(model):  # parts of other modalities next to these, which no row of a pool runs
        inner.requires_grad_(False)
        language_model(model).requires_grad_(True)
        inner.get_output_embeddings().requires_grad_(True)
    else:
        tower(model).requires_grad_(False)
    for parameter in connector_parameters(model).values():
        parameter.requires_grad_(True)
    return model


def connector_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of the connector, by their names in `model`."""
    parts = [f".{part}." for part in family_in(model).connector]
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if any(part in f".{name}." for part in parts)
    }


def runs_whole(model: nn.Module) -> bool:
    """Whether rows pass through the model's own forward, whole: nobody described its family."""
    return isinstance(family_in(model), OwnForward)


def refuse_whole(model: nn.Module, instead: str) -> None:
    """Raise ValueError for a model that runs whole; `instead`: the setting to use."""
    if runs_whole(model):
        raise ValueError(
            f"nobody described models of type {unwrap(model).config.model_type}, which run whole, "
            f"by their own forward: set {instead}, or describe the family "
            "(docs/add-a-model-family.md)"
        )


def head_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """From last hidden states to logits."""
    inner, family = unwrap(model), family_in(model)
    if not isinstance(family, OwnForward):
        return inner.lm_head

    def logits(hidden: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows vocabulary"]:
        tokens = family.logits(inner, hidden.flatten(0, -2))
        return tokens.unflatten(0, hidden.shape[:-1])

    return logits


def vocabulary_of(model: nn.Module) -> int:
    """Logits of a token."""
    return unwrap(model).get_output_embeddings().weight.shape[0]


def family_in(model: nn.Module) -> Parts:
    """The family of the model."""
    return family_of(unwrap(model).config)


def described_in(model: nn.Module) -> Family:
    """The described family of the model. Raises AssertionError: it runs whole."""
    family = family_in(model)
    assert isinstance(family, Family), f"a {family.model_type} runs whole"
    return family
