"""README and docs: commands compose, examples run, tables and listings say what is there."""

import contextlib
import json
import re
import shlex
import tomllib
import types
from pathlib import Path

import numpy as np
import pytest
import tiny
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.utils import get_class
from omegaconf import DictConfig
from pages import DOCS, HOUSE, blocks, files_of, written
from PIL import Image
from toy import ROWS, Toy

from xmas.cli.command import Page
from xmas.cli.config import build, check_choices, goal_node
from xmas.cli.unknown_settings import with_own_keys
from xmas.evaluation.generation.settings import Generation
from xmas.evaluation.scores import Score
from xmas.store import Stage

README = HOUSE / "README.md"
CONTRIBUTING = HOUSE / "CONTRIBUTING.md"
PAGES = (README, CONTRIBUTING, *sorted(DOCS.glob("*.md")))
LINK = re.compile(r"\]\(([^)#:]+)\)")


def commands(page: Path) -> list[tuple[str, ...]]:
    """The arguments of every `xmas` in the blocks and lines of a page, and of its tables' options.

    After torchrun's `-m` as well.
    """
    prose = page.read_text(encoding="utf-8")
    lines = [
        line
        for _, language, text in blocks(page)
        if not language
        for line in text.replace("\\\n", " ").splitlines()
    ]
    lines += re.findall(r"`(xmas [^`…]*)`", prose)
    for table in re.findall(r"^\| option \|.*?\n\n", prose, re.MULTILINE | re.DOTALL):
        options = re.findall(r"^\| `(.+?)`", table, re.MULTILINE)
        lines += [" ".join(["xmas hardware=one_gpu", *options])]
    calls = [re.match(r"(?:(?:srun )?torchrun .* -m )?xmas( .*|)$", line) for line in lines]
    return [tuple(shlex.split(call[1], comments=True)) for call in calls if call]


COMMANDS = [  # each once, with the files of a page that has it
    pytest.param(page, command, id=f"{page.stem}: {' '.join(command)}")
    for command, page in {
        command: page
        for page in sorted(PAGES, key=lambda page: len(files_of(page)))
        for command in commands(page)
    }.items()
]


def test_all_commands_are_found():
    assert len(COMMANDS) >= 50
    assert sum("hardware=fsdp hardware.nodes=" in str(one.id) for one in COMMANDS) == 1


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_composes(page, command, tmp_path, compose):
    if "--help" in command:  # test_config runs it
        return
    words = (word.replace("$SLURM_NNODES", "2") for word in command)
    pairs = [word.split("=", 1) for word in words if word not in ("-m", "--config-dir", "DIR")]
    with written(page, tmp_path) as searchpath:
        check_choices(["--config-dir", str(tmp_path / "conf"), *map("=".join, pairs)])
        ends = (  # the first and the last of the values that a sweep lists
            tuple(
                f"{name}={value if value[0] in '[{' else value.split(',')[end]}"
                for name, value in pairs
            )
            for end in (0, -1)
        )
        for chosen in dict.fromkeys(ends):
            goal = build(goal_node(compose(*with_own_keys(chosen), *searchpath)))
            assert isinstance(goal, Stage | Page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:xmas|conf|tests|experiments)/[\w./-]+)`", text)
    added = files_of(page)
    assert not [
        path
        for path in named
        if "NAME" not in path and path not in added and not (HOUSE / path).exists()
    ]


def test_every_page_is_linked_from_the_readme():
    links = {README.parent / link for link in LINK.findall(README.read_text(encoding="utf-8"))}
    assert set(PAGES) - {README} <= links


def test_the_citation_is_of_this_version():
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (HOUSE / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    for field in ("version", "license"):
        assert f"{field}: {project[field]}" in lines


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 200


def listed() -> dict[str, str]:
    """The README's folder listing: path and what it says about it."""
    (text,) = (text for _, language, text in blocks(README) if "xmas/\n" in text)
    found, parents = {}, []
    for line in text.splitlines():
        indent, name, about = re.fullmatch(r"( *)(\S+)/ *(.*)", line).groups()
        parents = [*parents[: len(indent) // 2], name]
        found["/".join(parents)] = about
    return found


def folders() -> set[str]:
    """The folders of the repository, and those of `xmas/` down to its packages' packages."""
    top = {
        path.name
        for path in HOUSE.iterdir()
        if path.is_dir() and (path.name == ".ci" or path.name[0] != ".")
    }
    packages = {path.parent.relative_to(HOUSE) for path in (HOUSE / "xmas").rglob("*.py")}
    return top - {"store", "dist", "build"} | {
        package.as_posix() for package in packages if len(package.parts) <= 3
    }


def test_the_folder_listing_is_the_tree():
    found = listed()
    assert set(found) == folders()
    assert all(about or name == "xmas" for name, about in found.items())


@pytest.mark.parametrize(
    ("page", "group"),
    [
        ("docs/choose-a-selector.md", "selector"),
        ("docs/add-a-target.md", "target"),
        ("docs/add-a-target.md", "target/recipe"),
        ("docs/select-from-your-own-pool.md", "proxy"),
        ("docs/benchmarks-and-judges.md", "benchmark"),
        ("docs/benchmarks-and-judges.md", "suite"),
        ("docs/estimate-and-doctor.md", "hardware"),
        ("docs/reproduce-a-published-table.md", "experiment"),
    ],
)
def test_tables_list_every_choice(page, group):
    text = (HOUSE / page).read_text(encoding="utf-8")
    table = text.split(f"| `{group}=`", 1)[1].split("\n\n", 1)[0]
    first_cells = " ".join(line.split("|")[1] for line in table.splitlines()[2:])
    there = {path.stem for path in (HOUSE / "conf" / group).glob("*.yaml")}
    assert set(re.findall(r"`(\w+)`", first_cells)) == there


def test_the_goals_table_names_every_goal_that_prints_or_writes_a_page(compose):
    text = README.read_text(encoding="utf-8")
    table = text.split("| `goal=` | makes |", 1)[1].split("\n\n", 1)[0]
    first_cells = " ".join(line.split("|")[1] for line in table.splitlines()[2:])
    goals = set(re.findall(r"`(\w+)`", first_cells))
    nodes = {name: node for name, node in compose().items() if isinstance(node, DictConfig)}
    classes = {
        name: get_class(node["_target_"]) for name, node in nodes.items() if "_target_" in node
    }
    assert goals <= set(classes)
    assert {name for name, cls in classes.items() if hasattr(cls, "make")} <= goals


def run_in(place: Path, toy: Toy, page: Path) -> types.ModuleType:
    """The page's Python blocks without a file of their own, one after the other in `place`."""
    (place / "mix.json").symlink_to(toy.folder / "pool.json")
    (place / "images").symlink_to(toy.folder / "images")
    module = types.ModuleType("ran")
    for file, language, text in blocks(page):
        if language == "python" and not file:
            exec(compile(text, page.name, "exec"), vars(module))
    return module


def test_the_readme_s_python_gives_a_folder_with_a_subset(toy: Toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = run_in(tmp_path, toy, README)
    assert len(json.loads((ran.folder / "rows.json").read_text())) == ROWS // 5


def test_the_example_with_rows_held_out_runs(toy: Toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ran = run_in(tmp_path, toy, DOCS / "select-from-your-own-pool.md")
    rest, held_out, first = map(int, capsys.readouterr().out.split())
    assert rest + held_out == ROWS
    assert 0 < held_out <= ROWS // 5
    chosen = json.loads((ran.subset / "file_rows.json").read_text())
    assert len(chosen) == rest // 2
    assert first not in chosen


def test_from_python_runs(toy: Toy, tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    from scored import Shelves

    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(Singleton._instances, GlobalHydra, raising=False)  # `compose` has one
    add = Shelves(tmp_path / "store")
    add("full", "gqa", 60.0)
    for seed, score in enumerate((45.0, 51.0)):
        add("random", "gqa", score, seed=seed)
    ran = run_in(tmp_path, toy, DOCS / "from-python.md")
    assert len(ran.rows) == ROWS // 5
    assert ran.means.to_dict()[("random", 0.2, "gqa")] == 48
    assert ran.table[ran.table.benchmark == "ARP"].relative.to_list() == [100, 80]


@pytest.fixture
def example(compose, toy: Toy, tmp_path):
    """A function of a page and overrides: the configuration with the page's files in place."""
    with contextlib.ExitStack() as stack:

        def composed(page: str, *overrides: str):
            searchpath = stack.enter_context(written(DOCS / f"{page}.md", tmp_path))
            sizes = toy.overrides()
            if page == "add-a-target":  # whose values are not the toy's
                sizes = [size for size in sizes if not size.startswith("target.")]
            return compose(*sizes, *overrides, *searchpath)

        yield composed


@pytest.mark.parametrize(
    ("page", "count"),
    [
        ("add-a-selector", 2),
        ("add-a-feature", 2),
        ("add-a-benchmark", 3),
        ("add-a-model-family", 2),
        ("add-a-pool-format", 2),
        ("add-a-target", 3),
    ],
)
def test_a_worked_example_writes_the_files_that_contributing_names(page, count):
    text = CONTRIBUTING.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if f"docs/{page}.md" in line]
    patterns = {path for row in rows for path in re.findall(r"`((?:xmas|conf)/\S+)`", row)}
    files = files_of(DOCS / f"{page}.md")
    assert len(files) == count
    assert {re.sub(r"\w+(?=\.\w+$)", "NAME", file) for file in files} <= patterns


def test_the_example_selector_ranks(toy: Toy, example):
    ranking = build(example("add-a-selector", "selector=shortest").ranking)
    order = ranking.read(toy.store.get(ranking)).order
    lengths = ranking.selector.proxy.tokens().open(toy.store).text_lengths
    assert sorted(order) == list(range(ROWS))
    assert (np.diff(lengths[order]) >= 0).all()


def test_the_example_selector_works_from_outside(toy: Toy, compose, tmp_path, monkeypatch):
    for file, text in files_of(DOCS / "add-a-selector.md").items():
        target = tmp_path / Path(file).relative_to(*Path(file).parts[:1])  # DIR/selector/...
        target = tmp_path / target.name if target.suffix == ".py" else target
        target.parent.mkdir(exist_ok=True)
        target.write_text(text.replace("xmas.selection.methods.shortest", "shortest"))
    monkeypatch.syspath_prepend(tmp_path)
    searchpath = f"hydra.searchpath=[file://{tmp_path}]"  # as --config-dir
    composed = compose(*toy.overrides(), "selector=shortest", searchpath)
    ranking = build(composed.ranking, frozenset({"shortest"}))
    assert type(ranking.selector).__module__ == "shortest"
    assert toy.store.get(ranking).exists()


def test_the_example_feature_is_clustered_and_ranked_by(toy: Toy, example):
    cfg = example(
        "add-a-feature",
        "+features@features.colours=colours",
        "selector=typiclust",
        "clusters.clip.features=${features.colours}",
    )
    values = np.load(toy.store.get(build(cfg.features.colours)) / "values.npy")
    opened = toy.pool.open(toy.store)
    assert values.shape == (ROWS, 3)
    np.testing.assert_array_equal(np.isfinite(values).all(axis=1), opened.has_image)
    with Image.open(opened.images_of(0)[0]) as image:
        mean = np.asarray(image.convert("RGB").resize((16, 16)), float).mean(axis=(0, 1)) / 255
    np.testing.assert_allclose(values[0], mean, rtol=1e-6)
    assert len(build(cfg.subset).chosen(toy.store)) == ROWS // 5


def test_the_example_benchmark_is_asked_and_scored(toy: Toy, example, tmp_path):
    labels = ("yes", "no", "yes", "no")
    texts = ("Yes.", "yes, it is", "", "NO")  # the first and the last are right
    lines = {
        "questions": [
            {"question_id": number, "image": "top.png", "text": f"Is it {number}?", "label": label}
            for number, label in enumerate(labels)
        ],
        "answers": [{"question_id": number, "text": text} for number, text in enumerate(texts)],
    }
    folder = tmp_path / "files" / "spotted"
    folder.mkdir(parents=True)
    (folder / "images").symlink_to(toy.folder / "images")
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = example(
        "add-a-benchmark",
        "suite=spotted",
        "benchmark=spotted",
        f"benchmarks={folder.parent}",
        f"rescore.answers={folder / 'answers.jsonl'}",
    )
    rescored = json.loads(build(cfg.rescore).make(toy.store))
    assert (rescored["score"], rescored["num"], rescored["metric"]) == (50, 4, "accuracy")
    spotted = build(cfg.scores).suite["spotted"]
    question = spotted.asked(toy.store)[1]
    assert question.prompt.startswith("Is it 1?\nAnswer")
    assert question.image.exists()
    answered = toy.store.get(Score(spotted, toy.target(), Generation(batch=4)))
    assert json.loads((answered / "score.json").read_text())["num"] == 4


def test_the_example_target_trains(toy: Toy, example, tmp_path):
    start = tiny.start("smolvlm", tmp_path / "smolvlm")
    cfg = example(
        "add-a-target",
        "selector=random",
        "target=smolvlm_500m",
        "target/recipe=lora_16",
        f"target.start.source.name={start.source.name}",
        "target.recipe.batch=8",
        "target.recipe.micro_batch=4",
        "target.recipe.precision=32-true",
    )
    folder = toy.store.get(build(cfg.target))
    adapter = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (16, 32)
