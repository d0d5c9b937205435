"""One training step and one scan of a proxy at full size, with random weights.

    python experiments/extraction/full_size.py            all three, on the GPU if there is one
    python experiments/extraction/full_size.py smolvlm_256m --rows 1 --device cpu

Shows that a proxy fits the card and that every part of it runs: the tower on real tiles, the
expansion of image tokens, the loss at the answers' positions, AdamW in float32 under bf16, the
scan. Prints seconds and the peak of memory; they are no measurement of speed, a first step warms
up. Needs torch, transformers, tokenizers and what `xmas` itself imports; no Hydra, no network.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

from xmas.attention.engine import Material, Running, Scan
from xmas.attention.metric import Spectra
from xmas.data.images.pixels import SquareImages
from xmas.data.pool import Pool
from xmas.data.rows import Shown
from xmas.models.answer_loss import answer_loss
from xmas.models.chat.batches import Loader
from xmas.models.chat.template import Template
from xmas.models.chat.tokens import Tokenised, TokenTable
from xmas.models.specs import FULL_SIZE
from xmas.models.vision_cache import FromFiles, features_of
from xmas.models.vlm import LoadedModel, freeze_tower, language_model
from xmas.store import Store

WORDS = "the cup stands left of a small red box on two wooden boards near an open window".split()
MARKS = ["<|endoftext|>", "<image>", "<fake_token_around_image>", "<global-img>"] + [
    f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)
]
PROXIES = ("tinyllava_stablelm", "llava_onevision_05b", "smolvlm_256m")  # of conf/proxy
SHAPES = [(480, 640), (640, 480), (333, 500), (427, 640)]  # height, width: as COCO's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=PROXIES, metavar="proxy")
    parser.add_argument("--rows", type=int, default=8, help="of the batch and of the scan")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="narrow models, to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        options.rows, SHAPES[:] = 1, [(64, 384)]  # two tiles, or five
    print(f"torch {torch.__version__}, {_device_name(options.device)}, {options.rows} rows")
    for name in options.names:
        with tempfile.TemporaryDirectory() as folder:
            config = FULL_SIZE[name]()
            if options.tiny:
                narrow(config)
            measure(name, Path(folder), options.rows, torch.device(options.device), config)


def narrow(config: Any) -> None:
    """Two thin layers in place of the tower's and the language model's own, and few words."""
    for part in (config.text_config, config.vision_config):
        part.num_hidden_layers, part.num_attention_heads = 2, 2
        part.hidden_size, part.intermediate_size = 32, 48
    config.text_config.num_key_value_heads = 2
    config.image_token_id, config.text_config.vocab_size = 61, 67
    config.text_config.pad_token_id = 0


def measure(
    name: str, folder: Path, rows: int, device: torch.device, config: Any = None
) -> dict[str, float]:
    """Build, step, scan; prints a line for each.

    Args:
        config: of the model; None: the published one.

    Raises:
        FloatingPointError: the loss or a value of the scan is not finite.
    """
    parts = random_parts(name, device, config or FULL_SIZE[name]())
    count = sum(one.numel() for one in parts.model.parameters())
    table, pictures = random_pool(parts, folder, rows)
    length = int(table.lengths.max())
    print(f"{name}: {count / 1e6:,.1f} M parameters, rows of up to {length:,} tokens")
    step_seconds, loss = timed(lambda: training_step(parts, table, pictures, device), device)
    print(f"  training step {step_seconds:.2f} s, loss {loss:.3f}, {_peak(device)}")
    parts.model.to(torch.bfloat16)
    material = Material(
        table, pictures, Shown.single(np.arange(rows)), parts.tokenizer.pad_token_id
    )
    scan = Scan(parts.model, material, Spectra(), Running(weights="bfloat16"))
    scan_seconds, values = timed(lambda: scan.once(name), device)
    if not np.isfinite(values).all():
        raise FloatingPointError(f"{name}: the scan gave {values}")
    largest = values[0].round(3).tolist()
    print(f"  scan {scan_seconds:.2f} s, largest values {largest}, {_peak(device)}")
    return {"step seconds": step_seconds, "loss": loss, "scan seconds": scan_seconds}


def random_parts(name: str, device: torch.device, config: Any) -> LoadedModel:
    """The proxy with random float32 weights, a tokenizer of its vocabulary, its own tiles."""
    torch.manual_seed(0)
    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    vocabulary = {mark: number for number, mark in enumerate([*MARKS, *WORDS, "<unk>"])}
    vocabulary |= {f"<{n}>": n for n in range(len(vocabulary), config.image_token_id)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(MARKS)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=MARKS[0], pad_token=MARKS[0], unk_token="<unk>"
    )
    return LoadedModel(model.eval(), tokenizer, processor_of(name, config))


def processor_of(name: str, config: Any) -> Any:
    """The image processor with the published values."""
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if name == "tinyllava_stablelm":
        return SquareImages(config.vision_config.image_size, "crop")
    if name == "llava_onevision_05b":
        from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
            LlavaOnevisionImageProcessorPil,
        )

        from xmas.models.families.onevision import OnevisionImages

        return OnevisionImages(LlavaOnevisionImageProcessorPil(**half))
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    from xmas.models.families.idefics3 import TiledImages

    tiles = {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}
    return TiledImages(Idefics3ImageProcessorPil(**tiles, **half))


def random_pool(parts: LoadedModel, folder: Path, rows: int) -> tuple[TokenTable, FromFiles]:
    """A pool of noise pictures in a photograph's shapes and sentences of 20 to 200 words."""
    rng = np.random.default_rng(0)
    records = []
    for row in range(rows):
        height, width = SHAPES[row % len(SHAPES)]
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{row}.png")
        said = [" ".join(rng.choice(WORDS, size)) for size in rng.integers(10, 100, 2)]
        talk = [
            {"from": "human", "value": f"<image>\n{said[0]}"},
            {"from": "gpt", "value": said[1]},
        ]
        records.append({"id": str(row), "image": f"{row}.png", "conversations": talk})
    (folder / "pool.json").write_text(json.dumps(records))
    pool = Pool(str(folder / "pool.json"), str(folder))
    parts.tokenizer.save_pretrained(folder / "tokenizer")
    known = SimpleNamespace(layout=lambda store: parts.layout)
    template = Template(eos=f" {MARKS[0]}")
    store = Store(str(folder / "store"))
    stage = Tokenised(pool, str(folder / "tokenizer"), template, known, 8192)  # type: ignore[arg-type]
    out = folder / "tokens"
    out.mkdir()
    stage.compute(store, out)
    return TokenTable(out, parts.layout), FromFiles(pool.open(store), parts.processor)


def training_step(
    parts: LoadedModel, table: TokenTable, pictures: FromFiles, device: torch.device
) -> float:
    """Loss, gradients and an AdamW update, as a fit does it; the tower frozen."""
    freeze_tower(parts.model)
    language_model(parts.model).train()
    loader = Loader(
        table,
        [np.arange(len(table))],
        image_token=parts.model.config.image_token_id,
        pad=parts.tokenizer.pad_token_id,
        pictures=pictures,
    )
    batch = next(iter(loader)).to(device)
    trained = [one for one in parts.model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5, weight_decay=0.0, fused=True)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        loss = answer_loss(
            parts.model,
            batch.ids,
            batch.mask,
            batch.labels,
            features_of(parts.model, batch),
            sizes=batch.pictures.get("sizes"),
        )
    loss.backward()
    optimizer.step()
    parts.model.zero_grad(set_to_none=True)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"loss {loss.item()}")
    return loss.item()


def timed(work: Any, device: torch.device) -> tuple[float, Any]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, found


def _peak(device: torch.device) -> str:
    if device.type != "cuda":
        return "no GPU"
    return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most"


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"


if __name__ == "__main__":
    main()
