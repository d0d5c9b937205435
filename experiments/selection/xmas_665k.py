"""From stored trajectories to a subset at the size of LLaVA-665k: seconds and peak memory.

    python experiments/selection/xmas_665k.py [--iterations N] [--reduction sum|vector] ...

Trajectories are synthetic, of the form that the paper plots: a high start that falls while the
proxy learns, longer texts higher. One process for the whole, so the peak covers all parts; FAISS
runs on as many threads as OMP_NUM_THREADS says.
"""

import argparse
import resource
import tempfile
import time
import types
from pathlib import Path

import numpy as np

from xmas.features.clustering.kmeans import kmeans, reduce_spectra, scaled
from xmas.selection.budget import cut
from xmas.selection.methods.xmas import instability
from xmas.selection.protocol import Ranked
from xmas.selection.rules.turns import turns_of_clusters
from xmas.selection.subset_files import write_ranking

ROWS, TEXT_ONLY, STEPS, VALUES = 665_298, 40_688, 7, 5  # LLaVA-665k; XMAS
FALL = np.array([140, 72, 27, 18, 14, 13.5, 13.5], dtype=np.float32)  # the paper's example, by eye


def synthetic(rows: int, rng: np.random.Generator) -> np.ndarray:
    """Trajectories (rows, 7, 5) float32, NaN on text-only rows."""
    length = rng.lognormal(0, 0.45, (rows, 1, 1)).astype(np.float32)
    kinds = rng.uniform(0.6, 1.4, (200, STEPS, 1)).astype(np.float32)[rng.integers(0, 200, rows)]
    spectrum = np.array([0.8, 0.09, 0.05, 0.035, 0.025], dtype=np.float32)
    noise = rng.normal(1, 0.05, (rows, STEPS, VALUES)).astype(np.float32)
    values = FALL[None, :, None] * length * kinds * spectrum * noise
    values[rng.choice(rows, rows * TEXT_ONLY // ROWS, replace=False)] = np.nan
    return values


class Examples:
    """As much of a pool as the ranking's file needs."""

    def __init__(self, has_image: np.ndarray, sources: np.ndarray) -> None:
        self.has_image = has_image
        names, numbers = np.unique(sources, return_inverse=True)
        self.index = types.SimpleNamespace(source=numbers, source_names=names.tolist())

    def __len__(self) -> int:
        return len(self.has_image)


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--rows", type=int, default=ROWS)
    asked.add_argument("--clusters", type=int, default=1000)
    asked.add_argument("--iterations", type=int, default=100)
    asked.add_argument("--reduction", default="sum")
    asked.add_argument("--per-centroid", type=int, default=None)
    asked.add_argument("--tiny", action="store_true", help="400 rows, to see that it runs")
    given = asked.parse_args()
    if given.tiny:
        given.rows, given.clusters, given.iterations = 400, 5, 2
    rng = np.random.default_rng(0)
    folder = Path(tempfile.mkdtemp())
    np.save(folder / "values.npy", synthetic(given.rows, rng))
    laps: dict[str, tuple[float, float]] = {}
    began = (time.perf_counter(), time.process_time())

    def lap(part: str) -> None:
        """Wall-clock and processor seconds since the last lap."""
        nonlocal began
        now = (time.perf_counter(), time.process_time())
        laps[part], began = (now[0] - began[0], now[1] - began[1]), now

    import faiss  # noqa: F401  # its import is not part of clustering

    lap("import faiss")
    values = np.load(folder / "values.npy", mmap_mode="r")
    points = reduce_spectra(values, given.reduction)
    textual = np.isnan(points).all(axis=1)
    lap("read and reduce")
    labels = np.full(given.rows, given.clusters)
    labels[~textual] = kmeans(
        scaled(points[~textual], "none"),
        given.clusters,
        seed=1234,
        iterations=given.iterations,
        per_centroid=given.per_centroid,
    )
    lap("k-means and assignment")
    unstable = instability(reduce_spectra(values, "sum").astype(np.float64), "absolute")
    ties = np.where(textual, rng.permutation(given.rows), np.arange(given.rows))
    preferred = np.lexsort((ties, np.where(textual, np.inf, unstable)))
    lap("instability and order")
    order = turns_of_clusters(labels, preferred)
    lap("turns")
    sources = np.array(["coco", "gqa", "ocr_vqa", "textvqa", "vg", "text"])
    sources = sources[rng.choice(5, given.rows)]
    sources[textual] = "text"
    began = (time.perf_counter(), time.process_time())
    for policy in ("proportional", "ranked"):
        rows = cut(order, given.rows // 5, has_image=~textual, sources=sources, text_only=policy)
    lap("two cuts")
    ranked = Ranked(order, -unstable, labels)
    for name, array in vars(ranked).items():
        np.save(folder / f"{name}.npy", array)
    back = Ranked(**{name: np.load(folder / f"{name}.npy") for name in vars(ranked)})
    assert (back.order == order).all()
    lap("ranking written and read")
    write_ranking(Examples(~textual, sources), rows, ranked, folder / "ranking.parquet")  # type: ignore[arg-type]
    lap("Parquet" if (folder / "ranking.parquet").exists() else "no Parquet, pyarrow is missing")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{vars(given)}\n\n| part | wall s | processor s |\n|---|---:|---:|")
    laps["all"] = (sum(wall for wall, _ in laps.values()), sum(cpu for _, cpu in laps.values()))
    for part, (wall, cpu) in laps.items():
        print(f"| {part} | {wall:.1f} | {cpu:.1f} |")
    print(f"\nPeak memory of the process: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
