"""Every selector on the demo, at two budgets and five seeds, each seed with a proxy of its own.

    python experiments/study/study.py STORE [--seeds 0 1 2 3 4] [--selectors NAME,NAME,...]

A seed is that of the ranking, of the target and of the proxy; the demo's start point, its CLIP and
OFA's classifier have one each. The jobs of a seed are one multirun; what the store has is not
computed again.
"""

import argparse
import subprocess
import sys
from pathlib import Path

CONTROLS = "random stratified length random_in_clusters random_text_share".split()
PUBLISHED = """xmas coincide ofa clip_score semdedup d2 typiclust el2n aum perplexity learnability
s2l necessity prism scalselect magic dics presel self_sup""".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--selectors", default=",".join([*CONTROLS, *PUBLISHED]))
    options = parser.parse_args()
    for seed in options.seeds:
        xmas(
            options.store, "-m", "goal=scores", f"selector={options.selectors}",
            "subset.fraction=0.1,0.3", f"seed={seed}", "proxy.seed=${seed}",
            "reference.seeds=[0,1,2]",
        )  # fmt: skip


def xmas(store: Path, *arguments: str) -> None:
    """Run the command; a sweep goes on after a job that failed, and says so."""
    command = [sys.executable, "-m", "xmas", *arguments, f"store.root={store}"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    if done.returncode:
        print(f"jobs failed, see above: {' '.join(arguments)}", file=sys.stderr)


if __name__ == "__main__":
    main()
