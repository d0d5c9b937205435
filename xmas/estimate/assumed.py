"""The census of a pool: its counts, and the assumed ones of a pool whose files are absent."""

import dataclasses
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Int

from xmas.data.pool import Pool
from xmas.demo.pool import DemoPool
from xmas.demo.pretraining import IN_WORDS
from xmas.evaluation.validation_rows import ValidationRows
from xmas.store import Made

DRAWING = 0.0004  # seconds of a core to read a drawing of the demo, measured
_QUANTILES = 1000  # lengths that represent all rows


@dataclasses.dataclass(frozen=True)
class Assumed:
    """Numbers used where files are absent, and for what only a run can measure."""

    rows: int = 665_298
    with_image: float = 0.939  # share of the rows
    images: int = 378_000
    text: float = 200.0  # text tokens a row, mean
    spread: float = 1.0  # their standard deviation over the mean, log-normal
    answers: float = 0.5  # share of them that is answers
    letters: float = 4.0  # characters a token
    record: float = 1000.0  # bytes a row in the annotation file
    decode: float = 0.008  # seconds of a core to read a photograph and resize it to a tower's size
    question: float = 64.0  # text tokens of a benchmark's prompt
    answer: float = 8.0  # tokens of an answer, or the benchmark's limit if that is less
    essay: float = 128.0  # the same where a judge grades free-form answers
    launch: float = 8e-6  # seconds of a core to launch a kernel from Python


@dataclasses.dataclass(frozen=True)
class Census:
    """Counts of a pool, and a sample of its rows: text tokens, answer tokens, images."""

    name: str
    rows: int
    images: int  # distinct ones
    text: Float[np.ndarray, " sample"]
    answers: Float[np.ndarray, " sample"]
    image_counts: Int[np.ndarray, " sample"]
    size: float  # bytes of the annotations
    decode: float  # seconds of a core for an image
    how: str

    @property
    def scale(self) -> float:
        """Rows of the pool for each sampled row."""
        return self.rows / len(self.text)

    @property
    def has_image(self) -> Bool[np.ndarray, " sample"]:
        return self.image_counts > 0

    @property
    def pictured(self) -> float:
        """Rows with an image."""
        return self.rows * float(self.has_image.mean())

    def lengths(self, image_tokens: int, longest: int) -> Int[np.ndarray, " sample"]:
        """Tokens of the sampled rows including their images', truncated to `longest`."""
        whole = np.rint(self.text) + image_tokens * self.image_counts
        return np.minimum(whole, longest).astype(np.int64)


def supposed(pool: Pool, assumed: Assumed) -> Census:
    """The census of a pool that is not there: the demo's as configured, any other as assumed."""
    annotations = pool.annotations
    if isinstance(annotations, Made) and isinstance(annotations.stage, DemoPool):
        how = "not drawn yet: rows as configured, lengths as measured at default sizes"
        return _census(pool.name, demo_files(annotations.stage)[annotations.name], how)
    if isinstance(annotations, Made) and isinstance(annotations.stage, ValidationRows):
        rows = annotations.stage.rows
        how = "not drawn yet: as many rows as configured, each with an image; lengths assumed"
        sample = dataclasses.replace(
            assumed,
            rows=rows,
            images=rows,
            with_image=1.0,
            text=assumed.question + assumed.answer,
            answers=assumed.answer / (assumed.question + assumed.answer),
        )
        return _census(pool.name, sample, how)
    missing = annotations.name if isinstance(annotations, Made) else annotations
    how = f"{missing} is not there: rows, images and lengths are all assumed"
    return _census(pool.name, assumed, how)


_MEASURED = {  # tokens and bytes of the demo's rows, at its default sizes
    "pool": {"text": 39.7, "spread": 0.48, "answers": 0.11, "record": 320},
    "captions": {"text": 7.4, "spread": 0.29, "answers": 0.86, "record": 168},
    "facts": {"text": 36.2, "spread": 0.25, "answers": 0.12, "record": 300},
    "claims": {"text": 29.8, "spread": 0.07, "answers": 0.07, "record": 221},
    "choices": {"text": 39.7, "spread": 0.17, "answers": 0.05, "record": 248},
    "reviews": {"text": 28.4, "spread": 0.26, "answers": 0.09, "record": 237},
}


def demo_files(stage: DemoPool) -> dict[str, Assumed]:
    """What every annotation file of a demo pool will contain, by its name."""
    counts = {  # rows, share of them with an image, images
        "pool": (stage.rows, 0.94, round(0.89 * stage.rows)),
        "captions": (stage.captions, 1.0, stage.captions),
    }
    for kind, in_words in IN_WORDS.items():
        rows = getattr(stage, kind)
        # Each row with an image is about any of the captions' drawings.
        missed = (1 - 1 / stage.captions) ** ((1 - in_words) * rows)
        counts[kind] = (rows, 1 - in_words, round(stage.captions * (1 - missed)))
    return {
        f"{name}.json": Assumed(rows, share, images, decode=DRAWING, **_MEASURED[name])
        for name, (rows, share, images) in counts.items()
    }


def _census(name: str, assumed: Assumed, how: str) -> Census:
    """Quantiles of log-normal lengths in a fixed random order stand for the rows."""
    variance = np.log(1 + assumed.spread**2)
    normal = NormalDist(np.log(assumed.text) - variance / 2, np.sqrt(variance))
    quantiles = [normal.inv_cdf((place + 0.5) / _QUANTILES) for place in range(_QUANTILES)]
    text = np.random.default_rng(0).permutation(np.exp(quantiles))
    return Census(
        name=name,
        rows=assumed.rows,
        images=assumed.images,
        text=text,
        answers=text * assumed.answers,
        image_counts=(np.arange(_QUANTILES) < round(_QUANTILES * assumed.with_image)).astype(int),
        size=assumed.rows * assumed.record,
        decode=assumed.decode,
        how=how,
    )
