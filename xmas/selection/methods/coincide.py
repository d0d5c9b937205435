"""COINCIDE: a budget split over clusters of concepts; in each, the rows that represent it best."""

import dataclasses
import logging

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.features.activations import Activations
from xmas.features.clustering.spherical import Spherical
from xmas.selection.protocol import Ranked
from xmas.selection.rules.allocation import budgets, shares, transferability
from xmas.selection.rules.mmd import gaussian_kernel, greedy
from xmas.store import Store
from xmas.store.progress import bar

log = logging.getLogger(__name__)

MODES = ("fixed", "released")


@dataclasses.dataclass(frozen=True)
class Coincide:
    """Clusters of layer activations share a budget by softmax(T / (D temperature)).

    T, transferability, is the mean cosine of a cluster's centroid to the others', on the language
    half; D, density, the mean of the Gaussian kernel over all pairs of a cluster. Clusters are
    visited from the highest T / D down and give their rounded share of the rest of the budget;
    inside a cluster greedy MMD decides. A row's score is T / D of its cluster. Nothing is random.

    All of it is nested, so one order serves every budget: its first n rows are those of the
    smallest budget to which the release gives n rows. Text-only rows are ranked like others: the
    published subset is that of `subset.text_only=ranked`.

    Source: COINCIDE (arXiv 2406.10995); released `cluster_transferability.py`,
    `cluster_wise_prune.py`. Deviations: where the release falls short of a budget by rounding, rows
    of the next larger budgets fill it up. Mode `released` computes the kernel's products in float64
    as the release does, and refuses what breaks the release: empty clusters, which shift its
    densities against its transferabilities, and a cluster without another one below
    `near_duplicate`, which makes all its shares NaN. Mode `fixed` sums products in float32 over
    runs of features, leaves empty clusters out, and gives a cluster that has only near-duplicates
    the transferability `near_duplicate`, which is less than theirs. The features have the same
    mode.
    """

    features: Activations
    clusters: Spherical
    temperature: float = 0.1
    width: float = 1.0  # of the Gaussian kernel
    near_duplicate: float = 0.9  # cosine above which clusters are no neighbours
    mode: str = "fixed"  # released

    def __post_init__(self) -> None:
        """Raises ValueError: no such mode, or another than the features'."""
        if self.mode not in MODES:
            raise ValueError(f"coincide mode {self.mode!r}: expected one of {', '.join(MODES)}")
        if self.features.mode != self.mode:
            raise ValueError(
                f"coincide mode {self.mode!r} over features of mode {self.features.mode!r}; set "
                f"features.activations.mode={self.mode}"
            )

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        """Raises ValueError: mode `released` and clusters that break the release; says how many."""
        folder = store.get(self.clusters)
        values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
        centroids = np.load(folder / "centroids.npy", mmap_mode="r")
        return self.ranked(values, np.load(folder / "labels.npy"), centroids)

    def ranked(
        self,
        values: Float[np.ndarray, "rows width"],
        labels: Int[np.ndarray, " rows"],
        centroids: Float[np.ndarray, "k width"],
    ) -> Ranked:
        """The order of rows by features and clusters; one cluster is in memory at a time."""
        members = _members(labels, len(centroids))
        nonempty = np.array([cluster for cluster, rows in enumerate(members) if len(rows)])
        transferability_values = self._transferability(centroids, nonempty)
        density = np.empty(len(nonempty))
        inside: list[np.ndarray] = []
        products = "float64" if self.mode == "released" else "float32"
        with bar(total=len(labels), label="mmd") as progress:
            for place, cluster in enumerate(nonempty.tolist()):
                rows = members[cluster]
                kernel = gaussian_kernel(values[rows], width=self.width, products=products)
                density[place] = kernel.mean()
                inside.append(rows[greedy(kernel)])
                progress.update(len(rows))
        scores = transferability_values / density
        visits, share = shares(scores, self.temperature)
        smallest_budget = budgets(share, np.array([len(inside[place]) for place in visits]))
        order = np.concatenate([inside[place] for place in visits])[np.argsort(smallest_budget)]
        of_cluster = np.full(len(centroids), np.nan)
        of_cluster[nonempty] = scores
        return Ranked(order, of_cluster[labels], labels)

    def _transferability(
        self, centroids: Float[np.ndarray, "k width"], filled: Int[np.ndarray, " clusters"]
    ) -> Float[np.ndarray, " clusters"]:
        empty = len(centroids) - len(filled)
        if self.mode == "released" and empty:
            raise ValueError(
                f"coincide: {empty} of {len(centroids)} clusters are empty, which the release "
                "cannot take; set a lower k, or features.activations.mode=fixed"
            )
        language = self.features.language(centroids)[filled]
        values = transferability(language, near_duplicate=self.near_duplicate)
        alone = np.isnan(values)
        if alone.any():
            problem = (
                f"coincide: {alone.sum()} of {len(values)} clusters have no other with a cosine of "
                f"at most {self.near_duplicate} on the language half"
            )
            if self.mode == "released":
                raise ValueError(
                    f"{problem}; take other layers, or features.activations.mode=fixed"
                )
            log.warning("%s; their transferability is set to %g", problem, self.near_duplicate)
        return np.where(alone, self.near_duplicate, values)


def _members(labels: Int[np.ndarray, " rows"], k: int) -> list[Int[np.ndarray, " _"]]:
    """The rows of every cluster, ascending."""
    by_cluster = np.argsort(labels, kind="stable")
    return np.split(by_cluster, np.cumsum(np.bincount(labels, minlength=k))[:-1])
