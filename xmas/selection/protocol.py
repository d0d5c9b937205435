"""What a selector is: an order over all rows of a pool, best first.

A published rule that gives unrelated subsets at different budgets is a `BudgetSelector`.
"""

import dataclasses
import re
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.store import Store

if TYPE_CHECKING:
    from xmas.models.chat.tokens import Tokenised  # loads torch


@dataclasses.dataclass(frozen=True)
class Ranked:
    """What a selector gives.

    Attributes:
        order: all rows of the pool, each once, best first.
        scores: of every row, in the pool's order; NaN where the method has none.
        clusters: of every row, in the pool's order; -1 where it has none.
    """

    order: Int[np.ndarray, " rows"]
    scores: Float[np.ndarray, " rows"]
    clusters: Int[np.ndarray, " rows"]


@runtime_checkable
class Selector(Protocol):
    """A frozen dataclass that ranks a pool; its fields are plain data and the stages it reads.

    >>> import dataclasses
    >>> import numpy as np
    >>> from xmas import Pool, Ranking, Store
    >>> from xmas.selection.protocol import Ranked
    >>> @dataclasses.dataclass(frozen=True)
    ... class LongestAnswer:
    ...     def rank(self, pool, rng, store):
    ...         rows = pool.open(store)
    ...         answers = [rows.conversation(row)[0][1] for row in range(len(rows))]
    ...         lengths = np.array([len(answer) for answer in answers], dtype=float)
    ...         order = np.argsort(-lengths, kind="stable")
    ...         return Ranked(order, lengths, np.full(len(rows), -1))
    >>> ranking = Ranking(Pool("mix.json", "images"), LongestAnswer())
    >>> Ranking.read(Store("store").get(ranking)).order
    array([1, 0, 2])

    One that chooses by the validation rows of a benchmark says so with a class attribute
    `saw_validation = True`, and tables mark its scores; see `saw_validation`.

    A selector that does not ask the store for exactly the stages in its fields also defines
    `inputs()`, which returns those that it asks for; see `xmas.store.Stage.inputs`.
    """

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        """Rank every row of `pool`.

        Args:
            rng: the only source of randomness; it depends on the seed and the selector's name.
            store: gives the results of the stages in the selector's fields.
        """
        ...


@runtime_checkable
class CheckedSelector(Protocol):
    """A selector that can tell beforehand that it cannot rank a pool."""

    def check(self, pool: Pool, store: Store) -> None:
        """Raise ValueError, with the setting to change, if `pool`, which is there, cannot be
        ranked. Computes nothing: it is called before the features are.
        """
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

        A method that selects text-only rows itself may give these too; it is then used with
        `subset.text_only=ranked`, and the other policies refuse its subsets.

        Raises:
            ValueError: it cannot give that many rows; the message has both numbers.
        """
        ...


@runtime_checkable
class TokenCounter(Protocol):
    """What counts the tokens of a row: a proxy or a target, which is not fitted for that."""

    def tokens(self) -> "Tokenised":
        """The stage that tokenises the pool."""
        ...


def saw_validation(selector: Selector | BudgetSelector) -> bool:
    """Whether what a selector chose saw the validation rows of a benchmark; by default not."""
    return bool(getattr(selector, "saw_validation", False))


def name_of(selector: Selector | BudgetSelector) -> str:
    """A selector's name in files, YAML and tables: `RandomInClusters` is `random_in_clusters`."""
    return re.sub(r"(?<=.)(?=[A-Z])", "_", type(selector).__name__).lower()
