"""The formulas: equal to what torch counts on small models, and to what others derived."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    Idefics3Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
    SiglipVisionConfig,
    StableLmConfig,
)

from xmas.estimate import flops
from xmas.estimate.flops import Load
from xmas.models.answer_loss import answer_loss
from xmas.models.chat.labels import IGNORED
from xmas.models.families import family_of
from xmas.models.shape import (
    CLIP_L_336,
    LLAVA_15_7B,
    STABLELM_1_6B,
    TINYLLAVA,
    VICUNA_7B,
    Decoder,
    Shape,
    Tower,
)
from xmas.models.vlm import tower_features
from xmas.training.fit import memory
from xmas.training.fit.memory import FitMemory
from xmas.training.fit.recipe import Hardware
from xmas.training.fit.speed import configured
from xmas.training.fit.trainables import Lora, with_lora
from xmas.training.starts.towers import contrastive

ROWS, LENGTH, ANSWERS, PATCHES = 3, 71, 11, 49
IMAGE = 210  # the image token
LOAD = Load(ROWS, ROWS * LENGTH, ROWS * LENGTH**2, ROWS * ANSWERS, ROWS)
TEXT = {
    "vocab_size": 211, "hidden_size": 104, "intermediate_size": 173, "num_hidden_layers": 3,
    "num_attention_heads": 4,
}  # fmt: skip
TEXTS = {
    "llama": LlamaConfig(**TEXT, num_key_value_heads=2, head_dim=22),
    "tied": LlamaConfig(**TEXT, num_key_value_heads=4, head_dim=22, tie_word_embeddings=True),
    "phi": PhiConfig(**TEXT, num_key_value_heads=4, partial_rotary_factor=0.25),
    "stablelm": StableLmConfig(**TEXT, num_key_value_heads=1, partial_rotary_factor=0.25),
}  # partial rotation needs an even number of dimensions


def shape_of(config: PreTrainedConfig, **options: Any) -> Shape:
    return family_of(config).shape(config, **options)


def small(text: str = "llama") -> LlavaForConditionalGeneration:
    """A LLaVA of prime sizes with unfused attention, which is what torch counts."""
    vision = CLIPVisionConfig(
        hidden_size=52, intermediate_size=107, num_hidden_layers=5, num_attention_heads=4,
        image_size=77, patch_size=11,
    )  # fmt: skip
    config = LlavaConfig(
        text_config=TEXTS[text],
        vision_config=vision,
        image_token_index=IMAGE,
        image_seq_length=PATCHES,
        vision_feature_layer=-1,
        tie_word_embeddings=TEXTS[text].tie_word_embeddings,
    )
    model = LlavaForConditionalGeneration(config)
    model.set_attn_implementation("eager")
    model.model.vision_tower.requires_grad_(False)
    return model


def counted(work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def loss(model: nn.Module) -> torch.Tensor:
    ids = torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) % 199
    ids[:, 2 : 2 + PATCHES] = IMAGE
    labels = torch.where(torch.arange(LENGTH) >= LENGTH - ANSWERS, ids, IGNORED)
    mask = torch.ones_like(ids, dtype=torch.bool)
    return answer_loss(model, ids, mask, labels, tower_features(model, torch.ones(ROWS, 3, 77, 77)))


# --- counted ---


@pytest.mark.parametrize("text", TEXTS)
def test_a_forward_pass_is_what_torch_counts(text):
    model = small(text)
    with torch.no_grad():
        measured = counted(lambda: loss(model))
    shape = shape_of(model.config)
    assert flops.forward(shape, LOAD, towers=ROWS, fused=False) == pytest.approx(
        measured, rel=0.005
    )


@pytest.mark.parametrize("text", ["llama", "tied", "phi"])
@pytest.mark.parametrize("checkpointing", [0.0, 0.5, 1.0])
def test_a_full_training_step_is_what_torch_counts(text, checkpointing):
    """Half of three blocks is two of them."""
    model = small(text).train()
    with configured(model, Hardware(checkpointing=checkpointing)):
        measured = counted(lambda: loss(model).backward())
    formula = flops.fit(
        shape_of(model.config), LOAD, towers=ROWS, checkpointing=checkpointing, fused=False
    )
    assert formula == pytest.approx(measured, rel=0.005)


@pytest.mark.parametrize("checkpointing", [0.0, 0.5, 1.0])
def test_a_training_step_with_lora_is_what_torch_counts(checkpointing):
    model = small()
    adapted = with_lora(model, Lora(rank=7, alpha=14, dropout=0.0)).train()
    shape = shape_of(model.config)
    with configured(adapted, Hardware(checkpointing=checkpointing)):
        measured = counted(lambda: loss(adapted).backward())
    formula = flops.fit(shape, LOAD, towers=ROWS, rank=7, checkpointing=checkpointing, fused=False)
    assert formula == pytest.approx(measured, rel=0.005)


def test_cached_features_cost_no_tower():
    model = small()
    shape = shape_of(model.config)
    with torch.no_grad():
        measured = counted(lambda: tower_features(model, torch.ones(ROWS, 3, 77, 77)))
    cost = [flops.fit(shape, LOAD, towers=images) for images in (0, ROWS)]
    assert cost[1] - cost[0] == pytest.approx(measured, rel=0.005)


def test_answering_is_what_torch_counts():
    model = small().eval()
    ids, new = torch.ones(ROWS, LENGTH, dtype=torch.long), 5
    shape = shape_of(model.config)

    @torch.no_grad()
    def answer():
        outputs = model.model.language_model(input_ids=ids, use_cache=True)
        model.lm_head(outputs.last_hidden_state[:, -1])
        for _ in range(new):
            outputs = model.model.language_model(
                input_ids=ids[:, :1], past_key_values=outputs.past_key_values, use_cache=True
            )
            model.lm_head(outputs.last_hidden_state[:, -1])

    prompts = Load(ROWS, LOAD.tokens, LOAD.squares)
    formula = flops.generation(shape, prompts, towers=0, new=new, fused=False)
    assert formula == pytest.approx(counted(answer), rel=0.01)  # the new keys are left out


def test_a_scan_is_a_forward_pass_without_its_end_and_the_metric():
    config = TEXTS["llama"]
    model = small().model.language_model
    decoder = Decoder.of(config)
    layer, text = model.layers[-1], LENGTH - PATCHES - 2
    hidden = torch.ones(ROWS, LENGTH, config.hidden_size)

    @torch.no_grad()
    def measure():
        for block in model.layers[:-1]:
            block(
                hidden, position_embeddings=(torch.ones(1, LENGTH, 22), torch.zeros(1, LENGTH, 22))
            )
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            projection(hidden)
        for _ in model.layers:
            torch.ones(ROWS, 4, text, 22) @ torch.ones(ROWS, 4, 22, LENGTH)

    load = dataclasses.replace(LOAD, cross=ROWS * text * LENGTH)
    assert flops.scan(decoder, load, fused=False) == counted(measure)


def test_training_two_towers_is_what_torch_counts():
    batch, length, vocabulary, width = 13, 17, 211, 64
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "projection_dim": width}
    config = CLIPConfig(
        vision_config={**shape, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 35,
                       "patch_size": 5},
        text_config={**shape, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "vocab_size": vocabulary, "max_position_embeddings": length,
                     "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0},
        projection_dim=width,
    )  # fmt: skip
    model, head = CLIPModel(config), nn.Linear(width, vocabulary)
    model.set_attn_implementation("eager")
    ids = torch.full((batch, length), 2)

    def step():
        outputs = model(input_ids=ids, pixel_values=torch.ones(batch, 3, 35, 35))
        logits = head(outputs.vision_model_output.last_hidden_state[:, 1:].mean(dim=1))
        positive = torch.eye(batch, dtype=torch.bool)
        (contrastive(outputs.logits_per_image, positive) + logits.sum()).backward()

    formula = flops.two_towers(
        Tower(3, width, 4 * width, 49, 5),
        Tower(1, width, 4 * width, length, 0, class_token=False),
        pictures=batch,
        batch=batch,
        vocabulary=vocabulary,
    )
    assert formula == pytest.approx(counted(step), rel=0.02)


# --- by hand ---


def test_a_decoder_by_hand():
    decoder = Decoder(
        layers=2, width=3, heads=5, groups=1, head_dim=7, feed_forward=11, vocabulary=13
    )
    assert decoder.linear == 2 * (3 * 35 + 2 * 3 * 7 + 35 * 3 + 3 * 3 * 11)
    assert decoder.lora(2) == 2 * 2 * ((3 + 35) + 2 * (3 + 7) + (35 + 3) + 3 * (3 + 11))
    assert flops.head(decoder, 17) == 2 * 3 * 13 * 17
    assert flops.attention(decoder, 19, fused=False) == 2 * 2 * 5 * 7 * 19 * 2
    assert flops.attention(decoder, 19) == 2 * 5 * 7 * 19 * 2


def test_a_shared_prefix_is_counted_once_an_image():
    """Three rows of 10 tokens, 4 of them an image's, all of one image: 10 + 6 + 6."""
    alone = Load(rows=3, tokens=30, squares=300, images=3)
    shared = alone.sharing(4, rows_per_image=3)
    assert shared.tokens == pytest.approx(22)
    assert shared.squares == pytest.approx(100 + 2 * (100 - 16))
    assert alone.sharing(4, rows_per_image=1) == alone


def test_clusters_and_spectra_by_hand():
    assert flops.kmeans(7, 3, 5, iterations=2) == 2 * 7 * 3 * 5 * 3
    cost = flops.spectra(np.array([2.0, 11.0]), columns=5)
    assert cost == pytest.approx(2 * 2 * 5 * 2 + 4 / 3 * 8 + 2 * 11 * 5 * 5 + 4 / 3 * 125)


# --- shapes ---


def test_parameters_are_those_of_the_model():
    for text in ("llama", "tied"):
        model = small(text)
        assert shape_of(model.config).parameters == sum(
            weight.numel() for weight in model.parameters()
        )


@pytest.mark.parametrize(
    "config",
    [
        LlavaOnevisionConfig(
            text_config=Qwen2Config(**TEXT, num_key_value_heads=2),
            vision_config=SiglipVisionConfig(
                hidden_size=52, intermediate_size=107, num_hidden_layers=5,
                num_attention_heads=4, image_size=77, patch_size=11, vision_use_head=False,
            ),
        ),
        Idefics3Config(
            text_config=LlamaConfig(**TEXT, num_key_value_heads=1),
            vision_config={
                "hidden_size": 52, "intermediate_size": 107, "num_hidden_layers": 5,
                "num_attention_heads": 4, "image_size": 66, "patch_size": 11,
            },
            scale_factor=3,
        ),
    ],
    ids=["onevision", "idefics3"],
)  # fmt: skip
def test_shapes_of_other_families_have_their_parameters(config):
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    parameters = sum(weight.numel() for weight in model.parameters())
    assert shape_of(config).parameters == pytest.approx(parameters, rel=0.02)  # biases


def test_image_tokens_are_the_patches_or_what_they_fold_into():
    assert shape_of(small().config).image_tokens == PATCHES
    folded = Idefics3Config(vision_config={"image_size": 66, "patch_size": 11}, scale_factor=3)
    assert shape_of(folded).image_tokens == 4
    assert shape_of(folded, tiles=17).image_tokens == 68
    assert shape_of(folded, tiles=17, image_tokens=71).image_tokens == 71


# --- published, or derived from what is ---


def test_known_models_have_the_sizes_that_are_told_of_them():
    assert VICUNA_7B.lora(128) == 319_815_680  # training.md 1, derived from LLaVA-1.5
    assert LLAVA_15_7B.projector_parameters == 20_979_712  # the same
    assert STABLELM_1_6B.parameters == pytest.approx(1.644e9, rel=0.001)  # xmas.md 3.3
    assert VICUNA_7B.parameters == pytest.approx(6.74e9, rel=0.002)  # published as 7B
    assert CLIP_L_336.parameters == pytest.approx(303.5e6, rel=0.002)  # of the hub's weights


@pytest.mark.parametrize(
    ("text", "clip", "linear", "attention", "head", "hook"),
    [
        (64, 0.382, 1.655, 0.089, 0.276, 0.044),
        (200, 0.382, 1.990, 0.128, 0.332, 0.064),
        (512, 0.382, 2.760, 0.246, 0.460, 0.123),
    ],
)
def test_the_parts_of_a_release_s_scan_are_those_derived_for_it(
    text, clip, linear, attention, head, hook
):
    """xmas.md 9.1, TFLOP: all positions get logits, all rows of the metric, attention unfused."""
    decoder, length = STABLELM_1_6B, text + 607
    parts = [
        flops.tower(TINYLLAVA.tower, 1),
        2.0 * decoder.linear * length,
        flops.attention(decoder, length**2, fused=False),
        flops.head(decoder, length),
        2.0 * decoder.heads * decoder.head_dim * length**2 * decoder.layers,
    ]
    assert np.array(parts) / 1e12 == pytest.approx([clip, linear, attention, head, hook], rel=0.02)
    assert flops.projector(TINYLLAVA, 1) / 1e12 == pytest.approx(0.007, rel=0.05)


def release(length: float) -> float:
    """FLOPs of one example at one checkpoint, as the release computes it, unpadded."""
    decoder = STABLELM_1_6B
    load = Load(1, length, length**2, answers=length, images=1)
    hook = 2.0 * decoder.heads * decoder.head_dim * length**2 * decoder.layers
    return flops.forward(TINYLLAVA, load, towers=1, fused=False) + hook


def test_the_release_s_selection_costs_as_much_as_the_training_it_saves():
    """xmas.md 9.3, derived: 36 TFLOP a row for LoRA on 7B, 10.2 for the proxy, 28 for 7 scans of
    padded batches; 0.28, 0.78, together 1.06. 200 text tokens are assumed there, padded to 522."""
    length, padded = 807.0, 522 + 607.0
    target = flops.fit(
        LLAVA_15_7B, one(length), towers=1, rank=128, checkpointing=True, fused=False
    )
    proxy = flops.fit(TINYLLAVA, one(length), towers=1, checkpointing=True, fused=False)
    scans = 7 * release(padded)
    assert target / 1e12 == pytest.approx(36, rel=0.07)
    assert proxy / 1e12 == pytest.approx(10.2, rel=0.08)
    assert scans / 1e12 == pytest.approx(28, rel=0.05)
    assert (proxy + scans) / target == pytest.approx(1.06, rel=0.07)


def one(length: float) -> Load:
    """A row as both releases train on it: logits at every position."""
    return Load(1, length, length**2, answers=length, images=1)


def test_published_hours_of_selection_are_those_of_a_proxy_and_seven_scans():
    """15.99 hours of an A6000 for 98,572 rows (Data-DPO, table 12) of the lengths above.

    That is the model's cost at 43 % of the peak of 154.8 TFLOP/s, as xmas.md 9.3 derives.
    """
    proxy = flops.fit(TINYLLAVA, one(807.0), towers=1, checkpointing=True, fused=False)
    hours = 98_572 * (proxy + 7 * release(522 + 607.0)) / (154.8e12 * 0.43) / 3600
    assert hours == pytest.approx(15.99, rel=0.1)


def test_snapshots_take_a_fiftieth_of_the_release_s_disk():
    """xmas.md 3.2, derived: 104 checkpoints of 24 GB, optimiser included. Here: 7, float32."""
    ours = 7 * 4 * memory.trained(TINYLLAVA)
    assert ours == pytest.approx(46e9, rel=0.02)
    assert 104 * 24e9 / ours == pytest.approx(54, rel=0.05)


# --- memory ---


@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("sizes", [(92, 4, 2, 22, 173, 3), (256, 8, 2, 32, 704, 5)])
def test_activations_are_what_autograd_keeps(sizes, bits):
    from transformers import LlamaModel

    width, heads, groups, head_dim, feed_forward, layers = sizes
    config = LlamaConfig(
        vocab_size=211, hidden_size=width, intermediate_size=feed_forward,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=groups,
        head_dim=head_dim,
    )  # fmt: skip
    model = LlamaModel(config)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    matrices = [weight.shape for weight in model.parameters() if weight.ndim == 2]
    casts = {*matrices, *[torch.Size(reversed(shape)) for shape in matrices]}  # 16-bit copies
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights and tensor.shape not in casts:
            saved[place] = tensor
        return tensor

    hidden = torch.ones(ROWS, LENGTH, width, requires_grad=True)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bits == 16),
    ):
        out = model(inputs_embeds=hidden, use_cache=False).last_hidden_state
    measured = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    assert out.requires_grad
    formula = FitMemory(Decoder.of(config), 0.0, bits).peak(ROWS * LENGTH, 0, 0)
    assert formula == pytest.approx(measured, rel=0.15)


def test_activations_of_recomputed_blocks_by_hand():
    decoder = Decoder(5, 8, heads=2, groups=1, head_dim=3, feed_forward=11, vocabulary=7)
    assert memory.block(decoder) == 5 * 8 + 3 * 6 + 4 * 3 + 4 * 11 == 114
    shares = {0.0: 5 * 456, 0.5: 2 * 456 + 3 * 32, 0.9: 456 + 5 * 32, 1.0: 456 + 5 * 32}
    kept = FitMemory(decoder, 0.0, bits=32)
    for share, bytes_of_a_token in shares.items():
        recomputed = kept.recomputed(10, 0, share=share, memory=None)
        assert kept.peak(10, 0, recomputed) == 10 * bytes_of_a_token


def test_what_is_trained_is_what_lora_trains():
    model = small()
    shape = shape_of(model.config)
    whole = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert memory.trained(shape) == whole
    adapted = with_lora(model, Lora(rank=7, alpha=14))
    thin = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert memory.trained(shape, 7) == thin


def test_a_full_fit_holds_sixteen_bytes_a_parameter():
    shape = dataclasses.replace(TINYLLAVA, tower=Tower(0, 8, 0, 0, 0, class_token=False))
    size = memory.states(shape, bits=32)
    assert size == pytest.approx(16 * shape.parameters, rel=1e-6)
