"""A published vision-language model as a start point."""

import dataclasses
import logging
from pathlib import Path
from typing import Any, ClassVar

import torch

from xmas.models.families import HasMarks, OwnForward, Parts, family_of
from xmas.models.hub import local_folder
from xmas.models.shape import Shape
from xmas.models.sources import Source, answer_greedily, tokenizer_of
from xmas.models.specs import config_of
from xmas.models.start_point import StartPoint
from xmas.models.tokenizer import TrainedTokenizer
from xmas.models.vlm import LoadedModel
from xmas.store import Store, volatile

log = logging.getLogger(__name__)


def path_of(family: Parts, name: str) -> str:
    """How models of a family run, and what that costs."""
    if isinstance(family, OwnForward):
        return (
            f"{name}: nobody described models of type {family.model_type}, so that rows run whole, "
            "by the model's own forward and processor: the tower again for every row and snapshot, "
            "no prefix shared; goal=estimate counts it, docs/add-a-model-family.md says how to "
            "describe one"
        )
    return (
        f"{name}: models of type {family.model_type} are described in xmas/models/families: tower "
        "features once an image, prefixes shared"
    )


@dataclasses.dataclass(frozen=True)
class Published(StartPoint):
    """Weights, tokenizer and image processor of a model of one of `xmas.models.families`.

    Such models are instruction-tuned already, often on much of the pool: trajectories then start
    from a model that knows it, and a target needs `from_tuned`.
    """

    kind: ClassVar[str] = "published"

    source: Source
    config: dict[str, Any] = dataclasses.field(default_factory=dict)  # changes of config.json
    images: dict[str, Any] = dataclasses.field(default_factory=dict)  # of preprocessor_config.json
    dtype: str = "float32"  # of the stored weights; what trains is float32 in any case
    drawn: TrainedTokenizer | None = None  # random weights of these sizes, for this tokenizer
    seed: int = 0  # of what is random
    tiles: float = volatile(1.0)  # of a picture on average, for estimates

    def corrections(self) -> dict[str, Any]:
        """Several images of a row are squares to LLaVA-OneVision, by padding; before, they were
        squeezed. A local folder whose name does not say what it is keeps its key. Where a Qwen's
        weights are random, its tokenizer has names for the marks around images; before, it had not.
        """
        name = self.source.name.lower()
        corrections = {"several_images": "padded"} if "onevision" in name else {}
        if self.drawn is not None and "qwen" in name:
            corrections["marks"] = "named"
        return corrections

    def tuned(self, store: Store) -> str | None:
        """Whole models on the hub are; random weights are not."""
        if self.drawn is not None:
            return None
        return f"{self.source.name} is a whole vision-language model, tuned on instructions"

    def sources(self) -> dict[str, Source]:
        return {} if self.drawn is not None else {"source": self.source}

    def shape(self) -> Shape:
        config = _changed(config_of(self.source), self.config)
        family = family_of(config)
        shape = family.shape(config, tiles=self.tiles)
        folder = local_folder(self.source)
        if not isinstance(family, OwnForward) or folder is None:
            return shape
        processor = family.processor(folder, self.images)
        return family.seen(shape, processor, family.layout(config, processor, tokenizer_of(folder)))

    def compute(self, store: Store, out: Path) -> None:
        """Raises TypeError: the model is of no known family; ValueError: its files disagree."""
        from transformers import AutoConfig, AutoModelForImageTextToText

        if self.drawn is not None:
            self._drawn(store, out).save(out)
            return
        folder = self.source.folder()
        config = AutoConfig.from_pretrained(folder, local_files_only=True, **self.config)
        family = family_of(config)
        tokenizer = tokenizer_of(folder, config)
        processor = family.processor(folder, self.images)
        family.layout(config, processor, tokenizer)  # or it would fail after the weights
        log.info("%s", path_of(family, self.source.name))
        model = AutoModelForImageTextToText.from_pretrained(
            folder, config=config, local_files_only=True, dtype=getattr(torch, self.dtype)
        )
        answer_greedily(model, tokenizer)
        LoadedModel(model, tokenizer, processor).save(out)

    def _drawn(self, store: Store, out: Path) -> LoadedModel:
        """A randomly initialised model of the same size, with its family's image processor."""
        from transformers import AutoModelForImageTextToText

        assert self.drawn is not None
        config = _changed(config_of(self.source), self.config)
        family = family_of(config)
        tokenizer = tokenizer_of(store.get(self.drawn))
        if isinstance(family, HasMarks):
            tokenizer.add_special_tokens({"additional_special_tokens": [*family.marks.values()]})
            for field, name in family.marks.items():
                setattr(config, field, tokenizer.convert_tokens_to_ids(name))
        elif config.image_token_id >= len(tokenizer):
            config.image_token_id = len(tokenizer)  # the first that no text can name
        if isinstance(family, OwnForward):
            raise ValueError(
                f"{self.source.name}: nobody described models of type {config.model_type}, so that "
                "nothing says how random weights of their size see images: set weights=published, "
                "or describe the family (docs/add-a-model-family.md)"
            )
        (out / "preprocessor_config.json").write_text("{}")
        processor = family.processor(out, self.images)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = AutoModelForImageTextToText.from_config(
                config, dtype=getattr(torch, self.dtype)
            )
        answer_greedily(model, tokenizer)
        return LoadedModel(model, tokenizer, processor)


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    """A configuration with some values changed, inside its parts too, as a folder's would be."""
    return type(config).from_dict(config.to_dict(), **changes) if changes else config
