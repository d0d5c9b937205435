"""What does not fit into the memory of its device is refused before anything is computed."""

import dataclasses
import math
from collections.abc import Iterable
from typing import cast

from xmas.estimate.assumed import Assumed
from xmas.estimate.stage_estimates import estimated_work
from xmas.estimate.work import Context, Work
from xmas.models.chat.tokens import Tokenised
from xmas.store import Stage, Store
from xmas.target.target import Target
from xmas.training.fit.recipe import Hardware
from xmas.training.fit.sanity import with_the_same_loss
from xmas.training.model_on_pool import FittedOnPool


def refuse_too_large(stages: Iterable[Stage], store: Store, assumed: Assumed) -> None:
    """Raise ValueError: a fit needs more memory than its device has, by the estimate."""
    fits = [stage for stage in stages if isinstance(stage, FittedOnPool)]
    tokens: list[Tokenised] = [fit.tokens() for fit in fits]
    for fit in fits:
        stage, hardware = cast("Stage", fit), fit.hardware
        if hardware.memory is None:
            continue
        work = estimated_work(stage, Context(store, hardware, assumed, tuple(tokens)))
        if work is not None and work.device > hardware.memory:
            raise ValueError(
                f"{described(stage, work, hardware)}\nTo start it all the same: "
                f"hardware.device.memory={math.ceil(work.device / 1e9)}"
            )


def described(stage: Stage, work: Work, hardware: Hardware) -> str:
    """What a stage needs, what its device has, and the settings that lower it, those that change no
    result first.
    """
    name = hardware.device.name if hardware.device is not None else "device"
    line = (
        f"{stage.kind} ({work.what}) needs {work.device / 1e9:.0f} GB, by the estimate, and a "
        f"{name} has {(hardware.memory or 0.0) / 1e9:g} GB"
    )
    steps = ["a hardware= with more memory"]
    if isinstance(stage, FittedOnPool):
        # Without a share the estimate has all blocks recomputed already.
        share = 1.0 if hardware.checkpointing is None else hardware.checkpointing
        with_share = dataclasses.replace(hardware, checkpointing=share)
        steps = with_the_same_loss(stage.recipe, with_share) + steps
    advice = f"{line}; with the same result:\n" + "\n".join(f"  {step}" for step in steps)
    if isinstance(stage, Target) and stage.lora is not None and hardware.quantise is None:
        advice += "\nwith another result: hardware.quantise=nf4, frozen weights in 4 bits"
    return advice
