"""What every question adds to a score, so that the score of any resample of questions is known.

The rules of all benchmarks have one form, a weighted sum of ratios of sums:

    score = Σ over terms  weight · (Σ over units  gained) / (Σ over units  counted)

A mean over questions is one term that counts 1 a question. POPE has a term for each category: F1 is
twice the hits by what was said to be there and what is. MME has two a task, accuracy and "both
right"; a judged ratio gains the model's mark and counts the reference's. A unit is what is drawn
together: a question, or all that one image of MME or one rotated question of MMBench consists of.
"""

import dataclasses
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """`gained` and `counted` of every unit by term; `keys` name the units, in a fixed order."""

    keys: Shaped[np.ndarray, " units"]
    gained: Float[np.ndarray, "units terms"]
    counted: Float[np.ndarray, "units terms"]
    weights: Float[np.ndarray, " terms"]

    @classmethod
    def mean(cls, values: Mapping[Any, float], scale: float = 100.0) -> "Outcomes":
        """Of a mean over questions, times `scale`; `values` by question, in the file's order."""
        return cls.of({key: {"": (value, 1)} for key, value in values.items()}, {"": scale})

    @classmethod
    def of(
        cls,
        units: Mapping[Any, Mapping[str, tuple[float, float]]],
        weights: Mapping[str, float],
    ) -> "Outcomes":
        """(gained, counted) by unit and term; a unit has no part in the terms it does not name."""
        column = {term: number for number, term in enumerate(weights)}
        gained, counted = np.zeros((2, len(units), len(weights)))
        for row, parts in enumerate(units.values()):
            for term, (gain, count) in parts.items():
                gained[row, column[term]], counted[row, column[term]] = gain, count
        names = ["\t".join(map(str, key)) if isinstance(key, tuple) else str(key) for key in units]
        return cls(np.array(names), gained, counted, np.array(list(weights.values()), float))

    def score(self) -> float:
        """The headline number. A term that counts nothing gives 0, as in the scorers."""
        gained, counted = self.gained.sum(axis=0), self.counted.sum(axis=0)
        ratios = np.divide(gained, counted, out=np.zeros_like(gained), where=counted > 0)
        return float(ratios @ self.weights)

    def save(self, path: Path) -> None:
        """As `.npz`; `digest` names the units and their order."""
        digest = hashlib.sha256("\n".join(self.keys.tolist()).encode()).hexdigest()[:16]
        alike = bool((self.counted == self.counted[:1]).all())  # as in every mean
        np.savez_compressed(
            path,
            keys=self.keys,
            digest=np.array(digest),
            gained=self.gained.astype(np.float32),
            counted=self.counted[: 1 if alike else None].astype(np.float32),
            weights=self.weights,
        )


@dataclasses.dataclass(frozen=True)
class Kept:
    """Saved outcomes without their keys; those of equal `digest` belong to the same units."""

    digest: str
    gained: Float[np.ndarray, "units terms"]
    counted: Float[np.ndarray, "units terms"]
    weights: Float[np.ndarray, " terms"]

    @classmethod
    def read(cls, path: Path) -> "Kept":
        """Raises ValueError: the file is not what `Outcomes.save` writes."""
        try:
            with path.open("rb") as opened, np.load(opened) as file:  # a member is read when named
                gained, weights = file["gained"], file["weights"]
                counted = np.broadcast_to(file["counted"], gained.shape)
                return cls(str(file["digest"]), gained, counted, weights)
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path}: no outcomes of questions: {error}; remove the file"
            ) from error
