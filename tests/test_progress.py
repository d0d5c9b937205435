"""Progress: rates of the last seconds, which stage of how many, time left over all, by a clock."""

import io
import logging
import pickle
from pathlib import Path
from unittest.mock import Mock

import pytest
from lightning.pytorch import LightningModule, Trainer

from xmas.cli import time_left
from xmas.cli.config import build
from xmas.cli.sweep.job import Job
from xmas.models.chat.batches import Batch
from xmas.store import Stage, Store, key, progress
from xmas.store.chain import Chain
from xmas.store.computation import Computation
from xmas.store.planned_stages import planned_stages
from xmas.store.progress import Bar, bar
from xmas.training.fit import callbacks


class Clock:
    """Seconds that pass as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(autouse=True)
def no_chain(monkeypatch):
    monkeypatch.setattr(Chain, "running", None)


def shown(clock, output=None, **changed) -> Bar:
    settings = {"total": 1000, "label": "fit", "unit": "row", "initial": 0, "scaled": False}
    settings |= {"whole": True, "output": output or io.StringIO(), "clock": clock} | changed
    return Bar(None, **settings)


def work(steps: Bar, clock: Clock, counts: list[int], seconds: float) -> list[str]:
    """The lines after updates by these counts, each after so many seconds."""
    for count in counts:
        clock.now += seconds
        steps.update(count)
    return steps.output.getvalue().splitlines()


def test_a_rate_is_that_of_the_last_seconds(clock):
    """100 s at 1 row/s, then 20 s at 40 rows/s: the mean would be 7.5."""
    steps = shown(clock)
    lines = work(steps, clock, [10] * 10, 10)
    assert lines[-1] == "fit: 10 %, 100 of 1,000 rows, 1 rows/s, 15:00 left"
    lines = work(steps, clock, [400] * 2, 10)
    assert lines[-1] == "fit: 90 %, 900 of 1,000 rows, 40 rows/s, 0:02 left"


def test_after_a_pause_the_rate_is_low(clock):
    steps = shown(clock)
    work(steps, clock, [100] * 3, 10)
    clock.now += 390
    assert work(steps, clock, [100], 10)[-1].startswith("fit: 40 %, 400 of 1,000 rows, 4.0 s/row")


def test_the_first_units_of_a_resumed_attempt_are_no_part_of_the_rate(clock):
    steps = shown(clock, initial=500)
    assert work(steps, clock, [20], 10) == ["fit: 52 %, 520 of 1,000 rows, 2 rows/s, 4:00 left"]
    steps.close()


def test_a_file_has_a_line_every_ten_seconds_and_a_last_one(clock):
    output = io.StringIO()
    with shown(clock, output) as steps:
        assert len(work(steps, clock, [10] * 100, 0.5)) == 5
    assert output.getvalue().splitlines()[-1] == "fit: 1,000 rows in 0:50, 20 rows/s"


def test_work_that_was_broken_off_does_not_say_that_it_is_done(clock):
    output = io.StringIO()
    steps = shown(clock, output)
    work(steps, clock, [10], 5)
    with pytest.raises(KeyError), steps:
        raise KeyError
    assert output.getvalue() == "fit: 10 of 1,000 rows in 0:05, 2 rows/s\n"


def test_a_terminal_has_one_line_that_goes_at_the_end(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    output = Terminal()
    with shown(clock, output) as steps:
        steps.set_postfix_str("loss 0.5")
        work(steps, clock, [50] * 5, 0.1)
    states = output.getvalue().split("\r")
    assert [len(state) <= 80 + len("\x1b[K") for state in states] == [True] * len(states)
    assert len(states) == 4  # nothing, two states, the end
    assert states[2].startswith("fit: 20 % [##")
    assert states[2].endswith("200 of 1,000 rows, 500 rows/s, 0:02 left, loss 0.5\x1b[K")
    assert states[3] == "\x1b[K"
    assert "\n" not in output.getvalue()


def test_without_a_total_there_is_no_time_left(clock):
    assert work(shown(clock, total=None), clock, [30], 10) == ["fit: 30 rows, 3 rows/s"]


@pytest.mark.parametrize(
    ("unit", "units"), [("row", "rows"), ("batch", "batches"), ("pass", "passes"), ("box", "boxes")]
)
def test_units_have_a_plural(clock, unit, units):
    (line,) = work(shown(clock, unit=unit), clock, [30], 10)
    assert line == f"fit: 3 %, 30 of 1,000 {units}, 3 {units}/s, 5:23 left"


def test_large_counts_and_times_are_short(clock):
    steps = shown(clock, total=10**10, unit="byte", scaled=True)
    (line,) = work(steps, clock, [12_345_678], 10)
    assert line == "fit: 0 %, 12.3M of 10G bytes, 1.23M bytes/s, 2:14:50 left"


def test_a_label_from_a_file_stays_text_in_its_line(clock):
    (line,) = work(shown(clock, label="a\n\x1b[31mb"), clock, [30], 10)
    assert line.startswith("a \N{REPLACEMENT CHARACTER}[31mb: 3 %")


def test_an_output_that_is_closed_stops_no_work(clock):
    output = io.StringIO()
    steps = shown(clock, output)
    output.close()
    clock.now += 10
    steps.update(1)
    steps.update(1)
    steps.close()
    assert steps.count == 2


def test_a_bar_over_elements_counts_them(capsys):
    assert list(bar([3, 5, 7], label="numbers", unit="number")) == [3, 5, 7]
    assert capsys.readouterr().err.startswith("numbers: 3 numbers in 0:00")


def test_other_ranks_are_quiet(monkeypatch, capsys):
    monkeypatch.setattr(progress.distributed, "leads", lambda: False)
    assert list(bar(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""


# The chain. Estimates below: a proxy of 100 s, trajectories of 50, two targets of 200, a ranking.

ESTIMATES = {"proxy/a": 100.0, "features/a": 50.0, "ranking/a": 0.0, "target/a": 200.0}
ESTIMATES |= {"target/b": 200.0}


def running(name: str, seconds: float, waiting: tuple[str, float] | None = None):
    """A computation that has spent so many seconds, and one that waits for it."""
    for of, spent in (waiting, (name, seconds)) if waiting else ((name, seconds),):
        computation = Computation(of, Path("unused"))
        computation.earlier = spent
        Computation.stack.append(computation)
    Computation.running = Computation.stack[-1]


@pytest.fixture
def chain(monkeypatch):
    monkeypatch.setattr(Computation, "stack", [])
    monkeypatch.setattr(Computation, "running", None)
    Chain.running = Chain(ESTIMATES)
    return Chain.running


def test_before_anything_is_measured_the_estimate_counts(chain):
    assert chain.left(None, whole=True) == 550
    running("proxy/a", 0)
    assert chain.left(None, whole=True) == 550
    assert chain.place() == "1/5"


def test_the_time_left_is_corrected_by_what_was_measured(chain):
    """The proxy took twice its 100 s; of 550 s a tenth counts as exact: (200 + 55) / (100 + 55)."""
    chain.note("proxy/a", 200.0)
    ratio = 255 / 155
    assert chain.left(None, whole=True) == pytest.approx(ratio * 450)
    assert chain.place() == "2/5"
    running("features/a", 30)
    assert chain.left(None, whole=True) == pytest.approx(ratio * 450 - 30)


def test_the_current_stage_s_own_progress_counts_for_it_and_its_kind(chain):
    """A target that has taken 60 s and needs 40 more: half of its 200 s, and so will the other."""
    for name in ("proxy/a", "features/a", "ranking/a"):
        chain.note(name, ESTIMATES[name])
    running("target/a", 60)
    overall = (100 + 50 + 55 + 100) / (100 + 50 + 55 + 200)
    of_targets = (100 + overall) / (200 + 1)
    assert chain.left(40.0, whole=True) == pytest.approx(40 + of_targets * 200)


def test_a_bar_of_a_part_is_no_estimate_of_the_whole_stage(chain):
    running("features/a", 10)
    assert chain.left(5.0, whole=False) == 100 + 40 + 400
    assert chain.left(70.0, whole=False) == 100 + 70 + 400


def test_a_stage_that_waits_has_done_a_part(chain):
    running("proxy/a", 0, waiting=("features/a", 20.0))
    assert chain.left(None, whole=True) == 100 + 30 + 400


def test_what_another_process_has_computed_is_done_and_measures_nothing(chain):
    chain.note("target/a", None)
    assert chain.left(None, whole=True) == 350
    assert chain.place() == "2/5"
    chain.note("elsewhere/x", None)  # reused, and never planned
    assert chain.place() == "2/5"


def test_an_unknown_cost_hides_the_time_left_until_it_is_the_last(chain):
    chain.estimates["reviews/a"] = None
    assert chain.left(3.0, whole=True) is None
    assert chain.place() == "1/6"
    for name in ESTIMATES:
        chain.note(name, 1.0)
    running("reviews/a", 2)
    assert chain.left(3.0, whole=True) == 3.0
    assert chain.place() == "6/6"


def test_a_stage_that_was_not_planned_counts_from_when_it_begins(chain):
    running("reviews/a", 2)
    assert chain.place() == "1/6"
    chain.note("reviews/a", 5.0)
    assert chain.place() == "2/6"


def test_one_stage_alone_has_no_place(chain):
    chain.estimates = {"proxy/a": None}
    running("proxy/a", 0)
    assert chain.place() == ""


def test_a_bar_shows_the_chain(chain, clock):
    chain.note("proxy/a", 100.0)
    running("features/a", 10)
    steps = shown(clock, label="trajectories")
    (line,) = work(steps, clock, [200], 10)
    assert line == (
        "2/5 trajectories: 20 %, 200 of 1,000 rows, 20 rows/s, 0:40 left, all stages 7:20 left"
    )


class Counted(Stage):
    kind = "counted"

    def compute(self, store: Store, out: Path) -> None:
        (out / "place.txt").write_text(Chain.running.place() if Chain.running else "no chain")


def test_the_store_notes_what_it_has_computed_and_what_it_found(tmp_path):
    store, stage = Store(str(tmp_path)), Counted()
    name = f"counted/{key(stage)}"
    Chain.running = Chain({name: 3.0, "other/a": 4.0})
    folder = store.get(stage)
    assert (folder / "place.txt").read_text() == "1/2"
    assert Chain.running.measured[name] < 3
    Chain.running = Chain({name: 3.0, "other/a": 4.0})
    store.get(stage)
    assert Chain.running.measured == {name: None}


# The command: what a run and a sweep have to compute.

NONE = frozenset()


@pytest.fixture
def planned(toy, compose, tmp_path):
    """Follow the goal of these overrides; the chain of its run."""

    def follow(*overrides: str, goal: str = "subset") -> Chain | None:
        cfg = compose(*toy.overrides(), f"store.root={tmp_path}", "selector=random", *overrides)
        time_left.follow(build(cfg[goal]), build(cfg.store), cfg, NONE)
        return Chain.running

    return follow


def test_a_run_is_followed_over_what_it_has_to_compute(planned, compose, toy, tmp_path):
    goal, store = toy.subset(), Store(str(tmp_path))
    names = {f"{stage.kind}/{key(stage)}": stage for stage in planned_stages(toy.proxy)}
    cfg = compose(*toy.overrides(), f"store.root={tmp_path}")
    time_left.follow(toy.proxy, store, cfg, NONE)
    estimates = Chain.running.estimates
    assert [*estimates] == [*names]
    assert all(seconds is not None and seconds >= 0 for seconds in estimates.values())
    assert estimates[f"proxy/{key(toy.proxy)}"] > 0
    store.get(goal)
    time_left.follow(goal, store, cfg, NONE)
    assert Chain.running is None  # all of it is there


def test_of_what_is_there_nothing_is_planned_unless_it_is_forced(planned, tmp_path):
    first = planned()
    assert [name.partition("/")[0] for name in first.estimates] == ["ranking", "subset"]
    (tmp_path / next(iter(first.estimates))).mkdir(parents=True)
    assert [*planned().estimates] == [*first.estimates][1:]
    (tmp_path / [*first.estimates][1]).mkdir(parents=True)
    assert planned() is None
    assert [*planned("force=subset").estimates] == [*first.estimates][1:]


def test_an_estimate_that_cannot_be_made_stops_no_run(planned, caplog):
    with caplog.at_level(logging.DEBUG, logger="xmas"):
        chain = planned("hardware.device=null", goal="proxy")
    assert set(chain.estimates.values()) == {None}
    assert chain.left(3.0, whole=True) is None
    (record,) = [each for each in caplog.records if each.name == time_left.__name__]
    assert record.levelno == logging.DEBUG


def test_a_goal_that_cannot_be_planned_is_left_to_the_run(planned):
    assert planned("pool.annotations=/absent.json") is None


def test_a_sweep_counts_the_stages_of_all_its_jobs(planned, compose, toy, tmp_path):
    def job(number: int, fraction: float) -> Job:
        overrides = [f"store.root={tmp_path}", "selector=random", f"subset.fraction={fraction}"]
        cfg = compose(*toy.overrides(), *overrides, hydra_node=True)
        return Job(number, tuple(overrides), pickle.dumps(cfg), "")

    with time_left.sweep([job(0, 0.2), job(1, 0.5), job(2, 0.9)]):
        chain = planned("subset.fraction=0.2")
        kinds = [name.partition("/")[0] for name in chain.estimates]
        assert kinds == ["ranking", "subset", "subset", "subset"]
        chain.note(next(iter(chain.estimates)), 1.0)
        assert planned("subset.fraction=0.5") is chain  # goes on over the next job
        assert chain.place() == "2/4"
    assert Chain.running is None


def test_bars_over_the_tensors_of_a_model_are_silent_and_no_others(capsys):
    from transformers.utils import logging as of_transformers

    from xmas.models.tensor_bars import silence

    silence()
    assert list(of_transformers.tqdm([1, 2], desc="Loading weights")) == [1, 2]
    assert list(of_transformers.tqdm([1, 2], desc="Writing model shards")) == [1, 2]
    assert capsys.readouterr().err == ""
    assert list(of_transformers.tqdm([1, 2], desc="Fetching files")) == [1, 2]
    assert "Fetching files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("world", "first", "expected"),
    [
        (1, 0, [(0, 4), (4, 4), (8, 2), (10, 4), (14, 3)]),
        (1, 3, [(10, 4), (14, 3)]),  # resumed: the short microbatch of the first epoch counts 2
        (2, 1, [(8, 6), (14, 3)]),  # the last microbatch of two ranks is only one rank's
    ],
)
def test_a_fit_counts_each_row_once_also_where_it_resumes(monkeypatch, world, first, expected):
    steps: list[tuple[int, int]] = []

    class Recorded:
        def __init__(self, total: int, label: str, initial: int) -> None:
            assert (total, label) == (17, "fit")
            self.rows = initial

        def set_postfix_str(self, text: str, refresh: bool) -> None:
            assert text == "loss 0.500"

        def update(self, count: int) -> None:
            steps.append((self.rows, count))
            self.rows += count

    monkeypatch.setattr(callbacks, "bar", Recorded)
    curve = Mock(callbacks.Losses, rows=[[1, 0.5, 1e-3, 20]])
    shown_rows = callbacks.Progress("fit", [4, 4, 2, 4, 3], curve)
    trainer = Mock(Trainer, is_global_zero=True, world_size=world, accumulate_grad_batches=2)
    module, batch = Mock(LightningModule), Mock(Batch)
    for number in range(first, first + len(expected)):
        shown_rows.on_train_batch_end(trainer, module, {"loss": 0.25}, batch, number)
    assert steps == expected
