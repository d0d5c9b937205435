"""What `goal=table` takes over 500 scores, at the sizes of the official benchmarks.

    python experiments/table/speed.py [--profile]

50 trainings on ten benchmarks: a reference of two seeds, four selectors at four budgets with three
seeds each. Their records are those of the demo's stages, as the store writes them; answers are
drawn, right or wrong, in the official numbers of questions. Nothing is trained.
"""

import argparse
import cProfile
import itertools
import json
import pstats
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from hydra import compose, initialize_config_dir

from xmas.cli.config import build, folder
from xmas.evaluation.generation.settings import Generation
from xmas.evaluation.outcomes import Outcomes
from xmas.evaluation.reference import group_of
from xmas.evaluation.scores import Score
from xmas.results.table import Table
from xmas.store import Store, describe, key
from xmas.store.index import key_of, stages_in

QUESTIONS = {
    "vqav2_val": 214_354, "gqa": 12_578, "vizwiz_val": 4_319, "sqa": 2_017, "textvqa": 5_000,
    "pope": 8_910, "mme": 1_187, "mmbench": 1_176, "mmbench_cn": 1_176, "llava_wild": 60,
}  # fmt: skip  # for mme images, for mmbench questions with all their orders
TERMS = {"pope": 3, "mme": 20}
SELECTORS = ("random", "length", "xmas", "coincide")


@dataclass(frozen=True)
class Quiz:
    name: str
    metric: ClassVar[str] = "accuracy"
    split: str = "drawn"


def outcomes(name: str, count: int, share: float, rng: np.random.Generator) -> Outcomes:
    """Right or wrong for every unit; MME has a task's accuracy and both right, POPE three F1."""
    terms = TERMS.get(name, 1)
    right = rng.random((count, 2)) < share
    gained, counted = np.zeros((2, count, terms))
    task = np.arange(count) % (terms // 2 if name == "mme" else terms)
    every = np.arange(count)
    if name == "mme":
        gained[every, 2 * task], counted[every, 2 * task] = right.sum(axis=1), 2
        gained[every, 2 * task + 1], counted[every, 2 * task + 1] = right.all(axis=1), 1
    elif name == "pope":
        gained[every, task] = 2 * (right[:, 0] & (every % 2 == 0))
        counted[every, task] = right[:, 0] + (every % 2 == 0)
    else:
        gained[:, 0], counted[:, 0] = right[:, 0], 1
    weights = np.full(terms, 100.0 if name == "mme" else 100 / terms)
    return Outcomes(every.astype(str), gained, counted, weights)


def fill(
    store: Store, selectors: Sequence[str], budgets: Sequence[float], counts: dict[str, int]
) -> None:
    """Scores of three seeds at every budget; `counts`: units of each benchmark."""
    rng = np.random.default_rng(0)
    with initialize_config_dir(folder(), version_base="1.3"):
        composed = {
            name: build(compose("config", overrides=[f"selector={name}"]).scores)
            for name in selectors
        }
    trained = [(target, "full", 1.0) for target in trained_on_all(composed[selectors[0]])]
    for name, budget, seed in itertools.product(selectors, budgets, range(3)):
        target = composed[name].target
        subset = replace(target.subset, fraction=budget)
        trained.append((replace(target, subset=subset, seed=seed), name, budget))
    for target, selector, budget in trained:
        share = 0.5 + 0.1 * budget + 0.01 * rng.normal()
        for name, count in counts.items():
            stage = Score(Quiz(name), target, Generation())
            made = outcomes(name, count, share, rng)
            place = record(store, describe(stage), "score")
            made.save(place / "outcomes.npz")
            said = {
                "benchmark": name, "split": "drawn", "metric": "accuracy", "score": made.score(),
                "num": count, "detail": {},
            }  # fmt: skip
            run = {
                "selector": selector, "budget": budget, "rows": int(8000 * budget),
                "seed": target.seed, "role": "reference" if selector == "full" else "subset",
                "pool": "demo", "target": key(target), "reference_group": group_of(target),
                "control": "none", "protocol": "greedy, float16, batch 1",
            }  # fmt: skip
            (place / "score.json").write_text(json.dumps(said))
            (place / "run.json").write_text(json.dumps(run))
        for config in stages_in(describe(target)):
            kind = config["type"].rsplit(".", 1)[-1].lower()
            record(store, config, kind)


def trained_on_all(scores) -> list:
    return replace(scores.reference, seeds=(0, 1)).targets()


def record(store: Store, config: dict, kind: str) -> Path:
    place = Path(store.root) / kind / key_of(config)
    place.mkdir(parents=True, exist_ok=True)
    meta = {"kind": kind, "config": config, "seconds": 60.0, "device": "drawn", "devices": 1}
    (place / "meta.json").write_text(json.dumps(meta, indent=2))
    return place


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--profile", action="store_true")
    asked.add_argument("--tiny", action="store_true", help="a dozen scores, to see that it runs")
    given = asked.parse_args()
    profile = given.profile
    size = (SELECTORS, (0.05, 0.1, 0.2, 0.5), QUESTIONS)
    if given.tiny:
        size = (("random",), (0.1,), {"gqa": 11, "pope": 30})
    with tempfile.TemporaryDirectory() as root:
        store = Store(root)
        fill(store, *size)
        made = len(list(Path(root).glob("score/*/outcomes.npz")))
        written = sum(file.stat().st_size for file in Path(root).rglob("*") if file.is_file())
        print(f"{made} scores, {written / 1e6:.0f} MB")
        profiler = cProfile.Profile()
        for lap in ("first", "again"):
            began = time.perf_counter(), time.process_time()
            if profile and lap == "again":
                profiler.enable()
            text = Table().make(store)
            spent = time.perf_counter() - began[0], time.process_time() - began[1]
            print(f"{lap}: wall {spent[0]:.2f} s, processor {spent[1]:.2f} s")
        if profile:
            profiler.disable()
            pstats.Stats(profiler).sort_stats("cumulative").print_stats(25)
        print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
        print(text)


if __name__ == "__main__":
    main()
