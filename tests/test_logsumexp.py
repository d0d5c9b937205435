"""Attention to images from the log-sum-exp of the pass's own kernel, or without it."""

from collections.abc import Iterator

import pytest
import torch
from transformers import Gemma2Config, Gemma2Model, LlamaConfig, LlamaModel

from xmas.attention import capture
from xmas.attention.capture import CrossAttention, attention_of
from xmas.attention.logsumexp import KernelLogSumExp
from xmas.attention.shares import (
    at_positions,
    consecutive,
    image_shares,
    normalised_shares,
    without_repeats,
)
from xmas.attention.spectrum import leading

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 97,
         "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 2}  # fmt: skip
LENGTH, IMAGE = 13, slice(3, 8)
sdpa = torch.nn.functional.scaled_dot_product_attention


def llama(deviation: float = 0.5) -> LlamaModel:
    model = LlamaModel(LlamaConfig(**SHAPE)).eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.data.normal_(0, deviation, generator=generator)
    return model


def collector(**options) -> CrossAttention:
    """Two rows of text after an image of five tokens."""
    text = torch.arange(IMAGE.stop, LENGTH).expand(2, -1)
    image = torch.arange(IMAGE.start, IMAGE.stop).expand(2, -1)
    return CrossAttention(text=text, text_mask=torch.ones_like(text).bool(), image=image, **options)


def ids() -> torch.Tensor:
    return torch.randint(3, 97, (2, LENGTH), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def sums_used(monkeypatch) -> Iterator[list[torch.Tensor]]:
    """The sums that attention was normalised by, one entry for each layer."""
    used = []

    def spied(query, key, logsumexp, **how):
        used.append(logsumexp)
        return normalised_shares(query, key, logsumexp, **how)

    monkeypatch.setattr(capture, "normalised_shares", spied)
    return used


@pytest.mark.parametrize("stop", [False, True], ids=["whole", "stopped"])
@torch.no_grad()
def test_every_layer_whose_attention_runs_gives_its_sums(sums_used, stop):
    model = llama()
    with attention_of(model, collector(), stop=stop):
        model(ids())
    assert len(sums_used) == (2 if stop else 3)


@torch.no_grad()
def test_where_sums_are_missing_or_too_coarse_all_keys_are_summed(sums_used):
    model, additive = llama(), torch.zeros(2, 1, LENGTH, LENGTH)
    additive[:, :, :, 4] = -0.7  # a bias, which no rule about what is hidden would apply
    additive.masked_fill_(torch.ones(LENGTH, LENGTH).triu(1).bool(), torch.finfo(torch.float32).min)
    with attention_of(model, collector()) as biased:
        model(ids(), attention_mask=additive)
    with attention_of(model, collector(dtype=torch.float64)) as exact:
        model(ids())
    capped = Gemma2Model(Gemma2Config(**SHAPE, head_dim=8, attn_logit_softcapping=3.0)).eval()
    with attention_of(capped, collector()):
        capped(ids())
    halves = llama().bfloat16()
    with attention_of(halves, collector()):
        halves(ids())
    assert not sums_used
    model.set_attn_implementation("eager")
    lines = (slice(None), slice(None), slice(IMAGE.stop, None), IMAGE)
    for found, mask in ((biased, additive), (exact, None)):
        attentions = model(ids(), attention_mask=mask, output_attentions=True).attentions
        wanted = sum(attention[lines].mean(dim=1) for attention in attentions)
        torch.testing.assert_close(found.total.float(), wanted, rtol=1e-5, atol=2e-6)


@torch.no_grad()
def test_values_differ_by_no_more_than_the_order_of_sums(monkeypatch):
    values = []
    for usable in (CrossAttention._usable, lambda *_: None):
        monkeypatch.setattr(CrossAttention, "_usable", usable)
        model = llama()
        with attention_of(model, collector(), stop=True) as seen:
            model(ids())
        values.append(leading(seen.total, 3))
    assert not torch.equal(*values)  # or the two ways are one
    torch.testing.assert_close(*values, rtol=2e-6, atol=0)


@pytest.mark.parametrize("case", ["causal", "masked", "one query"])
@torch.no_grad()
def test_the_kernel_gives_the_sum_over_the_allowed_keys(case):
    generator = torch.Generator().manual_seed(0)
    lines = 1 if case == "one query" else 7
    query = torch.randn(2, 4, lines, 8, generator=generator)
    key, value = torch.randn(2, 2, 2, 7, 8, generator=generator)
    logits = 0.6 * query @ key.repeat_interleave(2, dim=1).mT
    if case == "one query":  # heads of a group as queries: as transformers runs it under a mask
        allowed = torch.tensor([1, 1, 0, 1, 1, 0, 1]).bool().view(1, 1, 1, 7)
        passed, how = query.reshape(2, 2, 2, 8), {"attn_mask": allowed}
    else:
        allowed = torch.ones(7, 7).tril().bool()
        passed, how = query, {"enable_gqa": True}
        how |= {"attn_mask": allowed} if case == "masked" else {"is_causal": True}
    alone = sdpa(passed, key, value, scale=0.6, **how)
    with KernelLogSumExp() as kernel:
        output = sdpa(passed, key, value, scale=0.6, **how)
    assert torch.equal(output, alone)
    wanted = logits.masked_fill(~allowed, -torch.inf).logsumexp(dim=3)
    torch.testing.assert_close(kernel.of(query), wanted, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_products_over_all_keys_give_no_sums():
    query = torch.randn(1, 2, 3, 8)
    with (
        KernelLogSumExp() as kernel,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        sdpa(query, query, query)
    assert kernel.of(query) is None


@pytest.mark.parametrize("limit", [1, 700, 10**6])
def test_shares_of_known_sums_are_those_of_all_keys(limit):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 7, 8, generator=generator)
    key = 3 * torch.randn(2, 3, 11, 8, generator=generator)
    logits = 0.7 * query.double() @ key.double().repeat_interleave(2, dim=1).mT
    shares = normalised_shares(
        query, key[:, :, 2:7], logits.logsumexp(3, keepdim=True), scale=0.7, block_bytes=limit
    )
    wanted = logits.softmax(dim=3)[..., 2:7].mean(dim=1)
    torch.testing.assert_close(shares.double(), wanted, rtol=1e-5, atol=1e-9)
    image = torch.arange(2, 7).expand(2, -1)
    whole = image_shares(query, key, torch.zeros(1, 1, 7, 11), image, scale=0.7)
    torch.testing.assert_close(shares, whole, rtol=1e-5, atol=1e-9)


@torch.no_grad()
def test_a_hidden_key_that_outweighs_all_others_is_no_number_of_the_row():
    """Of a later image: its exponential is infinite before the mask."""
    model = llama(deviation=9.0)
    later = torch.arange(3, 11).expand(2, -1)  # the text at 8 and 9 precedes the last two
    text = torch.tensor([[8, 9, 11, 12]]).expand(2, -1)
    shown = CrossAttention(text=text, text_mask=torch.ones(2, 4).bool(), image=later)
    with attention_of(model, shown):
        model(ids())
    assert shown.total.isfinite().all()
    assert not shown.total[:, :2, 6:].any()
    assert shown.total[:, 2:].sum() > 0


def test_positions_in_a_row_are_a_slice():
    mask = torch.tensor([[True, True, True], [True, True, False]])
    positions = torch.tensor([[4, 5, 6], [4, 5, 0]])  # padded with 0
    assert consecutive(positions, mask) == slice(4, 7)
    assert consecutive(positions, None) is None
    assert consecutive(torch.tensor([[4, 5], [5, 6]]), None) is None
    assert consecutive(torch.tensor([[4, 6]]), None) is None
    assert consecutive(torch.zeros(2, 0, dtype=torch.long), None) is None
    numbers = torch.arange(2 * 3 * 8).view(2, 3, 8, 1)
    at = at_positions(numbers, positions, slice(4, 7))
    assert torch.equal(
        at[mask[:, None].expand(2, 3, 3)],
        at_positions(numbers, positions, None)[mask[:, None].expand(2, 3, 3)],
    )
    beyond = at_positions(numbers[:, :, :7], positions, slice(5, 8))  # padding may be outside
    assert beyond.shape == (2, 3, 3, 1)


def test_a_mask_of_all_rows_is_copied_once():
    mask = torch.ones(1, 1, 5, 5).bool()
    assert without_repeats(mask.expand(3, -1, -1, -1)).shape == (1, 1, 5, 5)
    assert without_repeats(mask.repeat(3, 1, 1, 1)).shape == (3, 1, 5, 5)
