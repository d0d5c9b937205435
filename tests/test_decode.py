"""Greedy decoding, alone and in a running batch: token for token what transformers generates."""

import collections
import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from emulated.recorded_graph import captured_on
from tiny_families import TINY, gemma3
from toy import Toy, draw
from transformers import DynamicCache, LlamaConfig

from xmas.data.images.files import open_image
from xmas.evaluation.generation import prefill
from xmas.evaluation.generation.cached_model import CachedLanguageModel
from xmas.evaluation.generation.continuous_batch import ContinuousBatch
from xmas.evaluation.generation.decode import decode_singly
from xmas.evaluation.generation.kv_cache import SequenceCache, SlotCache
from xmas.evaluation.generation.prompts import (
    Prompt,
    PromptGroup,
    group_prompts,
    image_reader,
    load_images,
    shared_prefix,
)
from xmas.evaluation.protocol import Question
from xmas.models.vlm import LoadedModel, language_model, tower_features

NEW = 5  # tokens at most
ENDING = 2.5  # weight of the end mark's row: some answers end early


KINDS = ("toy", "stablelm", "gemma", "onevision", "idefics3", "qwen25_vl", "qwen3_vl", "gemma3")
DESCRIBED = {  # of the contract of families; Gemma's prompts are shorter than its windows
    "qwen25_vl": TINY["qwen2_5_vl"],
    "qwen3_vl": TINY["qwen3_vl"],
    "gemma3": dataclasses.replace(TINY["gemma3"], write=functools.partial(gemma3, window=1000)),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def parts(kind: str, toy: Toy, tmp_path_factory) -> LoadedModel:
    """Large weights in the language model, so that answers differ."""
    start = toy.start
    if kind != "toy":
        write = DESCRIBED[kind].write if kind in DESCRIBED else tiny.KINDS[kind]
        start = tiny.shared_start(write, tmp_path_factory)
    found = tiny.own_model(start, toy.store)
    generator = torch.Generator().manual_seed(int(kind == "toy"))
    with torch.no_grad():
        for name, one in found.model.named_parameters():
            if one.dim() > 1 and ("projector" in name or "connector" in name):
                one.normal_(0, 0.5, generator=generator)
            elif one.dim() > 1 and ("layers" in name or "embed" in name) and "vision" not in name:
                one.normal_(0, 0.3, generator=generator)
            elif kind == "gemma3" and "post_" in name:  # its layers' outputs are normalised
                one.normal_(30.0, 10.0, generator=generator)
        head = found.model.lm_head.weight
        head[found.tokenizer.eos_token_id] *= ENDING
    return found


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> list[Question]:
    """Of 1 to 12 words; five images, asked 1, 2, 3, 4 and 1 times, and two without an image."""
    folder = tmp_path_factory.mktemp("images")
    asked = []
    for number, image in enumerate([0, 1, 1, 2, None, 2, 2, 3, 3, 3, 3, 4, None]):
        path = None
        if image is not None:
            path = folder / f"{image}.png"
            draw(image).save(path)
        words = " ".join(("what", "is", "drawn", "here")[: number % 4 + 1] * (number % 3 + 1))
        asked.append(Question(number, f"{words}{number}?", path))
    return asked


@pytest.fixture(scope="module")
def groups(kind, parts, questions) -> list[PromptGroup]:
    template = tiny.TEMPLATES.get(kind, tiny.PHI)
    if kind == "gemma3":
        template = DESCRIBED[kind].template
    encoder = parts.encoder(template)
    return group_prompts(parts, encoder, questions, image_order=range(len(questions)), label="test")


@pytest.fixture(scope="module")
def expected(kind, parts, groups) -> dict[int, list[int]]:
    """What transformers' `generate` says to each prompt alone, through the model's own forward."""
    return {
        prompt.position: generated(kind, parts, prompt.ids, group.image)
        for group in groups
        for prompt in group.prompts
    }


def generated(kind: str, parts: LoadedModel, ids: np.ndarray, image: Any) -> list[int]:
    from test_families import own_inputs

    seen: dict[str, Any] = {}
    if image is not None and kind in DESCRIBED:
        shown, config = [open_image(image).convert("RGB")], parts.model.config
        seen = DESCRIBED[kind].inputs(parts.model, parts.processor, shown)
        seen |= DESCRIBED[kind].of_ids(config, torch.from_numpy(ids)[None])
    elif image is not None:
        seen = own_inputs(kind, parts, [open_image(image)])
    eos = parts.tokenizer.eos_token_id
    found = parts.model.generate(
        input_ids=torch.from_numpy(ids)[None],
        attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
        **seen,
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=eos,
    )[0, len(ids) :].tolist()
    return found[: found.index(eos)] if eos in found else found


def batch_of(
    parts: LoadedModel, groups: list[PromptGroup], slots: int, new: int = NEW, **options: Any
) -> ContinuousBatch:
    return ContinuousBatch(
        parts.model,
        slots=slots,
        max_new_tokens=new,
        eos=parts.tokenizer.eos_token_id,
        prefix=shared_prefix(groups),
        longest=max(len(prompt.ids) for group in groups for prompt in group.prompts),
        **options,
    )


def answers(found: Any) -> dict[int, list[int]]:
    listed = [(prompt.position, tokens) for prompt, tokens in found]
    assert len(dict(listed)) == len(listed)
    return dict(listed)


def test_the_answers_tell_something(expected):
    """Constant answers, or ones that never end, would let the tests below pass."""
    assert len({tuple(one) for one in expected.values()}) >= 7
    assert len({len(one) for one in expected.values()}) >= 2


def test_alone_is_what_transformers_generates(parts, groups, expected, monkeypatch):
    """Where graphs are possible, and not wanted."""
    captured = captured_on("cpu", monkeypatch)
    options = {"max_new_tokens": NEW, "eos": parts.tokenizer.eos_token_id}
    given = load_images(groups, image_reader(parts), 0)
    assert answers(decode_singly(parts.model, given, graphs=False, **options)) == expected
    assert not captured


@pytest.fixture
def replayed(groups, expected) -> tuple[list[PromptGroup], dict[int, list[int]]]:
    """Groups whose lengths repeat, and what is generated: images asked several times, and none."""
    some = [group for group in groups if len(group.prompts) > 1 or group.image is None]
    asked = [prompt.position for group in some for prompt in group.prompts]
    assert len(asked) == 2 + 3 + 4 + 2
    return some, {position: expected[position] for position in asked}


def test_replayed_steps_give_what_transformers_generates(parts, replayed, monkeypatch):
    """Captured once for every length, on a CPU; nothing of a step is left to Python."""
    captured = captured_on("cpu", monkeypatch)
    options = {"max_new_tokens": NEW, "eos": parts.tokenizer.eos_token_id}
    groups, expected = replayed
    given = load_images(groups, image_reader(parts), 0)
    assert answers(decode_singly(parts.model, given, **options)) == expected
    assert sum(graph.replays for graph in captured) >= len(captured) > 3


def test_replayed_steps_of_a_batch_give_what_transformers_generates(parts, replayed, monkeypatch):
    """Also where the cache grows or shrinks meanwhile, which moves its tensors."""
    captured = captured_on("cpu", monkeypatch)
    groups, expected = replayed
    batch = batch_of(parts, groups, 5, refill=0.0, cache_growth=3)
    for _ in range(3):  # until every length was seen before
        given = load_images(groups, image_reader(parts), 0)
        assert answers(batch.answers(given)) == expected
    assert sum(graph.replays for graph in captured) > len(captured) > 2


@torch.no_grad()
def test_buffers_give_the_bits_of_a_dynamic_cache(parts, groups):
    """Hidden states of a prompt and of three more tokens, also after a longer sequence."""
    language, cache = language_model(parts.model), SequenceCache(400)
    for group, inputs in load_images(groups, image_reader(parts), 0):
        image = prefill.SharedImage(inputs)
        prefill.encode_images(parts.model, [image])
        images = [] if image.features is None else [image]
        ids = torch.from_numpy(group.prompts[0].ids)[None]
        passes = [prefill.embed_inputs(parts.model, ids, images)]
        passes += [prefill.embed_inputs(parts.model, torch.tensor([[one]])) for one in (5, 9, 7)]
        dynamic = DynamicCache()
        cache.begin_at(0)
        for of_pass in passes:
            states = [
                language(**of_pass.arguments, past_key_values=one, use_cache=True)[0]
                for one in (dynamic, cache)
            ]
            assert torch.equal(*states)
            assert cache.get_seq_length() == dynamic.get_seq_length()


@pytest.mark.parametrize(("slots", "tokens", "growth"), [(2, 200, 1), (5, 8192, 64), (64, 500, 3)])
def test_a_batch_is_what_transformers_generates(parts, groups, expected, slots, tokens, growth):
    """Also in small passes, in which pads differ, and where the cache has to grow."""
    given = load_images(groups, image_reader(parts), 2)
    batch = batch_of(parts, groups, slots, pass_tokens=tokens, cache_growth=growth)
    assert answers(batch.answers(given)) == expected


def test_a_prompt_passes_as_few_tokens_as_it_can(parts, groups, monkeypatch):
    """The system prompt runs once, an image once, also where several questions show it."""
    passed, towers = [], []
    forward, look = CachedLanguageModel.forward, tower_features

    def counts(
        self: CachedLanguageModel, cache: SlotCache, slots: Any, positions: torch.Tensor, *rest: Any
    ) -> Any:
        if slots is not None:
            passed.append(positions.numel())
        return forward(self, cache, slots, positions, *rest)

    monkeypatch.setattr(CachedLanguageModel, "forward", counts)
    monkeypatch.setattr(prefill, "tower_features", lambda *a: towers.append(len(a[1])) or look(*a))
    given = [*load_images(groups, image_reader(parts), 0)]
    tiles = sum(len(pictures["pixels"]) for _, pictures in given if pictures)
    batch = batch_of(parts, groups, 3, new=1, pass_tokens=1)  # so that no pads are counted
    list(batch.answers(given))
    head = len(shared_prefix(groups))
    texts = [
        len(one.ids) - one.up_to_image_end
        for group in groups
        for one in group.prompts
        if one.up_to_image_end
    ]
    without = [
        len(one.ids) - head for group in groups for one in group.prompts if not one.up_to_image_end
    ]
    images = [
        group.prompts[0].up_to_image_end - head for group in groups if group.image is not None
    ]
    assert head > 2
    assert sum(passed) == head + sum(texts) + sum(without) + sum(images)
    assert sum(towers) == tiles
    towers.clear()
    list(decode_singly(parts.model, given, max_new_tokens=1, eos=-1))
    assert sum(towers) == tiles


def test_rows_that_are_done_make_room_while_others_go_on(parts, groups, expected, monkeypatch):
    """A batch that waited for its slowest answer would take more steps."""
    steps, busy = 0, collections.Counter()
    original = ContinuousBatch._decode_step

    def counts(self: ContinuousBatch) -> None:
        nonlocal steps
        steps += 1
        busy[sum(sequence is not None for sequence in self._sequences)] += 1
        original(self)

    monkeypatch.setattr(ContinuousBatch, "_decode_step", counts)
    order = []
    given = load_images(groups, image_reader(parts), 0)
    for prompt, tokens in batch_of(parts, groups, 4, refill=0.0).answers(given):
        order.append((prompt.position, len(tokens)))
    asked = [prompt.position for group in groups for prompt in group.prompts]
    lengths = {position: min(len(tokens) + 1, NEW) - 1 for position, tokens in expected.items()}
    waits = sum(
        max(lengths[one] for one in some) for some in itertools.zip_longest(*[iter(asked)] * 4)
        if None not in some
    )  # fmt: skip
    assert steps <= waits + NEW
    assert sum(count * times for count, times in busy.items()) == sum(lengths.values())
    assert [position for position, _ in order] != asked  # finished in another order


@pytest.mark.parametrize(
    ("how", "window"), [("flash_attention_2", None), ("sdpa", 30), ("eager", 719)]
)
def test_windows_and_other_kernels_are_refused_in_a_batch(how, window):
    config = LlamaConfig()
    config._attn_implementation, config.sliding_window = how, window
    with pytest.raises(ValueError, match=rf"llama with {how} .* 720 tokens.*generation.batch=1"):
        prefill.check_attention(config, 720)
    config._attn_implementation, config.sliding_window = "sdpa", 721
    prefill.check_attention(config, 720)


def test_slots_hold_rows_of_their_own_lengths():
    """Two rows of a cache, by hand: what a layer sees are the keys written so far."""
    cache = SlotCache(3)
    first = torch.arange(1.0, 7).reshape(2, 1, 3, 1)
    cache.prepare(torch.tensor([2, 0]), torch.tensor([[0, 1, 2], [0, 1, 2]]), 3)
    seen, _ = cache.update(first, -first, 0)
    assert seen[:, 0, :, 0].tolist() == [[1, 2, 3], [4, 5, 6]]
    cache.prepare(None, torch.tensor([[1], [0], [3]]), 4)
    keys, values = cache.update(
        torch.tensor([7.0, 8, 9]).reshape(3, 1, 1, 1), first[:, :, :1][[0, 0, 1]], 0
    )
    assert keys[:, 0, :, 0].tolist() == [[4, 7, 6, 0], [8, 0, 0, 0], [1, 2, 3, 9]]
    assert values[:, 0, :, 0].tolist() == [[-4, 1, -6, 0], [1, 0, 0, 0], [-1, -2, -3, 4]]
    cache.keep([2])
    other = SlotCache(2)
    other.copy_from(cache, [0], [1], 2)
    assert other.keys[0][:, 0, :3, 0].tolist() == [[0, 0, 0], [1, 2, 0]]
    other.prepare(None, torch.tensor([[0], [90]]), 91)
    assert other.keys[0].shape[2] >= 91
    assert other.keys[0][1, 0, :3, 0].tolist() == [1, 2, 0]


def test_what_is_in_front_of_every_image_is_the_head(parts, groups, questions):
    head = shared_prefix(groups)
    for group in groups:
        for prompt in group.prompts:
            assert prompt.ids[: len(head)].tolist() == head.tolist()
            assert len(head) < len(prompt.ids)
            assert prompt.before == -1 or prompt.before >= len(head)
    together = {group.image: len(group.prompts) for group in groups if group.image is not None}
    assert sorted(together.values()) == [1, 1, 2, 3, 4]
    lengths = [len(group.prompts[0].ids) for group in groups]
    assert lengths == sorted(lengths, reverse=True)


def test_images_are_decoded_ahead_in_order():
    one = Prompt(0, "", np.arange(3), before=-1, up_to_image_end=0)
    groups = [PromptGroup(Path(str(number)), (one,)) for number in range(50)]

    def read(image: Path | bytes) -> dict[str, torch.Tensor]:
        assert isinstance(image, Path)
        return {"pixels": torch.tensor(int(image.name))}

    for workers in (0, 1, 3):
        seen = [
            (str(group.image), int(pictures["pixels"]))
            for group, pictures in load_images(groups, read, workers)
        ]
        assert seen == [(str(number), number) for number in range(50)]
