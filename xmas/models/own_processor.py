"""A model's own processor of transformers: pictures as it makes them, image tokens as it expands
them.

For models that no file of `xmas.models.families` describes. What a family's description says as
arithmetic is found here by running the processor, also over blank pictures.
"""

import functools
import inspect
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from xmas.models.chat.layout import FEATURE, literal_of
from xmas.models.chat.saved_tokenizer import pin
from xmas.models.sources import tokenizer_of

VIDEO = "video_processor"
OF_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels")
SIZES = 1 << 16  # of pictures, whose expanded tokens are remembered


class OwnProcessor:
    """A processor of transformers for images and text, as an image processor of batches.

    `pictures_of_rows` gives every tensor that it makes of images, under transformers' names.
    """

    def __init__(self, own: Any) -> None:
        self.own = own

    @property
    def placeholder(self) -> str:
        """The text that stands for an image, before it is expanded."""
        return str(self.own.image_token)

    @functools.cached_property
    def marks(self) -> tuple[str, str]:
        """Special tokens that the chat template writes before and after the placeholder."""
        if not self.own.chat_template:
            return "", ""
        text = {"type": "text", "text": "?"}
        alone, shown = (
            self.own.apply_chat_template([{"role": "user", "content": content}])
            for content in ([text], [{"type": "image"}, text])
        )
        pairs = zip(alone, shown, strict=False)
        start = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        inserted = shown[start:]
        before, _, after = inserted.partition(self.placeholder)
        special = "|".join(map(re.escape, self.own.tokenizer.get_added_vocab()))
        first = re.search(f"(?:{special})*$", before)
        last = re.match(f"(?:{special})*", after[: len(shown) - len(alone)])
        assert first is not None
        assert last is not None
        return first.group(), last.group()

    def pictures(self, images: list[Image.Image]) -> dict[str, Tensor]:
        """As `pictures_of_rows`, of the images of one row."""
        return self.pictures_of_rows([images])

    def pictures_of_rows(self, rows: Sequence[Sequence[Image.Image]]) -> dict[str, Tensor]:
        """The tensors of the images of some rows, padded and joined as the model takes them."""
        texts = [self.placeholder * len(images) for images in rows]
        inputs = self._run(texts, rows, padding=True, return_mm_token_type_ids=False)
        return {
            name: value
            for name, value in inputs.items()
            if isinstance(value, Tensor) and name not in OF_TEXT
        }

    def tokens(
        self, sizes: Sequence[tuple[int, int]], image_token: int, types: Sequence[str] = ()
    ) -> list[Int[np.ndarray, " image"]]:
        """The token ids of the images of a row, marks included, given their heights and widths.

        Args:
            image_token: the model's id for a feature of an image.
            types: names of types of tokens that the model takes.

        Raises ValueError: the processor does not expand images where the text has them, or its
            types are not 1 at the image tokens and 0 elsewhere.
        """
        mark = self.own.tokenizer.eos_token
        blank = [Image.new("RGB", (width, height)) for height, width in sizes]
        before, after = self.marks
        text = mark.join(["", *[before + self.placeholder + after] * len(sizes), ""])
        inputs = self._run([text], [blank])
        ids = np.array(inputs["input_ids"][0], dtype=np.int32)
        for name in types:
            if not np.array_equal(np.array(inputs[name][0]), ids == image_token):
                raise ValueError(
                    f"the {name} of {type(self.own).__name__} are not 1 at the image's tokens and "
                    "0 elsewhere, so that they depend on where the answer starts; a file in "
                    "xmas/models/families has to describe this family"
                )
        marks = np.flatnonzero(ids == self.own.tokenizer.eos_token_id)
        if len(marks) != len(sizes) + 1:
            raise ValueError(
                f"{type(self.own).__name__} expands {len(sizes)} images between {len(marks)} marks "
                f"{mark!r}, not {len(sizes) + 1}: it moves images to another place of the text; a "
                "file in xmas/models/families has to describe this family"
            )
        return [ids[first + 1 : last] for first, last in itertools.pairwise(marks)]

    def save(self, folder: Path) -> None:
        """Write the processor's files, its tokenizer and chat template among them."""
        self.own.save_pretrained(folder)
        pin(folder)

    def _run(self, texts: list[str], rows: Sequence[Sequence[Image.Image]], **options: Any) -> Any:
        images = [[image.convert("RGB") for image in row] for row in rows]
        if options:
            options["return_tensors"] = "pt"
        return self.own(text=texts, images=images, add_special_tokens=False, **options)


class OwnTokens:
    """The layout that a processor's expansion of image tokens is, each size of picture run once."""

    by_size = True

    def __init__(
        self, processor: OwnProcessor, image_token: int, tokenizer: Any, types: Sequence[str] = ()
    ) -> None:
        self._processor, self._image_token, self._types = processor, image_token, types
        self.literal = literal_of(tokenizer, image_token)
        self._of_sizes = functools.lru_cache(SIZES)(self._expanded)

    def tokens(self, size: tuple[int, int] | None) -> Int[np.ndarray, " image"]:
        """Raises ValueError: the processor's text has no image token of the model."""
        if size is None:
            raise ValueError("the tokens of this model's images follow from an image's size")
        return self._of_sizes((size,))[0]

    def tokens_of_row(self, sizes: Sequence[tuple[int, int]]) -> list[Int[np.ndarray, " image"]]:
        """The tokens of every image of a row, which several images may make fewer."""
        pairs = tuple((int(height), int(width)) for height, width in sizes)
        return list(self._of_sizes(pairs)) if pairs else []

    def __getstate__(self) -> dict[str, Any]:  # a cache is not pickled
        return {name: value for name, value in vars(self).items() if name != "_of_sizes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._of_sizes = functools.lru_cache(SIZES)(self._expanded)

    def _expanded(
        self, sizes: tuple[tuple[int, int], ...]
    ) -> tuple[Int[np.ndarray, " image"], ...]:
        images = self._processor.tokens(sizes, self._image_token, self._types)
        for size, ids in zip(sizes, images, strict=True):
            if not (ids == self._image_token).any():
                raise ValueError(
                    f"{type(self._processor.own).__name__} expands an image of {size[0]} x "
                    f"{size[1]} pixels to {len(ids)} tokens, none of which is {self._image_token}, "
                    "the image_token_id of config.json; the processor's and the model's files have "
                    "to agree"
                )
        return tuple(np.where(ids == self._image_token, FEATURE, ids) for ids in images)


def own_processor(folder: Path, changes: Mapping[str, Any] = MappingProxyType({})) -> OwnProcessor:
    """The processor of a model folder, with `changes` to its image processor.

    Where only its video processor needs torchvision, and that is not installed, it is left out: no
    pool has videos.

    Raises:
        ImportError: its image processor needs torchvision; names the extra that installs it.
        ValueError: the folder has no processor for images and text.
    """
    from transformers import AutoProcessor, PreTrainedConfig
    from transformers.utils.import_utils import is_torchvision_available

    try:
        own = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (ImportError, ValueError) as error:
        if is_torchvision_available() or "torchvision" not in str(error).lower():
            raise
        own = _without_videos(folder, error)
    if not hasattr(own, "image_processor") or not hasattr(own, "tokenizer"):
        kind = PreTrainedConfig.get_config_dict(folder, local_files_only=True)[0].get("model_type")
        raise ValueError(
            f"{folder}: its files give a {type(own).__name__}, not a processor of images and text "
            f"for a {kind}; processor_config.json and preprocessor_config.json of the published "
            "folder have to be there"
        )
    for name, value in changes.items():
        setattr(own.image_processor, name, value)
    if own.tokenizer.pad_token is None:
        own.tokenizer.pad_token = own.tokenizer.eos_token
    return OwnProcessor(own)


class VideoSettings(dict[str, Any]):
    """The settings of a video processor that is not built here, saved again as they were."""

    _auto_class = None


def _without_videos(folder: Path, error: Exception) -> Any:
    """The processor of a folder, its video processor's settings in the place of that."""
    from transformers import AutoConfig, AutoImageProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    kind: Any = PROCESSOR_MAPPING.get(type(config), None)
    missing = ImportError(
        f"the processor of a {config.model_type} needs torchvision, which is not installed: "
        f"pip install 'xmas[torchvision]', the build for this torch; transformers says: {error}"
    )
    if kind is None or getattr(kind, "is_dummy", False) or VIDEO not in kind.get_attributes():
        raise missing from error
    try:
        images = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (ImportError, ValueError) as cause:
        raise missing from cause
    settings = _json(folder / "processor_config.json")
    video = settings.pop(VIDEO, None) or _json(folder / "video_preprocessor_config.json")
    tokenizer = tokenizer_of(folder, config)
    known = set(inspect.signature(kind.__init__).parameters) - set(kind.get_attributes())
    own = kind.__new__(kind)
    own.check_argument_for_proper_class = lambda name, argument: None  # settings have no class
    kind.__init__(
        own,
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=VideoSettings(video),
        chat_template=getattr(tokenizer, "chat_template", None),
        **{name: value for name, value in settings.items() if name in known - {"chat_template"}},
    )
    del own.check_argument_for_proper_class
    return own


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
