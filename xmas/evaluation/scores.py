"""Scores as stages: of one benchmark, and of a suite for the target and its reference."""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from xmas.evaluation.generation.answer_file import discard_parts
from xmas.evaluation.generation.endpoint_generation import EndpointGeneration
from xmas.evaluation.generation.settings import Generation
from xmas.evaluation.given_answers import OfGivenAnswers
from xmas.evaluation.json_files import json_lines
from xmas.evaluation.protocol import Benchmark, Judged, Scored, decimals
from xmas.evaluation.quick import Quick, quick_name
from xmas.evaluation.reference import Reference, group_of
from xmas.selection.protocol import name_of, saw_validation
from xmas.store import (
    Stage,
    Store,
    distributed,
    key,
    nearest_stages,
)
from xmas.target.target import Target

if TYPE_CHECKING:
    import xmas.evaluation.answer_losses


@dataclasses.dataclass(frozen=True)
class Score(Stage):
    """The score of a target on one benchmark.

    Files: `answers.jsonl`, LLaVA's answer lines; `score.json`: benchmark, split, metric, score,
    num, detail; `outcomes.npz`: what every question adds to the score; `run.json`: selector, budget
    and seed of the target; `generation.json`: how the answers were generated. Of a benchmark of
    given answers nothing is generated: their losses are in `AnswerLosses`.
    """

    kind: ClassVar[str] = "score"
    version: ClassVar[int] = 3  # with outcomes.npz and generation.json
    together: ClassVar[bool] = True

    benchmark: Benchmark
    target: Target
    generation: Generation | EndpointGeneration = dataclasses.field(default_factory=Generation)

    def inputs(self) -> list[Stage]:
        target = self.target
        pool = target.subset.ranking.pool
        files = nearest_stages([self.benchmark, pool])
        if isinstance(self.benchmark, OfGivenAnswers):
            return [*files, self._losses(self.benchmark), target.subset]
        return [*files, target, target.start, target.subset]

    def check(self, store: Store) -> None:
        """Raises ValueError: answers that are given have no control with other pictures; or what
        answers cannot be asked: the target is not trained, so that no server has it.
        """
        if isinstance(self.generation, EndpointGeneration):
            self.generation.check()
            self._check_trained(store)
        if isinstance(self.benchmark, OfGivenAnswers) and self.generation.control != "none":
            name = self.benchmark.name
            raise ValueError(
                f"generation.control={self.generation.control}: {name} generates nothing that it "
                f"could control; leave it out with ~suite.{name}"
            )

    def _check_trained(self, store: Store) -> None:
        if not store.path(self.target).exists():
            raise ValueError(
                f"generation=endpoint: target {key(self.target)} is not trained yet, so that no "
                "server has it; make its folder with goal=export, serve it, and run this again"
            )

    def compute(self, store: Store, out: Path) -> None:
        if isinstance(self.benchmark, OfGivenAnswers):
            answers_given = self._losses(self.benchmark).read(store)
            if distributed.rank_and_world()[0] == 0:
                with distributed.sharing(False):
                    scored = self.benchmark.score_given(answers_given, store)
                    self._write(store, out, scored)
            return
        if isinstance(self.benchmark, Judged):
            self.benchmark.check()
        answers = out / "answers.jsonl"
        if not answers.exists():
            self.generation.answer(
                self.target,
                self.benchmark.asked(store),
                store=store,
                max_new_tokens=self.benchmark.max_new_tokens,
                label=self.benchmark.name,
                out=answers,
            )
        if distributed.rank_and_world()[0] > 0:
            return
        with distributed.sharing(False):
            discard_parts(answers)
            scored = self.benchmark.score(json_lines(answers), store)
            self._write(store, out, scored)

    def _losses(self, benchmark: OfGivenAnswers) -> "xmas.evaluation.answer_losses.AnswerLosses":
        from xmas.evaluation.answer_losses import AnswerLosses

        if isinstance(self.generation, EndpointGeneration):
            name = self.benchmark.name
            raise ValueError(
                f"{name} needs the probabilities of given answers, which chat "
                "completions do not have: score it with generation=local, or leave it out with "
                f"~suite.{name}"
            )
        return AnswerLosses(self.target, benchmark.scored_rows(), self.generation.precision)

    def _write(self, store: Store, out: Path, scored: Scored) -> None:
        record = scored.record(self.benchmark)
        if scored.outcomes is not None:
            scored.outcomes.save(out / "outcomes.npz")
        (out / "score.json").write_text(json.dumps(record, indent=2))
        (out / "run.json").write_text(json.dumps(self._run(store), indent=2))

    def _run(self, store: Store) -> dict[str, Any]:
        subset = self.target.subset
        trained_on = {
            "selector": name_of(subset.ranking.selector),
            "nested": subset.nested,
            "saw_validation": saw_validation(subset.ranking.selector),
            "budget": subset.tokens or subset.rows or subset.fraction,
            "unit": "tokens" if subset.tokens else "rows",
            "rows": len(subset.chosen(store)),
            "role": "reference" if self._on_all_rows(store) else "subset",
        }
        if self.target.untrained:
            trained_on |= {"selector": "base", "budget": 0.0, "rows": 0, "role": "base"}
        return {
            **trained_on,
            "seed": self.target.seed,
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


@dataclasses.dataclass(frozen=True)
class Scores(Stage):
    """`scores.json`: every benchmark of the suite for the target and for the reference.

    With `quick`, that number of questions of each benchmark, under other names: `gqa_quick`;
    benchmarks of given answers, which generate nothing, stay whole.
    """

    kind: ClassVar[str] = "scores"

    suite: dict[str, Benchmark]
    target: Target
    reference: Reference
    generation: Generation | EndpointGeneration = dataclasses.field(default_factory=Generation)
    quick: int | None = None  # questions of a benchmark, in sweeps; null: all

    def benchmarks(self) -> dict[str, Benchmark]:
        """The benchmarks that are scored, by name."""
        if self.quick is None:
            return self.suite
        return {
            name if whole else quick_name(name): benchmark
            if whole
            else Quick(benchmark, self.quick)
            for name, benchmark in self.suite.items()
            for whole in [isinstance(benchmark, OfGivenAnswers)]
        }

    def inputs(self) -> list[Stage]:
        return [*self.parts()]

    def scope(self) -> AbstractContextManager[None]:
        """The scores of one target load its model once."""
        from xmas.evaluation.loaded_target import shared_by_scores

        return shared_by_scores()

    def compute(self, store: Store, out: Path) -> None:
        for benchmark in self.suite.values():
            if isinstance(benchmark, Judged):
                benchmark.check()
        scores: dict[str, Any] = {"reference": [], "subset": []}
        for role, target in self._targets():
            for name, benchmark in self.benchmarks().items():
                stage = Score(benchmark, target, self.generation)
                record = json.loads((store.get(stage) / "score.json").read_text())
                scores[role].append(
                    {"name": name, "seed": target.seed, "score": record["score"], "key": key(stage)}
                )
        (out / "scores.json").write_text(json.dumps(scores, indent=2))

    def make(self, store: Store) -> str:
        """The folder, then a line for each benchmark: the target's score and the reference's."""
        folder = store.get(self)
        record = json.loads((folder / "scores.json").read_text())
        width = max(map(len, self.benchmarks()), default=0)
        lines = [
            f"{name:{width}}  {_mean(record['subset'], name):>7}  "
            f"reference {_mean(record['reference'], name):>7}"
            for name in self.benchmarks()
        ]
        return "\n".join([str(folder), *lines])

    def parts(self) -> list[Score]:
        """The score of every benchmark, for the reference and for the target."""
        return [
            Score(benchmark, target, self.generation)
            for _, target in self._targets()
            for benchmark in self.benchmarks().values()
        ]

    def _targets(self) -> list[tuple[str, Target]]:
        return [
            *(("reference", target) for target in self.reference.targets()),
            ("subset", self.target),
        ]


def _mean(scores: Sequence[dict[str, Any]], name: str) -> str:
    """The mean of a benchmark's scores over seeds, without those that are invalid."""
    valid = [of["score"] for of in scores if of["name"] == name and of["score"] is not None]
    if not valid:
        return "invalid"
    mean = fmean(valid)
    return f"{mean:.{decimals(mean)}f}"
