"""ARPs by name, and ranks."""

import pytest

from xmas.evaluation.facts import known
from xmas.results.arp import averages, mean_ranks, named_averages, notes_on_averages, ranks

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
    assert "No ARP ten: nobody was scored on vqav2, vizwiz" in notes_on_averages(
        (*stood_in, "mmvet")
    )


def test_a_name_that_would_repeat_the_whole_is_a_note():
    assert list(averages(SEVEN)) == ["ARP", "ARP w/o"]
    assert "ARP is over all 7, which is ARP seven" in notes_on_averages(SEVEN)
    assert list(averages(("gqa",))) == ["ARP"]
    assert list(averages(("mme",))) == ["ARP"]  # nothing would be left


def test_equal_values_share_the_mean_of_their_ranks():
    assert ranks({4: 90.0, 2: 95.0, 9: 90.0, 1: 80.0}) == {2: 1, 4: 2.5, 9: 2.5, 1: 4}
    assert ranks({}) == {}


def test_mean_ranks_leave_out_rows_that_lack_a_benchmark():
    scores = [{"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 4.0}, {"a": 9.0}, {"a": 1.0, "b": 3.0}]
    # a: 1, 2, -, 3; b: 3, 1, -, 2
    assert mean_ranks(scores, ["a", "b"]) == pytest.approx({0: 2, 1: 1.5, 3: 2.5})
