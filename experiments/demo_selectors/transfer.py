"""OFA carried over: trained on the demo's pool once, it selects from a pool of other drawings.

    python experiments/demo_selectors/transfer.py [override ...]

Overrides are those of `xmas`, e.g. experiment=smoke or store.root=DIR. The transferred selector is
compared with one that is trained on the other pool itself, with the same CLIP.
"""

import argparse
import json

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from xmas.cli.config import build, folder
from xmas.features.once_select.classifier import Pairs, evaluate
from xmas.features.once_select.once_select import pairs
from xmas.features.once_select.pseudo_labels import load
from xmas.results.audit import overlap
from xmas.selection.methods.ofa import Ofa, at_least_one, proportional_quotas
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Stage, Store

SEEDS = (0, 1, 2)


def configured(*overrides: str) -> DictConfig:
    with initialize_config_dir(folder(), version_base="1.3"):
        return compose("config", overrides=["selector=ofa", *overrides])


def seconds(store: Store, stage: Stage) -> float:
    """What a stage alone took."""
    return json.loads((store.get(stage) / "meta.json").read_text())["seconds"]


def judged(ofa: Ofa, store: Store) -> dict[str, float]:
    """How often the classifier names the nearest centroid, over all rows with an image."""
    trained = ofa.labels.trained
    place = store.find(trained) if isinstance(trained, str) else store.get(trained)
    seen = ofa.labels.clip.open(store)
    labels, confidence = ofa.scored(store)
    rows = np.flatnonzero(labels >= 0)
    model, centroids = load(place, seen)
    found = evaluate(model, Pairs(*map(torch.from_numpy, (*pairs(seen, rows), labels[rows]))))
    sizes = np.bincount(labels[rows], minlength=len(centroids))
    budget = len(rows) // 5
    quotas = at_least_one(proportional_quotas(sizes, budget), sizes)
    spread = np.quantile(confidence[rows], (0, 0.5, 1))
    return {
        "rows with an image": len(rows),
        "clusters with rows": int((sizes > 0).sum()),
        "rows of a cluster, least": int(sizes[sizes > 0].min()),
        "rows of a cluster, most": int(sizes.max()),
        "quota of a fifth, least": int(quotas[sizes > 0].min()),
        "quota of a fifth, most": int(quotas.max()),
        "quotas, sum less budget": int(quotas.sum()) - budget,
        "accuracy, %": 100 * found["accuracy"],
        "macro accuracy, %": 100 * found["macro"],
        "clusters predicted": found["covered"],
        **dict(
            zip((f"confidence, {at}" for at in ("least", "median", "most")), spread, strict=True)
        ),
    }


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("overrides", nargs="*", help="as of xmas: experiment=smoke store.root=DIR")
    given = asked.parse_args().overrides
    of_demo = configured(*given)
    store = build(of_demo.store)
    own = build(of_demo.selector)
    trained = store.get(own.labels.trained)
    towers = store.get(own.labels.clip.clip)
    other = ("pool=demo_unseen", "features@features.clip=clip_folder")
    other += (f"features.clip.clip.name={towers}", *given)
    carried = configured(*other, f"selector.trained={trained}")
    anew = configured(*other)
    clip = build(carried.selector).labels.clip
    store.get(clip)
    known = {place for place, _ in store.results("once_select")}
    columns = {"demo": of_demo, "unseen, carried over": carried, "unseen, trained anew": anew}
    found: dict[str, dict[str, float]] = {}
    chosen: dict[str, list[np.ndarray]] = {}
    for name, cfg in columns.items():
        ofa = build(cfg.selector)
        subset = build(cfg.subset)
        ranked = [Ranking(subset.ranking.pool, ofa, seed) for seed in SEEDS]
        kept = [Subset(each, subset.fraction).chosen(store) for each in ranked]
        if name == "unseen, carried over":
            assert {place for place, _ in store.results("once_select")} == known
        found[name], chosen[name] = judged(ofa, store), kept
        found[name]["chosen rows"] = len(kept[0])
        found[name]["scoring, s"] = seconds(store, ofa.labels)
    about = json.loads((trained / "selector.json").read_text())
    print(f"learnt from {about['learnt_from']} rows, held out {about['held_out']}")
    print(f"chosen: {about['chosen']}")
    print(f"trained in {seconds(store, own.labels.trained):.1f} s")
    print(f"CLIP on the other pool {seconds(store, clip):.1f} s\n")
    print(f"| | {' | '.join(found)} |\n|---|{'---:|' * len(found)}")
    for line in next(iter(found.values())):
        cells = (f"{held[line]:.3g}" if held[line] % 1 else f"{held[line]:,.0f}"
                 for held in found.values())  # fmt: skip
        print(f"| {line} | {' | '.join(cells)} |")
    count = len(build(carried.pool).open(store))
    print("\n| subsets | Jaccard, seeds apart | at random |\n|---|---:|---:|")
    told = [(name, kept, kept) for name, kept in chosen.items() if name != "demo"]
    told.append(("transferred and anew", *(kept for _, kept, _ in told)))
    for name, ones, others in told:
        shared = [overlap(ones[a], others[b], count) for a in range(len(SEEDS)) for b in range(a)]
        values = [each["jaccard"] for each in shared]
        print(f"| {name} | {np.mean(values):.3f} | {shared[0]['jaccard_at_random']:.3f} |")


if __name__ == "__main__":
    main()
