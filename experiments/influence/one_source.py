"""Do 50 rows of one source of the demo pool bring that source's other rows to the front?

    python experiments/influence/one_source.py [FOLDER] [--start demo] [--examples 50] [--seed 0]

For every source: the area under the ROC curve of the ranking, in which the source's rows that are
no examples are to come before all other rows; and the same by the cosine with the examples' mean
last hidden state under the start point, which a user would try first and which costs no gradients.
FOLDER keeps the store; what it has is not computed again.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from xmas import Store
from xmas.cli.config import build, folder
from xmas.data.pool import Pool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="influence_runs", type=Path)
    parser.add_argument("--start", default="demo")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    store = options.folder / "store"
    pool, embeddings = demo(store, options.start)
    rows = pool.open(Store(str(store)))
    vectors = unit(np.load(embeddings / "values.npy").astype(np.float32))
    print(f"| source | rows | influence | ridge 0.1 | embedding |\n|---|{'---:|' * 4}")
    for number, source in enumerate(sorted(set(rows.sources.tolist()))):
        of_source = np.flatnonzero(rows.sources == source)
        rng = np.random.default_rng([options.seed, number])
        examples = np.sort(rng.permutation(of_source)[: options.examples])
        toward = written(rows, examples, options.folder / f"{source}_{options.seed}")
        others = np.setdiff1d(np.arange(len(rows)), examples)
        scores = [
            ranking(
                xmas(
                    store, "experiment=demo", f"start={options.start}", "selector=influence",
                    f"selector.toward={toward}", f"selector.ridge={ridge}",
                    f"features.gradients.width={options.width}",
                )
            )
            for ridge in ("null", "0.1")
        ]  # fmt: skip
        scores.append(vectors @ np.nanmean(vectors[examples], axis=0))
        belongs = rows.sources[others] == source
        areas = [f"{area(of_rows[others], belongs):.3f}" for of_rows in scores]
        print(f"| {source} | {len(of_source):,} | {' | '.join(areas)} |", flush=True)


def demo(store: Path, start: str) -> tuple[Pool, Path]:
    """The demo's pool, and the folder of its rows' embeddings."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(folder(), version_base="1.3"):
        cfg = compose("config", ["experiment=demo", f"start={start}", "features.last_layer.step=0"])
        pool, features = build(cfg.pool), build(cfg.features.last_layer)
    return pool, Store(str(store)).get(features)


def xmas(store: Path, *overrides: str) -> Path:
    """Run the command; the folder of the subset it makes."""
    command = [sys.executable, "-m", "xmas", f"store.root={store}", *overrides]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.splitlines()[0])


def written(rows, examples: np.ndarray, toward: Path) -> Path:
    """The examples as a user would have them: a file of conversations and its images."""
    shutil.rmtree(toward, ignore_errors=True)
    toward.mkdir(parents=True)
    for row in examples.tolist():
        for number, image in zip(rows.shown[row].tolist(), rows.images_of(row), strict=True):
            name = rows.picture_names[number]
            (toward / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(image, toward / name)
    (toward / "examples.json").write_text(json.dumps([rows[row] for row in examples.tolist()]))
    return toward


def ranking(subset: Path) -> np.ndarray:
    """The score of every row of the pool."""
    import pyarrow.parquet as parquet

    return parquet.read_table(subset / "ranking.parquet")["score"].to_numpy()


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def area(scores: np.ndarray, belongs: np.ndarray) -> float:
    """Under the ROC curve: how often a row that belongs is before one that does not; ties half."""
    _, places = np.unique(scores, return_inverse=True)
    counts = np.bincount(places)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    inside, count = belongs.sum(), len(scores)
    return float((ranks[belongs].sum() - inside * (inside + 1) / 2) / (inside * (count - inside)))


if __name__ == "__main__":
    main()
