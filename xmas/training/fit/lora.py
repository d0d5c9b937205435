"""LoRA and its variants: which layers are adapted, and what trains in addition to them."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from xmas.models.families import family_of
from xmas.models.vlm import language_model, tower, unwrap
from xmas.store import describe, volatile
from xmas.store.nearest import suggestion

LATER = ("targets", "connector", "also", "rslora", "dora", "peft")  # fields that came later
INITIAL = (True, False, "gaussian", "orthogonal")  # of peft's initial weights; the others of its
# choices replace the frozen weights too, of which the store has only those of the start point
OPTIONS = ("alpha_pattern", "bias", "init_lora_weights", "lora_bias", "rank_pattern")


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank updates of linear layers of the language model; the connector trains in full.

    Source of the defaults: LLaVA `scripts/v1_5/finetune_lora.sh`. rsLoRA: arXiv 2312.03732. DoRA:
    arXiv 2402.09353.

    Args:
        targets: the layers, by their last names (`[q_proj, v_proj]`), or by a regular expression
            that their whole paths in the model match, which towers and connector are not tried
            with; None: all of the language model, its head not among them.
        connector: whether it trains; False: it is frozen.
        also: further modules that train in full, by their last names: `[lm_head, embed_tokens]`.
        rslora: updates are multiplied by alpha / sqrt(rank) instead of alpha / rank.
        dora: weights are decomposed into magnitudes, which train, and directions, which LoRA
            updates.
        peft: further fields of peft's `LoraConfig`, of those in `OPTIONS`.
    """

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05
    targets: str | Sequence[str] | None = volatile(None)
    connector: bool = volatile(True)
    also: Sequence[str] = volatile(())
    rslora: bool = volatile(False)
    dora: bool = volatile(False)
    peft: Mapping[str, Any] = volatile(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "also", tuple(self.also))  # lists in YAML
        if self.targets is not None and not isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(self.targets))
        for name in self.peft:
            if name not in OPTIONS:
                raise ValueError(
                    f"lora.peft.{name}: not an option that is passed to peft"
                    + suggestion(name, [*OPTIONS, *LATER])
                )
        initial = self.peft.get("init_lora_weights", True)
        if initial not in INITIAL:
            raise ValueError(
                f"lora.peft.init_lora_weights={initial}: it replaces the frozen weights, which are "
                f"those of the start point; set one of {', '.join(map(str, INITIAL))}"
            )

    def corrections(self) -> dict[str, Any]:
        """These fields came later: a target that is fitted without them keeps its key."""
        defaults = Lora()
        values = {name: _plain(getattr(self, name)) for name in LATER}
        return {
            name: describe(value)
            for name, value in values.items()
            if value != _plain(getattr(defaults, name))
        }

    def adapts(self, path: str, *, language: str) -> bool:
        """Whether a linear layer at `path` in a model is adapted.

        Args:
            language: path of the language model in it.
        """
        if not path.startswith(f"{language}."):
            return False
        if isinstance(self.targets, str):
            return re.fullmatch(self.targets, path) is not None
        return self.targets is None or path.rpartition(".")[2] in self.targets


def _plain(value: Any) -> Any:
    """The order of names makes no difference."""
    if isinstance(value, Mapping):
        return dict(value)
    return sorted(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def with_lora(model: nn.Module, lora: Lora) -> nn.Module:
    """`model` with trainable LoRA and what trains in addition to it, float32; all else frozen.

    Raises ValueError: a name or an expression matches no layer.
    """
    from peft import LoraConfig, get_peft_model

    saved = [*family_of(unwrap(model).config).connector] if lora.connector else []
    adapted = get_peft_model(
        model,
        LoraConfig(
            **{
                "r": lora.rank,
                "lora_alpha": lora.alpha,
                "lora_dropout": lora.dropout,
                "bias": "none",
                "target_modules": target_modules(model, lora),
                "modules_to_save": [*saved, *_also(model, lora)] or None,
                "task_type": "CAUSAL_LM",
                "use_rslora": lora.rslora,
                "use_dora": lora.dora,
                **lora.peft,
            }
        ),
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # in 16 bits most updates would round away
    return adapted


def target_modules(model: nn.Module, lora: Lora) -> str | list[str]:
    """The layers that LoRA adapts, as a regular expression or as their paths.

    Raises ValueError: a name or expression matches no linear layer of the language model.
    """
    language = family_of(unwrap(model).config).language
    layers = dict(_linear_layers(language_model(model), language))
    if not layers:
        raise ValueError(
            f"no linear layer in {language.rpartition('.')[2]}: LoRA has nothing to adapt"
        )
    if isinstance(lora.targets, str):
        paths = [path for path in layers if lora.adapts(path, language=language)]
        if not paths:
            raise ValueError(
                f"lora.targets={lora.targets}: the expression matches the whole path of no linear "
                f"layer of the language model{suggestion(lora.targets, [*layers][:7])}, ..."
            )
        return paths
    # Until commit cef2ae0 the names were q, k, v, o, gate, up and down_proj, which adapts Phi
    # (dense, fc1, fc2) and Phi-3 (qkv_proj, gate_up_proj) only in part. Such a result has the same
    # key as one of today: the names are known when the model is loaded, the key is needed before.
    names = list(dict.fromkeys(layers.values()))
    for name in lora.targets or ():
        if name not in names:
            raise ValueError(
                f"lora.targets: no linear layer of the language model is called {name}"
                + suggestion(name, names)
            )
    chosen = names if lora.targets is None else [name for name in names if name in lora.targets]
    return rf".*{language.rpartition('.')[2]}.*\.({'|'.join(chosen)})$"


def _linear_layers(module: nn.Module, path: str) -> Iterator[tuple[str, str]]:
    """The path and the last name of every linear layer."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            yield f"{path}.{name}", name.rpartition(".")[2]


def _also(model: nn.Module, lora: Lora) -> list[str]:
    """Paths of the further modules that train in full.

    Raises ValueError: no module outside of the tower has a name of `lora.also`, or it shares its
    weight with another that would stay frozen.
    """
    inner = unwrap(model)
    tables = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    if tables[1] is not None and tables[0].weight is tables[1].weight:
        tied = {name.rpartition(".")[2] for name, each in inner.named_modules() if each in tables}
        for name in tied & {*lora.also}:
            raise ValueError(
                f"lora.also: {name} is one weight with {', '.join(sorted(tied - {name}))} in this "
                "model, which LoRA would train apart; leave it out"
            )
    frozen = {id(module) for module in tower(model).modules()}
    paths: dict[str, list[str]] = {}  # by last names
    for path, module in inner.named_modules():
        if path and id(module) not in frozen and any(True for _ in module.parameters()):
            paths.setdefault(path.rpartition(".")[2], []).append(path)
    for name in lora.also:
        if name not in paths:
            raise ValueError(
                f"lora.also: no module outside of the vision tower is called {name}"
                + suggestion(name, sorted(paths))
            )
    # Whole paths: peft takes every module whose path ends in these letters, the tower's among them.
    return [path for name in lora.also for path in paths[name]]
