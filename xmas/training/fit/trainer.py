"""The one fit of a vision-language model: a laptop or eight GPUs, interrupted or not."""

import contextlib
import dataclasses
import functools
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

from xmas.models.chat.batches import Loader
from xmas.models.chat.packing import pack
from xmas.models.chat.tokens import TokenTable
from xmas.models.cpu_matmul import by_onednn
from xmas.models.device import device_for
from xmas.models.vision_cache import Pictures
from xmas.models.vlm import language_model, runs_whole, unwrap
from xmas.store import distributed
from xmas.store.checkpoint import saved_state
from xmas.training.fit.batch_plan import microbatches_per_rank, plan_batches
from xmas.training.fit.callbacks import Checkpoints, Losses, Progress, StateFile
from xmas.training.fit.module import FitModule
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.fit.recomputation import Recomputation
from xmas.training.fit.sanity import FirstBatches, check_rows, memory_advice
from xmas.training.fit.sharding import check_whole_matrices, strategy_of, unshard
from xmas.training.fit.speed import configured

log = logging.getLogger(__name__)

# Tokens that the length of a packed line is a multiple of on a CPU: oneDNN compiles its products
# for each length, in 0.7 ms, and random lengths would be compiled in every step.
ALIGNED = 64


def fit(
    model: nn.Module,
    table: TokenTable,
    rows: Int[np.ndarray, " rows"],
    pictures: Pictures,
    *,
    recipe: Recipe,
    hardware: Hardware,
    seed: int,
    out: Path,
    label: str,
    pad: int,
    tower: bool = True,
    callbacks: Sequence[Callback] = (),
    logger: Logger | None = None,
) -> None:
    """Train the trainable weights of `model` on `rows` of a pool; writes `out/loss.csv`.

    Resumes from the checkpoint `out/last.ckpt` of an interrupted fit, which stays until the store
    has the result on the disk; on a CPU the result is then the same, bit for bit, as without the
    interruption. Where torchrun has started several processes, all of them call this, and each ends
    with the fitted model.

    Args:
        rows: of the pool that `table` and `pictures` belong to.
        label: of the progress bar.
        pad: token id.
        tower: whether the vision tower runs in a step: its features are not cached.
        callbacks: in addition to the loss curve, the progress bar, checks and checkpoints.
        logger: gets the loss curve, and what callbacks log.

    Raises:
        ValueError: the first rows have nothing to learn from, the number of processes is not that
            of devices, or Muon is asked to train shards.
        FloatingPointError: a loss is not finite; names the rows.
        MemoryError: names the settings to change.
    """
    if hardware.packing and runs_whole(model):
        log.info("%s: rows run whole, padded and not packed", label)
        hardware = dataclasses.replace(hardware, packing=False)
    check_whole_matrices(recipe, hardware)
    strategy = strategy_of(hardware)
    rank, world = distributed.rank_and_world() if distributed.launched() else (0, 1)
    accumulate = microbatches_per_rank(recipe, world)
    batch_plan = plan_batches(table, rows, recipe, seed, tower=tower)
    check_rows(table, batch_plan)
    share = batch_plan.share(rank, world)
    on_cpu = device_for(hardware.accelerator).type == "cpu"
    multiple = ALIGNED if on_cpu else 1
    config = unwrap(model).config
    width = language_model(model).config.hidden_size
    loader = Loader(
        table,
        share.batches,
        image_token=config.image_token_id,
        pad=pad,
        pictures=pictures,
        workers=hardware.workers,
        prefetch=hardware.prefetch,
        weights=share.weights,
        change=functools.partial(pack, multiple=multiple, pad=pad) if hardware.packing else None,
        world=world,
    )
    state = distributed.from_rank_0(lambda: saved_state(out))
    steps = recipe.steps(len(rows))
    curve = Losses(out / "loss.csv")
    module = FitModule(model, recipe, steps=steps, seed=seed, logit_rows=hardware.logit_rows)
    distributed.end_group_at_exit()
    with (
        _known_warnings(),
        by_onednn(width) if on_cpu and hardware.packing else contextlib.nullcontext(),
        _own_randomness(device_for(hardware.accelerator)),
        configured(model, hardware, recipe.precision),
        memory_advice(recipe, hardware),
    ):
        trainer = Trainer(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy=strategy,
            precision=recipe.precision,  # type: ignore[arg-type]
            max_epochs=1,
            accumulate_grad_batches=accumulate,
            gradient_clip_val=recipe.clip,
            # Named, or Lightning would take a SLURM job's tasks for ranks and queue the job again.
            plugins=[
                TorchElasticEnvironment() if distributed.launched() else LightningEnvironment(),
                StateFile(),
            ],
            logger=logger or False,
            log_every_n_steps=1,  # or Lightning warns of short fits
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[
                curve,
                Progress(label, [len(batch) for batch in batch_plan.batches], curve),
                FirstBatches(config.get_text_config().vocab_size),
                Checkpoints(out, hardware.checkpoint_seconds),
                Recomputation(table, batch_plan, recipe, hardware),
                *callbacks,
            ],
        )
        loader.pinned = trainer.strategy.root_device.type == "cuda"
        trainer.fit(module, loader, ckpt_path=state)
        unshard(model)
    model.eval()


@contextlib.contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Restore the caller's random state: a fit seeds torch at every microbatch.

    Only that of this process's own GPU: asking another one makes a context of 0.5 GB there.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def _known_warnings() -> Iterator[None]:
    """Silence, one by one, what Lightning 2.6.6 says about choices that are made on purpose."""
    quiet = logging.getLogger("lightning.pytorch")
    level = quiet.level
    quiet.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*LeafSpec.*",  # Lightning 2.6.6 with torch 2.13, in any fit
            ".*does not have many workers.*",  # batches come from memory maps
            ".*GPU available but not used.*",  # hardware says so
            ".*`srun` command is available.*",  # one process, or torchrun's, is what is wanted
            ".*Found .* module\\(s\\) in eval mode.*",  # the frozen tower
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
    quiet.setLevel(level)
