"""Every decoder that the proxies come from: what is collected is what its eager attention shows."""

import pytest
import torch
from transformers import (
    DynamicCache,
    Gemma2Config,
    Gemma2Model,
    GemmaConfig,
    GemmaModel,
    GptOssConfig,
    GptOssModel,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    Phi3Config,
    Phi3Model,
    PhiConfig,
    PhiModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    SmolVLMConfig,
    SmolVLMModel,
    StableLmConfig,
    StableLmModel,
)

from xmas.attention.capture import CrossAttention, attention_of, prefix_of
from xmas.attention.shares import image_shares

SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 97,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
SMALL = {"head_dim": 8}


def smolvlm() -> torch.nn.Module:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 16, "patch_size": 8}  # fmt: skip
    text = SHAPE | {"model_type": "llama", "head_dim": 8}
    return SmolVLMModel(SmolVLMConfig(vision_config=vision, text_config=text)).text_model


def scaled(model: torch.nn.Module, scale: float) -> torch.nn.Module:
    for layer in model.layers:
        layer.self_attn.scaling = scale
    return model


WINDOW = 6  # keys that a sliding layer sees: fewer than the text, so images drop out of sight
MODELS = {
    "llama, grouped queries": lambda: LlamaModel(LlamaConfig(**SHAPE)),
    "llama, a head a group": lambda: LlamaModel(LlamaConfig(**SHAPE | {"num_key_value_heads": 4})),
    "llama, another scaling": lambda: scaled(LlamaModel(LlamaConfig(**SHAPE)), 0.11),
    "stablelm, partial rotary": lambda: StableLmModel(
        StableLmConfig(**SHAPE, partial_rotary_factor=0.25, use_qkv_bias=True)
    ),
    "stablelm, query and key norms": lambda: StableLmModel(
        StableLmConfig(**SHAPE, qk_layernorm=True, use_parallel_residual=True)
    ),
    "qwen2": lambda: Qwen2Model(Qwen2Config(**SHAPE)),
    "qwen2, sliding after the first layer": lambda: Qwen2Model(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
    ),
    "qwen3, query and key norms": lambda: Qwen3Model(Qwen3Config(**SHAPE, **SMALL)),
    "phi, partial rotary": lambda: PhiModel(PhiConfig(**SHAPE, qk_layernorm=True)),
    "phi3, fused projections": lambda: Phi3Model(Phi3Config(**SHAPE)),
    "gemma": lambda: GemmaModel(GemmaConfig(**SHAPE, head_dim=12)),
    "gemma2, capped, sliding, scaled": lambda: Gemma2Model(
        Gemma2Config(
            **SHAPE,
            **SMALL,
            attn_logit_softcapping=3.0,
            sliding_window=WINDOW,
            query_pre_attn_scalar=50,
        )
    ),
    "mistral, sliding": lambda: MistralModel(MistralConfig(**SHAPE, sliding_window=WINDOW)),
    "smolvlm's text model": smolvlm,
}


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> torch.nn.Module:
    """Weights of standard deviation 0.5: attention is peaked, and heads and layers differ."""
    found = MODELS[request.param]()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.5, generator=generator)
    found.set_attn_implementation("sdpa" if "gemma2" not in request.param else "eager")
    return found.eval()


# Three rows: prefix, image, text. The second has fewer image tokens, all but the last are padded.
STARTS, IMAGES, LENGTHS = (3, 3, 3), (5, 2, 5), (12, 13, 19)
LONGEST = max(LENGTHS)


def given(padded: bool = True) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 97, (3, LONGEST), generator=torch.Generator().manual_seed(5))
    mask = torch.arange(LONGEST)[None] < torch.tensor(LENGTHS)[:, None]
    return {"input_ids": ids} | ({"attention_mask": mask.long()} if padded else {})


def collector(skipped: int = 0, **options) -> CrossAttention:
    """`skipped` positions are in a cache: text counts from there."""
    start, image, length = (torch.tensor(one)[:, None] for one in (STARTS, IMAGES, LENGTHS))
    first = start + image
    text = first + torch.arange(LONGEST - int(first.min()))
    columns = torch.arange(max(IMAGES))
    return CrossAttention(
        text=torch.where(text < length, text, first) - skipped,
        text_mask=text < length,
        image=torch.where(columns < image, start + columns, 0),
        image_mask=columns < image,
        **options,
    )


@torch.no_grad()
def eager(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Every layer's text x image of every row, cut out of transformers' own attention."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    attentions = model(**inputs, output_attentions=True).attentions
    model.set_attn_implementation(before)
    assert len(attentions) == 3
    whole = torch.zeros(
        3, 3, LONGEST - min(map(sum, zip(STARTS, IMAGES, strict=True))), max(IMAGES)
    )
    for layer, found in enumerate(attentions):
        for row, (start, image, length) in enumerate(zip(STARTS, IMAGES, LENGTHS, strict=True)):
            first = start + image
            block = found[row].mean(dim=0)[first:length, start:first]
            whole[layer, row, : length - first, :image] = block
    return list(whole)


def assert_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-6)


@torch.no_grad()
def test_padded_rows_show_eager_attention(model):
    with attention_of(model, collector()) as seen:
        model(**given())
    wanted = sum(eager(model, given()))
    assert_same(seen.total, wanted)
    assert wanted.std() > 0.01  # far from uniform, or a wrong mask would pass


@torch.no_grad()
def test_without_a_pad_mask_real_rows_are_the_same(model):
    with attention_of(model, collector()) as seen:
        model(**given(padded=False))
    assert_same(seen.total, sum(eager(model, given())))


@pytest.mark.parametrize("padded", [True, False], ids=["masked", "unmasked"])
@torch.no_grad()
def test_a_pass_that_goes_on_from_a_cache_shows_the_same(model, padded):
    inputs, shared = given(padded), 4  # ends inside the images
    mask = inputs.get("attention_mask")
    cache = DynamicCache()
    with prefix_of(model):
        model(
            input_ids=inputs["input_ids"][:, :shared],
            attention_mask=None if mask is None else mask[:, :shared],
            past_key_values=cache,
            use_cache=True,
        )
    assert [layer.get_seq_length() for layer in cache.layers] == [shared] * 3
    with attention_of(model, collector(skipped=shared), stop=True) as seen:
        model(
            input_ids=inputs["input_ids"][:, shared:],
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        )
    assert_same(seen.total, sum(eager(model, given())))


@torch.no_grad()
def test_the_stream_goes_on_as_it_was(model):
    real = given()["attention_mask"].bool()
    before = model(**given()).last_hidden_state[real]
    with attention_of(model, collector()):
        inside = model(**given()).last_hidden_state[real]
    torch.testing.assert_close(inside, before, rtol=1e-4, atol=1e-4)
    assert torch.equal(model(**given()).last_hidden_state[real], before)


@torch.no_grad()
def test_layers_are_combined_as_asked(model):
    every = eager(model, given())
    for layers in ((1,), (2, 0)):
        are_combined(model, layers, [one for at, one in enumerate(every) if at in layers])


def are_combined(model, layers: tuple[int, ...], wanted: list[torch.Tensor]) -> None:
    for combine, combined in {
        "sum": sum(wanted),
        "concat_text": torch.cat(wanted, dim=1),
        "concat_vision": torch.cat(wanted, dim=2),
        "last": wanted[-1],
    }.items():
        with attention_of(model, collector(layers=layers, combine=combine), stop=True) as seen:
            model(**given())
        assert_same(seen.total, combined)
        assert seen.lines().shape == seen.total.shape[:2]
        assert not seen.total[~seen.lines()].any()


@torch.no_grad()
def test_the_size_of_a_block_changes_nothing(model):
    wanted = sum(eager(model, given()))
    for limit in (1, 700, 3000, 10**6):
        with attention_of(model, collector(block_bytes=limit)) as seen:
            model(**given())
        assert_same(seen.total, wanted)


@torch.no_grad()
def test_a_stopped_pass_computes_nothing_behind_the_last_layer_read(model):
    ran = []
    handles = [
        layer.mlp.register_forward_hook(lambda *_, at=at: ran.append(at))
        for at, layer in enumerate(model.layers)
    ]
    with attention_of(model, collector(layers=(0, 1)), stop=True) as seen:
        model(**given())
        pytest.fail("the pass went on")
    with prefix_of(model, (0,)):
        model(**given())
        pytest.fail("the pass went on")
    assert ran == [0]
    assert_same(seen.total, sum(eager(model, given())[:2]))
    for handle in handles:
        handle.remove()


def llama() -> torch.nn.Module:
    return LlamaModel(LlamaConfig(**SHAPE)).eval()


@torch.no_grad()
def test_a_cache_that_drops_keys_is_refused():
    model = MODELS["mistral, sliding"]().eval()
    with (
        pytest.raises(
            ValueError, match="drops keys that left a sliding window; pass a plain Dynamic"
        ),
        attention_of(model, collector()),
    ):
        model(**given(), past_key_values=DynamicCache(config=model.config), use_cache=True)


@torch.no_grad()
def test_attention_sinks_are_refused():
    sinks = GptOssModel(
        GptOssConfig(**SHAPE, head_dim=8, num_local_experts=2, num_experts_per_tok=1)
    ).eval()
    with (
        pytest.raises(NotImplementedError, match="layer 0: attention with s_aux cannot be read"),
        attention_of(sinks, collector()),
    ):
        sinks(**given())


@torch.no_grad()
def test_attention_to_the_future_without_a_mask_is_refused():
    model = llama()
    for layer in model.layers:
        layer.self_attn.is_causal = False
    with (
        pytest.raises(NotImplementedError, match="layer 0: attention with neither a mask nor caus"),
        attention_of(model, collector()),
    ):
        model(**given(padded=False))


@pytest.mark.parametrize(
    ("layers", "message"),
    [((0, 3, 9), r"layers \[3, 9\]: the model has layers 0 to 2"), ((), r"layers \[\]: the model")],
)
def test_layers_that_do_not_exist_are_refused(layers, message):
    with pytest.raises(ValueError, match=message), attention_of(llama(), collector(layers=layers)):
        pass


@torch.no_grad()
def test_an_autocast_region_does_not_round_the_metric():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 7, 8, generator=generator).bfloat16()
    key = torch.randn(2, 2, 11, 8, generator=generator).bfloat16()
    image = torch.arange(5).expand(2, -1)
    bias = torch.zeros(1, 1, 7, 11)
    wanted = image_shares(query, key, bias, image, scale=0.7, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        found = image_shares(query, key, bias, image, scale=0.7)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_on_a_gpu_shares_are_those_of_float64(dtype):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 6, 37, 64, generator=generator).to("cuda", dtype)
    key = torch.randn(3, 2, 101, 64, generator=generator).to("cuda", dtype)
    bias = torch.zeros(1, 1, 37, 101, device="cuda")
    image = torch.arange(5, 65, device="cuda").expand(3, -1)
    wanted = image_shares(query, key, bias, image, scale=0.5, dtype=torch.float64)
    found = image_shares(query, key, bias, image, scale=0.5)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-7)
