"""Score the answers of a pool: one forward pass per row and snapshot, as in training.

Rows of similar length share a batch. The images of a batch are decoded and encoded once for all
snapshots, whose weights stay on the device where they fit, as in `xmas.attention.engine`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xmas.attention.plan import length_batches
from xmas.attention.shards import Shards
from xmas.attention.weights import Read, Weights
from xmas.features.losses.token_statistics import STATISTICS, answer_statistics
from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.labels import Tokens
from xmas.models.chat.layout import Layout
from xmas.models.chat.tokens import TokenTable
from xmas.models.families import Features
from xmas.models.vision_cache import Pictures, features_of
from xmas.models.vlm import LoadedModel, head_of, hidden_states, unwrap, vocabulary_of
from xmas.store import Store, volatile
from xmas.store.distributed import barrier, rank_and_world
from xmas.store.progress import bar
from xmas.training.model_on_pool import HasWeights


@dataclasses.dataclass(frozen=True)
class ScorerSettings:
    """Precision and batch sizes of the forward passes.

    Args:
        weights: precision of the model: float32, bfloat16, float16; None: that of its fit.
        batch_tokens: padded tokens of a batch, image tokens included; a batch has at least one row.
        shard_rows: rows between two checkpoints, the most that a killed pass loses.
        resident_bytes: for the weights of all snapshots; None: half of the device's free memory.
        workers: processes that load batches.
    """

    weights: str | None = None
    batch_tokens: int = 8192
    shard_rows: int = 4096
    resident_bytes: int | None = volatile(None)
    workers: int = volatile(0)


class WithoutImages(TokenTable):
    """The same rows without their image tokens.

    `USER: <image>\\nquestion ASSISTANT: answer</s>` becomes `USER: \\nquestion ASSISTANT:
    answer</s>`: LLaVA's text-only rendering except for the line break after the image, so that
    every other token is the same.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        super().__init__(folder, layout)
        self.lengths = self.text_lengths

    def __getitem__(self, row: int) -> Tokens:
        return dataclasses.replace(super().__getitem__(row), places=(), images=())


class AnswerScorer:
    """Loss, EL2N and margin of the answers of some rows of a pool, under a model's snapshots.

    Args:
        lengths: of every row, for batches; None: those of `table`.

    Attributes:
        names: of a row's values; the last is the number of tokens that the others are means over.
        order: (scored rows,) the rows in the order in which they run, short ones first.
        bounds: shard n has `order[bounds[n]:bounds[n + 1]]`. Both depend on the rows' lengths and
            on `how` alone, so that an interrupted pass finds its shards again.
    """

    names: ClassVar[tuple[str, ...]] = (*STATISTICS, "tokens")

    def __init__(
        self,
        model: nn.Module,
        table: TokenTable,
        rows: Int[np.ndarray, " rows"],
        *,
        pictures: Pictures,
        pad: int,
        how: ScorerSettings,
        lengths: Int[np.ndarray, " pool"] | None = None,
    ) -> None:
        self.model, self.table, self.pictures = model, table, pictures
        self.pad, self.how = pad, how
        lengths = table.lengths if lengths is None else lengths
        positions = length_batches(lengths[rows], 0, how.batch_tokens)
        self.batches = [rows[batch] for batch in positions]
        self.order: Int[np.ndarray, " rows"] = np.concatenate([rows[:0], *self.batches])
        ends = np.cumsum([0, *map(len, self.batches)])
        shard = ends[:-1] // how.shard_rows
        self._first: list[int] = np.flatnonzero(np.diff(shard, prepend=-1)).tolist()
        self.bounds: Int[np.ndarray, " shards_1"] = np.r_[ends[self._first], len(rows)]

    def shards(self, folder: Path, steps: Sequence[int]) -> Shards:
        """The finished parts of a pass: the values of `names`, per row and step."""
        return Shards(folder, self.bounds, tuple(steps), len(self.names))

    def run(self, shards: Shards, read: Read, *, label: str) -> None:
        """Compute the shards that are missing; leaves the model as it was.

        Several ranks share them, and all return when all have finished.

        Args:
            read: gives the weights after a step, to be loaded into the model.
            label: of the progress bar and of messages.

        Raises:
            FloatingPointError: a statistic is not finite; names row and step.
        """
        rank, world = rank_and_world()
        precision = getattr(torch, self.how.weights or "float32")
        weights = Weights(self.model, precision, head=True)
        for group in weights.groups(shards.steps, read, self.how.resident_bytes):
            todo = [shard for shard in shards.todo(group).tolist() if shard % world == rank]
            if not todo:
                continue
            with (
                weights.resident(group, read) as snapshots,
                bar(total=self._rows(todo), label=label, whole=False) as progress,
            ):
                batches = iter(self._loader(todo))
                for shard in todo:
                    values = []
                    for _ in self._of(shard):
                        values.append(self._values(next(batches), weights, snapshots, label))
                        progress.update(len(values[-1]))
                    shards.write(shard, group, np.concatenate(values), rank=rank)
        barrier()

    @torch.no_grad()
    def _values(
        self, batch: Batch, weights: Weights, snapshots: dict[int, dict[str, Tensor]], label: str
    ) -> Float[np.ndarray, "rows steps k"]:
        """The statistics of a batch under every snapshot on the device."""
        batch = batch.to(next(self.model.parameters()).device)
        weights.use(next(iter(snapshots.values())))  # the frozen tower is the same in all
        features = features_of(self.model, batch, weights.precision)
        columns = []
        for step, tensors in snapshots.items():
            weights.use(tensors)
            columns.append(self._step(batch, features))
            self._check(columns[-1], batch.rows, f"{label}, step {step}")
        return np.stack(columns, axis=1)

    def _step(self, batch: Batch, features: Features | None) -> Float[np.ndarray, "rows k"]:
        sizes = batch.pictures.get("sizes")
        hidden = hidden_states(self.model, batch.ids, batch.mask, features, sizes=sizes)
        means, counts = answer_statistics(
            head_of(self.model), hidden, batch.labels, vocabulary=vocabulary_of(self.model)
        )
        return torch.cat([means, counts[:, None]], dim=1).float().cpu().numpy()

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

    def _check(
        self, values: Float[np.ndarray, "rows k"], rows: Int[np.ndarray, " rows"], label: str
    ) -> None:
        """Raise FloatingPointError naming the first row with tokens that is not finite."""
        bad = np.flatnonzero((values[:, -1] > 0) & ~np.isfinite(values).all(axis=1))
        if len(bad):
            first = dict(zip(self.names, values[bad[0]].tolist(), strict=True))
            raise FloatingPointError(
                f"{label}: the answers of {len(bad)} rows are not finite, the first is row "
                f"{rows[bad[0]]}: {first}; inspect this row, or set "
                "features.answers.how.weights=float32"
            )


def score_rows(
    model: HasWeights,
    store: Store,
    parts: LoadedModel,
    table: TokenTable,
    rows: Int[np.ndarray, " rows"],
    steps: Sequence[int],
    folder: Path,
    *,
    how: ScorerSettings,
    label: str,
) -> Float[np.ndarray, "pool steps k"] | None:
    """Statistics and number of tokens of some rows after every step; NaN for the others.

    All ranks share the pass; those other than rank 0 get None.

    Args:
        model: whose pictures and weights, loaded in `parts`.
        table: of the pool's rows, in the model's template.
        folder: for the parts of the pass.
        label: of the progress bar and of messages.
    """
    how = dataclasses.replace(how, workers=model.hardware.workers)
    pictures, pad = model.pictures(store, parts), parts.tokenizer.pad_token_id
    scorer = AnswerScorer(parts.model, table, rows, pictures=pictures, pad=pad, how=how)
    shards = scorer.shards(folder, steps)
    scorer.run(shards, lambda step: model.weights_at(store, step), label=label)
    if rank_and_world()[0] > 0:
        return None
    return shards.merge(folder / "whole.npy", scorer.order, len(table))
