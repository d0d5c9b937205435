"""How much the question matters for the answer, on a reference set: losses with it and without."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from xmas.features.losses.answer_scorer import ScorerSettings, score_rows
from xmas.features.losses.rewritten import Rewritten
from xmas.features.losses.token_statistics import STATISTICS
from xmas.models.device import device_for
from xmas.models.precision import cast_parameters
from xmas.models.vlm import load
from xmas.store import Stage, Store, describe, distributed, nearest_stages, write_atomically
from xmas.training.model_on_pool import HasWeights

_LOSS = STATISTICS.index("loss")


@dataclasses.dataclass(frozen=True)
class Relevance(Stage):
    """Losses of the answers of a reference set, with the questions and without.

    Writes `values.npy` (rows, 2) float32: the mean loss of a row's answer tokens after its images
    and questions, in nats, and that of all its answers, joined, after its images alone. NaN on rows
    outside the reference set, without an image, or without an answer within the cut.

    Source: PreSel (arXiv 2503.07591), section 3.1; released `remove_instruction.py` and
    `loss_ppl_calc.py`.

    Args:
        model: PreSel: the target, fitted to the reference set.
        reference: with `rows.json`, the reference set: a subset. PreSel: 5 % of the pool.
    """

    kind: ClassVar[str] = "relevance"
    together: ClassVar[bool] = True

    model: HasWeights
    reference: Stage
    how: ScorerSettings = dataclasses.field(default_factory=ScorerSettings)

    @property
    def precision(self) -> str:
        """The precision of the model, by torch's name."""
        return self.how.weights or self.model.feature_precision

    def corrections(self) -> dict[str, Any]:
        """The precision, also where it is the fit's."""
        return {"how": describe(dataclasses.replace(self.how, weights=self.precision))}

    def unasked(self) -> Rewritten:
        """The conversations without their questions."""
        return Rewritten.of(self.model.tokens(), how="answer_from_image")

    def inputs(self) -> list[Stage]:
        stages = [*nearest_stages(self.model), *self.model.inputs()]
        return [*stages, self.unasked(), self.reference]

    def compute(self, store: Store, out: Path) -> None:
        """Raises FloatingPointError: a loss is not finite; names the row."""
        for stage in self.inputs():
            store.get(stage)  # by all ranks, before one of them needs it alone
        tables = {"asked": self.model.tokens().open(store), "unasked": self.unasked().open(store)}
        rows = np.array(
            json.loads((store.get(self.reference) / "rows.json").read_text()), dtype=np.int64
        )
        seen = [(table.image_at[rows] >= 0) & table.answered[rows] for table in tables.values()]
        rows = rows[np.all(seen, axis=0)]
        parts = load(store.get(self.model.start))
        device = device_for(self.model.hardware.accelerator)
        cast_parameters(parts.model, getattr(torch, self.precision), device)
        how = dataclasses.replace(self.how, weights=self.precision)
        steps = self.model.steps(store)[-1:]
        scored = [
            score_rows(
                self.model,
                store,
                parts,
                table,
                rows,
                steps,
                out / name,
                how=how,
                label=f"answers, {name}",
            )
            for name, table in tables.items()
        ]
        if distributed.rank_and_world()[0] > 0:
            return
        losses = np.stack([values[:, -1, _LOSS] for values in scored if values is not None], axis=1)
        write_atomically(out / "values.npy", lambda path: _save(path, losses))
        for name in tables:
            shutil.rmtree(out / name, ignore_errors=True)

    def ratios(self, store: Store) -> Float[np.ndarray, " rows"]:
        """The loss with the questions over that without, of every row; NaN where it has none."""
        values = np.load(store.get(self) / "values.npy").astype(np.float64)
        return values[:, 0] / values[:, 1]


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:  # numpy would append a suffix to a path
        np.save(file, values)
