"""Finished scores put into a store by hand, as the stage would leave them."""

import itertools
import json
from pathlib import Path

from xmas.evaluation.outcomes import Outcomes

QUESTIONS = {"gqa": 200, "mme": 2114}


class Shelves:
    """Puts scores into the store at `root`; every one gets a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names = itertools.count()

    def __call__(
        self, selector, benchmark, score, *, settings=None, without=(), outcomes=None,
        answered=None, pictures=None, **changed,
    ):  # fmt: skip
        """`outcomes`: right or wrong by question, `pictures`: what each shows; `answered`: settings
        of the generation.
        """
        folder = self.root / "score" / f"{next(self.names):012x}"
        folder.mkdir(parents=True)
        run = {
            "selector": selector, "budget": 0.2, "rows": 1600, "seed": 0, "role": "subset",
            "pool": "aaa", "target": "ttt", "reference_group": "rrr", "control": "none",
            "protocol": "batch 1",
        }  # fmt: skip
        if selector == "full":
            run |= {"role": "reference", "budget": 1.0, "rows": 8000}
        said = {
            "benchmark": benchmark, "split": "dev", "metric": "accuracy", "score": score,
            "num": QUESTIONS.get(benchmark, 100), "detail": {},
        }  # fmt: skip
        run |= {name: value for name, value in changed.items() if name not in said}
        said |= {name: value for name, value in changed.items() if name in said}
        for name in without:
            del run[name]
        target = {
            "seed": run.get("seed"),
            "selector": {"k": 1000.0, "seed": 3.0} | (settings or {}),
        }
        config = {"benchmark": {"name": benchmark}, "target": target, "generation": answered or {}}
        for name, content in (("meta", {"config": config}), ("run", run), ("score", said)):
            (folder / f"{name}.json").write_text(json.dumps(content))
        if outcomes is not None:
            shown = None if pictures is None else dict(enumerate(pictures))
            kept = Outcomes.mean(dict(enumerate(outcomes)), pictures=shown)
            assert kept.score() == score, "the outcomes belong to another score"
            kept.save(folder / "outcomes.npz")
        return folder
