"""Loss, EL2N and margin of every row's answers under a model, with the image and without it.

One stage serves all selectors that use losses; each reads its column.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int

from xmas.features.losses.answer_scorer import ScorerSettings, WithoutImages, score_rows
from xmas.features.losses.token_statistics import STATISTICS
from xmas.models.chat.tokens import TokenTable
from xmas.models.device import device_for
from xmas.models.precision import cast_parameters
from xmas.models.vlm import LoadedModel, load
from xmas.store import (
    Stage,
    Store,
    describe,
    distributed,
    nearest_stages,
    write_atomically,
)
from xmas.store.durable import sync
from xmas.training.model_on_pool import HasWeights

COLUMNS = (*STATISTICS, "tokens", "blind_loss")


@dataclasses.dataclass(frozen=True)
class Answers(Stage):
    """Statistics of every row's answer tokens after the steps of a fit.

    Writes `values.npy` (rows, 5) float32, after the last step; its columns, named in
    `columns.json`, are `loss`, the mean cross-entropy of the answer tokens in nats; `el2n` and
    `margin`, see `token_statistics`; `tokens`, their number; `blind_loss`, the loss without the
    image, see `WithoutImages`. Also `columns/<step>.npy` (rows, 3) float32: the first three after
    each step of `steps.npy`.

    Text-only rows are scored like the others; their two losses are equal (VisNec: their necessity
    is 0). A row without an answer token has 0 `tokens` and NaN otherwise. Perplexity is exp(loss),
    necessity is blind_loss - loss.

    A row's values do not depend on the other rows of its batch. All steps are scored in one pass;
    the pass without images is run for the last step only. An interrupted attempt resumes after its
    last finished shard.
    """

    kind: ClassVar[str] = "answers"
    together: ClassVar[bool] = True

    model: HasWeights
    how: ScorerSettings = dataclasses.field(default_factory=ScorerSettings)

    @property
    def precision(self) -> str:
        """The precision of the model, by torch's name."""
        return self.how.weights or self.model.feature_precision

    def corrections(self) -> dict[str, Any]:
        """The precision, also where it is the fit's."""
        return {"how": describe(dataclasses.replace(self.how, weights=self.precision))}

    def inputs(self) -> list[Stage]:
        return [*nearest_stages(self.model), *self.model.inputs()]

    def compute(self, store: Store, out: Path) -> None:
        """Raises FloatingPointError: a statistic is not finite; names row and step."""
        is_measured = (out / "values.npy").exists()  # the last file of an attempt
        distributed.barrier()  # all ranks have checked
        if not is_measured:
            self._measure(store, out)
        if distributed.rank_and_world()[0] > 0:
            return
        for parts in ("with", "without"):
            shutil.rmtree(out / parts, ignore_errors=True)  # nothing, if no row has an image

    def _measure(self, store: Store, out: Path) -> None:
        for stage in nearest_stages(self.model):
            store.get(stage)  # by all ranks, before one of them needs it alone
        tokens = self.model.tokens()
        table = tokens.open(store)
        blind = WithoutImages(store.get(tokens), tokens.layout(store))
        pictured = np.flatnonzero(table.image_at >= 0)
        steps = self.model.steps(store)
        parts = load(store.get(self.model.start))
        device = device_for(self.model.hardware.accelerator)
        cast_parameters(parts.model, getattr(torch, self.precision), device)
        seeing = self._pass(store, parts, table, np.arange(len(table)), steps, out / "with")
        without = None
        if len(pictured):
            without = self._pass(store, parts, blind, pictured, steps[-1:], out / "without")
        if seeing is None:
            return
        blind_loss = seeing[:, -1, :1].copy()
        if without is not None:
            blind_loss[pictured] = without[pictured, -1, :1]
        (out / "columns").mkdir(exist_ok=True)
        for at, step in enumerate(steps):
            np.save(out / "columns" / f"{step}.npy", seeing[:, at, : len(STATISTICS)])
        np.save(out / "steps.npy", np.array(steps))
        (out / "columns.json").write_text(json.dumps(COLUMNS))
        values = np.concatenate([seeing[:, -1], blind_loss], axis=1)
        sync(out)  # values.npy says that the other files are complete
        write_atomically(out / "values.npy", lambda path: _save(path, values))

    def _pass(
        self,
        store: Store,
        parts: LoadedModel,
        table: TokenTable,
        rows: Int[np.ndarray, " rows"],
        steps: Sequence[int],
        folder: Path,
    ) -> Float[np.ndarray, "pool steps k"] | None:
        """`score_rows` under this model."""
        how = dataclasses.replace(self.how, weights=self.precision)
        label = f"answers {folder.name} images"
        return score_rows(
            self.model, store, parts, table, rows, steps, folder, how=how, label=label
        )

    def column(self, store: Store, name: str) -> Float[np.ndarray, " rows"]:
        """One of `COLUMNS` for every row, float64."""
        values = np.load(store.get(self) / "values.npy", mmap_mode="r")
        return values[:, COLUMNS.index(name)].astype(np.float64)

    def losses(self, store: Store) -> Float[np.ndarray, "rows steps"]:
        """The loss of every row after every step, in nats, float64."""
        folder = store.get(self)
        steps = np.load(folder / "steps.npy").tolist()
        columns = [np.load(folder / "columns" / f"{step}.npy", mmap_mode="r") for step in steps]
        return np.stack([column[:, 0] for column in columns], axis=1).astype(np.float64)


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:  # numpy would append a suffix to a path
        np.save(file, values)
