"""OFA (once for all, later OnceSelect): rows that a frozen CLIP classifier is least sure of.

Each cluster gives its share, drawn by k-DPPs from twice as many rows of low confidence, so that
the chosen rows differ from each other.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.features.clip.embedded import Embedded, joint
from xmas.features.once_select.once_select import pairs
from xmas.features.once_select.pseudo_labels import PseudoLabels
from xmas.selection.rules.kdpp import KDpp
from xmas.store import Stage, Store, content


def proportional_quotas(sizes: Int[np.ndarray, " k"], budget: int) -> Int[np.ndarray, " k"]:
    """Split `budget` in proportion to sizes; the rest goes to the largest remainders, ties to the
    lower position.

    Raises:
        ValueError: the clusters have fewer rows than `budget`.
    """
    total = int(sizes.sum())
    if budget > total:
        raise ValueError(f"budget {budget} exceeds the {total} rows of {len(sizes)} clusters")
    quotas, remainders = np.divmod(budget * sizes, max(total, 1))
    quotas[np.argsort(-remainders, kind="stable")[: budget - quotas.sum()]] += 1
    return quotas


def at_least_one(
    quotas: Int[np.ndarray, " k"], sizes: Int[np.ndarray, " k"]
) -> Int[np.ndarray, " k"]:
    """Move rows between quotas so that every non-empty cluster has one, if there are enough.

    A cluster without a row gets one of the largest quota, of the first of equal ones.
    """
    raised_quotas = quotas.copy()
    for cluster in np.flatnonzero((sizes > 0) & (quotas == 0)):
        largest = int(np.argmax(raised_quotas))
        if raised_quotas[largest] > 1:
            raised_quotas[largest] -= 1
            raised_quotas[cluster] = 1
    return raised_quotas


@dataclasses.dataclass(frozen=True)
class Ofa:
    """Low confidence, then diversity; a `BudgetSelector`.

    Not nested: a budget sets every cluster's quota, the quotas set which rows are candidates, and a
    k-DPP of more items is another draw, not a continuation. Rows without a picture or a question
    are never chosen, as in the release, which drops them.

    Source: OnceSelect (arXiv 2605.26761); released `select_kdpp_low_confidence.py`, whose constants
    are the defaults. Deviations: the subset's policy decides on text-only rows; one generator draws
    for all blocks, where the release seeds each; the jitter is not raised in further attempts,
    since the sampler computes with logarithms.
    """

    labels: PseudoLabels
    trained: str | None = content(None)  # a once_select folder, instead of training on this pool
    candidates: float = 2.0  # rows of low confidence that a cluster offers, times its quota
    block: int = 128  # candidates that one k-DPP draws from, at most
    jitter: float = 1e-8  # on the kernel's diagonal

    def __post_init__(self) -> None:
        if self.trained is not None:  # no classifier is trained on this pool
            labels = dataclasses.replace(self.labels, trained=self.trained)
            object.__setattr__(self, "labels", labels)

    def inputs(self) -> list[Stage]:
        return [self.labels, self.labels.clip]

    def select(
        self, pool: Pool, budget: int, rng: np.random.Generator, store: Store
    ) -> Int[np.ndarray, " budget"]:
        """Raises ValueError: fewer rows than `budget` have a picture and a question."""
        labels, confidence = self.scored(store)
        embeddings = self.labels.clip.open(store)
        sizes = np.bincount(labels[labels >= 0])
        if budget > sizes.sum():
            raise ValueError(
                f"a budget of {budget} image rows exceeds the {sizes.sum()} that have a picture "
                f"and a question, of {len(labels)} rows"
            )
        quotas = at_least_one(proportional_quotas(sizes, budget), sizes)
        rows_of_blocks = []
        for cluster, quota in enumerate(quotas.tolist()):
            members = np.flatnonzero(labels == cluster)
            unsure = members[np.argsort(confidence[members], kind="stable")]
            candidate_rows = unsure[: max(quota, math.ceil(self.candidates * quota))]
            quality = 1 - np.arange(len(candidate_rows)) / max(len(candidate_rows), 1)
            for block, count in self._blocks(len(candidate_rows), quota, rng):
                kernel = self._kernel(embeddings, candidate_rows[block], quality[block])
                rows_of_blocks.append(candidate_rows[block[KDpp(kernel, count).sample(rng)]])
        return np.sort(np.concatenate(rows_of_blocks))

    def scored(self, store: Store) -> tuple[Int[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
        """Cluster and confidence of every row; -1 and NaN where it has none."""
        folder = store.get(self.labels)
        return np.load(folder / "labels.npy"), np.load(folder / "confidence.npy")

    def _blocks(
        self, count: int, quota: int, rng: np.random.Generator
    ) -> Iterator[tuple[Int[np.ndarray, " block"], int]]:
        """Random blocks of candidates and how many each gives, in proportion to its size."""
        permutation = rng.permutation(count)
        blocks = [permutation[start : start + self.block] for start in range(0, count, self.block)]
        sizes = np.array([len(block) for block in blocks], dtype=np.int64)
        yield from zip(blocks, proportional_quotas(sizes, quota).tolist(), strict=True)

    def _kernel(
        self,
        embedded: Embedded,
        rows: Int[np.ndarray, " block"],
        quality: Float[np.ndarray, " block"],
    ) -> Float[np.ndarray, "block block"]:
        """sqrt(q_i q_j) (1 + cosine_ij) / 2 of the joint vectors, with `jitter` on the diagonal."""
        points = joint(*pairs(embedded, rows)).astype(np.float64)
        alike = 0.5 * (points @ points.T + 1)
        return np.sqrt(quality[:, None] * quality) * alike + self.jitter * np.eye(len(rows))
