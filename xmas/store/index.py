"""The index of a store's finished results: what each was made from.

A result's `meta.json` names the results that its computation asked the store for, so everything
that a score was made from is found without the stages' code: results of other versions of the
package can be shown as well.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from xmas.store.former_records import move_scan_seconds, nested_stages, stages_of_fields
from xmas.store.integrity import check, finished_folders, meta_of
from xmas.store.stage import digest
from xmas.store.store import Store

Config = dict[str, Any]


class AbsentError(Exception):
    """A part of a report or table cannot be shown; the message says why and is shown instead."""


class EmptyError(AbsentError):
    """There is nothing of its kind to show: a section of nothing else is left out."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished result."""

    kind: str
    key: str
    folder: Path
    meta: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Result":
        """Raises DamagedResultError: `meta.json` is lost or is not what was written."""
        return cls(folder.parent.name, folder.name, folder, meta_of(folder))

    def file(self, name: str) -> Path:
        """One of its files, to be read. Raises DamagedResultError: it is not what was written."""
        check(self.folder, name)
        return self.folder / name

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

    @property
    def recorded(self) -> bool:
        """Whether it says what its computation asked for; results of former versions do not."""
        return "inputs" in self.meta

    @functools.cached_property
    def inputs(self) -> list[str]:
        """The keys of the results that its computation asked the store for."""
        if self.recorded:
            return [name.rpartition("/")[2] for name in self.meta["inputs"]]
        return [key_of(stage) for stage in stages_of_fields(self.config)]


def key_of(config: Config) -> str:
    """The name of the result that a described stage has, as `xmas.store.key` gives it."""
    return digest(config)


def stages_in(config: Any) -> Iterator[Config]:
    """Every described stage in a configuration, itself included, whether it was computed or not."""
    if isinstance(config, dict):
        if "version" in config and "type" in config:
            yield config
        for value in config.values():
            yield from stages_in(value)
    elif isinstance(config, list):
        for element in config:
            yield from stages_in(element)


class ResultIndex:
    """All finished results of a store, by key."""

    def __init__(self, store: Store) -> None:
        metas = {folder: meta_of(folder) for folder in finished_folders(Path(store.root))}
        move_scan_seconds(metas)
        self.results = {
            folder.name: Result(folder.parent.name, folder.name, folder, meta)
            for folder, meta in metas.items()
        }

    @classmethod
    def of(cls, results: Iterable[Result]) -> "ResultIndex":
        """An index of these results, of a store whose other records may be unreadable."""
        index = cls.__new__(cls)
        index.results = {result.key: result for result in results}
        return index

    def inside(self, config: Any) -> dict[str, Result]:
        """What the nearest stages in a configuration were made from, themselves first, by key.

        A stage whose result is gone is passed through by its configuration.
        """
        stages = list(nested_stages(config))
        return self.made_from(map(self._key_of, stages), described=stages)

    def made_from(
        self, keys: Iterable[str], *, described: Iterable[Config] = ()
    ) -> dict[str, Result]:
        """These results and all that they were made from, by key, outermost first.

        `described`: configurations in which the inputs of results that are gone are looked up.
        """
        configs: dict[str, Config] | None = None  # only where a result is gone
        results: dict[str, Result] = {}
        visited: set[str] = set()
        pending = list(keys)[::-1]
        while pending:
            key = pending.pop()
            if key in visited:
                continue
            visited.add(key)
            if key in self.results:
                results[key] = self.results[key]
                pending += self.results[key].inputs[::-1]
                continue
            if configs is None:
                stages = (stage for root in described for stage in stages_in(root))
                configs = {self._key_of(stage): stage for stage in stages}
            if key in configs:
                pending += [*map(self._key_of, stages_of_fields(configs[key]))][::-1]
        return results

    def result(self, config: Config, what: str) -> Result:
        """Raises AbsentError: it is not there any more."""
        key = self._key_of(config)
        if key not in self.results:
            raise AbsentError(f"No longer in the store: {what} {key}.")
        return self.results[key]

    def _key_of(self, config: Config) -> str:
        """As `key_of`; a page asks a dozen times for the key of the same configuration."""
        if id(config) not in self._keys:
            self._keys[id(config)] = config, key_of(config)
        return self._keys[id(config)][1]

    @functools.cached_property
    def _keys(self) -> dict[int, tuple[Config, str]]:
        """Keys by the configuration's `id`, which is kept, so that no other one gets its number."""
        return {}
