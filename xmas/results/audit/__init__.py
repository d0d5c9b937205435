"""The audit: what a subset contains compared with its pool, before a model is trained on it."""

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from xmas.data.near_copies.duplicates import Duplicates
from xmas.data.near_copies.image_hashes import ImageHashes, all_hashes, near_any
from xmas.data.near_copies.text_sketches import FORMATS, Texts
from xmas.data.rows import Rows
from xmas.evaluation.protocol import Benchmark
from xmas.results.audit.findings import findings
from xmas.results.audit.shared_rows import shared_rows
from xmas.selection.protocol import TokenCounter, name_of
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Stage, Store, content, nearest_stages
from xmas.store.variance_explained import explained

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class Audit(Stage):
    """`audit.json`, see `compute`; `benchmark_rows.json`, the rows of the pool that show an image
    of a benchmark, by benchmark: `same`, the same file, and `near`, by difference hash.
    """

    kind: ClassVar[str] = "audit"

    subset: Subset
    counted: TokenCounter | None = None  # text tokens are a row's length; null: its characters
    suite: dict[str, Benchmark] = dataclasses.field(default_factory=dict)
    against: str | None = content(None)  # another subset's rows.json
    images: bool = True  # false: compares names, opens no image and compares no benchmark
    distance: int = 7  # near images differ in at most this many of 128 bits
    similarity: float = 0.8  # Jaccard, of the words of near texts, at least

    def inputs(self) -> list[Stage]:
        pool = self.subset.ranking.pool
        ranking = [self.subset.ranking] if self.subset.nested else []
        tokens = [] if self.counted is None else [self.counted.tokens()]
        compares = self.images and self.suite
        hashes = [ImageHashes(pool), *nearest_stages(self.suite)] if compares else []
        direct = [self.subset, *ranking, *tokens, Texts(pool), self.duplicates(), *hashes]
        return [*nearest_stages(pool), *direct]

    def compute(self, store: Store, out: Path) -> None:
        """Every part for `pool` and for `subset`: sources, answer formats, lengths, duplicates;
        then clusters, what length explains of the row score, overlap, and images of benchmarks.
        """
        pool = self.subset.ranking.pool
        examples, subset_rows = pool.open(store), self.subset.chosen(store)
        everything = np.arange(len(examples))
        texts = store.get(Texts(pool))
        formats, characters = np.load(texts / "formats.npy"), np.load(texts / "characters.npy")
        lengths = characters
        if self.counted is not None:
            lengths = self.counted.tokens().open(store).text_lengths
        repeats = store.get(self.duplicates())
        exact, near = (np.load(repeats / f"{name}.npy") for name in ("exact", "near"))
        sides = {"pool": everything, "subset": subset_rows}
        record: dict[str, Any] = {
            "selector": name_of(self.subset.ranking.selector),
            "rows": {side: len(rows) for side, rows in sides.items()},
            "sources": {side: counts(examples.sources[rows]) for side, rows in sides.items()},
            "formats": {
                side: dict(zip(FORMATS, formats[rows].sum(axis=0).tolist(), strict=True))
                for side, rows in sides.items()
            },
            "length_unit": "characters" if self.counted is None else "text tokens",
            "lengths": {side: spread(lengths[rows]) for side, rows in sides.items()},
            "duplicates": {side: repeated(rows, exact, near) for side, rows in sides.items()},
        }
        record["length_kept"] = (
            record["lengths"]["subset"]["sum"] / record["lengths"]["pool"]["sum"]
        )
        if self.subset.nested:
            ranking = Ranking.read(store.get(self.subset.ranking))
            record["clusters"] = coverage(ranking.clusters, subset_rows)
            record["score_explained_by_length"] = explained_by(ranking.scores, lengths)
        if self.against is not None:
            against = np.array(json.loads(Path(self.against).expanduser().read_text()))
            record["overlap"] = overlap(subset_rows, against, len(examples))
        if self.images and self.suite:
            benchmark_rows = self._benchmark_rows(store, examples)
            (out / "benchmark_rows.json").write_text(json.dumps(benchmark_rows))
            record["benchmarks"] = {
                name: {
                    how: {side: int(np.isin(rows, pool_rows).sum()) for side, rows in sides.items()}
                    for how, pool_rows in of_name.items()
                }
                for name, of_name in benchmark_rows.items()
            }
        (out / "audit.json").write_text(json.dumps(record, indent=2))

    def make(self, store: Store) -> str:
        """The findings in words, what other subsets of the store share with it, then the folder."""
        folder = store.get(self)
        record = json.loads((folder / "audit.json").read_text())
        others = shared_rows(self.subset, self.subset.chosen(store), store)
        return "\n".join([*findings(record), *others, str(folder)])

    def duplicates(self) -> Duplicates:
        return Duplicates(
            self.subset.ranking.pool,
            images=self.images,
            distance=self.distance,
            similarity=self.similarity,
        )

    def _benchmark_rows(self, store: Store, examples: Rows) -> dict[str, dict[str, list[int]]]:
        """Rows of the pool whose image is one of a benchmark's, or near one."""
        hashes = store.get(ImageHashes(self.subset.ranking.pool))
        files, difference_hashes = np.load(hashes / "sha256.npy"), np.load(hashes / "seen.npy")
        rows_of = {}
        for name, benchmark in self.suite.items():
            questions = benchmark.asked(store)
            images = {question.image for question in questions if question.image is not None}
            digests, like = all_hashes(sorted(images, key=str), label=f"image hashes, {name}")
            theirs = {digest.tobytes() for digest in digests}
            same = np.array([digest.tobytes() in theirs for digest in files], dtype=bool)
            near = near_any(difference_hashes, like, self.distance)
            rows_of[name] = {
                how: np.flatnonzero(examples.shown.rows_with(which)).tolist()
                for how, which in (("same", same), ("near", near))
            }
        return rows_of


def counts(names: np.ndarray) -> dict[str, int]:
    """How often each name occurs, the most frequent first."""
    distinct, often = np.unique(names, return_counts=True)
    order = np.argsort(-often, kind="stable")
    return dict(zip(distinct[order].tolist(), often[order].tolist(), strict=True))


def spread(lengths: Int[np.ndarray, " rows"]) -> dict[str, float]:
    """Sum, mean and quantiles."""
    at = np.quantile(lengths, _QUANTILES).tolist()
    quantiles = {f"q{100 * share:02.0f}": q for share, q in zip(_QUANTILES, at, strict=True)}
    return {"sum": int(lengths.sum()), "mean": float(lengths.mean()), **quantiles}


def repeated(
    rows: Int[np.ndarray, " rows"],
    exact: Int[np.ndarray, " pool"],
    near: Int[np.ndarray, "pairs 2"],
) -> dict[str, int]:
    """Rows that repeat an earlier one of `rows`: `exact`, word for word of the same image file;
    `near`, with at least one earlier row near it, the exact ones included.
    """
    inside = np.zeros(len(exact), dtype=bool)
    inside[rows] = True
    pairs = near[inside[near].all(axis=1)]
    return {
        "exact": len(rows) - len(np.unique(exact[rows])),
        "near": len(np.unique(pairs.max(axis=1))) if len(pairs) else 0,
    }


def coverage(
    clusters: Int[np.ndarray, " pool"], kept: Int[np.ndarray, " kept"]
) -> dict[str, float] | None:
    """How many clusters the subset touches, and the share it keeps of the least and the most kept
    one; None where the selector has no clusters.
    """
    of_pool = np.bincount(clusters[clusters >= 0])
    if not of_pool.sum():
        return None
    of_subset = np.bincount(clusters[kept][clusters[kept] >= 0], minlength=len(of_pool))
    shares = of_subset[of_pool > 0] / of_pool[of_pool > 0]
    return {
        "clusters": len(shares),
        "covered": int((shares > 0).sum()),
        "least_kept": float(shares.min()),
        "median_kept": float(np.median(shares)),
        "most_kept": float(shares.max()),
    }


def explained_by(
    scores: Float[np.ndarray, " pool"], lengths: Int[np.ndarray, " pool"]
) -> float | None:
    """R² of the row score by a model that sees nothing but the length; None without scores."""
    finite = np.isfinite(scores)
    if not finite.any():
        return None
    return explained(scores[finite].astype(np.float64), lengths[finite])


def overlap(
    kept: Int[np.ndarray, " kept"], against: Int[np.ndarray, " other"], count: int
) -> dict[str, float]:
    """Rows in common with another subset, their Jaccard similarity, and that of two independent
    random subsets of these sizes.

    Raises:
        ValueError: the against has a row that the pool has not.
    """
    if len(against) and not 0 <= against.min() <= against.max() < count:
        raise ValueError(
            f"audit.against names rows {against.min()} to {against.max()}; the pool has {count}"
        )
    against = np.unique(against)
    common = len(np.intersect1d(kept, against))
    chance = len(kept) * len(against) / count
    either = len(kept) + len(against)
    return {
        "rows": common,
        "jaccard": common / (either - common),
        "jaccard_at_random": chance / (either - chance),
    }
