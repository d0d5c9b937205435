"""The table: means, spreads and ARP worked out by hand, and what it refuses to compare."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import pytest
from scored import Shelves

from xmas.cli.command import note
from xmas.cli.config import build
from xmas.results.leaderboard import leaderboards
from xmas.results.leaderboard_rows import Cell
from xmas.results.score_records import TableError, asked_by, remember, runs
from xmas.results.table import Table
from xmas.results.table.choice import choose
from xmas.results.view import measured
from xmas.store import Store, key

GAP = "\N{EN DASH}"


def shown(store, **options):
    """The Markdown of a table of everything, and the CSV as dicts."""
    text = Table(**options).make(store)
    with open(f"{store.root}/table.csv", encoding="utf-8", newline="") as file:
        return text, list(csv.DictReader(file))


def first(text):
    """The first table and its notes."""
    return text.split("\n## ")[0]


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


@pytest.fixture
def add(tmp_path):
    return Shelves(tmp_path)


@pytest.fixture
def filled(add):
    """A reference of two seeds (gqa 60, mme 1500 in the mean) and three subsets at 20 %."""
    for seed, gqa, mme in ((0, 58, 1400), (1, 62, 1600)):
        add("full", "gqa", gqa, seed=seed)
        add("full", "mme", mme, seed=seed)
    for seed, gqa, mme in ((0, 54, 1350), (1, 60, 1350)):
        add("xmas", "gqa", gqa, seed=seed)
        add("xmas", "mme", mme, seed=seed)
    add("random", "gqa", 48)
    add("random", "mme", 1200)
    return add


def of_proxy(seed):
    """Settings of a selector whose proxy, which is in two places, has a seed."""
    return {"features": {"proxy": {"seed": seed}}, "clusters": {"proxy": {"seed": seed}}}


def test_trainings_of_one_seed_with_other_proxies_are_rows_of_their_own(store, filled):
    for proxy in (0, 1, 2):
        for seed in (0, 1):
            score = 57 + seed + 2 * proxy
            filled("el2n", "gqa", score, seed=seed, settings=of_proxy(float(proxy)))
            filled("el2n", "mme", 1500, seed=seed, settings=of_proxy(float(proxy)))
    text, lines = shown(store)
    labels = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| el2n")]
    assert labels[:3] == [f"el2n [proxy.seed={proxy}]" for proxy in (0, 1, 2)]
    means = [
        float(line["relative"])
        for line in lines
        if line["selector"].startswith("el2n") and line["benchmark"] == "ARP"
    ]
    # gqa 57.5, 59.5 and 61.5 of 60, mme 100
    assert means == pytest.approx([50 * (gqa / 60 + 1) for gqa in (57.5, 59.5, 61.5)])
    assert "el2n, 20 %: 3 rows differ in proxy.seed alone: ARP 99.6 ± 1.7" in text


def test_a_proxy_seed_that_varies_with_the_seed_is_said(store, filled):
    for seed in (0, 1):
        filled("el2n", "gqa", 57 + seed, seed=seed, settings=of_proxy(float(seed)))
        filled("el2n", "mme", 1500, seed=seed, settings=of_proxy(float(seed)))
    text, _ = shown(store)
    assert "el2n, 20 %: proxy.seed varies with the seed, so the spread is that of both" in text
    assert "el2n [" not in text
    assert "xmas, 20 %: " not in text


def test_means_spreads_and_arp_are_over_seeds(store, filled):
    (comparison,) = leaderboards(runs(store))
    assert list(comparison.benchmarks) == ["gqa", "mme"]
    full, random, xmas = comparison.rows
    assert (full.label, random.label, xmas.label) == ("full", "random", "xmas")
    assert dataclasses.astuple(xmas.scores["gqa"]) == pytest.approx((57, 18**0.5, 2))
    assert xmas.scores["mme"] == Cell(1350, 0, 2)
    assert xmas.relative["gqa"].mean == pytest.approx(95)
    # seed 0: (90 + 90) / 2; seed 1: (100 + 90) / 2
    assert dataclasses.astuple(xmas.arp) == pytest.approx((92.5, 12.5**0.5, 2))
    assert random.scores["gqa"] == Cell(48, None, 1)
    assert random.arp == Cell(80, None, 1)
    # seed 0: (96.67 + 93.33) / 2 = 95; seed 1: 105
    assert dataclasses.astuple(full.arp) == pytest.approx((100, 50**0.5, 2))
    assert (xmas.rows, xmas.seeds, xmas.gaps) == ((1600,), (0, 1), {})


@pytest.mark.parametrize(
    ("scores", "shown"),
    [((58, 62), "60.0 ± 2.8"), ((0.296, 0.298), "0.297 ± 0.001"), ((0, 0), "0.0 ± 0.0")],
)
def test_scores_below_1_have_three_decimals(store, filled, scores, shown):
    row = leaderboards(runs(store))[0].rows[0]  # of two seeds
    assert str(measured(Cell.of(scores), row)) == shown


def test_a_benchmark_without_questions_is_named_below_the_table(store, add):
    why = {"invalid": "no row held out has a short answer"}
    for selector in ("full", "random"):
        add(selector, "heldout", 0.4)
        add(selector, "heldout_match", None, num=0, detail=why)
    (board,) = leaderboards(runs(store))
    assert list(board.benchmarks) == ["heldout"]
    assert "No column heldout_match: no row held out has a short answer" in Table().make(store)


def test_a_group_of_scores_without_questions_has_no_table(store, add):
    add("full", "heldout_match", None, num=0)
    assert leaderboards(runs(store)) == []


def test_markdown_shows_the_reference_first_and_no_spread_for_one_seed(store, filled):
    heading, _, *lines = first(shown(store)[0]).splitlines()
    assert heading == "## Pool aaa, reference rrr"
    assert [" ".join(line.split()) for line in lines[:5]] == [
        "| selector | budget | rows | seeds | gqa | mme | ARP | ARP w/o |",
        "| -------- | -----: | ----: | ----: | ---------: | -------------: | ----------: "
        "| ----------: |",
        "| full | 100 % | 8,000 | 2 | 60.0 ± 2.8 | 1500.0 ± 141.4 | 100.0 ± 7.1 | 100.0 ± 4.7 |",
        "| random | 20 % | 1,600 | 1 | 48.0 | 1200.0 | 80.0 | 80.0 |",
        "| xmas | 20 % | 1,600 | 2 | 57.0 ± 4.2 | 1350.0 ± 0.0 | 92.5 ± 3.5 | 95.0 ± 7.1 |",
    ]
    assert len({len(line) for line in lines[:5]}) == 1  # padded
    assert "\n".join(lines[6:]) + "\n" == (
        "- Seeds: 1 to 2 a row, as its column says; mean ± sample standard deviation over them\n"
        "- Questions: gqa 200 (dev, accuracy), mme 2,114 (dev, accuracy)\n"
        "- Answers: batch 1\n"
        "- ARP: mean over the benchmarks of 100 * score / mean score of the reference\n"
        "- ARP is over all 2\n"
        "- ARP w/o: without MME and LLaVA-Bench, over gqa\n"
        "- No ARP ten: no row has scores on vqav2, vizwiz, sqa, textvqa, pope, mmbench, "
        "mmbench_cn, llava_wild\n"
        "- No ARP ten, val: no row has scores on vqav2_val, vizwiz_val, sqa, textvqa, pope, "
        "mmbench, mmbench_cn, llava_wild\n"
        "- No ARP seven: no row has scores on sqa, textvqa, pope, mmbench, mmbench_cn\n"
    )


def test_csv_has_a_line_for_every_row_and_benchmark(store, filled):
    _, lines = shown(store)
    assert len(lines) == 3 * 4
    assert {line["origin"] for line in lines} == {"measured"}
    (line,) = [x for x in lines if (x["selector"], x["benchmark"]) == ("random", "mme")]
    assert line["relative"] == "80.0"
    assert (float(line["score"]), line["score_sd"], line["num"]) == (1200, "", "2114")
    (line,) = [x for x in lines if (x["selector"], x["benchmark"]) == ("xmas", "ARP")]
    assert float(line["relative"]) == pytest.approx(92.5)
    assert float(line["relative_sd"]) == pytest.approx(12.5**0.5)
    assert line["budget"] == "0.2"


def test_latex_escapes_what_tex_reads_as_a_command(store, add):
    add("full", "gqa", 60)
    add("clip_score", "gqa", 30)
    Table().make(store)
    text = (Path(store.root) / "table.tex").read_text(encoding="utf-8")
    assert r"selector & budget & rows & seeds & gqa & ARP \\" in text
    assert r"clip\_score & 20 \% & 1,600 & 1 & 30.0 & 50.0 \\" in text
    assert r"\begin{tabular}{lrrrrr}" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 2


def test_any_selector_with_all_rows_is_the_reference_once_a_seed(store, filled):
    before = leaderboards(runs(store))[0].rows[0].scores
    filled("random", "gqa", 1, seed=0, role="reference", budget=1.0, rows=8000)
    assert leaderboards(runs(store))[0].rows[0].scores == before
    filled("random", "gqa", 75, seed=2, role="reference", budget=1.0, rows=8000)
    assert leaderboards(runs(store))[0].rows[0].scores["gqa"].mean == 65


def test_a_missing_benchmark_is_a_gap_and_costs_the_arp(store, filled):
    filled("length", "gqa", 30)
    filled("d2", "gqa", 30, seed=0)
    filled("d2", "mme", 900, seed=0)
    filled("d2", "gqa", 36, seed=1)
    text = first(shown(store)[0])
    lines = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    rows = {cells[1].strip(): [cell.strip() for cell in cells[5:8]] for cells in lines}
    assert rows["length"] == ["30.0", GAP, GAP]
    assert rows["d2"] == ["33.0 ± 4.2", "900.0 (1 of 2)", GAP]
    assert "- No ARP for length, 20 %: seed 0 has no score on mme\n" in text
    assert "- No ARP for d2, 20 %: seed 1 has no score on mme\n" in text


def test_the_arp_of_rows_that_lack_a_benchmark_is_over_those_that_are_named(store, filled):
    filled("length", "gqa", 30)
    note = "- An ARP for every row, over fewer benchmarks: table.benchmarks=gqa\n"
    assert note in first(shown(store)[0])
    for names in ("gqa", ["gqa"]):
        text, lines = shown(store, benchmarks=names)
        lines = [line for line in lines if line["origin"] == "measured"]
        arp = {x["selector"]: float(x["relative"]) for x in lines if x["benchmark"] == "ARP"}
        assert arp == {"full": 100, "length": 50, "random": 80, "xmas": 95}  # of 60 in the mean
        assert "over fewer" not in text
        assert " mme " not in first(text).splitlines()[2]
    both = leaderboards(choose_all(store, ["mme", "gqa"]))
    assert both == leaderboards(runs(store))
    with pytest.raises(TableError, match=r"no scores on benchmark gqaa, only gqa; mme"):
        Table(benchmarks=["gqa", "gqaa"]).make(store)


def choose_all(store, benchmarks):
    return choose(
        store, pool=None, selector=None, experiment=None, protocol=None, benchmarks=benchmarks
    )


def test_a_reference_score_of_0_is_named_as_such(store, filled):
    for selector in ("full", "random"):
        filled(selector, "pope", 0.0)
    text = first(shown(store)[0])
    assert (
        "- No ARP: the reference's score is 0 on pope, and relative scores are undefined there; "
        "the ARP of the others: table.benchmarks=[gqa,mme]\n"
    ) in text
    assert "train the target" not in text


def test_without_a_reference_there_is_no_arp(store, add):
    add("random", "gqa", 30)
    text, lines = shown(store)
    text = first(text)
    assert f"| random   |   20 % | 1,600 |     1 | 30.0 |   {GAP} |" in text
    missing = {line["benchmark"]: line["missing"] for line in lines}
    assert missing == {"gqa": "", "ARP": "no reference score above 0 on gqa"}
    assert "- No ARP: no reference score above 0 on gqa; train the target on the whole pool" in text


def test_a_benchmark_without_a_reference_costs_every_arp(store, add):
    add("full", "gqa", 60)
    add("random", "gqa", 30)
    add("random", "mme", 900)
    (comparison,) = leaderboards(runs(store))
    assert comparison.unreferenced == ("mme",)
    assert [row.arp for row in comparison.rows] == [None, None]


@pytest.mark.parametrize(
    "aspect", [{"split": "test"}, {"metric": "f1"}, {"protocol": "batch 8"}, {"num": 7}]
)
def test_scores_that_measure_different_things_are_refused(store, filled, aspect):
    filled("length", "gqa", 30, **aspect)
    (name,) = aspect
    with pytest.raises(TableError, match=f"gqa: scores of different {name} do not compare: .*;"):
        leaderboards(runs(store))


def test_quick_scores_have_columns_and_an_average_of_their_own(store, filled):
    """Only samples of the same size and seed share one; the complete ones' ARP stays as it is."""
    few, more = (f"dev, {size} drawn with seed 0" for size in (100, 300))
    for selector, score in (("full", 50), ("random", 40)):
        filled(selector, "gqa_quick", score, split=more)
    (comparison,) = leaderboards(runs(store))
    _, random, xmas = comparison.rows
    assert list(comparison.benchmarks) == ["gqa", "mme", "gqa_quick"]
    assert random.arp == Cell(80, None, 1)
    assert random.arps["ARP quick"] == Cell(80, None, 1)
    assert xmas.arp is not None
    assert "ARP quick" not in xmas.arps
    filled("xmas", "gqa_quick", 45, split=few)
    with pytest.raises(TableError, match="gqa_quick: scores of different split do not compare"):
        leaderboards(runs(store))


def test_controls_stay_out(store, filled):
    before = first(shown(store)[0])
    filled("xmas", "gqa", 1, control="shuffled", protocol="images shuffled")
    assert first(shown(store)[0]) == before


def test_rows_with_other_settings_are_labelled_with_what_differs(store, filled):
    for seed in (0, 1):
        filled("xmas", "gqa", 30, seed=seed, settings={"k": 500.0, "seed": 9.0})
        filled("xmas", "mme", 750, seed=seed, settings={"k": 500.0, "seed": 9.0})
    labels = [row.label for row in leaderboards(runs(store))[0].rows]
    assert labels == ["full", "random", "xmas [k=1000]", "xmas [k=500]"]


def test_what_most_rows_of_a_selector_share_is_not_in_their_labels(store, filled):
    """A selector whose parts are switched off one after the other."""
    for switch in ({"k": 1000.0, "coverage": 0.0}, {"k": 500.0}):
        filled("xmas", "gqa", 30, settings=switch)
        filled("xmas", "mme", 750, settings=switch)
    labels = [row.label for row in leaderboards(runs(store))[0].rows]
    assert sorted(labels[2:]) == ["xmas", "xmas [coverage=0]", "xmas [k=500]"]


def test_two_scores_for_one_place_are_refused(store, filled):
    filled("xmas", "gqa", 30, seed=1)
    with pytest.raises(TableError, match=r"xmas, budget 0.2, seed 1 has two scores on gqa: "):
        leaderboards(runs(store))


def test_budgets_stand_from_small_to_large_and_may_be_rows(store, add):
    for budget in (0.5, 1200, 0.05):
        add("random", "gqa", 30, budget=budget)
    lines = first(shown(store)[0]).splitlines()[4:7]
    assert [line.split("|")[2].strip() for line in lines] == ["5 %", "50 %", "1,200 rows"]


def test_a_budget_may_be_in_tokens(store, add):
    add("random", "gqa", 30, budget=1200)
    add("random", "gqa", 35, budget=1000, unit="tokens")
    lines = first(shown(store)[0]).splitlines()[4:6]
    assert [line.split("|")[2].strip() for line in lines] == ["1,200 rows", "1,000 tokens"]


def test_selectors_that_are_not_nested_are_named(store, add):
    add("xmas", "gqa", 30)
    assert "ested" not in first(shown(store)[0])
    add("ofa", "gqa", 30, nested=False)
    said = "Not nested: ofa; a smaller subset is no part of a larger one"
    assert f"- {said}\n" in first(shown(store)[0])
    assert said in (Path(store.root) / "table.tex").read_text(encoding="utf-8")


def test_every_pool_and_reference_has_its_own_table(store, filled):
    filled("random", "gqa", 30, pool="other", reference_group="sss", split="test")
    text = Table().make(store)
    assert text.index("## Pool aaa, reference rrr") < text.index("## Pool other, reference sss")
    assert "Pool aaa" not in Table(pool="other").make(store)
    with pytest.raises(TableError, match="no scores on pool ccc, only aaa; other"):
        Table(pool="ccc").make(store)


def test_three_files_are_written_and_named(store, filled, tmp_path):
    text = Table().make(store)
    for kind in ("md", "csv", "tex"):
        assert str(tmp_path / f"table.{kind}") in text
    assert text.startswith((tmp_path / "table.md").read_text(encoding="utf-8"))
    assert not list(tmp_path.glob(".table*"))


def test_an_empty_store_says_what_to_run(store, add):
    with pytest.raises(TableError, match="no scores of trained targets; make some with `xmas -m "):
        Table().make(store)
    (add("random", "gqa", 30) / "run.json").unlink()  # a rescored answers file
    assert runs(store) == []


def test_a_file_that_lacks_a_key_is_named(store, add):
    folder = add("random", "gqa", 30, without=("seed", "pool"))
    with pytest.raises(TableError, match=f"{folder.name}: neither run.json nor .* has seed, pool"):
        runs(store)


def test_only_what_an_experiment_asked_for_is_shown(store, filled):
    asked = [Path(run.folder).name for run in runs(store) if run.selector != "random"]
    remember(store, "tenth", asked)
    remember(store, "tenth", asked)  # typed again
    remember(store, "half", [*asked, "not there yet"])
    assert asked_by(store, "tenth") == set(asked)
    text, _ = shown(store, experiment="tenth")
    assert "| xmas " in text
    assert "| random " not in text
    remember(store, "later", ["0123456789ab"])
    with pytest.raises(TableError, match="experiment later has no finished scores"):
        Table(experiment="later").make(store)
    with pytest.raises(
        TableError, match=r"experiment tenht asked for no scores.*half, later, tenth"
    ):
        Table(experiment="tenht").make(store)


def test_the_command_notes_which_scores_an_experiment_asks_for(store, compose):
    scores = build(compose("seed=5", "reference.seeds=[1,2]").scores)
    note(scores, store, None)
    note(scores.target, store, "demo")  # asks for no score
    with pytest.raises(TableError, match="those that did: none"):
        asked_by(store, "demo")
    note(scores, store, "demo")
    parts = scores.parts()
    assert {part.target.seed for part in parts} == {1, 2, 5}
    assert len(parts) == 3 * len(scores.suite)
    assert asked_by(store, "demo") == {key(part) for part in parts}


def test_selectors_are_chosen_and_the_reference_stays(store, filled):
    text, lines = shown(store, selector=["xmas"])
    assert {line["selector"] for line in lines} == {"full", "xmas"}
    assert "| random " not in text
    assert {line["selector"] for line in shown(store, selector="random")[1]} == {"full", "random"}
    with pytest.raises(TableError, match="no scores of selector xmsa, only random; xmas"):
        Table(selector=["xmas", "xmsa"]).make(store)


def test_a_store_of_two_protocols_is_refused_until_one_is_chosen(store, filled):
    for name in ("gqa", "mme"):
        filled("full", name, 1000.0, protocol="greedy, batch 8", seed=3)
        filled("length", name, 500.0, protocol="greedy, batch 8")
    with pytest.raises(TableError, match=r"gqa: scores of different protocol.*table\.protocol"):
        Table().make(store)
    _, lines = shown(store, protocol="batch 8")
    found = {line["selector"]: line["relative"] for line in lines if line["benchmark"] == "ARP"}
    assert found == {"full": "100.0", "length": "50.0"}
    with pytest.raises(TableError, match="no answers made as batch 2, only batch 1; greedy, batch"):
        Table(protocol="batch 2").make(store)


def test_a_server_s_answers_are_never_next_to_local_ones_whatever_the_benchmark(store, filled):
    """An average over benchmarks would mix them."""
    served = "endpoint vllm, float16, temperature 0"
    for name in ("full", "length"):
        filled(name, "pope", 50.0, protocol=served)
    with pytest.raises(
        TableError,
        match=r"pope was answered by a server \(endpoint vllm.*\(batch 1: .*table\.protocol=",
    ):
        Table().make(store)
    _, lines = shown(store, protocol="endpoint vllm")
    assert {line["benchmark"] for line in lines} == {"pope", "ARP"}


def test_rows_that_saw_validation_data_are_marked_and_named(store, filled):
    for name in ("gqa", "mme"):
        filled("icons", name, 500.0, saw_validation=True, nested=False)
    text, lines = shown(store)
    marks = {line["selector"]: (line["nested"], line["saw_validation"]) for line in lines
             if line["benchmark"] == "ARP"}  # fmt: skip
    assert marks == {"icons": ("no", "yes")} | dict.fromkeys(
        ("full", "random", "xmas"), ("yes", "no")
    )
    assert "Saw validation data: icons; rows were chosen by validation rows" in text
    assert "OSC: (P of full / P of the row, by ARP)" in text
    assert re.search(r"No OSC for full 100.%, icons 20.%, random", text)  # nothing was trained


def test_answers_made_in_different_ways_are_refused_whatever_the_protocol_says(store, filled):
    filled("length", "gqa", 30, answered={"precision": "float16"})
    with pytest.raises(
        TableError, match=r"different generation.precision .*: nothing .*; float16 "
    ):
        Table().make(store)


def test_answers_under_another_attention_are_refused(store, add):
    for name, kind in (("full", "sdpa"), ("random", "eager")):
        how = {"attention": kind, "dtype": "float16", "versions": {"torch": kind}}
        (add(name, "gqa", 60) / "generation.json").write_text(json.dumps(how))
    with pytest.raises(TableError, match=r"gqa: scores of different answers.attention .*; eager "):
        Table().make(store)


def test_an_invalid_score_is_a_gap_with_its_reason(store, filled):
    filled("length", "gqa", None, detail={"invalid": "3 of 60 reviews"})
    filled("length", "mme", 750.0)
    text = first(shown(store)[0])
    assert f"| length   |   20 % | 1,600 |     1 |          {GAP} |" in text
    assert "seed 0 has no score on gqa (invalid: 3 of 60 reviews)" in text
