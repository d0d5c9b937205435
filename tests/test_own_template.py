"""The tokenizer's own chat template: token for token what `apply_chat_template` gives.

The templates are those of published models, shortened to what renders a conversation of images and
text; their words, marks and line breaks are facts of these models.
"""

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pytest
import tiny
from test_labels import metaspace
from toy import ROWS, Toy

from xmas.cli.config import build
from xmas.data.turns import ASSISTANT, SYSTEM, USER, Turn
from xmas.estimate.assumed import Assumed
from xmas.estimate.census import count
from xmas.evaluation.generation import generate
from xmas.models.chat.labels import Encoder, Tokens
from xmas.models.chat.layout import FEATURE
from xmas.models.chat.messages import message_of
from xmas.models.chat.own_template import OwnTemplate
from xmas.models.chat.template import Template
from xmas.models.chat.tokens import Tokenised
from xmas.models.vlm import load
from xmas.store import Store, describe, key
from xmas.target.hf_folder import describe as describe_folder

PARTS = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
)
QWEN25_VL = (  # and Qwen2-VL
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    + PARTS.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    + "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3_VL = QWEN25_VL.replace(  # no system prompt of its own
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}",
    "",
)
INTERNVL = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    + PARTS.replace("IMAGE", "{{ '<IMG_CONTEXT>\n' }}")
    + "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set opening = messages[0]['content'][0]['text'] + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set opening = '' %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (opening if loop.first else '') }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
IMAGES_FIRST = (
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}IMAGE{% endfor %}"
)
LLAVA_OV = (  # llava-hf's, which marks answers; it ends prompts with a line break, turns with none
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    + IMAGES_FIRST.replace("IMAGE", "{{ '<image>' }}")
    + "{% if message['role'] != 'assistant' %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + part['text'] }}{% endfor %}{% else %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\n' + part['text'] }}{% endgeneration %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAVA_15 = (  # llava-hf's: answers end in a space
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ message['role'].upper() + ': ' }}{% endif %}"
    + IMAGES_FIRST.replace("IMAGE", "{{ '<image>\n' }}")
    + "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ part['text'] + ' ' }}"
    "{% endgeneration %}{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
LLAMA3 = (  # a language model's, contents as text
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
TEXT_ALONE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>' + role + '\n' }}{% endif %}"
)
MARKED = (  # as TRL's for training: answers marked, the end among them
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    + PARTS.replace("IMAGE", "<image>")
    + "<|im_end|>{% endgeneration %}\n{% else %}"
    + PARTS.replace("IMAGE", "<image>")
    + "<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HALF_MARKED = MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
THINKING = (  # as Qwen3's: an answer without thoughts has an empty thought where it is the last
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)  # fmt: skip

TOKENS = [
    "<bos>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<IMG_CONTEXT>",
    "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<image_soft_token>", "<end_of_image>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Model:
    """What of a published model decides how its conversations are written."""

    template: str
    image: str  # the name of its image token
    end: str  # of a turn
    before: tuple[str, ...] = ()  # tokens of an image before its features, and after
    after: tuple[str, ...] = ()
    bos: str | None = None
    placeholder: str | None = None  # in the template's text; None: that of the image token
    around: tuple[str, str] = ("", "")


PADS = {"before": ("<|vision_start|>",), "after": ("<|vision_end|>",)}
PUBLISHED = {
    "qwen25_vl": Model(QWEN25_VL, "<|image_pad|>", "<|im_end|>", **PADS),
    "qwen3_vl": Model(QWEN3_VL, "<|image_pad|>", "<|im_end|>", **PADS),
    "bare features": Model(QWEN3_VL, "<|image_pad|>", "<|im_end|>"),  # the marks are text then
    "internvl": Model(
        INTERNVL, "<IMG_CONTEXT>", "<|im_end|>", ("<fake_token_around_image>",), ("<global-img>",)
    ),
    "smolvlm": Model(
        SMOLVLM, "<image>", "<end_of_utterance>", ("<fake_token_around_image>", "<global-img>"),
        ("<fake_token_around_image>",),
    ),
    "gemma3": Model(
        GEMMA3, "<image_soft_token>", "<end_of_turn>", ("<start_of_image>",), ("<end_of_image>",),
        bos="<bos>", placeholder="<start_of_image>", around=("\n\n", "\n\n"),
    ),
    "llama3": Model(LLAMA3, "<image>", "<|eot_id|>", bos="<|begin_of_text|>"),
    "marked": Model(MARKED, "<image>", "<|im_end|>"),
    "half marked": Model(HALF_MARKED, "<image>", "<|im_end|>"),
}  # fmt: skip
CONVERSATIONS: dict[str, list[Turn]] = {
    "text": [Turn(USER, "What is drawn? 数"), Turn(ASSISTANT, "a disc\n"), Turn(USER, "Sure?"),
             Turn(ASSISTANT, " Yes,  quite")],
    "image": [Turn(USER, "What is drawn?", (0,)), Turn(ASSISTANT, "a disc"), Turn(USER, "Flat?"),
              Turn(ASSISTANT, "quite flat")],
    "images": [Turn(USER, "From  to ?", (5, 9)), Turn(ASSISTANT, "a disc"),
               Turn(USER, "And?", (0,)), Turn(ASSISTANT, "7")],
    "system": [Turn(SYSTEM, "Be brief."), Turn(USER, "What?", (0,)), Turn(ASSISTANT, "a disc")],
    "empty": [Turn(USER, "", (0,)), Turn(ASSISTANT, "")],
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    texts = {}
    for name, model in PUBLISHED.items():
        tokenizer = tiny.tokenizer(model.end)
        tokenizer.add_special_tokens({"additional_special_tokens": TOKENS})
        tokenizer.bos_token = model.bos
        tokenizer.chat_template = model.template
        texts[name] = tokenizer
    return texts


def image_of(model: Model, tokenizer: Any) -> np.ndarray:
    """Two features between the marks of a layout."""
    ids = tokenizer.convert_tokens_to_ids
    marks = [*map(ids, model.before), FEATURE, FEATURE, *map(ids, model.after)]
    return np.array(marks, dtype=np.int32)


def encoder_of(name: str, tokenizer: Any) -> Encoder:
    model = PUBLISHED[name]
    return Encoder(tokenizer, OwnTemplate(), literal=model.image, around=model.around)


def message(turn: Turn, model: Model) -> dict[str, Any]:
    """A turn as others pass it: parts, or one text for a language model's template."""
    if model.template == LLAMA3:
        text = turn.written("\n" if turn.text else "").replace("<image>", model.image)
        return {"role": turn.role, "content": text}
    return message_of(turn)


def by_transformers(
    name: str, tokenizer: Any, turns: list[Turn], **options: Any
) -> tuple[list[int], list[int] | None]:
    """Ids and assistant mask of `apply_chat_template`, images expanded as a processor does."""
    model = PUBLISHED[name]
    messages = [message(turn, model) for turn in turns]
    encoded = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True,
        return_assistant_tokens_mask="generation" in model.template, **options,
    )  # fmt: skip
    placeholder = model.placeholder or model.image
    token = tokenizer.convert_tokens_to_ids(placeholder)
    features = [tokenizer.convert_tokens_to_ids(model.image)] * 2
    if placeholder != model.image:  # Gemma's text is expanded before it is tokenised
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        whole = model.around[0] + "".join(model.before) + model.image * 2
        whole += "".join(model.after) + model.around[1]
        text = text.replace(placeholder, whole)
        return tokenizer(text, add_special_tokens=False)["input_ids"], None
    written = (model.before, model.after) if name in ("internvl", "smolvlm") else ((), ())
    before, after = (list(map(tokenizer.convert_tokens_to_ids, marks)) for marks in written)
    expanded, mask = [], []
    for number, token_id in enumerate(encoded["input_ids"]):
        ids = [*before, *features, *after] if token_id == token else [token_id]
        expanded += ids
        mask += [encoded.get("assistant_masks", [0] * 9999)[number]] * len(ids)
    return expanded, mask if "generation" in model.template else None


def tokens_of(name: str, tokenizer: Any, turns: list[Turn]) -> Tokens:
    images = [image_of(PUBLISHED[name], tokenizer)] * sum(len(turn.images) for turn in turns)
    return encoder_of(name, tokenizer).turns(turns, images)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_the_ids_are_those_of_apply_chat_template(tokenizers, name, kind):
    tokenizer, turns = tokenizers[name], CONVERSATIONS[kind]
    tokens = tokens_of(name, tokenizer, turns)
    image_id = tokenizer.convert_tokens_to_ids(PUBLISHED[name].image)
    ids, mask = by_transformers(name, tokenizer, turns)
    assert tokens.whole(image_id).tolist() == ids
    labelled = (tokens.whole_labels() != -100).tolist()
    if name == "marked" and mask is not None:
        assert labelled == [bool(marked) for marked in mask]
    answers = [turn.text for turn in turns if turn.role == ASSISTANT]
    end = tokenizer.convert_tokens_to_ids(PUBLISHED[name].end)
    runs = [
        [token for _, token in run]
        for marked, run in itertools.groupby(zip(labelled, ids, strict=True), lambda pair: pair[0])
        if marked
    ]
    assert [tokenizer.decode(run[:-1]).strip() for run in runs] == [
        text.strip() for text in answers
    ]
    assert all(run[-1] == end for run in runs)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("image", [False, True])
def test_a_prompt_is_what_the_answer_of_a_fit_follows(tokenizers, name, image):
    tokenizer, model = tokenizers[name], PUBLISHED[name]
    encoder, tokens = encoder_of(name, tokenizer), image_of(model, tokenizer)
    assert encoder.end == tokenizer.convert_tokens_to_ids(model.end)
    prompt = encoder.prompt("What?", image=tokens if image else None)
    question = Turn(USER, "What?", (0,) if image else ())
    token = tokenizer.convert_tokens_to_ids(model.image)
    ids, _ = by_transformers(name, tokenizer, [question], add_generation_prompt=True)
    assert prompt.whole(token).tolist() == ids
    fitted = encoder.turns([question, Turn(ASSISTANT, "a disc")], [tokens] * image)
    assert fitted.whole(token)[: len(ids)].tolist() == ids
    assert fitted.whole_labels()[len(ids) - 1] == -100


def test_marks_of_the_template_are_its_labels_and_the_end_that_follows_them(tokenizers):
    turns = CONVERSATIONS["image"]
    _, mask = by_transformers("half marked", tokenizers["half marked"], turns)
    tokens = tokens_of("half marked", tokenizers["half marked"], turns)
    end = tokenizers["half marked"].convert_tokens_to_ids("<|im_end|>")
    labelled = tokens.whole_labels() != -100
    more = np.flatnonzero(labelled != np.array(mask, dtype=bool))
    assert len(more) == 2
    assert tokens.whole_labels()[more].tolist() == [end, end]


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3", "smolvlm", "internvl"])
def test_an_image_token_that_a_text_names_stays_text(tokenizers, name):
    tokenizer, model = tokenizers[name], PUBLISHED[name]
    named = model.placeholder or model.image
    question = f"Où est {named}{named} ?"
    tokens = tokens_of(name, tokenizer, [Turn(USER, question, (0,)), Turn(ASSISTANT, named)])
    assert len(tokens.places) == 1
    assert tokenizer.convert_tokens_to_ids(model.image) not in tokens.ids
    assert question in tokenizer.decode(tokens.ids)
    assert tokenizer.decode(tokens.ids[tokens.labelled]).strip() == named + model.end


REFUSED = {
    "thinking": (THINKING, "drop the thinking"),
    "another header": (LLAVA_OV, "up to turn 2 otherwise"),
    "no end": (LLAVA_15, "would not learn to stop"),
    "no prompt": (QWEN3_VL.partition("{% if add_generation_prompt %}")[0], "add_generation_prompt"),
    "no image": (
        QWEN3_VL.replace("<|vision_start|><|image_pad|><|vision_end|>", ""),
        "nothing for",
    ),
    "another image": (QWEN3_VL.replace("<|image_pad|>", ""), "and not <|image_pad|>"),
    "no template": (None, "no chat template"),
    "the date": (QWEN3_VL + "{{ strftime_now('%d %b %Y') }}", "template.options.date_string"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_template_that_a_fit_cannot_use_is_refused_with_the_reason(tokenizers, kind):
    tokenizer, (text, reason) = tokenizers["qwen3_vl"], REFUSED[kind]
    own = tokenizer.chat_template
    try:
        tokenizer.chat_template = text
        with pytest.raises(ValueError, match=reason) as refusal:
            encoder_of("qwen3_vl", tokenizer).turns(CONVERSATIONS["text"], [])
    finally:
        tokenizer.chat_template = own
    assert "template=" in str(refusal.value) or kind == "the date"


def test_turns_that_the_template_refuses_are_an_error_of_the_row(tokenizers):
    turns = [Turn(USER, "What?"), Turn(USER, "Sure?"), Turn(ASSISTANT, "yes")]
    with pytest.raises(ValueError, match=r"refuses the conversation: .*alternate"):
        tokens_of("gemma3", tokenizers["gemma3"], turns)


def test_options_and_another_file_are_part_of_the_key(tokenizers, tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text("{% set named = name %}" + QWEN3_VL.replace("assistant\n", "{{ named }}\n"))
    template = OwnTemplate({"name": "assistant"}, str(file))
    encoder = Encoder(tokenizers["qwen25_vl"], template, literal="<|image_pad|>")
    tokens = encoder.turns(CONVERSATIONS["text"], [])
    expected = tokens_of("qwen3_vl", tokenizers["qwen3_vl"], CONVERSATIONS["text"])
    assert tokenizers["qwen25_vl"].decode(tokens.ids) == tokenizers["qwen3_vl"].decode(expected.ids)
    before = describe(template)
    file.write_text(file.read_text() + " ")
    assert describe(template) != before != describe(OwnTemplate({"name": "b"}, str(file)))
    assert describe(OwnTemplate()) == {"type": "OwnTemplate", "options": {}, "file": None}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_space_mark_before_a_text_is_once_before_the_whole(legacy):
    """As processors tokenise: a Llama's tokenizer would write one before every chunk."""
    tokenizer = metaspace(legacy)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<|im_end|>"]})
    tokenizer.chat_template = MARKED
    turns = CONVERSATIONS["images"]
    encoder = Encoder(tokenizer, OwnTemplate(), literal="<image>")
    tokens = encoder.turns(turns, [np.array([FEATURE], dtype=np.int32)] * 3)
    messages = [message(turn, PUBLISHED["marked"]) for turn in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert tokens.whole(image).tolist() == tokenizer(text)["input_ids"]
    encoded = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    labelled = (tokens.whole_labels() != -100).tolist()
    begins = len(labelled) - len(encoded["assistant_masks"])  # the tokenizer's begin mark
    assert labelled[begins:] == [bool(marked) for marked in encoded["assistant_masks"]]


def test_a_begin_mark_is_the_tokenizer_s_or_the_template_s_and_never_both():
    """As processors do, which have the tokenizer add its own unless the text starts with it."""
    tokenizer = metaspace(False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<|im_end|>"]})
    counts = []
    for text in (MARKED, "{{ bos_token }}" + MARKED):
        tokenizer.chat_template = text
        encoder = Encoder(tokenizer, OwnTemplate(), literal="<image>")
        tokens = encoder.turns(CONVERSATIONS["text"], [])
        counts.append(tokens.ids.tolist().count(tokenizer.bos_token_id))
        assert tokens.ids[0] == tokenizer.bos_token_id
    assert counts == [1, 1]


EXPLICIT = {"qwen25_vl": "target=qwen25_vl_3b", "smolvlm": "proxy=smolvlm_256m"}


@pytest.mark.parametrize("name", EXPLICIT)
@pytest.mark.parametrize("kind", ["text", "image", "images"])
def test_the_explicit_templates_of_the_configuration_are_the_models_own(
    compose, tokenizers, name, kind
):
    explicit = build(compose(EXPLICIT[name])[EXPLICIT[name].partition("=")[0]].template)
    assert isinstance(explicit, Template)
    tokenizer, turns = tokenizers[name], CONVERSATIONS[kind]
    images = [image_of(PUBLISHED[name], tokenizer)] * sum(len(turn.images) for turn in turns)
    own = tokens_of(name, tokenizer, turns)
    other = Encoder(tokenizer, explicit, literal=PUBLISHED[name].image).turns(turns, images)
    assert own.whole(0).tolist() == other.whole(0).tolist()
    assert own.whole_labels().tolist() == other.whole_labels().tolist()


@pytest.mark.parametrize("node", ["proxy", "target"])
def test_own_takes_the_place_of_a_model_s_explicit_template(compose, node):
    choice = {"proxy": "proxy=smolvlm_256m", "target": "target=llava15_13b"}[node]
    cfg = compose(choice, f"template@{node}.template=own")
    assert build(cfg[node]).template == OwnTemplate()


def test_a_processor_s_template_comes_with_the_start_point_and_is_exported(tmp_path):
    """Written by transformers 4 for the processor alone, in a file no tokenizer reads."""
    start = tiny.start("phi", tmp_path / "hub")
    (tmp_path / "hub" / "chat_template.json").write_text(json.dumps({"chat_template": MARKED}))
    loaded = load(Store(str(tmp_path / "store")).get(start))
    tokens = loaded.encoder(OwnTemplate()).turns(
        CONVERSATIONS["image"], [loaded.layout.tokens(None)]
    )
    assert "<|im_start|>assistant\na disc<|im_end|>" in loaded.tokenizer.decode(tokens.ids)
    (tmp_path / "out").mkdir()
    describe_folder(loaded, OwnTemplate(), "float32", tmp_path / "out")  # compares the ids
    written = (tmp_path / "out" / "chat_template.jinja").read_text()
    assert written == MARKED.replace("<image>", "<image_here>")  # the former is another token here
    ends = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert loaded.tokenizer.convert_ids_to_tokens(ends) == "<|im_end|>"
    assert loaded.tokenizer.eos_token != "<|im_end|>"


def test_a_language_model_s_template_is_exported_with_places_for_images(
    toy: Toy, tmp_path, tmp_path_factory
):
    start = tiny.shared_start(tiny.KINDS["phi"], tmp_path_factory)
    loaded = load(toy.store.get(start))
    loaded.tokenizer.chat_template = TEXT_ALONE
    (tmp_path / "out").mkdir()
    describe_folder(loaded, OwnTemplate({"role": "assistant"}), "float32", tmp_path / "out")
    text = (tmp_path / "out" / "chat_template.jinja").read_text()
    assert text.startswith('{%- set role = "assistant" -%}')
    assert text.endswith(TEXT_ALONE)


def test_a_pool_has_the_tokens_of_the_explicit_template_row_by_row(toy: Toy, tmp_path):
    start = tiny.start("smolvlm", tmp_path / "hub")
    (tmp_path / "hub" / "chat_template.jinja").write_text(SMOLVLM)
    store = Store(str(tmp_path / "store"))
    tables = [
        Tokenised(toy.pool, start.tokenizer, template, start.image, 1024).open(store)
        for template in (OwnTemplate(), tiny.SMOL)
    ]
    assert len(tables[0]) == ROWS
    for row in range(ROWS):
        own, explicit = (table[row] for table in tables)
        assert own.whole(0).tolist() == explicit.whole(0).tolist(), row
        assert own.whole_labels().tolist() == explicit.whole_labels().tolist(), row


def test_the_template_s_text_is_in_the_key_of_what_starts_there(tmp_path):
    start = tiny.start("phi", tmp_path / "hub")
    before = key(start)
    (tmp_path / "hub" / "chat_template.jinja").write_text(MARKED)
    with_template = key(start)
    (tmp_path / "hub" / "chat_template.jinja").write_text(HALF_MARKED)
    assert len({before, with_template, key(start)}) == 3


def test_answers_end_at_the_mark_of_the_template(toy: Toy, tmp_path, tmp_path_factory, monkeypatch):
    """Which need not be the tokenizer's end token: Gemma's is another one."""
    options: dict[str, Any] = {}
    monkeypatch.setattr(
        generate, "decode_singly", lambda model, groups, **more: options.update(more) or iter(())
    )
    loaded = load(toy.store.get(tiny.shared_start(tiny.KINDS["phi"], tmp_path_factory)))
    loaded.tokenizer.chat_template = MARKED
    for template, end in ((OwnTemplate(), "<|im_end|>"), (tiny.PHI, loaded.tokenizer.eos_token)):
        generate.generate_answers(
            loaded, loaded.encoder(template), [], max_new_tokens=3, batch=1,
            out=tmp_path / "answers.jsonl", model_id="m", label="l",
        )  # fmt: skip
        assert options["eos"] == loaded.tokenizer.convert_tokens_to_ids(end)


def test_lengths_are_estimated_where_the_template_is_not_there_yet(toy: Toy):
    tokens = Tokenised(toy.pool, "no/such/folder", OwnTemplate())
    census = count(toy.pool, tokens, toy.store, Assumed())
    assert census.rows == ROWS
    assert "characters" in census.how
