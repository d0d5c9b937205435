"""Gradients of the demo's rows, padded to one length in a batch and packed end to end.

    python experiments/influence/packed.py [FOLDER] [--start demo] [--width 1024] [--times 1]

Both passes are over the whole pool under the same warmed-up model, and write the same values up to
rounding. Seconds are those of the processor, which other work changes little. FOLDER keeps the
store, with the warmed-up model; the gradients are computed anew.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np

from xmas import Store
from xmas.attention.plan import length_batches, packed_batches
from xmas.cli.config import build, folder
from xmas.features.influence.gradients import Gradients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="influence_runs", type=Path)
    parser.add_argument("--start", default="demo")
    parser.add_argument("--rows", type=int, default=4000, help="of the demo's pool")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--times", type=int, default=1)
    options = parser.parse_args()
    store = Store(str(options.folder / "store"))
    gradients = gradients_of(
        f"start={options.start}",
        f"demo_pool.rows={options.rows}",
        f"features.gradients.width={options.width}",
    )
    lengths = np.asarray(gradients.seen.tokens().open(store).lengths)
    padded = length_batches(lengths, 0, gradients.batch_tokens)
    packed = packed_batches(lengths, gradients.batch_tokens)
    tokens = {
        False: sum(len(rows) * int(lengths[rows].max()) for rows in padded),
        True: int(lengths.sum()),
    }
    print("| rows | batches | tokens | CPU seconds |\n|---|---:|---:|---:|")
    values = {}
    for _ in range(options.times):
        for packing, batches in ((False, padded), (True, packed)):
            values[packing], seconds = computed(gradients, packing, store)
            name = "packed" if packing else "padded"
            print(f"| {name} | {len(batches)} | {tokens[packing]:,} | {seconds:.1f} |", flush=True)
    largest, apart = np.abs(values[False]).max(), np.abs(values[True] - values[False]).max()
    print(f"largest value {largest:.2f}, largest difference {apart:.1e}")


def gradients_of(*overrides: str) -> Gradients:
    """The stage that `selector=influence` has on the demo."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(folder(), version_base="1.3"):
        return build(compose("config", ["experiment=demo", *overrides]).features.gradients)


def computed(gradients: Gradients, packing: bool, store: Store) -> tuple[np.ndarray, float]:
    """The values of all rows, and the seconds of the processor that the pass took."""
    stage = dataclasses.replace(gradients, packing=packing)
    with tempfile.TemporaryDirectory() as out:
        begin = time.process_time()
        stage.compute(store, Path(out))
        seconds = time.process_time() - begin
        return np.load(Path(out, "values.npy")).astype(np.float32), seconds


if __name__ == "__main__":
    main()
