"""Run a model over a pool and store one feature vector per row; resumable."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.tokens import TokenTable
from xmas.models.device import device_for
from xmas.models.precision import cast_parameters
from xmas.models.vision_cache import Pictures
from xmas.models.vlm import LoadedModel
from xmas.store import Stage, Store, nearest_stages
from xmas.store.arrays import ArrayInParts
from xmas.store.progress import bar
from xmas.training.model_on_pool import HasWeights, load_at


@dataclasses.dataclass(frozen=True)
class FeatureExtractor:
    """A model at one step of its fit, for features of its pool.

    Args:
        name: the node of the configuration, for messages.
        model: whose start point, pool, template and hardware: a proxy, or a start point alone.
        step: an optimiser step whose weights the model keeps; None: the last; 0: its start point,
            which costs no fit.
        weights: precision of weights and activations: float32, bfloat16, float16.
    """

    name: str
    model: HasWeights
    step: int | None
    weights: str

    def inputs(self) -> list[Stage]:
        """What is asked of the store: at step 0 all that a fit asks for, but no fit."""
        fitted = [] if self.step == 0 else nearest_stages(self.model)
        return [*fitted, *self.model.inputs()]

    def parts(self, store: Store) -> LoadedModel:
        """The model on its device, with its tokenizer and image processor.

        Raises:
            ValueError: the proxy does not keep the step; the message says which it keeps.
        """
        step = self.step
        if step != 0:
            steps = self.model.steps(store)
            if step not in (None, *steps):
                raise ValueError(
                    f"features.{self.name}.step={step}: the proxy keeps steps {steps}; null is the "
                    "last, 0 the start point"
                )
            step = steps[-1] if step is None else step
        parts = load_at(self.model, store, step)
        device = device_for(self.model.hardware.accelerator)
        cast = cast_parameters(parts.model, getattr(torch, self.weights), device)
        return dataclasses.replace(parts, model=cast)

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
        """As `fill`, over the model's pool."""
        fill(
            self.name,
            parts,
            self.model.tokens().open(store),
            self.model.pictures(store, parts),
            out,
            batches=batches,
            width=width,
            mark_rows=mark_rows,
            workers=self.model.hardware.workers,
            of=of,
        )

    def fill_arrays(
        self,
        store: Store,
        parts: LoadedModel,
        out: Path,
        *,
        batches: list[Int[np.ndarray, " _"]],
        columns: Mapping[str, "Columns"],
        mark_rows: int,
        of: Callable[[Batch], Mapping[str, Shaped[np.ndarray, "rows _"]]],
    ) -> None:
        """As the function `fill_arrays`, over the model's pool."""
        fill_arrays(
            self.name,
            parts,
            self.model.tokens().open(store),
            self.model.pictures(store, parts),
            out,
            batches=batches,
            columns=columns,
            mark_rows=mark_rows,
            workers=self.model.hardware.workers,
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
    change: Callable[[Batch], Batch] | None = None,
) -> None:
    """Fill `out/values.npy`, (rows, width) float16, with `of` every batch; ranks share them.

    Arguments as of `fill_arrays`, which it is for one array.
    """
    fill_arrays(
        name,
        parts,
        table,
        pictures,
        out,
        batches=batches,
        columns={"values": Columns(np.float16, width)},
        mark_rows=mark_rows,
        workers=workers,
        of=lambda batch: {"values": of(batch)},
        change=change,
    )


@dataclasses.dataclass(frozen=True)
class Columns:
    """Type and width of an array that has a line for every row of a pool."""

    dtype: Any  # numpy's
    width: int


def fill_arrays(
    name: str,
    parts: LoadedModel,
    table: TokenTable,
    pictures: Pictures,
    out: Path,
    *,
    batches: list[Int[np.ndarray, " _"]],
    columns: Mapping[str, Columns],
    mark_rows: int,
    workers: int,
    of: Callable[[Batch], Mapping[str, Shaped[np.ndarray, "rows _"]]],
    change: Callable[[Batch], Batch] | None = None,
) -> None:
    """Fill `out/<name>.npy` for every name of `columns` in one pass; ranks share the batches.

    Args:
        name: the node of the configuration, for the progress bar.
        batches: the pool's rows, in the order in which they run.
        columns: the arrays by name.
        mark_rows: rows between two checkpoints; an interrupted attempt resumes from its last.
        workers: processes that load batches.
        of: the lines of a batch in every array; the batch is on the model's device, pixels and
            tower features in the model's precision.
        change: applied to every batch where it is loaded, such as `pack`.
    """
    of_part = _grouped(batches, mark_rows)
    rows_of_part = [np.concatenate(batches_of_part) for batches_of_part in of_part]
    arrays = {
        stem: ArrayInParts(out / f"{stem}.npy", each.dtype, (len(table), each.width), rows_of_part)
        for stem, each in columns.items()
    }
    todo = sorted({number for array in arrays.values() for number in array.todo})
    loader = Loader(
        table,
        [batch for number in todo for batch in of_part[number]],
        image_token=parts.model.config.image_token_id,
        pad=parts.tokenizer.pad_token_id,
        pictures=pictures,
        workers=workers,
        change=change,
    )
    loaded = iter(loader)
    total = max(array.rows(array.own) for array in arrays.values())
    initial = total - sum(len(rows_of_part[number]) for number in todo)
    with bar(total=total, label=name.replace("_", " "), initial=initial) as progress:
        for number in todo:
            lines: dict[str, list[np.ndarray]] = {stem: [] for stem in arrays}
            for batch in of_part[number]:
                for stem, values in of(_placed(next(loaded), parts)).items():
                    lines[stem].append(values.astype(columns[stem].dtype))
                progress.update(len(batch))
            for stem, array in arrays.items():
                if number in array.todo:
                    array.write(number, np.concatenate(lines[stem]))
    for array in arrays.values():
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
