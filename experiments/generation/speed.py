"""Answers a second: continuous batching compared with one question at a time.

    OMP_NUM_THREADS=1 taskset -c 1 python experiments/generation/speed.py
    python experiments/generation/speed.py --model llava15_7b --device cuda --batches 16 64 --warm

Two workloads with text of LLaVA's lengths: one-word answers (the model is made to end after a few
tokens, 16 at most) and answers of exactly 128 tokens. An image has 16 tokens for the demo's model,
576 for `demo_336` and the 7B. All ways see the same random model and the same questions in one
process. Needs torch, transformers and what `xmas` itself imports; no Hydra.
"""

import argparse
import dataclasses
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from xmas.evaluation.generation.continuous_batch import ContinuousBatch
from xmas.evaluation.generation.decode import decode_singly
from xmas.evaluation.generation.prompts import ImageInputs, Prompt, PromptGroup, shared_prefix
from xmas.models.vlm import embed, tower_features

GENERATE = "transformers' generate"
EOS = 2
FRONT = 35  # tokens of vicuna's system prompt and "USER:"
TEXT = (15, 60)  # tokens of a question with the suffix and "ASSISTANT:"
ENDS = 0.43  # standard deviations that the end mark's logit must exceed: a third of all tokens


@dataclasses.dataclass(frozen=True)
class Size:
    config: LlavaConfig
    dtype: str
    long: int  # questions
    short: int
    spread: float | None = None  # of the language model's weights; null: as initialised


def sizes(name: str) -> Size:
    if name == "llava15_7b":
        text = LlamaConfig(
            vocab_size=32064, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
            num_attention_heads=32, max_position_embeddings=4096,
        )  # fmt: skip
        tower = CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
            num_attention_heads=16, image_size=336, patch_size=14,
        )  # fmt: skip
        return Size(_config(text, tower, 32000), "float16", long=200, short=2000)
    text = LlamaConfig(
        vocab_size=1500, hidden_size=128, intermediate_size=352, num_hidden_layers=4,
        num_attention_heads=4,
    )  # fmt: skip
    side, patch = {"demo": (64, 16), "demo_336": (336, 14)}[name]
    tower = CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4,
        image_size=side, patch_size=patch,
    )  # fmt: skip
    return Size(_config(text, tower, 1499), "float32", long=200, short=2000, spread=0.15)


def _config(text: LlamaConfig, tower: CLIPVisionConfig, image_token: int) -> LlavaConfig:
    patches = (tower.image_size // tower.patch_size) ** 2
    return LlavaConfig(
        text_config=text, vision_config=tower, image_token_id=image_token, image_seq_length=patches
    )


def questions_of(config: LlavaConfig, count: int, per_image: int, seed: int) -> list[PromptGroup]:
    """Random tokens of LLaVA's lengths, `per_image` questions to an image."""
    rng = np.random.default_rng(seed)
    most, image = config.image_token_id - 10, config.image_token_id
    front = rng.integers(3, most, FRONT)
    opening = np.concatenate([front, np.full(config.image_seq_length, image)])
    groups = []
    for first in range(0, count, per_image):
        prompts = []
        for position in range(first, min(first + per_image, count)):
            ids = np.concatenate([opening, rng.integers(3, most, rng.integers(*TEXT))])
            prompts.append(Prompt(position, str(position), ids, FRONT, len(opening)))
        prompts.sort(key=lambda prompt: -len(prompt.ids))
        groups.append(PromptGroup(str(first).encode(), tuple(prompts)))
    return sorted(groups, key=lambda group: -len(group.prompts[0].ids))


def pictured(
    groups: list[PromptGroup], config: LlavaConfig
) -> Iterator[tuple[PromptGroup, ImageInputs]]:
    """Noise for pictures: reading and resizing is measured elsewhere."""
    side = config.vision_config.image_size
    for group in groups:
        noise = torch.Generator().manual_seed(int(group.image.decode()))
        yield group, {"pixels": torch.randn(1, 3, side, side, generator=noise)}


@torch.no_grad()
def generate(
    model: LlavaForConditionalGeneration, groups: list[PromptGroup], new: int, eos: int
) -> dict[int, list[int]]:
    """LLaVA's loop with transformers' own `generate`; every question's image through the tower."""
    device, found = model.device, {}
    for group, pictures in pictured(groups, model.config):
        pixels = pictures["pixels"].to(device, model.dtype)
        for prompt in group.prompts:
            ids = torch.from_numpy(prompt.ids)[None].to(device)
            written = model.generate(
                inputs_embeds=embed(model, ids, tower_features(model, pixels)),
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                do_sample=False,
                eos_token_id=eos,
                pad_token_id=0,
            )[0].tolist()
            found[prompt.position] = written[: written.index(eos)] if eos in written else written
    return found


@torch.no_grad()
def generate_in_batches(
    model: LlavaForConditionalGeneration, groups: list[PromptGroup], rows: int, new: int, eos: int
) -> dict[int, list[int]]:
    """`generate` over batches of similar length, padded on the left: each waits for its slowest."""
    device, found = model.device, {}
    given = [
        (prompt, pictures["pixels"])
        for group, pictures in pictured(groups, model.config)
        for prompt in group.prompts
    ]
    for first in range(0, len(given), rows):
        some = given[first : first + rows]
        width = max(len(prompt.ids) for prompt, _ in some)
        ids = torch.zeros((len(some), width), dtype=torch.long)
        for line, (prompt, _) in enumerate(some):
            ids[line, width - len(prompt.ids) :] = torch.from_numpy(prompt.ids)
        held = torch.arange(width) >= torch.tensor([[width - len(one.ids)] for one, _ in some])
        pixels = torch.cat([each for _, each in some]).to(device, model.dtype)
        written = model.generate(
            inputs_embeds=embed(model, ids.to(device), tower_features(model, pixels)),
            attention_mask=held.long().to(device),
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=eos,
        ).tolist()
        for (prompt, _), said in zip(some, written, strict=True):
            found[prompt.position] = said[: said.index(eos)] if eos in said else said
    return found


def ways(
    model: LlavaForConditionalGeneration,
    groups: list[PromptGroup],
    batches: list[int],
    new: int,
    eos: int,
) -> dict[str, Callable[[], dict[int, list[int]]]]:
    def given() -> Iterator[tuple[PromptGroup, ImageInputs]]:
        return pictured(groups, model.config)

    def one_by_one(graphs: bool = True) -> dict[int, list[int]]:
        answers = decode_singly(model, given(), max_new_tokens=new, eos=eos, graphs=graphs)
        return {prompt.position: said for prompt, said in answers}

    def together(rows: int, graphs: bool = True) -> dict[int, list[int]]:
        longest = max(len(group.prompts[0].ids) for group in groups)
        batch = ContinuousBatch(
            model,
            slots=rows,
            max_new_tokens=new,
            eos=eos,
            prefix=shared_prefix(groups),
            longest=longest,
            graphs=graphs,
        )
        return {prompt.position: said for prompt, said in batch.answers(given())}

    found = {
        GENERATE: lambda: generate(model, groups, new, eos),
        f"{GENERATE}, {max(batches)} at once": lambda: generate_in_batches(
            model, groups, max(batches), new, eos
        ),
        "batch 1": one_by_one,
    }
    found |= {f"batch {rows}": lambda rows=rows: together(rows) for rows in batches}
    if model.device.type == "cuda":  # what the graphs of decode steps save
        found["batch 1, eager"] = lambda: one_by_one(graphs=False)
        rows = max(batches)
        found[f"batch {rows}, eager"] = lambda: together(rows, graphs=False)
    return found


def measure(
    model: LlavaForConditionalGeneration, name: str, args: argparse.Namespace, per_image: int
) -> dict[str, Any]:
    size = sizes(args.model)
    never = len(model.lm_head.weight)
    new, eos = (args.tokens, never) if name == "long" else (16, EOS)
    count = (args.long or size.long) if name == "long" else (args.short or size.short)
    groups = questions_of(size.config, count, per_image, args.seed)
    tried = ways(model, groups, args.batches, new, eos)
    if args.warm:
        few = ways(model, groups[: 2 * max(args.batches)], args.batches, 4, eos)
        for way in few.values():
            way()
    seconds, said = {}, {}
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    for way, run in tried.items():
        begun = clock()
        said[way] = run()  # ends with its tokens on the host
        seconds[way] = round(clock() - begun, 3)
        print(f"{name}, {per_image} a picture, {way}: {seconds[way]:.2f} s", flush=True)
    first = said["batch 1"]
    lengths = [len(one) for one in first.values()]
    return {
        "workload": name,
        "questions": count,
        "questions_an_image": per_image,
        "new_tokens": {"mean": float(np.mean(lengths)), "most": max(lengths)},
        "different_answers": len({tuple(one) for one in first.values()}),
        "seconds": seconds,
        "changed": {
            way: sum(first[key] != one[key] for key in first) / count for way, one in said.items()
        },
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if args.device != "cpu" else None,
    }


def measured(
    model: LlavaForConditionalGeneration, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """All workloads of `args`; for short answers the end mark is made likely."""
    found = []
    for name in args.workloads:
        head = model.lm_head.weight.data[EOS]
        scale = (
            math.sqrt(2 * math.log(len(model.lm_head.weight))) / ENDS if name == "short" else 1.0
        )
        head.mul_(scale)
        found += [measure(model, name, args, per_image) for per_image in args.per_image]
        head.div_(scale)
    return found


def build(args: argparse.Namespace) -> LlavaForConditionalGeneration:
    size = sizes(args.model)
    torch.manual_seed(args.seed)
    torch.set_default_dtype(getattr(torch, size.dtype))
    with torch.device(args.device):
        model = LlavaForConditionalGeneration(size.config).eval()
    torch.set_default_dtype(torch.float32)
    if size.spread is not None:  # or every answer would be the same
        for name, one in model.named_parameters():
            if one.dim() > 1 and ("language_model.layers" in name or "projector" in name):
                one.data.normal_(0, size.spread)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=["demo", "demo_336", "llava15_7b"], default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--per-image", type=int, nargs="+", default=[1, 4])
    parser.add_argument(
        "--workloads", nargs="+", choices=["short", "long"], default=["short", "long"]
    )
    parser.add_argument("--long", type=int, help="questions; default by the model")
    parser.add_argument("--short", type=int, help="questions; default by the model")
    parser.add_argument("--tokens", type=int, default=128, help="of a long answer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm", action="store_true", help="a few questions before the clock runs")
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument("--tiny", action="store_true", help="a few questions, to see that it runs")
    args = parser.parse_args()
    if args.tiny:
        args.long, args.short, args.batches, args.per_image = 2, 3, [2], [2]
        args.tokens = 19
    torch.set_num_threads(args.threads)
    model = build(args)
    found = measured(model, args)
    record = {
        "command": vars(args) | {"out": None},
        "hardware": torch.cuda.get_device_name() if args.device != "cpu" else platform.processor(),
        "attention": model.config.text_config._attn_implementation,
        "dtype": str(model.dtype),
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "measured": found,
    }  # fmt: skip
    print(json.dumps(record, indent=2))
    if args.out:
        args.out.write_text(json.dumps(record, indent=2))
    print(table_of(found))


def table_of(found: list[dict[str, Any]]) -> str:
    lines = [
        "| workload | questions an image | way | seconds | answers/s | against generate "
        "| against batch 1 | changed |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for one in found:
        spent = one["seconds"]
        lines += [
            f"| {one['workload']}, {one['questions']} | {one['questions_an_image']} | {way} "
            f"| {each:.1f} | {one['questions'] / each:.1f} "
            f"| {spent[GENERATE] / each:.1f}x "
            f"| {spent['batch 1'] / each:.1f}x | {100 * one['changed'][way]:.1f} % |"
            for way, each in spent.items()
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
