"""Hydra's files and overrides, each read once a session."""

import copy
import dataclasses
import functools
import re
from typing import Any, ClassVar

import omegaconf.base
import omegaconf.grammar_parser
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import Container, OmegaConf
from omegaconf.errors import OmegaConfBaseException

INSTALLED = ("main", "hydra")  # who provides files that no test writes: this package and Hydra
_PLACE = re.compile(r"\$\{([a-zA-Z_][\w.]*)\}")


@dataclasses.dataclass
class Parsed(ConfigResult):
    """A file with its nodes, which nobody changes, and the same as a dictionary."""

    plain: Any = None
    installed: bool = False


class Defaults(list):
    """A list of defaults; what comes into a tree is a copy of each, whose fields are plain."""

    def __deepcopy__(self, memo: dict[int, Any]) -> list:
        return [copy.copy(default) for default in self]


class ParsedOnce(ConfigRepository):
    """Hydra's, but files that are installed are found and parsed once a session."""

    parsed: ClassVar[dict[str, Parsed]] = {}
    places: ClassVar[dict[tuple, bool]] = {}

    def load_config(self, config_path: str) -> Any:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        file = f"{source.path}/{config_path}" if source else ""
        if file in self.parsed:
            return self.parsed[file]
        result = super().load_config(config_path)
        if source is None or result is None:
            return None
        fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
        fields["defaults_list"] = Defaults(result.defaults_list or ())
        plain = OmegaConf.to_container(result.config, resolve=False)
        installed = source.provider in INSTALLED or config_path.startswith("hydra/")
        parsed = Parsed(**fields, plain=plain, installed=installed)
        if installed:
            self.parsed[file] = parsed
        return parsed

    def _find_object_source(
        self, config_path: str, object_type: ObjectType | None
    ) -> ConfigSource | None:
        return next((one for one in self.sources if self._has(one, config_path, object_type)), None)

    def _has(self, source: ConfigSource, config_path: str, object_type: ObjectType | None) -> bool:
        look = source.is_config if object_type == ObjectType.CONFIG else source.is_group
        if source.provider not in INSTALLED:
            return look(config_path)
        place = source.path, config_path, object_type
        if place not in self.places:
            self.places[place] = look(config_path)
        return self.places[place]

    def __deepcopy__(self, memo: dict[int, Any]) -> "ParsedOnce":
        """Each composition has a copy, in which it may put other sources but changes none."""
        return copy.copy(self)


def parse_once() -> None:
    """Keep what the grammars make of a text, interpolation or override, which nothing changes; of
    an interpolation of a node its place, where the tree of the grammar need not be gone through.
    """

    @functools.lru_cache(maxsize=4096)
    def interpolation(text: str) -> Any:
        tree, place = omegaconf.grammar_parser.parse(text), _PLACE.fullmatch(text)
        tree.place = place and place[1]
        return tree

    resolve = Container.resolve_parse_tree

    def resolve_parse_tree(self: Container, parse_tree: Any, *given: Any, **options: Any) -> Any:
        if parse_tree.place is None:
            return resolve(self, parse_tree, *given, **options)
        try:
            return self._resolve_node_interpolation(parse_tree.place, options.get("memo"))
        except OmegaConfBaseException:
            return resolve(self, parse_tree, *given, **options)  # says what is wrong

    parse, parser = OverridesParser.parse_rule, OverridesParser.create()
    override = functools.lru_cache(maxsize=4096)(lambda text: parse(parser, text, "override"))

    def parse_rule(self: OverridesParser, s: str, rule_name: str) -> Any:
        return copy.copy(override(s)) if rule_name == "override" else parse(self, s, rule_name)

    omegaconf.base.parse = interpolation
    Container.resolve_parse_tree = resolve_parse_tree
    OverridesParser.parse_rule = parse_rule
