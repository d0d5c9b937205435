"""Weights that are not there are named before any work, with the small model to try instead."""

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from xmas.cli.config import build
from xmas.store import Stage, Store, distributed
from xmas.store.feasible import unfinished

_PLACES = {  # nodes whose weights a command can replace, and the choice that needs none
    "proxy.start": "proxy=small",
    "target.start": "target=small",
    "features.clip.clip": "clip=small",
    "features.questions": None,
}


def check_weights(goal: Stage, store: Store, cfg: DictConfig, allowed: frozenset[str]) -> None:
    """Raise ValueError: `goal` needs published weights that cannot be had; names them all.

    Nothing is downloaded. Rank 0 looks for all.
    """
    if not distributed.leads():
        return
    from xmas.models.hub import NeedsWeights, why_absent

    absent: dict[str, list[str]] = {}  # weights and the keys that name them, by reason
    choices: dict[str, None] = {}
    for stage in unfinished(goal, store):
        if not isinstance(stage, NeedsWeights):
            continue
        places = [*_places_of(stage, cfg, allowed)]
        for field, source in stage.sources().items():
            if (reason := why_absent(source)) is None:
                continue
            keys = ", ".join(_key(place, field) for place in places)
            absent.setdefault(reason, []).append(f"{source.name} ({keys or stage.kind})")
            choices |= dict.fromkeys(filter(None, map(_PLACES.get, places)))
    if absent:
        small = f", or take {' '.join(choices)}, trained on your pool, for trying things out"
        names = "; ".join(f"{' and '.join(named)}: {reason}" for reason, named in absent.items())
        raise ValueError(
            f"weights are not on this machine, {names}. Give a folder with them in the key in "
            f"brackets{small if choices else ''}"
        )


def _places_of(stage: Stage, cfg: DictConfig, allowed: frozenset[str]) -> Iterator[str]:
    """The nodes of the configuration that describe a stage."""
    for place in _PLACES:
        node = OmegaConf.select(cfg, place)
        if OmegaConf.is_dict(node) and "_target_" in node and build(node, allowed) == stage:
            yield place


def _key(place: str, field: str) -> str:
    return "clip" if place == "features.clip.clip" else f"{place}.{field}.name"
