"""Hydra's compositions of the package's configuration, at a fraction of their seconds.

Files are read once a session and merged as dictionaries, of which nodes are made in the end.
Hydra's own nodes, which have types, are merged by Hydra, once for the same files; so is what a
merge of dictionaries does not settle.
"""

import contextlib
import copy
import dataclasses
import functools
import types
from collections.abc import Callable, Iterator
from pickle import dumps, loads
from typing import Any

import hydra.core.utils
from hydra import version
from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra.core.default_element import GroupDefault, ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from merging import UnsettledError, copied, merge, nodes, was_set
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import split_key
from parsed import Parsed, ParsedOnce, parse_once

from xmas.cli.config import folder

SEARCHPATH = "hydra.searchpath"  # of Hydra's own settings the one that other nodes depend on

_merge_nodes = ConfigLoaderImpl._compose_config_from_defaults_list
_hydra_s: dict[tuple, bytes] = {}
_until_the_end = contextlib.ExitStack()


class Copies:
    """Files with nodes that may be moved; of those in `of_hydra` only the one that is Hydra's."""

    def __init__(self, repo: IConfigRepository, of_hydra: set[str | None]) -> None:
        self.get_schema_source = repo.get_schema_source
        self._repo, self._of_hydra = repo, of_hydra

    def load_config(self, config_path: str) -> ConfigResult | None:
        result = self._repo.load_config(config_path)
        assert result is not None
        config = copy.deepcopy(result.config)
        if config_path in self._of_hydra:
            config = OmegaConf.masked_copy(config, "hydra")
        return dataclasses.replace(result, config=config)


def package_of(default: ResultDefault, file: Parsed) -> list[str]:
    """The place of a file's nodes in the configuration."""
    package = file.header["package"] if default.package is None else default.package
    return split_key(package) if package else []


def merged(defaults: list[ResultDefault], repo: IConfigRepository) -> dict[str, Any]:
    """The files of a list of defaults as one dictionary, without Hydra's own nodes."""
    root: dict[str, Any] = {}
    for default in defaults:
        file: Any = repo.load_config(str(default.config_path))
        package, plain = package_of(default, file), file.plain
        if package[:1] == ["hydra"]:
            continue
        if not package:
            plain = {name: value for name, value in plain.items() if name != "hydra"}
        for name in reversed(package):
            plain = {name: plain}
        merge(root, root, plain)
    return root


def hydra_s_node(
    loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository
) -> DictConfig:
    """A configuration with Hydra's own node, merged by Hydra of the files that have parts of it."""
    parts, others, installed = [], set(), True
    for default in defaults:
        file: Any = repo.load_config(str(default.config_path))
        package = package_of(default, file)
        if package[:1] == ["hydra"] or (not package and "hydra" in file.plain):
            parts.append(default)
            installed = installed and file.installed
            others |= set() if package else {default.config_path}
    files = tuple((part.config_path, part.package) for part in parts)
    if files in _hydra_s and installed:
        return loads(_hydra_s[files])
    cfg = _merge_nodes(loader, parts, Copies(repo, others))
    if installed:
        _hydra_s[files] = dumps(cfg)
    return cfg


def compose_from_defaults(
    self: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository
) -> DictConfig:
    """Hydra's `_compose_config_from_defaults_list`."""
    try:
        plain = merged(defaults, repo)
    except UnsettledError:
        return _merge_nodes(self, defaults, Copies(repo, set()))
    cfg = hydra_s_node(self, defaults, repo)
    vars(cfg)["_content"].update((name, nodes(value, name, cfg)) for name, value in plain.items())
    return cfg


def sets(override: Override, root: dict[str, Any]) -> bool:
    """Whether a change of a value that is there was made in a dictionary."""
    is_change = override.type == OverrideType.CHANGE
    return is_change and was_set(root, override.key_or_group, override.value())


def map_if_read(overrides: Any, defaults: list, self_added: bool) -> DictConfig | None:
    """A map of the choices of groups alone: no file refers to another by its place in a list."""
    read = any(not each.is_self() and each.is_interpolation() for each in defaults)
    return OmegaConf.create(overrides.known_choices) if read else None


def is_interpolation(self: GroupDefault) -> bool:
    """Hydra's method, without a node of each name."""
    return isinstance(self.value, str) and "${" in self.value


@contextlib.contextmanager
def quick_merges() -> Iterator[None]:
    """Merge dictionaries, build no map that nothing reads, compare Hydra's own versions once."""
    quick = (
        (version, "base_at_least", functools.cache(version.base_at_least)),
        (GroupDefault, "is_interpolation", is_interpolation),
        (defaults_list, "_create_interpolation_map", map_if_read),
        (ConfigLoaderImpl, "_compose_config_from_defaults_list", compose_from_defaults),
    )
    former = [getattr(owner, name) for owner, name, _ in quick]
    for owner, name, function in quick:
        setattr(owner, name, function)
    try:
        yield
    finally:
        for (owner, name, _), function in zip(quick, former, strict=True):
            setattr(owner, name, function)


def quick_commands(*overrides: str) -> None:
    """Have all commands of this process and its forks compose like tests do.

    Files that the demo has are parsed here, and those of `overrides`. Each job's two copies of its
    configuration are pickle's.
    """
    config_loader_impl.ConfigRepository = ParsedOnce
    hydra.core.utils.copy = types.SimpleNamespace(deepcopy=lambda cfg: loads(dumps(cfg)))
    _until_the_end.enter_context(quick_merges())  # which a name holds, or it would end at once
    parse_once()
    with hydra.initialize_config_dir(folder(), version_base="1.3"):
        for choices in ([], list(overrides)):
            hydra.compose("config", choices, return_hydra_config=True)


@contextlib.contextmanager
def compositions() -> Iterator[Callable[..., DictConfig]]:
    """A function of overrides that gives the configuration, as the fixture `compose` says it."""
    parse_once()
    with hydra.initialize_config_dir(folder(), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        loader.repository = ParsedOnce(loader.config_search_path)
        parser = OverridesParser.create()

        def sets_a_value(override: Override) -> bool:
            """Whether no file is read for it, and nothing of Hydra's own is changed."""
            others = override.package, override.is_delete(), override.is_sweep_override()
            name = override.key_or_group
            return not (
                any(others) or name.startswith("hydra.") or loader.repository.group_exists(name)
            )

        @functools.cache
        def plain(*choices: str) -> tuple[dict[str, Any], list[Override]]:
            """The files of the choices as one dictionary, and the choices that change a value.

            Raises UnsettledError: nodes have to be merged.
            """
            parsed, repo = loader._parse_overrides_and_create_caching_repo("config", list(choices))
            loader.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=False)
            made = defaults_list.create_defaults_list(
                repo, "config", parsed, prepend_hydra=True, skip_missing=False
            )
            changes = [one for one in made.config_overrides if one.key_or_group != SEARCHPATH]
            if any(change.is_hydra_override() for change in changes):
                raise UnsettledError
            return merged(made.defaults, repo), changes

        @functools.lru_cache(maxsize=64)  # each is ten thousand objects
        def composed(*overrides: str, hydra_node: bool = False) -> DictConfig:
            parsed = parser.parse_overrides(list(overrides))
            values = [] if hydra_node else list(filter(sets_a_value, parsed))  # the node lists them
            choices = [override.input_line for override in parsed if override not in values]
            with quick_merges():
                try:
                    if hydra_node:
                        raise UnsettledError
                    files, changes = plain(*choices)
                except UnsettledError:
                    cfg = hydra.compose("config", choices, return_hydra_config=hydra_node)
                else:
                    values = [*changes, *values]
                    root = copied(files)
                    while values and sets(values[0], root):
                        values = values[1:]
                    cfg = nodes(root)
                    OmegaConf.set_struct(cfg, True)
                ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
            OmegaConf.set_readonly(cfg, True)  # the next test reads the same object
            return cfg

        yield composed
