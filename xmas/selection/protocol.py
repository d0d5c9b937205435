"""What a selector is: an order over all rows of a pool, best first.

Where a published rule gives unrelated subsets at different budgets, it is a `BudgetSelector`.
"""

import dataclasses
import re
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class Ranked:
    """All rows, best first; the score of each row, NaN where the method has none; its cluster, -1
    where it has none.
    """

    order: Int[np.ndarray, " rows"]
    scores: Float[np.ndarray, " rows"]
    clusters: Int[np.ndarray, " rows"]


@runtime_checkable
class Selector(Protocol):
    """A frozen dataclass whose fields are plain data and the stages it looks at."""

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        """Rank every row of `pool`; what is random comes from `rng`, ties go to the lower row."""
        ...


@runtime_checkable
class BudgetSelector(Protocol):
    """A selector whose published rule is not nested; its docstring says why.

    Manifest, table and report call its subsets "not nested".
    """

    def select(
        self, pool: Pool, budget: int, rng: np.random.Generator, store: Store
    ) -> Int[np.ndarray, " budget"]:
        """Exactly `budget` distinct rows with an image, in any order.

        A method that selects text-only rows itself may give these too; it then is for
        `subset.text_only=ranked`, and other policies refuse them. Raises ValueError: it cannot give
        that many; the message has both numbers.
        """
        ...


def name_of(selector: Selector | BudgetSelector) -> str:
    """The one name of a selector: `RandomInClusters` is `random_in_clusters` everywhere."""
    return re.sub(r"(?<=.)(?=[A-Z])", "_", type(selector).__name__).lower()
