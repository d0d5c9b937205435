"""Start points of every family with tiny random weights, written as folders that a hub might hold.

No number of patches, heads or tokens is a power of two where the model allows it, and weights are
large enough that attention is not uniform.
"""

import copy
import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from xmas.data.images.pixels import SquareImages
from xmas.models.assembled import Assembled, joined
from xmas.models.chat.template import Template
from xmas.models.published import Published
from xmas.models.sources import Source
from xmas.models.start_point import StartPoint
from xmas.models.vision_cache import FromFiles
from xmas.models.vlm import LoadedModel, load
from xmas.store import Store

END = "<|endoftext|>"
TILE_MARKS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
MARKS = [END, "<|im_start|>", "<|im_end|>", *TILE_MARKS] + [
    f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)
]

PHI = Template(eos=END, lone_user=None)
CHATML = Template(
    system="",
    user="<|im_start|>user\n",
    behind_question="<|im_end|>\n",
    assistant="<|im_start|>assistant\n",
    behind_assistant="",
    eos="<|im_end|>",
    behind_answer="\n",
    lone_user=None,
)
SMOL = Template(
    system="<|im_start|>",
    behind_system="",
    user="User:",
    behind_user=" ",
    behind_image="",
    behind_question="<end_of_utterance>\n",
    assistant="Assistant:",
    eos="<end_of_utterance>",
    behind_answer="\n",
    lone_user=None,
)
TEMPLATES = {"onevision": CHATML, "idefics3": SMOL, "smolvlm": SMOL}  # of the others: PHI


def sentence_encoder(folder: Path) -> None:
    """Write a BERT of random weights, with its tokenizer."""
    from transformers import BertConfig, BertModel

    tokens = tokenizer()
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = BertConfig(
        vocab_size=len(tokens), intermediate_size=40, initializer_range=0.3, **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        BertModel(config).save_pretrained(folder)
    tokens.save_pretrained(folder)


def tokenizer(end: str = END, vocabulary: int = 420) -> PreTrainedTokenizerFast:
    """A byte-level BPE without a begin mark, as GPT-2's, cl100k's and Qwen's are."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(trained_bpe(vocabulary)),
        eos_token=end,
        clean_up_tokenization_spaces=False,
    )


@functools.cache
def trained_bpe(vocabulary: int) -> str:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=MARKS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    spoken = "USER: What is drawn? ASSISTANT: a crimson disc, quite flat\n\nUser: Assistant:"
    bpe.train_from_iterator([PHI.system, spoken] * 3, trainer)
    return bpe.to_str()


def language(kind: str, tokens: int) -> Any:
    """A language model with its head."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(language_config(kind, tokens))


def language_config(kind: str, tokens: int, **others: Any) -> Any:
    """The sizes of a language model; grouped queries and partial rotation where it has them.

    `others`: further values.
    """
    from transformers import AutoConfig

    more: dict[str, Any] = {
        "stablelm": {
            "use_qkv_bias": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.25,
            },
        },
        "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
        "phi": {},
        "gemma": {"num_key_value_heads": 1, "head_dim": 16},
        "llama": {"num_key_value_heads": 2},
        # keys that a sliding layer sees: fewer than a text, so that images drop out of sight
        "gemma2": {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "attn_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 50,
            "sliding_window": 29,
        },
        "mistral": {"num_key_value_heads": 2, "sliding_window": 29},
        "phi3": {"num_key_value_heads": 2},
        "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    }
    sizes = {
        "vocab_size": tokens,
        "hidden_size": 48,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 3 if kind == "stablelm" else 6,
        "num_key_value_heads": 3 if kind == "stablelm" else 6,
        "max_position_embeddings": 1024,
        "initializer_range": 0.1,
        "pad_token_id": None,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return AutoConfig.for_model(kind, **(sizes | more[kind] | others))


def clip() -> Any:
    """A CLIP; only its vision half is used."""
    from transformers import CLIPModel

    return CLIPModel(clip_config())


def clip_config() -> Any:
    """The sizes of a CLIP of 3 x 3 patches."""
    from transformers import CLIPConfig

    text = {"vocab_size": 40, "hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 1}
    vision = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": 21,
        "patch_size": 7,
        "initializer_range": 0.1,
    }
    heads = {"num_attention_heads": 2}
    return CLIPConfig(text_config=text | heads, vision_config=vision, projection_dim=8)


def assembled(kind: str) -> Callable[[Path], StartPoint]:
    """Folders of a language model and of a CLIP, put together by the stage."""

    def write(folder: Path) -> StartPoint:
        held = tokenizer()
        language(kind, len(held)).save_pretrained(folder / "language")
        held.save_pretrained(folder / "language")
        clip().save_pretrained(folder / "tower")
        return Assembled(Source(str(folder / "language")), Source(str(folder / "tower")))

    return write


def llava(kind: str) -> Callable[[Path], StartPoint]:
    """A whole LLaVA in a folder; of a language model whose own head has a bias, too."""

    def write(folder: Path) -> StartPoint:
        held = tokenizer()
        held.pad_token = END
        tower = clip().vision_model
        model = joined(language(kind, len(held) + 1), tower, len(held), -2, seed=1)
        model.lm_head.bias = None
        LoadedModel(model, held, SquareImages(21, "pad")).save(folder)
        return Published(Source(str(folder)))

    return write


def onevision(folder: Path) -> StartPoint:
    """Grids of 21-pixel tiles of 3 x 3 patches; maps larger than two tiles' are interpolated."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        SiglipVisionConfig,
    )
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    held = tokenizer("<|im_end|>")
    grids = [[21, 21], [21, 42], [42, 21], [42, 42], [21, 63], [63, 21], [63, 63]]
    vision = SiglipVisionConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=21,
        patch_size=7,
        vision_use_head=False,
    )
    config = LlavaOnevisionConfig(
        text_config=language_config("qwen2", len(held)),
        vision_config=vision,
        image_token_index=held.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grids,
        vision_aspect_ratio="anyres_max_2",
    )
    LlavaOnevisionForConditionalGeneration(config).save_pretrained(folder)
    held.save_pretrained(folder)
    LlavaOnevisionImageProcessorPil(
        size={"height": 21, "width": 21},
        image_grid_pinpoints=grids,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)
    return Published(Source(str(folder)))


def tiled(kind: str) -> Callable[[Path], StartPoint]:
    """Tiles of 24 pixels, 6 x 6 patches folded to 9 tokens, images resized to 72 pixels."""

    def write(folder: Path) -> StartPoint:
        from transformers import AutoConfig, AutoModelForImageTextToText
        from transformers.models.idefics3.image_processing_pil_idefics3 import (
            Idefics3ImageProcessorPil,
        )
        from transformers.models.smolvlm.image_processing_pil_smolvlm import (
            SmolVLMImageProcessorPil,
        )

        held = tokenizer("<end_of_utterance>")
        vision = {
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": 24,
            "patch_size": 4,
            "initializer_range": 0.1,
        }
        config = AutoConfig.for_model(
            kind,
            text_config=language_config("llama", len(held)),
            vision_config=vision,
            scale_factor=2,
            image_token_id=held.convert_tokens_to_ids("<image>"),
        )
        AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
        held.save_pretrained(folder)
        own = {"idefics3": Idefics3ImageProcessorPil, "smolvlm": SmolVLMImageProcessorPil}[kind]
        own(size={"longest_edge": 72}, max_image_size={"longest_edge": 24}).save_pretrained(folder)
        return Published(Source(str(folder)))

    return write


KINDS: dict[str, Callable[[Path], StartPoint]] = {
    "stablelm": assembled("stablelm"),
    "qwen2": assembled("qwen2"),
    "phi": llava("phi"),
    "gemma": llava("gemma"),
    "onevision": onevision,
    "idefics3": tiled("idefics3"),
    "smolvlm": tiled("smolvlm"),
}
DECODERS: dict[str, Callable[[Path], StartPoint]] = {
    kind: llava(kind) for kind in ("llama", "gemma2", "mistral", "phi3")
}  # LLaVAs of further language models, for the engine alone


def start(kind: str, folder: Path) -> StartPoint:
    """The start point of a kind, its files in `folder`; the same weights every time."""
    return seeded((KINDS | DECODERS)[kind])(folder)


def seeded(write: Callable[[Path], StartPoint]) -> Callable[[Path], StartPoint]:
    """`write` with the same weights every time."""

    def written(folder: Path) -> StartPoint:
        folder.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return write(folder)

    return written


def shared_start(
    write: Callable[[Path], StartPoint], factory: pytest.TempPathFactory
) -> StartPoint:
    """The start point that `write` writes, once a session for all files of tests."""
    return _written(write, factory.getbasetemp())


@functools.cache
def _written(write: Callable[[Path], StartPoint], base: Path) -> StartPoint:
    return seeded(write)(Path(tempfile.mkdtemp(prefix="tiny", dir=base)))


def shared_model(start: StartPoint, store: Store) -> LoadedModel:
    """A start point as it is loaded, once a session: read-only."""
    return _loaded(store.get(start))


_loaded = functools.cache(load)


@dataclasses.dataclass
class Remembered:
    """`FromFiles` that makes the tensors of the same images once."""

    files: FromFiles
    made: dict[str, dict[str, torch.Tensor]] = dataclasses.field(default_factory=dict)

    def __call__(self, rows: list[int], parts: Any = None) -> dict[str, torch.Tensor]:
        asked = repr((rows, parts))
        if asked not in self.made:
            self.made[asked] = self.files(rows, parts)
        return dict(self.made[asked])


def own_model(start: StartPoint, store: Store) -> LoadedModel:
    """`shared_model` with a model of the caller's own."""
    parts = shared_model(start, store)
    return LoadedModel(copy.deepcopy(parts.model), parts.tokenizer, parts.processor)
