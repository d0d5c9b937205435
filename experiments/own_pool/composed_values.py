"""The values that `pool=files` composes for every selector, next to the published ones.

    python experiments/own_pool/composed_values.py > experiments/own_pool/composed_values.md

`published_values.csv` has the published values with their sources, and where ours is another one,
ours and the reason. Nothing is read but the configuration.
"""

import argparse
import csv
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from omegaconf import DictConfig, OmegaConf

from xmas.cli.config import folder

FILE = Path(__file__).with_name("published_values.csv")
_KINDS = {  # the last part of a `_target_`, in the file's words
    "LastLayer": "last_layer",
    "ClipRows": "clip_rows",
    "Proxy": "proxy",
    "Target": "target",
    "Unfitted": "unfitted",
    "Clusters": "questions",
    "Column": "column",
}


HEAD = """\
# What `xmas pool=files selector=NAME` composes, and what is published

Made by `composed_values.py` from `published_values.csv`; `tests/test_own_pool.py` compares both.
Numbers of clusters are at most the published ones: a pool of few rows gets one cluster for every 39
rows, the fewest with which FAISS trains a centroid without a warning (`rows_per_cluster`).

| selector | setting | published | `pool=files` | source; why ours is another |
|---|---|---|---|---|
"""


class Value(NamedTuple):
    """A line of the file; `ours` is the published value where the file says nothing else."""

    selector: str
    setting: str
    published: Any
    source: str
    ours: Any
    why: str


def parsed(cell: str) -> Any:
    """A cell as JSON, or as the text that it is."""
    try:
        return json.loads(cell)
    except json.JSONDecodeError:
        return cell


def published_values() -> Iterator[Value]:
    with FILE.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            published = parsed(line["published"])
            ours = parsed(line["ours"]) if line["why"] else published
            why, source = line["why"], line["source"]
            yield Value(line["selector"], line["setting"], published, source, ours, why)


@functools.cache
def compose(selector: str) -> DictConfig:
    """The configuration of `xmas pool=files selector=SELECTOR` without further words."""
    with hydra.initialize_config_dir(folder(), version_base="1.3"):
        return hydra.compose("config", ["pool=files", f"selector={selector}"])


def composed(cfg: DictConfig, setting: str) -> Any:
    """A value of the configuration; of a rule for clusters its maximum, of an object its kind."""
    value = OmegaConf.select(cfg, setting)
    if not OmegaConf.is_config(value):
        return value
    plain: Any = OmegaConf.to_container(value, resolve=True)
    if not isinstance(plain, dict):
        return plain
    if "most" in plain:
        return plain["most"]
    return _KINDS[plain["_target_"].rpartition(".")[2]]


def is_bounded(cfg: DictConfig, setting: str) -> bool:
    """Whether a setting is a rule that a pool of few rows lowers."""
    node = OmegaConf.select(cfg, setting)
    return OmegaConf.is_dict(node) and "rows_each" in node


def shown(value: Any) -> str:
    """A value as one writes it on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def page(compose: Callable[[str], DictConfig]) -> Iterator[str]:
    """The lines of `composed_values.md`; `compose` gives the configuration of a selector."""
    yield from HEAD.splitlines()
    for value in published_values():
        named = value.selector if " " not in value.selector else "random"
        cfg = compose(named)
        actual = composed(cfg, value.setting) if value.setting else ""
        cells = [value.selector, value.setting, shown(value.published), shown(actual)]
        if is_bounded(cfg, value.setting):
            cells[3] += " at most"
        reason = f"{value.source}. Ours: {value.why}" if value.why else value.source
        yield f"| {' | '.join([*cells, reason])} |"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--tiny", action="store_true", help="the page's first lines alone")
    tiny = options.parse_args().tiny
    for number, line in enumerate(page(compose)):
        if tiny and number > 9:
            break
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
