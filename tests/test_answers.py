"""Answers: every statistic by hand, and by transformers' own forward; no row knows its mates."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from test_families import TILED, own_inputs
from toy import ROWS, TEXT_ONLY, Toy, declared, record, recorded, shared
from transformers import AutoTokenizer

from xmas.data.pool import Pool
from xmas.features.losses.answer_scorer import AnswerScorer, ScorerSettings, WithoutImages
from xmas.features.losses.answers import COLUMNS, Answers
from xmas.features.losses.token_statistics import STATISTICS, answer_statistics, token_statistics
from xmas.models.chat.labels import IGNORED
from xmas.models.chat.layout import FEATURE
from xmas.models.vision_cache import FromFiles
from xmas.models.vlm import LoadedModel
from xmas.training.starts.unfitted import Unfitted

HOW = ScorerSettings(batch_tokens=512, shard_rows=11)
IMAGES = np.array([row for row in range(ROWS) if row not in TEXT_ONLY])
LOSS = STATISTICS.index("loss")


# Statistics of tokens.


def test_statistics_of_a_token_by_hand():
    logits = torch.tensor([[2.0, 1, 1], [2, 1, 1], [1, 2, 1]]).log()  # softmax 1/2, 1/4, 1/4
    found = token_statistics(logits, torch.tensor([0, 1, 2]))
    wanted = [
        [math.log(2), math.sqrt(1 / 4 + 1 / 16 + 1 / 16), 1 / 4],
        [math.log(4), math.sqrt(1 / 4 + 9 / 16 + 1 / 16), -1 / 4],
        [math.log(4), math.sqrt(1 / 16 + 1 / 4 + 9 / 16), -1 / 4],
    ]
    torch.testing.assert_close(found, torch.tensor(wanted))


def test_statistics_of_a_sure_model_are_not_rounded_to_nothing():
    found = token_statistics(torch.tensor([[40.0, 0], [0, 40]]), torch.tensor([0, 0]))
    sure, wrong = found.double().tolist()
    assert sure[1] == pytest.approx(math.sqrt(2) * math.exp(-40), rel=1e-5)
    assert sure[2] == 1
    assert wrong == pytest.approx([40, math.sqrt(2), -1])


def test_a_row_s_statistics_are_the_means_over_its_answer_tokens():
    """Hidden states are the logarithms of the shares themselves; the last one foresees nothing."""
    shares = torch.tensor([[1, 1], [3, 1], [1, 7], [1, 1], [5, 3]]) / torch.tensor(
        [[2], [4], [8], [2], [8]]
    )
    hidden = torch.stack([shares.log(), shares.log(), shares.log()])
    labels = torch.full((3, 5), IGNORED)
    labels[0, [2, 3]] = torch.tensor([0, 0])  # foreseen from shares 3/4 and 1/8
    labels[1, [0, 1]] = torch.tensor([1, 1])  # the first is foreseen from nothing
    means, counts = answer_statistics(torch.nn.Identity(), hidden, labels, vocabulary=2)
    assert counts.tolist() == [2, 1, 0]
    root = math.sqrt(2)
    wanted = [
        [(math.log(4 / 3) + math.log(8)) / 2, (root / 4 + root * 7 / 8) / 2, (1 / 2 - 3 / 4) / 2],
        [math.log(2), root / 2, 0],
        [math.nan] * 3,
    ]
    torch.testing.assert_close(
        means, torch.tensor(wanted, dtype=torch.float64), equal_nan=True, rtol=1e-6, atol=1e-7
    )


def test_logits_exist_for_a_bounded_number_of_answer_tokens_at_once():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 13, 7, generator=generator)
    labels = torch.randint(0, 11, (5, 13), generator=generator)
    labels[torch.rand(5, 13, generator=generator) < 0.5] = IGNORED
    linear = torch.nn.Linear(7, 11).requires_grad_(False)
    seen: list[int] = []

    def head(states):
        seen.append(len(states))
        return linear(states)

    whole, counts = answer_statistics(head, hidden, labels, vocabulary=11)
    answers = int((labels[:, 1:] != IGNORED).sum())
    assert seen == [answers]
    assert int(counts.sum()) == answers
    seen.clear()
    three = 4 * 11 * 3 + 1  # bytes of three tokens' logits, and one
    chunked, _ = answer_statistics(head, hidden, labels, vocabulary=11, chunk_bytes=three)
    assert max(seen) == 3
    assert sum(seen) == answers
    torch.testing.assert_close(chunked, whole, rtol=1e-6, atol=1e-7)


# The pass.


@pytest.fixture(scope="module")
def answers(toy: Toy) -> Answers:
    return Answers(toy.proxy, HOW)


@pytest.fixture(scope="module")
def values(toy: Toy, answers: Answers) -> np.ndarray:
    return np.load(toy.store.get(answers) / "values.npy", mmap_mode="r")


@pytest.fixture(scope="module")
def parts(toy: Toy) -> LoadedModel:
    """The proxy behind its last step."""
    return toy.proxy.load(toy.store, toy.proxy.steps(toy.store)[-1])


def column(values: np.ndarray, name: str) -> np.ndarray:
    return values[:, COLUMNS.index(name)]


def test_files_are_what_the_docstring_says(toy, answers, values):
    folder = toy.store.get(answers)
    steps = toy.proxy.steps(toy.store)
    assert {path.name for path in folder.iterdir()} == {
        "values.npy", "columns", "columns.json", "steps.npy", "meta.json"
    }  # fmt: skip
    assert (values.shape, values.dtype) == ((ROWS, 5), np.float32)
    assert tuple(json.loads((folder / "columns.json").read_text())) == COLUMNS
    assert np.load(folder / "steps.npy").tolist() == steps
    assert len(steps) == 3
    columns = [np.load(folder / "columns" / f"{step}.npy") for step in steps]
    assert {one.shape for one in columns} == {(ROWS, 3)}
    assert np.array_equal(columns[-1], values[:, :3])
    assert np.array_equal(np.stack(columns, axis=1)[:, :, LOSS], answers.losses(toy.store))
    assert np.array_equal(answers.column(toy.store, "margin"), column(values, "margin"))


def test_every_statistic_is_plausible_and_moves(toy, answers, values):
    assert np.isfinite(values).all()
    assert (column(values, "loss") > 0).all()
    assert ((column(values, "el2n") > 0) & (column(values, "el2n") < math.sqrt(2))).all()
    assert (abs(column(values, "margin")) < 1).all()
    for name in COLUMNS:
        assert column(values, name).std() > 0
    losses = answers.losses(toy.store)
    assert losses[:, 0].mean() > losses[:, -1].mean() + 0.5  # it has learnt


def test_text_only_rows_have_one_loss_and_no_necessity(values):
    apart = column(values, "blind_loss") - column(values, "loss")
    assert (apart[list(TEXT_ONLY)] == 0).all()
    assert (abs(apart[IMAGES]) > 1e-4).all()


def test_tokens_are_the_labelled_ones(toy, values):
    table = toy.proxy.tokens().open(toy.store)
    wanted = [int(table[row].labelled.sum()) for row in range(ROWS)]
    assert column(values, "tokens").tolist() == wanted


def test_without_its_image_a_row_keeps_every_other_token(toy):
    tokens = toy.proxy.tokens()
    table = tokens.open(toy.store)
    blind = WithoutImages(toy.store.get(tokens), tokens.layout(toy.store))
    tokenizer = AutoTokenizer.from_pretrained(toy.store.get(toy.tokenizer))
    held = blind[1]
    said = tokenizer.decode(held.ids, skip_special_tokens=False)
    assert "USER: \nWhat is drawn?? ASSISTANT: a navy box, quite flat</s>" in said
    assert np.array_equal(blind.lengths, table.text_lengths)
    for row in range(ROWS):
        assert np.array_equal(blind[row].ids, table[row].ids)
        assert np.array_equal(blind[row].labelled, table[row].labelled)
        assert blind[row].image_at == -1
        assert len(blind[row]) == len(table[row]) - (0 if row in TEXT_ONLY else 16)


VARIANTS = [
    {"batch_tokens": 1},  # alone
    {"batch_tokens": 197},
    {"batch_tokens": 10**6},  # all in one batch, the short ones padded
    {"shard_rows": 5},
    {"shard_rows": 1000, "batch_tokens": 300},
    {"resident_bytes": 1},  # a snapshot at a time
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_row_s_values_do_not_depend_on_its_batch_mates(toy, tmp_path, values, answers, options):
    store = shared(toy, tmp_path, "proxy")
    how = dataclasses.replace(HOW, **options)
    other = Answers(toy.proxy, how)
    folder = store.get(other)
    found = np.load(folder / "values.npy")
    np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(other.losses(store), answers.losses(toy.store), rtol=1e-5, atol=1e-5)


def test_pads_are_there_in_these_batches(toy, parts):
    """Otherwise the comparisons above would be of nothing."""
    table = toy.proxy.tokens().open(toy.store)
    reading = reader(toy, parts, how=dataclasses.replace(HOW, batch_tokens=10**6))
    assert len(reading.batches) == 1
    assert len(set(table.lengths.tolist())) > 10
    alone = reader(toy, parts, how=dataclasses.replace(HOW, batch_tokens=1))
    assert len(alone.batches) == ROWS
    cut = reader(toy, parts)
    assert len(cut.bounds) > 3
    assert np.diff(cut.bounds).max() < 11 + max(map(len, cut.batches))
    assert set(cut.bounds) <= set(np.cumsum([0, *map(len, cut.batches)]))
    assert sorted(cut.order.tolist()) == list(range(ROWS))


def reader(
    toy: Toy, parts: LoadedModel, *, table=None, rows=None, how: ScorerSettings = HOW
) -> AnswerScorer:
    return AnswerScorer(
        parts.model,
        table or toy.proxy.tokens().open(toy.store),
        np.arange(ROWS) if rows is None else rows,
        pictures=toy.vision.pictures(toy.store),
        pad=parts.tokenizer.pad_token_id,
        how=how,
    )


def read(
    reading: AnswerScorer, place: Path, snapshots: dict[int, dict], *, rows: int = ROWS
) -> np.ndarray:
    shards = reading.shards(place / "shards", tuple(snapshots))
    reading.run(shards, snapshots.__getitem__, label="test")
    return shards.merge(place / "whole.npy", reading.order, rows)


def test_snapshots_in_one_pass_equal_each_alone(toy, answers, tmp_path):
    losses = answers.losses(toy.store)
    for at, step in enumerate(toy.proxy.steps(toy.store)):
        alone = toy.proxy.load(toy.store, step)
        found = read(reader(toy, alone), tmp_path / str(step), {step: {}})
        np.testing.assert_allclose(found[:, 0, LOSS], losses[:, at], rtol=1e-6)


def test_half_precision_is_close_and_not_the_same(toy, tmp_path, values):
    how = dataclasses.replace(HOW, weights="bfloat16")
    found = np.load(shared(toy, tmp_path, "proxy").get(Answers(toy.proxy, how)) / "values.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(column(found, "loss"), column(values, "loss"), rtol=0.05)
    assert not np.allclose(found, values, rtol=1e-4)


def test_a_row_without_an_answer_token_has_a_count_and_no_value(toy, parts, tmp_path):
    table = toy.proxy.tokens().open(toy.store)
    labelled = table._labelled.copy()
    for row in (3, 30):
        labelled[table.offsets[row] : table.offsets[row + 1]] = False
    table._labelled = labelled
    found = read(reader(toy, parts, table=table), tmp_path, {5: {}})[:, 0]
    assert np.flatnonzero(found[:, -1] == 0).tolist() == [3, 30]
    assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == [3, 30]
    assert np.isnan(found[[3, 30], :-1]).all()


def test_what_is_not_finite_stops_the_run_and_is_named(toy, parts, tmp_path):
    """A token that one row alone holds has an embedding that overflowed."""
    table = toy.proxy.tokens().open(toy.store)
    row = 10
    others = {int(one) for other in range(ROWS) if other != row for one in table[other].ids}
    alone = next(int(one) for one in table[row].ids if int(one) not in others)
    weights = dict(parts.model.named_parameters())
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    broken = weights[name].detach().clone()
    broken[alone] = math.nan
    how = dataclasses.replace(HOW, batch_tokens=10**6)
    # The head is the embedding's transpose here: a separate one keeps the other rows whole.
    model = parts.model
    tied = model.lm_head.weight
    model.lm_head.weight = torch.nn.Parameter(tied.detach().clone())
    try:
        wanted = (
            rf"test, step 5: the answers of 1 rows are not finite, the first is row {row}: .*nan"
        )
        with pytest.raises(FloatingPointError, match=wanted):
            read(reader(toy, parts, how=how), tmp_path, {5: {name: broken}})
    finally:
        model.lm_head.weight = tied


def test_a_pass_leaves_the_model_as_it_was(toy, parts, tmp_path):
    before = {name: one.clone() for name, one in parts.model.state_dict().items()}
    places = {name: one.data_ptr() for name, one in parts.model.named_parameters()}
    random = torch.random.get_rng_state()
    snapshot = {name: one.data + 0.1 for name, one in parts.model.named_parameters()}
    read(reader(toy, parts), tmp_path, {2: snapshot})
    assert {name: one.data_ptr() for name, one in parts.model.named_parameters()} == places
    assert all(torch.equal(one, before[name]) for name, one in parts.model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)


# Against transformers, and models of every family.


TAKEN = (0, 3, 8, 10, 40)  # of the toy's rows: one of several turns, two without an image


@pytest.fixture(scope="module")
def pool(toy: Toy, tmp_path_factory) -> Pool:
    place = tmp_path_factory.mktemp("few") / "pool.json"
    place.write_text(json.dumps([record(row) for row in TAKEN]))
    return Pool(str(place), str(toy.folder / "images"))


@torch.no_grad()
def theirs(pool: Pool, kind: str, parts: LoadedModel, held, row: int | None) -> list[float]:
    """Loss, EL2N and margin out of the model's own forward on one row; no row: without an image."""
    ids, labels = held.ids.astype(np.int64), np.where(held.labelled, held.ids, IGNORED)
    shown = {}
    if row is not None:
        image = np.where(held.image == FEATURE, parts.model.config.image_token_id, held.image)
        ids = np.insert(ids, held.image_at, image)
        labels = np.insert(labels, held.image_at, np.full(len(image), IGNORED))
        picture = Image.open(pool.open().images_of(row)[0]).convert("RGB")
        shown = own_inputs(kind, parts, [picture])
    given, wanted = torch.from_numpy(ids)[None], torch.from_numpy(labels).long()[None]
    said = parts.model(input_ids=given, labels=wanted, **shown)
    answered = wanted[0, 1:] != IGNORED
    shares = said.logits[0, :-1][answered].double().softmax(dim=1)
    truth = torch.nn.functional.one_hot(wanted[0, 1:][answered], shares.shape[1]).double()
    right = (shares * truth).sum(dim=1)
    margin = right - (shares - 2 * truth).amax(dim=1)
    return [float(said.loss), float((shares - truth).norm(dim=1).mean()), float(margin.mean())]


@pytest.mark.parametrize("kind", ["stablelm", "phi", *TILED])
def test_statistics_equal_those_of_transformers(toy, pool, tmp_path_factory, kind):
    """Of whole stages, with models whose heads are their own and images of any number of tokens."""
    start = tiny.shared_start(tiny.KINDS[kind], tmp_path_factory)
    template = tiny.TEMPLATES.get(kind, tiny.PHI)
    model = Unfitted(pool, start, template, max_length=1024)
    answers = Answers(model, ScorerSettings(batch_tokens=600))
    values = np.load(toy.store.get(answers) / "values.npy")
    assert recorded(toy.store, answers) == declared(answers)
    parts = tiny.shared_model(start, toy.store)
    table = model.tokens().open(toy.store)
    assert {row in TEXT_ONLY for row in TAKEN} == {True, False}
    for row, of_toy in enumerate(TAKEN):
        held = table[row]
        with_image = theirs(pool, kind, parts, held, None if of_toy in TEXT_ONLY else row)
        np.testing.assert_allclose(values[row, :3], with_image, rtol=1e-4, atol=1e-5)
        blind = theirs(pool, kind, parts, held, None)
        assert column(values, "blind_loss")[row] == pytest.approx(blind[0], rel=1e-4)


def test_a_head_of_its_own_belongs_to_a_snapshot(toy, pool, tmp_path, tmp_path_factory):
    start = tiny.shared_start(tiny.KINDS["stablelm"], tmp_path_factory)
    model = Unfitted(pool, start, tiny.PHI, max_length=1024)
    parts = tiny.shared_model(start, toy.store)
    head = parts.model.lm_head.weight
    assert head.data_ptr() != parts.model.get_input_embeddings().weight.data_ptr()
    reading = AnswerScorer(
        parts.model,
        model.tokens().open(toy.store),
        np.arange(len(TAKEN)),
        pictures=FromFiles(pool.open(), parts.processor),
        pad=parts.tokenizer.pad_token_id,
        how=HOW,
    )
    same, other = {"lm_head.weight": head.data}, {"lm_head.weight": head.data * 3}
    found = read(reading, tmp_path, {1: same, 2: other, 3: same}, rows=len(TAKEN))
    assert np.array_equal(found[:, 0], found[:, 2])
    assert abs(found[:, 0, LOSS] - found[:, 1, LOSS]).min() > 1e-3


def test_a_fitted_target_is_asked_before_and_after_its_fit(toy, tmp_path):
    target = toy.target()
    before, after = target.steps(toy.store)
    assert before == 0
    folder = toy.store.get(Answers(target, HOW))
    losses = Answers(target, HOW).losses(toy.store)
    start = Unfitted(toy.pool, toy.start, target.template, True, target.max_length, target.hardware)
    np.testing.assert_array_equal(losses[:, 0], Answers(start, HOW).column(toy.store, "loss"))
    found = read(reader(toy, target.load(toy.store)), tmp_path, {after: {}})
    np.testing.assert_allclose(losses[:, 1], found[:, 0, LOSS], rtol=1e-5)
    assert losses[:, 1].mean() < losses[:, 0].mean() - 0.1
    assert np.isfinite(np.load(folder / "values.npy")).all()
    with pytest.raises(ValueError, match=rf"target step 7: kept .* \[0, {after}\]"):
        target.weights_at(toy.store, 7)
