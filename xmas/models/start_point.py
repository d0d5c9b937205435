"""What a proxy or a target starts from."""

import dataclasses

from xmas.models.chat.layout import HasLayout, Layout
from xmas.models.shape import Shape, ShapelessError
from xmas.models.vlm import layout_of
from xmas.store import Made, Stage, Store


@dataclasses.dataclass(frozen=True)
class StartPoint(Stage):
    """A model folder that a fit starts from: weights, tokenizer, image processor.

    What depends on start points calls these methods, so that another one, also from outside this
    repository, derives from this class and writes its folder in `compute`.
    """

    @property
    def tower(self) -> Stage:
        """The stage that brought the vision tower: cached features are found by it."""
        return self

    @property
    def tokenizer(self) -> Made:
        """The folder of its tokenizer."""
        return Made(self, "")

    @property
    def image(self) -> int | HasLayout:
        """Tokens of any image, or what knows them: the model and the image's size."""
        return self

    def layout(self, store: Store) -> Layout:
        """How its model's images become tokens."""
        return layout_of(store.get(self))

    def shape(self) -> Shape:
        """The model in numbers, before it is built.

        Raises ShapelessError: its configuration is not on this machine.
        """
        raise ShapelessError(f"{type(self).__name__} does not say its shape; define shape()")

    def tuned(self, store: Store) -> str | None:
        """How one knows that it was tuned on instructions; None where nothing says so."""
        return None

    def refuse_tuned(self, store: Store) -> None:
        """Raise ValueError where it is instruction-tuned; say how that is known.

        `llava-hf/llava-1.5-7b-hf` and its like have seen all of LLaVA-665k: a fine-tune that starts
        there measures nothing about a subset.
        """
        if reason := self.tuned(store):
            raise ValueError(
                f"{reason}: a target that starts there has seen the pool, and its subset tells "
                "nothing; take another start point, or set target.from_tuned=true"
            )
