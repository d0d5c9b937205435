"""COINCIDE at the size of LLaVA-665k: allocation and MMD, compared with the release's way.

Features are synthetic: every cluster takes rows of one array of unit vectors, since times do not
depend on the values. Reading 27 GB of features is no part of it. Times are those of the processor,
so that other work on the machine does not count; run it on one core (see coincide.md).
"""

import argparse
import dataclasses
import platform
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from xmas.features.activations import Activations
from xmas.features.clustering.assigner import Assigner
from xmas.features.clustering.spherical import Spherical, spherical_kmeans
from xmas.selection.methods.coincide import Coincide
from xmas.selection.rules.allocation import allocate, budgets, shares, transferability
from xmas.selection.rules.mmd import gaussian_kernel, greedy
from xmas.store.progress import bar

LAYERS = 5


@dataclasses.dataclass(frozen=True)
class Size:
    rows: int = 665_298
    clusters: int = 10_000
    large: int = 5  # clusters of `large_rows`
    large_rows: int = 5_000
    hidden: int = 2_048
    of_file: int = 12_288  # rows of the file that are read
    compared: tuple[int, ...] = (16, 32, 64, 128, 256)  # rows of clusters, both ways

    @property
    def width(self) -> int:
        return LAYERS * 2 * self.hidden


TINY = Size(400, 20, 2, 100, 8, 60, (16, 32))


class Bank:
    """Features of any rows, out of one array; seconds spent here are those of reading."""

    def __init__(self, rng: np.random.Generator, size: Size) -> None:
        held = rng.standard_normal((size.large_rows, size.width), dtype=np.float32)
        held += 2 * rng.standard_normal(size.width, dtype=np.float32)
        self.held = (held / np.linalg.norm(held, axis=1, keepdims=True)).astype(np.float16)
        self.seconds = 0.0

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        start = time.process_time()
        found = self.held[: len(rows)].copy()
        self.seconds += time.process_time() - start
        return found


def sizes_of_clusters(rng: np.random.Generator, size: Size) -> np.ndarray:
    """A few large clusters, the others unequal: exponential, one row at least."""
    others = size.clusters - size.large
    in_others = size.rows - size.large * size.large_rows
    left = in_others - others
    share = rng.exponential(size=others)
    sizes = 1 + np.floor(share / share.sum() * left).astype(np.int64)
    sizes[: in_others - sizes.sum()] += 1
    return rng.permutation(np.concatenate([np.full(size.large, size.large_rows), sizes]))


def released(rng: np.random.Generator, size: Size) -> None:
    """All rows through the selector in mode `released`: products in float64."""
    whole(rng, size, mode="released")


def whole(rng: np.random.Generator, size: Size, mode: str = "fixed") -> None:
    """All rows through the selector, then its parts one by one."""
    sizes = sizes_of_clusters(rng, size)
    labels = rng.permutation(np.repeat(np.arange(size.clusters), sizes))
    centroids = rng.standard_normal((size.clusters, size.width), dtype=np.float32)
    bank = Bank(rng, size)
    features = Activations(cast("Any", None), layers=range(LAYERS), mode=mode)
    selector = Coincide(features, Spherical(features, k=size.clusters), mode=mode)
    begun, wall = time.process_time(), time.monotonic()
    ranked = selector.ranked(cast("Any", bank), labels, centroids)
    spent = time.process_time() - begun - bank.seconds
    assert len(np.unique(ranked.order)) == size.rows
    print(
        f"rows {size.rows}, clusters {size.clusters}, largest outside the {size.large} large ones "
        f"{np.sort(sizes)[-size.large - 1]}"
    )
    print(f"ranking, mode {mode}: {spent:.1f} s (copies of features {bank.seconds:.1f} s more)")
    print(f"by the clock, among other work: {time.monotonic() - wall:.0f} s")
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    if mode == "released":
        return
    scores = rng.uniform(0.6, 1.6, size.clusters)
    order, share = shares(scores, 0.1)
    for name, work in {
        "transferability": lambda: transferability(features.language(centroids)),
        "budgets of all rows": lambda: budgets(share, sizes[order]),
        "release's allocation, one budget": lambda: allocate(size.rows // 5, share, sizes[order]),
        f"kernel of {size.large_rows:,} rows, float32": lambda: gaussian_kernel(bank.held),
        f"kernel of {size.large_rows:,} rows, float64": lambda: gaussian_kernel(
            bank.held, products="float64"
        ),
    }.items():
        begun = time.process_time()
        work()
        print(f"  {name}: {time.process_time() - begun:.2f} s")


def tiled(kernel: np.ndarray, count: int) -> list[int]:
    """Greedy MMD as the release does it: every candidate together with all that is taken.

    Rows² x taken numbers a step: the means of all these sets are computed anew each time.
    """
    taken: list[int] = []
    for _ in range(count):
        left = np.array([row for row in range(len(kernel)) if row not in taken])
        sets = np.concatenate(
            [np.tile(np.array(taken, int), (len(left), 1)), left[:, None]], axis=1
        )
        across = kernel[:, sets].mean(axis=(0, 2))
        inside = kernel[sets[:, :, None], sets[:, None, :]].mean(axis=(1, 2))
        taken.append(int(left[np.argmin(kernel.mean() + inside - 2 * across)]))
    return taken


def selections(rng: np.random.Generator, size: Size) -> None:
    """A fifth of a cluster, both ways, from one kernel."""
    print("rows of a cluster, a fifth of them: release's way s, here s (for all rows), ratio")
    measured = {}
    for rows in size.compared:
        points = rng.standard_normal((rows, 64)) / 8
        kernel = gaussian_kernel(points, products="float64")
        repeats = max(1, 4096 // rows**2)
        begun = time.process_time()
        for _ in range(repeats):
            slow = tiled(kernel, rows // 5)
        middle = time.process_time()
        for _ in range(100):
            fast = greedy(kernel)
        ended = time.process_time()
        assert slow == fast[: rows // 5].tolist()
        measured[rows] = (middle - begun) / repeats
        ours = (ended - middle) / 100
        print(f"  {rows:4}: {measured[rows]:9.4f} {ours:9.6f} {measured[rows] / ours:9.0f}")
    begun = time.process_time()
    kernel = gaussian_kernel(rng.standard_normal((size.large_rows, 64)) / 8)
    middle = time.process_time()
    greedy(kernel)
    print(f"  {size.large_rows}: here {time.process_time() - middle:.3f} s")
    most, slowest = max(measured.items())
    beyond = slowest * (size.large_rows / most) ** 4
    step = size.large_rows**2 * (size.large_rows // 5) * 8 / 1e9
    print(
        f"  {size.large_rows}: release's way, EXTRAPOLATED from {most} rows by rows^4: "
        f"{beyond / 3600:.1f} h, {step:.0f} GB a step"
    )
    sizes = sizes_of_clusters(rng, size)
    known = np.log(list(measured)), np.log(list(measured.values()))
    within = np.exp(np.interp(np.log(np.maximum(sizes, 16)), *known))
    total = np.where(sizes > most, slowest * (sizes / most) ** 4, within)
    print(
        f"  all but the {size.large}, release's way, interpolated, EXTRAPOLATED above {most} rows: "
        f"{total[sizes < size.large_rows].sum() / 3600:.2f} h; with them {total.sum() / 3600:.1f} h"
    )


def one_block(rng: np.random.Generator, size: Size) -> None:
    """Spherical k-means: the rate of one block, and what passes over all rows would take."""
    values = rng.standard_normal((1024, size.width), dtype=np.float32).astype(np.float16)
    centroids = torch.from_numpy(rng.standard_normal((size.clusters, size.width), dtype=np.float32))
    sums = torch.zeros_like(centroids)
    assign = Assigner(values, 1024, torch.device("cpu"))
    begun = time.process_time()
    with bar(total=len(values), label="block") as progress:
        assign(np.arange(len(values)), centroids, sums=sums, progress=progress)
    rate = len(values) / (time.process_time() - begun)
    print(f"spherical k-means, {size.clusters} clusters: {rate:.0f} rows/s a core")
    hours = size.rows / rate / 3600
    print(f"  a pass over {size.rows} rows, EXTRAPOLATED: {hours:.1f} core hours")


def out_of_core(rng: np.random.Generator, size: Size) -> None:
    """Spherical k-means on a file of all rows, 27 GB: memory of one iteration.

    The file is sparse; some of its rows, from all over it, are written and read. Memory does
    not depend on how many they are. Pages of the mapped file, which the system may drop at any
    time, are not counted.
    """
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "values.npy"
        shape = (size.rows, size.width)
        values = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
        rows = np.linspace(0, size.rows - 1, size.of_file).astype(np.int64)
        for row in rows:
            values[row] = rng.standard_normal(size.width, dtype=np.float32) / size.width**0.5
        values.flush()
        values = np.load(file, mmap_mode="r")
        before, begun = anonymous(), time.process_time()
        assign = Assigner(values, 4096, torch.device("cpu"))
        with Peak() as peak:
            spherical_kmeans(assign, rows, size.clusters, seed=0, iterations=1, draft=Path(place))
        print(
            f"spherical k-means, {file.stat().st_size / 1e9:.1f} GB file: at most "
            f"{(peak.most - before) / 2**20:.2f} GiB of anonymous memory, "
            f"{time.process_time() - begun:.0f} s for {len(rows)} rows"
        )


def anonymous() -> int:
    """KiB of the process that no file holds."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])


class Peak:
    """The most `anonymous` memory inside a block."""

    def __enter__(self) -> "Peak":
        self.most, self._running = anonymous(), True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while self._running:
            self.most = max(self.most, anonymous())
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()


if __name__ == "__main__":
    parts = {
        "whole": whole,
        "released": released,
        "selections": selections,
        "one_block": one_block,
        "out_of_core": out_of_core,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=list(parts), help="all where none is named")
    parser.add_argument("--tiny", action="store_true", help="400 rows, to see that it runs")
    given = parser.parse_args()
    print(
        f"numpy {np.__version__}, torch {torch.__version__}, Python {platform.python_version()},",
        end=" ",
    )
    print(f"threads {torch.get_num_threads()}")
    for part in [given.part] if given.part else parts:
        parts[part](np.random.default_rng(0), TINY if given.tiny else Size())
