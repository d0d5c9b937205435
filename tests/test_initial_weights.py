"""Initial weights of the small LLaVA: what is alike attends, words and features share a space."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toy import Toy
from transformers import AutoTokenizer, CLIPModel, CLIPVisionConfig, LlamaConfig, LlavaConfig
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from xmas.data.images.broken import read_picture
from xmas.data.images.pixels import SquareImages
from xmas.models.vlm import load
from xmas.store.checkpoint import saved_state
from xmas.training.starts.initial_weights import (
    attend_alike,
    embed_as_predicted,
    project_unchanged,
)
from xmas.training.starts.towers import TOKEN_HEAD, TwoTower, captioned

WIDTH = 96


@pytest.fixture
def seeded():
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(11)
        yield


def attention() -> LlamaAttention:
    """Weights of standard deviation 0.1."""
    config = LlamaConfig(hidden_size=WIDTH, num_attention_heads=4, num_key_value_heads=4)
    block = LlamaAttention(config, 0)
    for weight in block.parameters():
        nn.init.normal_(weight, std=0.1)
    return block


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    pair = torch.stack([one.flatten(), other.flatten()]).detach()
    return float(torch.corrcoef(pair)[0, 1])


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("strength", [0.5, 0.8])
def test_keys_are_like_queries_and_outputs_like_values(strength):
    block = attention()
    before = {name: weight.clone() for name, weight in block.state_dict().items()}
    attend_alike(block, strength)
    query, key = block.q_proj.weight, block.k_proj.weight
    value, output = block.v_proj.weight, block.o_proj.weight
    assert correlation(query, key) == pytest.approx(strength, abs=0.03)
    assert correlation(value.T, output) == pytest.approx(strength, abs=0.03)
    assert abs(correlation(value, output)) < 0.05  # without the transposition
    assert abs(correlation(query, output)) < 0.05
    rows = [correlation(*pair) for pair in zip(query, key, strict=True)]
    assert min(rows) > strength - 0.3  # in every head
    for weight in block.parameters():
        assert float(weight.std()) == pytest.approx(0.1, rel=0.03)
    for name in ("q_proj.weight", "v_proj.weight"):
        assert torch.equal(block.state_dict()[name], before[name])


@pytest.mark.usefixtures("seeded")
def test_tokens_attend_to_what_is_like_them():
    """The score of a token with itself is far above that with another one."""
    tokens = torch.randn(200, WIDTH)
    margins = []
    for strength in (0.0, 0.8):
        block = attention()
        attend_alike(block, strength)
        scores = (tokens @ block.q_proj.weight.T) @ (tokens @ block.k_proj.weight.T).T
        own, others = scores.diagonal(), scores[~torch.eye(200, dtype=torch.bool)]
        margins.append(float((own.mean() - others.mean()) / others.std()))
    assert abs(margins[0]) < 0.5
    assert margins[1] > 4


@pytest.mark.usefixtures("seeded")
def test_without_strength_the_weights_stay():
    block = attention()
    before = {name: weight.clone() for name, weight in block.state_dict().items()}
    attend_alike(block, 0.0)
    assert all(torch.equal(block.state_dict()[name], weight) for name, weight in before.items())


@pytest.mark.usefixtures("seeded")
def test_words_are_embedded_as_the_head_s_directions():
    head = 0.02 * torch.randn(60, WIDTH) + 0.05  # with a direction that all words have
    unseen = [0, 3, 17, 59]
    head[unseen] = 0
    embeddings = nn.Embedding(64, WIDTH)
    before = embeddings.weight.detach().clone()
    embed_as_predicted(embeddings, head, seed=0)
    after = embeddings.weight.detach()
    kept = [*unseen, 60, 61, 62, 63]  # the head has no rows for the last ones
    assert torch.equal(after[kept], before[kept])
    words = [word for word in range(60) if word not in unseen]
    directions = head[words] - head[words].mean(dim=0)
    alike = nn.functional.cosine_similarity(after[words], directions)
    assert alike.min() > 0.9
    assert alike.max() < 0.999  # some noise
    shift = torch.roll(directions, 1, dims=0)
    assert nn.functional.cosine_similarity(after[words], shift).abs().max() < 0.5
    assert float(after[words].std()) == pytest.approx(WIDTH**-0.5, rel=0.1)
    again, other = nn.Embedding(64, WIDTH), nn.Embedding(64, WIDTH)
    embed_as_predicted(again, head, seed=0)
    embed_as_predicted(other, head, seed=1)
    assert torch.equal(again.weight[words], after[words])
    assert not torch.equal(other.weight[words], after[words])


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(("spread", "shift"), [(1.0, 0.0), (0.02, 3.0), (40.0, -9.0)])
def test_the_projector_passes_features_on_centred_and_scaled(spread, shift):
    projector = LlavaMultiModalProjector(
        LlavaConfig(
            vision_config=CLIPVisionConfig(hidden_size=WIDTH, num_attention_heads=4),
            text_config=LlamaConfig(hidden_size=WIDTH, num_attention_heads=4),
            projector_hidden_act="gelu",
        )
    )
    mean = shift + spread * torch.randn(WIDTH)
    features = mean + spread * torch.randn(500, WIDTH)
    project_unchanged(projector.linear_1, projector.linear_2, mean, spread)
    projected = projector(features)
    expected = (features - mean) / spread * WIDTH**-0.5
    torch.testing.assert_close(projected, expected, rtol=0, atol=2e-3)
    assert float(projected.std()) == pytest.approx(WIDTH**-0.5, rel=0.05)


# --- of the stages ---


def test_the_towers_write_a_head_with_zeros_for_tokens_that_no_text_has(toy: Toy):
    folder = toy.store.get(toy.towers)
    head = load_file(folder / TOKEN_HEAD)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert head["weight"].shape == (len(tokenizer), 32)
    examples = toy.pool.open(toy.store)
    rows, _ = captioned(examples)
    texts = [" ".join(answer for _, answer in examples.conversation(int(row))) for row in rows]
    end = tokenizer.eos_token_id
    cut = [[*tokenizer(text)["input_ids"][:31], end] for text in texts]
    seen = {token for ids in cut for token in ids}
    nonzero = set(head["weight"].abs().sum(dim=1).nonzero()[:, 0].tolist())
    everywhere = set.intersection(*(set(ids) for ids in cut))  # says nothing of an image
    assert nonzero == seen - everywhere
    assert 20 < len(nonzero) < len(tokenizer) - 20


def test_the_towers_write_the_statistics_of_their_patches(toy: Toy):
    folder = toy.store.get(toy.towers)
    head = load_file(folder / TOKEN_HEAD)
    examples = toy.pool.open(toy.store)
    pictures = [read_picture(examples, number) for number in captioned(examples)[1].tolist()]
    pixels = SquareImages.load(folder)(pictures).half().float()
    with torch.no_grad():
        model = CLIPModel.from_pretrained(folder).vision_model
        patches = model(pixel_values=pixels).last_hidden_state[:, 1:].reshape(-1, 32)
    torch.testing.assert_close(head["mean"], patches.mean(dim=0), rtol=1e-4, atol=1e-4)
    centred = patches - patches.mean(dim=0)
    assert float(head["std"]) == pytest.approx(float(centred.std()), rel=1e-3)


def test_an_untrained_llava_starts_from_the_towers(toy: Toy):
    """Images are seen as its towers were trained to, words are what the head says of them."""
    towers, folder = toy.store.get(toy.towers), toy.store.get(toy.untrained)
    loaded = load(folder)
    head = load_file(towers / TOKEN_HEAD)["weight"]
    words = head.abs().sum(dim=1).nonzero()[:, 0]
    directions = head[words] - head[words].mean(dim=0)
    embedded = loaded.model.get_input_embeddings().weight[words].detach()
    assert nn.functional.cosine_similarity(embedded, directions).mean() > 0.9
    settings = json.loads((folder / "images.json").read_text())
    assert settings == json.loads((towers / "images.json").read_text())
    assert settings == {"size": 32, "aspect": "pad", "mean": [1.0] * 3, "std": [0.3] * 3}
    for block in loaded.model.model.language_model.layers:
        heads = block.self_attn
        assert correlation(heads.q_proj.weight, heads.k_proj.weight) > 0.7


def test_a_language_model_of_another_width_than_the_tower_s_is_refused(toy: Toy):
    with pytest.raises(ValueError, match=r"hidden 48: .*set untrained\.hidden=32"):
        dataclasses.replace(toy.untrained, hidden=48)


def test_towers_that_were_interrupted_end_bit_for_bit_as_others(toy: Toy, tmp_path, monkeypatch):
    """After the checkpoint of the first of three epochs: Muon's momentum is in it."""
    towers = dataclasses.replace(toy.towers, epochs=3)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for folder in (whole, halves):
        folder.mkdir()
    towers.compute(toy.store, whole)
    batches = 0
    forward = CLIPModel.forward

    def dies(self: CLIPModel, *arguments, **named):
        nonlocal batches
        batches += 1
        if batches == 3:  # of the second epoch: 13 pictures are two batches of eight
            raise InterruptedError
        return forward(self, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(CLIPModel, "forward", dies)
        with pytest.raises(InterruptedError):
            towers.compute(toy.store, halves)
    assert saved_state(halves) is not None
    towers.compute(toy.store, halves)
    for name in ("model.safetensors", TOKEN_HEAD, "images.json"):
        assert (halves / name).read_bytes() == (whole / name).read_bytes(), name


def test_white_is_the_zero_of_a_tower_s_pixels(toy: Toy):
    from PIL import Image

    process = TwoTower(toy.pool, toy.tokenizer).images()
    pixels = process([Image.new("RGB", (9, 5), "white"), Image.new("RGB", (5, 5), "black")])
    assert pixels[0].abs().max() < 1e-6  # its padding included
    torch.testing.assert_close(pixels[1], torch.full((3, 64, 64), -1 / 0.3))
