"""The words of a command line: flags anywhere, any file name, slips answered in our own words."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from pages import blocks
from toy import Toy

from xmas.cli import help as help_page
from xmas.cli.arguments import prepared, whole
from xmas.cli.config import build, check_choices
from xmas.cli.config_error import ConfigError
from xmas.cli.goals import GOALS
from xmas.cli.unknown_settings import explained
from xmas.selection.budget import check_settings

NAMES = [
    "my mix.json", "a,b.json", "a=b.json", "[x] mix.json", "m[1].json", "größe.json", "数/m.json",
    "t-[0-9]*.parquet", "a(b).json", "it's.json", 'a "b".json', "a{b}.json", "a${b}.json",
    "a&b;c#d!", "C:\\x y\\", "end\\'", "~mix.json", "<x>|`y`^", "[whole]", "{a,b}",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_name_is_given_as_it_is_called(name, tmp_path, monkeypatch, compose):
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True, parents=True)
    Path(name).touch()
    (argument,) = prepared([f"pool.annotations={name}"])
    cfg = compose("pool=files", argument)
    assert cfg.pool.annotations == name


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name[0] not in "[{" and "$" not in name]
)
def test_a_name_that_is_not_there_yet_is_one_text_too(name, compose):
    if "," in name:
        return  # two values, until there is such a file
    cfg = compose(*prepared([f"store.root={name}"]))
    assert cfg.store.root == name


@pytest.mark.parametrize(
    "argument",
    [
        "selector=random,xmas", "subset.write=[llava]", "subset.fraction=0.1,0.2", "seed=0",
        "pool.columns={images: photos}", "a='quoted, text'", 'a="quoted"', "seed=range(0,3)",
        "clusters.clip.features=${features.colours}", "pool.path=data/*.parquet", "~experiment",
        "seed=glob(*,exclude=a)", "+a.b=1", "pool.annotations=", "a=b c",
    ],
)  # fmt: skip
def test_hydra_s_own_forms_stay(argument):
    assert whole(argument) == argument


def test_flags_may_be_anywhere(compose):
    words = ["selector=random", "-m", "seed=0,1", "--config-dir", "DIR", "goal=table", "--info"]
    flags = ["-m", "--config-dir", "DIR", "--info"]
    assert prepared(words) == [*flags, "selector=random", "seed=0,1", "goal=table"]
    assert prepared(["--info", "searchpath", "a=1"]) == ["--info", "searchpath", "a=1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("table", "table is no setting; did you mean goal=table?"),
        ("scroes", "scroes is no setting, which has the form KEY=VALUE; did you mean goal=scores?"),
        ("qqq", "qqq is no setting, which has the form KEY=VALUE. See xmas --help"),
        ("--multirum", "--multirum is no flag; did you mean --multirun? See xmas --help"),
        ("subset.rows=3 subset.fraction=0.1", "subset.rows=3 and subset.fraction=0.1 are two bud"),
        ("subset.tokens=9 +subset.rows=3", "subset.tokens=9 and +subset.rows=3 are two budgets"),
        ("subset.floors={a:1", "subset.floors={a:1 cannot be read as a list [a, b], a mapping"),
        ("subset.floors.élèves=5", "the name of a source goes into a mapping, as in 'subset.flo"),
    ],
)
def test_slips_are_refused_with_what_was_meant(words, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        prepared(words.split(" "))


def test_one_budget_in_another_s_place_is_no_second_one():
    words = ["subset.rows=3", "subset.fraction=null"]
    assert prepared(words) == words
    assert prepared(["subset.fraction=0.1", "subset.fraction=0.2"])  # the last counts, as in Hydra


@pytest.mark.parametrize(
    ("argument", "floors"),
    [
        ("subset.floors={ocr_vqa: 500, a: 1}", {"ocr_vqa": 500, "a": 1}),
        ("subset.floors.ocr_vqa=500", {"ocr_vqa": 500}),
        ('subset.floors={"figureqa(cauldron,llava_format)": 5}',
         {"figureqa(cauldron,llava_format)": 5}),
        ("subset.floors={'élèves': 5, 'a b': 1}", {"élèves": 5, "a b": 1}),
    ],
)  # fmt: skip
def test_sources_of_any_name_have_floors(argument, floors, compose):
    subset = build(compose(*prepared([argument])).subset)
    assert subset.floors == floors


def test_the_mappings_of_the_doctor_work_as_written(compose):
    words = ["doctor.sha256={pope: {questions: abc}}", "doctor.known={pool: abc}"]
    doctor = build(compose(*prepared(words)).doctor)
    assert (doctor.sha256, doctor.known) == ({"pope": {"questions": "abc"}}, {"pool": "abc"})


@pytest.mark.parametrize("limits", [3, [1], {"a": "x"}, {"a": 1.5}, {"a": True}, {"a": None}])
def test_floors_that_are_no_numbers_of_rows_are_refused(limits):
    with pytest.raises(ValueError, match=r"subset\.caps=.*: expected a number of rows for every"):
        check_settings(fraction=0.1, rows=None, text_only="ranked", caps=limits)


def test_hydra_s_marks_do_not_reach_a_user(compose):
    several = "Ambiguous value for argument 'seed=0,1'\n1. To use it as a list, use key=[a,b]"
    assert explained(several, [], compose()).startswith("seed=0,1 lists several values; add -m for")
    lost = "Could not find 'selector/x'\n\nAvailable options:\n\taum\nConfig search path:\n\tmain"
    assert explained(lost, [], compose()) == "Could not find 'selector/x' Available options: aum"
    with pytest.raises(ConfigError, match=r"selector= names no choice\. There are aum, "):
        check_choices(["selector="])
    for argument in ("pool=mix.json", "pool='my mix.json'", "pool=data/fine"):
        with pytest.raises(ConfigError, match=r"one of demo, .*pool=files pool\.annotations=FILE"):
            check_choices([argument])
    with pytest.raises(ConfigError, match=r"^x\.seed: Interpolation key 'foo' not found$"):
        build(OmegaConf.create({"x": {"seed": "${foo}"}}).x)


# Pages.


def test_the_help_is_one_page_with_every_goal():
    page = help_page.page(["--help"])
    assert len(page.splitlines()) <= 50
    assert max(map(len, page.splitlines())) <= 100
    assert all(re.search(rf"^  {goal}  ", page, re.MULTILINE) for goal in GOALS)
    examples = page.split("examples\n")[1].split("\n\n")[0].splitlines()
    assert len(examples) == 5


def test_every_example_of_the_help_composes(compose):
    lines = help_page.page(["-h"]).split("examples\n")[1].split("\n\n")[0].splitlines()
    for line in lines:
        words = [word for word in prepared(shlex.split(line)[1:]) if word != "-m"]
        check_choices(words)
        assert compose(*(word.split(",")[0] for word in words))


def test_more_is_shown_where_it_is_asked_for():
    assert "\nselector: aum, clip_score," in help_page.page(["--help", "groups"])
    selectors = help_page.page(["--help", "selector"]).splitlines()
    assert any(re.match("selector=random +Random: every row", line) for line in selectors)
    assert re.search(r"^hardware=ddp +\S", help_page.page(["--help", "hardware"]), re.MULTILINE)
    with pytest.raises(ConfigError, match=r"--help selectr is no page; did you mean --help select"):
        help_page.page(["--help", "selectr"])


def test_the_whole_configuration_is_shown_with_other_values(server, tmp_path):
    ended = server.command("--help", "config", "subset.fraction=0.07", cwd=tmp_path)
    assert "fraction: 0.07" in ended.stdout


def test_the_version_is_that_of_the_package():
    form = r"xmas \d+\.\d+\.\d+(, commit [0-9a-f]{40}\+?)?"
    assert re.fullmatch(form, help_page.page(["--version"]))


# Through the shell.


def shell_lines() -> list[str]:
    """Every command of the README, as one line."""
    readme = Path(__file__).parent.parent / "README.md"
    text = "\n".join(text for _, language, text in blocks(readme) if not language)
    return re.findall(r"^xmas(?: .*)?$", text.replace("\\\n", " "), re.MULTILINE)


def test_a_shell_splits_the_readme_s_commands_as_the_tests_of_pages_do(tmp_path):
    """Those compose each of them; a name on the path shows what the shell makes of it."""
    lines = shell_lines()
    assert len(lines) >= 8
    shown = tmp_path / "xmas"
    shown.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    shown.chmod(0o755)
    script = "\n".join(lines)
    ended = subprocess.run(
        ["sh", "-e", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )  # fmt: skip
    words = [json.loads(line) for line in ended.stdout.splitlines()]
    assert words == [shlex.split(line, comments=True)[1:] for line in lines]


def test_the_command_takes_names_and_flags_of_any_kind(toy: Toy, server, tmp_path):
    place = tmp_path / "my pool, größer=[1]"
    place.mkdir()
    (place / "mix (1).json").write_bytes((toy.folder / "pool.json").read_bytes())
    words = [*toy.overrides(), f"pool.annotations={place}/mix (1).json", "selector=random"]
    ended = server.command(*words, "-m", f"store.root={place}/store", "seed=0,1", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert len(list((place / "store" / "subset").glob("[!.]*"))) == 2


@pytest.mark.parametrize("goal", ["rescore", "submission"])
def test_goals_that_need_a_benchmark_say_so_before_anything_is_made(server, tmp_path, goal):
    ended = server.command(f"goal={goal}", f"store.root={tmp_path}/store", cwd=tmp_path)
    assert ended.returncode == 1
    assert f"xmas: goal={goal}: name the benchmark, as in benchmark=" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "store").exists()
