"""Seconds of the engine, of the release's way, and of the bare forward passes, side by side.

    python experiments/extraction/engine.py --model small                       # CPU, minutes
    python experiments/extraction/engine.py --model stablelm --device cuda      # StableLM-2-1.6B

All three see the same random model, snapshots and examples in one process, one after the other in
every round; the fewest seconds of the rounds count. Prints a Markdown table and writes a JSON.

- *the release's way*, written here from the description of it: every snapshot in a separate pass,
  batches of 8 in data order, pictures decoded and encoded in each pass, eager attention whose maps
  are all kept, logits of every token, `svd_lowrank(q=5, niter=2)`. It reads the maps that eager
  attention returns, where the release multiplies queries and keys once more: less work than there.
- *bare*: the batches of the engine, the same tokens, torch's fused attention, nothing captured.
- *all keys*: the engine without the sums that the pass's own kernel computes.
"""

import argparse
import dataclasses
import io
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    DynamicCache,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    StableLmConfig,
)

from xmas.attention.capture import CrossAttention
from xmas.attention.collector import Collector
from xmas.attention.engine import Material, Running, Scan
from xmas.attention.feed import Loaded
from xmas.attention.metric import Spectra
from xmas.attention.prefix import branches
from xmas.attention.shards import Shards
from xmas.attention.unit_collectors import collector_of
from xmas.data.images.pixels import SquareImages
from xmas.data.rows import Shown
from xmas.models.chat.layout import Fixed
from xmas.models.chat.tokens import TokenTable
from xmas.models.cpu_matmul import by_mkl
from xmas.models.vlm import embed, unwrap

TOGETHER = 8  # rows of a batch, XMAS release
K = 5
RELEASE, ENGINE, BARE = "the release's way", "engine", "bare forward"
ALL_KEYS, ALWAYS, NEVER = "engine, all keys", "engine, prefixes always", "engine, prefixes never"
WAYS = (RELEASE, ENGINE, BARE, ALL_KEYS, ALWAYS, NEVER)


@dataclasses.dataclass(frozen=True)
class Size:
    """A model's shape and the lengths of its examples."""

    config: LlavaConfig
    pixels: int
    photo: tuple[int, int]  # width and height of a file
    before: int  # tokens before the image
    text: float  # mean tokens after it, log-normal
    deviation: float  # of the random weights
    examples: int
    batch_tokens: int


def sizes(model: str) -> Size:
    if model == "tiny":  # to see that it runs
        text = LlamaConfig(
            hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, vocab_size=1200,
        )  # fmt: skip
        vision = CLIPVisionConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            image_size=42, patch_size=14, projection_dim=16,
        )  # fmt: skip
        return Size(_llava(text, vision, 9), 42, (64, 48), 31, 20.0, 0.1, 6, 256)
    if model == "small":  # narrow, but with the tokens of the other: 31, 576, and a text
        text = LlamaConfig(
            hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6,
            num_key_value_heads=6, vocab_size=2000,
        )  # fmt: skip
        vision = CLIPVisionConfig(
            hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4,
            image_size=336, patch_size=14, projection_dim=128,
        )  # fmt: skip
        return Size(_llava(text, vision, 576), 336, (640, 480), 31, 170.0, 0.1, 48, 8192)
    text = StableLmConfig(  # stabilityai/stablelm-2-zephyr-1_6b, config.json
        hidden_size=2048, intermediate_size=5632, num_hidden_layers=24, num_attention_heads=32,
        num_key_value_heads=32, vocab_size=100352, partial_rotary_factor=0.25, use_qkv_bias=True,
        max_position_embeddings=4096,
    )  # fmt: skip
    vision = CLIPVisionConfig(  # openai/clip-vit-large-patch14-336, config.json
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=336, patch_size=14, projection_dim=768,
    )  # fmt: skip
    return Size(_llava(text, vision, 576), 336, (640, 480), 31, 170.0, 0.02, 512, 32768)


def _llava(text: object, vision: object, image_tokens: int) -> LlavaConfig:
    return LlavaConfig(
        text_config=text, vision_config=vision, image_seq_length=image_tokens,
        image_token_index=text.vocab_size - 1, vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )  # fmt: skip


class Photos:
    """JPEG files in memory, decoded and resized whenever they are asked for."""

    def __init__(self, picture: np.ndarray, size: Size, rng: np.random.Generator) -> None:
        self.picture, self.processor, self.files = picture, SquareImages(size.pixels), []
        width, height = size.photo
        for _ in range(int(picture.max()) + 1):
            coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(coarse).resize((width, height)).save(file, "JPEG")
            self.files.append(file.getvalue())

    def __call__(self, rows: list[int]) -> dict[str, Tensor]:
        files = [io.BytesIO(self.files[self.picture[row]]) for row in rows]
        return self.processor.pictures([Image.open(file) for file in files])


def material_of(size: Size, per_image: float, seed: int, folder: Path) -> Material:
    """Random tokens in the files of a token table; `per_image` examples a picture on average."""
    rng = np.random.default_rng(seed)
    spread = 0.8  # of the logarithm: a coefficient of variation of 0.95
    lengths = rng.lognormal(np.log(size.text) - spread**2 / 2, spread, size.examples)
    texts = np.clip(lengths.astype(int), 4, 2048 - size.before - size.config.image_seq_length)
    ids = [
        np.r_[np.arange(size.before), rng.integers(0, 1000, text)].astype(np.int32)
        for text in texts
    ]
    np.concatenate(ids).tofile(folder / "ids.bin")
    np.ones(sum(map(len, ids)), dtype=bool).tofile(folder / "labelled.bin")
    np.save(folder / "answered.npy", np.ones(size.examples, dtype=bool))
    np.save(folder / "offsets.npy", np.cumsum([0, *map(len, ids)]))
    np.save(folder / "image_at.npy", np.full(size.examples, size.before, dtype=np.int32))
    np.save(folder / "image_lengths.npy", np.full(size.examples, size.config.image_seq_length))
    np.save(folder / "image_sizes.npy", np.zeros((size.examples, 2), dtype=np.int32))
    pictures = round(size.examples / per_image)
    picture = rng.permutation(
        np.r_[np.arange(pictures), rng.integers(0, pictures, size.examples - pictures)]
    )
    table = TokenTable(folder, Fixed(size.config.image_seq_length))
    return Material(table, Photos(picture, size, rng), Shown.single(picture), pad=0)


def snapshots_of(model: torch.nn.Module, count: int, seed: int) -> dict[int, dict[str, Tensor]]:
    """Weights of all but the tower, each a small step from the last."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    held, found = {n: p.data for n, p in model.named_parameters() if "vision" not in n}, {}
    for number in range(count):
        held = {
            name: one + 0.05 * one.std() * torch.randn(
                one.shape, generator=generator, device=device, dtype=one.dtype
            ) if one.dim() > 1 else one
            for name, one in held.items()
        }  # fmt: skip
        found[number + 1] = held
    return found


@torch.no_grad()
def release(
    model: LlavaForConditionalGeneration,
    material: Material,
    snapshots: dict[int, dict[str, Tensor]],
    exact: bool = False,
) -> np.ndarray:
    """Values (rows, snapshots, k) the release's way; `exact`: by a float64 SVD instead."""
    table, device = material.table, next(model.parameters()).device
    model.model.language_model.set_attn_implementation("eager")
    found = np.zeros((len(table), len(snapshots), K), dtype=np.float32)
    for at, weights in enumerate(snapshots.values()):
        model.load_state_dict(weights, strict=False)
        for start in range(0, len(table), TOGETHER):
            rows = list(range(start, min(start + TOGETHER, len(table))))
            ids, mask = padded(table, rows, model.config.image_token_id, material.pad)
            pixels = material.pictures(rows)["pixels"].to(device, model.dtype)
            attentions = model(
                input_ids=ids.to(device), attention_mask=mask.to(device), pixel_values=pixels,
                output_attentions=True,
            ).attentions  # fmt: skip
            total = sum(one.mean(dim=1) for one in attentions)
            first, stop = table.image_at[0], table.image_at[0] + int(table.image_lengths[0])
            for line, row in enumerate(rows):
                matrix = total[line, stop : table.lengths[row], first:stop].float()
                if exact:
                    values = torch.linalg.svdvals(matrix.double())[:K]
                else:
                    values = torch.svd_lowrank(matrix, q=min(K, *matrix.shape), niter=2)[1]
                found[row, at, : len(values)] = values.cpu().numpy()
    model.model.language_model.set_attn_implementation("sdpa")
    return found


def padded(table: TokenTable, rows: Sequence[int], image: int, pad: int) -> tuple[Tensor, Tensor]:
    width = int(table.lengths[rows].max())
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    for line, row in enumerate(rows):
        at, held = table.image_at[row], table.ids(row)
        whole = np.r_[held[:at], np.full(int(table.image_lengths[0]), image), held[at:]]
        ids[line, : len(whole)] = whole
    mask = np.arange(width)[None] < table.lengths[rows][:, None]
    return torch.from_numpy(ids), torch.from_numpy(mask).long()


FUSED = torch.nn.functional.scaled_dot_product_attention


def _attention(*given: object, **more: object) -> Tensor:
    """As in the engine: small products are MKL's, large ones oneDNN's."""
    with by_mkl():
        return FUSED(*given, **more)


class Bare(Scan):
    """The engine's batches through the model, with nothing taken of them."""

    def _batches(
        self, loaded: Loaded, features: Tensor, later: Sequence[Tensor | None]
    ) -> Iterator[Collector]:
        unit, language = loaded.unit, unwrap(self.model).model.language_model
        prefix_embeddings = embed(self.model, loaded.prefix_ids, features)
        cache = DynamicCache()
        if unit.shared:
            with patch.object(torch.nn.functional, "scaled_dot_product_attention", _attention):
                language(inputs_embeds=prefix_embeddings, past_key_values=cache, use_cache=True)
        for text in loaded.texts:
            inputs = unwrap(self.model).get_input_embeddings()(text.ids)
            past = branches(cache, text.which) if unit.shared else None
            if past is None:
                inputs = torch.cat([prefix_embeddings[text.which], inputs], dim=1)
            with patch.object(torch.nn.functional, "scaled_dot_product_attention", _attention):
                language(inputs_embeds=inputs, past_key_values=past, use_cache=unit.shared)
            yield collector_of(self.spectra, language, text, loaded, None)  # stays empty

    def _solved(self, snapshots: Sequence[Sequence[Collector]]) -> Tensor:
        rows = sum(len(batch.lines()) for batch in snapshots[0])
        return torch.zeros(rows, len(snapshots), K)


def scan(
    kind: type[Scan],
    model: torch.nn.Module,
    material: Material,
    snapshots: dict[int, dict[str, Tensor]],
    running: Running,
    batch_tokens: int,
) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        one = kind(model, material, Spectra(k=K, batch_tokens=batch_tokens), running)
        shards = Shards(Path(folder) / "shards", one.plan.bounds, tuple(snapshots), K)
        one.run(shards, tuple(snapshots), snapshots.get, label=kind.__name__)
        place = Path(folder) / "values.npy"
        return shards.merge(place, one.plan.order, len(one.reasons))


def all_keys(*given: object) -> np.ndarray:
    with patch.object(CrossAttention, "_usable", lambda *_: None):
        return scan(Scan, *given)


def timed(work: Callable[[], np.ndarray], device: str) -> tuple[float, np.ndarray]:
    """Wall-clock seconds on a GPU, CPU seconds of this process on a CPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    begun = clock()
    found = work()  # ends with its values on the host
    return clock() - begun, found


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest, of values that are at least a thousandth of their row's first."""
    counted = wanted > 1e-3 * wanted[..., :1]
    return float((abs(found - wanted) / wanted.clip(min=1e-30))[counted].max())


def measure(args: argparse.Namespace, per_image: float, folder: Path) -> dict[str, object]:
    size, dtype = sizes(args.model), getattr(torch, args.weights)
    size = dataclasses.replace(
        size, examples=args.examples or size.examples, text=args.text or size.text
    )
    torch.manual_seed(args.seed)
    with torch.device(args.device):
        model = LlavaForConditionalGeneration(size.config).to(dtype).eval()
    if args.model != "stablelm":
        for name, one in model.model.language_model.named_parameters():
            if one.dim() > 1 and "embed" not in name:
                one.data.normal_(0, size.deviation)
    material = material_of(size, per_image, args.seed, folder)
    snapshots = snapshots_of(model, args.snapshots, args.seed)
    running = Running(weights=args.weights, workers=args.workers)
    ways = {
        RELEASE: lambda: release(model, material, snapshots),
        ENGINE: lambda: scan(Scan, model, material, snapshots, running, size.batch_tokens),
        BARE: lambda: scan(Bare, model, material, snapshots, running, size.batch_tokens),
        ALL_KEYS: lambda: all_keys(model, material, snapshots, running, size.batch_tokens),
    }
    for name, shared_from in ((ALWAYS, 0.0), (NEVER, 1.0)):
        other = dataclasses.replace(running, shared_from=shared_from)
        ways[name] = lambda other=other: scan(
            Scan, model, material, snapshots, other, size.batch_tokens
        )
    ways = {name: way for name, way in ways.items() if name in args.ways}
    few = {1: snapshots[1]}
    if args.warm:
        for kind in (Scan, Bare):
            scan(kind, model, material, few, running, size.batch_tokens)
        if RELEASE in ways:
            release(model, material, few)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values = {}
    for _ in range(args.rounds):
        for name, way in ways.items():
            spent, values[name] = timed(way, args.device)
            seconds[name].append(round(spent, 3))
            print(f"{per_image} a picture, {name}: {spent:.2f} s", flush=True)
    least = {name: min(each) for name, each in seconds.items()}
    exact = release(model, material, few, exact=True)
    lengths = material.table.text_lengths - size.before
    return {
        "examples_per_image": per_image,
        "examples": size.examples,
        "snapshots": args.snapshots,
        "mean_text_tokens": float(lengths.mean()),
        "seconds": seconds,
        "examples_a_second": {
            name: size.examples * args.snapshots / each for name, each in least.items()
        },
        "engine_against_release": _quotient(least, RELEASE, ENGINE),
        "engine_against_bare": _quotient(least, ENGINE, BARE),
        "largest_error": {
            name: difference(values[name][:, :1], exact) for name in values if name != BARE
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=["tiny", "small", "stablelm"], default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", help="float32, float16, bfloat16; default by the model")
    parser.add_argument("--examples", type=int, help="default by the model")
    parser.add_argument("--text", type=float, help="mean tokens of it; default by the model")
    parser.add_argument("--per-image", type=float, nargs="+", default=[1.0, 1.8])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--snapshots", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="of the engine's and bare passes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm", action="store_true", help="a pass before the clock starts")
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument("--tiny", action="store_true", help="a few rows, to see that it runs")
    args = parser.parse_args()
    if args.tiny:
        args.model, args.snapshots, args.rounds = "tiny", 2, 1
    args.weights = args.weights or ("float16" if args.model == "stablelm" else "float32")
    torch.set_num_threads(args.threads)
    found = []
    for per_image in args.per_image:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(args, per_image, Path(folder)))
    gpu = torch.cuda.get_device_name() if args.device.startswith("cuda") else None
    record = {
        "command": vars(args) | {"out": None},
        "hardware": {"cpu": cpu(), "threads": args.threads, "gpu": gpu},
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__,
            "transformers": transformers.__version__, "numpy": np.__version__,
        },
        "measured": found,
    }  # fmt: skip
    print(json.dumps(record, indent=2))
    if args.out:
        args.out.write_text(json.dumps(record, indent=2))
    print(table_of(found))


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _quotient(seconds: dict[str, float], way: str, other: str) -> float | None:
    return seconds[way] / seconds[other] if way in seconds and other in seconds else None


def _times(quotient: float | None) -> str:
    return "" if quotient is None else f"{quotient:.2f}x"


def table_of(found: list[dict]) -> str:
    lines = [
        "| examples a picture | text | way | seconds | examples/s | of bare | release's | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        least = {name: min(each) for name, each in one["seconds"].items()}
        errors = {name: f"{error:.1e}" for name, error in one["largest_error"].items()}
        lines += [
            f"| {one['examples_per_image']} | {one['mean_text_tokens']:.0f} | {name} | {spent:.2f} "
            f"| {one['examples_a_second'][name]:.2f} | {_times(_quotient(least, name, BARE))} "
            f"| {_times(_quotient(least, RELEASE, name))} | {errors.get(name, '')} |"
            for name, spent in least.items()
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
