"""What the audit of a pool of the size of LLaVA-665k costs: sketches, near images, near texts.

    python experiments/selection/audit_665k.py [--rows N]

Conversations are random words, some of them repeated with a word changed, of images
some of which differ in a few bits only; a tenth of the images share their upper half, as pages and
covers do. Image files are not opened: decoding them is the machine's to measure.
"""

import argparse
import resource
import time

import numpy as np

from xmas.data.near_copies.duplicates import components, near_images, near_texts
from xmas.data.near_copies.image_hashes import distances
from xmas.data.near_copies.text_sketches import min_hashes

ROWS, PICTURES = 665_298, 350_000


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--rows", type=int, default=ROWS)
    asked.add_argument("--tiny", action="store_true", help="200 rows, to see that it runs")
    given = asked.parse_args()
    rows = 200 if given.tiny else given.rows
    pictures = rows * PICTURES // ROWS
    rng = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(20_000)])
    laps: list[tuple[str, float, float]] = []
    began = (time.perf_counter(), time.process_time())

    def lap(part: str) -> None:
        nonlocal began
        now = (time.perf_counter(), time.process_time())
        laps.append((part, now[0] - began[0], now[1] - began[1]))
        began = now

    seen = rng.integers(0, 1 << 64, (pictures, 2), dtype=np.uint64)
    seen[rng.random(pictures) < 0.1, 0] = 0
    copies = rng.choice(pictures, pictures // 50, replace=False)
    seen[copies] = seen[rng.choice(pictures, len(copies))] ^ np.uint64(1 << 17)
    picture = rng.integers(0, pictures, rows)
    lengths = rng.lognormal(4, 0.6, rows).astype(int) + 3
    sketches = np.zeros((rows, 64), dtype=np.uint32)
    lap("drawing")
    text = ""
    for row in range(rows):
        if row % 20:
            text = " ".join(words[rng.integers(0, len(words), lengths[row])])
        else:  # the row before, a word longer
            picture[row] = picture[row - 1]
            text += " more"
        sketches[row] = min_hashes([text])
    lap("random words and their MinHashes, one row after the other")
    own, of_picture = np.unique(seen, axis=0, return_inverse=True)
    pairs = near_images(own, 7)
    groups = components(len(own), pairs)[of_picture.reshape(-1)]
    lap("near images")
    near = near_texts(sketches, groups[picture], 0.8)
    one, other = seen[picture[near[:, 0]]], seen[picture[near[:, 1]]]
    near = near[distances(one, other) <= 7]
    lap("near rows")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{rows:,} rows, {pictures:,} pictures\n\n| part | wall s | processor s |\n|---|---:|---:|"
    )
    for part, wall, cpu in laps:
        print(f"| {part} | {wall:.1f} | {cpu:.1f} |")
    print(f"\n{len(pairs):,} near images, {len(near):,} near rows; peak {peak:.2f} GiB")


if __name__ == "__main__":
    main()
