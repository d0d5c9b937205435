"""A fit is the same however it is computed, and stops at once where it would learn nothing."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from lightning.fabric import connector
from torch import nn
from toy import HARDWARE, RECIPE, ROWS, TEXT_ONLY, Toy, losses
from transformers import AttentionInterface

from xmas.cli.config import build
from xmas.evaluation.generation.settings import Generation
from xmas.models import varlen_attention
from xmas.models.answer_loss import answer_loss
from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.labels import IGNORED
from xmas.models.chat.packing import pack, positions
from xmas.models.chat.tokens import TokenTable
from xmas.models.cpu_matmul import by_onednn
from xmas.models.vision_cache import features_of
from xmas.models.vlm import LoadedModel, freeze_tower, hidden_states, language_model, load, tower
from xmas.store import describe, digest
from xmas.store.atomic import former_of
from xmas.store.checkpoint import save_checkpoint, saved_state
from xmas.training.fit.batch_plan import BatchPlan, microbatches_per_rank, plan_batches
from xmas.training.fit.module import FitModule
from xmas.training.fit.recipe import PRECISIONS, Hardware, Recipe
from xmas.training.fit.sanity import advice
from xmas.training.fit.speed import configured
from xmas.training.fit.trainables import Lora, with_lora
from xmas.training.fit.trainer import fit

Curve = list[dict[str, float]]
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def table(toy: Toy) -> TokenTable:
    return toy.proxy.tokens().open(toy.store)


@pytest.fixture
def parts(toy: Toy) -> LoadedModel:
    return load(toy.store.get(toy.start))


@pytest.fixture(scope="module")
def fitted(toy: Toy, table: TokenTable, tmp_path_factory) -> Callable[..., tuple[Curve, Weights]]:
    """Fits LoRA on the toy; gives the loss curve and what was trained."""

    def make(
        *,
        recipe: Recipe = RECIPE,
        dropout: float = 0.3,
        pictures: Any = None,
        read: TokenTable = table,
        **hardware: Any,
    ) -> tuple[Curve, Weights]:
        parts = load(toy.store.get(toy.start))
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = with_lora(parts.model, Lora(4, 8, dropout=dropout))
        out = tmp_path_factory.mktemp("fit")
        fit(
            model, read, np.arange(ROWS), pictures or toy.vision.pictures(toy.store),
            recipe=recipe, hardware=dataclasses.replace(HARDWARE, **hardware), seed=0, out=out,
            label="fit", pad=parts.tokenizer.pad_token_id,
        )  # fmt: skip
        trained = {
            name: weight.detach()
            for name, weight in model.named_parameters()
            if weight.requires_grad
        }
        return losses(out), trained

    return make


@pytest.fixture(scope="module")
def plain(fitted) -> tuple[Curve, Weights]:
    return fitted()


@pytest.fixture(scope="module")
def without_dropout(fitted) -> tuple[Curve, Weights]:
    return fitted(dropout=0.0)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_recomputation_changes_no_bit(fitted, plain, share):
    curve, trained = fitted(checkpointing=share)
    assert curve == plain[0]
    assert all(torch.equal(trained[name], weight) for name, weight in plain[1].items())


@pytest.mark.parametrize(
    "hardware",
    [
        {"logit_rows": 3},
        {"packing": True},
        {"packing": True, "checkpointing": 1.0, "logit_rows": 5},
        {"attention": "eager"},
        pytest.param(
            {"compile": "eager", "packing": True},
            marks=pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),  # torch's
        ),
    ],
    ids=str,
)
def test_the_loss_is_the_same_however_it_is_computed(fitted, without_dropout, hardware):
    """Without dropout: what is drawn for a packed batch has another shape."""
    (curve, trained), (expected, weights) = fitted(dropout=0.0, **hardware), without_dropout
    assert len(curve) == 6
    for mine, theirs in zip(curve, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    moved = {name: weight for name, weight in weights.items() if "lora_B" in name}  # zero at first
    for name, weight in moved.items():
        scale = float(weight.abs().max())
        torch.testing.assert_close(trained[name] / scale, weight / scale, rtol=0, atol=0.02)


def test_a_fit_in_bfloat16_runs_packed(fitted):
    recipe = dataclasses.replace(RECIPE, precision="bf16-mixed", token_mean="step", clip=1.0)
    curve, trained = fitted(recipe=recipe, packing=True, checkpointing=1.0, logit_rows=5)
    assert np.isfinite([row["loss"] for row in curve]).all()
    assert {weight.dtype for weight in trained.values()} == {torch.float32}


def test_tasks_of_a_slurm_job_are_no_ranks(fitted, plain, tmp_path, monkeypatch):
    """Lightning would see four of them, and warn where srun is there and was not used."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name, value in {"NTASKS": "4", "JOB_NAME": "xmas", "JOB_ID": "7", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    curve, _ = fitted()
    assert curve == plain[0]


def batch_of(toy: Toy, table: TokenTable, parts: LoadedModel, rows: list[int]) -> Batch:
    loader = Loader(
        table,
        [np.array(rows)],
        image_token=parts.model.config.image_token_id,
        pad=parts.tokenizer.pad_token_id,
        pictures=toy.vision.pictures(toy.store),
    )
    return next(iter(loader))


def test_a_batch_is_packed_by_hand():
    batch = Batch(
        rows=np.array([4, 7]),
        ids=torch.tensor([[1, 9, 9, 5, 6], [2, 3, 0, 0, 0]]),
        mask=torch.tensor([[True] * 5, [True, True, False, False, False]]),
        labels=torch.tensor([[-100, -100, -100, 5, 6], [2, 3, -100, -100, -100]]),
        image_start=torch.tensor([1, -1]),
        image_length=torch.tensor([2, 0]),
        pictures={},
    )
    packed = pack(batch)
    assert packed.ids.tolist() == [[1, 9, 9, 5, 6, 2, 3]]
    assert packed.labels.tolist() == [[IGNORED, IGNORED, IGNORED, 5, 6, IGNORED, 3]]
    assert packed.lengths.tolist() == [5, 2]
    assert packed.image_start.tolist() == [1, -1]
    assert packed.mask.all()
    assert positions(packed.lengths).tolist() == [0, 1, 2, 3, 4, 0, 1]
    turned = pack(dataclasses.replace(batch, **{name: getattr(batch, name).flip(0) for name in
        ("ids", "mask", "labels", "image_start")}))  # fmt: skip
    assert turned.image_start.tolist() == [-1, 3]
    filled = pack(batch, multiple=5, pad=8)
    assert filled.ids.tolist() == [[1, 9, 9, 5, 6, 2, 3, 8, 8, 8]]
    assert filled.labels.tolist() == [[*packed.labels[0].tolist(), *[IGNORED] * 3]]
    assert filled.lengths.tolist() == [5, 2, 3]
    assert filled.mask.shape == (1, 10)
    assert filled.mask.all()
    assert filled.image_start.tolist() == [1, -1]
    assert pack(batch, multiple=7, pad=8).ids.tolist() == packed.ids.tolist()


@pytest.mark.parametrize(("groups", "scale"), [(6, None), (2, 0.3)])
def test_attention_by_mkl_is_torch_s_with_its_gradients(groups, scale):
    """Compared with the mathematics of it, also where heads share keys."""
    rng = torch.Generator().manual_seed(0)
    whole = [
        torch.randn(3, heads, 11, 8, generator=rng, requires_grad=True)
        for heads in (6, groups, groups)
    ]
    weights = torch.randn(3, 11, 6, 8, generator=rng)
    query, key, value = whole
    with by_onednn():
        by_mkl = varlen_attention._causal(nn.Module(), query, key, value, scaling=scale)
        by_mkl_gradients = torch.autograd.grad((by_mkl * weights).sum(), whole)
    logits = (
        query @ key.repeat_interleave(6 // groups, 1).mT * (8**-0.5 if scale is None else scale)
    )
    shares = logits.masked_fill(torch.ones(11, 11).triu(1).bool(), -torch.inf).softmax(-1)
    plain = (shares @ value.repeat_interleave(6 // groups, 1)).transpose(1, 2)
    torch.testing.assert_close(by_mkl, plain, rtol=1e-5, atol=1e-5)
    for one, other in zip(
        by_mkl_gradients, torch.autograd.grad((plain * weights).sum(), whole), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.fixture
def one_call_up_to() -> Iterator[Callable[[int], None]]:
    """Packed rows of up to this many tokens are one call of attention, however padded."""
    name, attend = varlen_attention.NAME, varlen_attention.attend
    yield lambda short: AttentionInterface.register(
        name, functools.partial(attend, short=short, padded=10.0)
    )
    AttentionInterface.register(name, attend)


@torch.no_grad()
@pytest.mark.parametrize("short", [0, 10**6])
def test_packed_rows_do_not_see_each_other(toy, table, parts, one_call_up_to, short):
    """As a call each and as one call."""
    one_call_up_to(short)
    rows = [0, 3, 2, 16]
    together = pack(batch_of(toy, table, parts, rows))
    with configured(parts.model, Hardware(packing=True)):

        def hidden(batch: Batch, lengths: torch.Tensor) -> torch.Tensor:
            return hidden_states(
                parts.model, batch.ids, batch.mask, features_of(parts.model, batch),
                lengths=lengths,
            )[0]  # fmt: skip

        singles = [pack(batch_of(toy, table, parts, [row])) for row in rows]
        alone = torch.cat([hidden(single, single.lengths) for single in singles])
        hidden_together = hidden(together, together.lengths)
        torch.testing.assert_close(hidden_together, alone, rtol=1e-5, atol=1e-5)
        across = hidden(together, together.lengths.sum()[None])
        assert not torch.allclose(across, hidden_together, atol=1e-2)


def test_rows_in_one_call_have_the_gradients_of_a_call_each(
    toy, table, parts, one_call_up_to, monkeypatch
):
    freeze_tower(parts.model)
    batch = pack(batch_of(toy, table, parts, [0, 3, 2, 16]))
    calls, gradients = [], []
    attend = varlen_attention._causal
    monkeypatch.setattr(
        varlen_attention,
        "_causal",
        lambda *given, **more: calls.append(given[1].shape) or
        attend(*given, **more),
    )  # fmt: skip
    with configured(parts.model, Hardware(packing=True)):
        for short in (0, 10**6):
            one_call_up_to(short)
            parts.model.zero_grad()
            answer_loss(
                parts.model, batch.ids, batch.mask, batch.labels, features_of(parts.model, batch),
                lengths=batch.lengths,
            ).backward()  # fmt: skip
            gradients.append(
                [weight.grad.clone() for weight in parts.model.parameters() if weight.requires_grad]
            )
    layers = parts.model.config.text_config.num_hidden_layers
    assert [len(shape) for shape in calls] == [4] * (4 * layers + layers)
    assert {shape[0] for shape in calls[: 4 * layers]} == {1}
    assert {(shape[0], shape[2]) for shape in calls[4 * layers :]} == {
        (4, int(batch.lengths.max()))
    }
    for apart, joined in zip(*gradients, strict=True):
        torch.testing.assert_close(apart, joined, rtol=1e-4, atol=1e-6)


def test_logits_exist_in_parts_only_and_give_the_same_gradients(toy, table, parts):
    freeze_tower(parts.model)
    batch = batch_of(toy, table, parts, [0, 3, 2, 16])
    sizes: list[int] = []
    parts.model.lm_head.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))

    def gradients(logit_rows: int | None) -> tuple[float, Weights]:
        parts.model.zero_grad()
        loss = answer_loss(
            parts.model, batch.ids, batch.mask, batch.labels, features_of(parts.model, batch),
            logit_rows=logit_rows,
        )  # fmt: skip
        loss.backward()
        named = parts.model.named_parameters()
        return loss.item(), {
            name: weight.grad.clone() for name, weight in named if weight.requires_grad
        }

    loss, expected = gradients(None)
    answers = sizes.pop()
    assert answers > 21
    parted_loss, parted = gradients(7)
    assert parted_loss == pytest.approx(loss, rel=1e-6)
    assert len(sizes) == 2 * -(-answers // 7)  # and once more on the way back
    assert max(sizes) == 7
    for name, gradient in expected.items():
        torch.testing.assert_close(parted[name], gradient, rtol=1e-4, atol=1e-6)


def test_only_blocks_of_the_language_model_are_recomputed_and_all_is_undone(parts):
    language: Any = language_model(parts.model)
    before = language.config._attn_implementation
    hardware = Hardware(checkpointing=0.5, packing=True, compile="eager")
    with configured(parts.model, hardware):
        assert [module.gradient_checkpointing for module in language.layers] == [True, False]
        assert language.config._attn_implementation == "xmas_packed"
        assert all(module._compiled_call_impl is not None for module in language.layers)
        looking = [module for module in tower(parts.model).modules() if hasattr(module, "layers")]
        assert looking
        assert not any(module.gradient_checkpointing for own in looking for module in own.layers)
        assert not parts.model.get_input_embeddings()._forward_hooks
    assert not any(module.gradient_checkpointing for module in language.layers)
    assert not any(module._compiled_call_impl for module in language.layers)
    assert language.config._attn_implementation == before


def test_a_model_whose_attention_slides_is_not_packed(parts):
    language_model(parts.model).config.layer_types = ["sliding_attention", "full_attention"]
    with (
        pytest.raises(ValueError, match="sliding_attention cannot be packed"),
        configured(parts.model, Hardware(packing=True)),
    ):
        pass


def test_attention_that_sees_across_rows_is_refused(parts):
    with (
        pytest.raises(ValueError, match="'eager' does not keep packed rows apart"),
        configured(parts.model, Hardware(packing=True, attention="eager")),
    ):
        pass


def test_micro_batches_go_to_ranks_in_turn_and_the_rest_weighs_nothing():
    batches = [np.array([number]) for number in range(5)]
    whole = BatchPlan(batches, [1.0] * 5)
    shares = [whole.share(rank, 3) for rank in range(3)]
    assert [[int(batch[0]) for batch in share.batches] for share in shares] == [
        [0, 3],
        [1, 4],
        [2, 4],
    ]
    assert [share.weights for share in shares] == [[1, 1], [1, 1], [1, 0]]
    assert whole.share(0, 1) == whole


def test_the_mean_of_a_step_weighs_micro_batches_by_their_answers(table):
    recipe = dataclasses.replace(RECIPE, token_mean="step")
    plan = plan_batches(table, np.arange(ROWS), recipe, seed=0)
    order = plan_batches(table, np.arange(ROWS), RECIPE, seed=0)
    assert all(np.array_equal(*two) for two in zip(plan.batches, order.batches, strict=True))
    assert order.weights == [1.0] * 11
    counts = [sum(table.answers(int(row)) for row in batch) for batch in plan.batches]
    for start in range(0, 11, 2):
        step = counts[start : start + 2]
        expected = [2 * count / sum(step) for count in step]
        assert plan.weights[start : start + 2] == pytest.approx(expected)
    assert plan.weights[10] == 2  # alone in a step of two


def without_labels(table: TokenTable, rows: Any) -> TokenTable:
    masked: Any = TokenTable.__new__(TokenTable)
    masked.__dict__ |= vars(table) | {"_labelled": table._labelled.copy()}
    for row in rows:
        masked._labelled[table.offsets[row] : table.offsets[row + 1]] = False
    return masked


@pytest.mark.parametrize("mean", ["micro_batch", "step"])
@pytest.mark.parametrize("packing", [False, True])
def test_micro_batches_without_a_label_weigh_nothing(
    toy, table, parts, fitted, caplog, mean, packing
):
    """The second, alone in the first step, and both of the fourth."""
    recipe = dataclasses.replace(RECIPE, token_mean=mean)
    batches = plan_batches(table, np.arange(ROWS), recipe, seed=0).batches
    masked = without_labels(table, np.concatenate([batches[at] for at in (1, 6, 7)]))
    weights = plan_batches(masked, np.arange(ROWS), recipe, seed=0).weights
    assert [at for at, weight in enumerate(weights) if not weight] == [1, 6, 7]
    assert weights[0] == (1 if mean == "micro_batch" else 2)
    curve, trained = fitted(recipe=recipe, dropout=0.0, read=masked, packing=packing)
    assert "3 of 11 microbatches have no labelled token, the first is 1, rows" in caplog.text
    assert all(bool(torch.isfinite(weight).all()) for weight in trained.values())
    assert [row["step"] for row in curve] == [1, 2, 3, 4, 5, 6]
    assert [row["answer_tokens"] == row["loss"] == 0 for row in curve].index(True) == 3
    batch = batch_of(toy, table, parts, batches[0].tolist())
    with torch.no_grad():
        features = features_of(parts.model, batch)
        alone = answer_loss(parts.model, batch.ids, batch.mask, batch.labels, features)
    assert curve[0]["loss"] == pytest.approx(alone.item(), rel=1e-4)
    assert curve[0]["answer_tokens"] == sum(table.answers(int(row)) for row in batches[0])


def test_the_answers_of_a_row_are_those_that_the_loss_counts(toy, table, parts):
    for row in (*range(5), *TEXT_ONLY):
        batch = batch_of(toy, table, parts, [row])
        assert table.answers(row) == int((batch.labels[:, 1:] != IGNORED).sum())


def test_a_batch_that_devices_cannot_share_is_refused():
    assert microbatches_per_rank(Recipe(batch=128, micro_batch=16), 8) == 1
    with pytest.raises(ValueError, match=r"8 microbatches of 16, which 3 devices"):
        microbatches_per_rank(Recipe(batch=128, micro_batch=16), 3)
    with pytest.raises(ValueError, match="micro_batch to a divisor of 8"):
        microbatches_per_rank(Recipe(batch=128, micro_batch=16), 16)
    with pytest.raises(ValueError, match="token_mean 'row' is none of micro_batch, step"):
        Recipe(token_mean="row")


@pytest.mark.parametrize(
    ("short", "name"),
    [(32, "32-true"), ("32", "32-true"), (16, "16-mixed"), ("bf16", "bf16-mixed"), (64, "64-true")],
)
def test_lightning_s_short_names_of_precisions_are_the_same_recipe(short, name):
    """As Lightning itself converts them."""
    assert Recipe(precision=short) == Recipe(precision=name)
    assert digest(describe(Recipe(precision=short))) == digest(describe(Recipe(precision=name)))
    assert connector._PRECISION_INPUT_STR_ALIAS_CONVERSION[str(short)] == name
    assert set(PRECISIONS) == set(get_args(connector._PRECISION_INPUT_STR))


def test_other_precisions_are_refused(compose):
    with pytest.raises(ValueError, match="precision 'fp32' is none of bf16-mixed, 16-mixed,"):
        Recipe(precision="fp32")
    with pytest.raises(ValueError, match=r"generation.precision='half': expected one of float16,"):
        Generation(precision="half")
    cfg = compose("proxy.recipe.precision=32", "generation.precision=16")
    assert build(cfg.proxy.recipe).precision == "32-true"
    assert build(cfg.generation).precision == "float16"


def test_a_run_without_labels_stops_before_it_starts(toy, table, tmp_path, parts):
    first = np.concatenate(plan_batches(table, np.arange(ROWS), RECIPE, seed=0).batches[:8])
    for rows in (first, np.arange(ROWS)):
        with pytest.raises(ValueError, match=r"first 8 microbatches is labelled.*template"):
            fit_on(without_labels(table, rows), toy, parts, tmp_path)
    blind: Any = TokenTable.__new__(TokenTable)
    blind.__dict__ |= vars(table) | {"image_at": np.full(ROWS, -1, dtype=np.int32)}
    with pytest.raises(ValueError, match="none of the pool's 41 rows has an image"):
        fit_on(blind, toy, parts, tmp_path)
    with pytest.raises(ValueError, match="no row to train on"):
        fit_on(table, toy, parts, tmp_path, rows=0)


def fit_on(table, toy, parts, out, rows: int = ROWS, pictures: Any = None) -> None:
    freeze_tower(parts.model)
    fit(
        parts.model, table, np.arange(rows), pictures or toy.vision.pictures(toy.store),
        recipe=RECIPE, hardware=HARDWARE, seed=0, out=out, label="fit",
        pad=parts.tokenizer.pad_token_id,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, r"pictures of rows \[\d.* are one flat value"), (torch.nan, "rows .* are not finite")],
)
def test_a_run_whose_images_show_nothing_stops_at_its_first_batch(
    toy, table, parts, tmp_path, value, said
):
    whole = toy.vision.pictures(toy.store)

    def flat(rows: list[int]) -> dict[str, torch.Tensor]:
        return {name: torch.full_like(pixels, value) for name, pixels in whole(rows).items()}

    with pytest.raises(ValueError, match=said):
        fit_on(table, toy, parts, tmp_path, pictures=flat)


def test_a_loss_far_above_guessing_stops_the_run(toy, table, parts, tmp_path):
    with torch.no_grad():
        parts.model.lm_head.weight.mul_(30)
    with pytest.raises(ValueError, match=r"first 1 microbatches is \d+.* guessing \(6\.1"):
        fit_on(table, toy, parts, tmp_path)


def test_too_little_memory_names_the_settings_to_change(fitted, monkeypatch):
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(FitModule, "training_step", full)
    with pytest.raises(MemoryError, match=r"(?s)logit_rows=1024.*checkpointing=1.*micro_batch=2"):
        fitted()
    every = Hardware(packing=True, checkpointing=1, logit_rows=1, strategy="fsdp2")
    assert "hardware" not in advice(Recipe(micro_batch=1), every)
    assert "the same loss" in advice(Recipe(token_mean="step"), every)


def test_another_error_is_not_taken_for_one_of_memory(fitted, monkeypatch):
    def wrong(*_: Any) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(FitModule, "training_step", wrong)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fitted()


def test_a_checkpoint_may_be_a_folder(tmp_path: Path):
    """Of several files, whose names may differ from one checkpoint to the next."""
    checkpoint = tmp_path / "last.ckpt"

    def write(text: str) -> Callable[[Path], object]:
        def fill(path: Path) -> None:
            path.mkdir()
            (path / text).touch()

        return fill

    def ranks() -> list[str]:
        state = saved_state(tmp_path)
        assert state is not None
        return [file.name for file in state.iterdir()]

    assert saved_state(tmp_path) is None
    for text in ("one", "two"):
        save_checkpoint(tmp_path, write(text))
        assert ranks() == [text]
    checkpoint.rename(former_of(checkpoint))  # killed between two renames
    assert ranks() == ["two"]
    save_checkpoint(tmp_path, write("three"))
    assert ranks() == ["three"]
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
