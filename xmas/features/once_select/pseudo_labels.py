"""Pseudo-labels: the cluster of every row, and how sure a frozen classifier is of its own."""

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
    """`labels.npy` (rows,) int64, the nearest of the selector's own centroids, -1 on rows without a
    picture or a question; `confidence.npy` (rows,) float32, the largest softmax probability, NaN
    there.

    `trained` may come from another pool: nothing is clustered or trained again. It is the stage, or
    the folder that it left, which is known by its content.
    Source: OnceSelect (arXiv 2605.26761); release, `score_gated_transfer.py`.
    """

    kind: ClassVar[str] = "pseudo_labels"

    clip: ClipEmbeddings
    trained: OnceSelect | str = content()

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: the selector was trained on another CLIP."""
        folder = (
            store.find(self.trained) if isinstance(self.trained, str) else store.get(self.trained)
        )
        seen = self.clip.open(store)
        model, centroids = load(folder, seen)
        labels = np.full(len(seen), -1, dtype=np.int64)
        sure = np.full(len(seen), np.nan, dtype=np.float32)
        for rows in seen.blocks():
            image, text = pairs(seen, rows)
            labels[rows] = nearest(image, text, centroids)[0]
            has = labels[rows] >= 0
            sure[rows[has]] = confidence(model, image[has], text[has])
        np.save(out / "labels.npy", labels)
        np.save(out / "confidence.npy", sure)


def load(folder: Path, seen: Embedded) -> tuple[GatedClassifier, Float[np.ndarray, "k joint"]]:
    """A trained selector and its centroids.

    Raises ValueError: the folder holds none, or one for another CLIP than gave these embeddings.
    """
    try:
        about = json.loads((folder / "selector.json").read_text())
        state = torch.load(folder / "selector.pt", weights_only=True)
        centroids = np.load(folder / "centroids.npy")
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no trained selector: {Path(error.filename).name} is missing; "
            "name a once_select folder of a store"
        ) from error
    if about["clip"] != seen.weights:
        raise ValueError(
            f"{folder} was trained on the CLIP with weights {about['clip'][:12]}, these embeddings "
            f"are of {seen.weights[:12]}; take the one that it knows: "
            "features@features.clip=clip_folder features.clip.clip.name=DIR"
        )
    model = GatedClassifier(Network(**about["network"]), about["width"], about["k"])
    model.load_state_dict(state)
    return model.eval(), centroids


@torch.no_grad()
def confidence(
    model: GatedClassifier, image: Float[np.ndarray, "rows d"], text: Float[np.ndarray, "rows d"]
) -> Float[np.ndarray, " rows"]:
    """The largest probability over clusters."""
    logits = model(torch.from_numpy(image), torch.from_numpy(text))
    return logits.softmax(dim=1).amax(dim=1).numpy()
