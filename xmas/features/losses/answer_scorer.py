"""A pass over a pool's answers: every row once, as the model would be trained on it.

Rows of like length share a batch. Every picture of a batch is decoded and encoded once for all
snapshots, whose weights stay on the device where they fit, as in `xmas.attention.engine`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xmas.attention.plan import length_batches
from xmas.attention.shards import Shards
from xmas.attention.weights import Read, Weights
from xmas.features.losses.token_statistics import STATISTICS, answer_statistics
from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.labels import NO_IMAGE, Tokens
from xmas.models.chat.layout import Layout
from xmas.models.chat.tokens import TokenTable
from xmas.models.vision_cache import Pictures
from xmas.models.vlm import hidden_states, tower_features, unwrap
from xmas.store import volatile
from xmas.store.progress import bar


@dataclasses.dataclass(frozen=True)
class How:
    """How a pass runs."""

    weights: str = "float32"  # of the model: float32, bfloat16, float16
    batch_tokens: int = 8192  # padded tokens of a batch, the images counted; one row at least
    shard_rows: int = 4096  # measured between two marks: what a killed pass loses at most
    resident_bytes: int | None = volatile(None)  # of all weights; null: half of the free memory
    workers: int = volatile(0)  # processes that load batches


class WithoutImages(TokenTable):
    """The same rows, their images' tokens left out.

    Of LLaVA's `USER: <image>\\nquestion ASSISTANT: answer</s>` this leaves `USER: \\nquestion
    ASSISTANT: answer</s>`: LLaVA's text-only rendering but for the line break that stood behind the
    image. So every other token is the same.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        super().__init__(folder, layout)
        self.lengths = self.text_lengths

    def __getitem__(self, row: int) -> Tokens:
        return dataclasses.replace(super().__getitem__(row), image_at=-1, image=NO_IMAGE)


class Reading:
    """Measures how well a model's snapshots foresee the answers of some rows of a pool.

    `order` (measured,): these rows as they run, the short ones first; shard n holds
    `order[bounds[n]:bounds[n + 1]]`. Both follow from lengths and `how` alone.
    """

    def __init__(
        self,
        model: nn.Module,
        table: TokenTable,
        rows: Int[np.ndarray, " rows"],
        *,
        pictures: Pictures,
        pad: int,
        how: How,
    ) -> None:
        self.model, self.table, self.pictures = model, table, pictures
        self.pad, self.how = pad, how
        found = length_batches(table.lengths[rows], 0, how.batch_tokens)
        self.batches = [rows[batch] for batch in found]
        self.order: Int[np.ndarray, " rows"] = np.concatenate([rows[:0], *self.batches])
        ends = np.cumsum([0, *map(len, self.batches)])
        shard = ends[:-1] // how.shard_rows
        self._first: list[int] = np.flatnonzero(np.diff(shard, prepend=-1)).tolist()
        self.bounds: Int[np.ndarray, " shards_1"] = np.r_[ends[self._first], len(rows)]

    def shards(self, folder: Path, steps: Sequence[int]) -> Shards:
        """Where the pass keeps what it has measured: `STATISTICS` and the number of tokens."""
        return Shards(folder, self.bounds, tuple(steps), len(STATISTICS) + 1)

    def run(self, shards: Shards, read: Read, *, label: str) -> None:
        """Measure what `shards` lacks. `read` gives the weights behind a step that the model as it
        is does not have; the model is left as it was.

        Raises FloatingPointError: a statistic is not finite; names row and step.
        """
        weights = Weights(self.model, getattr(torch, self.how.weights), head=True)
        for group in weights.groups(shards.steps, read, self.how.resident_bytes):
            todo = shards.todo(group).tolist()
            if not todo:
                continue
            with (
                weights.resident(group, read) as held,
                bar(total=self._rows(todo), label=label) as progress,
            ):
                loaded = iter(self._loader(todo))
                for shard in todo:
                    values = []
                    for _ in self._of(shard):
                        values.append(self._values(next(loaded), weights, held, label))
                        progress.update(len(values[-1]))
                    shards.write(shard, group, np.concatenate(values))

    @torch.no_grad()
    def _values(
        self, batch: Batch, weights: Weights, held: dict[int, dict[str, Tensor]], label: str
    ) -> Float[np.ndarray, "rows steps k"]:
        """Every row of a batch under the weights that are held."""
        batch = batch.to(next(self.model.parameters()).device)
        weights.use(next(iter(held.values())))  # the frozen tower is the same in all
        features = self._features(batch, weights.precision)
        found = []
        for step, these in held.items():
            weights.use(these)
            found.append(self._step(batch, features))
            _check(found[-1], batch.rows, f"{label}, step {step}")
        return np.stack(found, axis=1)

    def _step(self, batch: Batch, features: Tensor | None) -> Float[np.ndarray, "rows k"]:
        sizes = batch.pictures.get("sizes")
        hidden = hidden_states(self.model, batch.ids, batch.mask, features, sizes=sizes)
        head = unwrap(self.model).lm_head
        means, counts = answer_statistics(
            head, hidden, batch.labels, vocabulary=head.weight.shape[0]
        )
        return torch.cat([means, counts[:, None]], dim=1).float().cpu().numpy()

    def _features(self, batch: Batch, precision: torch.dtype) -> Tensor | None:
        if not batch.pictures:
            return None
        if "features" in batch.pictures:
            return batch.pictures["features"].to(precision)
        pixels = batch.pictures["pixels"].to(precision)
        return tower_features(self.model, pixels, batch.pictures.get("sizes"))

    def _loader(self, shards: Sequence[int]) -> Loader:
        return Loader(
            self.table,
            [batch for shard in shards for batch in self._of(shard)],
            image_token=unwrap(self.model).config.image_token_id,
            pad=self.pad,
            pictures=self.pictures,
            workers=self.how.workers,
        )

    def _of(self, shard: int) -> list[Int[np.ndarray, " _"]]:
        """The batches of a shard."""
        return self.batches[self._first[shard] : [*self._first, None][shard + 1]]

    def _rows(self, shards: Sequence[int]) -> int:
        return int(np.diff(self.bounds)[shards].sum())


def _check(values: Float[np.ndarray, "rows k"], rows: Int[np.ndarray, " rows"], label: str) -> None:
    """Raise FloatingPointError naming the first row with answer tokens that is not finite."""
    bad = np.flatnonzero((values[:, -1] > 0) & ~np.isfinite(values).all(axis=1))
    if len(bad):
        found = dict(zip((*STATISTICS, "tokens"), values[bad[0]].tolist(), strict=True))
        raise FloatingPointError(
            f"{label}: the answers of {len(bad)} rows are not finite, the first is row "
            f"{rows[bad[0]]}: {found}; look at this row, or use weights=float32"
        )
