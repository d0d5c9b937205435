"""Scores as stages: a target's answers to one benchmark, and the suite of a run."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from xmas.evaluation.json_files import json_lines
from xmas.evaluation.protocol import Benchmark, Judged, Question
from xmas.evaluation.quick import Quick
from xmas.selection.methods.full import Full
from xmas.selection.protocol import name_of
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import (
    Stage,
    Store,
    describe,
    digest,
    distributed,
    key,
    nearest_stages,
    versions,
    volatile,
    write_atomically,
)
from xmas.target.target import Target


@dataclasses.dataclass(frozen=True)
class Generation:
    """How answers are made: part of a score's identity, and shared by what is compared.

    The defaults are the papers' way, a question at a time in half precision: LLaVA's
    `llava/eval/model_vqa*.py`.
    """

    batch: int = 1  # questions at once; more is faster and may turn a token
    precision: str = "float16"
    control: str = "none"  # shuffled: every question sees the image of another one
    seed: int = 0  # of the shuffling
    workers: int = volatile(0)  # threads that decode images ahead

    def protocol(self) -> str:
        return f"greedy, {self.precision}, batch {self.batch}"


@dataclasses.dataclass(frozen=True)
class Score(Stage):
    """`answers.jsonl`, LLaVA's answer lines; `score.json`: benchmark, split, metric, score, num,
    detail; `outcomes.npz`, what every question adds to it; `run.json`: whose score it is;
    `generation.json`: how the answers were made.
    """

    kind: ClassVar[str] = "score"
    version: ClassVar[int] = 3  # keeps the outcomes of questions, and how they were answered
    together: ClassVar[bool] = True

    benchmark: Benchmark
    target: Target
    generation: Generation = dataclasses.field(default_factory=Generation)

    def inputs(self) -> list[Stage]:
        target = self.target
        pool = target.subset.ranking.pool
        asked = nearest_stages([self.benchmark, pool])
        return [*asked, target, target.start, target.subset]

    def compute(self, store: Store, out: Path) -> None:
        from xmas.evaluation.generation.generate import discard_parts

        if isinstance(self.benchmark, Judged):
            self.benchmark.check()
        answers = out / "answers.jsonl"
        if not answers.exists():
            self._answer(store, answers)
        if distributed.place()[0] > 0:
            return
        with distributed.sharing(False):
            discard_parts(answers)
            self._score(store, out, answers)

    def _score(self, store: Store, out: Path, answers: Path) -> None:
        scored = self.benchmark.score(json_lines(answers), store)
        record = {
            "benchmark": self.benchmark.name,
            "split": self.benchmark.split,
            "metric": self.benchmark.metric,
            "score": scored.score,
            "num": scored.num,
            "detail": scored.detail,
        }
        if scored.outcomes is not None:
            scored.outcomes.save(out / "outcomes.npz")
        (out / "score.json").write_text(json.dumps(record, indent=2))
        (out / "run.json").write_text(json.dumps(self._run(store), indent=2))

    def _answer(self, store: Store, answers: Path) -> None:
        """Ask the target, and keep in `generation.json` how that was done."""
        import torch

        from xmas.evaluation.generation.generate import generate_answers

        questions = self.benchmark.asked(store)
        order = self._image_order(questions)
        parts = self.target.load(store)
        device = f"cuda:{distributed.local()}" if torch.cuda.is_available() else "cpu"
        parts.model.to(  # pyright: ignore[reportCallIssue]  # its wrapper asks for `self` again
            device=device, dtype=getattr(torch, self.generation.precision)
        )
        how = {
            "protocol": self.generation.protocol(),
            "batch": self.generation.batch,
            "dtype": str(parts.model.dtype).removeprefix("torch."),
            "attention": parts.model.config.text_config._attn_implementation,
            "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
            "max_new_tokens": self.benchmark.max_new_tokens,
            "template": describe(self.target.template),
            "versions": versions(),
        }
        if distributed.place()[0] == 0:
            write_atomically(
                answers.with_name("generation.json"),
                lambda path: path.write_text(json.dumps(how, indent=2)),
            )
        generate_answers(
            parts,
            parts.encoder(self.target.template, self.target.max_length),
            questions,
            max_new_tokens=self.benchmark.max_new_tokens,
            batch=self.generation.batch,
            out=answers,
            model_id=f"{self.target.start.kind}-{key(self.target)}",
            label=self.benchmark.name,
            image_order=order,
            workers=self.generation.workers,
        )

    def _image_order(self, questions: list[Question]) -> np.ndarray | None:
        """Whose image each question is shown, if not its own."""
        if self.generation.control == "none":
            return None
        if self.generation.control != "shuffled":
            raise ValueError(f"control {self.generation.control!r}: expected none or shuffled")
        return derangement(
            [number for number, one in enumerate(questions) if one.image is not None],
            len(questions),
            np.random.default_rng(self.generation.seed),
        )

    def _run(self, store: Store) -> dict[str, Any]:
        subset = self.target.subset
        return {
            "selector": name_of(subset.ranking.selector),
            "nested": subset.nested,
            "budget": subset.tokens or subset.rows or subset.fraction,
            "unit": "tokens" if subset.tokens else "rows",
            "rows": len(subset.chosen(store)),
            "seed": self.target.seed,
            "role": "reference" if self._on_all_rows(store) else "subset",
            "pool": subset.ranking.pool.name,
            "target": key(self.target),
            "subset": key(subset),
            "reference_group": group_of(self.target),
            "control": self.generation.control,
            "protocol": self.generation.protocol(),
        }

    def _on_all_rows(self, store: Store) -> bool:
        subset = self.target.subset
        return len(subset.chosen(store)) == len(subset.ranking.pool.open(store))


def group_of(target: Target) -> str:
    """What runs must share to be compared: pool, start, recipe; all but subset and seed."""
    shared = describe(target)
    del shared["subset"], shared["seed"]
    shared["pool"] = describe(target.subset.ranking.pool)
    return digest(shared)


def derangement(members: list[int], count: int, rng: np.random.Generator) -> np.ndarray:
    """An order of `count` positions in which every one of `members` moves, within themselves.

    A random cycle through all members: no question keeps its own image. Raises ValueError: there
    are fewer than two.
    """
    if len(members) < 2:
        raise ValueError(f"control shuffled: {len(members)} questions with an image, 2 are needed")
    order = np.arange(count)
    shuffled = rng.permutation(np.array(members, dtype=np.int64))
    order[shuffled] = np.roll(shuffled, 1)
    return order


@dataclasses.dataclass(frozen=True)
class Reference:
    """The target trained on all rows, at its own seeds, so that no sweep over `seed` repeats it."""

    target: Target  # its recipe; subset and seed are replaced
    seeds: Sequence[int] = (0,)

    def targets(self) -> list[Target]:
        pool = self.target.subset.ranking.pool
        everything = Subset(Ranking(pool, Full()), fraction=1.0, text_only="ranked")
        return [
            dataclasses.replace(self.target, subset=everything, seed=seed) for seed in self.seeds
        ]

    def identity(self) -> dict[str, Any]:
        return {"targets": [describe(target) for target in self.targets()]}


@dataclasses.dataclass(frozen=True)
class Scores(Stage):
    """`scores.json`: every benchmark of the suite for the target and for the reference.

    With `quick`, so many questions of each, under names of their own: `gqa_quick`.
    """

    kind: ClassVar[str] = "scores"

    suite: dict[str, Benchmark]
    target: Target
    reference: Reference
    generation: Generation = dataclasses.field(default_factory=Generation)
    quick: int | None = None  # questions of a benchmark, in sweeps; null: all

    def benchmarks(self) -> dict[str, Benchmark]:
        """What is scored, by name."""
        if self.quick is None:
            return self.suite
        return {f"{name}_quick": Quick(one, self.quick) for name, one in self.suite.items()}

    def inputs(self) -> list[Stage]:
        return [*self.parts()]

    def compute(self, store: Store, out: Path) -> None:
        for benchmark in self.suite.values():
            if isinstance(benchmark, Judged):
                benchmark.check()
        found: dict[str, Any] = {"reference": [], "subset": []}
        for role, target in self._targets():
            for name, benchmark in self.benchmarks().items():
                stage = Score(benchmark, target, self.generation)
                record = json.loads((store.get(stage) / "score.json").read_text())
                found[role].append(
                    {"name": name, "seed": target.seed, "score": record["score"], "key": key(stage)}
                )
        (out / "scores.json").write_text(json.dumps(found, indent=2))

    def parts(self) -> list[Score]:
        """The score of every benchmark, for the reference and for the target."""
        return [
            Score(benchmark, target, self.generation)
            for _, target in self._targets()
            for benchmark in self.benchmarks().values()
        ]

    def _targets(self) -> list[tuple[str, Target]]:
        return [*(("reference", one) for one in self.reference.targets()), ("subset", self.target)]
