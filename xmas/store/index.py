"""Finished results, found through the configurations that name them.

A result's `meta.json` has its whole history nested in its configuration, and every stage in there
names its own folder by its hash. So the proxy, the clusters and the subset behind a score are found
without asking any stage, and without its code: results of an older version can be shown as well.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xmas.store import Store, digest, read_meta

Config = dict[str, Any]
_NAMED_ONLY = {  # a proxy, for its tokens; it is not fitted
    "Length": "proxy",
    "Subset": "counted",
}


class AbsentError(Exception):
    """A part of a report or table cannot be shown; the message says why and stands in its place."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished result."""

    kind: str
    key: str
    folder: Path
    meta: dict[str, Any]

    @property
    def config(self) -> Config:
        return self.meta["config"]

    @property
    def seconds(self) -> float:
        return float(self.meta["seconds"])

    @property
    def device(self) -> str:
        """What it was computed on."""
        return str(self.meta.get("device", "a device that was not recorded"))

    @property
    def devices(self) -> int:
        return int(self.meta.get("devices", 1))

    @property
    def device_seconds(self) -> float:
        return self.seconds * self.devices


def key_of(config: Config) -> str:
    """The name of the result that a described stage has, as `xmas.store.key` gives it."""
    return digest(config)


def stages_in(config: Any) -> Iterator[Config]:
    """Every described stage in a configuration, itself included: those that have a version.

    Not those that a selector names without computing them, see `_NAMED_ONLY`.
    """
    if isinstance(config, dict):
        if "version" in config and "type" in config:
            yield config
        named_only = _NAMED_ONLY.get(str(config.get("type")))
        for name, held in config.items():
            if name != named_only:
                yield from stages_in(held)
    elif isinstance(config, list):
        for held in config:
            yield from stages_in(held)


class ResultIndex:
    """All finished results of a store, by key."""

    def __init__(self, store: Store) -> None:
        self.results: dict[str, Result] = {}
        for path in sorted(Path(store.root).glob("*/[!.]*/meta.json")):
            meta = read_meta(path)
            folder = path.parent
            self.results[folder.name] = Result(folder.parent.name, folder.name, folder, meta)

    def inside(self, config: Config) -> dict[str, Result]:
        """The results of all stages in a configuration that are there, by key, outermost first."""
        keys = dict.fromkeys(key_of(stage) for stage in stages_in(config))
        return {key: self.results[key] for key in keys if key in self.results}

    def result(self, config: Config, what: str) -> Result:
        """Raises AbsentError: it is not there any more."""
        key = key_of(config)
        if key not in self.results:
            raise AbsentError(f"No longer in the store: {what} {key}.")
        return self.results[key]
