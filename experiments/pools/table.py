"""A pool of Parquet shards of any number of rows: seconds and peak memory of what a selection does.

    python experiments/pools/table.py [--rows 10000000] [--images stored] [--folder DIR]

Every part is a separate process. The subset's Parquet is written next to `datasets`' own `select`
and `save_to_disk` of as many rows, one after the other in every round; the best round counts.
"""

import argparse
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from made import parquet
from measured import load, measured

FRACTION, SEED = 0.2, 0


def parts_of(rows: int, folder: Path) -> dict[str, Any]:
    """What is measured, by name; each is given the seed of a ranking."""
    import numpy as np

    from xmas import Pool, Ranking, Store, Subset, SubsetFiles
    from xmas.doctor.files import check_pool
    from xmas.selection.methods.column import Column
    from xmas.selection.methods.length import Length
    from xmas.selection.methods.random import Random

    store, pool = Store(str(folder / "store")), Pool(str(folder / "shards"), str(folder))

    class Lengths:
        """A proxy whose tokens are counted already: between 20 and 219 a row."""

        def tokens(self) -> "Lengths":
            return self

        def open(self, store: Store) -> "Lengths":
            self.text_lengths = 20 + np.random.default_rng(0).integers(0, 200, rows)
            return self

    def opened(seed: int) -> int:
        return len(pool.open(store))

    def ranked(selector: Any, seed: int) -> int:
        return len(Ranking.read(store.get(Ranking(pool, selector, seed))).order)

    def subset(seed: int) -> Subset:
        return Subset(Ranking(pool, Random(), seed), fraction=FRACTION)

    def length(seed: int) -> int:
        rng = np.random.default_rng(seed)
        return len(Length(Lengths(), iterations=5).rank(pool, rng, store).order)  # pyright: ignore

    def doctor(seed: int) -> int:
        return len(list(check_pool(pool, store, decode=False)))

    column = Column("visual_dependency_min")
    return {
        "the index made": opened,
        "the pool opened": opened,
        "selector=random": functools.partial(ranked, Random()),
        "selector=column": functools.partial(ranked, column),
        "length: k-means of 200, 5 iterations": length,
        "subset: cut, manifest, ranking.parquet": lambda seed: len(subset(seed).chosen(store)),
        "subset's Parquet": lambda seed: len(
            str(store.get(SubsetFiles.of(subset(seed), "parquet")))
        ),
        "the doctor, images not decoded": doctor,
    }


def saved_by_datasets(folder: Path, dataset: Any) -> int:
    """What somebody writes with `datasets` alone; returns the rows."""
    import numpy as np

    chosen = np.random.default_rng(SEED).permutation(len(dataset))[: int(FRACTION * len(dataset))]
    some = dataset.select(np.sort(chosen))
    some.save_to_disk(folder / "saved")
    shutil.rmtree(folder / "saved")
    return len(some)


def rows_of(folder: Path) -> Any:
    """The shards as a dataset; `datasets` converts them to Arrow once, which is not measured."""
    import datasets

    datasets.disable_progress_bars()
    files = sorted(map(str, (folder / "shards").glob("*.parquet")))
    return datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(folder / "cache")
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", choices=("stored", "paths"), default="stored")
    parser.add_argument("--folder", help="where the pool is made, or was; by default a new one")
    parser.add_argument("--only", default="", metavar="TEXT", help="parts whose name contains it")
    parser.add_argument("--tiny", action="store_true", help="300 rows, one round")
    options = parser.parse_args()
    rows, rounds = (300, 1) if options.tiny else (options.rows, options.rounds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        if not (folder / "shards").exists():
            parquet(folder / "shards", rows, stored=options.images == "stored")
        print(f"{rows:,} rows, images {options.images}; {load()}\n")
        print("| | seconds | processor s | peak MB |\n|---|---|---|---|")
        for name in (
            "the index made",
            "the pool opened",
            "selector=random",
            "selector=column",
            "length: k-means of 200, 5 iterations",
            "subset: cut, manifest, ranking.parquet",
            "the doctor, images not decoded",
        ):
            if options.only in name:
                line(name, run_of(name, rows, folder, SEED))
        if not options.only:
            compared(rows, rounds, folder, tiny=options.tiny)


def compared(rows: int, rounds: int, folder: Path, *, tiny: bool) -> None:
    """The Parquet of a subset next to the same by `datasets`."""
    ours, theirs = [], []
    if not tiny:
        measured(lambda: rows_of(folder), len)  # converted once
    for number in range(rounds):
        seed = SEED + number
        if not tiny:  # whose one seed has run above
            run_of("selector=random", rows, folder, seed)
            run_of("subset: cut, manifest, ranking.parquet", rows, folder, seed)
        ours.append(run_of("subset's Parquet", rows, folder, seed))
        theirs.append(
            measured(lambda: rows_of(folder), functools.partial(saved_by_datasets, folder))
        )
    for name, runs in (("subset's Parquet", ours), ("select and save_to_disk", theirs)):
        line(name, min(runs, key=lambda run: run["seconds"]))


def run_of(name: str, rows: int, folder: Path, seed: int) -> dict[str, Any]:
    return measured(lambda: parts_of(rows, folder)[name], lambda part: part(seed))


def line(name: str, run: dict[str, Any]) -> None:
    shown = f"{run['seconds']:.2f} | {run['processor']:.2f} | {run['peak']:.0f}"
    print(f"| {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
