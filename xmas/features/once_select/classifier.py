"""OnceSelect's classifier: predicts the CLIP cluster of an image and its questions."""

import dataclasses
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

FUSIONS = ("full", "static_gate", "no_interaction")


@dataclasses.dataclass(frozen=True)
class Network:
    """The classifier's shape; the default with inputs of 512 values has 624,002 parameters.

    Args:
        hidden: width of the projected image and text.
        gate: hidden width of the gate.
        fusion: `full`; `static_gate`: one learnt gate for all rows; `no_interaction`: the product
            of image and text is an input of neither gate nor sum.
    """

    hidden: int = 256
    gate: int = 128
    dropout: float = 0.1
    fusion: str = "full"


class GatedClassifier(nn.Module):
    """Logits of k clusters from a unit image vector and a unit text vector.

    Source: OnceSelect (arXiv 2605.26761) and the description of its release.
    """

    def __init__(self, shape: Network, width: int, k: int) -> None:
        super().__init__()
        if shape.fusion not in FUSIONS:
            raise ValueError(f"fusion {shape.fusion!r}: expected one of {', '.join(FUSIONS)}")
        self.fusion = shape.fusion
        self.image = nn.Linear(width, shape.hidden)
        self.text = nn.Linear(width, shape.hidden)
        if self.fusion == "static_gate":
            self.fixed = nn.Parameter(torch.zeros(1))
        else:
            parts = 3 if self.fusion == "full" else 2
            self.gate = nn.Sequential(
                nn.Linear(parts * width, shape.gate), nn.ReLU(), nn.Linear(shape.gate, 1)
            )
        if self.fusion != "no_interaction":
            self.product = nn.Linear(width, shape.hidden, bias=False)
            self.scale = nn.Parameter(torch.tensor(0.1))
        self.head = nn.Sequential(
            nn.LayerNorm(shape.hidden), nn.ReLU(), nn.Dropout(shape.dropout),
            nn.Linear(shape.hidden, k),
        )  # fmt: skip

    def forward(
        self, image: Float[Tensor, "rows d"], text: Float[Tensor, "rows d"]
    ) -> Float[Tensor, "rows k"]:
        both = image * text
        image_part, text_part = self.image(image).relu(), self.text(text).relu()
        if self.fusion == "static_gate":
            gate = self.fixed.sigmoid()
        else:
            parts = [image, text, both] if self.fusion == "full" else [image, text]
            gate = self.gate(torch.cat(parts, dim=1)).sigmoid()
        fused = gate * image_part + (1 - gate) * text_part
        if self.fusion != "no_interaction":
            fused = fused + self.scale * self.product(both)
        return self.head(fused)


class Pairs(NamedTuple):
    """Rows of a training or test set: unit vectors and the clusters to predict."""

    image: Float[Tensor, "rows d"]
    text: Float[Tensor, "rows d"]
    labels: Int[Tensor, " rows"]


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, pairs: Pairs, *, batch: int
) -> float:
    """Train for one epoch with equal odds for every label; gives the mean loss.

    As many rows are drawn as there are, with replacement.
    """
    image, text, labels = pairs
    odds = 1.0 / torch.bincount(labels)[labels]
    sample = torch.multinomial(odds, len(odds), replacement=True)
    model.train()
    total = 0.0
    for rows in sample.split(batch):
        loss = nn.functional.cross_entropy(model(image[rows], text[rows]), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
    return total / len(sample)


@torch.no_grad()
def evaluate(model: nn.Module, pairs: Pairs) -> dict[str, float]:
    """`accuracy` over rows, `macro`, the mean accuracy of the labels, and `covered`, the number of
    labels that are predicted for some row.
    """
    image, text, labels = pairs
    predicted = model.eval()(image, text).argmax(dim=1)
    right = (predicted == labels).float()
    sizes = torch.bincount(labels)
    per_label = torch.bincount(labels, weights=right)[sizes > 0] / sizes[sizes > 0]
    return {
        "accuracy": right.mean().item(),
        "macro": per_label.mean().item(),
        "covered": float(torch.isin(labels.unique(), predicted).sum()),
    }
