"""Influence: the rows whose gradients point where those of a target set do, first."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from xmas.data.pool import Pool
from xmas.data.pool_at import pool_at
from xmas.features.influence.gradients import Gradients
from xmas.selection.protocol import Ranked
from xmas.selection.rules.votes import by_votes
from xmas.store import Stage, Store, describe, nearest_stages, volatile

UNSET = "???"  # what configurations leave open
BLOCK = 1 << 14  # rows of the feature that are in memory at a time


@dataclasses.dataclass(frozen=True)
class Influence:
    """Rows of which a step of gradient descent lowers the loss on the target set most, first.

    A row's score for a task is the mean cosine of its LoRA gradient and those of the task's rows,
    at a model that was fitted to a sample of the pool. Of several tasks each votes for its best
    `share`, see `by_votes`.

    Examples of one task may ask for different things: where their gradients point apart, their mean
    is near none of them. With `nearest` a row's score is the mean over the few examples to which
    its cosine is largest.

    Text-only rows have gradients too and are ranked among the others. The subset knows its target
    set: scored on it, or on what it was drawn from, it says nothing about other tasks.

    Directions that all rows of the pool share say little about a task. With `ridge` they count
    less: the target set's mean is multiplied with the inverse of the second moments of the pool's
    gradients, as influence functions have it and TRAK in the projected space.

    Source: LESS (arXiv 2402.04333), ICONS (arXiv 2501.00654), both without `ridge` and `nearest`;
    TRAK (arXiv 2303.14186). See `Gradients`. LESS takes the largest of several sub-tasks' means:
    with `nearest` 1 every example is one. Ivison et al. (arXiv 2503.01807) let every example choose
    its best rows in turns, which its release calls `max` next to `mean`; the mean of several is
    ours. Deviation: one model after its warm-up, where LESS adds those of several epochs.

    Args:
        gradients: of the pool's rows.
        toward: examples of what the subset is for, 50 are enough: a file, a folder with one, a
            dataset; see `pool_at`. Or several, by task: {charts: DIR, receipts: DIR}.
        share: of the rows that a task votes for.
        ridge: added to the second moments before they are inverted, as a fraction of their largest
            eigenvalue; None: no inverse, all directions count the same.
        nearest: examples whose mean is a row's score, all where there are fewer; None: all.
        by_source: tasks whose score is the largest of their sources', not the mean of all rows'.
    """

    saw_validation: ClassVar[bool] = False

    gradients: Gradients
    toward: str | dict[str, str] = volatile(UNSET)
    share: float = 0.2
    ridge: float | None = None
    by_source: list[str] = dataclasses.field(default_factory=list)
    nearest: int | None = volatile(None)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"selector.share={self.share}: expected a fraction in (0, 1]")
        if self.ridge is not None and not self.ridge > 0:
            raise ValueError(
                f"selector.ridge={self.ridge}: expected a positive fraction, such as 0.1, or null"
            )
        if self.nearest is not None and self.nearest < 1:
            raise ValueError(
                f"selector.nearest={self.nearest}: expected a number of examples, such as 5, or "
                "null for all"
            )

    def corrections(self) -> dict[str, Any]:
        """The content of the target sets, wherever they are. `nearest` came later: scores that are
        means over all examples keep their keys.
        """
        toward = {task: describe(pool) for task, pool in self.pools().items()}
        return {"toward": toward} | ({} if self.nearest is None else {"nearest": self.nearest})

    @property
    def sub_tasks(self) -> list[str]:
        """The tasks whose score is the largest of their sources'."""
        return self.by_source

    def pools(self) -> dict[str, Pool]:
        """The target set of each task, none where none is given. Raises PoolError: one is not
        there.
        """
        if self.toward == UNSET:
            return {}
        tasks = {"own": self.toward} if isinstance(self.toward, str) else self.toward
        return {task: self.pool_of(task, path) for task, path in tasks.items()}

    def pool_of(self, task: str, path: str) -> Pool:
        """The rows at a path; faulty ones are left out where the ranked pool leaves them out."""
        skips = self.gradients.model.pool.valid_rows is not None
        return pool_at(path, task, "selector.toward", "skip" if skips else "error")

    def targets(self) -> dict[str, Gradients]:
        """The gradients of each task's rows, under the same model."""
        return {
            task: dataclasses.replace(self.gradients, pool=pool)
            for task, pool in self.pools().items()
        }

    def inputs(self) -> list[Stage]:
        targets = self.targets().values()  # whose pools are opened, which stages may make
        opened = [stage for gradients in targets for stage in nearest_stages(gradients.pool)]
        return [self.gradients, *targets, *opened]

    def check(self, pool: Pool, store: Store) -> None:
        """Raises ValueError: there is no target set, one is empty, or `by_source` names no task."""
        self._refuse_none()
        pools = self.pools()
        if unknown := sorted({*self.by_source} - {*pools}):
            raise ValueError(
                f"selector.by_source has {', '.join(unknown)}; the tasks are {', '.join(pools)}"
            )
        for task, examples in pools.items():
            if examples.at_hand(store) and not len(rows := examples.open(store)):
                raise ValueError(f"{rows.annotations}: the target set {task} has no rows; add some")

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        """Raises ValueError: there is no target set, or no row of one has an answer."""
        self._refuse_none()
        parts, names = [], []
        for task, gradients in self.targets().items():
            of_task = self._parts(task, gradients, store)
            parts += of_task
            names += [task] * len(of_task)
        # After the examples: what is wrong with one ends the command before the pass over the pool.
        values = np.load(store.get(self.gradients) / "values.npy", mmap_mode="r")
        towards = np.concatenate(parts)
        if self.ridge is not None:
            towards = np.linalg.solve(moments(values, self.ridge), towards.T).T.astype(np.float32)
        of_parts = means(values, towards, [len(part) for part in parts], self.nearest)
        tasks = list(dict.fromkeys(names))
        columns = [[at for at, name in enumerate(names) if name == task] for task in tasks]
        scores = np.stack([of_parts[:, column].max(axis=1) for column in columns], axis=1)
        order, votes = by_votes(scores, self.share)
        has = np.isfinite(scores).all(axis=1)
        row_scores = np.where(has, scores[:, 0] if len(tasks) == 1 else votes, np.nan)
        return Ranked(order, row_scores, np.full(len(values), -1))

    def _refuse_none(self) -> None:
        if self.toward == UNSET or not self.toward:
            raise ValueError(
                "selector.toward is not set: give examples of what the subset is for, a file of "
                "conversations or a folder with one and its images, e.g. selector.toward=DIR"
            )

    def _parts(
        self, task: str, gradients: Gradients, store: Store
    ) -> list[Float[np.ndarray, "examples width"]]:
        """The task's unit gradients, or each of its sources'; where all count, their mean alone."""
        values = np.load(store.get(gradients) / "values.npy").astype(np.float32)
        assert gradients.pool is not None
        rows = gradients.pool.open(store)
        answered = np.isfinite(values).all(axis=1)
        if not answered.any():
            raise ValueError(f"{rows.annotations}: no row of the target set has an answer; add one")
        source = rows.index.source[:] if task in self.sub_tasks else np.zeros(len(values), int)
        parts = [values[answered & (source == name)] for name in np.unique(source[answered])]
        if self.nearest is None:
            return [part.mean(axis=0, keepdims=True) for part in parts]
        return parts


def moments(
    values: Float[np.ndarray, "rows width"], ridge: float
) -> Float[np.ndarray, "width width"]:
    """The mean outer product of rows on disk, NaN left out, and `ridge` times its largest
    eigenvalue on the diagonal; float64.
    """
    total, count = np.zeros((values.shape[1],) * 2), 0
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK].astype(np.float32)
        block = block[np.isfinite(block).all(axis=1)]
        total += block.T @ block
        count += len(block)
    total /= count
    return total + ridge * np.linalg.eigvalsh(total)[-1] * np.eye(len(total))


def means(
    values: Float[np.ndarray, "rows width"],
    directions: Float[np.ndarray, "examples width"],
    sizes: list[int],
    nearest: int | None,
) -> Float[np.ndarray, "rows parts"]:
    """The mean inner product of rows on disk with consecutive parts of the directions, float64.

    Args:
        sizes: of the parts.
        nearest: the largest products alone, this many; None: all of a part.
    """
    ends = np.cumsum(sizes)[:-1]
    blocks = []
    for start in range(0, len(values), BLOCK):
        products = values[start : start + BLOCK].astype(np.float32) @ directions.T
        parts = np.split(products.astype(np.float64), ends, axis=1)
        blocks.append(np.stack([_largest(part, nearest).mean(axis=1) for part in parts], axis=1))
    return np.concatenate(blocks)


def _largest(
    products: Float[np.ndarray, "rows examples"], count: int | None
) -> Float[np.ndarray, "rows _"]:
    """The largest products of every row, in any order, all where there are no more."""
    if count is None or count >= products.shape[1]:
        return products
    return np.partition(products, -count, axis=1)[:, -count:]
