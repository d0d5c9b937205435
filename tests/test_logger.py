"""Loggers: what they show is what the store holds, once a group, and they change nothing."""

import csv
import dataclasses
import hashlib
import json
import runpy
import zlib
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import pytest
from offline import offline_runs
from toy import Toy, declared, losses, picture_name, recorded, shared

from xmas.cli.command import logged
from xmas.evaluation.generation.settings import Generation
from xmas.evaluation.protocol import Question, Scored
from xmas.evaluation.reference import Reference
from xmas.evaluation.scores import Scores
from xmas.results.logger import RunLogger
from xmas.results.logger.csv import Csv
from xmas.results.logger.tensorboard import TensorBoard
from xmas.results.logger.wandb import Wandb, _account
from xmas.results.table import Table
from xmas.results.table.csv_lines import csv_fields
from xmas.selection.methods.random import Random
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Stage, Store, key
from xmas.store.planned_stages import planned_stages
from xmas.target.target import Target

LOGGERS = [Wandb, Csv, TensorBoard]


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No account, and W&B's own files out of the home directory."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


@dataclasses.dataclass(frozen=True)
class Quiz:
    """Nine questions; a hash of the answer says whether it is right."""

    name: str
    folder: str
    metric: ClassVar[str] = "accuracy"
    split: str = "toy"
    max_new_tokens: int = 4

    def asked(self, store: Store) -> list[Question]:
        images = Path(self.folder) / "images"
        return [
            Question(number, f"What is{'?' * number}", images / picture_name(number))
            for number in range(9)
        ]

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        said = [f"{self.name}{one['question_id']}{one['text']}" for one in answers]
        right = sum(zlib.crc32(each.encode()) % 3 > 0 for each in said)
        return Scored(100 * right / len(said), len(said), {})


def files(folder: Path) -> dict[str, str]:
    """The sha256 of what a fit leaves; an adapter's settings name its base model's folder."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.name in ("adapter_model.safetensors", "loss.csv", "cost.json")
    }


@pytest.mark.parametrize("logger", LOGGERS, ids=lambda one: one.__name__)
def test_a_logged_fit_has_the_same_key_and_the_same_files(toy: Toy, tmp_path, logger):
    store = shared(toy, tmp_path)
    target = toy.target()
    with logged(target, store, logger(str(tmp_path / "logged"), "sweep")) as followed:
        made = followed.get(target)
    assert store == followed
    assert made == store.path(target)
    assert len(files(made)) == 3
    assert files(made) == files(toy.store.get(target))


@pytest.fixture(scope="module")
def sweep(toy: Toy, tmp_path_factory) -> tuple[Store, Path, list[Scores]]:
    """Two seeds of random subsets and their reference, trained, scored and logged offline."""
    root = tmp_path_factory.mktemp("sweep")
    store = shared(toy, root)
    suite = {name: Quiz(name, str(toy.folder)) for name in ("gqa", "pope")}
    generation = Generation(precision="float32")
    goals = []
    for seed in (0, 1):
        subset = Subset(Ranking(toy.pool, Random(), seed), rows=23)
        target = toy.target(subset, seed=seed)
        goals.append(Scores(suite, target, Reference(toy.target()), generation))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WANDB_MODE", "offline")
        for goal in (*goals, goals[0]):  # the last one finds everything in the store
            with logged(goal, store, Wandb(str(root / "logged"), "random sweep")) as followed:
                followed.get(goal)
        table = Table()
        with logged(table, store, Wandb(str(root / "logged"), "random sweep")) as followed:
            table.make(followed)
    return store, root / "logged", goals


def test_offline_runs_are_read_back_in_one_group_each_result_once(sweep):
    _, folder, goals = sweep
    found = offline_runs(folder)
    assert {one.group for one in found.values()} == {"random sweep"}
    assert all(one.finished for one in found.values())
    kinds = [one.job_type for one in found.values()]
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    lists = [*folder.glob("wandb/offline-run-*/files/requirements.txt")]
    assert len(lists) <= 1  # of the packages that are installed: of the process's first run
    # the reference's subset and target stand beside those of the seeds
    assert counts == {"pretrained": 1, "subset": 3, "target": 3, "scores": 2, "table": 1}
    assert {one.id for one in found.values() if one.job_type == "scores"} == {
        f"scores-{key(goal)}-random-sweep" for goal in goals
    }


def test_a_suite_asks_for_what_it_declares(sweep):
    store, _, goals = sweep
    for stage in [each for goal in goals for each in planned_stages(goal)]:
        assert recorded(store, stage) == declared(stage), type(stage).__name__


def test_the_summaries_are_the_values_of_the_table(sweep):
    store, folder, _ = sweep
    with open(Table().files(store)[1], encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    shown = {line["benchmark"]: line for line in lines if line["selector"] == "random"}
    runs = [one for one in offline_runs(folder).values() if one.job_type == "scores"]
    assert sorted(one.config["seed"] for one in runs) == [0, 1]
    for name in ("gqa", "pope"):
        assert float(shown[name]["score"]) == fmean(one.summary[f"score/{name}"] for one in runs)
        relative = fmean(one.summary[f"relative/{name}"] for one in runs)
        assert float(shown[name]["relative"]) == pytest.approx(relative)
    arp = fmean(one.summary["ARP"] for one in runs)
    assert float(shown["ARP"]["relative"]) == pytest.approx(arp)
    hours = fmean(one.summary["hours/training"] for one in runs)
    assert float(shown["ARP"]["training_hours"]) == pytest.approx(hours)
    assert {one.config["selector"] for one in runs} == {"random"}
    assert {one.config["budget"] for one in runs} == {23 / 41}


def test_the_script_of_the_record_compares_them_too(sweep, capsys):
    store, _, _ = sweep
    script = Path(__file__).parents[1] / "experiments" / "demo_sweep" / "offline_runs.py"
    runpy.run_path(str(script))["main"](Path(store.root))
    assert "scores of the table compared, at most 0 apart" in capsys.readouterr().out


def test_a_run_has_its_whole_configuration_nested_and_its_curve(sweep):
    store, folder, goals = sweep
    target = goals[0].target
    run = offline_runs(folder)[f"target-{key(target)}-random-sweep"]
    assert run.name == "target random 56.0976 % seed 0"
    assert run.config["stage"]["recipe"]["rate"] == 5e-3
    assert run.config["stage"]["subset"]["ranking"]["selector"]["type"] == "Random"
    wanted = losses(store.path(target))
    assert [line["trainer/global_step"] for line in run.history] == [x["step"] for x in wanted]
    for name in ("loss", "rate", "answer_tokens"):
        assert [line[name] for line in run.history] == [one[name] for one in wanted]


def test_the_subset_and_the_table_are_artifacts(sweep):
    _, folder, goals = sweep
    found = offline_runs(folder)
    name = f"subset-{key(goals[0].target.subset)}"
    run = found[f"{name}-random-sweep"]
    assert run.artifacts == {name: ["manifest.json", "rows.json"]}
    shares = [held for name, held in run.summary.items() if name.startswith("mix/")]
    assert sum(shares) == pytest.approx(1)
    table = found["table-latest-random-sweep"]
    assert table.artifacts["table-latest"] == ["table.csv", "table.md", "table.tex"]
    assert table.history[0]["table"]["ncols"] == len(csv_fields())


def test_a_result_of_the_store_is_logged_once_a_group(sweep, tmp_path):
    store, _, goals = sweep

    def log(group: str) -> dict[str, int]:
        with logged(goals[0], store, Csv(str(tmp_path), group)) as followed:
            followed.get(goals[0])
        return {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob(
            f"csv/{group}/*/summary.json")}  # fmt: skip

    first = log("one")
    assert len(first) == 6  # start point; reference and seed 0: subset and target; scores
    assert log("one") == first
    assert set(log("other")) == set(first)
    curve = Path(tmp_path, "csv", "one", f"target-{key(goals[0].target)}", "metrics.csv")
    with curve.open() as file:
        told = [float(line["loss"]) for line in csv.DictReader(file)]
    assert told == [one["loss"] for one in losses(store.path(goals[0].target))]


def test_spectra_and_cluster_sizes_are_told(toy: Toy, tmp_path):
    for stage in (toy.trajectories, toy.clusters):
        toy.store.get(stage)
    Csv(str(tmp_path), "g").enter_all(toy.clusters, toy.store)
    (spectra,) = tmp_path.glob("csv/g/trajectories-*/metrics.csv")
    said = json.loads((toy.store.get(toy.trajectories) / "statistics.json").read_text())
    with spectra.open() as file:
        lines = {line["step"]: line for line in csv.DictReader(file)}
    assert list(lines) == list(said)
    for step, line in lines.items():
        assert float(line["attention/sum/0.5"]) == said[step]["quantiles"]["sum"]["0.5"]
    (sizes,) = tmp_path.glob("csv/g/clusters-*/summary.json")
    told = json.loads(sizes.read_text())["summary"]
    kept = json.loads((toy.store.get(toy.clusters) / "sizes.json").read_text())
    assert (told["clusters"], told["without image"]) == (5, kept[-1])
    assert (told["largest"], told["smallest"]) == (max(kept[:-1]), min(kept[:-1]))


def test_tensorboard_reads_what_was_logged(toy: Toy, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    target = toy.target()
    toy.store.get(target)
    TensorBoard(str(tmp_path), "g").enter_all(target, toy.store)
    (place,) = tmp_path.glob("tensorboard/g/target-*")
    found = events.EventAccumulator(str(place))
    found.Reload()
    wanted = losses(toy.store.path(target))
    told = [(one.step, one.value) for one in found.Scalars("loss")]
    assert told == [(one["step"], pytest.approx(one["loss"])) for one in wanted]
    assert found.Scalars("summary/steps")[0].value == len(wanted)


@dataclasses.dataclass(frozen=True)
class Broken(Stage):
    """Begins a fit, and fails."""

    kind: ClassVar[str] = "broken"

    target: Target

    def compute(self, store: Store, out: Path) -> None:
        store.get(self.target)
        logger = store.fit_logger(self)
        assert logger is not None
        logger.log_metrics({"loss": 1.0}, 1)
        raise ValueError("it broke")


@pytest.mark.parametrize("logger", LOGGERS, ids=lambda one: one.__name__)
def test_a_failed_stage_is_not_entered_but_what_it_rests_on_is(toy: Toy, tmp_path, logger):
    toy.store.get(toy.target())
    broken = Broken(toy.target())
    run_logger: RunLogger = logger(str(tmp_path), "g")
    for attempt in range(2):  # the second takes the place of the first
        with (
            pytest.raises(ValueError, match="it broke"),
            logged(broken, toy.store, run_logger) as followed,
        ):
            followed.get(broken)
        marks = {path.stem.split("-")[0] for path in tmp_path.glob("entered/*/g/*.json")}
        assert marks == {"pretrained", "subset", "target"}, attempt
    if logger is Wandb:
        run = offline_runs(tmp_path)[f"broken-{key(broken)}-g"]
        assert not run.finished
        assert [line["loss"] for line in run.history] == [1.0]


def test_an_account_is_looked_for_where_wandb_looks(tmp_path, monkeypatch):
    assert not _account()
    place = tmp_path / "netrc"
    place.write_text("machine elsewhere.org login user password x\n")
    place.chmod(0o600)
    assert not _account()
    place.write_text("machine api.wandb.ai login user password x\n")
    assert _account()
    place.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert _account()
