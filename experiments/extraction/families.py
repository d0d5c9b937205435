"""CPU seconds of attention spectra by family: the fast way, the model's own forward, eager.

    OMP_NUM_THREADS=1 python experiments/extraction/families.py                 # CPU, minutes
    OMP_NUM_THREADS=1 python experiments/extraction/families.py --only llava qwen3_vl

Every family of `tests/tiny_families.py`, and the models of `tests/tiny_undescribed.py` that nobody
described, made wider: six layers, four times the width and heads. Random weights of one seed, rows
with a picture of a different size each, several rows a picture, text of log-normal length.

- *fast*: `Scan` of a described family: the tower once an image, prefixes shared where that pays.
- *whole*: `Scan` by the model's own forward, with transformers' own processor.
- *bare*: the same batches through the model's own forward alone, by torch's fused attention; the
  pictures are read and processed as in *whole*, no logits are computed.
- *eager*: these batches once more, with the maps of eager attention, their blocks of text and
  image summed over layers, and `torch.linalg.svdvals`.

Seconds are `time.process_time` of one snapshot; the fewest of the rounds count.
"""

import argparse
import copy
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from tiny import seeded
from tiny_families import TINY, Tiny
from tiny_undescribed import UNDESCRIBED
from transformers import AutoModelForImageTextToText

from xmas.attention.engine import Running, Scan
from xmas.attention.feed import Material
from xmas.attention.metric import Spectra
from xmas.data.pool import Pool
from xmas.models import families
from xmas.models.chat.tokens import Tokenised
from xmas.models.families.undescribed import parts_of
from xmas.models.own_processor import OwnProcessor
from xmas.models.vision_cache import FromFiles
from xmas.models.vlm import load
from xmas.store import Store
from xmas.target import hf_folder

WAYS = ("fast", "whole", "bare", "eager")
SEED = 0
SIDES = (48, 97)  # pixels of a picture


def write_pool(folder: Path, rows: int, each: int) -> Pool:
    """A pool of noise pictures, `each` rows a picture."""
    rng = np.random.default_rng(SEED)
    images = folder / "images"
    images.mkdir()
    words = "crimson disc box teal bar gold flat quite a the with drawn".split()
    records = []
    for row in range(rows):
        name = f"{row // each}.png"
        if not (images / name).exists():
            height, width = rng.integers(*SIDES, size=2)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / name)
        count = int(rng.lognormal(3.3, 0.5)) + 1
        answer = " ".join(rng.choice(words, size=count))
        question = {"from": "human", "value": "<image>\nWhat is drawn?"}
        turns = [question, {"from": "gpt", "value": answer}]
        records.append({"id": str(row), "image": name, "conversations": turns})
    (folder / "pool.json").write_text(json.dumps(records))
    return Pool(str(folder / "pool.json"), str(images))


def wider(config: Any, times: int, layers: int) -> torch.nn.Module:
    """A random model of a tiny configuration, its language model `times` as wide."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        setattr(text, name, times * getattr(text, name))
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = [text.layer_types[0]] * layers
    vision = config.vision_config
    widths = {"qwen2_vl": "hidden_size"}  # of the merger's outputs
    merged = widths.get(config.model_type, "out_hidden_size")
    if hasattr(vision, merged):
        setattr(vision, merged, text.hidden_size)
    torch.manual_seed(SEED)
    return AutoModelForImageTextToText.from_config(config).eval()


def seconds(run: Callable[[], Any], rounds: int) -> float:
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        spent.append(time.process_time() - start)
    return min(spent)


@torch.no_grad()
def batches(scan: Scan, model: torch.nn.Module, *, eager: bool) -> None:
    """The batches of a scan through the model's own forward."""
    parts, token = parts_of(model.config), model.config.image_token_id
    before = model.config._attn_implementation
    model.set_attn_implementation("eager" if eager else "sdpa")
    units = [unit for shard in range(scan.plan.shards) for unit in scan.plan.units(shard)]
    for loaded in scan.feed(units):
        for text in loaded.texts:
            images = {name: one for name, one in text.pictures.items() if name in parts.accepted}
            types = dict.fromkeys(parts.types, (text.ids == token).long())
            outputs = model.base_model(
                input_ids=text.ids, attention_mask=text.mask.long(), use_cache=False,
                output_attentions=eager, **images, **types,
            )  # fmt: skip
            if eager:
                total = sum(layer.mean(dim=1) for layer in outputs.attentions)
                for row, lines in enumerate(text.text_mask):
                    block = total[row][text.text[row][lines]]
                    torch.linalg.svdvals(block[:, text.image[row][text.image_mask[row]]])
    model.set_attn_implementation(before)


def measured(
    kind: str, tiny: Tiny, pool: Pool, store: Store, folder: Path, options: argparse.Namespace
) -> dict[str, float]:
    """Seconds of every way for a family."""
    start = seeded(tiny.write)(folder)
    parts = load(store.get(start))
    table = Tokenised(pool, start.tokenizer, tiny.template, start.image, 4096).open(store)
    rows, pad = pool.open(store), parts.tokenizer.pad_token_id
    model = wider(parts.model.config, options.times, options.layers)
    spectra = Spectra(batch_tokens=options.batch_tokens)

    def scan(processor: Any) -> Scan:
        material = Material(table, FromFiles(rows, processor), rows.shown, pad)
        return Scan(model, material, spectra, Running())

    spent: dict[str, float] = {}
    own = parts.processor
    if kind in families.FAMILIES:
        fast = scan(parts.processor)
        spent["fast"] = seconds(lambda: fast.once(kind), options.rounds)
        family, config = families.exportable(model.config), model.config
        tokenizer, image = hf_folder._tokenizer(parts)
        own = OwnProcessor(family.hub_processor(config, parts.processor, tokenizer, image))
    others = {name: one for name, one in families.FAMILIES.items() if name != kind}
    with patch.object(families, "FAMILIES", others):
        whole = scan(own)
        spent["whole"] = seconds(lambda: whole.once(kind), options.rounds)
        spent["bare"] = seconds(lambda: batches(whole, model, eager=False), options.rounds)
        spent["eager"] = seconds(lambda: batches(whole, model, eager=True), options.rounds)
    spent["tokens"] = float(table.lengths.mean())
    return spent


def page(results: Mapping[str, Mapping[str, float]]) -> str:
    """A line a family."""
    lines = [
        "| family | tokens a row | fast | whole | bare | eager | whole / bare | fast / bare |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, spent in results.items():
        cells = [f"{spent[way]:.2f}" if way in spent else "" for way in WAYS]
        ratio = f"{spent['fast'] / spent['bare']:.2f}" if "fast" in spent else ""
        lines.append(
            f"| {kind} | {spent['tokens']:.0f} | {' | '.join(cells)} | "
            f"{spent['whole'] / spent['bare']:.2f} | {ratio} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="families, by model_type; all by default")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--each", type=int, default=2, help="rows a picture")
    parser.add_argument("--times", type=int, default=4, help="the tiny models' width")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        options.only, options.rows, options.rounds = ["qwen3_vl", "aya_vision"], 4, 1
        options.times, options.layers = 1, 2
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, {torch.get_num_threads()} thread(s), seed {SEED}, "
        f"{options.rows} rows, {options.each} a picture, {options.times} x width, "
        f"{options.layers} layers\n"
    )
    everything = {**TINY, **UNDESCRIBED}
    results = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pool, store = write_pool(folder, options.rows, options.each), Store(str(folder / "store"))
        for kind in options.only or everything:
            model_folder = folder / kind
            model_folder.mkdir()
            results[kind] = measured(kind, everything[kind], pool, store, model_folder, options)
    print(page(results))


if __name__ == "__main__":
    main()
