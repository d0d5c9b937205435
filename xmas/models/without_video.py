"""Processors of transformers for images and text, where its classes ask for one of videos as well.

The video processors need torchvision, which is not installed here.
"""

from typing import Any


def without_video(kind: type, images: Any, tokenizer: Any, **options: Any) -> Any:
    """An instance of a processor class that has no video processor.

    Args:
        kind: of transformers; the instance is saved under its name.
        images: image processor.
        options: further arguments of `kind`.
    """

    def attributes(_: type) -> list[str]:
        return ["image_processor", "tokenizer"]

    methods = {"get_attributes": classmethod(attributes), "__module__": kind.__module__}
    return type(kind.__name__, (kind,), methods)(images, tokenizer, None, **options)
