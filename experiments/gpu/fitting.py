"""Parts that train: a LoRA fit of LLaVA-1.5-7B in every way that hardware settings offer."""

import contextlib
import dataclasses
import math
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from parts import Figures, Part, Setting, check, neighbours
from torch import nn

from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.fit.trainables import merge_adapter, trainable
from xmas.training.fit.trainer import fit

neighbours("training")

import throughput  # noqa: E402

PACKED = {"packing": True, "checkpointing": 1.0}
REFERENCE = "fit: LoRA bf16, padded, all blocks recomputed"
STEPS = 3  # the first has a learning rate of zero
LOSS_TOLERANCE = 0.02  # of a loss, relative: bfloat16 in another order of sums


def size_of(setting: Setting) -> dict[str, Any]:
    return throughput.SIZES["tiny" if setting.tiny else "7b"]


def fitted(
    setting: Setting,
    *,
    steps: int = STEPS,
    precision: str = "bf16-mixed",
    clip: float | None = None,
    out: Path | None = None,
    killed_at: int | None = None,
    **hardware: Any,
) -> tuple[nn.Module, list[float]]:
    """A model of random weights after a fit of some steps without dropout, and each step's loss.

    Args:
        out: a folder from which an interrupted fit resumes; None: a temporary one.
        killed_at: an optimiser step at whose start KeyboardInterrupt is raised.
    """
    size = size_of(setting)
    model = throughput.random_model(size, setting.device, torch.bfloat16)
    adapted = trainable(model, dataclasses.replace(size["lora"], dropout=0.0), precision)
    rows = 2 * size["micro"]
    table = throughput.Drawn(rows * steps, throughput.vocabulary(size))
    recipe = Recipe(
        batch=rows, micro_batch=size["micro"],
        precision=precision, clip=clip,
    )  # fmt: skip
    folder = out or Path(tempfile.mkdtemp())
    try:
        fit(
            adapted, table, np.arange(len(table)), table.pictures, recipe=recipe, seed=0,
            out=folder, label="fit", pad=throughput.vocabulary(size) - 1,
            hardware=Hardware(
                accelerator="gpu" if setting.on_gpu else "cpu", logit_rows=4096, **hardware
            ),
            callbacks=[] if killed_at is None else [Killed(killed_at)],
        )  # fmt: skip
        losses = [float(row.split(",")[1]) for row in (folder / "loss.csv").read_text().split()[1:]]
    finally:
        if torch.distributed.is_initialized():  # FSDP2's; the next fit has no other ranks
            torch.distributed.destroy_process_group()
        if out is None:
            shutil.rmtree(folder)
    check(bool(np.isfinite(losses).all()), f"losses {losses} are not all finite")
    return adapted, losses


class Killed(Callback):
    """Ends the process's fit as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


def fit_way(setting: Setting, **options: Any) -> Figures:
    """A fit's losses; they are those of the padded fit, whose rows and weights are the same."""
    if options.get("compile") and setting.tiny:
        options["compile"] = "eager"  # graphs, without a compiler for the device
    model, losses = fitted(setting, **options)
    kinds = {str(b.dtype) for b in model.buffers() if b.is_floating_point()}
    check(kinds == {"torch.float32"}, f"buffers in {kinds}: rotary frequencies are rounded")
    reference = setting.records.get(REFERENCE, {}).get("figures")
    if reference is not None:
        expected = [float(loss) for loss in reference["losses"].split()]
        check(
            bool(np.allclose(losses, expected, rtol=LOSS_TOLERANCE)),
            f"losses {losses}, those of the padded fit {expected}",
        )
    return {"losses": " ".join(f"{loss:.4f}" for loss in losses)}


def resumed(setting: Setting) -> Figures:
    """A fit that was interrupted after its first step ends with the losses of one that was not."""
    whole = fitted(setting, **PACKED)[1]
    folder = Path(tempfile.mkdtemp())
    with contextlib.suppress(KeyboardInterrupt, SystemExit):  # as Lightning ends a process
        fitted(setting, out=folder, killed_at=1, checkpoint_seconds=0.0, **PACKED)
    check((folder / "last.ckpt").exists(), "the interrupted fit left no checkpoint")
    again = fitted(setting, out=folder, **PACKED)[1]
    shutil.rmtree(folder)
    check(
        bool(np.allclose(whole, again, rtol=1e-3)),
        f"losses {again} after an interruption, {whole} without",
    )
    return {"largest difference of a loss": float(np.abs(np.subtract(whole, again)).max())}


def merged(setting: Setting) -> Figures:
    """The merged model gives the adapter's logits, within what 16 bits hold."""
    adapter: Any = fitted(setting, steps=1, **PACKED)[0].to(setting.device).eval()
    ids = torch.arange(3, 40, device=setting.device)[None]

    def logits(model: nn.Module) -> torch.Tensor:
        with torch.autocast(setting.device.type, torch.bfloat16):
            return model(input_ids=ids).logits.float()

    with torch.no_grad():
        for name, weight in adapter.named_parameters():
            if "lora_B" in name:  # zero at first: then there would be nothing to merge
                weight.normal_(0, 0.02)
        with adapter.disable_adapter():
            base = logits(adapter)
        expected = logits(adapter)
        model = merge_adapter(adapter)
        update = float((expected - base).norm() / expected.norm())
        error = float((logits(model) - expected).norm() / expected.norm())
    check(not any("lora" in name for name, _ in model.named_parameters()), "LoRA is still there")
    check(update > 5 * error, f"merging changes logits by {error:.3f}, the adapter by {update:.3f}")
    return {"error of logits, of their norm": error, "share of the adapter in them": update}


def step_of_7b(setting: Setting) -> Figures:
    """Tokens a second of a LoRA step, ours and the plain recipe's, and the share of the matmul
    rate that was measured in the same run; all ways have one loss.
    """
    size = dict(size_of(setting))
    measured, tokens, needed, rate = throughput.compare(size, setting.device, rounds=1)
    losses = {name: one["loss"] for name, one in measured.items() if math.isfinite(one["seconds"])}
    middle = float(np.median(list(losses.values())))
    check(bool(losses), "no way fits into the memory")
    for name, loss in losses.items():
        check(
            math.isclose(loss, middle, rel_tol=LOSS_TOLERANCE),
            f"{name}: mean loss {loss:.4f}, of the others {middle:.4f}",
        )
    plain = next(iter(measured.values()))["seconds"]
    return {
        "matmul TFLOP/s": rate / 1e12,
        "ways": [
            {
                "way": name,
                "tokens/s": tokens / one["seconds"],
                "against plain": plain / one["seconds"],
                "of the matmul rate": needed / one["seconds"] / rate,
                "peak GB": one["GB"],
            }
            for name, one in measured.items()
        ],
    }


PARTS = [
    Part(REFERENCE, partial(fit_way, checkpointing=1.0)),
    Part("fit: LoRA bf16, packed, all blocks recomputed", partial(fit_way, **PACKED)),
    Part(
        "fit: LoRA bf16, packed, half of the blocks recomputed, 2 workers",
        partial(fit_way, packing=True, checkpointing=0.5, workers=2),
    ),
    Part(
        "fit: LoRA fp16, gradients clipped (as in the XMAS release)",
        partial(fit_way, **PACKED, precision="16-mixed", clip=1.0),
        needs=("a GPU",),
    ),
    Part(
        "fit: LoRA bf16, packed, compiled, nothing recomputed",
        partial(fit_way, packing=True, compile="inductor", checkpointing=0.0),
    ),
    Part(
        "fit: LoRA bf16, FSDP2 over one card",
        partial(fit_way, **PACKED, strategy="fsdp2"),
        needs=("NCCL",),
    ),
    Part(
        "fit: LoRA bf16, flash_attention_2",
        partial(fit_way, **PACKED, attention="flash_attention_2"),
        needs=("flash_attn", "a GPU"),
    ),
    Part("fit: interrupted and resumed", resumed),
    Part("merge: logits of the merged model", merged),
    Part("LoRA step against the plain recipe", step_of_7b),
]
