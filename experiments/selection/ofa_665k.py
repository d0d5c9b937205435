"""OFA at the size of LLaVA-665k: seconds and memory from CLIP embeddings to a subset.

    OMP_NUM_THREADS=1 taskset -c 1 python experiments/selection/ofa_665k.py [--rows N] [--train]

Embeddings are synthetic: rows are spread around the directions of 128 groups, the cosine of two
rows of a group is about a half. Without --train the classifier is untrained, which takes as
long to score with. A row has 1 to 6 rounds, 2.85 in the mean.
"""

import argparse
import dataclasses
import json
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from xmas.data.pool import Pool
from xmas.features.clip.clip import ClipEmbeddings
from xmas.features.clip.embedded import Embedded
from xmas.features.once_select.classifier import GatedClassifier, Network
from xmas.features.once_select.once_select import OnceSelect
from xmas.features.once_select.pseudo_labels import PseudoLabels
from xmas.selection.methods.ofa import Ofa
from xmas.store import Store

ROWS, TEXT_ONLY, WIDTH, GROUPS = 665_298, 40_688, 512, 128  # LLaVA-665k, ViT-B/32, OnceSelect
ROUNDS = [0.3, 0.2, 0.15, 0.15, 0.1, 0.1]  # share of rows with 1 to 6
BLOCK = 1 << 15


@dataclasses.dataclass(frozen=True)
class Synthetic(ClipEmbeddings):
    kind: ClassVar[str] = "synthetic_clip"

    rows: int = ROWS

    def compute(self, store: Store, out: Path) -> None:
        rng = np.random.default_rng(0)
        bank = rng.standard_normal((BLOCK, WIDTH), dtype=np.float32)
        ways = rng.standard_normal((2, GROUPS, WIDTH), dtype=np.float32)
        of = rng.integers(GROUPS, size=self.rows)
        textual = rng.permutation(self.rows) < self.rows * TEXT_ONLY // ROWS
        offsets = np.concatenate([[0], np.cumsum(2 * rng.choice(6, self.rows, p=ROUNDS) + 2)])
        groups = {"image": of[~textual], "text": np.repeat(of, np.diff(offsets))}
        for number, (name, group) in enumerate(groups.items()):
            lines = np.lib.format.open_memmap(
                out / f"{name}.npy", mode="w+", dtype=np.float16, shape=(len(group), WIDTH)
            )
            for start in range(0, len(group), BLOCK):
                here = group[start : start + BLOCK]
                drawn = ways[number, here] + bank[rng.integers(BLOCK, size=len(here))]
                norms = np.linalg.norm(drawn, axis=1, keepdims=True)
                lines[start : start + len(here)] = drawn / norms
            lines.flush()
        np.save(out / "picture.npy", np.where(textual, -1, np.cumsum(~textual) - 1))
        np.save(out / "offsets.npy", offsets)
        np.save(out / "roles.npy", np.tile([0, 1], offsets[-1] // 2).astype(np.int8))
        (out / "clip.json").write_text(json.dumps({"weights": "synthetic"}))


class Watch:
    """Wall-clock and processor seconds of parts, and the peak of anonymous memory.

    Pages of the memory-mapped embeddings count apart: the system drops them when it needs to.
    """

    def __init__(self) -> None:
        self.parts: dict[str, tuple[float, float]] = {}
        self.peak = 0
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    self.peak = max(self.peak, int(line.split()[1]))
            time.sleep(0.02)

    def time(self, part: str, work: Callable[[], Any]) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        made = work()
        self.parts[part] = (time.perf_counter() - wall, time.process_time() - processor)
        return made


def untrained(seen: Embedded, folder: Path) -> str:
    """A selector's folder with the first weights, and rows as centroids."""
    folder.mkdir()
    torch.manual_seed(0)
    torch.save(GatedClassifier(Network(), WIDTH, GROUPS).state_dict(), folder / "selector.pt")
    about = {"clip": seen.weights, "width": WIDTH, "k": GROUPS}
    about["network"] = dataclasses.asdict(Network())
    (folder / "selector.json").write_text(json.dumps(about))
    rows = np.flatnonzero(seen.picture[:] >= 0)[:GROUPS]
    points = np.concatenate([seen.images(rows), seen.texts(rows, "human")], axis=1) / 2**0.5
    np.save(folder / "centroids.npy", points)
    return str(folder)


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--rows", type=int, default=ROWS)
    asked.add_argument("--fraction", type=float, default=0.15)
    asked.add_argument("--train", action="store_true")
    asked.add_argument("--tiny", action="store_true", help="400 rows, to see that it runs")
    given = asked.parse_args()
    if given.tiny:
        given.rows = 400
    with tempfile.TemporaryDirectory() as place:
        store, watch = Store(place), Watch()
        clip = Synthetic(Pool("/dev/null", "."), None, rows=given.rows)
        folder = watch.time("synthetic embeddings", lambda: store.get(clip))
        size = sum(file.stat().st_size for file in folder.iterdir()) / 2**30
        print(f"{vars(given)}; {size:.1f} GiB of embeddings, {torch.get_num_threads()} threads")
        trained: OnceSelect | str = untrained(clip.open(store), Path(place) / "untrained")
        watch.peak = 0
        if given.train:
            trained = OnceSelect(clip)
            watch.time("training: k-means, labels, 100 epochs", lambda: store.get(trained))
            print((store.get(trained) / "selector.json").read_text())
            print(f"Peak anonymous memory in training: {watch.peak / 2**20:.2f} GiB")
            watch.peak = 0
        labels = PseudoLabels(clip, trained)
        watch.time("scoring: nearest centroid, confidence", lambda: store.get(labels))
        budget = int(given.fraction * given.rows * (1 - TEXT_ONLY / ROWS))
        rng = np.random.default_rng(0)
        rows = watch.time(
            f"selection: {budget} rows by k-DPPs",
            lambda: Ofa(labels).select(clip.pool, budget, rng, store),
        )
        assert len(np.unique(rows)) == budget
        print("\n| part | wall s | processor s |\n|---|---:|---:|")
        for part, (wall, processor) in watch.parts.items():
            print(f"| {part} | {wall:.1f} | {processor:.1f} |")
        whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"\nPeak anonymous memory, scoring and selection: {watch.peak / 2**20:.2f} GiB")
        print(f"Peak resident memory of the process with mapped pages: {whole:.2f} GiB")


if __name__ == "__main__":
    main()
