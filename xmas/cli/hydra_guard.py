"""Check what Hydra itself builds from a configuration: plugins, callbacks and logging.

Hydra acts on its own node of the composed configuration before the command gets it, and callbacks
and logging may name any callable. So the check is where Hydra composes.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

from xmas.cli.config_error import ConfigError
from xmas.cli.targets import allowed_by_user, class_of, targets, within

_PLUGINS = ("hydra.launcher._target_", "hydra.sweeper._target_")  # Hydra takes plugins alone
_LOGGING = re.compile(
    r"logging\.(handlers\.)?\w+(Handler|Formatter|Filter)|colorlog\.\w+Formatter"
    r"|xmas\.store\.printable\.Formatter"
)
_CALLED = ("class", "()")  # keys of `logging.config.dictConfig`


@functools.cache
def guard() -> None:
    """Have every configuration checked that Hydra composes in this process."""
    compose = ConfigLoaderImpl.load_configuration

    @functools.wraps(compose)
    def checked(self: Any, config_name: Any, overrides: list[str], *args: Any, **more: Any) -> Any:
        cfg = compose(self, config_name, overrides, *args, **more)
        check(cfg.hydra, allowed_by_user(cfg.get("allow") or (), overrides))
        return cfg

    ConfigLoaderImpl.load_configuration = checked


def check(node: DictConfig, allowed: frozenset[str]) -> None:
    """Raise ConfigError if Hydra's node names a callable that is no plugin and is not allowed."""
    plain = OmegaConf.to_container(node, resolve=False)
    assert isinstance(plain, dict)
    for place, name in targets(plain, "hydra"):
        if place not in _PLUGINS:
            _check(place, name, allowed, "a plugin of Hydra")
    for part in ("hydra_logging", "job_logging"):
        for place, name in _called_by_logging(plain[part], f"hydra.{part}"):
            if not _LOGGING.fullmatch(str(name)):
                _check(place, name, allowed, "a handler, formatter or filter of Python's logging")


def _check(place: str, name: object, allowed: frozenset[str], expected: str) -> None:
    if not within(str(name), allowed):
        raise ConfigError(
            f"{place}: {name} is not {expected}; remove it, or if you trust its package, add "
            f"allow={str(name).partition('.')[0]} to the command"
        )
    class_of(str(name), allowed)


def _called_by_logging(plain: Any, place: str) -> Iterator[tuple[str, Any]]:
    """What `logging.config.dictConfig` would call, with its place."""
    if not isinstance(plain, dict):
        return
    for name, value in plain.items():
        if name in _CALLED:
            yield f"{place}.{name}", value
        yield from _called_by_logging(value, f"{place}.{name}")
