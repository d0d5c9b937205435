"""A start point as it is, asked about a pool that it was not trained on."""

import dataclasses

from torch import Tensor

from xmas.data.pool import Pool
from xmas.models.chat.template import Template
from xmas.models.chat.tokens import Tokenised
from xmas.models.vision_cache import Pictures, image_stage, pictures_of
from xmas.models.vlm import LoadedModel
from xmas.store import Stage, Store, stages_of_fields, volatile
from xmas.training.fit.recipe import Hardware
from xmas.training.starts.start_point import StartPoint


@dataclasses.dataclass(frozen=True)
class Unfitted:
    """What a proxy or a target with these fields is before its first step."""

    pool: Pool
    start: StartPoint
    template: Template = dataclasses.field(default_factory=Template)
    cache_vision: bool = False  # tower features once for all, on disk: for small images
    max_length: int = 2048  # tokens of a row, the image counted
    hardware: Hardware = volatile(default_factory=Hardware)

    def tokens(self) -> Tokenised:
        return Tokenised(
            self.pool, self.start.tokenizer, self.template, self.start.image, self.max_length
        )

    def pictures(self, store: Store, parts: LoadedModel) -> Pictures:
        return pictures_of(
            self.pool, self.start.tower, parts.processor, store, cached=self.cache_vision
        )

    def inputs(self) -> list[Stage]:
        images = image_stage(self.pool, self.start.tower, cached=self.cache_vision)
        return [*stages_of_fields(self), self.tokens(), images]

    def steps(self, store: Store) -> list[int]:
        return [0]

    def weights_at(self, store: Store, step: int) -> dict[str, Tensor]:
        """None: the folder's own are the model's."""
        return {}
