"""What is taken of a row: its options by hand, and the release's algebra against float64 numpy."""

import math

import numpy as np
import pytest
import torch
from transformers import (
    CodeGenConfig,
    CodeGenModel,
    DynamicCache,
    LlamaConfig,
    LlamaModel,
    Phi3Config,
    Phi3Model,
    StableLmConfig,
    StableLmModel,
)

from xmas.attention.capture import attention_of
from xmas.attention.collector import finite, refuse_non_finite
from xmas.attention.metric import Spectra, normalised
from xmas.attention.released import Window

SHAPE = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "vocab_size": 97,
    "num_attention_heads": 4, "num_key_value_heads": 4, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
MODELS = {
    "stablelm": lambda: StableLmModel(StableLmConfig(**SHAPE, use_qkv_bias=True)),
    "stablelm, query and key norms": lambda: StableLmModel(
        StableLmConfig(**SHAPE, qk_layernorm=True)
    ),
    "llama, grouped queries": lambda: LlamaModel(LlamaConfig(**SHAPE | {"num_key_value_heads": 2})),
    "phi3, fused projections": lambda: Phi3Model(
        Phi3Config(**SHAPE | {"num_key_value_heads": 2}, tie_word_embeddings=False)
    ),
}
WINDOW = Window(text_from=11, image_from=4, image_to=9)
ROWS, LENGTH = 3, 18  # text rows 11 to 17


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.5, generator=generator)
    return model.eval()


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> torch.nn.Module:
    return randomised(MODELS[request.param]())


def ids(length: int = LENGTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(3, 97, (ROWS, length), generator=generator)


def places() -> dict[str, torch.Tensor]:
    """What an engine gives; the second row has fewer text rows and image columns."""
    return {
        "text": torch.arange(8, LENGTH).repeat(ROWS, 1),
        "text_mask": torch.arange(8, LENGTH) < torch.tensor([18, 12, 17])[:, None],
        "image": torch.arange(3, 8).repeat(ROWS, 1),
        "image_mask": torch.arange(3, 8) < torch.tensor([8, 6, 8])[:, None],
    }


def taken(model, spectra: Spectra, *, rows=None, tokens=None, **replaced) -> torch.Tensor:
    tokens = ids() if tokens is None else tokens
    seen = spectra.collector(model, **places() | replaced)
    with torch.no_grad(), attention_of(model, seen, stop=True):
        model(input_ids=tokens)
    names = np.arange(len(tokens)) if rows is None else np.array(rows)
    refuse_non_finite(finite([[seen]]).numpy(), rows=names, snapshots=["step 7"], layers=seen.seen)
    return spectra.values([seen])[:, 0]


@torch.no_grad()
def hidden(model: torch.nn.Module, tokens: torch.Tensor) -> list[np.ndarray]:
    """What every layer's projections are given, float64."""
    states = model(input_ids=tokens, output_hidden_states=True).hidden_states
    norms = [layer.input_layernorm for layer in model.layers]
    return [
        norm(state).double().numpy()
        for norm, state in zip(norms, states[: len(norms)], strict=True)
    ]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def release(model: torch.nn.Module, tokens: torch.Tensor, window: Window) -> list[np.ndarray]:
    """Section 3.4's S_l, cut to the window, of every layer: numpy, float64, from its sentence."""
    found = []
    for layer, state in zip(model.layers, hidden(model, tokens), strict=True):
        attention = layer.self_attn
        if hasattr(attention, "qkv_proj"):
            weight = attention.qkv_proj.weight.detach().double().numpy()
            wide, narrow = 24, 12
            query, key = state @ weight[:wide].T, state @ weight[wide : wide + narrow].T
        else:
            query, key = (
                state @ one.weight.detach().double().numpy().T
                + (0 if one.bias is None else one.bias.detach().double().numpy())
                for one in (attention.q_proj, attention.k_proj)
            )
        key = np.repeat(key, query.shape[-1] // key.shape[-1], axis=-1)  # features, not heads
        # `attention_scores(q_proj, k_proj)` of a function of `(k_proj, q_proj)`: rows are keys
        shares = softmax(key @ query.transpose(0, 2, 1) / math.sqrt(query.shape[-1]))
        found.append(shares[:, window.text_from :, window.image_from : window.image_to])
    return found


def halko(matrices: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Randomised singular values, k without oversampling, two rounds of power iteration."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = matrices.shape[1:]
    tall = matrices.transpose(0, 2, 1) if rows < columns else matrices
    block = torch.randn(tall.shape[2], k, generator=generator).double().numpy()
    basis = np.linalg.qr(tall @ block)[0]
    for _ in range(2):
        basis = np.linalg.qr(tall.transpose(0, 2, 1) @ basis)[0]
        basis = np.linalg.qr(tall @ basis)[0]
    return np.linalg.svd(basis.transpose(0, 2, 1) @ tall, compute_uv=False)


@pytest.mark.parametrize("combine", ["sum", "concat_text", "concat_vision", "last"])
def test_released_is_the_release_s_algebra(model, combine):
    layers = release(model, ids(), WINDOW)
    wanted = {
        "sum": sum(layers),
        "concat_text": np.concatenate(layers, axis=1),
        "concat_vision": np.concatenate(layers, axis=2),
        "last": layers[-1],
    }[combine]
    spectra = Spectra(k=3, mode="released", combine=combine, window=WINDOW)
    seen = spectra.collector(model, **places())
    with torch.no_grad(), attention_of(model, seen, stop=True):
        model(input_ids=ids())
    np.testing.assert_allclose(seen.total.numpy(), wanted, rtol=1e-4, atol=1e-6)
    assert wanted.std() > 0.05  # far from uniform
    values = spectra.values([seen])[:, 0].numpy()
    np.testing.assert_allclose(values, halko(wanted, 3, seed=0), rtol=1e-4)


def test_released_knows_no_real_length_and_model_does(model):
    """A pad more changes what the release takes of every row, and nothing of mode model."""
    padded = torch.cat([ids(), torch.zeros(ROWS, 3, dtype=torch.long)], dim=1)
    released = Spectra(k=3, mode="released", window=WINDOW)
    assert not torch.allclose(taken(model, released), taken(model, released, tokens=padded))
    own = Spectra(k=3)
    torch.testing.assert_close(taken(model, own), taken(model, own, tokens=padded))


def test_released_leaves_torch_s_generator_alone_and_repeats_itself(model):
    spectra = Spectra(k=3, mode="released", window=WINDOW)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = taken(model, spectra)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(taken(model, spectra), first)


@pytest.mark.parametrize(("length", "held"), [(11, 0), (9, 0), (12, 1), (13, 2)])
def test_a_batch_that_hardly_reaches_the_window(model, length, held):
    """Nothing behind the window: no value. A row behind it: one value, the others zero."""
    values = taken(model, Spectra(k=3, mode="released", window=WINDOW), tokens=ids(length))
    if not held:
        assert values.isnan().all()
    else:
        assert (values[:, :held] > 0).all()
        assert not values[:, held:].any()


def test_the_default_window_is_the_release_s():
    assert Spectra().window == Window(text_from=612, image_from=35, image_to=611)


def hooks(model: torch.nn.Module) -> int:
    modules = list(model.modules())
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in modules)


@torch.no_grad()
def test_released_is_given_neither_masks_nor_caches(model):
    seen = Spectra(mode="released", window=WINDOW).collector(model, **places())
    before, cache = hooks(model), DynamicCache()
    with (
        pytest.raises(ValueError, match="counts pads as text: give the model no attention mask"),
        attention_of(model, seen),
    ):
        model(input_ids=ids(), attention_mask=torch.ones_like(ids()))
    model(input_ids=ids(), past_key_values=cache, use_cache=True)
    with (
        pytest.raises(ValueError, match="reads whole passes: give the model no filled cache"),
        attention_of(model, seen),
    ):
        model(input_ids=ids(), past_key_values=cache, use_cache=True)
    assert hooks(model) == before


def test_projections_of_an_unknown_make_are_refused():
    """CodeGen's `qkv_proj` holds the same numbers in another order."""
    config = CodeGenConfig(vocab_size=97, n_embd=16, n_layer=2, n_head=4, rotary_dim=4)
    seen = Spectra(mode="released", window=WINDOW).collector(CodeGenModel(config), **places())
    with (
        pytest.raises(ValueError, match="layer 0 has neither q_proj and k_proj nor qkv_proj"),
        attention_of(CodeGenModel(config), seen),
    ):
        pass


@torch.no_grad()
def matrices_of(model: torch.nn.Module) -> list[list[np.ndarray]]:
    """By layer and row: transformers' own attention, text that counts x image that counts."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    found = model(input_ids=ids(), output_attentions=True).attentions
    model.set_attn_implementation(before)
    held = places()
    return [
        [
            one[row]
            .double()
            .mean(dim=0)[8:, 3:8][held["text_mask"][row]][:, held["image_mask"][row]]
            for row in range(ROWS)
        ]
        for one in found
    ]


@pytest.mark.parametrize("normalise", ["none", "sqrt_rows", "center_rows"])
@pytest.mark.parametrize("combine", ["sum", "concat_text", "concat_vision", "last"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_values_are_numpy_s_of_the_combined_and_normalised_matrix(
    model, combine, normalise, precision
):
    values = taken(model, Spectra(k=4, combine=combine, normalise=normalise, precision=precision))
    assert values.dtype == torch.float32
    layers = matrices_of(model)
    for row in range(ROWS):
        parts = [layer[row].numpy() for layer in layers]
        matrix = {
            "sum": sum(parts),
            "concat_text": np.concatenate(parts, axis=0),
            "concat_vision": np.concatenate(parts, axis=1),
            "last": parts[-1],
        }[combine]
        if normalise == "sqrt_rows":
            matrix = matrix / math.sqrt(len(matrix))
        elif normalise == "center_rows":
            matrix = matrix - matrix.mean(axis=0)
        wanted = np.zeros(4)
        exact = np.linalg.svd(matrix, compute_uv=False)[:4]
        wanted[: len(exact)] = exact
        np.testing.assert_allclose(values[row].numpy(), wanted, rtol=1e-4, atol=2e-6)


def test_rows_of_answers_and_of_questions_part_the_text(model):
    held = places()
    answers = torch.arange(8, LENGTH) % 3 == 0
    answers = answers.expand(ROWS, -1)
    for rows, wanted in {"answer_only": answers, "question_only": ~answers}.items():
        spectra = Spectra(k=3, rows=rows)
        kept = spectra.kept(held["text_mask"], answers)
        assert torch.equal(kept, held["text_mask"] & wanted)
        values = taken(model, spectra, text_mask=kept)
        for row in range(ROWS):
            chosen = wanted[row][held["text_mask"][row]].numpy()
            matrix = sum(layer[row].numpy() for layer in matrices_of(model))[chosen]
            exact = np.linalg.svd(matrix, compute_uv=False)[:3]
            np.testing.assert_allclose(values[row, : len(exact)], exact, rtol=1e-4, atol=2e-6)
    assert torch.equal(Spectra().kept(held["text_mask"]), held["text_mask"])
    with pytest.raises(ValueError, match="rows=answer_only needs to know which tokens are answers"):
        Spectra(rows="answer_only").kept(held["text_mask"])


def test_a_row_without_text_or_image_has_no_value(model):
    held = places()
    text_mask, image_mask = held["text_mask"].clone(), held["image_mask"].clone()
    text_mask[0] = False
    image_mask[2] = False
    values = taken(model, Spectra(k=3), text_mask=text_mask, image_mask=image_mask)
    assert values.isnan().all(dim=1).tolist() == [True, False, True]
    assert torch.equal(values[1], taken(model, Spectra(k=3))[1])


def test_normalisations_by_hand():
    matrix = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [0.0, 0.0], [0.0, 0.0]]])
    kept = torch.tensor([[True, True, False, False]])
    assert normalised(matrix, kept, "none") is matrix
    assert torch.equal(normalised(matrix, kept, "sqrt_rows"), matrix / math.sqrt(2))
    wanted = torch.tensor([[[-1.0, -2.0], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]])
    assert torch.equal(normalised(matrix, kept, "center_rows"), wanted)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("combine", ["sum", "concat_text", "last"])
def test_attention_that_is_not_finite_names_rows_and_layers(combine, value):
    """Token 96 is row 41's alone, and its embedding has overflowed; layer 1 spoils row 40's too."""
    model = randomised(MODELS["stablelm"]())
    tokens = ids().masked_fill_(ids() == 96, 95)
    tokens[1, 2] = 96
    model.embed_tokens.weight.data[96, 0] = value
    first = 1 if combine == "last" else 0
    message = (
        rf"step 7: the attention of rows \[41\] is not finite; first in layers \[{first}\]; lower "
        "the learning rate, set gradient clipping, or check these rows"
    )
    with pytest.raises(FloatingPointError, match=message):
        taken(model, Spectra(combine=combine), rows=[40, 41, 3], tokens=tokens)
    model.layers[1].self_attn.k_proj.weight.data[0, 0] = value
    if combine != "last":
        with pytest.raises(FloatingPointError, match=r"rows \[3, 40, 41\] .* layers \[1, 1, 0\]"):
            taken(model, Spectra(combine=combine), rows=[40, 41, 3], tokens=tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "both"}, "mode='both' is not one of model, released"),
        ({"combine": "mean"}, "combine='mean' is not one of sum, concat_text, concat_vision, last"),
        ({"rows": "text"}, "rows='text' is not one of all_text, answer_only, question_only"),
        ({"normalise": "rows"}, "normalise='rows' is not one of none, sqrt_rows, center_rows"),
        ({"precision": "float16"}, "precision='float16' is not one of float32, float64"),
        ({"k": 0}, "k=0: at least one value is taken"),
        (
            {"mode": "released", "rows": "answer_only"},
            "rows=answer_only: mode released uses every row after its window",
        ),
    ],
)
def test_what_does_not_exist_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Spectra(**options)
