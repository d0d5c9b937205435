"""Published numbers: the file holds together, and stands apart from what was measured."""

import csv
from statistics import fmean

import pytest
from scored import Shelves

from xmas.evaluation.facts import known
from xmas.results.published_results import published_for, published_results
from xmas.results.table import Table
from xmas.store import Store

KINDS = {"printed", "third party", "digitised", "recomputed"}


def test_every_number_names_its_source_and_how_it_is_known():
    found = published_results()
    assert len(found) > 100
    for one in found:
        assert one.source
        assert set(one.kind.split(", ")) <= KINDS, one
        assert one.pool in ("llava665k", "vision_flan")
        assert 0 < one.budget <= 1
        assert set(one.scores) <= {*known(), "ARP", "total_of_full"}


@pytest.mark.parametrize("source", ["ICONS project page", "VisNec"])
def test_a_printed_arp_follows_from_its_row(source):
    rows = [
        one for one in published_results() if one.source.startswith(source) and len(one.scores) > 5
    ]
    full = {one.pool: one.scores for one in rows if one.method == "Full"}
    for one in rows:
        ratios = [
            100 * score / full[one.pool][name]
            for name, score in one.scores.items()
            if name != "ARP"
        ]
        assert fmean(ratios) == pytest.approx(one.scores["ARP"], abs=0.11), one.method
    assert len(rows) >= 11


def test_numbers_of_the_specification_are_found_by_selector_and_budget():
    (found,) = [
        one
        for one in published_for("llava665k", [("xmas", 0.1)])
        if one.source.endswith("arp_results.png")
    ]
    assert (found.scores["ARP"], found.kind) == (95.4, "digitised")
    (ofa,) = published_for("vision_flan", [("ofa", 0.15)])
    assert ofa.scores == {"ARP": 110.6}
    assert published_for("demo", [("xmas", 0.1)]) == []
    assert published_for("llava665k", [("stratified", 0.15)]) == []


def test_published_numbers_stand_apart_and_change_nothing(tmp_path):
    add = Shelves(tmp_path)
    for name, score in (("gqa", 60.0), ("mme", 1500.0)):
        add("full", name, score, pool="llava665k")
        add("coincide", name, 0.9 * score, pool="llava665k")
    store = Store(str(tmp_path))
    text = Table().make(store)
    measured, cost, apart = text.split("\n## ")
    assert "ICONS" not in measured + cost
    assert "NOT measured here" in apart
    row = next(
        line for line in apart.splitlines() if line.startswith("| COINCIDE [") and "59.8" in line
    )
    cells = [cell.strip() for cell in row.split("|")]
    assert "97.4" in cells
    assert "90.0" in cells  # ARP here
    assert "ICONS project page" in apart
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    told = [line for line in lines if line["origin"].startswith("published")]
    assert all(line["source"] and line["target"] for line in told)
    assert {line["origin"] for line in lines} - {line["origin"] for line in told} == {"measured"}
    arp = [line for line in lines if (line["selector"], line["benchmark"]) == ("coincide", "ARP")]
    assert {(line["origin"], line["relative"]) for line in arp} >= {("measured", "90.0")}
