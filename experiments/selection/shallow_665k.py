"""PRISM, ScalSelect and MAGIC at the size of LLaVA-665k, from stored features: seconds and memory.

    python experiments/selection/shallow_665k.py [prism scalselect magic compared] [--file FILE]

The features are synthetic, 5.4 GB: a falling spectrum around a mean that is longer than the rows'
distances to it, as hidden states have; text-only rows are NaN. They are removed at the end unless
FILE names them. Each part runs in a new process, whose peak is that of the part. `compared` is what
one would do without this package, on samples, and scaled to all rows.
"""

import argparse
import collections
import dataclasses
import math
import multiprocessing
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from xmas.selection.methods.magic import Magic
from xmas.selection.rules.best_first import best_first
from xmas.selection.rules.centred import Centred, leverage, mean_correlation


@dataclasses.dataclass(frozen=True)
class Size:
    rows: int = 665_298
    text_only: int = 40_688
    width: int = 4096  # of LLaVA-1.5-7B
    directions: int = 2048  # of the synthetic features
    sampled: tuple[int, ...] = (2048, 4096)  # rows of a full decomposition, of all pairs
    columns: int = 1024  # of these samples


TINY = Size(700, 41, 24, 13, (150, 300), 12)
BLOCK = 8192


def write(file: Path, size: Size) -> None:
    """Features whose j-th direction has a standard deviation of j^-0.7, and noise of all."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, size.directions + 1, dtype=np.float32) ** -0.7
    basis = rng.standard_normal((size.directions, size.width), dtype=np.float32)
    basis *= scale[:, None] / size.width**0.5
    mean = rng.standard_normal(size.width, dtype=np.float32) * 8 / size.width**0.5
    noise = rng.standard_normal((BLOCK, size.width), dtype=np.float32) * 0.2 / size.width**0.5
    shape = (size.rows, size.width)
    values = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
    for start in range(0, size.rows, BLOCK):
        count = min(BLOCK, size.rows - start)
        block = rng.standard_normal((count, size.directions), dtype=np.float32) @ basis
        values[start : start + count] = (
            block + mean + np.roll(noise, start // BLOCK, axis=1)[:count]
        )
    values[rng.choice(size.rows, size.text_only, replace=False)] = np.nan
    values.flush()


def prism(file: Path, size: Size) -> str:
    centred = Centred.of(np.load(file, mmap_mode="r"))
    scores = mean_correlation(centred)
    order = best_first(-scores, np.random.default_rng(0))
    return f"lowest R {scores[order[0]]:.4f}"


def scalselect(file: Path, size: Size) -> str:
    scores, k = leverage(Centred.of(np.load(file, mmap_mode="r")), 0.9)
    order = best_first(scores, np.random.default_rng(0))
    return f"{k} of {size.width} components, largest leverage {scores[order[0]]:.5f}"


def signals(size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gain, bridging relevance and signatures; a neuron's frequency falls with its number."""
    rng = np.random.default_rng(0)
    rows = size.rows - size.text_only
    neurons = np.concatenate(
        [np.sort(rng.zipf(1.4, (rows, count)).clip(max=11_007), axis=1) for count in (1, 1, 2, 3)],
        axis=1,
    )
    return rng.normal(0.4, 0.6, rows), rng.beta(2, 6, rows), neurons.astype(np.int32)


def magic(file: Path, size: Size) -> str:
    gain, bridging, signatures = signals(size)
    begun = time.perf_counter()
    selector = Magic(cast("Any", None), cast("Any", None))
    chosen = selector.chosen(gain, bridging, signatures, size.rows // 5)
    buckets = len(np.unique(signatures[chosen], axis=0))
    return (
        f"{len(chosen):,} rows of {buckets:,} buckets; "
        f"{time.perf_counter() - begun:.1f} s without the drawing of signals"
    )


def compared(file: Path, size: Size) -> str:
    """Full decomposition and all pairs of samples; every row of MAGIC in Python's dictionaries."""
    values = np.load(file, mmap_mode="r")
    rows = np.flatnonzero(~np.isnan(values[: 2 * max(size.sampled), 0]))
    image_rows = size.rows - size.text_only
    lines = []
    for count in size.sampled:
        sample = np.array(values[rows[:count], : size.columns])
        wider = size.width / size.columns
        points = sample.astype(np.float32)
        points -= points.mean(axis=0)
        begun = time.process_time()
        left, singular, _ = np.linalg.svd(points, full_matrices=False)
        parts = np.cumsum(singular**2) / (singular**2).sum()
        k = int(np.searchsorted(parts, 0.9)) + 1
        full = (left[:, :k] ** 2).sum(axis=1)
        decomposed = time.process_time() - begun
        ours, our_k = leverage(Centred.of(sample), 0.9)
        best = len(ours) // 5
        same = len(set(np.argsort(-full)[:best]) & set(np.argsort(-ours)[:best])) / best
        lines.append(
            f"full SVD of {count:,} x {size.columns:,} {decomposed:.1f} processor s, all of it "
            f"EXTRAPOLATED by rows x columns^2 {decomposed * image_rows / count * wider**2:.0f}; "
            f"k {k} and {our_k}, largest relative difference "
            f"{np.max(np.abs(ours / full - 1)):.1e}, of the best fifth {same:.4f} alike"
        )
        begun = time.process_time()
        units = points / np.linalg.norm(points, axis=1, keepdims=True)
        pairs = (units @ units.T).sum(axis=1)
        crossed = time.process_time() - begun
        worst = np.abs((pairs - 1) / (count - 1) - mean_correlation(Centred.of(sample))).max()
        hours = crossed * (image_rows / count) ** 2 * wider / 3600
        lines.append(
            f"all pairs of {count:,} rows {crossed:.2f} processor s, all of it EXTRAPOLATED by "
            f"rows^2 x columns {hours:.2f} h; largest difference {worst:.1e}"
        )
    gain, bridging, signatures = signals(size)
    begun = time.process_time()
    dictionaries(gain, bridging, signatures, size.rows // 5)
    lines.append(f"MAGIC's buckets in dictionaries: {time.process_time() - begun:.1f} processor s")
    return "\n  ".join(lines)


def dictionaries(
    gain: np.ndarray, bridging: np.ndarray, signatures: np.ndarray, budget: int
) -> list[int]:
    """MAGIC's buckets and quotas as its text reads, without what follows from caps."""
    quality = 0.5 * gain + 0.5 * bridging
    eligible = np.argsort(-gain)[: math.ceil(0.6 * len(gain))]
    best = eligible[np.argsort(-quality[eligible])][: 2 * budget]
    buckets: dict[tuple[int, ...], list[int]] = collections.defaultdict(list)
    for row in best.tolist():
        buckets[tuple(signatures[row].tolist())].append(row)
    masses = {key: float(np.exp(quality[rows] / 0.2).sum()) for key, rows in buckets.items()}
    total = sum(masses.values())
    chosen: list[int] = []
    for key, rows in buckets.items():
        chosen += rows[: min(math.ceil(0.05 * budget), int(budget * masses[key] / total))]
    return chosen


def memory(name: str) -> int:
    """KiB of this process, by its name in /proc/self/status."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1])


def measured(part: Callable[[Path, Size], str], file: Path, size: Size) -> None:
    """Run a part; print its seconds and its most memory."""
    most, running = 0, True

    def watch() -> None:
        nonlocal most
        while running:
            most = max(most, memory("RssAnon"))
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    wall, processor = time.perf_counter(), time.process_time()
    note = part(file, size)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    running = False
    thread.join()
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{part.__name__}: {wall:.1f} s, {processor:.1f} processor s, at most "
        f"{most / 2**20:.2f} GiB anonymous ({memory('VmHWM') / 2**20:.2f} GiB with pages of the "
        f"file); load {load}\n  {note}",
        flush=True,
    )


def main() -> None:
    parts = {part.__name__: part for part in (prism, scalselect, magic, compared)}
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("parts", nargs="*", default=[*parts], help=", ".join(parts))
    options.add_argument("--file", type=Path, help="features: read, or else written and kept")
    options.add_argument("--tiny", action="store_true", help="700 rows, to see that it runs")
    chosen = options.parse_args()
    size = TINY if chosen.tiny else Size()
    print(
        f"numpy {np.__version__}, Python {platform.python_version()}, OMP_NUM_THREADS="
        f"{os.environ.get('OMP_NUM_THREADS', 'unset')}, {size.rows:,} x {size.width:,}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = chosen.file or Path(folder) / "features.npy"
        if not file.exists():
            begun = time.perf_counter()
            write(file, size)
            print(f"features written in {time.perf_counter() - begun:.0f} s", flush=True)
        for name in chosen.parts:
            process = multiprocessing.get_context("fork").Process(
                target=measured, args=(parts[name], file, size)
            )
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{name} ended with {process.exitcode}")


if __name__ == "__main__":
    main()
