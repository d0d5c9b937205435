"""A node of a configuration as plain data, in which nodes that several places refer to are one."""

from typing import Any

from omegaconf import Container, DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException


def resolved(node: Container) -> Any:
    """What `OmegaConf.to_container(node, resolve=True)` gives, of each node the same object.

    The demo's scores have 3,700 nodes in all, of which 380 are different: the pool is at forty
    places.

    Raises OmegaConfBaseException: an interpolation leads nowhere; says where it is.
    """
    try:
        return _plain(node, {})
    except OmegaConfBaseException:
        return OmegaConf.to_container(node, resolve=True)  # whose error has the whole place


def _plain(node: Node, plain: dict[int, tuple[Node, Any]]) -> Any:
    """`plain`: of each node by its id, with the node, whose id may be another's when it is gone."""
    node = node._dereference_node()
    if not isinstance(node, Container) or node._is_none() or node._is_missing():
        return node._value()
    if id(node) not in plain:
        content: Any = node._content
        if isinstance(node, DictConfig):
            entries: Any = {name: _plain(inner, plain) for name, inner in content.items()}
        else:
            entries = [_plain(inner, plain) for inner in content]
        plain[id(node)] = node, entries
    return plain[id(node)][1]
