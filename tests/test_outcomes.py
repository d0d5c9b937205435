"""What questions add to a score: the forms of the rules, by hand, and the file that keeps it."""

import numpy as np
import pytest

from xmas.evaluation.outcomes import Kept, Outcomes
from xmas.evaluation.protocol import Scored


def test_a_mean_is_one_term():
    outcomes = Outcomes.mean({"a": 1, "b": 0.5, "c": 0})
    assert outcomes.score() == 50
    assert outcomes.counted.tolist() == [[1], [1], [1]]
    assert Outcomes.mean({7: 3.0, 8: 4.0}, scale=1).score() == 3.5


def test_a_term_is_a_ratio_of_sums_and_a_score_their_weighted_sum():
    units = {
        ("popular", 1): {"popular": (2, 2)},  # said and true
        ("popular", 2): {"popular": (0, 1)},  # said, not true: F1 of 2 / 3
        ("random", 1): {"random": (0, 0)},  # neither said nor true: nothing to count, so 0
    }
    outcomes = Outcomes.of(units, {"popular": 50, "random": 50})
    assert outcomes.keys.tolist() == ["popular\t1", "popular\t2", "random\t1"]
    assert outcomes.score() == pytest.approx(50 * 2 / 3)


def test_outcomes_that_say_another_score_than_the_rule_are_refused():
    outcomes = Outcomes.mean({"a": 1, "b": 0})
    assert Scored(50, 2, {}, outcomes).score == 50
    with pytest.raises(ValueError, match=r"outcomes give a score of 50.0, the rule gives 51"):
        Scored(51, 2, {}, outcomes)


def test_a_saved_file_gives_the_same_numbers_and_one_digest_for_the_same_units(tmp_path):
    outcomes = Outcomes.mean({"a": 1, "b": 0.3})
    outcomes.save(tmp_path / "one.npz")
    kept = Kept.read(tmp_path / "one.npz")
    assert np.array_equal(kept.gained, outcomes.gained.astype(np.float32))
    assert np.array_equal(kept.weights, [100])
    others = {
        "same": {"a": 0, "b": 0},
        "turned": {"b": 1, "a": 0.3},
        "more": {"a": 1, "b": 0, "c": 0},
    }
    digests = {}
    for name, values in others.items():
        Outcomes.mean(values).save(tmp_path / f"{name}.npz")
        digests[name] = Kept.read(tmp_path / f"{name}.npz").digest
    assert digests["same"] == kept.digest
    assert len({*digests.values()}) == 3


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "outcomes.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match=r"outcomes.npz: not a file of outcomes"):
        Kept.read(tmp_path / "outcomes.npz")
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    with pytest.raises(ValueError, match=r"other.npz: not a file of outcomes.*gained"):
        Kept.read(tmp_path / "other.npz")


def test_an_archive_that_unpacks_to_more_than_outcomes_have_is_not_unpacked(tmp_path, monkeypatch):
    Outcomes.mean(dict.fromkeys(range(500), True)).save(tmp_path / "outcomes.npz")
    assert len(Kept.read(tmp_path / "outcomes.npz").gained) == 500
    monkeypatch.setattr("xmas.evaluation.outcomes._MOST", 1000)
    with pytest.raises(ValueError, match=r"npz: .*unpacks to [\d,]+ bytes, more than 1,000"):
        Kept.read(tmp_path / "outcomes.npz")


def test_pictures_are_kept_by_number_and_absent_in_earlier_files(tmp_path):
    shown = {"a": "cat.jpg", "b": ("alone", "b"), "c": "cat.jpg"}
    outcomes = Outcomes.mean({"a": 1.0, "b": 0.0, "c": 1.0}, pictures=shown)
    assert outcomes.pictures.tolist() == [0, 1, 0]
    outcomes.save(tmp_path / "new.npz")
    assert Kept.read(tmp_path / "new.npz").pictures.tolist() == [0, 1, 0]
    Outcomes.mean({"a": 1.0}).save(tmp_path / "old.npz")
    assert Kept.read(tmp_path / "old.npz").pictures is None
    with pytest.raises(KeyError, match="c"):
        Outcomes.mean({"a": 1.0, "c": 0.0}, pictures={"a": "cat.jpg"})
