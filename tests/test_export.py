"""A target as a folder for others: plain transformers gives the same answers from it."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from test_labels import metaspace
from toy import HARDWARE, TEXT_ONLY, Toy, declared, recorded
from transformers import (
    AutoProcessor,
    GenerationConfig,
    GPT2Config,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from xmas.cli.config import build
from xmas.data.images.pixels import SquareImages
from xmas.models.assembled import Assembled
from xmas.models.chat.layout import FEATURE
from xmas.models.chat.template import Template
from xmas.models.sources import Source
from xmas.target.export import Export
from xmas.target.hf_folder import hub_name
from xmas.target.target import Target
from xmas.training.fit.recipe import Recipe
from xmas.training.fit.trainables import Lora

RECIPE = Recipe(rate=1e-2, projector_rate=1e-2, batch=8, micro_batch=4, precision="32-true")
SYSTEM = Template().system


def assembled(folder: Path, *, legacy: bool) -> Assembled:
    """Llama's own tokenizer, language model and a CLIP, as Vicuna's folder would hold them."""
    tokenizer = metaspace(legacy)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        tiny.language("llama", len(tokenizer)).save_pretrained(folder / "language")
        tiny.clip().save_pretrained(folder / "tower")
    tokenizer.save_pretrained(folder / "language")
    config = folder / "language" / "tokenizer_config.json"
    values = json.loads(config.read_text()) | {"legacy": legacy}  # as hub folders have it
    config.write_text(json.dumps(values))
    sampling = {"do_sample": False, "temperature": 0.9, "top_p": 0.6}  # Vicuna's
    (folder / "language" / "generation_config.json").write_text(json.dumps(sampling))
    places = [Source(str(folder / name)) for name in ("language", "tower")]
    return Assembled(*places, aspect="pad")


@pytest.fixture(scope="module", params=[False, True], ids=["first", "always"])
def target(request, toy: Toy, tmp_path_factory) -> Target:
    start = assembled(tmp_path_factory.mktemp("export"), legacy=request.param)
    return Target(
        toy.subset(rows=11), start, RECIPE, Lora(4, 8), Template(), hardware=HARDWARE,
        max_length=2048,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(toy: Toy, target) -> Path:
    stage = Export(target, dtype="float32")
    place = toy.store.get(stage)
    for computed in (stage, target, target.start):
        assert recorded(toy.store, computed) == declared(computed)
    return place


@pytest.fixture(scope="module")
def plain(folder):
    """Model and processor as anybody loads them."""
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    return model, AutoProcessor.from_pretrained(folder)


def said_by(role: str, text: str, *, image: bool = False) -> dict:
    images = [{"type": "image"}] if image else []
    return {"role": role, "content": [*images, {"type": "text", "text": text}]}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def asked(question: str, image: bool) -> list[dict]:
    return [said_by("user", question, image=image)]


def test_the_store_keeps_how_the_tokenizer_reads(toy: Toy, target):
    """`legacy` is lost where transformers makes a Llama's tokenizer anew."""
    config = target.start.language.folder() / "tokenizer_config.json"
    legacy = json.loads(config.read_text())["legacy"]
    stored, own = tiny.shared_model(target.start, toy.store).tokenizer, metaspace(legacy)
    for text in ("a</s>USER: b", "\nWhat?", "数 7</s>USER:", ""):
        assert stored(text).input_ids == own(text).input_ids


@torch.no_grad()
def test_plain_transformers_gives_the_greedy_answers_of_the_unmerged_model(toy, target, plain):
    model, processor = plain
    parts = tiny.own_model(target.start, toy.store)
    adapted = PeftModel.from_pretrained(parts.model, toy.store.get(target) / "adapter").eval()
    examples = toy.pool.open(toy.store)
    encoder, texts = parts.encoder(target.template), set()
    for row in range(7):
        has_image = row not in TEXT_ONLY
        picture = Image.open(examples.images_of(row)[0]) if has_image else None
        question = examples.conversation(row)[0][0]
        if "<image>" in question:
            continue  # text to a fit; to a processor, an image that is missing
        prompt = encoder.prompt(question, image=parts.layout.tokens(None) if has_image else None)
        ids = prompt.ids
        if has_image:
            token = parts.model.config.image_token_id
            ids = np.insert(ids, prompt.image_at, np.where(prompt.image == FEATURE, token, 0))
        inputs = processor(
            text=processor.apply_chat_template(
                asked(question, has_image), add_generation_prompt=True
            ),
            images=picture,
            return_tensors="pt",
        )
        assert inputs["input_ids"][0].tolist() == ids.tolist()
        pixels = {"pixel_values": parts.processor([picture])} if has_image else {}
        if has_image:
            assert torch.equal(inputs["pixel_values"], pixels["pixel_values"])
        expected = adapted.generate(
            input_ids=torch.tensor(ids[None]), attention_mask=torch.ones(1, len(ids)), **pixels,
            max_new_tokens=5, do_sample=False,
        )  # fmt: skip
        generated = model.generate(**inputs, max_new_tokens=5)  # greedy by its own defaults
        assert generated[0, : expected.shape[1]].tolist() == expected[0].tolist()
        texts.add(tuple(generated[0, len(ids) :].tolist()))
    assert len(texts) > 3  # or the answers would say nothing


def test_the_weights_have_the_hub_s_names(toy: Toy, folder, target):
    """Those of llava-hf/llava-1.5-7b-hf, whose layout transformers 4 and vLLM read."""
    names = set(load_file(folder / "model.safetensors"))
    layer = "self_attn.q_proj.weight"
    for name in (
        "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.model.norm.weight",
        f"language_model.model.layers.2.{layer}",
        "multi_modal_projector.linear_1.bias",
        "multi_modal_projector.linear_2.weight",
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.pre_layrnorm.weight",
        f"vision_tower.vision_model.encoder.layers.1.{layer}",
        "vision_tower.vision_model.post_layernorm.bias",
    ):
        assert name in names
    assert len(names) == len(tiny.shared_model(target.start, toy.store).model.state_dict())
    assert not any("lora" in name or "base_layer" in name for name in names)


def test_every_weight_is_found_again(folder):
    model, report = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert model.dtype == torch.float32


def test_names_of_no_known_part_or_class_are_refused():
    with pytest.raises(ValueError, match="a gpt2 is not exported"):
        hub_name("lm_head.weight", GPT2Config())
    with pytest.raises(ValueError, match="no part of a llava is called so"):
        hub_name("model.other.weight", LlavaConfig())


def test_the_generation_defaults_are_greedy(folder, plain):
    defaults = json.loads((folder / "generation_config.json").read_text())
    assert defaults["do_sample"] is False
    assert not {"temperature", "top_p", "top_k"} & set(defaults)
    tokens = plain[1].tokenizer
    assert defaults["eos_token_id"] == tokens.eos_token_id == 2
    assert defaults["bos_token_id"] == tokens.bos_token_id == 1
    assert defaults["pad_token_id"] == tokens.pad_token_id == tokens.convert_tokens_to_ids("<pad>")
    GenerationConfig.from_pretrained(folder).validate(strict=True)


def test_the_two_tokens_stand_behind_the_tokenizer_s(folder, plain, target, toy):
    model, processor = plain
    before = len(tiny.shared_model(target.start, toy.store).tokenizer)  # 32,000 with Vicuna
    assert processor.tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [before, before + 1]
    assert model.config.image_token_id == before
    assert model.config.text_config.vocab_size > before + 1


def test_the_processor_pads_to_a_square(folder, plain):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 33, 3), dtype=np.uint8))
    pixels = plain[1].image_processor(picture, return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, SquareImages(21, "pad")([picture]))
    assert json.loads((folder / "preprocessor_config.json").read_text())["do_pad"] is True


def test_the_processor_normalises_as_the_towers_were_trained(toy: Toy):
    """White is zero, the padding of a wide picture too, as `toy.start` sees it."""
    target = toy.target()
    folder = toy.store.get(Export(target, dtype="float32"))
    written = json.loads((folder / "preprocessor_config.json").read_text())
    assert (written["image_mean"], written["image_std"]) == ([1.0] * 3, [0.3] * 3)
    process = AutoProcessor.from_pretrained(folder).image_processor
    own = tiny.shared_model(target.start, toy.store).processor
    rng = np.random.default_rng(0)
    for shape in ((9, 33, 3), (32, 32, 3), (50, 41, 3)):
        picture = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        pixels = process(picture, return_tensors="pt")["pixel_values"]
        assert torch.equal(pixels, own([picture]))
    white = Image.new("RGB", (64, 16), "white")
    assert process(white, return_tensors="pt")["pixel_values"].abs().max() < 1e-6


def started(text: str) -> str:
    """A rendered conversation after its start mark, which may need a space for the tokenizer."""
    assert text.startswith("<s>")
    return text.removeprefix("<s>").removeprefix(" ")


def test_every_way_to_tokenise_a_conversation_has_one_start_mark(toy: Toy, plain, target):
    """vLLM's: of the rendered text without special tokens, as a tokenizer's own template method;
    transformers' processors: of the rendered text, with them. Both are what a fit sees.
    """
    processor, parts = plain[1], tiny.shared_model(target.start, toy.store)
    messages = asked("What is drawn? 数", False)
    fitted = parts.encoder(target.template).prompt("What is drawn? 数", image=None).ids.tolist()
    assert fitted.count(parts.tokenizer.bos_token_id) == 1
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    tokenizer = processor.tokenizer
    tokenizer.chat_template = processor.chat_template
    served = tokenizer(text, add_special_tokens=False)["input_ids"]
    own = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    (once,) = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"]
    assert served == own == list(once) == processor(text=text)["input_ids"][0] == fitted


def test_the_chat_template_is_the_fit_s(plain):
    def template(messages: list[dict], **options) -> str:
        return started(plain[1].apply_chat_template(messages, **options))

    messages = [*asked("What?", True), said_by("assistant", "A."), *asked("Sure?", False)]
    behind = template(messages, add_generation_prompt=True).replace("<image> \n", "<image>\n")
    assert behind == f"{SYSTEM} USER: <image>\nWhat? ASSISTANT: A.</s>USER: Sure? ASSISTANT:"
    alone = [*asked("", True), said_by("assistant", ""), *asked("", False)]
    behind = template(alone, add_generation_prompt=True).replace("<image>  ", "<image> ")
    assert behind == f"{SYSTEM} USER: <image> ASSISTANT:USER:ASSISTANT:"
    texts = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert template(texts, add_generation_prompt=True) == "Be brief. USER: Why? ASSISTANT:"


def test_several_images_are_where_the_parts_of_a_message_have_them(plain):
    """A single one opens its turn, as in a fit; gaps for the tokenizer's sake are left out."""
    image, again, words = {"type": "image"}, text("And again?"), text("Compare")
    several = [{"role": "user", "content": [words, image, text(" with "), image, text(".")]}]
    chat = [*several, {"role": "assistant", "content": [image, text("The last.")]}]
    chat += [{"role": "user", "content": [image, image, again]}]

    def rendered(messages: list[dict]) -> str:
        said = plain[1].apply_chat_template(messages, add_generation_prompt=True)
        said = re.sub(r"(<image>) ?( with|\.|\n)", r"\1\2", started(said))
        return said.removeprefix(f"{SYSTEM} ")

    assert rendered(chat) == (
        "USER: Compare<image> with<image>. ASSISTANT: <image>\nThe last.</s>"
        "USER: <image><image>\nAnd again? ASSISTANT:"
    ).replace("with<", "with <")
    alone = [{"role": "user", "content": [again, image]}]
    assert rendered(alone) == "USER: <image>\nAnd again? ASSISTANT:"


def test_masks_of_answers_can_be_asked_for(plain):
    messages = [*asked("What?", False), said_by("assistant", "fig 7")]
    tokens = plain[1].tokenizer
    tokens.chat_template = plain[1].chat_template
    encoded = tokens.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, masks = np.array(encoded["input_ids"]), np.array(encoded["assistant_masks"], dtype=bool)
    assert tokens.decode(ids[masks]).strip() == "fig 7</s>"


def test_what_version_4_reads_is_written_too(folder, target):
    """By the names of transformers 4.57: flat processor, both kinds of templates, rope and type."""
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert config["text_config"]["rope_theta"] == 10000.0
    assert config["text_config"]["model_type"] == "llama"
    assert "image_processor" not in json.loads((folder / "processor_config.json").read_text())
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    assert (folder / "chat_template.jinja").read_text() == template
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_half_precision_is_the_default(toy: Toy, target, folder):
    half = toy.store.get(Export(target))
    halved, full = load_file(half / "model.safetensors"), load_file(folder / "model.safetensors")
    assert len(halved) > 80
    assert all(torch.equal(halved[name], weight.half()) for name, weight in full.items())


def test_the_demo_s_target_is_exported(toy: Toy):
    """Tied embeddings, a tokenizer with its own pad, a template without a system prompt."""
    folder = toy.store.get(Export(toy.target(), dtype="float32"))
    model, report = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    processor = AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(asked("What?", True), add_generation_prompt=True)
    assert started(text) == "USER: <image>\nWhat? ASSISTANT:"
    assert processor.tokenizer.pad_token == "<pad>"
    weights = toy.target().load(toy.store).model.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())


def test_what_could_not_be_saved_stops_a_fit_before_it_starts(toy: Toy, target, monkeypatch):
    """Vicuna's sampling defaults once cost runs their results at the end (LLaVA, issue 1144)."""
    monkeypatch.setattr(
        "xmas.training.model_on_pool.fit", lambda *_, **__: pytest.fail("the fit began")
    )

    def broken(self, place, **_):
        raise ValueError("GenerationConfig is invalid")

    monkeypatch.setattr(GenerationConfig, "save_pretrained", broken)
    with pytest.raises(ValueError, match="GenerationConfig is invalid"):
        toy.store.get(dataclasses.replace(target, seed=99))


def test_the_goal_is_the_configured_target(compose):
    export = build(compose("goal=export", "export.dtype=bfloat16").export)
    assert isinstance(export, Export)
    assert export.target == build(compose().target)
    assert export.dtype == "bfloat16"
