"""Peak bytes of a fit against those of `goal=estimate`, on a device that counts every byte.

Compared is `xmas.training.fit.memory`: weights, gradients, moments, activations, logits. Here
attention is no flash kernel, its weights (rows x heads x tokens^2) exist, so the model has one
head. The estimate's sum is that of accumulation: moments, gradients of the first microbatch and
activations of the second exist at once.
"""

import copy

import pytest
import torch
from toy import Toy
from transformers import LlavaForConditionalGeneration

from emulated.fits import ROWS, fit_model, recipe
from emulated.gpu import Gpu
from xmas.models.chat.tokens import TokenTable
from xmas.models.shape import Shape
from xmas.models.vlm import LoadedModel, load
from xmas.training.fit.batch_plan import plan_batches
from xmas.training.fit.memory import FitMemory, states
from xmas.training.fit.recipe import Recipe
from xmas.training.fit.trainables import Lora

RANK = 16


@pytest.fixture(scope="module")
def larger(toy: Toy) -> LoadedModel:
    """The toy with a language model in which blocks outweigh what an estimate leaves out."""
    loaded = load(toy.store.get(toy.start))
    config = copy.deepcopy(loaded.model.config)
    config.text_config.update(
        {
            "hidden_size": 256,
            "intermediate_size": 688,
            "num_hidden_layers": 4,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_dim": 256,
        }
    )
    torch.manual_seed(0)
    return LoadedModel(LlavaForConditionalGeneration(config), loaded.tokenizer, loaded.processor)


def largest(table: TokenTable, chosen: Recipe) -> tuple[int, int]:
    """Tokens and answer tokens of the largest microbatch."""
    batches = plan_batches(table, ROWS, chosen, 0).batches
    return max(
        (int(table.lengths[batch].sum()), sum(table.answers(int(row)) for row in batch))
        for batch in batches
    )


@pytest.mark.parametrize(
    ("lora", "precision"),
    [
        (Lora(RANK, RANK), "bf16-mixed"),
        (Lora(RANK, RANK), "32-true"),
        (None, "bf16-mixed"),
        (None, "32-true"),
    ],
    ids=["lora, bf16", "lora, float32", "full, bf16", "full, float32"],
)
@pytest.mark.parametrize("checkpointing", [0.0, 1.0])
def test_a_fit_takes_what_the_estimate_says(
    toy: Toy, gpu: Gpu, larger: LoadedModel, tmp_path, lora, precision, checkpointing
):
    chosen = recipe(precision=precision, batch=len(ROWS), micro_batch=len(ROWS) // 2, epochs=2)
    table = toy.proxy.tokens().open(toy.store)
    with gpu.counting() as counted:
        fit_model(
            toy, tmp_path, copy.deepcopy(larger), recipe=chosen, lora=lora,
            checkpointing=checkpointing, packing=True,
        )  # fmt: skip
    tokens, answers = largest(table, chosen)
    shape = Shape.of(larger.model.config)
    bits, rank = 32 if precision == "32-true" else 16, RANK if lora else None
    weights = states(shape, bits=bits, rank=rank, halved=True)
    blocks = round(checkpointing * shape.decoder.layers)
    expected = FitMemory(shape.decoder, weights, bits, rank).peak(tokens, answers, blocks)
    assert counted.peak == pytest.approx(expected, rel=0.15)
