"""A proxy's fit: what is kept of it, and that measuring it changes nothing."""

import csv
import dataclasses
import hashlib
import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file
from toy import RECIPE, ROWS, TEXT_ONLY, Toy, losses, shared

from xmas.features import trajectories
from xmas.features.trajectories import Measuring
from xmas.models.answer_loss import answer_loss
from xmas.models.chat.batches import Loader, micro_batches, modality_length_order
from xmas.models.vision_cache import features_of
from xmas.models.vlm import load
from xmas.store import Store, key
from xmas.training.fit.recipe import Recipe
from xmas.training.probe import AttentionProbe, schedule
from xmas.training.proxy import Proxy


@pytest.fixture(scope="module")
def fresh(toy: Toy, tmp_path_factory):
    """Makes stores with the toy's start point in them, and no proxy."""
    return lambda: shared(toy, tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="module")
def probed(toy: Toy, fresh) -> Store:
    """A store whose columns were taken during the proxy's fit, which alone reads its weights."""
    store = fresh()
    with pytest.MonkeyPatch.context() as patched:
        patched.delattr(trajectories, "load")
        store.get(toy.trajectories)
    return store


@pytest.fixture(scope="module")
def alone(toy: Toy, fresh) -> Store:
    """A store whose proxy was fitted without a probe."""
    store = fresh()
    store.get(toy.proxy)
    return store


@pytest.fixture(scope="module")
def fitted_before(alone, tmp_path_factory):
    """Makes stores in which the proxy is, and no trajectories."""

    def copied() -> Store:
        place = tmp_path_factory.mktemp("fitted") / "store"
        return Store(str(shutil.copytree(alone.root, place, symlinks=True)))

    return copied


def digests(folder: Path, pattern: str) -> dict[str, str]:
    files = {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.glob(pattern))
    }
    assert files, pattern
    return files


@pytest.mark.parametrize(
    ("total", "snapshots", "steps"),
    [
        (20_791, 7, [208, 3638, 7069, 10_500, 13_930, 17_360, 20_791]),  # the release's fit
        (100, 5, [1, 26, 50, 75, 100]),
        (101, 2, [2, 101]),
        (6, 3, [1, 4, 6]),
        (7, 1, [7]),
        (3, 7, [1, 2, 3]),
        (1, 7, [1]),
        (1, 1, [1]),
    ],
)
def test_snapshots_are_evenly_apart_from_one_percent_to_the_end(total, snapshots, steps):
    assert schedule(total, snapshots) == steps


def test_steps_of_a_recipe_by_hand():
    assert Recipe(batch=8, micro_batch=4).steps(41) == 6  # 11 microbatches in twos
    assert Recipe(batch=8, micro_batch=4, epochs=3).steps(41) == 17  # 33 in twos
    assert Recipe(batch=128, micro_batch=16).steps(665_298) == 5198
    with pytest.raises(ValueError, match="batch 8 is no multiple of micro_batch 3"):
        Recipe(batch=8, micro_batch=3)
    with pytest.raises(ValueError, match="epochs 0: at least 1 is needed"):
        Recipe(epochs=0)


def test_a_fit_with_the_probe_gives_the_same_weights_bit_for_bit(toy: Toy, probed, alone):
    assert not alone.path(toy.trajectories).exists()
    with_probe, without = probed.get(toy.proxy), alone.get(toy.proxy)
    weights = digests(with_probe, "steps/*/*.safetensors")
    assert weights == digests(without, "steps/*/*.safetensors")
    assert len(set(weights.values())) == 3
    assert digests(with_probe, "loss.csv") == digests(without, "loss.csv")


def test_values_taken_online_equal_those_of_the_saved_steps(toy: Toy, probed, fitted_before):
    offline = fitted_before()  # so the values come from its saved steps
    online, later = probed.get(toy.trajectories), offline.get(toy.trajectories)
    for name in ("values.npy", "reasons.npy", "statistics.json", "statistics.csv"):
        assert digests(online, name) == digests(later, name)
    assert not list(online.glob("shards*"))


WHEN = pytest.mark.parametrize(
    "stores", ["fresh", "fitted_before"], ids=["during the fit", "after"]
)


@WHEN
def test_a_step_that_an_interrupted_attempt_measured_is_kept(toy: Toy, probed, stores, request):
    store = request.getfixturevalue(stores)()
    done = store.path(toy.trajectories)
    draft = done.with_name(f".{done.name}")
    draft.mkdir(parents=True)
    measuring = Measuring(toy.trajectories, store, draft)
    model = load(store.get(toy.start)).model
    shards, rows = measuring.shards(model), measuring.scan(model).plan.rows
    for shard in range(shards.count):
        sevens = np.full((len(rows(shard)), 1, 5), 7, dtype=np.float32)
        shards.write(shard, [4], sevens, rank=3)  # of four processes, where now there is one
    values = np.load(store.get(toy.trajectories) / "values.npy")
    image = np.delete(values, TEXT_ONLY, axis=0)
    assert (image[:, 1] == 7).all()
    assert np.isnan(values[list(TEXT_ONLY)]).all()
    expected = np.load(probed.get(toy.trajectories) / "values.npy")
    assert np.array_equal(values[:, [0, 2]], expected[:, [0, 2]], equal_nan=True)


def test_trajectories_hold_values_a_snapshot_and_move(toy: Toy):
    folder = toy.store.get(toy.trajectories)
    values, steps = np.load(folder / "values.npy"), np.load(folder / "steps.npy")
    assert steps.tolist() == [1, 4, 6] == toy.proxy.steps(toy.store)
    assert values.shape == (ROWS, 3, 5)
    assert values.dtype == np.float32
    reasons = np.load(folder / "reasons.npy")
    assert reasons.dtype == np.uint8
    assert tuple(np.flatnonzero(reasons == 1)) == TEXT_ONLY
    assert np.array_equal(np.isnan(values).any(axis=(1, 2)), reasons > 0)
    moved = np.abs(np.diff(values, axis=1)).max(
        axis=(0, 2), where=~np.isnan(values[:, 1:]), initial=0
    )
    assert (moved > 1e-5).all()


def test_statistics_of_every_snapshot_are_written(toy: Toy):
    folder = toy.store.get(toy.trajectories)
    values = np.load(folder / "values.npy").astype(np.float64)
    written = json.loads((folder / "statistics.json").read_text())
    assert list(written) == ["1", "4", "6"]
    image = np.delete(values, TEXT_ONLY, axis=0)
    assert written["4"]["rows"] == len(image)
    median = written["4"]["quantiles"]["sigma2"]["0.5"]
    assert median == pytest.approx(np.median(image[:, 1, 1]))
    assert 0 < written["4"]["r2_length"]["sum"] <= 1
    with (folder / "statistics.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["step"] for line in lines] == ["1", "4", "6"]
    assert float(lines[1]["sigma2/0.5"]) == pytest.approx(median)


@WHEN
def test_statistics_go_to_the_logger(toy: Toy, probed, tmp_path, stores, request):
    logger = CSVLogger(tmp_path, name="", version="")
    logged = dataclasses.replace(toy.proxy, logger=logger)
    assert key(logged) == key(toy.proxy)
    store = request.getfixturevalue(stores)()
    folder = store.get(dataclasses.replace(toy.trajectories, proxy=logged))
    assert digests(folder, "values.npy") == digests(probed.get(toy.trajectories), "values.npy")
    with (tmp_path / "metrics.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["attention/sum/0.5"]]
    written = json.loads((folder / "statistics.json").read_text())
    assert [line["step"] for line in lines] == list(written)
    for line in lines:
        summary = written[line["step"]]
        assert float(line["attention/sum/0.5"]) == pytest.approx(summary["quantiles"]["sum"]["0.5"])
        assert float(line["attention/sum/r2_length"]) == pytest.approx(summary["r2_length"]["sum"])


def test_other_singular_values_of_the_same_proxy_train_nothing(toy: Toy):
    toy.store.get(toy.trajectories)
    proxies = list((Path(toy.store.root) / "proxy").glob("[!.]*"))
    before = toy.store.get(toy.proxy).stat().st_mtime_ns
    spectra = dataclasses.replace(toy.trajectories.spectra, k=3)
    fewer = dataclasses.replace(toy.trajectories, spectra=spectra)
    values = np.load(toy.store.get(fewer) / "values.npy")
    five = np.load(toy.store.get(toy.trajectories) / "values.npy")
    assert np.array_equal(values, five[:, :, :3], equal_nan=True)
    assert toy.store.get(toy.proxy).stat().st_mtime_ns == before
    assert list((Path(toy.store.root) / "proxy").glob("[!.]*")) == proxies


def test_a_probe_is_no_part_of_a_proxy_s_identity(toy: Toy):
    measured = dataclasses.replace(
        toy.proxy, callbacks=[AttentionProbe([1], lambda model, step: None)]
    )
    assert key(measured) == key(toy.proxy)
    assert key(dataclasses.replace(toy.proxy, seed=1)) != key(toy.proxy)


def test_snapshots_hold_what_trains_and_nothing_else(toy: Toy):
    folder = toy.store.get(toy.proxy)
    start = load(toy.store.get(toy.start)).model
    before = {name: weight.detach() for name, weight in start.named_parameters()}
    trained = {name for name in before if "vision_tower" not in name}
    steps = [load_file(folder / f"steps/{step}/trained.safetensors") for step in (1, 4, 6)]
    for snapshot in steps:
        assert set(snapshot) == trained
    used = [name for name in trained if "norm" not in name]
    for earlier, later in itertools.pairwise(steps):
        assert not any(torch.equal(earlier[name], later[name]) for name in used)
    again = toy.proxy.load(toy.store, 4).model
    for name, weight in again.named_parameters():
        assert torch.equal(weight, steps[1][name] if name in trained else before[name]), name


def test_the_loss_file_has_one_line_an_optimiser_step(toy: Toy):
    """Two microbatches a step; the rate is the one the step was made with: zero, then a cosine."""
    rows = losses(toy.store.get(toy.proxy))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    cosine = [RECIPE.rate * (1 + math.cos(math.pi * at / 5)) / 2 for at in range(5)]
    np.testing.assert_allclose([row["rate"] for row in rows], [0, *cosine], atol=1e-12)
    table = toy.proxy.tokens().open(toy.store)
    answered = sum(int(table[row].labelled.sum()) for row in range(ROWS))
    assert sum(row["answer_tokens"] for row in rows) == answered
    assert all(4 < row["loss"] < 7 for row in rows)  # log(384) is 5.95


def test_the_first_loss_is_the_start_point_s(toy: Toy):
    """Worked out beside the trainer: the mean over the first step's two microbatches."""
    table = toy.proxy.tokens().open(toy.store)
    order = modality_length_order(
        table.lengths, table.image_at >= 0, micro=4, world=2, rng=np.random.default_rng(0)
    )
    parts = load(toy.store.get(toy.start))
    loader = Loader(
        table,
        micro_batches(order, 4)[:2],
        image_token=parts.model.config.image_token_index,
        pad=parts.tokenizer.pad_token_id,
        pictures=toy.vision.pictures(toy.store),
    )
    with torch.no_grad():
        batch_losses = [
            answer_loss(
                parts.model, batch.ids, batch.mask, batch.labels, features_of(parts.model, batch)
            ).item()
            for batch in loader
        ]
    assert losses(toy.store.get(toy.proxy))[0]["loss"] == pytest.approx(
        np.mean(batch_losses), rel=1e-5
    )


def proxy_with(toy: Toy, **options) -> Proxy:
    recipe = {name: options.pop(name) for name in list(options) if hasattr(RECIPE, name)}
    changed = dataclasses.replace(RECIPE, **recipe)
    return dataclasses.replace(toy.proxy, recipe=changed, **options)


def test_the_loss_falls_over_twenty_steps(toy: Toy):
    longer = proxy_with(toy, epochs=4, snapshots=1)
    curve = [row["loss"] for row in losses(toy.store.get(longer))]
    assert len(curve) == 22
    assert np.mean(curve[-3:]) < np.mean(curve[:3]) - 1


def test_pictures_from_files_give_the_same_fit_as_cached_ones(toy: Toy):
    cached = losses(toy.store.get(toy.proxy))
    read = losses(toy.store.get(dataclasses.replace(toy.proxy, cache_vision=False)))
    for cached_row, read_row in zip(cached, read, strict=True):
        assert cached_row == pytest.approx(read_row, rel=1e-4)


def test_a_fit_leaves_the_caller_s_random_numbers_alone(toy: Toy):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    toy.store.get(proxy_with(toy, rate=1e-3))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_seed_gives_another_fit(toy: Toy):
    reseeded = dataclasses.replace(toy.proxy, seed=1)
    assert digests(toy.store.get(reseeded), "loss.csv") != digests(
        toy.store.get(toy.proxy), "loss.csv"
    )


def test_a_loss_that_is_not_a_number_stops_the_fit_and_names_the_rows(toy: Toy):
    exploding = proxy_with(toy, rate=1e30)
    with pytest.raises(
        FloatingPointError, match=r"loss is (nan|inf) at microbatch \d+, rows \[\d+"
    ):
        toy.store.get(exploding)
    assert not toy.store.path(exploding).exists()


def test_several_devices_without_a_process_on_each_are_refused(toy: Toy):
    hardware = dataclasses.replace(toy.proxy.hardware, devices=3)
    with pytest.raises(ValueError, match=r"3 devices, but 1 processes were started; start one on"):
        toy.store.get(dataclasses.replace(toy.proxy, hardware=hardware, seed=9))


def test_a_weight_without_a_place_is_refused(toy: Toy, alone, monkeypatch):
    monkeypatch.setattr("xmas.training.proxy.load_file", lambda path: {"foreign": torch.ones(1)})
    with pytest.raises(ValueError, match=r"proxy step 4: no place for weights \['foreign'\]"):
        toy.proxy.load(alone, 4)
