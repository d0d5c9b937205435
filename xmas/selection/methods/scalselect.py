"""ScalSelect: rows that span the leading subspace of what questions attend to in images first."""

import dataclasses
import logging

import numpy as np

from xmas.data.pool import Pool
from xmas.features.shallow import Shallow
from xmas.selection.protocol import Ranked
from xmas.selection.rules.best_first import best_first
from xmas.selection.rules.centred import Centred, leverage
from xmas.store import Store

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Scalselect:
    """Largest leverage first: of a row's image feature, centred, in the leading components.

    Text-only rows have none and follow all others, in random order: the published subset is that of
    `subset.text_only=exclude`.

    Source: ScalSelect (arXiv 2602.11636), released `cur.py` as `run_cur.sh` calls it, without
    scaling of features or rows. Deviation: by the Gram matrix instead of a singular value
    decomposition of all rows.
    """

    features: Shallow
    energy: float = 0.9  # of the sum of squared singular values

    def __post_init__(self) -> None:
        """Raises ValueError: `energy` is no fraction."""
        if not 0 < self.energy <= 1:
            raise ValueError(f"selector.energy={self.energy} is not within (0, 1]")

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        values = np.load(store.get(self.features) / "attended.npy", mmap_mode="r")
        centred = Centred.of(values)
        scores, k = leverage(centred, self.energy)
        log.info("scalselect: %d of %d components for %g", k, values.shape[1], self.energy)
        return Ranked(best_first(scores, rng), scores, np.full(len(scores), -1))
