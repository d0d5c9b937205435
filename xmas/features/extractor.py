"""Run a model over a pool and store one feature vector per row; resumable."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.tokens import TokenTable
from xmas.models.device import device_for
from xmas.models.precision import cast_parameters
from xmas.models.vision_cache import Pictures
from xmas.models.vlm import LoadedModel, load
from xmas.store import Stage, Store
from xmas.store.arrays import ArrayInParts
from xmas.store.progress import bar
from xmas.training.proxy import Proxy


@dataclasses.dataclass(frozen=True)
class FeatureExtractor:
    """A proxy's model at one step of its fit, for features of the proxy's pool.

    Args:
        name: the node of the configuration, for messages.
        proxy: whose model, pool, template and hardware.
        step: an optimiser step whose weights the proxy keeps; None: the last; 0: its start point,
            which costs no fit.
        weights: precision of weights and activations: float32, bfloat16, float16.
    """

    name: str
    proxy: Proxy
    step: int | None
    weights: str

    def inputs(self) -> list[Stage]:
        """What is asked of the store: at step 0 all that a fit asks for, but no fit."""
        fitted = [] if self.step == 0 else [self.proxy]
        return [*fitted, *self.proxy.inputs()]

    def parts(self, store: Store) -> LoadedModel:
        """The model on its device, with its tokenizer and image processor.

        Raises:
            ValueError: the proxy does not keep the step; the message says which it keeps.
        """
        proxy = self.proxy
        if self.step == 0:
            parts = load(store.get(proxy.start))
        else:
            steps = proxy.steps(store)
            if self.step not in (None, *steps):
                raise ValueError(
                    f"features.{self.name}.step={self.step}: the proxy keeps steps {steps}; null "
                    "is the last, 0 the start point"
                )
            parts = proxy.load(store, self.step or steps[-1])
        device = device_for(proxy.hardware.accelerator)
        model = cast_parameters(parts.model, getattr(torch, self.weights), device)
        return dataclasses.replace(parts, model=model)

    def fill(
        self,
        store: Store,
        parts: LoadedModel,
        out: Path,
        *,
        batches: list[Int[np.ndarray, " _"]],
        width: int,
        mark_rows: int,
        of: Callable[[Batch], Float[np.ndarray, "rows width"]],
    ) -> None:
        """As `fill`, over the proxy's pool."""
        fill(
            self.name,
            parts,
            self.proxy.tokens().open(store),
            self.proxy.pictures(store, parts),
            out,
            batches=batches,
            width=width,
            mark_rows=mark_rows,
            workers=self.proxy.hardware.workers,
            of=of,
        )

    def check(self, batch: Batch, values: Float[np.ndarray, "rows width"]) -> None:
        """Raise FloatingPointError naming the rows of a batch that are not finite."""
        broken = ~np.isfinite(values).all(axis=1)
        if broken.any():
            raise FloatingPointError(
                f"{self.name.replace('_', ' ')}: rows {sorted(batch.rows[broken].tolist())} are "
                f"not finite; set features.{self.name}.weights=float32, or inspect these rows"
            )


def fill(
    name: str,
    parts: LoadedModel,
    table: TokenTable,
    pictures: Pictures,
    out: Path,
    *,
    batches: list[Int[np.ndarray, " _"]],
    width: int,
    mark_rows: int,
    workers: int,
    of: Callable[[Batch], Float[np.ndarray, "rows width"]],
) -> None:
    """Fill `out/values.npy`, (rows, width) float16, with `of` every batch; ranks share them.

    Args:
        name: the node of the configuration, for the progress bar.
        batches: the pool's rows, in the order in which they run.
        mark_rows: rows between two checkpoints; an interrupted attempt resumes from its last.
        workers: processes that load batches.
        of: the features of a batch, which is on the model's device, pixels and tower features in
            the model's precision.
    """
    of_part = _grouped(batches, mark_rows)
    rows_of_part = [np.concatenate(batches_of_part) for batches_of_part in of_part]
    array = ArrayInParts(out / "values.npy", np.float16, (len(table), width), rows_of_part)
    loader = Loader(
        table,
        [batch for number in array.todo for batch in of_part[number]],
        image_token=parts.model.config.image_token_id,
        pad=parts.tokenizer.pad_token_id,
        pictures=pictures,
        workers=workers,
    )
    loaded = iter(loader)
    total = array.rows(array.own)
    initial = total - array.rows(array.todo)
    with bar(total=total, label=name.replace("_", " "), initial=initial) as progress:
        for number in array.todo:
            values = []
            for _ in of_part[number]:
                values.append(of(_placed(next(loaded), parts)).astype(np.float16))
                progress.update(len(values[-1]))
            array.write(number, np.concatenate(values))
    array.finish()


def _grouped(batches: list[Int[np.ndarray, " _"]], rows: int) -> list[list[Int[np.ndarray, " _"]]]:
    """Consecutive batches in groups of at least this many rows, but for the last."""
    groups: list[list[Int[np.ndarray, " _"]]] = []
    size = rows  # of the last group
    for batch in batches:
        if size >= rows:
            groups.append([])
            size = 0
        groups[-1].append(batch)
        size += len(batch)
    return groups


def _placed(batch: Batch, parts: LoadedModel) -> Batch:
    """A batch on the model's device, its floating-point pictures in the model's precision."""
    model = parts.model
    batch = batch.to(model.device)
    batch.pictures = {
        name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in batch.pictures.items()
    }
    return batch
