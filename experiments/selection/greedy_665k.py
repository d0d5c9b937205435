"""Farthest-point sampling and quality plus diversity at the size of LLaVA-665k: seconds and memory.

    python experiments/selection/greedy_665k.py [--rows N] [--share 0.2] [--dimensions 256]

Features are synthetic: a centre for a thousand rows, each row at a distance of its own from it, in
all dimensions alike, so that distances are nearly equal and few comparisons can be left out: a hard
case. The plain greedy rule, one product with all rows for each choice in numpy, runs on a sample
and is scaled by rows and choices; on the sample both must choose the same rows. On a GPU if there
is one.
"""

import argparse
import resource
import time

import numpy as np

from xmas.selection.rules.lazy_greedy import farthest_points, quality_and_diversity

ROWS, SAMPLE = 665_298, 20_011
RATINGS = np.array([0.05, 0.1, 0.25, 0.35, 0.25])  # shares of 1 to 5


def synthetic(rows: int, dimensions: int, rng: np.random.Generator) -> np.ndarray:
    """Points (rows, dimensions) float32."""
    centres = rng.normal(size=(max(10, rows // 1000), dimensions)).astype(np.float32)
    points = rng.standard_normal((rows, dimensions), dtype=np.float32)
    points *= rng.lognormal(-0.3, 0.4, (rows, 1)).astype(np.float32)
    points += centres[rng.integers(0, len(centres), rows)]
    return points


def units(points: np.ndarray) -> np.ndarray:
    centred = points - points.mean(axis=0)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def lazy_farthest(points: np.ndarray, quality: np.ndarray, count: int) -> np.ndarray:
    return farthest_points(points, count)


def plain_farthest(points: np.ndarray, quality: np.ndarray, count: int) -> list[int]:
    half = (points**2).sum(axis=1) / 2
    order = [int(np.argmax(half))]
    least = np.full(len(points), np.inf, dtype=np.float32)
    while len(order) < count:
        last = order[-1]
        least = np.minimum(least, half + half[last] - points @ points[last])
        least[last] = -1
        order.append(int(np.argmax(least)))
    return order


def lazy_greedy(points: np.ndarray, quality: np.ndarray, count: int) -> np.ndarray:
    return quality_and_diversity(quality, points, count)[0]


def plain_greedy(points: np.ndarray, quality: np.ndarray, count: int) -> list[int]:
    gains, alike, order = quality + 1, np.zeros(len(points), dtype=np.float32), []
    while len(order) < count:
        order.append(int(np.argmax(gains)))
        alike = np.maximum(alike, points @ points[order[-1]])
        gains = quality + 1 - alike
        gains[order] = -np.inf
    return order


RULES = {
    "farthest points": (lazy_farthest, plain_farthest),
    "quality and diversity": (lazy_greedy, plain_greedy),
}


def timed(rule, name: str, points: np.ndarray, quality: np.ndarray, count: int):
    """What a rule chooses; prints its line and gives its processor seconds."""
    began, cpu = time.perf_counter(), time.process_time()
    chosen = np.asarray(rule(points, quality, count))
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(f"| {name} | {len(points):,} | {count:,} | {wall:.1f} | {cpu:.1f} |", flush=True)
    return chosen, cpu


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--rows", type=int, default=ROWS)
    asked.add_argument("--sample", type=int, default=SAMPLE)
    asked.add_argument("--share", type=float, default=0.2)
    asked.add_argument("--dimensions", type=int, default=256)
    asked.add_argument("--tiny", action="store_true", help="401 rows, to see that it runs")
    given = asked.parse_args()
    if given.tiny:
        given.rows, given.sample = 401, 101
    import torch

    where = "cuda" if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    print(f"{vars(given)} on {where}\n\n| rule | rows | choices | wall s | processor s |")
    print("|---|---:|---:|---:|---:|")
    remarks = []
    for name, (lazy, plain) in RULES.items():
        for rows in (given.sample, given.rows):
            rng = np.random.default_rng(0)
            points = synthetic(rows, given.dimensions, rng)
            if lazy is lazy_greedy:
                points = units(points)
            quality = rng.choice(5, rows, p=RATINGS).astype(np.float32) / 4
            count = int(rows * given.share)
            chosen, _ = timed(lazy, name, points, quality, count)
            if rows == given.sample:
                order, cpu = timed(plain, f"{name}, plain", points, quality, count)
                scaled = cpu * (given.rows / rows) ** 2
                remarks.append(
                    f"{name}: {(chosen == order).mean():.2%} of the places and "
                    f"{np.isin(chosen, order).mean():.2%} of the rows as the plain rule; that "
                    f"would take {scaled:,.0f} processor seconds for {given.rows:,} rows"
                )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print("", *remarks, f"Peak memory of the process: {peak:.2f} GiB", sep="\n")


if __name__ == "__main__":
    main()
