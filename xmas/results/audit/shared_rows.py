"""Rows that a subset shares with others in its store, those of other seeds first."""

import json
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from xmas.results.leaderboard_rows import short
from xmas.results.score_records import leaves
from xmas.selection.subset import Subset
from xmas.store import Store, describe, key
from xmas.store.index import Config
from xmas.store.integrity import check

_SHOWN = 6  # subsets in the sentence


def shared_rows(subset: Subset, chosen: Int[np.ndarray, " chosen"], store: Store) -> Iterator[str]:
    """A sentence on the subsets of the same pool and size; nothing where there are none.

    It is read from the store each time: what else is there is no part of an audit's result.
    """
    own: Config = describe(subset)
    pool = own["ranking"]["pool"]
    shares: list[tuple[bool, float, str]] = []
    count = 0
    for folder, meta in store.results("subset"):
        config = meta["config"]
        if folder.name == key(subset) or config.get("ranking", {}).get("pool") != pool:
            continue
        check(folder, "rows.json")
        rows = np.array(json.loads((folder / "rows.json").read_text()), dtype=np.int64)
        if len(rows) != len(chosen):
            continue
        manifest = json.loads((folder / "manifest.json").read_text())
        count = int(manifest["pool_rows"])
        share = len(np.intersect1d(rows, chosen)) / max(len(chosen), 1)
        differs = _differing(own, config)
        of_seeds = all(path.endswith("seed") for path in differs)
        name = str(manifest["selector"])
        if of_seeds:
            name = ", ".join(f"{short(path)} {seed}" for path, seed in differs.items())
        shares.append((not of_seeds, -share, name))
    if shares:
        texts = [f"{name} {-100 * share:.0f} %" for _, share, name in sorted(shares)[:_SHOWN]]
        more = f" and {len(shares) - _SHOWN} more" if len(shares) > _SHOWN else ""
        yield (
            f"rows in common with subsets of this size in the store: {', '.join(texts)}{more} "
            f"({100 * len(chosen) / count:.0f} % at random)"
        )


def _differing(own: Config, other: Config) -> dict[str, str]:
    """The settings of another subset that are not those of this one, one path of each name."""
    mine, theirs = (dict(leaves(config, seeds=True)) for config in (own, other))
    paths = [path for path in mine | theirs if mine.get(path) != theirs.get(path)]
    return {
        path: theirs.get(path, "none") for path in {short(path): path for path in paths}.values()
    }
