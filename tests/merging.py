"""Merges of dictionaries, as OmegaConf merges nodes, and OmegaConf's nodes of a dictionary.

A merge of nodes copies, checks and places every one of them, a hundred times the work.
"""

import collections
import re
from typing import Any

from omegaconf import AnyNode, DictConfig, ListConfig
from omegaconf._utils import split_key
from omegaconf.base import Node

_PLACE = re.compile(r"\$\{(\w[\w.@-]*)\}")  # an interpolation of the node in a place


class UnsettledError(Exception):
    """Only a merge of nodes gives the result, or says what is wrong."""


def merge(root: dict[str, Any], into: dict[str, Any], new: dict[str, Any]) -> None:
    """Merge values into a dictionary that `root` contains, or is; `new` is not changed or kept.

    Raises UnsettledError: a list meets a dictionary, or an interpolation that has to be resolved.
    """
    for name, value in new.items():
        former = into.get(name)
        if isinstance(value, dict | list) and isinstance(former, str) and "${" in former:
            target = target_of(root, former)
            if isinstance(target, dict | list):  # values are added to a copy of it
                into[name] = former = copied(target)
        if isinstance(former, dict) and isinstance(value, dict):
            merge(root, former, value)
        elif isinstance(former, dict | list) and isinstance(value, dict | list):
            if type(former) is not type(value):
                raise UnsettledError
            into[name] = copied(value)
        elif value != "???" or name not in into:
            into[name] = copied(value)
        elif isinstance(former, str) and "${" in former:
            raise UnsettledError


def copied(value: Any) -> Any:
    """A copy with its own dictionaries and lists."""
    if isinstance(value, dict):
        return {name: copied(inner) for name, inner in value.items()}
    return [copied(inner) for inner in value] if isinstance(value, list) else value


def was_set(root: dict[str, Any], place: str, value: Any) -> bool:
    """Whether a value is in its place now: that is there, no interpolation leads to it, the value
    is none, and no dictionaries are merged.
    """
    *names, last = split_key(place)
    node: Any = root
    for name in names:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node:
        return False
    if "${" in str(value) or (isinstance(node[last], dict | list) and not isinstance(value, list)):
        return False
    if isinstance(node[last], dict):
        return False
    node[last] = copied(value)
    return True


def target_of(root: dict[str, Any], text: str) -> Any:
    """What an interpolation leads to: a node or a text; None where there is nothing yet.

    Raises UnsettledError: it is not the place of a node.
    """
    if not (text.startswith("${") and text.endswith("}")):
        return text
    place = _PLACE.fullmatch(text)
    if place is None:
        raise UnsettledError
    node: Any = root
    for name in place[1].split("."):
        if not isinstance(node, dict):
            raise UnsettledError
        node = node.get(name)
        if isinstance(node, str) and "${" in node:
            node = target_of(root, node)
    return node


def fields_of(node: Node) -> tuple[type, type, dict[str, Any]]:
    """The type of a node, and the type and the values of its metadata."""
    return type(node), type(node._metadata), vars(node._metadata)


_OF_DICT, _OF_LIST, _OF_VALUE = map(fields_of, (DictConfig({}), ListConfig([]), AnyNode(None)))


def nodes(value: Any, key: Any = None, parent: Node | None = None) -> Any:
    """The nodes of a dictionary, a list or a value, as OmegaConf makes them of a file."""
    kind, metadata_kind, fields = (
        _OF_DICT if isinstance(value, dict) else _OF_LIST if isinstance(value, list) else _OF_VALUE
    )
    node, metadata = kind.__new__(kind), metadata_kind.__new__(metadata_kind)
    vars(metadata).update(fields, key=key, flags={}, resolver_cache=collections.defaultdict(dict))
    vars(node).update(_metadata=metadata, _parent=parent, _flags_cache=None)
    if isinstance(value, dict):
        vars(node)["_content"] = {name: nodes(inner, name, node) for name, inner in value.items()}
    elif isinstance(value, list):
        vars(node)["_content"] = [nodes(inner, place, node) for place, inner in enumerate(value)]
    else:
        vars(node)["_val"] = value
    return node
