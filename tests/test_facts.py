"""What benchmarks say of themselves: complete, consistent, and read without torch."""

import dataclasses
from pathlib import Path

import pytest

from xmas.cli.config import build, folder
from xmas.doctor.benchmarks import check_benchmark
from xmas.evaluation.benchmarks.mmbench import MMBench
from xmas.evaluation.benchmarks.mme import Mme
from xmas.evaluation.benchmarks.sqa import Sqa
from xmas.evaluation.facts import Facts, facts_of, in_order, known
from xmas.store import Store

ORDER = (
    "vqav2 vqav2_val gqa vizwiz vizwiz_val sqa textvqa textvqa_noocr pope mme mmbench mmbench_cn "
    "llava_wild mmvet heldout heldout_match"
).split()


def test_tables_list_the_papers_benchmarks_in_their_order_and_others_last_by_name():
    assert list(known()) == ORDER
    mixed = ["zebra", "mmvet", "gqa_quick", "sqa", "sqa"]
    assert in_order(mixed) == ["sqa", "mmvet", "gqa_quick", "zebra"]


def test_every_benchmark_of_the_configuration_has_facts_that_fit_its_fields(compose):
    names = sorted(path.stem for path in (Path(folder()) / "benchmark").glob("*.yaml"))
    assert len(names) >= 14
    every = compose("benchmarks=DIR", *(f"+benchmark@every.{name}={name}" for name in names)).every
    for name in names:
        benchmark = build(every[name])
        facts = facts_of(benchmark)
        assert known()[benchmark.name] is facts
        fields = {field.name for field in dataclasses.fields(benchmark)}
        assert set(facts.sources) | set(facts.counts) <= fields


def test_averages_have_ten_and_seven_members_and_stand_ins_for_what_only_servers_score():
    facts = known()
    assert sum(of.ten for of in facts.values()) == 10
    assert sum(of.seven for of in facts.values()) == 7
    servers = {name for name, of in facts.items() if not of.has_truth}
    assert servers == {of.stands_in_for for of in facts.values() if of.stands_in_for}


def test_units_and_strata_are_those_of_the_rules():
    assert MMBench.facts.unit(3_000_017) == MMBench.facts.unit(17) == "17"
    assert Mme.facts.stratum("count/0001.jpg") == "count"
    assert (Sqa.facts.unit("x/1"), Sqa.facts.stratum("x/1")) == ("x/1", "")


@pytest.mark.parametrize("name", ["mmbench", "mmbench_cn"])
def test_a_lost_file_is_told_with_the_source_of_its_split(compose, name, tmp_path):
    benchmark = build(compose(f"benchmark={name}", f"benchmarks={tmp_path}").benchmark)
    findings = [
        str(finding) for finding in check_benchmark("b", benchmark, Store(str(tmp_path)), {})
    ]
    source = f"/mmclassification/datasets/mmbench/mmbench_{benchmark.split}.tsv; put it there"
    assert len(findings) == 2
    assert all(source in finding for finding in findings)


def test_a_benchmark_without_facts_has_the_defaults():
    assert facts_of(object()) == Facts()
