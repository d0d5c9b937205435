"""Gemma 3's masks: tokens of an image see each other, in windows, after a cache and in a cache."""

import dataclasses

import numpy as np
import pytest
import torch
from test_engine import close, randomised
from tiny import seeded
from tiny_families import TINY, gemma3
from toy import ROWS, TEXT_ONLY, Toy
from transformers import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import (
    create_masks_for_vision_model,
    get_block_sequence_ids_for_mask,
)

from xmas.attention.engine import Running, Scan
from xmas.attention.feed import Material
from xmas.attention.metric import Spectra
from xmas.models.chat.tokens import Tokenised
from xmas.models.families import FAMILIES, family_of
from xmas.models.image_blocks import ImageBlocks
from xmas.models.specs import unbuilt
from xmas.models.vision_cache import FromFiles
from xmas.models.vlm import language_model, load

IMAGES = torch.tensor([[0, 1, 1, 1, 0, 1, 1, 0, 0, 0, 1], [1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1]]).bool()


def config(implementation: str = "sdpa") -> Gemma3TextConfig:
    made = Gemma3TextConfig(
        hidden_size=12, num_attention_heads=2, num_key_value_heads=1, head_dim=6, sliding_window=4,
        num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    made._attn_implementation = implementation
    return made


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_masks_are_those_of_transformers(implementation):
    made = config(implementation)
    theirs = create_masks_for_vision_model(
        made, torch.zeros(2, 11, 12), None, None, None,
        get_block_sequence_ids_for_mask(IMAGES.long()),
    )  # fmt: skip
    ours = ImageBlocks.of(IMAGES, made).masks()
    assert set(ours) == set(theirs)
    for kind, mask in ours.items():
        assert torch.equal(mask, theirs[kind]), kind
    assert not torch.equal(ours["full_attention"], ours["sliding_attention"])


def test_rows_that_are_cut_after_an_image_have_the_masks_of_whole_ones():
    """Cut at the fourth token: the second row's first image ends there, the first row's too."""
    whole = ImageBlocks.of(IMAGES, config())
    head, tail = (ImageBlocks.of(part, config()) for part in (IMAGES[:, :4], IMAGES[:, 4:]))
    joined = tail.joined_to(head.number)
    after = tail.after(4).masks()
    for kind, mask in whole.masks().items():
        assert torch.equal(joined.masks()[kind], mask)
        assert torch.equal(after[kind], mask[:, :, 4:])
    no_image = tail.none(2, 7).joined_to(head.number)
    assert torch.equal(no_image.number[:, :4], whole.number[:, :4])
    assert (no_image.number[:, 4:] == -1).all()


def test_a_cache_s_mask_is_opened_where_the_tokens_are():
    """Two lines of a chunk that follows 3 cached tokens, of 9 positions."""
    number = torch.tensor([[0, 0, -1, -1], [-1, 1, 1, 1]])
    blocks = dataclasses.replace(ImageBlocks.of(IMAGES, config()), number=number)
    positions = torch.arange(3, 7)[None].expand(2, -1)
    hidden = torch.arange(9) > positions[..., None]
    causal = torch.zeros(2, 4, 9).masked_fill(hidden, float("-inf"))[:, None]
    opened = blocks.opened(causal, positions)
    expected = causal.clone()
    expected[0, 0, 0, 4] = expected[1, 0, 1, 5] = expected[1, 0, 1, 6] = expected[1, 0, 2, 6] = 0
    assert torch.equal(opened, expected)


def test_flash_attention_is_refused():
    with pytest.raises(ValueError, match=r"flash_attention_2 has no mask.*attention=sdpa"):
        ImageBlocks.of(IMAGES, config("flash_attention_2"))


def test_a_shared_prefix_changes_nothing_where_no_row_is_as_long_as_a_window(toy: Toy, tmp_path):
    start = seeded(lambda folder: gemma3(folder, window=1000))(tmp_path)
    parts = load(toy.store.get(start))
    model, tower = parts.model, family_of(parts.model.config).tower
    kept = {name: weight.clone() for name, weight in model.get_submodule(tower).named_parameters()}
    randomised(model)
    model.get_submodule(tower).load_state_dict(kept, strict=False)
    template = TINY["gemma3"].template
    table = Tokenised(toy.pool, start.tokenizer, template, start.image, 1024).open(toy.store)
    rows = toy.pool.open(toy.store)
    pictures = FromFiles(rows, parts.processor)
    material = Material(table, pictures, rows.shown, parts.tokenizer.pad_token_id)
    scans = [
        Scan(model, material, Spectra(batch_tokens=512), Running(shared_from=shared_from))
        for shared_from in (0.0, 1.0)
    ]
    assert scans[0].plan.shared.any()
    shared, alone = (scan.once("test") for scan in scans)
    assert np.flatnonzero(np.isnan(shared).any(axis=1)).tolist() == list(TEXT_ONLY)
    assert len(shared) == ROWS
    close(shared, alone, 1e-5)
    assert language_model(model).config.sliding_window == 1000


def test_the_full_size_has_the_published_number_of_parameters():
    model = unbuilt(FAMILIES["gemma3"].full_size["gemma3_4b"]())
    assert sum(weight.numel() for weight in model.parameters()) == 4_300_079_472  # hub


def test_paligemma_whose_answers_would_be_seen_by_the_tokens_before_them_is_refused():
    """Its own forward, without types of tokens: the last token changes the hidden state before."""
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    text = {
        "model_type": "gemma2", "vocab_size": 40, "hidden_size": 12, "intermediate_size": 20,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6,
    }  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 12, "intermediate_size": 20,
        "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4,
    }  # fmt: skip
    paligemma = PaliGemmaConfig(
        text_config=text, vision_config=vision, image_token_index=39, projection_dim=12
    )
    with pytest.raises(TypeError, match=r"paligemma attends to a question in both directions"):
        family_of(paligemma)
    model = PaliGemmaForConditionalGeneration(paligemma).eval()
    with torch.no_grad():
        ends = [
            model.model(
                input_ids=torch.tensor([[5, 6, last]]), token_type_ids=torch.zeros(1, 3).long()
            ).last_hidden_state[0, 0]
            for last in (7, 8)
        ]
    assert not torch.allclose(*ends)
