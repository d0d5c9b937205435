"""Which classes a configuration may name: those of xmas, and of packages that the user allows.

A `_target_` is a callable and its arguments, in a file that may come from anywhere: `os.system` is
one too. So a name is checked before anything is imported for it, and the object that it leads to
has to be defined where it is named: `xmas.data.pool.functools.partial` is not of xmas. What is
allowed comes from the command line or the environment, never from a file.
"""

import dataclasses
import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from xmas.cli.config_error import ConfigError

OWN = "xmas"
VARIABLE = "XMAS_ALLOW"  # names of packages, with commas between them
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_PYTHON = {*sys.stdlib_module_names, "builtins"}


def allowed_by_user(
    configured: str | Iterable[str] = (), overrides: Iterable[str] = ()
) -> frozenset[str]:
    """The packages that the user allows, by `allow=` on the command line or in the environment.

    Args:
        configured: `allow` of the composed configuration, a name or a list.
        overrides: of the command line.

    Raises:
        ConfigError: a file sets `allow`, or it names a module of Python itself.
    """
    configured = [configured] if isinstance(configured, str) else list(configured)
    if configured and not any(re.match(r"\+{0,2}allow=", text) for text in overrides):
        raise ConfigError(
            f"allow={','.join(configured)} is set in a file, which could allow itself anything; if "
            "you trust these packages, set it on the command line: "
            f"allow=[{','.join(configured)}]"
        )
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")] + configured
    for name in names:
        if name.partition(".")[0] in _PYTHON:
            raise ConfigError(
                f"allow={name}: {name} is a module of Python, which no configuration needs; allow "
                "only packages with classes for configurations"
            )
    return frozenset(filter(None, names))


def check_names(plain: Any, allowed: Collection[str], place: str = "") -> None:
    """Raise ConfigError for a `_target_` in a resolved node, at any depth, that is not allowed.

    Nothing is imported.
    """
    for where, name in targets(plain, place):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"{where}: {name!r} is not the name of a class; write package.Class")
        if within(name, {OWN, *allowed}):
            continue
        package = name.partition(".")[0]
        remedy = (
            "nothing of Python itself is called from a configuration; do not use this file"
            if package in _PYTHON
            else f"if you wrote {package} or trust its code, add allow={package} to the command or "
            f"set {VARIABLE}={package}"
        )
        raise ConfigError(f"{where}: {name} is no class of xmas; {remedy}")


def targets(plain: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every `_target_` in nested lists and dicts, with its place; of a dict that is there several
    times, the first.
    """
    yield from _targets(plain, place, set())


def _targets(plain: Any, place: str, passed: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(plain, dict) and id(plain) not in passed:
        passed.add(id(plain))
        if "_target_" in plain:
            yield f"{place}._target_".lstrip("."), plain["_target_"]
        for name, value in plain.items():
            yield from _targets(value, f"{place}.{name}".lstrip("."), passed)
    elif isinstance(plain, list):
        for number, value in enumerate(plain):
            yield from _targets(value, f"{place}[{number}]", passed)


def within(name: str, packages: Collection[str]) -> bool:
    """Whether a dotted name is of one of these packages."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@functools.cache
def class_of(name: str, allowed: frozenset[str]) -> Callable[..., Any]:
    """The class that a `_target_` names, or a function of a package that the user allows.

    Raises:
        ConfigError: it does not exist, or is defined elsewhere, as `xmas.cli.targets.os.system` is.
    """
    target = _located(name, allowed)
    module = getattr(target, "__module__", None)
    if not isinstance(module, str) or not within(module, {OWN, *allowed}):
        raise ConfigError(
            f"{name} is defined in {module}, not in {name.partition('.')[0]}; name a class by the "
            "package that defines it"
        )
    if within(module, allowed) and isinstance(target, type | FunctionType):
        return target
    if not (isinstance(target, type) and dataclasses.is_dataclass(target)):
        raise ConfigError(
            f"{name} is not a class for configurations, which are dataclasses; take one that the "
            "files in conf/ name"
        )
    return target


def _located(name: str, allowed: frozenset[str]) -> Any:
    """The object of a dotted name, found without leaving the packages that are allowed."""
    parts = name.split(".")
    target: Any = importlib.import_module(parts[0])
    for number, part in enumerate(parts[1:], start=2):
        path = ".".join(parts[:number])
        if isinstance(target, ModuleType):
            if not within(target.__name__, {OWN, *allowed}):
                raise ConfigError(
                    f"{name} leads out of {parts[0]}, to {target.__name__}; remove it"
                )
            if not hasattr(target, part):
                try:
                    importlib.import_module(path)
                except ModuleNotFoundError as error:
                    if error.name != path:  # a module that it imports
                        raise
        if not isinstance(target, ModuleType | type) or not hasattr(target, part):
            raise ConfigError(f"{name}: there is no class {path}; correct the name")
        target = getattr(target, part)
    return target
