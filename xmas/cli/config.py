"""From a composed configuration to objects: the only place that instantiates."""

import logging
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xmas.cli import resolvers
from xmas.cli.conf_folder import folder
from xmas.cli.config_error import ConfigError
from xmas.cli.goals import GOALS
from xmas.cli.resolved import resolved
from xmas.cli.targets import allowed_by_user, check_names, class_of
from xmas.store import Stage, Store
from xmas.store.integrity import finished_folders
from xmas.store.nearest import hint, nearest, suggestion

log = logging.getLogger(__name__)

# Choices that groups no longer have, and what to take in their place.
REMOVED = {
    "hardware=deepspeed": "hardware=fsdp, which shards weights, gradients and optimizer states",
}


def build(node: DictConfig, allowed: frozenset[str] | None = None) -> Any:
    """Build the object that a node describes; computes nothing and reads no file.

    What several interpolations refer to is one object, which all of them share: stages and their
    parts have to be immutable.

    Args:
        allowed: packages that may be named next to xmas; None: those in the environment.

    Raises:
        ConfigError: a node names a class that may not be built, or its fields do not fit its
            `_target_`; the message says where.
    """
    allowed = allowed_by_user() if allowed is None else allowed
    try:
        plain = resolved(node)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).partition(chr(10))[0]}") from error
    place = node._get_full_key(None)
    check_names(plain, allowed, place)  # all of them before the first is imported
    return _built(plain, allowed, place, {})


def _built(plain: Any, allowed: frozenset[str], place: str, objects: dict[int, Any]) -> Any:
    """Build inner nodes first, and each node once: `objects` has them by the ids of the nodes.

    Hydra's own `instantiate` takes a hundred times as long, most of the time of a job whose results
    are all there, and builds any callable that is installed.
    """
    if isinstance(plain, list):
        return [
            _built(element, allowed, f"{place}[{number}]", objects)
            for number, element in enumerate(plain)
        ]
    if not isinstance(plain, dict):
        return plain
    if id(plain) in objects:
        return objects[id(plain)]
    fields = {
        name: _built(value, allowed, f"{place}.{name}".lstrip("."), objects)
        for name, value in plain.items()
        if name != "_target_"
    }
    if "_target_" not in plain:
        return fields
    try:
        objects[id(plain)] = class_of(plain["_target_"], allowed)(**fields)
    except TypeError as error:
        where = f"{place}: " if place else ""
        raise ConfigError(f"{where}{plain['_target_']}: {error}") from error
    return objects[id(plain)]


def goal_node(cfg: DictConfig) -> DictConfig:
    """The node that `goal=` names. Raises ConfigError for another name, with the nearest one."""
    name = "???" if OmegaConf.is_missing(cfg, "goal") else str(cfg.goal)
    node = OmegaConf.select(cfg, name)
    if OmegaConf.is_dict(node) and "_target_" in node:
        return node
    if name in GOALS and node is not None and not OmegaConf.is_config(node):
        raise ConfigError(
            f"{name}={node} replaces all that makes goal={name}; set a value inside it, as in "
            f"{name}.KEY=VALUE"
        )
    refusal = f"goal={name} names nothing that can be made"
    if inner := _nodes(node):
        raise ConfigError(f"{refusal}. There are {', '.join(f'{name}.{node}' for node in inner)}")
    names = _nodes(cfg)
    for group in cfg:
        names += [f"{group}.{inner}" for inner in _nodes(cfg.get(group))]
    near = nearest(name, [*GOALS, *names])
    raise ConfigError(
        f"{refusal}{hint(near)} There are {', '.join(GOALS)}; "
        "the node of any stage can be named too, such as clusters.trajectories"
    )


def _nodes(parent: Any) -> list[str]:
    """The names in a node under which an object is described."""
    if not OmegaConf.is_dict(parent):
        return []
    plain = OmegaConf.to_container(parent, resolve=False)
    assert isinstance(plain, dict)
    return sorted(
        str(name) for name, node in plain.items() if isinstance(node, dict) and "_target_" in node
    )


def check_kinds(kinds: Iterable[str], needed: Collection[str], store: Store, *, of: str) -> None:
    """Raise ConfigError for a kind in `force=` that a goal cannot need, with the nearest name.

    `needed`: the kinds that are known to be needed. Others that the store has may be asked for
    while one of those is computed.
    """
    for kind in kinds:
        if not needed:
            raise ConfigError(f"force={kind}: goal={of} computes no results; drop force")
        if kind in needed:
            continue
        if finished_folders(Path(store.root), kind):
            log.warning("force=%s: goal=%s asks for it only while it is computed itself", kind, of)
            continue
        raise ConfigError(
            f"force={kind}: goal={of} needs no result of that kind"
            f"{hint(nearest(kind, {*needed, *_kinds()}))} It needs {', '.join(sorted(needed))}"
        )


def _kinds() -> set[str]:
    """The kinds of all stages that have been imported."""
    classes, kinds = [Stage], set()
    while classes:
        classes += (stage := classes.pop()).__subclasses__()
        kinds |= {stage.kind} if hasattr(stage, "kind") else set()
    return kinds


def check_choices(arguments: list[str]) -> None:
    """Raise ConfigError for `group=choice` that the group does not have, with the nearest name.

    Hydra's own error has no suggestion. Groups in the user's `--config-dir` count as well.
    """
    folders = [Path(folder())]
    for place, argument in enumerate(arguments):
        if argument in ("--config-dir", "-cd") and place + 1 < len(arguments):
            folders.append(Path(arguments[place + 1]))
        elif argument.startswith("--config-dir="):
            folders.append(Path(argument.split("=", 1)[1]))
    for argument in arguments:
        group, equals, choices = argument.lstrip("+").partition("=")
        group = group.split("@")[0].lstrip("/")
        names = sorted(path.stem for conf in folders for path in (conf / group).glob("*.yaml"))
        if not equals or not names or group.startswith("hydra/"):  # Hydra itself has more choices
            continue
        for choice in choices.split(","):
            if not choice:
                raise ConfigError(f"{argument} names no choice. There are {', '.join(names)}")
            if choice == "null":
                raise ConfigError(
                    f"{group}=null: a group has a choice or none; leave it out with ~{group}, or "
                    f"name one of {', '.join(names)}"
                )
            if choice in names:
                continue
            if replacement := REMOVED.get(f"{group}={choice}"):
                raise ConfigError(f"{group}={choice} was removed; take {replacement}")
            if group == "pool" and not re.fullmatch(r"[\w-]+", choice):
                raise ConfigError(
                    f"{argument}: pool= names one of {', '.join(names)}; for a file of your own, "
                    "pool=files pool.annotations=FILE pool.images=DIR, for a folder or a dataset, "
                    "pool=files pool.path=FOLDER"
                )
            if re.fullmatch(r"[\w-]+", choice):
                raise ConfigError(
                    f"{group}={choice} does not exist"
                    f"{suggestion(choice, names, form=f'{group}={{}}')}"
                )


def warn_of_demo_values(choices: dict[str, str]) -> None:
    """Warn when the demo's experiment is combined with another pool."""
    demo_pool = choices.get("pool") in resolvers.DEMO_POOLS
    if choices.get("experiment") in ("demo", "smoke") and not demo_pool:
        log.warning(
            "pool=%s with experiment=%s: numbers of clusters, template and budgets are the demo's; "
            "leave experiment= out for those of a pool of your own",
            choices.get("pool"),
            choices.get("experiment"),
        )


resolvers.register()
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked workers would warn
