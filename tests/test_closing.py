"""What a command says in the end: a sentence in the log, paths on the output, findings in words."""

import dataclasses
import json
import re
from pathlib import Path

from toy import Toy

from xmas.cli.closing import results_of, sentence
from xmas.results.audit import Audit
from xmas.results.audit.findings import findings
from xmas.results.report import Report
from xmas.results.table import Table
from xmas.selection.methods.random import Random
from xmas.selection.ranking import Ranking
from xmas.store import Store
from xmas.store.planned_stages import planned_stages


def test_a_subset_is_told_in_words_and_its_path_is_the_output(toy: Toy, server, tmp_path):
    arguments = [*toy.overrides(), f"store.root={tmp_path}/store", "selector=random"]
    ended = server.command(*arguments, "subset.fraction=0.5", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert re.search(
        r"20 of the 41 rows of pool files \(48\.8 %\), chosen by random, seed 0, for a budget of "
        r"50 %: 3 without a picture, \d sources\. Computed in \d\.\d s\.$",
        last,
    )
    assert Path(ended.stdout.splitlines()[0]).parent.name == "subset"


def test_a_subset_counts_the_seconds_of_all_that_it_needs(toy: Toy):
    subset = toy.subset()
    stages = planned_stages(subset)
    for stage in stages:
        toy.store.get(stage)
    metas = [json.loads((toy.store.path(stage) / "meta.json").read_text()) for stage in stages]
    seconds = sum(meta["seconds"] for meta in metas)
    assert f"Computed in {seconds:.1f} s" in subset.sentence(toy.store)


def test_a_multirun_lists_what_was_made_and_where(toy: Toy, server, tmp_path):
    arguments = [*toy.overrides(), f"store.root={tmp_path}/store", "selector=random,stratified"]
    ended = server.command("-m", *arguments, "subset.fraction=0.2,0.5", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    lines = [line[9:] for line in ended.stderr.splitlines()[-4:]]
    made_from = [f"{name}, {budget} %" for name in ("random", "stratified") for budget in (20, 50)]
    for line, start in zip(lines, made_from, strict=True):
        assert line.startswith(f"subset of {start}, seed 0, pool files ")
        assert Path(line.split()[-1], "rows.json").exists()


def test_a_multirun_of_which_jobs_fail_lists_what_the_others_made(toy: Toy, server, tmp_path):
    arguments = [*toy.overrides(), f"store.root={tmp_path}/store", "subset.fraction=0.2"]
    ended = server.command(
        "-m", *arguments, "selector=random,column", "rating.column=absent", cwd=tmp_path
    )
    assert ended.returncode == 1
    assert "xmas: 1 of 2 jobs failed" in ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if "subset of random, 20 %" in line]
    assert Path(line.split()[-1], "rows.json").exists()


def test_results_with_one_label_are_told_apart_by_their_settings(toy: Toy):
    rankings = [Ranking(toy.pool, Random(), seed) for seed in (0, 1, 1)]
    jobs = [(one, f"x={number}", f"/{number}") for number, one in enumerate(rankings)]
    assert results_of(jobs) == [
        "ranking of random, seed 0, pool toy        /0",
        "ranking of random, seed 1, pool toy (x=1)  /1",
        "ranking of random, seed 1, pool toy (x=2)  /2",
    ]


def test_a_report_is_told_as_its_page_opens(toy: Toy, tmp_path):
    store = Store(str(tmp_path / "store"))
    store.get(dataclasses.replace(toy.subset(), rows=10, fraction=None))
    report = Report(pool=toy.pool, examples=1)
    report.make(store)
    assert (sentence(report, store) or "").startswith("24.4 % of 41 rows, by random: ")


def test_other_results_say_what_they_are_of_and_pages_say_it_themselves(toy: Toy):
    ranking = Ranking(toy.pool, Random(), 5)
    toy.store.get(ranking)
    summary = sentence(ranking, toy.store)
    assert summary
    assert re.fullmatch(r"ranking of random, seed 5, pool toy, computed in \d\.\d s\.", summary)
    assert sentence(Table(), toy.store) is None


RECORD = {
    "selector": "xmas",
    "rows": {"pool": 200, "subset": 40},
    "sources": {"pool": {"coco": 100, "ocr": 60, "text": 40}, "subset": {"coco": 30, "ocr": 10}},
    "formats": {
        "pool": {"yes_no": 50, "long": 150, "word": 0}, "subset": {"yes_no": 30, "long": 10},
    },
    "length_unit": "characters",
    "lengths": {"pool": {"q50": 1200.0, "q95": 9000.0}, "subset": {"q50": 80.0, "q95": 700.0}},
    "length_kept": 0.125,
    "duplicates": {"pool": {"exact": 4, "near": 30}, "subset": {"exact": 1, "near": 2}},
    "clusters": {"clusters": 50, "covered": 40, "least_kept": 0.0, "most_kept": 0.75},
    "score_explained_by_length": 0.934,
    "benchmarks": {"gqa": {"same": {"pool": 9, "subset": 3}, "near": {"pool": 12, "subset": 5}}},
    "overlap": {"rows": 8, "jaccard": 0.1111, "jaccard_at_random": 0.05},
}  # fmt: skip


def test_findings_by_hand():
    assert findings(RECORD) == [
        "xmas: 40 of 200 rows (20 %), 2 of 3 sources",
        "sources that change most: coco 75.0 % (pool 50.0 %), text 0.0 % (pool 20.0 %), "
        "ocr 25.0 % (pool 30.0 %)",
        "answers: yes/no 75 % (pool 25 %), long 25 % (pool 75 %)",
        "characters of a row: median 80 (pool 1,200), 95 % up to 700 (9,000); 12.5 % of the pool's "
        "are kept",
        "repeat an earlier row: exact 1 rows, 2.5 % (pool 2.0 %), near 2 rows, 5.0 % (pool 15.0 %)",
        "clusters: 40 of 50 have a row in the subset, which keeps 0 to 75 % of one",
        "the score: text length alone explains 93 % of its variance",
        "rows with an image of a benchmark: gqa 3 the same, 5 nearly",
        "in common with audit.against: 8 rows, Jaccard similarity 0.11 (0.05 at random)",
    ]


def test_an_audit_prints_its_findings_and_then_its_folder(toy: Toy, tmp_path):
    store = Store(str(tmp_path))  # without subsets of the same size, which an audit compares
    audit = Audit(toy.subset(Random(), rows=17), images=False)
    *lines, folder = audit.make(store).splitlines()
    record = json.loads((store.path(audit) / "audit.json").read_text())
    assert lines == findings(record)
    assert lines[0].startswith("random: 17 of 41 rows (41.5 %), ")
    assert len(lines) == 5  # without clusters, scores, benchmarks and another subset
    assert Store(store.root).path(audit) == Path(folder)
