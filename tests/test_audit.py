"""The audit: duplicates made by hand, formats named by hand, images shared with a benchmark."""

import dataclasses
import inspect
import io
import json
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from toy import ROWS, TEXT_ONLY, Toy, draw, picture_name

from xmas.data.near_copies.duplicates import (
    Duplicates,
    components,
    near_images,
    near_texts,
    pairs_of_equal,
)
from xmas.data.near_copies.image_hashes import (
    ImageHashes,
    all_hashes,
    difference_hash,
    distances,
    near_any,
)
from xmas.data.near_copies.text_sketches import FORMATS, Texts, format_of, min_hashes
from xmas.data.pool import Pool
from xmas.data.rows import PoolError
from xmas.evaluation.protocol import Question
from xmas.results.audit import Audit, coverage, explained_by, overlap, repeated, spread
from xmas.selection.methods.random import Random
from xmas.store import Store

sketch_of = inspect.unwrap(min_hashes)  # without the type hook, for thousands of calls


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("Yes", "yes_no"), ("no.", "yes_no"), ("B", "letter"), ("(C)", "letter"), ("D.", "letter"),
        ("7", "number"), ("-3.5", "number"), ("$1,200", "number"), ("45 %", "number"),
        ("crimson", "word"), ("I", "letter"), ("", "word"), ("a red disc", "phrase"),
        ("It is red.", "sentence"), ("one two three four five six", "sentence"),
        (" ".join(["word"] * 30), "sentence"), (" ".join(["word"] * 31), "long"),
        ("1. red disc\n2. blue bar", "long"),
    ],
)  # fmt: skip
def test_answers_have_a_format(answer, name):
    assert format_of(answer) == name


def test_sketches_estimate_the_similarity_of_word_sets():
    rng = np.random.default_rng(0)
    for shared in (0, 40, 80, 100):
        errors = []
        for _ in range(40):
            words = [str(word) for word in rng.choice(10**6, 200 - shared, replace=False)]
            one, other = words[:100], words[100 - shared :]
            alike = (sketch_of([" ".join(one)]) == sketch_of([" ".join(other)])).mean()
            errors.append(alike - shared / (200 - shared))
        assert abs(np.mean(errors)) < 0.03
        assert np.std(errors) < 0.09
    assert (sketch_of(["a b", "c"]) == sketch_of(["C, a; b"])).all()
    assert sketch_of([""]).shape == (64,)


def test_pairs_of_equal_keys_by_hand():
    keys = np.array([5, 1, 5, 2, 5, 1])
    pairs = {tuple(pair) for batch in pairs_of_equal(keys) for pair in batch.tolist()}
    assert pairs == {(0, 2), (0, 4), (2, 4), (1, 5)}
    assert list(pairs_of_equal(np.arange(4))) == []


@pytest.mark.parametrize("distance", [0, 3, 7])
def test_near_images_are_those_of_a_comparison_of_all(distance):
    rng = np.random.default_rng(distance)
    seen = rng.integers(0, 2**63, (70, 2), dtype=np.uint64)
    for copy in range(35, 70):  # 0 to 9 bits changed
        seen[copy] = seen[copy - 35]
        for bit in rng.choice(128, copy % 10, replace=False):
            seen[copy, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    all_of_them = [
        (i, j) for i in range(70) for j in range(i + 1, 70)
        if bin(int(seen[i, 0] ^ seen[j, 0])).count("1")
        + bin(int(seen[i, 1] ^ seen[j, 1])).count("1") <= distance
    ]  # fmt: skip
    assert [tuple(pair) for pair in near_images(seen, distance).tolist()] == all_of_them
    assert len(all_of_them) >= 3
    assert near_any(seen[:35], seen[35:], distance).tolist() == [
        any((i, j) in all_of_them for j in range(35, 70)) for i in range(35)
    ]


def test_a_distance_that_would_miss_pairs_is_refused():
    with pytest.raises(ValueError, match="distance 8: expected 0 to 7 bits"):
        near_images(np.zeros((2, 2), dtype=np.uint64), 8)


def test_components_are_what_pairs_connect():
    pairs = np.array([[1, 5], [5, 7], [2, 3], [7, 0]])
    assert components(9, pairs).tolist() == [0, 0, 2, 2, 4, 0, 6, 0, 8]
    chain = np.stack([np.arange(99), np.arange(1, 100)], axis=1)
    assert (components(100, chain[::-1]) == 0).all()


def test_near_texts_are_those_of_a_comparison_of_all():
    rng = np.random.default_rng(1)
    base = [rng.choice(500, 40, replace=False) for _ in range(20)]
    texts, groups = [], []
    for number in range(120):
        words = base[number % 20].copy()
        words[: number // 20] = 1000 + number  # up to five of forty replaced
        texts.append(" ".join(map(str, words)))
        groups.append(number % 40 // 20)
    sketches, groups = np.stack([sketch_of([text]) for text in texts]), np.array(groups)
    expected = {
        (i, j) for i in range(120) for j in range(i + 1, 120)
        if groups[i] == groups[j] and (sketches[i] == sketches[j]).mean() >= 0.8
    }  # fmt: skip
    found = {tuple(pair) for pair in near_texts(sketches, groups, 0.8).tolist()}
    assert found <= expected
    assert len(expected) > 50
    assert len(expected - found) <= len(expected) // 100  # 2 of 10,000 may be missed
    assert all(i % 20 == j % 20 for i, j in found)


def test_an_image_s_hash_hardly_changes_with_size_and_compression():
    rng = np.random.default_rng(3)
    grey = np.kron(rng.integers(0, 256, (9, 9)), np.ones((20, 20))).astype(np.uint8)
    image = Image.fromarray(grey).convert("RGB")
    squeezed = io.BytesIO()
    image.resize((331, 97)).save(squeezed, "JPEG", quality=60)
    other = Image.fromarray(np.ascontiguousarray(grey.T[::-1])).convert("RGB")
    alike = [Image.open(squeezed), image.point(lambda value: value // 2), other]
    hashes = np.stack([difference_hash(each) for each in alike])
    smaller, darker, unlike = distances(hashes, difference_hash(image)[None])
    assert smaller <= 4
    assert darker <= 4
    assert unlike > 30
    assert (difference_hash(Image.new("L", (33, 5), 77)) == 0).all()


def made(folder, rows: list[tuple[str | None, str, str]]) -> Pool:
    """A pool of (image, question, answer)."""
    records = []
    for image, question, answer in rows:
        asked = {"from": "human", "value": f"<image>\n{question}" if image else question}
        record = {"conversations": [asked, {"from": "gpt", "value": answer}]}
        records.append(record | ({"image": image} if image else {}))
    (folder / "rows.json").write_text(json.dumps(records))
    return Pool(str(folder / "rows.json"), str(folder), name="made")


LONG = "the quick brown fox jumps over the lazy dog while many other animals look on in silence"


@pytest.fixture
def copies(tmp_path):
    """Rows that repeat others, exactly and nearly; the tests say which."""
    rng = np.random.default_rng(5)
    for name in ("a", "b"):
        grey = np.kron(rng.integers(0, 256, (9, 9)), np.ones((12, 12))).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / f"{name}.png")
        Image.fromarray(grey).resize((96, 131)).save(tmp_path / f"{name}_small.png")
    (tmp_path / "a_copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    return made(
        tmp_path,
        [
            ("a.png", "What is it?", LONG),  # 0
            ("b.png", "What is it?", LONG),  # 1: of another image
            ("a.png", "What is it?", LONG),  # 2: exact, of 0
            ("a_copy.png", "What is it?", LONG),  # 3: exact, the file is a copy
            ("a_small.png", "What is it?", LONG),  # 4: near, the image is smaller
            ("a.png", "What is it?", LONG + " today"),  # 5: near, one word more
            ("a.png", "How many?", "seven"),  # 6: another question
            (None, "Tell me.", LONG),  # 7
            (None, "Tell me.", LONG),  # 8: exact, of 7
            (None, "Tell me!", LONG + " now"),  # 9: near 7 and 8
            (None, "And then?", "nothing at all of that kind"),  # 10
        ],
    )


def test_duplicates_made_by_hand_are_found(copies, tmp_path):
    folder = Store(str(tmp_path / "store")).get(Duplicates(copies))
    exact, near = np.load(folder / "exact.npy"), np.load(folder / "near.npy")
    assert exact.tolist() == [0, 1, 0, 0, 4, 5, 6, 7, 7, 9, 10]
    of_image = {(i, j) for i in (0, 2, 3, 4, 5) for j in (0, 2, 3, 4, 5) if i < j}
    assert {tuple(pair) for pair in near.tolist()} == of_image | {(7, 8), (7, 9), (8, 9)}
    assert repeated(np.arange(11), exact, near) == {"exact": 3, "near": 6}
    assert repeated(np.array([0, 1, 4, 6, 9]), exact, near) == {"exact": 0, "near": 1}
    assert repeated(np.array([6, 10]), exact, near) == {"exact": 0, "near": 0}


def test_without_images_names_stand_for_them(copies, tmp_path):
    folder = Store(str(tmp_path / "store")).get(Duplicates(copies, images=False))
    near = {tuple(pair) for pair in np.load(folder / "near.npy").tolist()}
    assert near == {(0, 2), (0, 5), (2, 5), (7, 8), (7, 9), (8, 9)}
    assert np.load(folder / "exact.npy").tolist() == [0, 1, 0, 3, 4, 5, 6, 7, 7, 9, 10]
    assert not (tmp_path / "store" / "image_hashes").exists()


def test_an_image_that_cannot_be_read_is_named(copies, tmp_path):
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(PoolError, match=r"b\.png: cannot identify.*set audit\.images=false"):
        Store(str(tmp_path / "store")).get(ImageHashes(copies))


def test_spread_coverage_and_overlap_by_hand():
    assert spread(np.array([1, 2, 3, 4, 10])) == pytest.approx(
        {"sum": 20, "mean": 4, "q05": 1.2, "q25": 2, "q50": 3, "q75": 4, "q95": 8.8}
    )
    clusters = np.array([0, 0, 0, 0, 3, 3, -1, 4])  # 1 and 2 are empty
    assert coverage(clusters, np.array([0, 4, 5, 6])) == {
        "clusters": 3, "covered": 2, "least_kept": 0.0, "median_kept": 0.25, "most_kept": 1.0,
    }  # fmt: skip
    assert coverage(np.full(8, -1), np.array([0, 4])) is None
    shared = overlap(np.array([1, 2, 3, 4]), np.array([3, 4, 5, 4]), 12)
    assert shared == {"rows": 2, "jaccard": 2 / 5, "jaccard_at_random": 1 / 6}
    with pytest.raises(ValueError, match=r"audit\.against names rows 3 to 12; the pool has 12"):
        overlap(np.array([1]), np.array([3, 12]), 12)


def test_what_length_explains_of_a_score():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 500, 997)
    scores = np.sqrt(lengths) + 3
    scores[:90] = np.nan
    assert explained_by(scores, lengths) > 0.99
    assert explained_by(rng.normal(size=997), lengths) < 0.05
    assert explained_by(np.full(997, np.nan), lengths) is None


@dataclasses.dataclass(frozen=True)
class Seen:
    """A benchmark that asks about two images of the toy pool, one of them redrawn."""

    name: ClassVar[str] = "seen"
    metric: ClassVar[str] = "accuracy"
    folder: str
    split: str = "toy"
    max_new_tokens: int = 8

    def asked(self, store):
        redrawn = io.BytesIO()
        image = draw(5)
        larger = image.resize((3 * image.width, 3 * image.height), Image.Resampling.NEAREST)
        larger.save(redrawn, "PNG")
        with open(f"{self.folder}/images/{picture_name(1)}", "rb") as file:
            return [
                Question(0, "?", file.read()),
                Question(1, "?", redrawn.getvalue()),
                Question(2, "?", None),
            ]

    def score(self, answers, store):
        raise NotImplementedError


def test_an_audit_sets_the_subset_beside_the_pool(toy: Toy, tmp_path):
    subset = toy.subset(toy.length, rows=17, text_only="ranked")
    other = toy.subset(Random(), rows=17)
    against = str(toy.store.get(other) / "rows.json")
    audit = Audit(subset, toy.proxy, {"seen": Seen(str(toy.folder))}, against)
    folder = toy.store.get(audit)
    found = json.loads((folder / "audit.json").read_text())
    rows, examples = subset.chosen(toy.store), toy.pool.open()
    assert found["selector"] == "length"
    assert found["rows"] == {"pool": ROWS, "subset": 17}
    for side, of_side in (("pool", np.arange(ROWS)), ("subset", rows)):
        sources = examples.sources[of_side].tolist()
        assert found["sources"][side] == {name: sources.count(name) for name in set(sources)}
        answers = [answer for row in of_side for _, answer in examples.conversation(int(row))]
        assert sum(found["formats"][side].values()) == len(answers)
        for name in FORMATS:
            assert found["formats"][side][name] == sum(format_of(a) == name for a in answers)
    lengths = toy.proxy.tokens().open(toy.store).text_lengths
    assert found["length_unit"] == "text tokens"
    assert found["lengths"]["subset"]["sum"] == lengths[rows].sum()
    assert found["length_kept"] == pytest.approx(lengths[rows].sum() / lengths.sum())
    assert found["clusters"]["clusters"] == 5
    assert found["score_explained_by_length"] > 0.97  # length's own score
    common = len(np.intersect1d(rows, other.chosen(toy.store)))
    assert found["overlap"]["jaccard"] == pytest.approx(common / (34 - common))
    shared = json.loads((folder / "benchmark_rows.json").read_text())["seen"]
    first = examples.shown.first.tolist()
    shown = [examples.picture_names[int(p)] if p >= 0 else "" for p in first]
    same = [row for row in range(ROWS) if shown[row] == picture_name(1)]
    redrawn = [row for row in range(ROWS) if shown[row] == picture_name(5)]
    assert shared["same"] == same
    assert set(same) | set(redrawn) <= set(shared["near"])
    assert not set(shared["near"]) & set(TEXT_ONLY)
    counted = found["benchmarks"]["seen"]
    assert counted["same"] == {"pool": len(same), "subset": int(np.isin(rows, same).sum())}


def test_an_audit_without_images_or_proxy_opens_neither(copies, tmp_path):
    from xmas.selection.ranking import Ranking
    from xmas.selection.subset import Subset

    store = Store(str(tmp_path / "store"))
    subset = Subset(Ranking(copies, Random()), rows=11, text_only="ranked")
    found = json.loads((store.get(Audit(subset, images=False)) / "audit.json").read_text())
    assert found["length_unit"] == "characters"
    assert found["lengths"]["pool"] == found["lengths"]["subset"]
    assert found["duplicates"]["subset"] == {"exact": 2, "near": 4}
    assert found["score_explained_by_length"] is None
    assert found["clusters"] is None
    assert {path.name for path in (tmp_path / "store").iterdir()} == {
        "ranking", "subset", "texts", "duplicates", "audit", "by-name",
    }  # fmt: skip


def test_hashes_of_no_images_are_none(copies):
    digests, seen = all_hashes([], label="nothing")
    assert (digests.shape, seen.shape) == ((0, 32), (0, 2))
    assert Texts(copies).kind == "texts"


def test_an_audit_says_what_other_subsets_of_the_store_share(copies, tmp_path):
    from xmas.selection.methods.full import Full
    from xmas.selection.ranking import Ranking
    from xmas.selection.subset import Subset

    store = Store(str(tmp_path / "store"))
    first, second = (
        Subset(Ranking(copies, Random(), seed), rows=5, text_only="ranked") for seed in (0, 1)
    )
    audit = Audit(first, images=False)
    assert "in common" not in audit.make(store)
    full = Subset(Ranking(copies, Full()), rows=5, text_only="ranked")
    rows = {name: of.chosen(store) for name, of in (("seed 1", second), ("full", full))}
    store.get(Subset(Ranking(copies, Random(), 2), rows=7, text_only="ranked"))  # another size
    own = first.chosen(store)
    texts = [f"{name} {20 * len(np.intersect1d(own, of))} %" for name, of in rows.items()]
    line = audit.make(store).splitlines()[-2]
    assert line == (
        "rows in common with subsets of this size in the store: "
        f"ranking.{texts[0]}, {texts[1]} (45 % at random)"
    )
