"""The contract of a family: what is computed for its models equals transformers' own.

It runs over every family that is found, with a tiny random model of the family's class from
`tiny_families.py`. Attention is compared under weights with a standard deviation of 0.5 after the
tower, so that it is peaked, and differs from head to head and from layer to layer.
"""

import copy
import dataclasses
import fnmatch
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from choices import CONF
from jinja2 import nodes
from omegaconf import OmegaConf
from PIL import Image
from test_engine import close, randomised
from tiny import Remembered, shared_model, shared_start
from tiny import tokenizer as trained_tokenizer
from tiny_families import TINY, Tiny
from tiny_undescribed import UNDESCRIBED
from toy import HARDWARE, Toy, record
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import chat_template_utils as jinja_utils

from xmas.attention.engine import Running, Scan
from xmas.attention.feed import Material
from xmas.attention.metric import Spectra
from xmas.attention.shards import Shards
from xmas.cli.config import build
from xmas.data.pool import Pool
from xmas.data.turns import Turn, turn_of
from xmas.evaluation.generation.generate import generate_answers
from xmas.evaluation.protocol import Question
from xmas.features.activations import Activations, Windows
from xmas.features.losses.token_statistics import answer_statistics
from xmas.features.pooled import Means, halves, means_of
from xmas.models import families
from xmas.models.answer_loss import answer_loss
from xmas.models.chat.batches import Batch, Loader, collate
from xmas.models.chat.labels import IGNORED
from xmas.models.chat.layout import FEATURE, text_around, tokens_of_row
from xmas.models.chat.tokens import Tokenised, TokenTable
from xmas.models.families import (
    FAMILIES,
    Exportable,
    HasDeepFeatures,
    HasMarks,
    HasPositions,
    OwnForward,
    family_of,
)
from xmas.models.specs import HUB, unbuilt
from xmas.models.vision_cache import FromFiles, features_of
from xmas.models.vlm import (
    LoadedModel,
    embed,
    freeze_tower,
    head_of,
    hidden_states,
    image_features,
    language_inputs,
    language_model,
    runs_whole,
    tower_features,
    vocabulary_of,
)
from xmas.selection.methods.random import Random
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Store
from xmas.target.export import write_weights
from xmas.target.hf_folder import describe
from xmas.target.target import Target
from xmas.training.fit.recipe import Recipe
from xmas.training.fit.trainables import Lora
from xmas.training.proxy import Proxy

ROWS = (0, 13, 3, 5, 8)  # of the toy's: the first two show one picture, the third shows none
TWO = len(ROWS)  # a row of two pictures of different sizes
RECIPE = Recipe(
    rate=1e-2, projector_rate=1e-2, batch=6, micro_batch=3, warmup=0.0, precision="32-true"
)
NEW = 5  # tokens of an answer


def tiny_of(model_type: str) -> Tiny:
    if model_type in UNDESCRIBED:
        return UNDESCRIBED[model_type]
    if model_type not in TINY:
        pytest.fail(
            f"the family {model_type} has no tiny model: add an entry {model_type!r} to TINY of "
            "tests/tiny_families.py, a `Tiny` with a model folder of its class, its template, "
            "and the inputs of its own forward"
        )
    return TINY[model_type]


@pytest.fixture(scope="module")
def pool(toy: Toy, tmp_path_factory) -> Pool:
    two = record(0) | {
        "image": [record(row)["image"] for row in (4, 2)],
        "conversations": [
            {"from": "human", "value": "Compare <image> with <image>."},
            {"from": "gpt", "value": "a crimson disc, quite flat"},
        ],
    }
    place = tmp_path_factory.mktemp("few") / "pool.json"
    place.write_text(json.dumps([*map(record, ROWS), two]))
    return Pool(str(place), str(toy.folder / "images"))


@pytest.fixture(scope="module", params=[*sorted(FAMILIES), *sorted(UNDESCRIBED)])
def family(request, toy: Toy, pool: Pool, tmp_path_factory) -> SimpleNamespace:
    """A family's tiny model, the pool's tokens for it, and one step of LoRA on the pool."""
    tiny = tiny_of(request.param)
    start = shared_start(tiny.write, tmp_path_factory)
    target = Target(
        Subset(Ranking(pool, Random()), rows=len(ROWS) + 1, text_only="ranked"),
        start,
        RECIPE,
        Lora(4, 8, dropout=0.0),
        tiny.template,
        from_tuned=True,
        hardware=HARDWARE,
        max_length=1024,
    )
    parts = shared_model(start, toy.store)
    assert parts.model.config.model_type == request.param
    table = Tokenised(pool, start.tokenizer, tiny.template, start.image, 1024).open(toy.store)
    rows = pool.open(toy.store)
    return SimpleNamespace(
        tiny=tiny, start=start, parts=parts, target=target, table=table, rows=rows,
        pictures=Remembered(FromFiles(rows, parts.processor)), scans={},
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(toy: Toy, family) -> LoadedModel:
    """The tiny model after the step of LoRA."""
    return family.target.load(toy.store)


@pytest.fixture(scope="module")
def exported(family, fitted, tmp_path_factory) -> Path | None:
    """What `Export` writes of the fitted model; None: its family is not exported."""
    if not isinstance(family_of(fitted.model.config), Exportable | OwnForward):
        return None
    folder = tmp_path_factory.mktemp("exported")
    describe(fitted, family.tiny.template, "float32", folder)
    write_weights(fitted, "float32", folder)
    return folder


@pytest.fixture(scope="module")
def peaked(family) -> torch.nn.Module:
    """The tiny model with peaked attention, its tower as it was."""
    model = copy.deepcopy(family.parts.model)
    tower = model.get_submodule(family_of(model.config).tower)
    before = copy.deepcopy(tower.state_dict())
    randomised(model)
    tower.load_state_dict(before)
    return model


def ids_of(table: TokenTable, row: int, token: int) -> torch.Tensor:
    return torch.from_numpy(table[row].whole(token))[None]


def own_inputs(family: SimpleNamespace, model: torch.nn.Module, row: int) -> dict:
    """What the model's own forward takes for a row."""
    config = model.config
    ids = ids_of(family.table, row, config.image_token_id)
    images = [Image.open(image).convert("RGB") for image in family.rows.images_of(row)]
    pictures = family.tiny.inputs(model, family.parts.processor, images) if images else {}
    mask = torch.ones_like(ids)
    return {"input_ids": ids, "attention_mask": mask} | pictures | family.tiny.of_ids(config, ids)


def scanned(family, peaked, *, batch_tokens: int, shared_from: float, weights=None) -> np.ndarray:
    """The same scan once."""
    how = (batch_tokens, shared_from, weights)
    if how not in family.scans:
        pad = family.parts.tokenizer.pad_token_id
        material = Material(family.table, family.pictures, family.rows.shown, pad)
        spectra = Spectra(batch_tokens=batch_tokens)
        scan = Scan(peaked, material, spectra, Running(shared_from=shared_from, weights=weights))
        family.scans[how] = scan.once("test")
    return family.scans[how]


@pytest.fixture
def readable(family) -> None:
    if not family.tiny.scanned:
        pytest.skip("its attention is not read")


@torch.no_grad()
@pytest.mark.usefixtures("readable")
def test_attention_is_that_of_eager(family, peaked):
    """Each row alone, through the model's own forward, two pictures of different sizes too."""
    values = scanned(family, peaked, batch_tokens=10**6, shared_from=1.0)
    table, token = family.table, peaked.config.image_token_id
    before = language_model(peaked).config._attn_implementation
    peaked.set_attn_implementation("eager")
    spread = []
    for row in np.flatnonzero(table.image_at >= 0).tolist():
        layers = peaked(**own_inputs(family, peaked, row), output_attentions=True).attentions
        assert len(layers) == language_model(peaked).config.num_hidden_layers
        total = torch.stack(layers).double().mean(dim=2).sum(dim=0)[0]
        tokens = table[row]
        first = tokens.image_at + len(tokens.images[0])
        inside = tokens.put_in(
            np.zeros(len(tokens.ids), dtype=bool),
            [np.ones(len(image), dtype=bool) for image in tokens.images],
        )
        text = np.flatnonzero(~inside & (np.arange(len(inside)) >= first))
        spots = np.flatnonzero(tokens.whole(token) == token)
        block = total[text][:, spots]
        spread.append(float(block.std() / block.mean()))
        expected = torch.linalg.svdvals(block)[:5].numpy()
        np.testing.assert_allclose(values[row], expected, rtol=1e-4, atol=1e-6 * expected[0])
    peaked.set_attn_implementation(before)
    assert min(spread) > 0.2  # far from uniform, or a wrong mask would pass
    assert len(table[TWO].images) == 2


@pytest.mark.usefixtures("readable")
def test_attention_does_not_depend_on_batch_mates(family, peaked):
    alone = scanned(family, peaked, batch_tokens=1, shared_from=1.0)
    assert np.flatnonzero(np.isnan(alone).any(axis=1)).tolist() == [ROWS.index(3)]
    for batch_tokens, shared_from in ((10**6, 1.0), (300, 1.0), (10**6, 0.0)):
        ways = scanned(family, peaked, batch_tokens=batch_tokens, shared_from=shared_from)
        close(ways, alone, 1e-5)


def batch_of(family, model: torch.nn.Module, rows: list[int]) -> Batch:
    loader = Loader(
        family.table,
        [np.array(rows)],
        image_token=model.config.image_token_id,
        pad=family.parts.tokenizer.pad_token_id,
        pictures=family.pictures,
    )
    return next(iter(loader))


@torch.no_grad()
def test_a_padded_batch_has_what_the_model_s_own_forward_makes_of_each_row(family, peaked):
    """Hidden states, loss and activations, with and without images; attention is peaked."""
    rows = [ROWS.index(5), ROWS.index(3), TWO, ROWS.index(8)]
    batch = batch_of(family, peaked, rows)
    sizes = None if runs_whole(peaked) else batch.pictures.get("sizes")
    features = image_features(peaked, batch.pictures)
    hidden = hidden_states(peaked, batch.ids, batch.mask, features, sizes=sizes)
    loss = answer_loss(peaked, batch.ids, batch.mask, batch.labels, features, sizes=sizes)
    proxy = Proxy(
        family.target.pool, family.start, RECIPE, family.tiny.template, cache_vision=False,
        max_length=1024, hardware=HARDWARE,
    )  # fmt: skip
    activations = Activations(proxy, step=0, layers=(0, 2))
    windows = Windows.of(family.table, released=False)
    parts = dataclasses.replace(family.parts, model=peaked)
    vectors = torch.from_numpy(activations.features(parts, batch, windows))
    total, count = 0.0, 0
    for line, row in enumerate(rows):
        labels = torch.from_numpy(family.table[row].whole_labels())[None]
        inputs = own_inputs(family, peaked, row)
        spots = windows.positions(batch_of(family, peaked, [row]), peaked.config.image_token_id)
        with means_of(language_model(peaked), (0, 2), Means(spots)) as means:
            peaked.model(**inputs)
        vector = halves(torch.stack([means.layers[layer] for layer in (0, 2)], dim=1))
        torch.testing.assert_close(vectors[line], vector[0], rtol=1e-4, atol=1e-5)
        theirs = peaked(**inputs, labels=labels, output_hidden_states=True)
        last = theirs.hidden_states[-1][0]
        torch.testing.assert_close(hidden[line, : len(last)], last, rtol=1e-4, atol=1e-4)
        answers = int((labels[:, 1:] != IGNORED).sum())
        total += float(theirs.loss) * answers
        count += answers
    assert float(loss) == pytest.approx(total / count, rel=1e-5)


SIZES = [
    (21, 21), (19, 37), (37, 19), (5, 61), (61, 5), (101, 103), (23, 24), (24, 23), (7, 7),
    (1, 40), (72, 72), (71, 73), (480, 640), (1031, 29),
]  # fmt: skip  # height, width


@torch.no_grad()
def test_an_image_of_any_size_has_the_features_of_the_model_and_as_many_tokens(family):
    """Each alone, and its features those of the model's own `get_image_features`."""
    parts, lengths = family.parts, set()
    token = parts.model.config.image_token_id
    for height, width in SIZES:
        rng = np.random.default_rng(height * width)
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        inputs = family.tiny.inputs(parts.model, parts.processor, [image])
        theirs = parts.model.get_image_features(**inputs).pooler_output
        theirs = torch.cat([one.flatten(0, -2) for one in theirs])
        tokens = parts.layout.tokens((height, width))
        counted = int((tokens == FEATURE).sum())
        assert counted == len(theirs), (height, width)
        pictures = parts.processor.pictures([image])
        features = image_features(parts.model, pictures)
        ids = torch.full((1, counted), token)
        ours = language_inputs(parts.model, ids, features, pictures.get("sizes")).embeddings
        torch.testing.assert_close(ours[0], theirs, rtol=1e-5, atol=1e-5)
        lengths.add(len(tokens))
    assert len(lengths) > 3 if parts.layout.by_size else len(lengths) == 1


CONVERSATIONS = {
    "image": ["<image>\nWhat is drawn? 数", "A fig.\n", "Sure?", "7"],
    "text": ["What is drawn? 数", "A fig.\n", "Sure?", "7"],
    "two images": ["Compare <image> with <image>.", "The same."],
}


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_labels_are_those_of_the_chat_template(family, kind):
    """Token by token, as `apply_chat_template` renders and masks, an image as one token."""
    texts, parts = CONVERSATIONS[kind], family.parts
    roles = ("user", "assistant")
    turns = [
        turn_of(roles[number % 2], text, single=kind == "image")
        for number, text in enumerate(texts)
    ]
    count = sum(len(turn.images) for turn in turns)
    layouts = tokens_of_row(parts.layout, [(19, 37), (37, 19)][:count])
    tokens = parts.encoder(family.tiny.template).turns(turns, layouts)
    assert len(tokens.places) == count
    tokenizer, placeholder = copy.deepcopy(parts.tokenizer), family.tiny.image
    if parts.model.config.image_token_id == len(tokenizer):  # in a fit it has no name
        tokenizer.add_special_tokens({"additional_special_tokens": [placeholder]})
    encoded = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": contents(turn)} for turn in turns],
        chat_template=family.tiny.chat,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    shown = np.array(tokenizer(placeholder, add_special_tokens=False)["input_ids"])
    assert {parts.model.config.image_token_id, *parts.layout.tokens((19, 37))} & {*shown}
    ids = tokens.put_in(tokens.ids, [shown] * count)
    labelled = tokens.put_in(tokens.labelled, [np.zeros(len(shown), dtype=bool)] * count)
    assert tokenizer.decode(ids) == tokenizer.decode(encoded["input_ids"])  # is easier to read
    assert ids.tolist() == encoded["input_ids"]
    assert labelled.astype(int).tolist() == encoded["assistant_masks"]
    assert labelled.any()


def contents(turn: Turn) -> list[dict[str, str]]:
    """The content of a message: its images where its text has them."""
    first, *later = turn.pieces()
    parts = [{"type": "text", "text": first}] if first or not later else []
    for piece in later:
        parts.append({"type": "image"})
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts


def test_a_step_of_lora_changes_the_connector_and_the_linear_layers_alone(family, fitted):
    before = family.parts.model.state_dict()
    after = fitted.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    patterns = (*family.tiny.connector, *family.tiny.layers)
    for pattern in patterns:
        assert fnmatch.filter(changed, pattern), f"{pattern}: no such weight has changed"
    expected = {name for pattern in patterns for name in fnmatch.filter(before, pattern)}
    assert changed == expected
    assert list(before) == list(after)


def questions(family) -> list[Question]:
    """Of an image one question, of another three, then one without an image."""
    texts = ["What is drawn?", "Which colour?", "Sure?"]
    of_rows = map(family.rows.images_of, range(len(family.rows)))
    first, _, second, *_ = dict.fromkeys(images[0] for images in of_rows if images)
    pairs = [(first, texts[0]), *((second, text) for text in texts)]
    asked = [Question(number, text, Path(image)) for number, (image, text) in enumerate(pairs)]
    return [*asked, Question(len(asked), "Say it twice.", None)]


def answers(family, parts: LoadedModel, batch: int, out: Path, *, count=None) -> list[str]:
    asked = questions(family)[:count]
    generate_answers(
        parts, parts.encoder(family.tiny.template), asked, max_new_tokens=NEW,
        batch=batch, out=out, model_id="tiny", label="test",
    )  # fmt: skip
    return [json.loads(line)["text"] for line in out.read_text().splitlines()]


@torch.no_grad()
def test_an_exported_folder_gives_the_same_answers_in_plain_transformers(
    family, fitted, exported, tmp_path
):
    ours = answers(family, fitted, 1, tmp_path / "one.jsonl")
    assert len(set(ours)) > 1
    assert answers(family, fitted, 3, tmp_path / "three.jsonl") == ours
    if exported is None:
        pytest.skip("it is not exported")
    model, report = AutoModelForImageTextToText.from_pretrained(exported, output_loading_info=True)
    assert not any(report.values()), report
    tokenizer = AutoTokenizer.from_pretrained(exported)
    encoder = fitted.encoder(family.tiny.template)
    for question, answer in zip(questions(family), ours, strict=True):
        shown = [] if question.image is None else [Image.open(question.image).convert("RGB")]
        content = [*({"type": "image"} for _ in shown), {"type": "text", "text": question.prompt}]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        chat_image = family.tiny.image
        if runs_whole(model):  # it renders what its own processor expands
            chat_image = fitted.processor.placeholder.join(fitted.processor.marks)
        before, after = text_around(fitted.layout)
        text = text.replace(chat_image, before + chat_image + after)
        rendered = tokenizer(text, add_special_tokens=False)["input_ids"]
        image = fitted.image_tokens(question.image) if shown else None
        if image is not None:
            placeholder = tokenizer(chat_image, add_special_tokens=False)["input_ids"]
            whole = np.where(image == FEATURE, model.config.image_token_id, image).tolist()
            rendered = replaced(rendered, placeholder, whole)
        prompt = encoder.prompt(question.prompt, image=image)
        assert rendered == prompt.whole(model.config.image_token_id).tolist()
        ids = torch.tensor([rendered])
        pictures = family.tiny.inputs(model, fitted.processor, shown) if shown else {}
        generated = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **pictures,
            **family.tiny.of_ids(model.config, ids), max_new_tokens=NEW,
        )  # fmt: skip
        new = tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=True).strip()
        assert new == answer


SERVED = {  # by vLLM: its `vllm/model_executor/models/registry.py`, the multimodal models
    "Gemma3ForConditionalGeneration", "Idefics3ForConditionalGeneration",
    "InternVLForConditionalGeneration", "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration", "PaliGemmaForConditionalGeneration",
    "Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration", "SmolVLMForConditionalGeneration",
}  # fmt: skip
OF_VIDEOS = {  # transformers' `models/auto`; where torchvision is missing its mapping has none
    "internvl": "InternVLVideoProcessor",
    "llava_onevision": "LlavaOnevisionVideoProcessor",
    "qwen2_5_vl": "Qwen2VLVideoProcessor",
    "qwen2_vl": "Qwen2VLVideoProcessor",
    "qwen3_vl": "Qwen3VLVideoProcessor",
    "smolvlm": "SmolVLMVideoProcessor",
}
PENALTIES = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty"}  # vLLM's defaults


def loops_over_content(template: str) -> bool:
    """Whether a loop goes over `message['content']`: then vLLM and SGLang pass the parts of a
    message, images among them where they are, and not one text with images in front.
    """
    tree = jinja_utils._compile_jinja_template(template).environment.parse(template)
    accesses = [
        node
        for loop in tree.find_all(nodes.For)
        for node in (loop.iter, *loop.iter.find_all((nodes.Getitem, nodes.Getattr)))
    ]
    return any(
        (isinstance(node, nodes.Getitem) and getattr(node.arg, "value", None) == "content")
        or (isinstance(node, nodes.Getattr) and node.attr == "content")
        for node in accesses
    )


def test_an_exported_folder_has_what_vllm_reads(family, exported):
    if isinstance(family_of(family.parts.model.config), OwnForward):
        pytest.skip("its files are its own")
    if exported is None:
        pytest.skip("it is not exported")

    def read(name: str) -> dict:
        return json.loads((exported / name).read_text(encoding="utf-8"))

    assert set(read("config.json")["architectures"]) <= SERVED
    assert read("config.json")["text_config"]["torch_dtype"] == "float32"
    defaults = read("generation_config.json")
    assert defaults["do_sample"] is False
    assert not PENALTIES & set(defaults)
    ends = family.parts.encoder(family.tiny.template).end
    assert defaults["eos_token_id"] == ends
    assert loops_over_content((exported / "chat_template.jinja").read_text(encoding="utf-8"))
    processor = read("processor_config.json")["processor_class"]
    assert hasattr(transformers, processor)
    assert read("tokenizer_config.json")["processor_class"] == processor
    named = {"internvl": "context_image_token", "gemma3": "boi_token"}
    if (kind := family.parts.model.config.model_type) in named:  # their processors ask for them
        assert getattr(AutoTokenizer.from_pretrained(exported), named[kind]) == family.tiny.image
    images = read("preprocessor_config.json")["image_processor_type"]
    assert hasattr(transformers, images)
    theirs = getattr(transformers, processor)
    if "video_processor" in theirs.get_attributes():  # else one is inferred from that of images
        videos = read("video_preprocessor_config.json")["video_processor_type"]
        assert videos == OF_VIDEOS[family.parts.model.config.model_type]


def replaced(ids: list[int], part: list[int], by: list[int]) -> list[int]:
    """`ids` with the only place of `part` replaced."""
    (at,) = (at for at in range(len(ids)) if ids[at : at + len(part)] == part)
    return [*ids[:at], *by, *ids[at + len(part) :]]


class OwnInputs:
    """What a model's own forward takes of the images of a row, as a processor."""

    def __init__(self, family: SimpleNamespace, model: torch.nn.Module) -> None:
        self.family, self.model = family, model

    def pictures(self, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        rgb = [image.convert("RGB") for image in images]
        return self.family.tiny.inputs(self.model, self.family.parts.processor, rgb)

    def pictures_of_rows(self, rows: list[list[Image.Image]]) -> dict[str, torch.Tensor]:
        (images,) = rows  # pixels of several are padded as each processor does it
        return self.pictures(images)

    def save(self, folder: Path) -> None:
        raise NotImplementedError


@torch.no_grad()
def measured(family, peaked, processor, out: Path, *, batch_tokens: int = 1) -> SimpleNamespace:
    """Trajectories of two snapshots, states and losses of each row alone, answers."""
    model, parts, table = peaked, family.parts, family.table
    pad, tower = parts.tokenizer.pad_token_id, f"{family_of(model.config).tower}."
    snapshots = {
        step: {
            name: weight.detach().clone()
            for name, weight in of.named_parameters()
            if not name.startswith(tower)
        }
        for step, of in ((3, peaked), (5, parts.model))
    }
    pictures = Remembered(FromFiles(family.rows, processor))
    material = Material(table, pictures, family.rows.shown, pad)
    scan = Scan(model, material, Spectra(batch_tokens=batch_tokens), Running())
    shards = Shards(out / "shards", scan.plan.bounds, tuple(snapshots), 5)
    scan.run(shards, tuple(snapshots), snapshots.get, label="test")
    trajectories = np.full((len(table), len(snapshots), 5), np.nan, dtype=np.float32)
    trajectories[scan.plan.order] = np.stack([shards.column(step) for step in snapshots], axis=1)
    states, losses = [], []
    for row in range(len(table)):
        batch = collate(
            [row], [table[row]], image_token=model.config.image_token_id, pad=pad, pictures=pictures
        )
        features, sizes = features_of(model, batch), batch.pictures.get("sizes")
        states.append(hidden_states(model, batch.ids, batch.mask, features, sizes=sizes))
        head, vocabulary = head_of(model), vocabulary_of(model)
        losses.append(answer_statistics(head, states[-1], batch.labels, vocabulary=vocabulary)[0])
    answering = LoadedModel(parts.model, parts.tokenizer, processor)
    vars(answering)["layout"] = parts.layout
    texts = answers(family, answering, 1, out / "answers.jsonl", count=3)
    return SimpleNamespace(trajectories=trajectories, states=states, losses=losses, texts=texts)


@pytest.mark.usefixtures("readable")
def test_a_described_family_computes_what_the_model_s_own_forward_does(
    family, peaked, tmp_path, monkeypatch
):
    """Trajectories, states, losses and answers are the same as if nobody had described it."""
    kind = peaked.config.model_type
    if kind not in FAMILIES:
        pytest.skip("nobody has described it")
    fast = measured(family, peaked, family.parts.processor, tmp_path / "fast", batch_tokens=10**6)
    others = {name: other for name, other in FAMILIES.items() if name != kind}
    monkeypatch.setattr(families, "FAMILIES", others)
    whole = measured(family, peaked, OwnInputs(family, peaked), tmp_path / "whole")
    assert runs_whole(peaked)
    close(whole.trajectories, fast.trajectories, 1e-5)
    assert not np.allclose(fast.trajectories[0, 0], fast.trajectories[0, 1], rtol=1e-2)
    for own, ours in zip(whole.states, fast.states, strict=True):
        torch.testing.assert_close(own, ours, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat(whole.losses), torch.cat(fast.losses), equal_nan=True)
    assert whole.texts == fast.texts
    assert any(fast.texts)


EVERY_SIZE = [(kind, name) for kind, family in FAMILIES.items() for name in family.full_size]


@pytest.mark.parametrize(("kind", "name"), EVERY_SIZE, ids=[name for _, name in EVERY_SIZE])
def test_a_full_size_has_the_estimate_s_parameters_and_steps_without_numbers(kind, name):
    """On the meta device: forward, loss, backward and AdamW; every shape fits the next. Blocks that
    are alike in all their shapes and in what they see take the step once.
    """
    family = FAMILIES[kind]
    config = family.full_size[name]()
    model = unbuilt(config)
    shape = family.shape(config)
    parameters = sum({id(weight): weight.numel() for weight in model.parameters()}.values())
    assert shape.parameters == pytest.approx(parameters, rel=1e-3)  # biases, norms
    freeze_tower(model)
    assert sum(weight.numel() for weight in model.parameters() if weight.requires_grad) > 1e8
    # Qwen3-VL adds features of inner layers of its tower after three blocks.
    shorten(language_model(model), least=3 if isinstance(family, HasDeepFeatures) else 1)
    tiny, tower = tiny_of(kind), shape.tower
    if tiny.tower_on_meta:
        shorten(model.get_submodule(family.tower), least=1)
    sizes = None if tiny.one_image is None else torch.tensor([tiny.one_image])
    if tiny.tower_on_meta:
        side = math.isqrt(tower.patches) * tower.patch
        features = tower_features(model, torch.empty(tiny.tiles, 3, side, side, device="meta"))
    elif isinstance(family, HasPositions):  # as many patches as the image has
        patches = math.prod(tiny.one_image or ()) // tower.patch**2
        features = torch.empty(patches, 1, tower.width, device="meta")
    else:
        features = torch.empty(tiny.tiles, tower.patches, tower.width, device="meta")
    count = len(family.project(model, features, sizes))
    ids = torch.zeros(1, count + 5, dtype=torch.long)
    ids[:, :count] = config.image_token_id
    positions = torch.arange(count + 5)[None]
    if isinstance(family, HasPositions):
        positions = family.positions(config, ids, positions, sizes)
    places = torch.arange(count, device="meta")
    hidden = language_model(model)(
        inputs_embeds=embed(model, ids.to("meta"), features, sizes, image_places=places),
        attention_mask=torch.zeros(1, 1, count + 5, count + 5, device="meta"),
        position_ids=positions.to("meta"),
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(hidden[0, -5:])
    assert logits.shape == (5, config.text_config.vocab_size)
    torch.nn.functional.cross_entropy(logits, ids[0, -5:].to("meta")).backward()
    for weight_name, weight in model.named_parameters():
        shape_of_gradient = None if weight.grad is None else weight.grad.shape
        assert (shape_of_gradient == weight.shape) == weight.requires_grad, weight_name
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    moments = sum(state["exp_avg"].numel() for state in optimizer.state.values())
    assert moments == sum(weight.numel() for weight in trained)


def shorten(part: torch.nn.Module, *, least: int) -> None:
    """Keep as many of the first blocks as have one of every kind, `least` or more."""
    owner, name = next(
        (module, name)
        for module in part.modules()
        for name in ("layers", "layer")
        if isinstance(getattr(module, name, None), torch.nn.ModuleList)
    )
    blocks = getattr(owner, name)
    sees = getattr(part.config, "layer_types", None) or [None] * len(blocks)
    kinds = [
        (
            seen,
            [(type(module), module.extra_repr()) for module in block.modules()],
            [weight.shape for weight in block.parameters()],
        )
        for seen, block in zip(sees, blocks, strict=True)
    ]
    assert len(kinds) == part.config.num_hidden_layers
    last = max(number for number, kind in enumerate(kinds) if kinds.index(kind) == number)
    setattr(owner, name, blocks[: max(last + 1, least)])


STARTS = [
    path
    for path in sorted((CONF / "start").glob("*.yaml"))
    if OmegaConf.load(path).get("drawn", "") is None  # may be random, and need not
    and "source" in OmegaConf.load(path)  # of a whole model
]


@pytest.mark.parametrize("path", STARTS, ids=[path.stem for path in STARTS])
def test_a_start_point_s_image_settings_are_those_that_its_model_takes(path, tmp_path):
    """Without a file of it: tiles of its size, and of an image as many as estimates are told."""
    start = build(OmegaConf.load(path))
    family = family_of(config := HUB[start.source.name]())
    (tmp_path / "preprocessor_config.json").write_text("{}")
    tokenizer = trained_tokenizer()
    if isinstance(family, HasMarks):
        tokenizer.add_special_tokens({"additional_special_tokens": [*family.marks.values()]})
    layout = family.layout(config, family.processor(tmp_path, start.images), tokenizer)
    features = int((layout.tokens((480, 640)) == FEATURE).sum())
    assert start.shape().image_tokens == pytest.approx(features, rel=0.3)  # with paddings, if any
    assert start.tuned(Store(str(tmp_path)))


def test_a_family_without_a_tiny_model_fails_and_says_what_to_add():
    with pytest.raises(pytest.fail.Exception, match=r"add an entry 'nobody_s' to TINY of tests/"):
        tiny_of("nobody_s")
