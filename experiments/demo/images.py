"""Does the demo's target use images? Its scores, and those with images shuffled among questions.

    python experiments/demo/images.py [STORE ...]

Reads stores in which the command of `README.md` in this folder, or `seeds.py`, has run; computes
nothing.
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from xmas.evaluation.benchmarks.gqa import gqa_answer
from xmas.store import Store

KINDS = ("naming", "colour", "digit")  # of GQA's questions, by types.detailed


def accuracies(store: Store, score: Path, record: dict) -> dict[str, float]:
    """Per cent right by kind of question, from a score's answers."""
    name = record["benchmark"]
    if name == "pope":
        parts = [part["accuracy"] for part in record["detail"].values()]
        return {"yes/no": statistics.fmean(parts)}
    if name == "mmbench":
        return {"multiple choice": record["detail"]["vanilla"]}
    if name != "gqa":
        return {}
    truth = {}
    for folder, _ in store.results("demo_bench"):
        truth |= json.loads((folder / "gqa" / "testdev_balanced_questions.json").read_text())
    right = defaultdict(list)
    for line in (score / "answers.jsonl").read_text().splitlines():
        answer = json.loads(line)
        asked = truth[str(answer["question_id"])]
        if (kind := asked["types"]["detailed"]) in KINDS:
            right[kind].append(gqa_answer(answer["text"]) == asked["answer"])
    return {kind: 100 * statistics.fmean(right[kind]) for kind in KINDS}


def main(roots: list[str]) -> None:
    by_kind = defaultdict(lambda: defaultdict(dict))
    for store in map(Store, roots):
        for folder, _ in store.results("score"):
            run = json.loads((folder / "run.json").read_text())
            record = json.loads((folder / "score.json").read_text())
            if run["role"] == "reference":
                for kind, value in accuracies(store, folder, record).items():
                    by_kind[kind][run["control"]][store.root, run["seed"]] = value
    if not any(by["shuffled"] for by in by_kind.values()):
        sys.exit(
            f"{', '.join(roots)} holds no scores with shuffled images; run the README's command"
        )
    print("| questions | seeds | own images | shuffled images | difference | worst seed |")
    print("|---|---:|---:|---:|---:|---:|")
    for kind in (*KINDS, "yes/no", "multiple choice"):
        own, blind = by_kind[kind]["none"], by_kind[kind]["shuffled"]
        seeds = sorted(own.keys() & blind.keys())
        gaps = [own[seed] - blind[seed] for seed in seeds]
        cells = [
            f"{statistics.fmean(held[seed] for seed in seeds):.1f}"
            + (f" ± {statistics.stdev(held[seed] for seed in seeds):.1f}" if len(seeds) > 1 else "")
            for held in (own, blind)
        ]
        cells += [f"{statistics.fmean(gaps):+.1f}", f"{min(gaps):+.1f}"]
        print(f"| {kind} | {len(seeds)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:] or ["store"])
