"""Hydra's compositions of the package's configuration, at a fraction of their seconds.

Most of the time of one goes into reading and placing the same files again, into parsing the same
interpolations, into maps for those in lists of defaults that have none, and into setting the
parents of all nodes after every merged file.
"""

import contextlib
import copy
import dataclasses
import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import hydra
import omegaconf.base
import omegaconf.grammar_parser
from hydra import version
from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.base import Box

from xmas.cli.config import folder

INSTALLED = ("main", "hydra")  # who provides files that no test writes: this package and Hydra
_embedded: dict[tuple[str, str, str], bytes] = {}
_until_the_end = contextlib.ExitStack()


class ParsedOnce(ConfigRepository):
    """Hydra's, but files that are installed are parsed once a session, not once a composition."""

    parsed: ClassVar[dict[str, bytes]] = {}

    def load_config(self, config_path: str) -> Any:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.provider not in INSTALLED:
            return super().load_config(config_path)
        file = f"{source.path}/{config_path}"
        if file not in self.parsed:
            parsed = super().load_config(config_path)
            self.parsed[file] = pickle.dumps(parsed and dataclasses.replace(parsed, path=file))
        return pickle.loads(self.parsed[file])

    def __deepcopy__(self, memo: dict[int, Any]) -> "ParsedOnce":
        """Each composition has a copy, in which it may put other sources but changes none."""
        return copy.copy(self)


def parse_interpolations_once() -> None:
    """Keep what the grammar makes of a text, which nothing changes."""
    omegaconf.base.parse = functools.lru_cache(maxsize=4096)(omegaconf.grammar_parser.parse)


def _placed(result: ConfigResult, package: str) -> bytes:
    """The nodes of a file at their place in a configuration, pickled."""
    cfg = OmegaConf.create(flags={"no_deepcopy_set_nodes": True})
    OmegaConf.update(cfg, package, pickle.loads(pickle.dumps(result.config)), merge=False)
    return pickle.dumps(cfg)


def embed_once(result: ConfigResult, package_override: str | None) -> ConfigResult:
    """Hydra's `_embed_result_config`; a file that is installed is placed once a session."""
    package = result.header["package"] if package_override is None else package_override
    if not package:
        return result
    if result.provider not in INSTALLED:
        return dataclasses.replace(result, config=pickle.loads(_placed(result, package)))
    place = result.provider, result.path, package
    if place not in _embedded:
        _embedded[place] = _placed(result, package)
    return dataclasses.replace(result, config=pickle.loads(_embedded[place]))


@contextlib.contextmanager
def quick_merges() -> Iterator[None]:
    """Build no map that nothing reads, set the parents of nodes once, after all merges, place a
    file's nodes once, and compare Hydra's own versions once."""
    interpolation_map, at_least = defaults_list._create_interpolation_map, version.base_at_least
    merge, re_parent = ConfigLoaderImpl._compose_config_from_defaults_list, Box._re_parent
    embed = ConfigLoaderImpl._embed_result_config

    def map_if_read(overrides: Any, defaults: list, self_added: bool) -> DictConfig | None:
        """Of the choices of groups alone: no file refers to another by its place in a list."""
        read = any(not each.is_self() and each.is_interpolation() for each in defaults)
        return OmegaConf.create(overrides.known_choices) if read else None

    def merge_all(self: ConfigLoaderImpl, *given: Any, **options: Any) -> DictConfig:
        Box._re_parent = lambda self: None
        try:
            cfg = merge(self, *given, **options)
        finally:
            Box._re_parent = re_parent
        cfg._re_parent()
        return cfg

    version.base_at_least = functools.cache(at_least)
    defaults_list._create_interpolation_map = map_if_read
    ConfigLoaderImpl._embed_result_config = staticmethod(embed_once)
    ConfigLoaderImpl._compose_config_from_defaults_list = merge_all
    try:
        yield
    finally:
        version.base_at_least = at_least
        defaults_list._create_interpolation_map = interpolation_map
        ConfigLoaderImpl._compose_config_from_defaults_list = merge
        ConfigLoaderImpl._embed_result_config = staticmethod(embed)


def quick_commands(*overrides: str) -> None:
    """Have all commands of this process and its forks compose like tests do.

    Files that the demo has are parsed here, and those of `overrides`.
    """
    config_loader_impl.ConfigRepository = ParsedOnce
    _until_the_end.enter_context(quick_merges())  # which a name holds, or it would end at once
    parse_interpolations_once()
    with hydra.initialize_config_dir(folder(), version_base="1.3"):
        for choices in ([], list(overrides)):
            hydra.compose("config", choices, return_hydra_config=True)


@contextlib.contextmanager
def compositions() -> Iterator[Callable[..., DictConfig]]:
    """A function of overrides that gives the configuration, as the fixture `compose` says it."""
    parse_interpolations_once()
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
        def merged(*choices: str, hydra_node: bool) -> bytes:
            with quick_merges():
                return pickle.dumps(
                    hydra.compose("config", list(choices), return_hydra_config=hydra_node)
                )

        @functools.lru_cache(maxsize=64)  # each is ten thousand objects
        def composed(*overrides: str, hydra_node: bool = False) -> DictConfig:
            parsed = parser.parse_overrides(list(overrides))
            values = [] if hydra_node else list(filter(sets_a_value, parsed))  # the node lists them
            choices = [override.input_line for override in parsed if override not in values]
            cfg = pickle.loads(merged(*choices, hydra_node=hydra_node))
            ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
            OmegaConf.set_readonly(cfg, True)  # the next test reads the same object
            return cfg

        yield composed
