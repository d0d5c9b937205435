"""Damage every file of results of every kind; see whether any use continues with what is wrong.

    python experiments/reliability/corruption.py [--folder FOLDER]

On the tests' toy pool of 41 rows every selector's subset is made, with all features, and targets,
scores, an audit and an export. Then a bit of each file is flipped, and the file is cut, emptied and
removed; each time the result is asked for as stages ask, and the table, the report and the one real
stage made from it are made anew. Expected: every use names the file, or gives what it gave before,
because it does not read the file. Prints a table; ends with status 1 if a use was silent.
"""

import argparse
import collections
import dataclasses
import functools
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import hydra
import toy as toys  # of the tests
from choices import EVERY_SELECTOR
from damage import DAMAGES, Trial, User, results, trials

from xmas.cli.config import build, folder
from xmas.evaluation.generation.settings import Generation
from xmas.evaluation.outcomes import Outcomes
from xmas.evaluation.protocol import Question, Scored
from xmas.evaluation.reference import Reference
from xmas.evaluation.scores import Scores
from xmas.results.audit import Audit
from xmas.results.report import Report
from xmas.results.table import Table
from xmas.results.verify import Verify
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Stage, Store, key, volatile
from xmas.target.export import Export


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Asks what is drawn; the score is the share of answers with a letter a."""

    name: ClassVar[str] = "drawn"
    metric: ClassVar[str] = "accuracy"

    images: str = volatile()
    split: str = "toy"
    max_new_tokens: int = 4

    def asked(self, store: Store) -> list[Question]:
        names = sorted(path for path in Path(self.images).rglob("*.png"))
        return [Question(number, "What is drawn?", path) for number, path in enumerate(names)]

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        hits = {line["question_id"]: "a" in line["text"] for line in answers}
        right = sum(hits.values())
        return Scored(100.0 * right / len(hits), len(hits), {}, Outcomes.mean(hits))


@dataclasses.dataclass(frozen=True)
class Recording(Store):
    """A store that remembers the stages it was asked for."""

    stages: dict[str, Stage] = dataclasses.field(default_factory=dict, compare=False)

    def get(self, stage: Stage) -> Path:
        self.stages[key(stage)] = stage
        return super().get(stage)


def fill(place: Path, *, tiny: bool = False) -> tuple[toys.Toy, Recording]:
    """Results of every kind that the toy's pool can have; `tiny`: a random subset alone."""
    toy = toys.build(place)
    store = Recording(toy.store.root)
    if tiny:
        store.get(toy.subset())
        return toy, store
    with hydra.initialize_config_dir(folder(), version_base="1.3"):
        every = build(hydra.compose("config", [*toy.overrides(), *EVERY_SELECTOR]).every)
    for selector in every.values():
        store.get(Subset(Ranking(toy.pool, selector), rows=23))
    suite: dict[str, Any] = {"drawn": Drawn(str(toy.folder / "images"))}
    for selector in (every["random"], every["xmas"]):
        target = toy.target(Subset(Ranking(toy.pool, selector), rows=23))
        store.get(Scores(suite, target, Reference(target), Generation(precision="float32")))
    store.get(Audit(toy.subset(), None))
    store.get(Export(toy.target(), "float32"))
    return toy, store


def remade(store: Recording, user: Stage) -> Callable[[Path], object]:
    """Make a stage anew in the same store; what it gives are the bytes of its files."""

    def use(_: Path) -> object:
        done = store.path(user)
        aside = done.with_name(f"aside-{done.name}")
        done.rename(aside)
        try:
            return contents(store.get(user))
        finally:
            for path in (done, done.with_name(f".{done.name}")):
                if path.exists():
                    path.rename(path.with_name(f"dropped-{time.monotonic_ns()}"))
            aside.rename(done)

    return use


def contents(done: Path) -> dict[str, bytes]:
    times = ("meta.json", "manifest.json")
    paths = [path for path in done.rglob("*") if path.is_file() and path.name not in times]
    return {path.relative_to(done).as_posix(): path.read_bytes() for path in paths}


def written(goal: Table | Report, store: Store, _: Path) -> list[str]:
    """The pages of a goal, without their dates."""
    goal.make(store)
    pages = [path.read_text(encoding="utf-8") for path in goal.files(store)]
    return [re.sub(r"\d{4}-\d\d-\d\d[ \d:]*", "", page) for page in pages]


def users(store: Recording) -> dict[str, Stage]:
    """By key of a result, the stage made from it that takes the fewest seconds."""
    seconds: dict[str, tuple[float, Stage]] = {}
    for name, stage in store.stages.items():
        record = json.loads((store.path(stage) / "meta.json").read_text())
        for needed in record["inputs"]:
            cheapest = seconds.get(needed.rpartition("/")[2])
            if cheapest is None or record["seconds"] < cheapest[0]:
                seconds[needed.rpartition("/")[2]] = (record["seconds"], store.stages[name])
    return {name: stage for name, (_, stage) in seconds.items()}


def main() -> None:
    logging.disable(logging.WARNING)
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--folder", type=Path, help="for the store; default: a temporary one")
    asked.add_argument("--tiny", action="store_true", help="one subset, to see that it runs")
    given = asked.parse_args()
    place = given.folder or Path(tempfile.mkdtemp())
    start_time = time.monotonic()
    toy, store = fill(place, tiny=given.tiny)
    fill_seconds = time.monotonic() - start_time
    folders = results(store)
    made_from = users(store)
    everything: dict[str, list[Trial]] = collections.defaultdict(list)

    def run(what: str, some: Iterable[Trial]) -> None:
        begun = time.monotonic()
        everything[what] += some
        print(f"{what}: {time.monotonic() - begun:.0f} s", file=sys.stderr)

    run("asked for", trials(folders, lambda done: store.get(User(store.stages[done.name]))))
    run("asked for by the command", trials(folders, lambda d: store.get(store.stages[d.name])))
    run("goal=verify", trials(folders, lambda d: Verify(kind=d.parent.name).make(store)))
    for done in folders:
        if done.name in made_from:
            use = remade(store, made_from[done.name])
            run("made anew from it", trials([done], use, damages=["flip"], expected=use(done)))
    goals = {} if given.tiny else {"goal=table": Table(), "goal=report": Report(toy.pool)}
    for name, goal in goals.items():
        page = functools.partial(written, goal, store)
        damages = ["flip"] if name == "goal=report" else [*DAMAGES]
        run(name, trials(folders, page, damages=damages, expected=page(Path())))
    show(everything, fill_seconds, time.monotonic() - start_time)


def show(everything: dict[str, list[Trial]], filled: float, seconds: float) -> None:
    trials_by_stages = everything["asked for"]
    kinds = sorted({trial.kind for trial in trials_by_stages})
    count = len({(trial.kind, trial.file) for trial in trials_by_stages})
    print(f"{len(kinds)} kinds of results ({', '.join(kinds)}), {count} different files\n")
    print("| use | damaged files | named | not read | unnamed | silent |")
    print("|---|---:|---:|---:|---:|---:|")
    for use, made in everything.items():
        counts = collections.Counter(trial.outcome.partition(":")[0] for trial in made)
        cells = [counts[name] for name in ("named", "same", "unnamed", "silent")]
        print(f"| {use} | {len(made)} | {' | '.join(map(str, cells))} |")
    print(f"\n{filled:.0f} s to fill the store, {seconds:.0f} s in all")
    wrong = [
        (use, trial)
        for use, made in everything.items()
        for trial in made
        if trial.outcome not in ("named", "same")
    ]
    for use, trial in wrong[:40]:
        print(f"{use}: {trial}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
