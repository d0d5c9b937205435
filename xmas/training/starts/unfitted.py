"""A start point before any fit, measured on a pool."""

import dataclasses

from torch import Tensor

from xmas.data.pool import Pool
from xmas.models.chat.own_template import OwnTemplate
from xmas.models.chat.template import Template
from xmas.models.start_point import StartPoint
from xmas.store import Store, volatile
from xmas.training.fit.recipe import Hardware
from xmas.training.model_on_pool import ModelOnPool


@dataclasses.dataclass(frozen=True)
class Unfitted(ModelOnPool):
    """A proxy or a target with these fields before its first step."""

    pool: Pool
    start: StartPoint
    template: Template | OwnTemplate = dataclasses.field(default_factory=Template)
    cache_vision: bool = False  # tower features computed once and kept on disk: for small images
    max_length: int = 2048  # tokens of a row, the image counted
    hardware: Hardware = volatile(default_factory=Hardware)

    @property
    def feature_precision(self) -> str:
        """That of the stored weights."""
        return getattr(self.start, "dtype", "float32")  # not every start point has the choice

    def steps(self, store: Store) -> list[int]:
        return [0]

    def weights_at(self, store: Store, step: int) -> dict[str, Tensor]:
        """Nothing to replace: the weights are those of `start`."""
        return {}
