"""What it costs to load a LoRA target and merge its adapter, once a score and once a suite.

    python experiments/generation/loading.py                                      # 0.17 billion
    python experiments/generation/loading.py --width 4096 --layers 32 --device cuda      # 7B's size

Seconds are CPU time of the process on a CPU, wall time on a GPU. A suite has ten benchmarks, each
for the target and for its reference.
"""

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.clip import CLIPVisionConfig

from xmas.models.precision import cast_parameters
from xmas.training.fit.trainables import Lora, merge_adapter, with_lora

BENCHMARKS, TARGETS = 10, 2


def written(args: argparse.Namespace, folder: Path) -> int:
    """A random LLaVA and a LoRA adapter of it in `folder`; its parameters."""
    text = LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.width,
        intermediate_size=round(2.7 * args.width),
        num_hidden_layers=args.layers,
        num_attention_heads=max(1, args.width // 128),
    )
    tower = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        image_size=56, patch_size=14,
    )  # fmt: skip
    config = LlavaConfig(text_config=text, vision_config=tower, image_token_id=args.vocabulary - 1)
    model = LlavaForConditionalGeneration(config).half()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    model.save_pretrained(folder / "start")
    adapted: Any = with_lora(model, Lora(rank=args.rank, alpha=2 * args.rank))
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)
    return parameters


def load(folder: Path) -> Any:
    model = LlavaForConditionalGeneration.from_pretrained(folder / "start")
    return PeftModel.from_pretrained(model, folder / "adapter", torch_device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tiny", action="store_true", help="whether it runs at all")
    args = parser.parse_args()
    if args.tiny:
        args.width, args.layers, args.rank, args.vocabulary = 128, 1, 4, 500
    torch.set_num_threads(1)
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = written(args, folder)
        load(folder)  # the first reads the files from the disk
        seconds = [clock()]
        adapted = load(folder)
        seconds.append(clock())
        model = cast_parameters(
            merge_adapter(adapted, torch.float16, args.device), torch.float16, args.device
        )
        next(model.parameters()).sum().item()  # waits for a GPU
        seconds.append(clock())
    reading, merging = (after - before for before, after in itertools.pairwise(seconds))
    record = {
        "parameters": parameters,
        "rank": args.rank,
        "device": args.device,
        "seconds_to_load": round(reading, 2),
        "seconds_to_merge_and_cast": round(merging, 2),
        "seconds_a_suite_one_load_a_score": round(BENCHMARKS * TARGETS * (reading + merging), 1),
        "seconds_a_suite_one_load_a_target": round(TARGETS * (reading + merging), 1),
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
