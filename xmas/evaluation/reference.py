"""What scores are compared with: the target on all rows, or its start point untrained, and which
runs may be compared.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from xmas.selection.methods.full import Full
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import describe, digest
from xmas.target.target import Target


@dataclasses.dataclass(frozen=True)
class Reference:
    """The target trained on all rows, with fixed seeds, so that no sweep over `seed` repeats it.

    Without seeds scores are compared with none. Raises ValueError: so with `base`.
    """

    target: Target  # its recipe; subset and seed are replaced
    seeds: Sequence[int] = (0,)
    base: bool = False  # the start point untrained in its place, where training on all costs much

    def __post_init__(self) -> None:
        if self.base and not self.seeds:
            raise ValueError(
                "reference.base=true with reference.seeds=[]: the start point is scored with the "
                "first of the seeds; give one"
            )

    def targets(self) -> list[Target]:
        pool = self.target.subset.ranking.pool
        all_rows = Subset(Ranking(pool, Full()), fraction=1.0, text_only="ranked")
        if self.base:
            untrained = dataclasses.replace(self.target, subset=all_rows, untrained=True)
            return [dataclasses.replace(untrained, seed=self.seeds[0])]
        return [dataclasses.replace(self.target, subset=all_rows, seed=seed) for seed in self.seeds]

    def identity(self) -> dict[str, Any]:
        return {"targets": [describe(target) for target in self.targets()]}


def group_of(target: Target) -> str:
    """A hash of what runs must share to be compared: pool, start, recipe; not subset and seed."""
    shared = describe(dataclasses.replace(target, untrained=False))
    del shared["subset"], shared["seed"]
    shared["pool"] = describe(target.subset.ranking.pool)
    return digest(shared)
