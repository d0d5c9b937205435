"""A LLaVA assembled from a published language model, CLIP's tower and a projector."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from xmas.data.images.pixels import SquareImages
from xmas.models.families.llava import tuned_on_instructions
from xmas.models.precision import cast_parameters
from xmas.models.projector import fill_projector, projector_file
from xmas.models.shape import Decoder, Shape, Tower
from xmas.models.sources import Source, answer_greedily, tokenizer_of
from xmas.models.specs import config_of
from xmas.models.start_point import StartPoint
from xmas.models.tokenizer import TrainedTokenizer
from xmas.models.vlm import LoadedModel
from xmas.store import Made, Store
from xmas.store.integrity import check

if TYPE_CHECKING:
    import transformers

TUNED = "tuned.json"  # what `Assembled.tuned` says, once the files may be gone


@dataclasses.dataclass(frozen=True)
class Assembled(StartPoint):
    """A `LlavaForConditionalGeneration` of a language model, a tower and, where there is one, the
    projector that LLaVA's first stage trained between them: where LLaVA-1.5's fine-tune begins.

    XMAS's proxy begins without: the released script passes no checkpoint of the first stage, so its
    connector (`mlp2x_gelu`: linear, GELU, linear) starts from normal numbers.

    The image token is the first after the tokenizer's, so that no text can name it, and another
    embedding row is reserved for a pad token: 32,000 and 32,001 of 32,064 with Vicuna, as in
    llava-hf's folders. New rows are zero. Their logits are in the softmax, unlike in LLaVA; answers
    never have these labels, so each adds e^0 to a sum that has terms of e^10 and more.

    Source: LLaVA `scripts/v1_5/finetune_lora.sh`; XMAS release, `train_stablelm.sh`; TinyLLaVA's
    initialisation, standard deviation 0.02.
    """

    kind: ClassVar[str] = "assembled"
    version: ClassVar[int] = 2  # a line for a pad token

    language: Source
    vision: Source  # a CLIP, or its vision half
    projector: Source | Made | None = None  # mm_projector.bin or its folder; null: a random one
    feature_layer: int = -2  # of the tower's hidden states
    aspect: str = "crop"  # crop: resize and centre crop, as the release; pad: to a square
    dtype: str = "float32"  # of the stored weights; what trains is float32 in any case
    drawn: TrainedTokenizer | None = None  # random weights of these sizes, for this tokenizer
    seed: int = 0  # of what is random

    def sources(self) -> dict[str, Source]:
        parts = {"language": self.language, "vision": self.vision, "projector": self.projector}
        if self.drawn is not None:
            return {}
        return {field: part for field, part in parts.items() if isinstance(part, Source)}

    def shape(self) -> Shape:
        language, vision = config_of(self.language), config_of(self.vision)
        decoder, tower = Decoder.of(language), Tower.of(getattr(vision, "vision_config", vision))
        return Shape(decoder, tower, (tower.width, *[decoder.width] * 2), tower.patches)

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: the tower is no CLIP, the language model's head has a bias, or the
        projector belongs between other models.
        """
        tuned = self._tuned()
        loaded = self._assembled(store) if self.drawn is None else self._drawn(store)
        loaded.save(out)
        (out / TUNED).write_text(json.dumps(tuned))

    def tuned(self, store: Store) -> str | None:
        """How one knows that a part was tuned on instructions; a finished result has it on file."""
        folder = store.path(self)
        if folder.exists():
            check(folder, TUNED)
        record = folder / TUNED
        return json.loads(record.read_text()) if record.exists() else self._tuned()

    def _tuned(self) -> str | None:
        if self.drawn is not None:
            return None
        for source in (self.language, self.projector):
            if isinstance(source, Source) and tuned_on_instructions(source.config()):
                return f"{source.name} is a LLaVA that was tuned on instructions"
        return None

    def _assembled(self, store: Store) -> LoadedModel:
        from transformers import AutoModel, AutoModelForCausalLM

        folder, dtype = self.language.folder(), getattr(torch, self.dtype)
        tokenizer = tokenizer_of(folder)
        language = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=dtype)
        clip = AutoModel.from_pretrained(self.vision.folder(), local_files_only=True, dtype=dtype)
        tower = getattr(clip, "vision_model", clip)
        if not tower.config.model_type.startswith("clip"):
            raise ValueError(f"{self.vision.name} is a {tower.config.model_type}, not a CLIP")
        if getattr(language.lm_head, "bias", None) is not None:
            raise ValueError(
                f"{self.language.name}: LLaVA's head has no place for this one's bias; take "
                "another language model"
            )
        token = len(tokenizer)
        _make_room(language, token + 2)
        model = joined(language, tower, token, self.feature_layer, self.seed)
        if self.projector is not None:
            source = self.projector
            path = store.find(source) if isinstance(source, Made) else source.folder()
            fill_projector(model.model.multi_modal_projector, projector_file(path))
        answer_greedily(model, tokenizer)
        images = SquareImages(tower.config.image_size, self.aspect)
        return LoadedModel(cast_parameters(model, dtype), tokenizer, images)

    def _drawn(self, store: Store) -> LoadedModel:
        """A randomly initialised model of the same size: for measurements of speed and memory."""
        from transformers import LlavaForConditionalGeneration

        assert self.drawn is not None
        tokenizer = tokenizer_of(store.get(self.drawn))
        language, vision = config_of(self.language), config_of(self.vision)
        if len(tokenizer) + 2 > language.vocab_size:
            raise ValueError(
                f"the drawn tokenizer has {len(tokenizer)} tokens, {self.language.name} "
                f"{language.vocab_size} lines, two of which are the image's and the pad's"
            )
        vision = getattr(vision, "vision_config", vision)
        config = llava_of(language, vision, len(tokenizer), self.feature_layer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = LlavaForConditionalGeneration._from_config(
                config, dtype=getattr(torch, self.dtype)
            )
        answer_greedily(model, tokenizer)
        return LoadedModel(model, tokenizer, SquareImages(vision.image_size, self.aspect))


def llava_of(
    language: Any, vision: Any, image_token: int, feature_layer: int
) -> "transformers.LlavaConfig":
    """The configuration of a LLaVA with these two halves."""
    from transformers import LlavaConfig

    return LlavaConfig(
        text_config=language,
        vision_config=vision,
        image_token_index=image_token,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=language.tie_word_embeddings,
    )


def joined(
    language: Any, tower: nn.Module, image_token: int, feature_layer: int, seed: int
) -> "transformers.PreTrainedModel":
    """A LLaVA of two models, which it takes over as they are, and a random connector."""
    from transformers import LlavaForConditionalGeneration

    config = llava_of(language.config, tower.config, image_token, feature_layer)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    projector = model.model.multi_modal_projector.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for linear in (projector.linear_1, projector.linear_2):
        nn.init.normal_(linear.weight, std=0.02, generator=generator)
        nn.init.zeros_(linear.bias)
    model.model.vision_tower = tower
    model.model.language_model = language.model
    model.lm_head = language.lm_head
    return model


def _make_room(language: Any, tokens: int) -> None:
    """At least `tokens` rows of embeddings; new ones are zero, and their logits with them."""
    before = language.config.vocab_size
    if before >= tokens:
        return
    language.resize_token_embeddings(tokens, pad_to_multiple_of=64, mean_resizing=False)
    with torch.no_grad():
        for embedding in (language.get_input_embeddings(), language.get_output_embeddings()):
            embedding.weight[before:] = 0
