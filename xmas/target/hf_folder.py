"""A model as a Hugging Face folder for others: all but its weights, and the names of these.

Written without transformers 5 where it would write what 4 and vLLM do not read.
"""

import copy
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import AddedToken, GenerationConfig, PreTrainedConfig

from xmas.data.turns import ASSISTANT, USER, Turn, turn_of, turns_of_rounds
from xmas.models.chat.jinja import jinja
from xmas.models.chat.layout import tokens_of_row
from xmas.models.chat.messages import message_of
from xmas.models.chat.own_template import OwnTemplate
from xmas.models.chat.saved_tokenizer import pin
from xmas.models.chat.template import Template
from xmas.models.families import HasMarks, HasVideos, exportable
from xmas.models.vlm import LoadedModel, runs_whole

IMAGES = ("<image>", "<image_here>")  # the first that the tokenizer does not have
PAD = "<pad>"
UNCUT = 1 << 20  # tokens of a conversation that is compared
VIDEO_FILE = "video_preprocessor_config.json"
VIDEOS = (  # as of images
    "size", "image_mean", "image_std", "max_image_size", "resample", "patch_size",
    "temporal_patch_size", "merge_size",
)  # fmt: skip
DIFFERENT = "the processor's ids for a question are not those that a fit sees"


def hub_name(name: str, config: PreTrainedConfig) -> str:
    """The name of a weight in the hub's folders, which every version of transformers and vLLM
    reads.

    Raises ValueError: the family does not say how its models, or this part of them, are named.
    """
    for prefix, on_hub in exportable(config).hub_names.items():
        if name.startswith(prefix):
            return on_hub + name.removeprefix(prefix)
    raise ValueError(f"{name}: no part of a {config.model_type} is called so")


def describe(loaded: LoadedModel, template: Template | OwnTemplate, dtype: str, out: Path) -> None:
    """Write configuration, generation defaults, tokenizer, image processor and chat template.

    Raises ValueError: what is written gives other token ids for a question than a fit saw.
    """
    if runs_whole(loaded.model):
        _describe_whole(loaded, template, out)
        return
    config = copy.deepcopy(loaded.model.config)
    tokenizer, image = _tokenizer(loaded)
    for part in (config, config.text_config):
        part.pad_token_id = tokenizer.pad_token_id
    config.architectures = [type(loaded.model).__name__]
    GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=loaded.encoder(template).end,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(out)
    (out / "config.json").write_text(json.dumps(_config(config.to_dict(), dtype), indent=2))
    _write_processor(loaded, tokenizer, template, image, out)


def _describe_whole(loaded: LoadedModel, template: Template | OwnTemplate, out: Path) -> None:
    """The files of a model that nobody described are its own, but for template and answers' end."""
    own = copy.copy(loaded.processor.own)
    own.tokenizer = copy.deepcopy(own.tokenizer)
    start = without_start(own.tokenizer)
    for text in _texts(loaded, template, loaded.processor.placeholder, start):
        own.chat_template = text
        if _same_ids(own, loaded, template):
            break
    else:
        raise ValueError(DIFFERENT)
    loaded.model.config.save_pretrained(out)
    GenerationConfig(
        do_sample=False,
        bos_token_id=loaded.tokenizer.bos_token_id,
        eos_token_id=loaded.encoder(template).end,
        pad_token_id=loaded.tokenizer.pad_token_id,
    ).save_pretrained(out)
    own.save_pretrained(out)
    pin(out)


def without_start(tokenizer: Any) -> str:
    """Have a tokenizer add no token of its own to a text; what it added before every text.

    The chat template writes it instead: vLLM tokenises a rendered conversation without special
    tokens, as `apply_chat_template` of a tokenizer does, and transformers' processors with them. So
    one start mark is left on each of these ways, and none before a text that is no chat.

    Source: vLLM, `add_special_tokens` of its chat completions, False by default.
    """
    start = tokenizer("")["input_ids"]
    if start:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="$A", pair="$A $B", special_tokens=[]
        )
    return "".join(tokenizer.convert_ids_to_tokens(start))


def _tokenizer(loaded: LoadedModel) -> tuple[Any, str]:
    """The tokenizer with a token for the image and one for pads, and the name of the former.

    In a fit the image token has no name, so that no text can say it; here a processor needs one.
    """
    tokenizer = copy.deepcopy(loaded.tokenizer)
    token = loaded.model.config.image_token_id
    if token == len(tokenizer):
        vocabulary = tokenizer.get_vocab()
        name = next(token for token in IMAGES if token not in vocabulary)
        tokenizer.add_tokens([AddedToken(name, special=True, normalized=False)])
    elif token > len(tokenizer):
        raise ValueError(f"image token {token}: the tokenizer ends at {len(tokenizer)}")
    own = tokenizer.pad_token not in (None, tokenizer.eos_token, tokenizer.unk_token)
    lines = loaded.model.get_input_embeddings().weight.shape[0]
    if not own and len(tokenizer) < lines:
        tokenizer.add_tokens([AddedToken(PAD, special=True, normalized=False)])
        tokenizer.pad_token = PAD
    tokenizer.padding_side = "left"  # for answers; a fit pads by itself
    return tokenizer, tokenizer.convert_ids_to_tokens(token)


def _config(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The configuration that transformers 5 writes, with the fields that 4 needs added."""
    for part in (config, config["text_config"], config["vision_config"]):
        part.pop("_name_or_path", None)
        part["dtype"] = part["torch_dtype"] = dtype
    rope = config["text_config"].get("rope_parameters") or {}
    if "rope_theta" in rope:
        config["text_config"]["rope_theta"] = rope["rope_theta"]
    if "mrope_section" in rope:
        scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
        config["text_config"]["rope_scaling"] = scaling
    return config


def _write_processor(
    loaded: LoadedModel,
    tokenizer: Any,
    template: Template | OwnTemplate,
    image: str,
    out: Path,
) -> None:
    config = loaded.model.config
    start = without_start(tokenizer)
    processor = exportable(config).hub_processor(config, loaded.processor, tokenizer, image)
    for text in _texts(loaded, template, image, start):
        processor.chat_template = text
        if _same_ids(processor, loaded, template):
            break
    else:
        raise ValueError(DIFFERENT)
    processor.save_pretrained(out)
    family = exportable(config)
    if isinstance(family, HasVideos):
        settings = processor.image_processor.to_dict()
        videos = {name: settings[name] for name in VIDEOS if settings.get(name) is not None}
        videos |= {"video_processor_type": family.video_processor}
        (out / VIDEO_FILE).write_text(json.dumps(videos, indent=2))
    _for_version_4(processor.image_processor, processor.chat_template, out)


def _texts(
    loaded: LoadedModel, template: Template | OwnTemplate, image: str, start: str
) -> Iterator[str]:
    """The template as Jinja text, in the forms of which one suits the tokenizer.

    `start` is what a fit's tokenizer adds before every text; a template of its own has it already.
    """
    if isinstance(template, OwnTemplate):
        yield template.of(loaded.tokenizer, loaded.layout.literal).jinja(image)
        return
    if runs_whole(loaded.model):
        before, after = loaded.processor.marks
        shown = before + image + after
    else:
        family = exportable(loaded.model.config)
        shown = family.chat_image(image) if isinstance(family, HasMarks) else image
    for gaps in itertools.product(("", " "), ("", " ")):
        text = jinja(template, image=shown, gaps=gaps)
        for gap in ("", " ") if start else ():
            yield f"{{{{ {json.dumps(start + gap, ensure_ascii=False)} }}}}{text}"
        if not start:
            yield text


def _same_ids(processor: Any, loaded: LoadedModel, template: Template | OwnTemplate) -> bool:
    """Whether conversations of all kinds of turns have the ids of a fit, with images or not."""
    kinds: tuple[Sequence[Turn], ...] = (
        turns_of_rounds([("What is drawn? 数", "A fig.\n"), ("Sure?", "7")], image=True),
        turns_of_rounds([("What is drawn? 数", "A fig.\n"), ("Sure?", "7")], image=False),
        turns_of_rounds([("", "A fig."), ("Sure?", ""), ("", "7")], image=True),
        turns_of_rounds([("", "A fig."), ("Sure?", ""), ("", "7")], image=False),
        _several(
            "Here <image> and<image>, <image>", "<image>A <image>\nfig.", "<image><image>Two?"
        ),
    )
    return all(_has_same_ids(processor, loaded, template, turns) for turns in kinds)


def _several(*texts: str) -> list[Turn]:
    """The turns of a conversation of several images."""
    roles = itertools.cycle((USER, ASSISTANT))
    return [turn_of(role, text, single=False) for role, text in zip(roles, texts, strict=False)]


def _has_same_ids(
    processor: Any, loaded: LoadedModel, template: Template | OwnTemplate, turns: Sequence[Turn]
) -> bool:
    count = sum(len(turn.images) for turn in turns)
    images = tokens_of_row(loaded.layout, [(8, 5)] * count)
    tokens = loaded.encoder(template, max_length=UNCUT).turns(turns, images)
    fitted_ids = tokens.whole(loaded.model.config.image_token_id)
    text = processor.apply_chat_template(
        [message_of(turn) for turn in turns],
        add_generation_prompt=turns[-1].role == USER,
    )
    pictures = [Image.new("RGB", (5, 8))] * count
    inputs = processor(text=[text], images=[pictures] if pictures else None)
    return inputs["input_ids"][0] == fitted_ids.tolist()


def _for_version_4(images: Any, chat_template: str, out: Path) -> None:
    """Write the files that transformers 4 expects in other places than 5, or under other names."""
    images.save_pretrained(out)  # preprocessor_config.json; 5 has it inside the processor's
    processor = json.loads((out / "processor_config.json").read_text())
    processor.pop("image_processor")  # 4 would receive it twice
    (out / "processor_config.json").write_text(json.dumps(processor, indent=2))
    (out / "chat_template.json").write_text(json.dumps({"chat_template": chat_template}, indent=2))
    pin(out)
