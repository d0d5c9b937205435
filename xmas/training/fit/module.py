"""The Lightning module of every fit; captions, proxy and target differ in what is trainable."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import get_cosine_schedule_with_warmup

from xmas.models.answer_loss import answer_loss
from xmas.models.chat.batches import Batch
from xmas.models.vision_cache import features_of
from xmas.models.vlm import connector_parameters
from xmas.training.fit.muon import inner_matrices, muon_and_adamw
from xmas.training.fit.recipe import Recipe
from xmas.training.fit.sharding import shard


class FitModule(LightningModule):
    """Token mean per microbatch, AdamW, linear warm-up and cosine to zero, two learning rates.

    Checkpoints contain the weights that require gradients, no others. Every microbatch seeds torch
    from `seed` and its index, so that an interrupted fit resumes bit for bit.

    Args:
        steps: optimiser steps of the whole fit, for the schedule.
        logit_rows: answer tokens whose logits exist at once; None: all.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        steps: int,
        seed: int,
        logit_rows: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.steps = steps
        self.seed = seed
        self.logit_rows = logit_rows
        self.strict_loading = False  # checkpoints have trainable weights only
        self._float_buffers = {
            name: buffer.clone()
            for name, buffer in model.named_buffers()
            if buffer.is_floating_point()
        }

    def on_fit_start(self) -> None:
        self._restore_buffers()
        self.model.train()
        for module in self.model.modules():
            weights = list(module.parameters())  # none in LoRA's dropout, which stays on
            if weights and not any(weight.requires_grad for weight in weights):
                module.eval()  # no dropout in a frozen tower

    def _restore_buffers(self) -> None:
        """Undo what engines do that cast a whole module to 16 bits: rotary frequencies included."""
        for name, buffer in self.model.named_buffers():
            if name in self._float_buffers and buffer.dtype != self._float_buffers[name].dtype:
                buffer.data = self._float_buffers[name].to(buffer.device)

    def configure_model(self) -> None:
        """Shard the weights over the devices, where the strategy asks for it."""
        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            shard(self, self.model, self.device_mesh["data_parallel"], self.recipe.precision)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        number = self.microbatch(batch_idx)
        seed = hash((self.seed, number, 0)) % 2**63  # the same on any rank
        # On a CPU, `torch.manual_seed` formats a traceback for each kind of absent accelerator.
        seeded = torch.default_generator if self.device.type == "cpu" else torch
        seeded.manual_seed(seed)

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss of a microbatch."""
        return answer_loss(
            self.model,
            batch.ids,
            batch.mask,
            batch.labels,
            features_of(self.model, batch),
            sizes=batch.pictures.get("sizes"),
            lengths=batch.lengths,
            places=batch.places,
            logit_rows=self.logit_rows,
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self(batch) * batch.weight  # `Losses` refuses what is not finite

    def microbatch(self, batch_idx: int) -> int:
        """The index of a microbatch among those of all ranks."""
        world = self.trainer.world_size if self._trainer is not None else 1
        return batch_idx * world + self.global_rank

    def configure_optimizers(self) -> Any:
        projector, language = [], []
        connector = connector_parameters(self.model)
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                (projector if name in connector else language).append(parameter)
        groups = [
            {"params": language, "lr": self.recipe.rate},
            {"params": projector, "lr": self.recipe.projector_rate},
        ]
        # Lightning takes a fused optimiser for one that unscales, and refuses to clip before it.
        clips_scaled_gradients = self.recipe.clip is not None and "mixed" in self.recipe.precision
        settings: dict[str, Any] = {
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": self.recipe.weight_decay,
            "fused": None if clips_scaled_gradients else True,
        }
        groups = [group for group in groups if group["params"]]
        if self.recipe.muon_rate is None:
            optimizer = torch.optim.AdamW(groups, **settings)
        else:
            matrices = inner_matrices(self.model)
            optimizer = muon_and_adamw(matrices, self.recipe.muon_rate, groups, **settings)
        warmup = math.ceil(self.recipe.warmup * self.steps)
        schedule = get_cosine_schedule_with_warmup(optimizer, warmup, self.steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        return batch.to(device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, weight in self.named_parameters() if weight.requires_grad}
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: weights[name] for name in weights if name in trained}
        checkpoint["world"] = self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Convert the counts of consumed batches to this number of ranks."""
        loops = checkpoint["loops"]["fit_loop"]
        for count_kind in ("total", "current"):
            counts = loops["epoch_loop.batch_progress"][count_kind]
            for name in counts:
                counts[name] = counts[name] * checkpoint["world"] // self.trainer.world_size
