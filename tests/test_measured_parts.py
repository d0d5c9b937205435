"""Parts of the GPU scripts: a failed check is a line, an exit status, and stops no other part."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments" / "gpu"))

from parts import Part, Setting, check, read, run, tables

CPU = torch.device("cpu")


def passes(setting: Setting) -> dict:
    return {"rows/s": 1234.5, "ways": [{"way": "ours", "loss": 0.25}]}


def fails(setting: Setting) -> dict:
    check(1 + 1 == 3, "the sum is 2, expected 3")
    return {}


def run_parts(out: Path, *parts: Part, only: str = "") -> int:
    return run(parts, out, CPU, tiny=True, only=only)


def states(out: Path) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    return [(line["part"], line["state"]) for line in lines]


def test_a_failed_check_is_named_and_the_others_run(tmp_path, capsys):
    out = tmp_path / "lines.jsonl"
    assert run_parts(out, Part("sums", fails), Part("rates", passes)) == 1
    assert states(out) == [("sums", "FAILED"), ("rates", "passed")]
    shown = capsys.readouterr().out
    assert "CheckFailedError: the sum is 2, expected 3" in shown
    assert shown.splitlines()[-1] == "1 of 2 parts FAILED: sums"


def test_any_error_of_a_part_fails_it(tmp_path):
    out = tmp_path / "lines.jsonl"
    assert run_parts(out, Part("division", lambda setting: {"x": 1 / 0})) == 1
    assert "ZeroDivisionError" in read(out)["division"]["why"]


def test_what_passed_is_not_run_again_and_what_failed_comes_last(tmp_path):
    out = tmp_path / "lines.jsonl"
    assert run_parts(out, Part("sums", fails), Part("rates", passes)) == 1
    parts = (Part("sums", passes), Part("rates", fails), Part("new", passes))
    assert run_parts(out, *parts) == 0
    assert states(out)[2:] == [("new", "passed"), ("sums", "passed")]
    assert run_parts(out, *parts) == 0
    assert len(states(out)) == 4


def test_a_missing_module_is_said_and_fails_nothing(tmp_path, capsys):
    out = tmp_path / "lines.jsonl"
    assert run_parts(out, Part("clusters", fails, needs=("no_such_module", "a GPU"))) == 0
    assert read(out)["clusters"]["why"] == "no_such_module, a GPU"
    assert "not available" in capsys.readouterr().out


def test_parts_see_the_records_of_those_before(tmp_path):
    def compares(setting: Setting) -> dict:
        check(setting.records["rates"]["figures"]["rows/s"] == 1234.5, "another rate")
        return {}

    assert run_parts(tmp_path / "o.jsonl", Part("rates", passes), Part("compared", compares)) == 0


def test_the_table_has_every_part_and_the_tables_inside(tmp_path):
    out = tmp_path / "lines.jsonl"
    run_parts(out, Part("rates", passes), Part("sums", fails))
    text = tables(read(out))
    assert "| rates | passed |" in text
    assert "| rows/s 1,234 |" in text
    assert "| sums | FAILED |" in text
    assert "**rates: ways**\n\n| way | loss |\n|---|---|\n| ours | 0.25 |" in text


def test_a_file_that_is_cut_names_its_line(tmp_path):
    out = tmp_path / "lines.jsonl"
    run_parts(out, Part("rates", passes))
    out.write_text(out.read_text() + '{"part": "su')
    with pytest.raises(SystemExit, match=r"lines\.jsonl: line 2: .*remove this line"):
        read(out)


def test_an_unknown_part_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no part's name contains 'x'"):
        run_parts(tmp_path / "o.jsonl", Part("rates", passes), only="x")
