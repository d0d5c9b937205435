"""How far results are from the releases', by the formulas of the tests: a line of figures a point.

    python experiments/reliability/parity.py

Every reference is independent of the package: float64 numpy, Python's floats, sentencepiece, or a
loop that was written from a release's description. They are those of the tests, at larger sizes.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import test_clip_selectors  # of the tests
import test_labels
import test_metric
import test_sentencepiece_bpe

from xmas.attention.metric import Spectra
from xmas.features.clustering.kmeans import kmeans, reduce_spectra
from xmas.features.clustering.neighbours import neighbours
from xmas.models.chat.labels import Encoder
from xmas.models.chat.template import Template
from xmas.models.sources import tokenizer_of
from xmas.selection.methods.d2 import gather, take_as_released, take_in_turn
from xmas.selection.rules.best_first import best_first


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    tiny = asked.parse_args().tiny
    released_matrices()
    sums(*((300, 20) if tiny else ()))
    if test_sentencepiece_bpe.PUBLISHED.exists():
        tokens(*((20, [True]) if tiny else ()))
    else:
        print("not available: the published tokenizer.model, which `make install` brings")
    labels(30 if tiny else 5000)
    stand_by(*((60, 12) if tiny else ()))


def released_matrices() -> None:
    """Mode `released` against the float64 formula: equal and grouped heads, all combinations."""
    for name, make in test_metric.MODELS.items():
        model = test_metric.randomised(make())
        layers = test_metric.release(model, test_metric.ids(), test_metric.WINDOW)
        worst = 0.0
        for combine, matrices in {
            "sum": sum(layers),
            "concat_text": np.concatenate(layers, axis=1),
            "concat_vision": np.concatenate(layers, axis=2),
            "last": layers[-1],
        }.items():
            spectra = Spectra(k=3, mode="released", combine=combine, window=test_metric.WINDOW)
            values = test_metric.taken(model, spectra).numpy()
            reference = test_metric.halko(np.asarray(matrices), 3, seed=0)
            worst = max(worst, float(np.abs(values / reference - 1).max()))
        print(f"released, {name}: largest relative difference {worst:.1e}")


def sums(rows: int = 20_000, k: int = 1000) -> None:
    """Clusters of summed spectra against Python's sums, and against sums in float32."""
    levels = np.array([[140, 72, 27, 18, 14, 13.5, 13.5]]).T * np.array(
        [0.8, 0.1, 0.05, 0.03, 0.02]
    )
    spread = np.random.default_rng(0).lognormal(0, 0.3, (rows, *levels.shape))
    values = (levels * spread).astype(np.float32)
    plain = [[sum(spectrum) for spectrum in row] for row in values.tolist()]
    options = {"seed": 1234, "iterations": 100, "per_centroid": 256}
    reference = kmeans(np.array(plain, dtype=np.float32), k, **options)
    for name, summed in (
        ("as they are added", reduce_spectra(values, "sum")),
        ("in float32, as before", values.sum(axis=2)),
    ):
        equal = int((kmeans(summed, k, **options) == reference).sum())
        print(f"sums {name}: {equal:,} of {rows:,} labels are those of Python's sums")


def tokens(count: int = 5000, forms: Sequence[bool] = (True, False)) -> None:
    """Ids of a published Llama tokenizer.model against sentencepiece's."""
    published = test_sentencepiece_bpe.PUBLISHED
    texts = [*test_sentencepiece_bpe.TRAPS, *test_sentencepiece_bpe.sentences(count, 7)]
    for legacy in forms:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "tokenizer.model").write_bytes(published.read_bytes())
            (folder / "tokenizer_config.json").write_text(f'{{"legacy": {str(legacy).lower()}}}')
            slow, tokenizer = test_sentencepiece_bpe.Slow(folder), tokenizer_of(folder)
            equal = sum(
                tokenizer.encode(text, add_special_tokens=False) == slow(text) for text in texts
            )
        print(f"tokenizer.model, legacy {legacy}: {equal:,} of {len(texts):,} texts have equal ids")


def labels(count: int = 5000) -> None:
    """Labels of conversations against LLaVA's arithmetic, and what strict parity drops."""
    tokenizers = [test_labels.metaspace(legacy=legacy) for legacy in (False, True)]
    equal = lost = dropped = 0
    for number, (rounds, place) in enumerate(test_labels.conversations(count, seed=8)):
        tokenizer = tokenizers[number % 2]
        text = test_labels.llava_text(rounds, image=True, **place)
        counted = test_labels.counted_by_llava(tokenizer, text, image=True)
        encoder = Encoder(tokenizer, Template(strict_parity=True))
        row = encoder.conversation(rounds, image=test_labels.IMAGE, **place)
        lost += counted is None
        if counted is None:
            dropped += not row.labelled.any()
            continue
        counted[row.image_at] = False
        equal += np.insert(row.labelled, row.image_at, False).tolist() == counted
    print(
        f"strict_parity: {equal:,} of {count - lost:,} conversations have LLaVA's labels; "
        f"{dropped:,} of {lost:,} that LLaVA loses are dropped"
    )


def stand_by(rows: int = 1000, budget: int = 200) -> None:
    """D2's order against the release's loop, and against the exact greedy order."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((rows, 16)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    near, apart = neighbours(points, 5, lists=2048, probes=8)
    scores = gather(rng.standard_normal(rows), near, apart.astype(float), gamma=1.0)
    release, _ = test_clip_selectors.as_released(scores, near, apart.astype(float), 0.4)
    orders = {
        "variant=d2_released": take_as_released(scores, near, apart, gamma=0.4)[0],
        "selector=d2, exact": best_first(take_in_turn(scores, near, apart, gamma=0.4), rng),
    }
    for name, order in orders.items():
        common = len(set(order[:budget].tolist()) & set(release[:budget]))
        print(f"{name}: {common} of {budget} rows are those of the release's loop")


if __name__ == "__main__":
    main()
