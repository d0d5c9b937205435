"""OnceSelect: its rules by hand, training that repeats, and transfer to another pool."""

import csv
import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from given import GivenClip, drawn_clip, given_clip
from toy import TEXT_ONLY, Toy

from xmas.data.pool import Pool
from xmas.features.clip.clip import ClipEmbeddings
from xmas.features.clip.embedded import joint
from xmas.features.once_select.classifier import (
    GatedClassifier,
    Network,
    Pairs,
    evaluate,
    train_epoch,
)
from xmas.features.once_select.once_select import OnceSelect, assign, pairs
from xmas.features.once_select.pseudo_labels import PseudoLabels
from xmas.selection.methods.ofa import Ofa, at_least_one, proportional_quotas
from xmas.store import Store, content, key

POOL = Pool("/dev/null", ".")  # what is selected from lies in the embeddings
SMALL = {"k": 5, "nearest": 0.3, "rate": 3e-4, "epochs": 12, "batch": 16}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def clip(tmp_path) -> GivenClip:
    return drawn_clip(tmp_path / "a", 211)


@pytest.fixture
def ofa(clip) -> Ofa:
    return Ofa(PseudoLabels(clip, OnceSelect(clip, **SMALL)))


def select(selector: Ofa, budget: int, store: Store, seed: int = 0) -> np.ndarray:
    return selector.select(POOL, budget, np.random.default_rng(seed), store)


# Quotas.


@pytest.mark.parametrize(
    ("sizes", "budget", "quotas"),
    [
        ([50, 30, 20], 10, [5, 3, 2]),
        ([5, 5, 5], 4, [2, 1, 1]),  # equal remainders: the lower position
        ([7, 2, 1], 5, [4, 1, 0]),  # 3.5, 1.0, 0.5
        ([7, 2, 1], 3, [2, 1, 0]),  # 2.1, 0.6, 0.3
        ([3, 0, 4], 7, [3, 0, 4]),
        ([3, 0, 4], 0, [0, 0, 0]),
    ],
)
def test_quotas_by_hand(sizes, budget, quotas):
    assert proportional_quotas(np.array(sizes), budget).tolist() == quotas


@pytest.mark.parametrize(
    ("quotas", "sizes", "given"),
    [
        ([4, 1, 0], [7, 2, 1], [3, 1, 1]),
        ([2, 2, 0, 0], [9, 9, 1, 0], [1, 2, 1, 0]),  # of equal quotas the first gives; empty: none
        ([1, 1, 0], [9, 9, 1], [1, 1, 0]),  # three clusters cannot share two rows
        ([0, 0], [0, 0], [0, 0]),
    ],
)
def test_every_cluster_gives_a_row_where_there_are_enough(quotas, sizes, given):
    assert at_least_one(np.array(quotas), np.array(sizes)).tolist() == given


def test_quotas_fill_every_budget_within_sizes():
    rng = np.random.default_rng(0)
    for _ in range(300):
        sizes = rng.integers(0, 9, size=rng.integers(1, 12))
        budget = int(rng.integers(0, sizes.sum() + 1))
        quotas = proportional_quotas(sizes, budget)
        raised = at_least_one(quotas, sizes)
        for each in (quotas, raised):
            assert each.sum() == budget
            assert ((each >= 0) & (each <= sizes)).all()
        if sizes.any():
            assert np.abs(quotas - budget * sizes / sizes.sum()).max() < 1
        assert (raised[sizes > 0] > 0).all() or budget < (sizes > 0).sum()


def test_a_budget_over_all_clusters_is_refused():
    with pytest.raises(ValueError, match="budget 8 exceeds the 7 rows of 2 clusters"):
        proportional_quotas(np.array([3, 4]), 8)


# The classifier.


def test_the_network_has_as_many_parameters_as_the_release():
    model = GatedClassifier(Network(), 512, 128)
    assert sum(each.numel() for each in model.parameters()) == 624_002


def test_the_network_by_hand():
    """One value everywhere, so that every layer can be followed."""
    model = GatedClassifier(Network(hidden=2, gate=1, dropout=0.0), 1, 2).eval()
    with torch.no_grad():
        for each in model.parameters():
            each.zero_()
        model.image.weight[:] = torch.tensor([[2.0], [0.0]])
        model.text.weight[:] = torch.tensor([[0.0], [4.0]])
        model.gate[0].weight[:] = torch.tensor([[1.0, 1.0, 1.0]])
        model.gate[2].weight[:] = 1.0
        model.product.weight[:] = torch.tensor([[10.0], [-10.0]])
        model.scale[...] = 0.1
        model.head[0].weight[:] = 1.0
        model.head[3].weight[:] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        logits = model(torch.tensor([[0.5]]), torch.tensor([[1.0]]))
    gate = 1 / (1 + np.exp(-2.0))  # 0.5 + 1.0 + 0.5
    fused = np.array([gate * 1.0 + 0.1 * 5.0, (1 - gate) * 4.0 - 0.1 * 5.0])
    normed = (fused - fused.mean()) / np.sqrt(fused.var() + 1e-5)
    assert normed[0] > 0 > normed[1]
    assert logits.numpy() == pytest.approx(np.array([[normed[0], 3 * normed[0]]]), abs=1e-5)


def test_ablations_leave_parts_out():
    names = {
        fusion: {name.split(".")[0] for name, _ in model.named_parameters()}
        for fusion in ("full", "static_gate", "no_interaction")
        for model in [GatedClassifier(Network(fusion=fusion), 6, 3)]
    }
    assert names["full"] - names["no_interaction"] == {"product", "scale"}
    assert names["static_gate"] ^ names["full"] == {"gate", "fixed"}
    with pytest.raises(ValueError, match="fusion 'none': expected one of full, static_gate"):
        GatedClassifier(Network(fusion="none"), 6, 3)


def test_judged_by_hand():
    class Says(torch.nn.Module):
        def forward(self, image, text):
            return torch.eye(3)[torch.tensor([0, 0, 0, 1, 1])]

    nothing = torch.zeros(5, 1)
    found = evaluate(Says(), Pairs(nothing, nothing, torch.tensor([0, 0, 1, 1, 2])))
    # Right: both of 0, one of two of 1, none of 2.
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["macro"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["covered"] == 2


def test_rare_labels_are_learnt_as_often_as_frequent_ones():
    """Of 400 rows 4 have label 1: half of what is drawn has it."""
    seen: list[torch.Tensor] = []

    class Watch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))

        def forward(self, image, text):
            seen.append(image[:, 0])
            return image @ self.weight[None, :] + text

    labels = torch.tensor([0] * 396 + [1] * 4)
    image, text = labels[:, None].float(), torch.zeros(400, 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Watch()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train_epoch(model, optimizer, Pairs(image, text, labels), batch=64)
    assert [len(batch) for batch in seen] == [64] * 6 + [16]
    assert 150 < torch.cat(seen).sum() < 250


# Training.


def test_the_nearest_centroid_by_brute_force(clip, store):
    seen = clip.open(store)
    rows = np.arange(len(seen))
    points = joint(*pairs(seen, rows))
    centroids = points[[0, 4, 7]] * 0.9
    labels, distances = assign(seen, centroids)
    for row in rows:
        if seen.picture[row] < 0:
            assert labels[row] == -1
            assert np.isnan(distances[row])
        else:
            apart = ((points[row] - centroids) ** 2).sum(axis=1)
            assert labels[row] == apart.argmin()
            assert distances[row] == pytest.approx(apart.min(), abs=1e-5)


def test_learnt_from_are_the_rows_nearest_each_centroid(clip):
    labels = np.array([0] * 10 + [1] * 3 + [2] + [-1] * 2)
    distances = np.array(
        [5, 1, 9, 3, 8, 7, 2, 6, 4, 0, 3, 1, 2, 0, np.nan, np.nan], dtype=np.float32
    )
    stage = OnceSelect(clip, nearest=0.4, held_out=0.3)
    train, held = stage._core(labels, distances)
    assert sorted([*train, *held]) == [1, 3, 6, 9, 11, 12]  # 4 of 10; 2 of 3; of 1 none
    assert (labels[train] == 0).sum() == 3  # one of four held out, one of two
    assert (labels[train] == 1).sum() == 1


def test_the_epoch_closest_to_the_wanted_accuracy_is_kept(clip, store):
    stages = {
        wanted: OnceSelect(clip, **SMALL | {"accuracy": wanted}) for wanted in (0.3, 0.6, 1.0)
    }
    epochs = []
    for wanted, stage in stages.items():
        folder = store.get(stage)
        with (folder / "epochs.csv").open() as file:
            lines = [
                {name: float(held) for name, held in row.items()} for row in csv.DictReader(file)
            ]
        assert [line["epoch"] for line in lines] == list(range(1, 13))
        off = [abs(line["macro"] - wanted) for line in lines]
        chosen = json.loads((folder / "selector.json").read_text())["chosen"]
        assert chosen == lines[int(np.argmin(off))]  # argmin: the first of equal ones
        epochs.append(chosen["epoch"])
        weights = torch.load(folder / "selector.pt", weights_only=True)
        seen = clip.open(store)
        model = GatedClassifier(Network(), seen.width, 5)
        model.load_state_dict(weights)
        labels, distances = assign(seen, np.load(folder / "centroids.npy"))
        held = stage._core(labels, distances)[1]
        tested = Pairs(*map(torch.from_numpy, (*pairs(seen, held), labels[held])))
        assert evaluate(model, tested)["macro"] == pytest.approx(chosen["macro"])
    assert epochs == sorted(epochs)
    assert epochs[0] < epochs[-1]


def test_covering_leaves_out_epochs_that_never_predict_a_cluster(clip, store):
    stage = OnceSelect(clip, **SMALL | {"accuracy": 0.0, "covering": True})
    chosen = json.loads((store.get(stage) / "selector.json").read_text())["chosen"]
    assert chosen["covered"] == 5
    free = dataclasses.replace(stage, covering=False)
    chosen = json.loads((store.get(free) / "selector.json").read_text())["chosen"]
    assert chosen["covered"] < 5
    hopeless = dataclasses.replace(stage, rate=1e-9)
    with pytest.raises(ValueError, match="none of 12 epochs predicts all 5 clusters"):
        store.get(hopeless)


def test_an_accuracy_that_is_never_near_is_warned_of(clip, store, caplog):
    with caplog.at_level(logging.WARNING, logger="xmas"):
        store.get(OnceSelect(clip, **SMALL | {"rate": 1e-9, "accuracy": 0.9}))
    assert "macro accuracy should be 0.90, the closest of 12 epochs has" in caplog.text


def test_training_repeats_and_leaves_the_global_numbers_alone(clip, tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    folders = [Store(str(tmp_path / name)).get(OnceSelect(clip, **SMALL)) for name in "xy"]
    assert torch.equal(torch.get_rng_state(), before)
    one, other = (torch.load(folder / "selector.pt", weights_only=True) for folder in folders)
    assert all(torch.equal(one[name], other[name]) for name in one)
    for name in ("centroids.npy", "epochs.csv", "selector.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_a_sample_of_the_rows_finds_the_same_groups(clip, store):
    """Clear groups: k-means of 5 x 12 rows names them as k-means of all does."""
    few = OnceSelect(clip, **SMALL | {"per_centroid": 12, "seed": 3})
    centroids = (
        np.load(store.get(each) / "centroids.npy") for each in (OnceSelect(clip, **SMALL), few)
    )
    labels = [assign(clip.open(store), each)[0] for each in centroids]
    together = [each[:, None] == each[None] for each in labels]
    assert (together[0] == together[1]).mean() > 0.9


def test_fewer_rows_than_clusters_are_refused(clip, store):
    with pytest.raises(ValueError, match=r"500 clusters of 190 rows with a picture and a question"):
        store.get(OnceSelect(clip, **SMALL | {"k": 500}))


# Selection.


@dataclasses.dataclass(frozen=True)
class GivenLabels(PseudoLabels):
    """Labels and confidence out of a folder."""

    kind: ClassVar[str] = "given_labels"

    folder: str = content("")

    def compute(self, store: Store, out: Path) -> None:
        shutil.copytree(self.folder, out, dirs_exist_ok=True)


def labelled(
    folder: Path, clip: GivenClip, labels: object, confidence: object, store: Store
) -> Ofa:
    """An OFA whose labels and confidence are in the store already."""
    place = folder / "given_labels"
    place.mkdir()
    np.save(place / "labels.npy", np.array(labels))
    np.save(place / "confidence.npy", np.array(confidence, dtype=np.float32))
    stage = GivenLabels(clip, str(place / "labels.npy"), folder=str(place))
    store.get(stage)
    return Ofa(stage)


EAST, NORTH = [1, 0], [0, 1]


def test_only_rows_of_low_confidence_are_offered(tmp_path, store):
    """Two clusters of 8 and 4; a budget of 3 takes 2 and 1, out of the 4 and 2 least sure."""
    turns = [[EAST, EAST]] * 14
    clip = given_clip(tmp_path / "clip", [EAST, NORTH], [0, 1] * 6 + [-1, 0], turns)
    labels = [0] * 8 + [1] * 4 + [-1, -1]
    confidence = [0.8, 0.1, 0.7, 0.2, 0.6, 0.3, 0.5, 0.4, 0.9, 0.2, 0.2, 0.2, np.nan, np.nan]
    ofa = labelled(tmp_path, clip, labels, confidence, store)
    seen = set()
    for seed in range(60):
        rows = select(ofa, 3, store, seed).tolist()
        assert len(rows) == 3
        seen |= set(rows)
    assert seen == {1, 3, 5, 7, 9, 10}  # of the equal ones of cluster 1 the first two


def test_the_kernel_by_hand(tmp_path, store):
    turns = [[EAST, NORTH], [NORTH, EAST], [EAST, NORTH]]
    clip = given_clip(tmp_path / "clip", [EAST, NORTH], [0, 0, 1], turns)
    ofa = labelled(tmp_path, clip, [0] * 3, [0.1] * 3, store)
    quality = np.array([1.0, 0.5, 0.25])
    kernel = ofa._kernel(clip.open(store), np.arange(3), quality)
    # Joint cosines: 0 and 1 share the picture, 0 and 2 the question, 1 and 2 nothing.
    alike = np.array([[1, 0.75, 0.75], [0.75, 1, 0.5], [0.75, 0.5, 1]])
    roots = np.sqrt(quality)
    assert kernel == pytest.approx(roots[:, None] * roots * alike + 1e-8 * np.eye(3), abs=1e-6)


def test_one_block_is_a_k_dpp_of_the_kernel(tmp_path, store):
    """Sets of two out of four candidates, counted against their determinants.

    400 clusters have the same four, so that one selection draws 400 sets.
    """
    rng = np.random.default_rng(5)
    image = rng.standard_normal((4, 3))
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    turns = [[[1, 0, 0], [0, 1, 0]]] * 1600
    clip = given_clip(tmp_path / "clip", np.tile(image, (400, 1)), list(range(1600)), turns)
    labels, confidence = np.repeat(np.arange(400), 4), np.tile([0.1, 0.2, 0.3, 0.4], 400)
    ofa = labelled(tmp_path, clip, labels, confidence, store)
    kernel = ofa._kernel(clip.open(store), np.arange(4), 1 - np.arange(4) / 4)
    sets = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    odds = np.array([np.linalg.det(kernel[np.ix_(each, each)]) for each in sets])
    odds /= odds.sum()
    rows = select(ofa, 800, store).reshape(400, 2)
    assert (rows // 4 == np.arange(400)[:, None]).all()
    drawn = [tuple(each) for each in (rows % 4).tolist()]
    counts = np.array([drawn.count(each) for each in sets])
    chi = ((counts - 400 * odds) ** 2 / (400 * odds)).sum()
    assert chi < 20.5  # 5 degrees of freedom, once in a thousand


def test_blocks_share_the_quota_by_size(ofa):
    blocks = list(dataclasses.replace(ofa, block=4)._blocks(10, 5, np.random.default_rng(0)))
    assert [len(rows) for rows, _ in blocks] == [4, 4, 2]
    assert [quota for _, quota in blocks] == [2, 2, 1]
    assert sorted(np.concatenate([rows for rows, _ in blocks])) == list(range(10))
    assert list(ofa._blocks(0, 0, np.random.default_rng(0))) == []


def test_every_budget_is_exact_and_of_image_rows(ofa, store):
    picture = np.load(store.get(ofa.labels.clip) / "picture.npy")
    for budget in (1, 2, 5, 17, 97, 190):
        rows = select(dataclasses.replace(ofa, block=16), budget, store)
        assert len(rows) == len(set(rows.tolist())) == budget
        assert (picture[rows] >= 0).all()
    assert rows.tolist() == np.flatnonzero(picture >= 0).tolist()


def test_a_budget_over_the_rows_with_an_image_is_refused_with_both_numbers(ofa, store):
    with pytest.raises(
        ValueError, match=r"budget of 191 image rows exceeds the 190 .* of 211 rows"
    ):
        select(ofa, 191, store)


def test_the_same_seed_draws_the_same_rows(ofa, store):
    one, same, other = (select(ofa, 40, store, seed).tolist() for seed in (3, 3, 4))
    assert one == same != other


# Transfer.


def test_a_selector_is_trained_once_and_scores_another_pool(ofa, tmp_path, store):
    """Pool B: other rows around the same directions; nothing is clustered or trained again."""
    folder = store.get(ofa.labels.trained)
    away = shutil.copytree(folder, tmp_path / "carried")
    other = drawn_clip(tmp_path / "b", 97, seed=1)
    elsewhere = Store(str(tmp_path / "elsewhere"))
    carried = Ofa(PseudoLabels(other, OnceSelect(other, **SMALL)), trained=str(away))
    rows = select(carried, 30, elsewhere)
    assert len(set(rows.tolist())) == 30
    kinds = {path.name for path in Path(elsewhere.root).iterdir()}
    assert kinds == {"given_clip", "pseudo_labels", "by-name"}
    labels, confidence = carried.scored(elsewhere)
    expected, _ = assign(other.open(elsewhere), np.load(folder / "centroids.npy"))
    assert labels.tolist() == expected.tolist()
    assert (np.isnan(confidence) == (labels < 0)).all()
    assert np.nanmin(confidence) >= 1 / 5
    one, trained_here = (
        Ofa(PseudoLabels(other, OnceSelect(other, **SMALL)), trained=path)
        for path in (str(away), None)
    )
    assert select(one, 30, elsewhere).tolist() == rows.tolist()
    assert select(trained_here, 30, elsewhere).tolist() != rows.tolist()


def test_confidence_is_the_largest_probability(ofa, store):
    labels, confidence = ofa.scored(store)
    folder = store.get(ofa.labels.trained)
    seen = ofa.labels.clip.open(store)
    model = GatedClassifier(Network(), seen.width, 5)
    model.load_state_dict(torch.load(folder / "selector.pt", weights_only=True))
    rows = np.flatnonzero(labels >= 0)[:9]
    with torch.no_grad():
        logits = model.eval()(*map(torch.from_numpy, pairs(seen, rows))).double().numpy()
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert confidence[rows] == pytest.approx(shares.max(axis=1), rel=1e-5)


def test_a_trained_folder_is_known_by_its_content(ofa, tmp_path, store):
    folder = store.get(ofa.labels.trained)
    copies = [shutil.copytree(folder, tmp_path / name) for name in ("one", "two")]
    keys = [key(dataclasses.replace(ofa.labels, trained=str(copy))) for copy in copies]
    assert keys[0] == keys[1]
    (copies[1] / "epochs.csv").write_text("")
    assert key(dataclasses.replace(ofa.labels, trained=str(copies[1]))) != keys[0]


def test_another_clip_is_refused(ofa, tmp_path, store):
    folder = store.get(ofa.labels.trained)
    other = drawn_clip(tmp_path / "b", 97, weights="another one altogether")
    with pytest.raises(
        ValueError, match=r"trained on the CLIP with weights w, .* of another one ;"
    ):
        store.get(PseudoLabels(other, str(folder)))


def test_a_folder_without_a_selector_is_refused(clip, tmp_path, store):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"nothing is no trained selector: selector\.json is"):
        store.get(PseudoLabels(clip, str(tmp_path / "nothing")))


def test_a_trained_folder_is_named_on_the_command_line(toy_selector):
    own = toy_selector("ofa")
    assert isinstance(own.labels.trained, OnceSelect)
    assert own.labels.trained.clip == own.labels.clip
    assert own.labels.trained.k == 4
    assert toy_selector("ofa", "features.pseudo_labels.trained.k=3").labels.trained.k == 3
    assert toy_selector("ofa", "selector.trained=some/folder").trained == "some/folder"
    other = toy_selector("ofa", "features.pseudo_labels.trained=some/folder")
    assert other.labels.trained == "some/folder"


def test_transfer_between_two_pools_of_files(toy: Toy, tmp_path):
    """From annotations on, with a real CLIP: every third row is left out of pool B."""
    records = json.loads((toy.folder / "pool.json").read_text())
    kept = [row for row in range(len(records)) if row % 3]
    (tmp_path / "b.json").write_text(json.dumps([records[row] for row in kept]))
    pools = toy.pool, Pool(str(tmp_path / "b.json"), str(toy.folder / "images"))
    ones = [ClipEmbeddings(pool, toy.towers) for pool in pools]
    options = {"k": 4, "nearest": 0.5, "rate": 1e-3, "epochs": 5}
    trained = OnceSelect(ones[0], **options)
    first = Ofa(PseudoLabels(ones[0], trained))
    second = Ofa(PseudoLabels(ones[1], trained), trained=str(toy.store.get(trained)))
    rng = np.random.default_rng(0)
    assert len(first.select(pools[0], 20, rng, toy.store)) == 20
    assert len(second.select(pools[1], 11, rng, toy.store)) == 11
    both = first.scored(toy.store), second.scored(toy.store)
    assert both[0][0][kept].tolist() == both[1][0].tolist()  # the same row has the same label,
    np.testing.assert_allclose(both[0][1][kept], both[1][1], rtol=1e-3)  # as sure as before
    assert [kept[row] for row in np.flatnonzero(both[1][0] < 0)] == [
        row for row in TEXT_ONLY if row in kept
    ]
