"""Answers on a GPU, emulated or real: a CPU's tokens; replayed decode steps have eager ones' bits.

`pytest -m emulated` and `pytest -m gpu` run the same lines.
"""

from typing import Any

import pytest
import torch
from random_llava import EOS, random_groups, random_llava
from torch import nn
from transformers import DynamicCache

from xmas.evaluation.generation import decode
from xmas.evaluation.generation.continuous_batch import ContinuousBatch
from xmas.evaluation.generation.decode import decode_singly
from xmas.evaluation.generation.kv_cache import SequenceCache
from xmas.evaluation.generation.prefill import SharedImage, embed_inputs, encode_images
from xmas.evaluation.generation.prompts import shared_prefix
from xmas.models.precision import cast_parameters
from xmas.models.vlm import language_model

DEVICE = torch.device("cuda")
NEW = 5
TEXTS = [7, 6, 6, 6, 4]  # of equal lengths too, so that steps are captured and replayed
PRECISIONS = [torch.float32, torch.bfloat16, torch.float16]

pytestmark = [pytest.mark.gpu, pytest.mark.emulated]


def tokens_of(model: nn.Module, batch: int, graphs: bool) -> dict[int, list[int]]:
    groups = random_groups(TEXTS)
    if batch == 1:
        answers = decode_singly(model, groups, max_new_tokens=NEW, eos=EOS, graphs=graphs)
    else:
        answers = ContinuousBatch(
            model,
            slots=batch,
            max_new_tokens=NEW,
            eos=EOS,
            prefix=shared_prefix(group for group, _ in groups),
            longest=len(groups[0][0].prompts[0].ids),
            refill=0.0,
            graphs=graphs,
        ).answers(groups)
    return {prompt.position: tokens for prompt, tokens in answers}


@pytest.mark.parametrize("batch", [1, 2])
def test_tokens_are_those_of_a_cpu(batch):
    expected = tokens_of(random_llava(), 1, graphs=False)
    assert len({tuple(tokens) for tokens in expected.values()}) == len(TEXTS)
    model = random_llava().to(DEVICE)
    for graphs in (False, True):
        assert tokens_of(model, batch, graphs) == expected


@torch.no_grad()
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_replayed_steps_write_the_bits_of_eager_ones(dtype):
    """Tokens, and the keys and values of all layers after the last step."""
    model = cast_parameters(random_llava(), dtype, DEVICE)
    contents: list[list[Any]] = []
    for graphs in (False, True):
        decoder = decode._Decoder(model, NEW, EOS, graphs)
        contents.append([])
        for group, inputs in random_groups(TEXTS):
            image = SharedImage(inputs)
            encode_images(model, [image])
            length = len(group.prompts[0].ids) + NEW - 1
            tokens = decoder.answer(group.prompts[0], image)
            layers = [
                (layer.keys[:, :, :length].clone(), layer.values[:, :, :length].clone())
                for layer in decoder._cache.layers
            ]
            contents[-1].append((tokens, layers))
        captured = [one for one in decoder._graphs._graphs.values() if one is not None]
        assert len(captured) == (NEW - 1 if graphs else 0)
    for eager, replayed in zip(*contents, strict=True):
        assert eager[0] == replayed[0]
        for one, other in zip(eager[1], replayed[1], strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])


@torch.no_grad()
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_buffers_give_the_bits_of_a_dynamic_cache(dtype):
    model = cast_parameters(random_llava(), dtype, DEVICE)
    language, cache, dynamic = language_model(model), SequenceCache(50), DynamicCache()
    (group, inputs), *_ = random_groups(TEXTS)
    image = SharedImage(inputs)
    encode_images(model, [image])
    ids = torch.from_numpy(group.prompts[0].ids)[None].to(DEVICE)
    embedded = embed_inputs(model, ids, [image])
    for token in (5, 9, 7):
        states = [
            language(**embedded.arguments, past_key_values=one, use_cache=True)[0]
            for one in (dynamic, cache)
        ]
        assert torch.equal(*states)
        embedded = embed_inputs(model, torch.tensor([[token]], device=DEVICE))
