"""Influence: gradients of rows, their projection, and the order that a target set gives."""

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from official import ASKED, small_gqa
from torch.nn.functional import cross_entropy
from toy import RECIPE, TEXT_ONLY, Toy, declared, picture_name, recorded, write_rows

from xmas.attention.plan import length_batches, packed_batches
from xmas.cli.validation_audit import audit_what_saw_validation
from xmas.evaluation.benchmarks.gqa import Gqa
from xmas.evaluation.protocol import Question, Scored
from xmas.evaluation.validation_rows import ValidationSets
from xmas.features.influence.gradients import Gradients
from xmas.features.influence.projection import Projected, Signs
from xmas.features.influence.row_gradients import (
    given_to,
    lora_layers,
    rows_of_answers,
    summed_losses,
)
from xmas.features.influence.signs import signs, splitmix64, stream_of
from xmas.models import varlen_attention
from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.labels import IGNORED
from xmas.models.chat.packing import pack
from xmas.models.vision_cache import features_of
from xmas.models.vlm import head_of, hidden_states, language_model, unwrap
from xmas.results.audit import Audit
from xmas.selection.methods.icons import Icons
from xmas.selection.methods.influence import Influence, means
from xmas.selection.methods.random import Random
from xmas.selection.ranking import Ranking
from xmas.selection.rules.votes import by_votes
from xmas.selection.subset import Subset
from xmas.store import Store, describe, key
from xmas.training.fit.trainables import Lora

WIDTH = 71


def test_splitmix64_gives_the_published_sequence():
    """Of seed 1234567, by the C code of its authors (prng.di.unimi.it/splitmix64.c)."""
    words = splitmix64(1234567, torch.arange(5))
    assert [word % 2**64 for word in words.tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_signs_do_not_depend_on_the_block_they_are_made_in():
    whole = signs(stream_of(0, 3), range(101), WIDTH)
    pieces = [signs(stream_of(0, 3), range(a, b), WIDTH) for a, b in ((0, 17), (17, 18), (18, 101))]
    assert torch.equal(whole, torch.cat(pieces))
    assert torch.equal(whole[:, :5], signs(stream_of(0, 3), range(101), WIDTH)[:, :5])
    assert set(whole.unique().tolist()) == {-1, 1}
    assert not torch.equal(whole, signs(stream_of(0, 4), range(101), WIDTH))
    assert not torch.equal(whole, signs(stream_of(1, 3), range(101), WIDTH))


def test_signs_are_balanced_and_their_columns_independent():
    matrix = signs(stream_of(7, 0), range(4096), 128).float()
    assert abs(matrix.mean()) < 4 / np.sqrt(matrix.numel())
    products = matrix.T @ matrix / len(matrix) - torch.eye(128)
    assert products.abs().max() < 6 / np.sqrt(4096)  # of 8,128 normal numbers


@pytest.fixture(scope="module")
def warm(toy: Toy):
    return toy.target(lora=Lora(4, 8, 0.1), recipe=dataclasses.replace(RECIPE, epochs=1))


@pytest.fixture(scope="module")
def gradients(warm) -> Gradients:
    return Gradients(warm, width=WIDTH, batch_tokens=512, mark_rows=11)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_gradients_in_a_batch_are_those_of_autograd_row_by_row(toy: Toy, warm, precision):
    """Of rows padded to one length, and of rows packed end to end: only rounding differs."""
    parts = warm.adapted(toy.store)
    model = parts.model.eval().to(precision)
    layers = lora_layers(model)
    assert len(layers) == 2 * 2 * 7  # two matrices, two blocks of seven linear layers
    table = warm.tokens().open(toy.store)
    rows = np.array([0, 3, 8, 5, 40])  # with and without an image, of one and of three turns
    loader = Loader(
        table,
        [rows, *rows[:, None]],
        image_token=unwrap(model).config.image_token_id,
        pad=parts.tokenizer.pad_token_id,
        pictures=warm.pictures(toy.store, parts),
    )
    padded, *alone = (in_precision(batch, precision) for batch in loader)
    assert len(set(padded.mask.sum(dim=1).tolist())) > 3
    language = language_model(model)
    gradients = [of_rows(model, layers, padded)]
    varlen_attention.prepare(language)
    gradients.append(of_rows(model, layers, pack(padded)))
    language.set_attn_implementation("sdpa")
    exact = {"rtol": 1e-4, "atol": 1e-7} if precision == torch.float32 else {"rtol": 1e-9,
             "atol": 1e-13}  # fmt: skip
    for row, batch in enumerate(alone):
        model.zero_grad(set_to_none=True)
        loss_of_rows(model, batch).sum().backward()
        for number, (name, layer) in enumerate(layers):
            for taken in gradients:
                torch.testing.assert_close(
                    taken[number][row], layer.weight.grad, **exact, msg=f"{name} of row {row}"
                )


def in_precision(batch: Batch, precision: torch.dtype) -> Batch:
    pictures = {name: tensor.to(precision) for name, tensor in batch.pictures.items()}
    return dataclasses.replace(batch, pictures=pictures)


def of_rows(model, layers, batch: Batch) -> dict[int, torch.Tensor]:
    """The gradients of the rows of a batch in every layer, by its number."""
    taken: dict[int, torch.Tensor] = {}
    rows = rows_of_answers(batch.labels, batch.lengths)
    with given_to(lambda number, gradient: taken.update({number: gradient}), layers, batch.lengths):
        hidden = hidden_states(
            model, batch.ids, batch.mask, features_of(model, batch), lengths=batch.lengths
        )
        summed_losses(
            head_of(model), hidden, batch.labels, rows, vocabulary=3000, chunk_bytes=70_000
        ).backward()
    return taken


def loss_of_rows(model, batch) -> torch.Tensor:
    """The mean cross-entropy of each row's answer, from the whole logits."""
    features = features_of(model, batch)
    hidden = hidden_states(model, batch.ids, batch.mask, features)
    logits = unwrap(model).lm_head(hidden)
    return torch.stack(
        [
            cross_entropy(line[:-1], labels[1:], ignore_index=IGNORED)
            for line, labels in zip(logits, batch.labels, strict=True)
        ]
    )


def test_values_are_the_projected_gradients_at_length_one(toy: Toy, warm, gradients):
    values = np.load(toy.store.get(gradients) / "values.npy").astype(np.float64)
    assert values.shape == (41, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=2e-3)
    parts = warm.adapted(toy.store)
    layers = lora_layers(parts.model.eval())
    table = warm.tokens().open(toy.store)
    loader = Loader(
        table,
        [np.array([row]) for row in (2, 19, 33)],
        image_token=unwrap(parts.model).config.image_token_id,
        pad=parts.tokenizer.pad_token_id,
        pictures=warm.pictures(toy.store, parts),
    )
    for batch in loader:
        parts.model.zero_grad(set_to_none=True)
        loss_of_rows(parts.model, batch).sum().backward()
        whole = np.zeros(WIDTH)
        for number, (_, layer) in enumerate(layers):
            gradient = layer.weight.grad.double().flatten().numpy()
            matrix = signs(stream_of(0, number), range(len(gradient)), WIDTH)
            whole += gradient @ matrix.double().numpy()
        whole /= np.linalg.norm(whole)
        np.testing.assert_allclose(values[int(batch.rows[0])], whole, atol=2e-3)


def test_a_packed_pass_has_the_values_and_the_key_of_a_padded_one(toy: Toy, gradients, tmp_path):
    packed = dataclasses.replace(gradients, packing=True)
    assert key(packed) == key(gradients)
    packed.compute(toy.store, tmp_path)
    values, padded = (
        np.load(folder / "values.npy") for folder in (tmp_path, toy.store.get(gradients))
    )
    np.testing.assert_allclose(values, padded, rtol=2e-3, atol=2e-4)  # float16
    lengths = gradients.seen.tokens().open(toy.store).lengths
    batches = packed_batches(lengths, 512)
    assert sorted(np.concatenate(batches)) == list(range(41))
    assert max(lengths[rows].sum() for rows in batches) <= 512
    assert len(batches) < len(length_batches(lengths, 0, 512))


def test_packed_batches_by_hand():
    lengths = np.array([7, 2, 11, 5, 3])
    batches = packed_batches(lengths, 10)  # 2 + 3 + 5 = 10; 7; 11 alone is above it
    assert [rows.tolist() for rows in batches] == [[1, 4, 3], [0], [2]]
    assert packed_batches(lengths[:0], 10) == []


def test_signs_that_are_made_again_for_every_batch_give_the_same_sums():
    gradients = torch.randn((3, 7, 1913), generator=torch.Generator().manual_seed(0))
    sums = []
    for resident_bytes in (0, 700_000, 1 << 30):
        matrix = Signs(5, WIDTH, resident_bytes)
        for _ in range(2):
            projected = Projected(matrix, 3, torch.device("cpu"))
            projected.add(2, gradients)
        sums.append(projected.sums)
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


def test_projected_cosines_are_those_of_whole_gradients(toy: Toy):
    """Two vectors at 60 degrees, of 5,003 numbers, in 1,024: within 5 deviations of 1/32."""
    first, second = torch.randn((2, 5003), generator=torch.Generator().manual_seed(1)).double()
    first = first / first.norm()
    second = second - (second @ first) * first
    second = (first + np.sqrt(3) * second / second.norm()) / 2
    projected = Projected(Signs(0, 1024, 0), 2, torch.device("cpu"))
    projected.add(0, torch.stack([first, second]).float()[:, None])
    a, b = projected.unit()
    assert abs(float(a @ b) - 0.5) < 5 / 32


def target_set(toy: Toy, folder, rows) -> str:
    """A folder with some rows of the toy pool and their images."""
    records = json.loads((toy.folder / "pool.json").read_text())
    write_rows(folder, [records[row] for row in rows])
    return str(folder)


def test_scores_are_mean_cosines_with_the_rows_of_the_target_set(toy: Toy, gradients, tmp_path):
    rows = [0, 13, 26, 3]
    toward = target_set(toy, tmp_path / "mine", rows)
    ranking = Ranking(toy.pool, Influence(gradients, toward))
    ranked = Ranking.read(toy.store.get(ranking))
    values = np.load(toy.store.get(gradients) / "values.npy").astype(np.float64)
    expected = [np.mean([value @ values[row] for row in rows]) for value in values]
    np.testing.assert_allclose(ranked.scores, expected, atol=2e-3)
    assert ranked.order.tolist() == np.argsort(-ranked.scores, kind="stable").tolist()
    assert set(ranked.order[:9].tolist()) & set(rows)
    assert declared(ranking) == recorded(toy.store, ranking)
    of_targets = dataclasses.replace(gradients, pool=ranking.selector.pools()["own"])
    assert recorded(toy.store, of_targets) <= declared(of_targets)


def test_with_a_ridge_shared_directions_count_less(toy: Toy, gradients, tmp_path):
    """By the eigenvectors of the pool's second moments, each over its eigenvalue plus the ridge."""
    rows = [5, 18]
    toward = target_set(toy, tmp_path / "mine", rows)
    ranking = Ranking(toy.pool, Influence(gradients, toward, ridge=0.05))
    ranked = Ranking.read(toy.store.get(ranking))
    values = np.load(toy.store.get(gradients) / "values.npy").astype(np.float64)
    _, singular, axes = np.linalg.svd(values / np.sqrt(len(values)), full_matrices=False)
    on_axes = values @ axes.T
    weights = 1 / (singular**2 + 0.05 * singular[0] ** 2)
    expected = on_axes @ (weights * on_axes[rows].mean(axis=0))
    np.testing.assert_allclose(ranked.scores, expected, rtol=5e-3, atol=5e-3 * expected.max())
    plain = Ranking.read(toy.store.get(Ranking(toy.pool, Influence(gradients, toward))))
    assert plain.order.tolist() != ranked.order.tolist()
    with pytest.raises(ValueError, match=r"selector\.ridge=0: expected a positive fraction"):
        Influence(gradients, toward, ridge=0)


def test_a_row_counts_for_the_examples_nearest_to_it(toy: Toy, gradients, tmp_path):
    rows = [0, 13, 26, 3, 7]
    toward = target_set(toy, tmp_path / "mine", rows)
    ranking = Ranking(toy.pool, Influence(gradients, toward, nearest=2))
    ranked = Ranking.read(toy.store.get(ranking))
    values = np.load(toy.store.get(gradients) / "values.npy").astype(np.float64)
    expected = [np.mean(sorted(value @ values[row] for row in rows)[-2:]) for value in values]
    np.testing.assert_allclose(ranked.scores, expected, atol=2e-3)
    every, more = (Influence(gradients, toward, nearest=count) for count in (None, 99))
    assert key(Ranking(toy.pool, more)) != key(Ranking(toy.pool, every))
    of_every, of_more = (
        Ranking.read(toy.store.get(Ranking(toy.pool, of))).scores for of in (every, more)
    )
    np.testing.assert_allclose(of_more, of_every, atol=1e-5)
    assert "nearest" not in describe(every)
    with pytest.raises(ValueError, match=r"selector\.nearest=0: expected a number of examples"):
        Influence(gradients, toward, nearest=0)


def test_the_nearest_of_each_part_by_hand():
    values = np.array([[1, 0], [0.6, 0.8], [np.nan, np.nan]], dtype=np.float16)
    directions = np.array([[1, 0], [0, 1], [-1, 0], [0.6, 0.8], [0.8, 0.6]], dtype=np.float32)
    # products of row 0: 1, 0, -1 | 0.6, 0.8; of row 1: 0.6, 0.8, -0.6 | 1, 0.96
    np.testing.assert_allclose(
        means(values, directions, [3, 2], 2),
        [[0.5, 0.7], [0.7, 0.98], [np.nan, np.nan]],
        atol=1e-3,
    )
    np.testing.assert_allclose(means(values, directions, [3, 2], None)[:2, 0], [0, 0.8 / 3],
                               atol=1e-3)  # fmt: skip


def test_a_target_set_is_known_by_its_content(toy: Toy, gradients, tmp_path):
    first, second = (target_set(toy, tmp_path / name, [1, 2]) for name in ("here", "there"))
    other = target_set(toy, tmp_path / "other", [1, 4])
    keys = [key(Ranking(toy.pool, Influence(gradients, path))) for path in (first, second, other)]
    assert keys[0] == keys[1] != keys[2]


def test_faulty_examples_are_left_out_where_the_pool_leaves_faulty_rows_out(toy, gradients):
    skipping = dataclasses.replace(toy.pool, invalid="skip")
    ranking = dataclasses.replace(gradients.model.subset.ranking, pool=skipping)
    subset = dataclasses.replace(gradients.model.subset, ranking=ranking)
    model = dataclasses.replace(gradients.model, subset=subset)
    for of, skips in ((gradients, False), (dataclasses.replace(gradients, model=model), True)):
        for selector in (Influence(of, f"{toy.tasks}/colours"), Icons(of, toy.tasks)):
            assert all((pool.valid_rows is not None) == skips for pool in selector.pools().values())


def test_a_faulty_example_is_named_before_the_pass_over_the_pool(toy: Toy, gradients, tmp_path):
    """The pass takes hours on a large pool: here none of the pool has a gradient when it ends."""
    examples = target_set(toy, tmp_path / "examples", [1, 2])
    for image in (tmp_path / "examples").rglob("*.png"):
        image.unlink()
    unseen = dataclasses.replace(gradients, seed=gradients.seed + 1)
    with pytest.raises(ValueError, match=r"examples.*missing"):
        Influence(unseen, examples).rank(toy.pool, np.random.default_rng(0), toy.store)
    assert not toy.store.path(unseen).exists()


def test_several_tasks_vote_and_mean_ranks_break_ties():
    scores = np.array([[0.9, 0.1], [0.8, 0.8], [0.1, 0.9], [0.2, 0.7], [np.nan, 1.0], [0.7, 0.0]])
    # a share of 0.4 of five rows: 0 and 1 for the first task, 2 and 1 for the second
    order, votes = by_votes(scores, 0.4)
    assert votes.tolist() == [1, 2, 1, 0, 0, 0]
    # ranks of row 0: 0 and 3; of row 2: 4 and 0; of row 3: 3 and 2; of row 5: 2 and 4
    assert order.tolist() == [1, 0, 2, 3, 5, 4]


def test_icons_takes_a_folder_a_task_and_says_that_it_saw_them(toy: Toy, gradients, tmp_path):
    target_set(toy, tmp_path / "tasks" / "mme", [0, 11, 22])  # of two sources
    target_set(toy, tmp_path / "tasks" / "gqa", [5])
    selector = Icons(gradients, str(tmp_path / "tasks"), share=0.3, by_source=["mme"])
    assert list(selector.pools()) == ["gqa", "mme"]
    assert selector.saw_validation
    assert not Influence(gradients, "x").saw_validation
    ranked = Ranking.read(toy.store.get(Ranking(toy.pool, selector)))
    values = np.load(toy.store.get(gradients) / "values.npy").astype(np.float64)
    sources = selector.pools()["mme"].open(toy.store).sources.tolist()
    assert len(set(sources)) > 1
    means = [
        np.mean([values @ values[row] for row, of in zip((0, 11, 22), sources, strict=True)
                 if of == source], axis=0)
        for source in sorted(set(sources))
    ]  # fmt: skip
    order, votes = by_votes(np.stack([values @ values[5], np.max(means, axis=0)], axis=1), 0.3)
    assert ranked.scores.tolist() == votes.tolist()
    drawn = [[row for row in rows if row not in TEXT_ONLY] for rows in (ranked.order, order)]
    assert drawn[0] == drawn[1]  # texts repeat each other: among them rounding decides


def test_icons_ranks_towards_rows_of_benchmarks_and_says_which_are_scored(
    toy: Toy, gradients, compose, caplog, tmp_path
):
    benchmark = small_gqa(tmp_path / "gqa", toy.folder / "images")
    selector = Icons(gradients, validation=ValidationSets({"gqa": benchmark}, rows={"gqa": 3}))
    assert selector.saw_validation
    selector.check(toy.pool, toy.store)
    ranking = Ranking(toy.pool, selector)
    ranked = Ranking.read(toy.store.get(ranking))
    assert declared(ranking) == recorded(toy.store, ranking)
    records = json.loads(
        (toy.store.get(selector.pools()["gqa"].annotations.stage) / "rows.json").read_text()
    )
    by_hand = [
        {**record, "image": picture_name(ASKED[record["id"]][2])} for record in records
    ]  # as a user would have written the folder
    write_rows(tmp_path / "tasks" / "gqa", by_hand)
    folder = Ranking(toy.pool, Icons(gradients, str(tmp_path / "tasks")))
    assert key(folder) != key(ranking)
    np.testing.assert_allclose(ranked.scores, Ranking.read(toy.store.get(folder)).scores, atol=1e-6)
    cfg = compose(*toy.overrides(), "suite=none", "+suite.gqa._target_=" + f"{Gqa.__module__}.Gqa",
        *(f"+suite.gqa.{name}={getattr(benchmark, name)}"
          for name in ("questions", "annotations", "images")), "+suite.gqa.count=null")  # fmt: skip
    with caplog.at_level("INFO", "xmas"):
        audit_what_saw_validation(Subset(ranking, rows=17), toy.store, cfg, frozenset())
    assert "3 of the 5 questions of gqa were validation rows: its score is no test" in caplog.text
    with pytest.raises(ValueError, match="selector=icons has no benchmarks"):
        Icons(gradients, validation=ValidationSets()).check(toy.pool, toy.store)


@pytest.mark.parametrize(
    ("toward", "message"),
    [
        ("???", "selector.toward is not set"),
        ("nowhere", "selector.toward=.*nowhere: there is nothing"),
        ("two", r"expected one file of conversations .* there are 2: a.json, b.jsonl"),
        ("empty", "the target set own has no rows"),
    ],
)
def test_a_target_set_that_is_none_is_refused(toy: Toy, gradients, tmp_path, toward, message):
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a.json").write_text("[]")
    (tmp_path / "two" / "b.jsonl").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.json").write_text("[]")
    path = toward if toward == "???" else str(tmp_path / toward)
    selector = Influence(gradients, path)
    with pytest.raises(ValueError, match=message):
        selector.check(toy.pool, toy.store)


def test_a_model_without_lora_is_refused(toy: Toy):
    with pytest.raises(ValueError, match=r"trained in full has no adapter; give it target\.lora"):
        toy.target(lora=None).adapted(toy.store)


@dataclasses.dataclass(frozen=True)
class Drawings:
    """A benchmark that asks about some of the toy's pictures."""

    name: ClassVar[str] = "drawings"
    split: ClassVar[str] = "test"
    metric: ClassVar[str] = "accuracy"
    max_new_tokens: ClassVar[int] = 16

    images: str

    def asked(self, store: Store) -> list[Question]:
        names = (picture_name(picture) for picture in (0, 5))
        return [Question(name, "What?", Path(self.images) / name) for name in names]

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        raise NotImplementedError


def test_what_saw_validation_rows_is_audited_without_being_asked(
    toy: Toy, gradients, compose, caplog
):
    selector = Icons(gradients, toy.tasks)
    subset = Subset(Ranking(toy.pool, selector), rows=17)
    random = Subset(Ranking(toy.pool, Random()), rows=17)
    assert "It saw validation rows of benchmarks." in (
        (toy.store.get(subset) / "README.txt").read_text()
    )
    place = "suite.drawings"
    drawings = [f"+{place}._target_=test_influence.Drawings", f"+{place}.images={toy_images(toy)}"]
    for goal, suite, lines in (
        (random, [], []),
        (subset, [], ["chosen by validation rows", "no images were compared"]),
        (subset, drawings, ["chosen by validation rows", "drawings"]),
    ):
        caplog.clear()
        cfg = compose(*toy.overrides(), "suite=none", *suite)
        with caplog.at_level("INFO", "xmas"):
            audit_what_saw_validation(goal, toy.store, cfg, frozenset({"test_influence"}))
        text = "\n".join(record.getMessage() for record in caplog.records)
        assert all(line in text for line in lines)
        assert bool(text) == bool(lines)
    record = json.loads((toy.store.get(Audit(subset, suite={"drawings": Drawings(toy_images(toy))}))
                         / "audit.json").read_text())  # fmt: skip
    assert record["benchmarks"]["drawings"]["same"]["pool"] > 1


def toy_images(toy: Toy) -> str:
    return str(toy.folder / "images")
