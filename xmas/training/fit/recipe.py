"""The hyperparameters of a fit, and the hardware it runs on."""

import dataclasses
import math
from typing import Any

from xmas.store import volatile

TOKEN_MEANS = ("micro_batch", "step")
GROUPINGS = ("balanced", "alike")
STRATEGIES = ("auto", "ddp", "fsdp2")
QUANTISATIONS = ("nf4",)
PRECISIONS = (
    "bf16-mixed", "16-mixed", "32-true", "bf16-true", "16-true", "64-true", "transformer-engine",
    "transformer-engine-float16",
)  # fmt: skip
_HALVES = {"bf16": "bfloat16", "16": "float16"}  # torch's name of 16 bits, mixed or true
_SHORT = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true", "64": "64-true"}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a fit; the batch is global, gradient accumulation follows from it.

    Source of the defaults: LLaVA `scripts/v1_5/finetune_lora.sh`.
    """

    rate: float = 2e-4  # peak learning rate of the language model, or of its LoRA
    projector_rate: float = 2e-5
    batch: int = 128  # global: rows of an optimiser step, over all devices
    micro_batch: int = 16  # rows of a forward pass, whose answer tokens are averaged together
    epochs: int = 1
    warmup: float = 0.03  # of all steps, linear from zero, rounded up
    weight_decay: float = 0.0
    clip: float | None = None  # gradient-norm clipping; null: none, as LLaVA in effect
    precision: Any = "bf16-mixed"  # Lightning's name, a str; a short one, as 32, is made long
    token_mean: str = "micro_batch"  # then their mean, LLaVA's; step: all tokens of a step
    muon_rate: float | None = volatile(None)  # Muon trains the inner matrices, at this peak rate
    grouping: str = volatile("balanced")  # rows of a microbatch: balanced sums of lengths, LLaVA's;
    # alike: of about equal length, for images that differ in size

    def __post_init__(self) -> None:
        if self.token_mean not in TOKEN_MEANS:
            raise ValueError(f"token_mean {self.token_mean!r} is none of {', '.join(TOKEN_MEANS)}")
        if self.grouping not in GROUPINGS:
            raise ValueError(f"grouping {self.grouping!r} is none of {', '.join(GROUPINGS)}")
        if self.batch % self.micro_batch:
            raise ValueError(
                f"batch {self.batch} is no multiple of micro_batch {self.micro_batch}; change one"
            )
        if self.epochs < 1:
            raise ValueError(f"epochs {self.epochs}: at least 1 is needed")
        long_name = _SHORT.get(str(self.precision), self.precision)
        if long_name not in PRECISIONS:
            raise ValueError(
                f"precision {self.precision!r} is none of {', '.join((*PRECISIONS, *_SHORT))}"
            )
        object.__setattr__(self, "precision", long_name)
        if self.muon_rate is not None and self.muon_rate <= 0:
            raise ValueError(
                f"muon_rate {self.muon_rate}: a positive rate is needed, or null for AdamW alone"
            )

    def corrections(self) -> dict[str, Any]:
        """These came later: recipes without them keep the keys of their results."""
        muon = {} if self.muon_rate is None else {"muon_rate": self.muon_rate}
        return muon | ({} if self.grouping == "balanced" else {"grouping": self.grouping})

    @property
    def accumulated(self) -> int:
        """Gradient accumulation: microbatches of an optimiser step, over all devices."""
        return self.batch // self.micro_batch

    @property
    def feature_precision(self) -> str:
        """Torch's name of the precision of passes over data: that of the products of the fit."""
        return _HALVES.get(self.precision.split("-")[0], "float32")

    def micro_steps(self, rows: int) -> int:
        return math.ceil(rows / self.micro_batch) * self.epochs

    def steps(self, rows: int) -> int:
        """Optimiser steps of a fit on `rows` rows."""
        return math.ceil(self.micro_steps(rows) * self.micro_batch / self.batch)


@dataclasses.dataclass(frozen=True)
class Device:
    """Published speed and memory of an accelerator, and the share that is reached; for estimates.

    FLOP/s are dense matrix products with 32-bit sums; `tflops_32` as torch multiplies float32 by
    default, without TF32.
    """

    name: str
    tflops_16: float  # 10^12 FLOP/s in bfloat16 or float16
    tflops_32: float  # 10^12 FLOP/s in float32
    bandwidth: float  # GB/s of its memory
    memory: float  # GB
    fit: float = 0.4  # share of the peak that training reaches (MFU), assumed
    forward: float = 0.5  # share that forward passes reach, assumed
    reads: float = 0.8  # share of the bandwidth at which decode steps read weights, assumed


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Devices, parallelism and memory settings of a fit or a scan; no part of a result's identity.

    The global batch stays that of the recipe. These settings change a fit's numbers by no more than
    the order of sums does; `quantise` alone does, and is part of the key of the target it is for.
    """

    accelerator: str = volatile("auto")
    devices: int = volatile(1)  # on a host
    nodes: int = volatile(1)
    strategy: str = volatile("auto")  # ddp, fsdp2; auto: ddp on several devices
    workers: int = volatile(0)  # processes that load batches, on each device
    prefetch: int = volatile(2)  # batches that each of them is ahead
    checkpoint_seconds: float = volatile(600.0)  # between two checkpoints of an unfinished fit
    packing: bool = volatile(False)  # rows of a microbatch in one sequence, without padding
    attention: str | None = volatile(None)  # sdpa, flash_attention_2; null: the model's default
    checkpointing: float | None = volatile(None)  # share of the blocks that are recomputed in the
    # backward pass; null: in each microbatch as many as do not fit into the device's memory
    logit_rows: int | None = volatile(None)  # answer tokens whose logits exist at once; null: all
    compile: str | None = volatile(None)  # torch.compile's backend for the blocks: inductor
    liger: bool = volatile(False)  # its fused norms, rotary embeddings and SwiGLU in the blocks
    quantise: str | None = volatile(None)  # nf4: frozen weights of a LoRA target in 4 bits, which
    # is part of the target's key; what trains in full, as a proxy, has no such weights
    device: Device | None = volatile(None)  # model of each of them, for estimates

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"strategy {self.strategy!r} is none of {', '.join(STRATEGIES)}; to shard weights, "
                "gradients and optimizer states over devices: hardware=fsdp"
            )
        if self.quantise not in (None, *QUANTISATIONS):
            raise ValueError(f"quantise {self.quantise!r} is neither null nor nf4")

    @property
    def world(self) -> int:
        return self.devices * self.nodes

    @property
    def memory(self) -> float | None:
        """Bytes of a device, for estimates; None: unknown, or the host's."""
        if self.device is None or self.accelerator == "cpu":
            return None
        return 1e9 * self.device.memory

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError: flash attention is set, which has no kernels for this fit."""
        if self.attention is None or not self.attention.startswith("flash"):
            return
        if recipe.feature_precision == "float32":
            raise ValueError(
                f"hardware.attention={self.attention} computes in 16 bits only, the fit has "
                f"recipe.precision={recipe.precision}; set hardware.attention=sdpa, or "
                "recipe.precision=bf16-mixed, which is another fit"
            )
        if self.accelerator == "cpu":
            raise ValueError(
                f"hardware.attention={self.attention} needs a GPU, but hardware.accelerator=cpu; "
                "set hardware.attention=sdpa"
            )
