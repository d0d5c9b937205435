"""Every selector on the demo, at two budgets and five seeds, each seed with a proxy of its own.

    python experiments/study/study.py STORE [--seeds 0 1 2 3 4] [--selectors NAME,NAME,...]
    python experiments/study/study.py STORE --switches      # the parts of guarded_cover

A seed is that of the ranking, of the target and of the proxy; the demo's start point, its CLIP and
OFA's classifier have one each. The jobs of a seed are one multirun; what the store has is not
computed again.
"""

import argparse
import subprocess
import sys
from pathlib import Path

CONTROLS = "random stratified length random_in_clusters random_text_share".split()
POOL = "demo_pool.rows=4000 proxy.snapshots=7".split()  # the demo's is shorter since
SWITCHES = "guard=null necessity=null coverage=false mix=false".split()  # of guarded_cover
PUBLISHED = """xmas coincide ofa clip_score semdedup d2 typiclust el2n aum perplexity learnability
s2l necessity prism scalselect magic dics presel self_sup""".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--selectors", default=",".join([*CONTROLS, *PUBLISHED, "guarded_cover"]))
    parser.add_argument(
        "--switches", action="store_true", help="guarded_cover, a part off each time"
    )
    options = parser.parse_args()
    sweep = (
        "-m goal=scores subset.fraction=0.1,0.3 proxy.seed=${seed} reference.seeds=[0,1,2]".split()
    )
    if options.switches:
        seeds = ",".join(map(str, options.seeds))
        for switch in SWITCHES:
            xmas(
                options.store, *sweep, *POOL, f"seed={seeds}",
                "selector=guarded_cover", f"selector.{switch}",
            )  # fmt: skip
        return
    for seed in options.seeds:
        xmas(options.store, *sweep, *POOL, f"seed={seed}", f"selector={options.selectors}")


def xmas(store: Path, *arguments: str) -> None:
    """Run the command; a sweep goes on after a job that failed, and says so."""
    command = [sys.executable, "-m", "xmas", *arguments, f"store.root={store}"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    if done.returncode:
        print(f"jobs failed, see above: {' '.join(arguments)}", file=sys.stderr)


if __name__ == "__main__":
    main()
