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
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from xmas import Ranking, Store
from xmas.cli.config import build, folder

RULES = {  # settings of the selector
    "mean": ["selector.ridge=null", "selector.nearest=null"],
    "ridge 0.1": ["selector.nearest=null"],
    "ridge 0.1, nearest 5": [],  # the default
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="influence_runs", type=Path)
    parser.add_argument("--start", default="demo")
    parser.add_argument("--rows", type=int, default=4000, help="of the demo's pool")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    store = Store(str(options.folder / "store"))
    settings = [f"start={options.start}", f"demo_pool.rows={options.rows}"]
    settings.append(f"features.gradients.width={options.width}")
    cfg = composed(*settings)
    pool = build(cfg.pool)
    rows = pool.open(store)
    vectors = unit(np.load(store.get(build(cfg.features.last_layer)) / "values.npy"))
    print(f"| source | rows | {' | '.join([*RULES, 'embedding'])} |\n|---|{'---:|' * 5}")
    table = []
    for number, source in enumerate(sorted(set(rows.sources.tolist()))):
        of_source = np.flatnonzero(rows.sources == source)
        rng = np.random.default_rng([options.seed, number])
        examples = np.sort(rng.permutation(of_source)[: options.examples])
        toward = written(rows, examples, options.folder / f"{source}_{options.seed}")
        others = np.setdiff1d(np.arange(len(rows)), examples)
        scores = [
            ranking(store, *settings, f"selector.toward={toward}", *rule) for rule in RULES.values()
        ]
        scores.append(vectors @ np.nanmean(vectors[examples], axis=0))
        belongs = rows.sources[others] == source
        table.append([area(of_rows[others], belongs) for of_rows in scores])
        line = " | ".join(f"{of_rule:.3f}" for of_rule in table[-1])
        print(f"| {source} | {len(of_source):,} | {line} |", flush=True)
    print(f"| mean | | {' | '.join(f'{mean:.3f}' for mean in np.mean(table, axis=0))} |")


def composed(*overrides: str) -> DictConfig:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(folder(), version_base="1.3"):
        return compose("config", ["experiment=demo", "features.last_layer.step=0", *overrides])


def ranking(store: Store, *overrides: str) -> np.ndarray:
    """The score of every row of the pool, as `xmas selector=influence` ranks them."""
    stage = build(composed("selector=influence", *overrides).ranking)
    return Ranking.read(store.get(stage)).scores


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


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float32)
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
