"""What a token costs the host: kernels that are launched, and waits for the device.

    python experiments/generation/launches.py              # eager, on a CPU
    python experiments/generation/launches.py --emulated   # on the emulated GPU of tests/emulated
    python experiments/generation/launches.py --cuda       # on a GPU

A narrow LLaVA with the layers of LLaVA-1.5-7B: the number of kernels depends on the layers alone.
"""

import argparse
import contextlib
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TEXTS = 40  # tokens of a question


@contextlib.contextmanager
def counting() -> Iterator[Counter[str]]:
    """The operators that launch a kernel, by name: no views, and fused attention is one."""
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    names: Counter[str] = Counter()
    fused = torch.nn.functional.scaled_dot_product_attention
    inside: list[None] = []

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            aliases = [one.alias_info for one in func._schema.returns]
            is_view = any(alias is not None and not alias.is_write for alias in aliases)
            if not (inside or is_view or func.overloadpacket.__name__ == "_unsafe_view"):
                names[str(func)] += 1
            return func(*args, **(kwargs or {}))

    class FusedAttention(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is not fused:
                return func(*args, **(kwargs or {}))
            names["attention"] += 1
            inside.append(None)
            try:
                return func(*args, **(kwargs or {}))
            finally:
                inside.pop()

    with FusedAttention(), Operators():
        yield names


def narrow_llava(layers: int, tower_layers: int) -> Any:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    text = LlamaConfig(
        vocab_size=640, hidden_size=64, intermediate_size=96, num_hidden_layers=layers,
        num_attention_heads=4,
    )  # fmt: skip
    tower = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=tower_layers,
        num_attention_heads=4, image_size=56, patch_size=14,
    )  # fmt: skip
    config = LlavaConfig(
        text_config=text, vision_config=tower, image_token_id=639, image_seq_length=16
    )
    return LlavaForConditionalGeneration(config).eval()


def questions(count: int) -> list[Any]:
    """One question an image; all prompts have the same length."""
    import numpy as np
    import torch

    from xmas.evaluation.generation.prompts import Prompt, PromptGroup

    ids = np.concatenate([np.arange(3, 38), np.full(16, 639), np.arange(3, 3 + TEXTS)])
    return [
        (
            PromptGroup(str(position).encode(), (Prompt(position, str(position), ids, 35, 51),)),
            {"pixels": torch.zeros(1, 3, 56, 56)},
        )
        for position in range(count)
    ]


def answers(model: Any, batch: int, count: int, new: int, graphs: bool) -> None:
    from xmas.evaluation.generation.continuous_batch import ContinuousBatch
    from xmas.evaluation.generation.decode import decode_singly
    from xmas.evaluation.generation.prompts import shared_prefix

    groups = questions(count)
    options: dict[str, Any] = {"max_new_tokens": new, "eos": -1, "graphs": graphs}
    if batch == 1:
        found = decode_singly(model, groups, **options)
    else:
        prefix = shared_prefix(group for group, _ in groups)
        longest = len(groups[0][0].prompts[0].ids)
        options |= {"slots": batch, "prefix": prefix, "longest": longest}
        found = ContinuousBatch(model, **options).answers(groups)
    list(found)


def measure(
    model: Any, batch: int, gpu: Any, *, graphs: bool, new: int = 7
) -> dict[str, float | int]:
    """Differences between runs: of a token of questions whose lengths were seen before, and of a
    prompt.
    """
    few = 4
    costs = {}
    for rounds, tokens in itertools.product((2, 3), (few, new)):
        with counting() as names:
            if gpu is None:
                answers(model, batch, rounds * batch, tokens, graphs)
                waits = 0
            else:
                with gpu.counting() as counted:
                    answers(model, batch, rounds * batch, tokens, graphs)
                waits = sum(counted.waits.values())
        costs[rounds, tokens] = (sum(names.values()), waits)

    def of_step(place: int) -> float:
        third = {tokens: costs[3, tokens][place] - costs[2, tokens][place] for tokens in (few, new)}
        return (third[new] - third[few]) / (new - few)

    prompt = costs[3, few][0] - costs[2, few][0] - (few - 1) * of_step(0)
    return {
        "batch": batch,
        "graphs": graphs,
        "launches_a_step": of_step(0),
        "launches_of_prompts": prompt,
        "waits_a_step": of_step(1),
    }


def core_seconds(model: Any, *, few: int = 4, new: int = 28) -> float:
    """Seconds of a core for an eager step at batch 1: what launching its kernels takes."""
    seconds = []
    for tokens in (few, few, new):  # the first is not counted: it loads what the others use
        begun = time.process_time()
        answers(model, 1, 3, tokens, graphs=False)
        seconds.append(time.process_time() - begun)
    return (seconds[2] - seconds[1]) / 3 / (new - few)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--emulated", action="store_true")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument(
        "--dtype", default="float16", help="float32 on a CPU without 16-bit kernels"
    )
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tower-layers", type=int, default=24)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tiny", action="store_true", help="whether it runs at all")
    args = parser.parse_args()
    if args.tiny:
        args.dtype, args.layers, args.tower_layers, args.batches = "float32", 1, 1, [1]
    gpu = None
    if args.emulated:
        sys.path.insert(0, str(HERE.parents[1] / "tests"))
        from emulated.gpu import install

        gpu = install()
    import torch

    from xmas.models.precision import cast_parameters

    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = "cuda" if args.cuda or args.emulated else "cpu"
    model = narrow_llava(args.layers, args.tower_layers)
    model = cast_parameters(model, getattr(torch, args.dtype), device)
    for batch in args.batches:
        for graphs in (False, True) if device == "cuda" else (False,):
            record = measure(model, batch, gpu, graphs=graphs)
            print(json.dumps({"device": device, "dtype": args.dtype, **record}), flush=True)
    print(json.dumps({"core_ms_an_eager_step": round(1000 * core_seconds(model), 2)}))


if __name__ == "__main__":
    main()
