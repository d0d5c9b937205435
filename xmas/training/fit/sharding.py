"""Parallel strategies, sharding of weights over devices, and full weights from their shards."""

from typing import Any, cast

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from xmas.models.vlm import language_model, tower
from xmas.store import distributed
from xmas.training.fit.recipe import Hardware, Recipe

STARTED = "torchrun --standalone --nproc-per-node {} -m xmas …"
SHARDED = ("32-true", "bf16-mixed", "bf16-true", "16-true")  # precisions of FSDP2 in Lightning 2.6


def check_precision(recipe: Recipe, hardware: Hardware) -> None:
    """Raise ValueError: sharded gradients cannot be scaled, as float16 needs."""
    if hardware.strategy == "fsdp2" and recipe.precision not in SHARDED:
        raise ValueError(
            f"recipe.precision={recipe.precision} does not go with sharded weights "
            "(hardware.strategy=fsdp2): FSDP2 under Lightning scales no losses; take hardware=ddp, "
            f"which gives the same result, or another precision ({', '.join(SHARDED)}), which does "
            "not"
        )


def strategy_of(hardware: Hardware) -> Strategy | str:
    """Lightning's strategy, by its name or, for `fsdp2`, built.

    Raises ValueError: the number of processes is not that of devices; says how to start them.
    RuntimeError: the stage that fits is computed by rank 0 alone.
    """
    if not distributed.shared():
        raise RuntimeError("rank 0 fits alone: a stage that fits has to say `together = True`")
    world = distributed.rank_and_world()[1] if distributed.launched() else 1
    if world != hardware.world:
        command = STARTED.format(hardware.devices) if hardware.nodes == 1 else "torchrun on each"
        raise ValueError(
            f"hardware has {hardware.nodes} hosts of {hardware.devices} devices, but {world} "
            f"processes were started; start one on each ({command}), or set hardware.devices and "
            "hardware.nodes to what was started"
        )
    if hardware.strategy == "auto" and world > 1:
        return "ddp"  # no unused parameters: text-only batches keep the connector in the graph
    if hardware.strategy != "fsdp2":
        return hardware.strategy
    return ModelParallelStrategy(
        data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def check_whole_matrices(recipe: Recipe, hardware: Hardware) -> None:
    """Raises ValueError: Muon, which needs whole matrices, with a strategy that shards them."""
    if recipe.muon_rate is not None and hardware.strategy == "fsdp2":
        raise ValueError(
            f"recipe.muon_rate={recipe.muon_rate:g} with hardware.strategy={hardware.strategy}: "
            "Muon needs whole matrices, and this strategy shards weights or optimiser; set "
            "hardware.strategy=ddp, or recipe.muon_rate=null to train all weights with AdamW"
        )


def shard(module: nn.Module, model: nn.Module, mesh: DeviceMesh, precision: str) -> None:
    """Shard weights, gradients and optimiser over the devices, block by block (FSDP2).

    A block's matrices are gathered in the 16 bits in which autocast multiplies them; embeddings,
    norms and all inputs keep their types, as in a fit of one process.

    The frozen tower stays full on each: ranks whose microbatch has no image do not run it, and the
    others would wait for their shards forever.

    Args:
        module: whose forward pass is called; `model` is inside it.
        precision: Lightning's name.
    """
    as_stored = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for block in cast("Any", language_model(model)).layers:
        if precision == "bf16-mixed":
            matrices: list[nn.Module] = [
                layer for layer in block.modules() if isinstance(layer, nn.Linear)
            ]
            fully_shard(matrices, mesh=mesh, mp_policy=half)
        fully_shard(block, mesh=mesh, mp_policy=as_stored)
    fully_shard(
        module,
        mesh=mesh,
        mp_policy=as_stored,
        reshard_after_forward=False,
        ignored_params=set(tower(model).parameters()),
    )


def full_weight(weight: Tensor) -> Tensor:
    """The full weight, gathered from its shards; every rank has to call this."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def unshard(model: nn.Module) -> None:
    """Replace sharded weights by full ones in the host's memory; every rank has to call this.

    Weights that modules share, as tied embeddings, are shared afterwards.
    """
    full: dict[Tensor, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if not isinstance(weight, DTensor):
                continue
            if weight not in full:
                gathered = weight.full_tensor().detach().cpu()
                full[weight] = nn.Parameter(gathered, weight.requires_grad)
            module._parameters[name] = full[weight]
