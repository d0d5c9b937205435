"""Every family's image step by hand equals transformers' own, from picture to loss.

The models' own inputs come from their own processors wherever these can be built without
torchvision, so that an error in our expansion of image tokens could not hide on both sides.
"""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from toy import TEXT_ONLY, Toy
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

import xmas.models.varlen_attention
from xmas.cli.config import build
from xmas.data.turns import turns_of_rounds
from xmas.models.answer_loss import answer_loss
from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.labels import IGNORED
from xmas.models.chat.layout import FEATURE, Fixed
from xmas.models.chat.packing import pack
from xmas.models.chat.tokens import Tokenised
from xmas.models.families.idefics3 import Tiles
from xmas.models.start_point import StartPoint
from xmas.models.vision_cache import FromFiles, VisionFeatures
from xmas.models.vlm import (
    LoadedModel,
    connector_parameters,
    embed,
    freeze_tower,
    hidden_states,
    language_model,
    tower_features,
)
from xmas.store import Made
from xmas.training.fit.recipe import Hardware
from xmas.training.fit.speed import configured

TILED = ["onevision", "idefics3", "smolvlm"]
SIZES = [
    (21, 21), (19, 37), (37, 19), (5, 61), (61, 5), (101, 103), (23, 24), (24, 23), (7, 7),
    (1, 40), (72, 72), (71, 73), (480, 640), (1031, 29),
]  # fmt: skip  # height, width


@pytest.fixture(scope="module", params=tiny.KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def starts(tmp_path_factory) -> dict[str, StartPoint]:
    return {kind: tiny.shared_start(write, tmp_path_factory) for kind, write in tiny.KINDS.items()}


@pytest.fixture(scope="module")
def models(toy: Toy, starts) -> dict[str, LoadedModel]:
    return {kind: tiny.own_model(start, toy.store) for kind, start in starts.items()}


@pytest.fixture(scope="module")
def parts(models, kind) -> LoadedModel:
    return models[kind]


def tokenised(toy: Toy, kind: str, start: StartPoint) -> Tokenised:
    template = tiny.TEMPLATES.get(kind, tiny.PHI)
    return Tokenised(toy.pool, start.tokenizer, template, start.image, 1024)


@pytest.fixture(scope="module")
def batches(toy: Toy, parts, starts, kind) -> dict[str, Batch]:
    """Batches of the toy with pixels: of both kinds, of one kind, and of text only."""
    rows = {"mixed": [0, 3, 16, 2], "images": [8, 5, 10, 4], "text": [40, 19]}
    loader = Loader(
        tokenised(toy, kind, starts[kind]).open(toy.store),
        [np.array(numbers) for numbers in rows.values()],
        image_token=parts.model.config.image_token_id,
        pad=parts.tokenizer.pad_token_id,
        pictures=FromFiles(toy.pool.open(toy.store), parts.processor),
    )
    return dict(zip(rows, loader, strict=True))


@pytest.fixture(params=["mixed", "images", "text"])
def batch(request, batches) -> Batch:
    return batches[request.param]


def seen(parts: LoadedModel, batch: Batch) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if not batch.pictures:
        return None, None
    return tower_features(parts.model, batch.pictures["pixels"]), batch.pictures.get("sizes")


def own_inputs(kind: str, parts: LoadedModel, images: list[Image.Image]) -> dict[str, torch.Tensor]:
    """What the model's own forward takes for pictures, from its own image processor."""
    if kind not in TILED:
        return {"pixel_values": parts.processor(images)}
    own = parts.processor.own
    nested = images if kind == "onevision" else [[image] for image in images]
    encoded = own(nested, return_tensors="pt")
    names = ("pixel_values", "image_sizes", "pixel_attention_mask")
    return {name: encoded[name] for name in names if name in encoded}


def pictured(toy: Toy, batch: Batch) -> list[Image.Image]:
    examples = toy.pool.open(toy.store)
    rows = [int(row) for row in batch.rows if examples.has_image[row]]
    return [Image.open(examples.images_of(row)[0]).convert("RGB") for row in rows]


@torch.no_grad()
def test_hidden_states_and_logits_equal_those_of_transformers(toy, kind, parts, batch):
    features, sizes = seen(parts, batch)
    ours = hidden_states(parts.model, batch.ids, batch.mask, features, sizes=sizes)
    image_inputs = own_inputs(kind, parts, pictured(toy, batch)) if batch.pictures else {}
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long(), **image_inputs}
    theirs = parts.model.model(**inputs).last_hidden_state
    torch.testing.assert_close(ours[batch.mask], theirs[batch.mask], rtol=1e-5, atol=1e-5)
    logits = parts.model(**inputs).logits
    torch.testing.assert_close(
        parts.model.lm_head(ours)[batch.mask], logits[batch.mask], rtol=1e-5, atol=1e-5
    )
    assert logits[batch.mask].std() > 0.1


@torch.no_grad()
def test_packed_rows_give_the_hidden_states_and_the_loss_of_padded_ones(parts, batch):
    features, sizes = seen(parts, batch)
    packed = pack(batch)
    assert packed.ids.shape == (1, int(batch.mask.sum()))
    with configured(parts.model, Hardware(packing=True)):
        packed_and_padded = [
            call(parts.model, packed.ids, packed.mask, *more, features, sizes=sizes,
                 lengths=packed.lengths)
            for call, more in ((hidden_states, ()), (answer_loss, (packed.labels,)))
        ]  # fmt: skip
    hidden = hidden_states(parts.model, batch.ids, batch.mask, features, sizes=sizes)
    torch.testing.assert_close(packed_and_padded[0][0], hidden[batch.mask], rtol=1e-5, atol=1e-5)
    loss = answer_loss(parts.model, batch.ids, batch.mask, batch.labels, features, sizes=sizes)
    torch.testing.assert_close(packed_and_padded[1], loss, rtol=1e-5, atol=0)


def test_layers_that_would_not_tell_flash_attention_where_rows_end_are_refused(models, monkeypatch):
    language = language_model(models["stablelm"].model)
    monkeypatch.setattr(language.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(ValueError, match="a stablelm do not pass to flash_attention_2"):
        xmas.models.varlen_attention.prepare(language)


@torch.no_grad()
def test_the_loss_equals_that_of_transformers(toy, kind, parts, batch):
    features, sizes = seen(parts, batch)
    ours = answer_loss(parts.model, batch.ids, batch.mask, batch.labels, features, sizes=sizes)
    image_inputs = own_inputs(kind, parts, pictured(toy, batch)) if batch.pictures else {}
    theirs = parts.model(
        input_ids=batch.ids, attention_mask=batch.mask.long(), labels=batch.labels, **image_inputs
    ).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


@torch.no_grad()
def test_the_picture_changes_the_answer(parts, batches):
    """Or all of the above would say nothing about the image step."""
    batch = batches["images"]
    features, sizes = seen(parts, batch)
    hidden = hidden_states(parts.model, batch.ids, batch.mask, features, sizes=sizes)
    negated = hidden_states(parts.model, batch.ids, batch.mask, -features, sizes=sizes)
    answered = batch.labels != IGNORED
    assert (hidden - negated)[answered].abs().max() > 1e-3


def test_images_differ_in_length_where_they_differ_in_size(models):
    """Or the tests of lengths would be of constants."""
    for kind, loaded in models.items():
        lengths = {len(loaded.layout.tokens(size)) for size in SIZES}
        assert len(lengths) > 4 if kind in TILED else lengths == {9}


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_onevision_counts_as_its_processor_does(models, size):
    """The processor itself needs torchvision; its arithmetic does not."""
    own = models["onevision"].processor.own
    stand_in = SimpleNamespace(
        image_processor=own, num_image_tokens=9, vision_aspect_ratio="anyres_max_2"
    )
    stand_in._get_unpadded_features = LlavaOnevisionProcessor._get_unpadded_features.__get__(
        stand_in
    )
    expected = LlavaOnevisionProcessor._get_number_of_features(stand_in, *size, 21, 21)  # type: ignore[arg-type]
    assert len(models["onevision"].layout.tokens(size)) == expected


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_idefics3_s_ids_are_those_of_its_processor(models, size):
    """Marks, newlines and the text around the image, as the processor tokenises them at once."""
    loaded = models["idefics3"]
    processor = Idefics3Processor(loaded.processor.own, loaded.tokenizer, image_seq_len=9)
    image = Image.new("RGB", (size[1], size[0]), (50, 90, 200))
    text = "<|im_start|>User:<image>What is drawn?<end_of_utterance>\nAssistant:"
    expected = processor(text=text, images=image)["input_ids"][0]
    prompt = loaded.encoder(tiny.SMOL).prompt("What is drawn?", image=loaded.layout.tokens(size))
    image_ids = np.where(prompt.image == FEATURE, loaded.model.config.image_token_id, prompt.image)
    assert np.insert(prompt.ids, prompt.image_at, image_ids).tolist() == expected


@pytest.mark.parametrize(
    ("size", "longest", "tile"),
    [
        *(((2, 40), longest, 24) for longest in (72, 100)),  # whole tiles or not
        *(((40, 2), longest, 24) for longest in (72, 100)),
        *(((3, 41), longest, 24) for longest in (72, 100)),
        *(((24, 25), longest, 24) for longest in (72, 100)),
        ((1, 1), 100, 24),
        ((1, 90), 5000, 700),  # beyond what the processor resizes to
        ((90, 1), 5000, 700),
    ],
    ids=str,
)
def test_the_grid_of_tiles_is_the_processor_s(models, size, longest, tile):
    own = copy.deepcopy(models["idefics3"].processor.own)
    own.size, own.max_image_size = {"longest_edge": longest}, {"longest_edge": tile}
    image = Image.new("RGB", (size[1], size[0]))
    grid_info = own([[image]], return_row_col_info=True, do_pad=False)
    layout = Tiles(length=9, tile=tile, longest=longest, split=True, tokenizer=None, literal=None)
    assert layout.grid(size) == (grid_info["rows"][0][0], grid_info["cols"][0][0])


def test_an_image_that_is_not_split_is_one_tile(models):
    layout = models["smolvlm"].layout
    whole = Tiles(
        length=9, tile=24, longest=72, split=False, tokenizer=layout.tokenizer, literal=None
    )
    marks = layout.tokenizer.convert_tokens_to_ids(["<fake_token_around_image>", "<global-img>"])
    expected = [*marks, *[FEATURE] * 9, marks[0]]
    assert whole.tokens((101, 37)).tolist() == expected
    small = Tiles(
        length=9, tile=24, longest=None, split=True, tokenizer=layout.tokenizer, literal=None
    )
    assert small.tokens((24, 23)).tolist() == expected
    assert len(small.tokens((25, 23))) > len(expected)


def test_every_row_s_image_has_the_length_of_its_picture(toy, kind, starts, parts):
    table = tokenised(toy, kind, starts[kind]).open(toy.store)
    examples = toy.pool.open(toy.store)
    for row in range(len(table)):
        if row in TEXT_ONLY:
            assert (table.image_at[row], table.image_lengths[row]) == (-1, 0)
            assert len(table[row].image) == 0
            continue
        image_ids = parts.image_tokens(examples.images_of(row)[0])
        assert table[row].image.tolist() == image_ids.tolist()
        assert table.image_lengths[row] == len(image_ids)
        assert table.lengths[row] == len(table[row]) == len(image_ids) + table.text_lengths[row]
    assert len(set(table.image_lengths.tolist())) > (4 if kind in TILED else 1)


def test_only_the_tower_is_frozen(parts):
    freeze_tower(parts.model)
    frozen = {name for name, weight in parts.model.named_parameters() if not weight.requires_grad}
    assert frozen
    assert all("vision_tower" in name or "vision_model" in name for name in frozen)
    between = connector_parameters(parts.model)
    assert 1 <= len(between) <= 5
    assert not frozen & set(between)
    inside = {id(weight) for weight in language_model(parts.model).parameters()}
    rest = [
        name
        for name, weight in parts.model.named_parameters()
        if id(weight) not in inside and name not in frozen and name not in between
    ]
    assert rest in ([], ["lm_head.weight"])  # tied, or a head of its own


def test_a_batch_of_text_keeps_the_connector_in_the_graph(parts, batches):
    batch = batches["text"]
    freeze_tower(parts.model)
    parts.model.zero_grad()
    answer_loss(parts.model, batch.ids, batch.mask, batch.labels, None).backward()
    for name, weight in connector_parameters(parts.model).items():
        assert weight.grad is not None, name
        assert not weight.grad.any(), name
    parts.model.zero_grad()


def test_models_run_on_fused_attention(parts):
    """A fit's memory and time rest on it."""
    assert language_model(parts.model).config._attn_implementation == "sdpa"


@torch.no_grad()
def test_tiles_without_the_sizes_of_their_images_are_refused(models):
    loaded = models["onevision"]
    pictures = loaded.processor.pictures([Image.new("RGB", (30, 20))])
    features = tower_features(loaded.model, pictures["pixels"])
    with pytest.raises(ValueError, match="need the images' sizes"):
        embed(loaded.model, torch.zeros((1, 3), dtype=torch.long), features)
    with pytest.raises(ValueError, match="follows from an image's size"):
        loaded.layout.tokens(None)
    with pytest.raises(ValueError, match="follows from an image's size"):
        models["smolvlm"].layout.tokens(None)


def test_a_cache_of_tiles_is_refused(toy, starts):
    with pytest.raises(ValueError, match=r"several tiles.*set cache_vision=false"):
        toy.store.get(VisionFeatures(toy.pool, starts["onevision"].tower))


def test_the_phi_template_is_the_release_s(models, toy):
    """No begin mark; the image behind `USER: `, found in the ids; then a newline and the question.

    The numbers 31 and 607 of the release are those of cl100k's merges and 576 patches.
    """
    loaded = models["stablelm"]
    rounds = [("What is drawn?", "a disc"), ("Sure?", "yes")]
    rendered = tiny.PHI.render(turns_of_rounds(rounds, image=False))[0][0]
    assert rendered == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: What is drawn? "
        "ASSISTANT: a disc<|endoftext|>USER: Sure? ASSISTANT: yes<|endoftext|>"
    )
    tokens = loaded.encoder(tiny.PHI).conversation(rounds, image=loaded.layout.tokens(None))
    token = loaded.model.config.image_token_id
    ids = np.insert(tokens.ids, tokens.image_at, np.where(tokens.image == FEATURE, token, 0))
    spots = np.flatnonzero(ids == token)
    prefix = loaded.tokenizer(tiny.PHI.system + " USER: ").input_ids
    assert spots[0] == len(prefix)  # 31 with StableLM's own tokenizer
    assert ids[: spots[0]].tolist() == prefix
    assert spots.tolist() == list(range(spots[0], spots[0] + 9))
    behind = loaded.tokenizer.decode(ids[spots[-1] + 1 :])
    assert behind.startswith("\nWhat is drawn? ASSISTANT: a disc<|endoftext|>USER: Sure?")
    answers_read = [loaded.tokenizer.decode(tokens.ids[tokens.labelled])]
    assert answers_read == [" a disc<|endoftext|> yes<|endoftext|>"]
    assert loaded.tokenizer.bos_token is None


@pytest.mark.parametrize(
    ("template", "with_image", "without"),
    [
        (
            tiny.CHATML,
            "<|im_start|>user\n<image>\nA?<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
            "<|im_start|>user\nC?<|im_end|>\n<|im_start|>assistant\nd<|im_end|>\n",
            "<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
            "<|im_start|>user\nC?<|im_end|>\n<|im_start|>assistant\nd<|im_end|>\n",
        ),
        (
            tiny.SMOL,
            "<|im_start|>User:<image>A?<end_of_utterance>\nAssistant: b<end_of_utterance>\n"
            "User: C?<end_of_utterance>\nAssistant: d<end_of_utterance>\n",
            "<|im_start|>User: A?<end_of_utterance>\nAssistant: b<end_of_utterance>\n"
            "User: C?<end_of_utterance>\nAssistant: d<end_of_utterance>\n",
        ),
    ],
    ids=["chatml", "smolvlm"],
)
def test_the_published_models_templates(template, with_image, without):
    rounds = [("A?", "b"), ("C?", "d")]
    chunks, answers = template.render(turns_of_rounds(rounds, image=True))
    assert "<image>".join(chunks) == with_image
    replies = [chunks[at][start:stop] for at, start, stop in answers]
    assert replies == [template.behind_assistant + word + template.eos for word in ("b", "d")]
    assert template.render(turns_of_rounds(rounds, image=False))[0] == [without]
    assert with_image.startswith("<image>".join(template.prompt("A?", image=True)))


def test_the_templates_of_the_configuration_are_those_tested_here(compose):
    templates = {
        "tinyllava_stablelm": tiny.PHI,
        "llava_onevision_05b": tiny.CHATML,
        "smolvlm_256m": tiny.SMOL,
    }
    for name, template in templates.items():
        proxy = build(compose(f"proxy={name}").proxy)
        assert proxy.template == template
        assert not proxy.cache_vision
        tokens = proxy.tokens()
        assert tokens.image is proxy.start
        assert tokens.tokenizer == Made(proxy.start, "")


@pytest.mark.parametrize("kind", ["idefics3", "stablelm"])
def test_an_image_token_that_a_conversation_names_is_text(models, kind):
    """Or a row without an image would ask for features."""
    loaded, question = models[kind], "Où est <image> ? <image><image>"
    template = tiny.SMOL if kind == "idefics3" else tiny.PHI
    image = loaded.layout.tokens((30, 20))
    for image_ids in (None, image):
        tokens = loaded.encoder(template).conversation([(question, "là <image>")], image=image_ids)
        assert loaded.model.config.image_token_id not in tokens.ids
        whole = loaded.tokenizer.decode(tokens.ids)
        assert question in whole
        answer = loaded.tokenizer.decode(tokens.ids[tokens.labelled])
        assert answer == f" là <image>{template.eos}"
    assert (loaded.layout.literal == "<image>") == (kind in TILED)


def test_llava_s_layout_looks_at_no_image():
    layout = Fixed(576)
    assert not layout.by_size
    assert layout.tokens(None) is layout.tokens((3, 4))  # one array for all rows
    assert (layout.tokens(None) == FEATURE).all()
    assert len(layout.tokens(None)) == 576
