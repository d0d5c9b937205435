"""ARPs by name, and ranks."""

import functools

import numpy as np
import pytest

from xmas.evaluation.facts import known
from xmas.results.arp import (
    arps,
    averages,
    mean_ranks,
    named_averages,
    notes_on_averages,
    ranks,
    reasons,
    reference_means,
    relative_scores,
)

TEN = tuple("vqav2 gqa vizwiz sqa textvqa pope mme mmbench mmbench_cn llava_wild".split())
SEVEN = tuple("gqa sqa textvqa pope mme mmbench mmbench_cn".split())


def test_the_ten_and_the_seven_are_those_of_the_papers():
    assert (named_averages()["ARP ten"], named_averages()["ARP seven"]) == (TEN, SEVEN)


def test_every_named_mean_is_over_exactly_its_benchmarks():
    found = averages((*TEN, "mmvet"))
    assert list(found) == ["ARP", "ARP ten", "ARP seven", "ARP w/o"]
    assert (len(found["ARP"]), len(found["ARP ten"]), len(found["ARP seven"])) == (11, 10, 7)
    assert set(found["ARP"]) - set(found["ARP w/o"]) == {"mme", "llava_wild"}
    assert "mmvet" not in found["ARP ten"]
    assert set(SEVEN) < set(TEN) < set(known())


def test_a_stand_in_never_passes_under_the_name_of_the_ten():
    stood_in = tuple(f"{name}_val" if name in ("vqav2", "vizwiz") else name for name in TEN)
    found = averages((*stood_in, "mmvet"))
    assert "ARP ten" not in found
    assert found["ARP ten, val"][:3] == ("vqav2_val", "gqa", "vizwiz_val")
    assert "No ARP ten: no row has scores on vqav2, vizwiz" in notes_on_averages(
        (*stood_in, "mmvet")
    )


def test_a_name_that_would_repeat_the_whole_is_a_note():
    assert list(averages(SEVEN)) == ["ARP", "ARP w/o"]
    assert "ARP is over all 7, which is ARP seven" in notes_on_averages(SEVEN)
    assert list(averages(("gqa",))) == ["ARP"]
    assert list(averages(("mme",))) == ["ARP"]  # nothing would be left


def test_quick_scores_are_in_no_mean_with_complete_ones():
    found = averages(("gqa", "mme", "gqa_quick", "mme_quick"))
    assert found == {
        "ARP": ("gqa", "mme"), "ARP w/o": ("gqa",), "ARP quick": ("gqa_quick", "mme_quick"),
    }  # fmt: skip
    assert averages(("gqa_quick", "pope_quick")) == {"ARP": ("gqa_quick", "pope_quick")}
    assert "ARP is over all 2" in notes_on_averages(("gqa", "mme", "gqa_quick"))
    assert "ARP is over all 1 quick ones" in notes_on_averages(("gqa_quick",))


def test_a_second_score_of_the_same_answers_is_averaged_only_where_there_is_no_other():
    both = ("heldout", "heldout_match")
    assert averages(both) == {"ARP": ("heldout",)}
    assert "ARP is over heldout, not over heldout_match" in notes_on_averages(both)
    assert averages(("heldout_match",)) == {"ARP": ("heldout_match",)}
    assert "ARP is over all 1" in notes_on_averages(("heldout_match",))
    assert averages(("gqa", *both))["ARP"] == ("gqa", "heldout")


def test_equal_values_share_the_mean_of_their_ranks():
    assert ranks({4: 90.0, 2: 95.0, 9: 90.0, 1: 80.0}) == {2: 1, 4: 2.5, 9: 2.5, 1: 4}
    assert ranks({}) == {}


def test_mean_ranks_leave_out_rows_that_lack_a_benchmark():
    scores = [{"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 4.0}, {"a": 9.0}, {"a": 1.0, "b": 3.0}]
    # a: 1, 2, -, 3; b: 3, 1, -, 2
    assert mean_ranks(scores, ["a", "b"]) == pytest.approx({0: 2, 1: 1.5, 3: 2.5})


def test_an_average_is_over_relative_scores_of_all_its_benchmarks_or_does_not_exist():
    reference = reference_means({"gqa": [58.0, 62.0], "mme": [1400.0, None], "pope": [0.0]})
    assert reference == {"gqa": 60.0, "mme": 1400.0}  # pope cannot be divided by
    relative = relative_scores({"gqa": 54.0, "mme": 1120.0, "pope": 5.0}, reference)
    assert relative == pytest.approx({"gqa": 90.0, "mme": 80.0})
    over = averages(("gqa", "mme"))
    assert arps(relative, over) == pytest.approx({"ARP": 85.0, "ARP w/o": 90.0})
    assert arps({"mme": 80.0}, over) == {}
    assert arps(relative, averages(("gqa", "mme", "pope"))) == {}  # "ARP w/o" is over pope as well


def test_draws_are_averaged_as_scores_are():
    draws = {"gqa": np.array([90.0, 80.0]), "mme": np.array([70.0, 60.0])}
    means = arps(draws, averages(("gqa", "mme")), functools.partial(np.mean, axis=0))
    assert means["ARP"].tolist() == [80.0, 70.0]
    assert means["ARP w/o"].tolist() == [90.0, 80.0]


def test_reasons_name_the_seed_and_the_benchmarks_of_that_average_alone():
    gaps = {0: {"mme": ""}, 1: {"gqa": "invalid: 3 of 60 reviews", "mme": ""}}
    assert reasons(("gqa", "mme"), gaps, ()) == [
        "seed 0 has no score on mme",
        "seed 1 has no score on gqa (invalid: 3 of 60 reviews), mme",
    ]
    assert reasons(("gqa",), gaps, ("pope",)) == [
        "seed 1 has no score on gqa (invalid: 3 of 60 reviews)"
    ]
    assert reasons(("pope",), {}, ("pope",)) == ["no reference score above 0 on pope"]
