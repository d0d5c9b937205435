"""What a scan and a LoRA block launch: PyTorch's operators without views, counted on a CPU.

    OMP_NUM_THREADS=1 python experiments/extraction/launches.py
    OMP_NUM_THREADS=1 python experiments/extraction/launches.py --compiled      # and by inductor

On a GPU each of them is a kernel or a few, which the host launches in 5 to 10 microseconds; small
ones end before the next is launched. Their number does not follow from a model's width, so it is
narrow here, and has two layers. Solver and blocks of logits are those of GPUs.
"""

import argparse
import contextlib
import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import torch
from engine import Size, material_of, scan, sizes, snapshots_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from xmas.attention import capture, engine, metric, shares, spectrum
from xmas.attention.engine import Running, Scan
from xmas.models import varlen_attention
from xmas.models.vlm import language_model
from xmas.training.fit.recipe import Hardware
from xmas.training.fit.speed import configured
from xmas.training.fit.trainables import Lora, with_lora

LENGTHS = (230, 180, 160, 140)  # tokens of the rows of a microbatch: too long for one call
WAIT = "_local_scalar_dense"  # a number is copied to the host, which waits for it
NO_KERNEL = {"empty", "empty_like", "new_empty", "new_empty_strided", "detach", WAIT}


class Launches(TorchDispatchMode):
    """Counts operators that are neither views nor mere allocations, and waits of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.waits = 0

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        name = operator._schema.name.partition("::")[2]
        self.waits += name == WAIT
        self.count += name not in NO_KERNEL and not is_view(operator)
        return operator(*arguments, **(keywords or {}))


def is_view(operator: torch._ops.OpOverload) -> bool:
    results = [result.alias_info for result in operator._schema.returns]
    return any(alias is not None and not alias.is_write for alias in results)


def narrow(size: Size, layers: int) -> Size:
    """The tokens of `size` in a model that is run in seconds."""
    text, vision = size.config.text_config, size.config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 48, 64, layers
    vision.hidden_size, vision.intermediate_size = 32, 64
    return size


def of_scan(size: Size, tokens: int, unsolved: int, count: int) -> dict[str, float]:
    """Launches a row and snapshot of a scan of `count` snapshots."""
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(size.config).eval()
    solver = 0

    def solve(matrices: Tensor, k: int) -> Tensor:
        nonlocal solver
        before = launches.count
        values = spectrum.leading(matrices, k)
        solver += launches.count - before
        return values

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(spectrum.DENSE, {"cpu": spectrum.DENSE["cuda"]}),
        patch.dict(shares.BLOCK_BYTES, {"cpu": shares.BLOCK_BYTES["cuda"]}),
        patch.object(capture, "consecutive", lambda *_: None),
        patch.object(metric, "leading", solve),
        patch.object(engine, "UNSOLVED_BYTES", unsolved),
    ):
        material = material_of(size, 1.0, 0, Path(folder))
        snapshots = snapshots_of(model, count, 0)
        with Launches() as launches:
            values = scan(Scan, model, material, snapshots, Running(), tokens)
    rows = values.shape[0] * values.shape[1]
    return {
        "the model": (launches.count - solver) / rows,
        "the solver": solver / rows,
        "waits": launches.waits / rows,
    }


def of_block(run: Callable[[torch.nn.Module], None], size: Size) -> dict[str, int]:
    """Launches of a block: what a model of two has more than a model of one."""
    counts = []
    for layers in (1, 2):
        with Launches() as launches:
            run(adapted(size, layers))
        counts.append(launches.count)
    return {"a block": counts[1] - counts[0], "the rest of the model": 2 * counts[0] - counts[1]}


def of_fused_steps() -> dict[str, int]:
    """Launches of two norms, a rotation and a gate, both passes: Liger has four kernels in each."""
    norms = [LlamaRMSNorm(48).bfloat16() for _ in range(2)]
    hidden = torch.randn(1, 9, 48, dtype=torch.bfloat16, requires_grad=True)
    heads = torch.randn(2, 1, 6, 9, 8, dtype=torch.bfloat16, requires_grad=True)
    gate, up = torch.randn(2, 1, 9, 64, dtype=torch.bfloat16, requires_grad=True).unbind()
    angles = torch.randn(1, 9, 8, dtype=torch.bfloat16)
    for norm in norms:
        norm.requires_grad_(False)  # as under LoRA
    with Launches() as launches:
        outputs = [norm(hidden) for norm in norms]
        outputs += apply_rotary_pos_emb(*heads.unbind(), angles.cos(), angles.sin())
        outputs.append(torch.nn.functional.silu(gate) * up)
        torch.autograd.backward(outputs, [torch.ones_like(one) for one in outputs])
    return {"a block": launches.count}


def adapted(size: Size, layers: int) -> torch.nn.Module:
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(narrow(size, layers).config)
    return with_lora(model, Lora(8, 16)).train()


def pass_of(hardware: Hardware, *, masked: bool = False) -> Callable[[torch.nn.Module], None]:
    """A forward and a backward pass of the language model under bfloat16 autocast."""

    def run(model: torch.nn.Module) -> None:
        language, lengths = language_model(model), torch.tensor(LENGTHS)
        width = language.config.hidden_size
        options = {}
        inputs = torch.randn(len(LENGTHS), max(LENGTHS), width)
        with (
            configured(model, hardware, "bf16-mixed"),
            torch.autocast("cpu", torch.bfloat16),
        ):
            if hardware.packing:
                inputs = torch.randn(1, sum(LENGTHS), width)
                options = varlen_attention.arguments(language, lengths)
            elif masked:
                mask = torch.arange(max(LENGTHS)) < lengths[:, None]
                options = {"attention_mask": mask.long()}
            language(
                inputs_embeds=inputs, use_cache=False, **options
            ).last_hidden_state.sum().backward()

    return run


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(size: Size, hardware: Hardware) -> dict[str, int]:
    """Kernels in inductor's code of a block, both passes; products and attention are external."""
    from torch._inductor.utils import run_and_get_code

    hardware = dataclasses.replace(hardware, compile="inductor")
    with nothing_kept():
        _, code = run_and_get_code(pass_of(hardware), adapted(size, 2))
    text = "\n".join(one[one.index("def call(") :] for one in code)
    fused = len(re.findall(r"cpp_fused\w*\(", text))
    return {"a block": fused + len(re.findall(r"extern_kernels\.|torch\.ops\.(?!aten)", text))}


def table(title: str, columns: list[str], lines: dict[str, dict[str, float]]) -> None:
    print(f"| {title} | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, counts in lines.items():
        cells = (f"{counts[column]:.4g}" if column in counts else "" for column in columns)
        print(f"| {name} | {' | '.join(cells)} |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compiled", action="store_true", help="needs a C++ compiler, minutes")
    parser.add_argument("--examples", type=int, default=48)
    parser.add_argument("--snapshots", type=int, default=7)
    parser.add_argument("--tiny", action="store_true", help="a few rows, to see that it runs")
    options = parser.parse_args()
    size = sizes("tiny" if options.tiny else "small")
    size = narrow(dataclasses.replace(size, examples=4 if options.tiny else options.examples), 2)
    snapshots, tokens = (2, 256) if options.tiny else (options.snapshots, 8192)
    scans = {
        f"batches of {tokens:,}, a call of the solver each snapshot": (tokens, 1),
        f"batches of {tokens:,}, one for all": (tokens, 1 << 28),
        f"batches of {4 * tokens:,}, one for all": (4 * tokens, 1 << 28),
    }
    table(
        f"a scan of {snapshots} snapshots, for a row and snapshot",
        ["the model", "the solver", "waits"],
        {name: of_scan(size, *way, snapshots) for name, way in scans.items()},
    )
    packed = Hardware(packing=True)
    blocks = {
        "padded, with a mask": of_block(pass_of(Hardware(), masked=True), size),
        "padded": of_block(pass_of(Hardware()), size),
        "packed": of_block(pass_of(packed), size),
        "packed, recomputed": of_block(pass_of(Hardware(packing=True, checkpointing=1.0)), size),
        "of these the steps that Liger fuses": of_fused_steps(),
    }
    if options.compiled:
        blocks |= {"packed, compiled": compiled(size, packed)}
    table(
        f"a LoRA step on {len(LENGTHS)} rows, forward and backward",
        ["a block", "the rest of the model"],
        blocks,
    )


if __name__ == "__main__":
    main()
