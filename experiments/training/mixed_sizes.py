"""What a step wastes on pictures that differ in size, by how its microbatches are formed.

    python experiments/training/mixed_sizes.py

Rows are drawn: photographs, screenshots, pages and charts of the sizes that instruction sets have,
texts with the lengths of LLaVA-665k, a sixteenth of the rows without a picture. Their tokens are
those of the families' own image processors. Nothing is run: pads are counted, and work is model
FLOPs from `xmas.estimate.flops`, the tower's among them. Needs no GPU and no file.

- pads: of all tokens that a padded fit multiplies;
- idle: of the devices' time, at 8 devices that wait for each other in every microbatch;
- largest: tokens of the largest microbatch, by which memory is chosen.
"""

import argparse
import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from xmas.estimate import flops
from xmas.estimate.flops import Load
from xmas.models.families import FAMILIES
from xmas.models.families.qwen_vl import Native
from xmas.models.shape import Shape
from xmas.training.fit.batch_plan import training_order
from xmas.training.fit.recipe import Recipe

DEVICES, BATCH, MICRO, RANK = 8, 128, 8, 64
LONGEST = 4096  # tokens of a row, its image counted
TILE = 448  # pixels of InternVL's, of which one has 256 tokens


@dataclasses.dataclass(frozen=True)
class Rows:
    lengths: Int[np.ndarray, " rows"]
    images: Int[np.ndarray, " rows"]  # tokens of the image
    patches: Float[np.ndarray, " rows"]  # that the tower sees

    @property
    def has_image(self) -> np.ndarray:
        return self.images > 0


def sizes(count: int, rng: np.random.Generator) -> Int[np.ndarray, "rows 2"]:
    """Height and width: half photographs of COCO's size, pages, screenshots, charts."""
    kinds = rng.choice(4, size=count, p=[0.55, 0.15, 0.15, 0.15])
    long_side = np.array([640, 1650, 1280, 500])[kinds]
    ratio = np.array([0.75, 0.77, 0.56, 0.7])[kinds] * np.exp(0.1 * rng.standard_normal(count))
    short_side = np.rint(long_side * np.minimum(ratio, 1)).astype(int)
    upright = rng.random(count) < np.array([0.3, 0.9, 0.05, 0.1])[kinds]
    height = np.where(upright, long_side, short_side)
    return np.stack([height, np.where(upright, short_side, long_side)], axis=1)


def qwen(size: tuple[int, int]) -> tuple[int, int]:
    """Tokens and patches of Qwen2.5-VL with at most 1,280 tokens an image."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    own = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=1003520)
    tokens = len(Native(own, (1, 2), None).tokens(size)) - 2
    return tokens, 4 * tokens


def internvl(size: tuple[int, int]) -> tuple[int, int]:
    """Of InternVL3: as many tiles of 448 pixels as suit the shape, 12 at most, and the whole."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    columns, rows = get_optimal_tiled_canvas(size, (TILE, TILE), 1, 12)
    tiles = rows * columns + (rows * columns > 1)
    return 256 * tiles, 1025 * tiles


FAMILIES_OF: dict[str, tuple[str, str, Callable[[tuple[int, int]], tuple[int, int]]]] = {
    "Qwen2.5-VL-3B": ("qwen2_5_vl", "qwen25_vl_3b", qwen),
    "InternVL3.5-1B": ("internvl", "internvl35_1b", internvl),
}


def drawn(count: int, tokens: Callable[[tuple[int, int]], tuple[int, int]], seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    counts = {}
    images, patches = np.zeros(count, dtype=int), np.zeros(count)
    for row, size in enumerate(map(tuple, sizes(count, rng).tolist())):
        if size not in counts:
            counts[size] = tokens(size)
        images[row], patches[row] = counts[size]
    textual = rng.random(count) < 1 / 16
    images, patches = np.where(textual, 0, images), np.where(textual, 0, patches)
    spread = np.sqrt(np.log(2))  # a standard deviation as large as the mean, 200 tokens
    text = 200 * np.exp(spread * rng.standard_normal(count) - spread**2 / 2)
    text = np.clip(np.rint(text).astype(int), 20, LONGEST - images)
    return Rows(text + images, images, patches)


def work(shape: Shape, rows: Rows, batch: np.ndarray, *, packed: bool) -> float:
    """FLOPs of a microbatch: LoRA's step of the language model, and the tower once."""
    lengths = rows.lengths[batch].astype(float)
    if not packed:
        lengths = np.full_like(lengths, lengths.max())
    load = Load(tokens=float(lengths.sum()), squares=float((lengths**2).sum()))
    images = float(rows.patches[batch].sum()) / shape.tower.patches
    return flops.fit(shape, load, towers=images / shape.tiles, rank=RANK)


def wasted(shape: Shape, rows: Rows, grouping: str, *, packed: bool) -> dict[str, float]:
    recipe = Recipe(batch=BATCH, micro_batch=MICRO, grouping=grouping)
    order = training_order(
        rows.lengths, rows.images, rows.has_image, recipe, tower=True,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    whole = len(order) // BATCH * BATCH
    batches = order[:whole].reshape(-1, MICRO)
    lengths = rows.lengths[batches]
    tokens = lengths.sum(axis=1) if packed else MICRO * lengths.max(axis=1)
    costs = np.array([work(shape, rows, batch, packed=packed) for batch in batches])
    at_once = costs.reshape(-1, DEVICES)
    return {
        "pads": 1 - lengths.sum() / tokens.sum(),
        "idle": 1 - at_once.sum() / (DEVICES * at_once.max(axis=1).sum()),
        "largest": float(tokens.max()),
        "device FLOPs": float(at_once.max(axis=1).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20_480)
    parser.add_argument("--tiny", action="store_true", help="256 rows: to see that it runs")
    arguments = parser.parse_args()
    count = 256 if arguments.tiny else arguments.rows
    print("| model | fit | grouping | pads | idle | largest | time against balanced |")
    print("|---|---|---|---|---|---|---|")
    for model, (kind, config, tokens) in FAMILIES_OF.items():
        family = FAMILIES[kind]
        shape = family.shape(family.full_size[config]())
        rows = drawn(count, tokens, seed=1)
        for packed in (False, True):
            before = wasted(shape, rows, "balanced", packed=packed)
            after = wasted(shape, rows, "alike", packed=packed)
            for grouping, waste in (("balanced", before), ("alike", after)):
                time = waste["device FLOPs"] / before["device FLOPs"]
                print(
                    f"| {model} | {'packed' if packed else 'padded'} | {grouping} | "
                    f"{waste['pads']:.1%} | {waste['idle']:.1%} | {waste['largest']:,.0f} | "
                    f"{time:.2f} |"
                )


if __name__ == "__main__":
    main()
