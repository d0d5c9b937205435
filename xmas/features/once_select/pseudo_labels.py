"""Pseudo-labels: the CLIP cluster of every row, and a frozen classifier's confidence."""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float

from xmas.features.clip.clip import ClipEmbeddings
from xmas.features.clip.embedded import Embedded
from xmas.features.once_select.classifier import GatedClassifier, Network
from xmas.features.once_select.once_select import OnceSelect, nearest, pairs
from xmas.store import Stage, Store, content


@dataclasses.dataclass(frozen=True)
class PseudoLabels(Stage):
    """The nearest centroid of every row, and how confident a trained classifier is.

    Writes `labels.npy` (rows,) int64, -1 on rows without an image or a question; `confidence.npy`
    (rows,) float32, the largest softmax probability, NaN there.

    Source: OnceSelect (arXiv 2605.26761); released `score_gated_transfer.py`.

    Args:
        clip: the embeddings of the pool that is scored.
        trained: the classifier and its centroids, possibly of another pool: nothing is clustered or
            trained again. The stage, or its folder, which is identified by its content.
    """

    kind: ClassVar[str] = "pseudo_labels"

    clip: ClipEmbeddings
    trained: OnceSelect | str = content()

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: the selector was trained on another CLIP."""
        folder = (
            store.find(self.trained) if isinstance(self.trained, str) else store.get(self.trained)
        )
        embeddings = self.clip.open(store)
        model, centroids = load(folder, embeddings)
        labels = np.full(len(embeddings), -1, dtype=np.int64)
        confidences = np.full(len(embeddings), np.nan, dtype=np.float32)
        for rows in embeddings.blocks():
            image, text = pairs(embeddings, rows)
            labels[rows] = nearest(image, text, centroids)[0]
            has = labels[rows] >= 0
            confidences[rows[has]] = confidence(model, image[has], text[has])
        np.save(out / "labels.npy", labels)
        np.save(out / "confidence.npy", confidences)


def load(folder: Path, embedded: Embedded) -> tuple[GatedClassifier, Float[np.ndarray, "k joint"]]:
    """A trained selector and its centroids.

    Raises ValueError: the folder has none, or one for another CLIP than that of the embeddings.
    """
    try:
        about = json.loads((folder / "selector.json").read_text())
        state = torch.load(folder / "selector.pt", weights_only=True)
        centroids = np.load(folder / "centroids.npy")
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} is no trained selector: {Path(error.filename).name} is missing; "
            "name a once_select folder of a store"
        ) from error
    if about["clip"] != embedded.weights:
        raise ValueError(
            f"{folder} was trained on the CLIP with weights {about['clip'][:12]}, these embeddings "
            f"are of {embedded.weights[:12]}; use the CLIP that it was trained on: clip=DIR"
        )
    model = GatedClassifier(Network(**about["network"]), about["width"], about["k"])
    model.load_state_dict(state)
    return model.eval(), centroids


@torch.no_grad()
def confidence(
    model: GatedClassifier, image: Float[np.ndarray, "rows d"], text: Float[np.ndarray, "rows d"]
) -> Float[np.ndarray, " rows"]:
    """The largest probability over clusters, for every row."""
    logits = model(torch.from_numpy(image), torch.from_numpy(text))
    return logits.softmax(dim=1).amax(dim=1).numpy()
