"""The choices of every configuration group, and how a test takes them."""

import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_method
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from xmas.cli.config import folder

CONF = Path(folder())
GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"}
CHOICES = sorted(
    (group, path.stem)
    for group in [*GROUPS, "target/recipe"]
    for path in (CONF / group).glob("*.yaml")
)
SELECTORS = [name for group, name in CHOICES if group == "selector"]
EVERY_SELECTOR = [f"+selector@every.{name}={name}" for name in SELECTORS]  # all at once
FILES = ["pool.annotations=/dev/null", "pool.images=."]  # what `pool=files` asks for


def is_alone(group: str, name: str) -> bool:
    """Whether a choice excludes the others of its group: it sets values of the whole
    configuration, or refers to its own by where they are.
    """
    text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
    whole = text.startswith("# @package _global_")
    return whole or group in ("target", "target/recipe", "projector")


def choice(group: str, name: str) -> list[str]:
    """The overrides that take a choice in the place of its group."""
    places = {
        "projector": ["target=llava15_7b", f"projector@target.start.projector={name}"],
        "target/recipe": ["target=llava15_7b", f"target/recipe={name}"],
        "pool": [f"pool={name}", *(FILES if name == "files" else [])],
    }
    if name == "auto" and group in ("proxy", "target"):
        return [f"{group}=auto", f"{group}.model=owner/name"]
    return places.get(group, [f"{group}={name}"])


def place_of(group: str, name: str) -> str:
    """A node beside those of the group, for all choices of a group at once."""
    nodes = {"benchmark": "suite", "features": "features", "clusters": "clusters"}
    return f"{nodes.get(group, f'every.{group}')}.{name}_too"


def targets(node: DictConfig | ListConfig, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node that names a target, innermost first, with its place.

    All values are resolved. What an interpolation gives is entered where it stands, not here too.
    """
    content = node._content if isinstance(node, DictConfig) else dict(enumerate(node._content))
    for name, inner in content.items():
        if inner._is_interpolation():
            value_of(node, name)
        elif isinstance(inner, DictConfig | ListConfig):
            yield from targets(inner, f"{path}.{name}".lstrip("."))
    if isinstance(node, DictConfig) and "_target_" in content:
        yield path, node


def value_of(node: DictConfig | ListConfig, name: str | int) -> Any:
    """A value, resolved; None where it, or the one that it is taken from, has yet to be given."""
    try:
        return node[name]
    except (MissingMandatoryValue, InterpolationToMissingValueError):
        return None


@functools.cache
def signature_of(target: str) -> inspect.Signature:
    """That of what a dotted path names, which many configurations name."""
    return inspect.signature(get_method(target))


def bind(cfg: DictConfig) -> list[str]:
    """The places of all targets; fails where one does not take the values of its node."""
    found = dict(targets(cfg))
    for place, node in found.items():
        given = {name: None for name in node if not name.startswith("_")}
        try:
            signature_of(node["_target_"]).bind(**given)
        except TypeError as error:
            pytest.fail(f"{place}: {node['_target_']}: {error}")
    return [*found]
