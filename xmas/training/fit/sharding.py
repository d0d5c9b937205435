"""Strategies of several devices, and weights that are cut over them and put together again."""

from typing import Any, cast

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from xmas.models.vlm import language_model, tower
from xmas.store import distributed
from xmas.training.fit.recipe import Hardware

STARTED = "torchrun --standalone --nproc-per-node {} -m xmas …"


def strategy_of(hardware: Hardware) -> Strategy | str:
    """Lightning's strategy, by its name or, for `fsdp2`, built.

    Raises ValueError: as many processes as devices were not started; says how to. RuntimeError:
    the stage that fits is not made by all distributed.
    """
    if not distributed.shared():
        raise RuntimeError("rank 0 fits alone: a stage that fits has to say `together = True`")
    world = distributed.place()[1] if distributed.launched() else 1
    if world != hardware.world:
        wanted = STARTED.format(hardware.devices) if hardware.nodes == 1 else "torchrun on each"
        raise ValueError(
            f"hardware has {hardware.nodes} hosts of {hardware.devices} devices, but {world} "
            f"processes were started; start one on each ({wanted}), or set hardware.devices and "
            "hardware.nodes to what was started"
        )
    if hardware.strategy == "auto" and world > 1:
        return "ddp"  # where nothing is unused: text-only batches keep the connector in the graph
    if hardware.strategy != "fsdp2":
        return hardware.strategy
    return ModelParallelStrategy(
        data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def shard(module: nn.Module, model: nn.Module, mesh: DeviceMesh, precision: str) -> None:
    """Cut weights, gradients and optimiser over the devices, block by block (FSDP2).

    The frozen tower stays whole on each: ranks whose micro-batch has no image do not run it, and
    the others would wait for their parts for ever. `module` is what is called, `model` inside it.
    """
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32),
    }
    for block in cast("Any", language_model(model)).layers:
        fully_shard(block, **options)
    whole = set(tower(model).parameters())
    fully_shard(module, reshard_after_forward=False, ignored_params=whole, **options)


def full_weight(one: Tensor) -> Tensor:
    """A parameter put together from all ranks, each of which has to call this."""
    return one.full_tensor() if isinstance(one, DTensor) else one


def unshard(model: nn.Module) -> None:
    """Make cut weights whole again, in the host's memory."""
    for module in model.modules():
        for name, one in list(module.named_parameters(recurse=False)):
            if isinstance(one, DTensor):
                full = nn.Parameter(one.full_tensor().detach().cpu(), one.requires_grad)
                module._parameters[name] = full
