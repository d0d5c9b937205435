"""Tokens a second of LoRA fine-tuning: the plain recipe compared with ours, in one run.

    python experiments/training/throughput.py               LLaVA-1.5-7B, on a GPU
    OMP_NUM_THREADS=1 taskset -c 1 \\
        python experiments/training/throughput.py --size small --device cpu

Weights are random, from the configuration; rows have the lengths of LLaVA-665k and images of full
size. All ways train the same rows on one model. The plain recipe is what third-party stacks do:
padded batches, gradient checkpointing of the whole model, logits and loss of every token.

Model FLOPs are those that a step needs, counted by `xmas.estimate.flops` for tokens that are no
padding; recomputation is not among them. Their share is of the matmul rate measured in this run.
Needs torch, transformers, peft, lightning and what `xmas` itself imports; no Hydra, FAISS, network.
"""

import argparse
import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from xmas.estimate import flops
from xmas.models.answer_loss import answer_loss
from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.layout import Fixed
from xmas.models.chat.packing import pack
from xmas.models.chat.tokens import TokenTable
from xmas.models.families import family_of
from xmas.models.shape import Shape
from xmas.models.vision_cache import features_of
from xmas.models.vlm import unwrap
from xmas.training.fit.batch_plan import plan_batches
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.fit.speed import configured
from xmas.training.fit.trainables import Lora, with_lora

SIZES: dict[str, dict[str, Any]] = {
    "7b": {
        "text": {
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                   "num_attention_heads": 16},
        "lora": Lora(), "rows": 64, "micro": 16,
    },
    "tiny": {  # to see that it runs
        "text": {
            "vocab_size": 500,
            "hidden_size": 32,  # heads of 16: flash-attention takes multiples of 8
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        "vision": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                   "num_attention_heads": 2},
        "lora": Lora(2, 4), "rows": 2, "micro": 1, "side": 256,
    },
    "small": {  # narrow, with the tokens of the full one
        "text": {
            "vocab_size": 8000,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
        },
        "vision": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4,
                   "num_attention_heads": 4},
        "lora": Lora(16, 32), "rows": 24, "micro": 4,
    },
}  # fmt: skip
IMAGE = 576  # tokens, as (336 / 14) squared
OURS = Hardware(packing=True, logit_rows=4096)
WAYS: dict[str, Hardware | None] = {  # None: the plain recipe
    "plain, rows as they come": None,
    "plain, grouped by length": None,
    "ours, all blocks recomputed": dataclasses.replace(OURS, checkpointing=1.0),
    "ours, half of them": dataclasses.replace(OURS, checkpointing=0.5),
    "ours, none": OURS,
    "ours, all, padded": dataclasses.replace(OURS, checkpointing=1.0, packing=False),
}


class Drawn(TokenTable):
    """Rows of random tokens with the lengths of LLaVA-665k, and their pictures.

    Args:
        images: share of rows with an image.
    """

    def __init__(self, count: int, vocabulary: int, seed: int = 0, images: float = 0.939) -> None:
        rng = np.random.default_rng(seed)
        text = rng.lognormal(np.log(200 / 2**0.5), np.log(2) ** 0.5, count)  # mean and sd 200
        lengths = np.clip(text, 24, 2048 - IMAGE).astype(int)
        has_image = rng.random(count) < images
        labelled = [np.arange(length) >= length // 2 for length in lengths]  # half are answers
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ids = rng.integers(3, vocabulary - 70, lengths.sum())
            ids.astype(np.int32).tofile(folder / "ids.bin")
            np.concatenate(labelled).tofile(folder / "labelled.bin")
            np.save(folder / "offsets.npy", np.cumsum([0, *lengths]))
            np.save(folder / "image_at.npy", np.where(has_image, 5, -1).astype(np.int32))
            np.save(folder / "answered.npy", np.ones(count, dtype=bool))
            np.save(folder / "image_lengths.npy", IMAGE * has_image)
            np.save(folder / "image_sizes.npy", np.zeros((count, 2), dtype=np.int32))
            super().__init__(folder, Fixed(IMAGE))

    def pictures(self, rows: list[int]) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(rows[0])
        return {"pixels": torch.rand(len(rows), 3, 336, 336, generator=generator)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--size", choices=SIZES, default="7b" if torch.cuda.is_available() else "small"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3, help="over all ways; the best counts")
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--micro", type=int, default=None, help="rows of a micro-batch")
    parser.add_argument("--out", type=Path, default=None, help="a JSON file for the numbers")
    parser.add_argument("--tiny", action="store_true", help="a few rows, to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        options.size, options.rounds = "tiny", 1
    size = SIZES[options.size] | {
        name: held for name in ("rows", "micro") if (held := getattr(options, name)) is not None
    }
    device = torch.device(options.device)
    found, tokens, needed, rate = compare(size, device, options.rounds)
    print(f"torch {torch.__version__}, {named(device)}; {size['rows']} rows in micro-batches of "
          f"{size['micro']}, {tokens:.0f} tokens")  # fmt: skip
    print(f"measured matmul rate: {rate / 1e12:.4g} TFLOP/s")
    print(table(found, tokens, needed, rate))
    if options.out:
        held = {"device": named(device), "matmul": rate, "tokens": tokens, "flops": needed}
        options.out.write_text(json.dumps(held | {"ways": found}, indent=2))


def compare(
    size: dict[str, Any], device: torch.device, rounds: int
) -> tuple[dict[str, dict[str, float]], float, float, float]:
    """Every way's best seconds with its loss and peak; tokens and FLOPs of a step; matmul FLOP/s.

    A way that does not fit into the memory takes infinitely many seconds.
    """
    model = built(size, device)
    config = unwrap(model).config
    drawn: Any = Drawn(size["rows"], config.text_config.vocab_size)
    rate = matmul_rate(device, size.get("side"))
    needed = model_flops(family_of(config).shape(config), drawn, size["lora"].rank)
    batches = {name: batches_of(name, drawn, size["micro"], config) for name in WAYS}
    found: dict[str, dict[str, float]] = {name: {"seconds": np.inf} for name in WAYS}
    for _ in range(rounds):
        for name, hardware in WAYS.items():
            try:
                measured = measure(model, batches[name], hardware, device)
            except torch.OutOfMemoryError:
                measured = {"seconds": np.inf, "loss": np.nan, "GB": np.nan}
            found[name] = min(found[name], measured, key=lambda one: one["seconds"])
    return found, float(drawn.lengths.sum()), needed, rate


def built(size: dict[str, Any], device: torch.device) -> nn.Module:
    """A LLaVA of random weights with LoRA, its frozen part in bfloat16 on a GPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return with_lora(random_model(size, device, dtype), size["lora"]).to(device)


def vocabulary(size: dict[str, Any]) -> int:
    return size["text"]["vocab_size"]


def random_model(size: dict[str, Any], device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A LLaVA of random weights; the seed is always the same."""
    config = LlavaConfig(
        text_config=LlamaConfig(max_position_embeddings=4096, **size["text"]),
        vision_config=CLIPVisionConfig(image_size=336, patch_size=14, **size["vision"]),
        image_token_index=size["text"]["vocab_size"] - 64,
        image_seq_length=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with device:
        model = LlavaForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model.config._attn_implementation = "sdpa"
    return model


def batches_of(name: str, drawn: Any, micro: int, config: Any) -> list[Batch]:
    """The same rows for every way, in its order and form."""
    rows = np.arange(len(drawn))
    batches = plan_batches(drawn, rows, Recipe(batch=4 * micro, micro_batch=micro), 0).batches
    if "as they come" in name:
        batches = [rows[start : start + micro] for start in range(0, len(rows), micro)]
    hardware = WAYS[name]
    loader = Loader(
        drawn,
        batches,
        image_token=config.image_token_id,
        pad=config.text_config.vocab_size - 1,
        pictures=drawn.pictures,
        change=pack if hardware is not None and hardware.packing else None,
    )
    return list(loader)


def measure(
    model: nn.Module, batches: list[Batch], hardware: Hardware | None, device: torch.device
) -> dict[str, float]:
    """Seconds of an optimiser step over all batches, its mean loss, the peak of memory in GB."""
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    ready(model)
    setting = plain(model) if hardware is None else configured(model, hardware, precision(device))
    with setting, torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        step = plain_loss if hardware is None else our_loss(hardware)
        step(model, batches[0].to(device)).backward()  # warms up
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        begun = now(device)
        losses = []
        for batch in batches:
            loss = step(model, batch.to(device))
            (loss / len(batches)).backward()
            losses.append(loss.detach())
        optimizer.step()
        seconds = now(device) - begun
    optimizer.zero_grad()
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan")
    return {"seconds": seconds, "loss": float(torch.stack(losses).mean()), "GB": peak}


def ready(model: nn.Module) -> None:
    model.train()
    unwrap(model).model.vision_tower.eval()


def precision(device: torch.device) -> str:
    return "bf16-mixed" if device.type == "cuda" else "32-true"


@contextlib.contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """Checkpointing of all sub-models, the tower's too, as trainers ask for it before peft."""
    inner = unwrap(model)
    enable = getattr(inner, "activation_checkpointing_enable", None)
    (enable or inner.gradient_checkpointing_enable)()
    hooks = [
        part.get_input_embeddings().register_forward_hook(lambda _, __, out: out.requires_grad_())
        for part in (inner.model.language_model, inner.model.vision_tower)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for part in inner.modules():
            if hasattr(part, "gradient_checkpointing"):
                part.gradient_checkpointing = False


def plain_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The model's own forward with labels: logits of every token in float32."""
    pixels = batch.pictures.get("pixels")
    given = {} if pixels is None else {"pixel_values": pixels}
    return model(
        input_ids=batch.ids, attention_mask=batch.mask.long(), labels=batch.labels,
        use_cache=False, **given,
    ).loss  # fmt: skip


def our_loss(hardware: Hardware) -> Callable[[nn.Module, Batch], Tensor]:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return answer_loss(
            model, batch.ids, batch.mask, batch.labels, features_of(model, batch),
            lengths=batch.lengths, logit_rows=hardware.logit_rows,
        )  # fmt: skip

    return loss


def model_flops(shape: Shape, drawn: Any, rank: int) -> float:
    """Of a step over all rows: no padding, nothing computed twice."""
    load = flops.Load(
        rows=len(drawn),
        tokens=float(drawn.lengths.sum()),
        squares=float((drawn.lengths.astype(float) ** 2).sum()),
        answers=float(sum(drawn.answers(row) for row in range(len(drawn)))),
        images=float((drawn.image_at >= 0).sum()),
    )
    again = 0.5 * flops.attention(shape.decoder, load.squares)  # fused kernels' own
    return flops.fit(shape, load, towers=load.images, rank=rank) - again


def matmul_rate(device: torch.device, side: int | None = None) -> float:
    """FLOP/s of a product of two squares, large ones by default, in the precision of the step."""
    usual, kind = (8192, torch.bfloat16) if device.type == "cuda" else (1536, torch.float32)
    side = side or usual
    a, b = (torch.randn(side, side, dtype=kind, device=device) for _ in range(2))
    best = np.inf
    for _ in range(5):
        begun = now(device)
        for _ in range(10 if device.type == "cuda" else 1):
            a @ b
        best = min(best, (now(device) - begun) / (10 if device.type == "cuda" else 1))
    return 2.0 * side**3 / best


def now(device: torch.device) -> float:
    """Wall-clock seconds on a GPU; CPU seconds of this process on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def named(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "CPU"


def table(found: dict[str, dict[str, float]], tokens: float, needed: float, rate: float) -> str:
    lines = ["| way | tokens/s | against plain | of the matmul rate | peak GB | loss |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    first = next(iter(found.values()))["seconds"]
    for name, one in found.items():
        seconds = one["seconds"]
        lines.append(
            f"| {name} | {tokens / seconds:,.0f} | {first / seconds:.2f}x | "
            f"{needed / seconds / rate:.1%} | {one['GB']:.1f} | {one['loss']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
