"""Which models of a result are small ones that were trained on its pool, for trying things out.

`proxy=small`, `clip=small` and `target=small` are no evidence for or against a selector, so a
subset's manifest, the table and the report name them. The demo's are trained on other drawings.
"""

from collections.abc import Iterator
from typing import Any

_CHOICES = {"Proxy": "proxy", "ClipEmbeddings": "clip", "Target": "target"}  # by type
REMARK = "trained on the pool itself, for trying things out"


def small_models(described: dict[str, Any]) -> list[str]:
    """The choices that are small, such as `proxy=small`, in alphabetical order.

    Args:
        described: the identity of a subset or a target, see `store.describe`.
    """
    pools = [ranking["pool"] for ranking in _of_type("Ranking", described)]
    return sorted(
        {
            f"{choice}=small"
            for name, choice in _CHOICES.items()
            for model in _of_type(name, described)
            if any(towers["captions"] in pools for towers in _of_type("TwoTower", _own(model)))
        }
    )


def _own(model: dict[str, Any]) -> dict[str, Any]:
    """A model without the subset that it is trained on, whose selector has its own models."""
    return {name: value for name, value in model.items() if name != "subset"}


def _of_type(name: str, described: Any) -> Iterator[dict[str, Any]]:
    """What has a type, at any depth; nothing is looked for inside it."""
    if isinstance(described, dict):
        if described.get("type") == name:
            yield described
            return
        described = [*described.values()]
    if isinstance(described, list):
        for value in described:
            yield from _of_type(name, value)
