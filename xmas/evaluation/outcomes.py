"""Outcomes: what every question adds to a score, so that any resample of questions can be scored.

The rules of all benchmarks have one form, a weighted sum of ratios of sums:

    score = Σ over terms  weight · link((Σ over units  gained) / (Σ over units  counted))

The link is the identity, but for a likelihood, which gains losses and counts tokens: there it is
exp(-x), so that a score of losses is the higher the better, as all others.

A mean over questions is one term that counts 1 per question. POPE has a term per category: F1 is
twice the hits divided by claimed plus present objects. MME has two per task, accuracy and
accuracy+; a judged ratio gains the model's grade and counts the reference's. A unit is what has an
outcome: a question, both questions of an image of MME, or all rotations of a question of MMBench.
Units about one picture are right and wrong together more often than others, so they are resampled
together; where a benchmark says nothing of pictures, each unit is on its own.
"""

import dataclasses
import hashlib
import zipfile
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

LINKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda ratios: ratios,
    "likelihood": lambda ratios: np.exp(-ratios),
}
_MOST = 1 << 30  # bytes of outcomes, unpacked; those of a million questions have 0.2 GB


def linked(
    gained: Float[np.ndarray, "*sums"], counted: Float[np.ndarray, "*sums"], link: str
) -> Float[np.ndarray, "*sums"]:
    """What terms of a score are, before their weights, from sums over units; of one that counts
    nothing 0, as in the scorers.
    """
    is_counted = counted > 0
    ratios = np.divide(gained, counted, out=np.zeros_like(gained), where=is_counted)
    return np.where(is_counted, LINKS[link](ratios), 0.0)


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """`gained` and `counted` of every unit by term; `keys` name the units, in a fixed order.

    Units with the same number in `pictures` show the same picture.

    >>> outcomes = Outcomes.mean({"q1": 1.0, "q2": 0.0})
    >>> outcomes.score()
    50.0
    """

    keys: Shaped[np.ndarray, " units"]
    gained: Float[np.ndarray, "units terms"]
    counted: Float[np.ndarray, "units terms"]
    weights: Float[np.ndarray, " terms"]
    link: str = "identity"  # one of `LINKS`
    pictures: Int[np.ndarray, " units"] | None = None

    @classmethod
    def mean(
        cls,
        values: Mapping[Any, float],
        scale: float = 100.0,
        *,
        pictures: Mapping[Any, Hashable] | None = None,
    ) -> "Outcomes":
        """A score that is a mean over questions, times `scale`.

        Args:
            values: by question, in the order of the question file.
            pictures: what each question shows, by question; see `pictures_of`.
        """
        gains = np.array([*values.values()], float).reshape(-1, 1)
        return cls._of_units(values, gains, np.ones_like(gains), [scale], pictures=pictures)

    @classmethod
    def of(
        cls,
        units: Mapping[Any, Mapping[str, tuple[float, float]]],
        weights: Mapping[str, float],
        link: str = "identity",
        *,
        pictures: Mapping[Any, Hashable] | None = None,
    ) -> "Outcomes":
        """A score from (gained, counted) by unit and term; unnamed terms get nothing of a unit.

        A likelihood, in per cent, of two answers with a loss of 3 nats over 2 tokens and 1 over 2:

        >>> units = {"a": {"": (3.0, 2)}, "b": {"": (1.0, 2)}}
        >>> round(Outcomes.of(units, {"": 100.0}, "likelihood").score(), 3)  # 100 exp(-4 / 4)
        36.788
        """
        column = {term: number for number, term in enumerate(weights)}
        gains, counts = np.zeros((2, len(units), len(weights)))
        for row, parts in enumerate(units.values()):
            for term, (gain, count) in parts.items():
                gains[row, column[term]], counts[row, column[term]] = gain, count
        return cls._of_units(units, gains, counts, [*weights.values()], link, pictures=pictures)

    @classmethod
    def _of_units(
        cls,
        units: Collection[Any],
        gained: Float[np.ndarray, "units terms"],
        counted: Float[np.ndarray, "units terms"],
        weights: Sequence[float],
        link: str = "identity",
        *,
        pictures: Mapping[Any, Hashable] | None,
    ) -> "Outcomes":
        """The outcomes of the units that have these keys, pictures numbered as they come."""
        names = ["\t".join(map(str, key)) if isinstance(key, tuple) else str(key) for key in units]
        shown = None
        if pictures:
            of_units = [pictures[key] for key in units]
            numbers = {picture: number for number, picture in enumerate(dict.fromkeys(of_units))}
            shown = np.array([numbers[picture] for picture in of_units], dtype=np.int64)
        weight = np.array(weights, float)
        return cls(np.array(names), gained, counted, weight, link, shown)

    def score(self) -> float:
        """The headline number."""
        terms = linked(self.gained.sum(axis=0), self.counted.sum(axis=0), self.link)
        return float(terms @ self.weights)

    def save(self, path: Path) -> None:
        """Write an `.npz` file; `digest` in it identifies the units and their order."""
        digest = hashlib.sha256("\n".join(self.keys.tolist()).encode()).hexdigest()[:16]
        optional: dict[str, Any] = {} if self.pictures is None else {"pictures": self.pictures}
        alike = bool((self.counted == self.counted[:1]).all())  # as in every mean
        np.savez_compressed(
            path,
            keys=self.keys,
            digest=np.array(digest),
            gained=self.gained.astype(np.float32),
            counted=self.counted[: 1 if alike else None].astype(np.float32),
            weights=self.weights,
            link=np.array(self.link),
            **optional,
        )


def pictures_of(rows: Mapping[Any, Mapping[str, Any]], field: str = "image") -> dict[Any, Hashable]:
    """What every question shows, from the rows of a question file by key; itself where unknown.

    >>> pictures_of({1: {"image": "a.jpg"}, 2: {"image": "a.jpg"}, 3: {}})
    {1: 'a.jpg', 2: 'a.jpg', 3: ('alone', 3)}
    """
    return {key: row.get(field, ("alone", key)) for key, row in rows.items()}


@dataclasses.dataclass(frozen=True)
class Kept:
    """Saved outcomes without their keys; equal `digest`s mean the same units.

    `pictures` is None in files of earlier versions, and where each unit has its own.
    """

    digest: str
    gained: Float[np.ndarray, "units terms"]
    counted: Float[np.ndarray, "units terms"]
    weights: Float[np.ndarray, " terms"]
    link: str = "identity"
    pictures: Int[np.ndarray, " units"] | None = None

    @classmethod
    def read(cls, path: Path) -> "Kept":
        """Raises ValueError: the file is not what `Outcomes.save` writes."""
        try:
            with path.open("rb") as stream, np.load(stream) as file:  # a member is read when named
                if (size := sum(member.file_size for member in file.zip.infolist())) > _MOST:
                    raise ValueError(f"unpacks to {size:,} bytes, more than {_MOST:,}")
                gains, weights = file["gained"], file["weights"]
                counts = np.broadcast_to(file["counted"], gains.shape)
                link = str(file["link"]) if "link" in file else "identity"  # files before links
                pictures = file.get("pictures")
                return cls(str(file["digest"]), gains, counts, weights, link, pictures)
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: not a file of outcomes: {error}; remove it") from error
