"""Muon for the matrices inside a model, AdamW for the rest, as one optimiser."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

TOGETHER = 1 << 24  # elements that are orthogonalised in one product: more gain nothing


def inner_matrices(model: nn.Module) -> list[Tensor]:
    """The trainable weights of linear layers, embeddings and output layers excepted.

    Source: Jordan et al., Muon (kellerjordan.github.io/posts/muon): embeddings, heads, gains and
    biases stay with AdamW.
    """
    outer = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }  # a tied output layer is the same weight
    output = getattr(model, "get_output_embeddings", lambda: None)()
    if output is not None:
        outer.add(id(output.weight))
    return [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear)
        and module.weight.requires_grad
        and id(module.weight) not in outer
    ]


class BatchedMuon(Muon):
    """torch's Muon with the matrices of a shape, or of its transpose, in one batched product.

    The steps and the state are the same; only the order of sums in bfloat16 differs. For the small
    matrices of the demo a step takes half the time.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, weights, gradients, momenta)
            if not weights:
                continue
            ahead = momenta
            for momentum, gradient in zip(momenta, gradients, strict=True):
                momentum.lerp_(gradient, 1 - group["momentum"])
            if group["nesterov"]:
                pairs = zip(gradients, momenta, strict=True)
                ahead = [gradient.lerp(momentum, group["momentum"]) for gradient, momentum in pairs]
            for places in _alike(ahead):
                updates = orthogonalised(
                    [ahead[place] for place in places],
                    group["ns_coefficients"],
                    steps=group["ns_steps"],
                    eps=group["eps"],
                )
                for place, update in zip(places, updates, strict=True):
                    rows, columns = update.shape
                    weights[place].mul_(1 - group["lr"] * group["weight_decay"])
                    rate = group["lr"] * math.sqrt(max(1, rows / columns))
                    weights[place].add_(update, alpha=-rate)
        return loss


def _alike(matrices: Sequence[Tensor]) -> Iterator[list[int]]:
    """The places of matrices with the same two sides, at most `TOGETHER` elements at a time."""
    places = defaultdict(list)
    for place, matrix in enumerate(matrices):
        places[*sorted(matrix.shape), matrix.device].append(place)
    for (rows, columns, _), same in places.items():
        size = max(1, TOGETHER // (rows * columns))
        for start in range(0, len(same), size):
            yield same[start : start + size]


def orthogonalised(
    matrices: Sequence[Float[Tensor, "rows columns"]],
    coefficients: tuple[float, float, float],
    *,
    steps: int,
    eps: float,
) -> list[Float[Tensor, "rows columns"]]:
    """Each matrix with its singular values moved to about one, in bfloat16.

    Args:
        matrices: all of one shape or its transpose.
        coefficients: of the quintic polynomial of a Newton-Schulz step.
        eps: least Frobenius norm.
    """
    a, b, c = coefficients
    tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
    pairs = zip(matrices, tall, strict=True)
    batch = torch.stack([matrix.T if is_tall else matrix for matrix, is_tall in pairs]).bfloat16()
    batch /= torch.linalg.matrix_norm(batch, keepdim=True).clamp_min(eps)
    for _ in range(steps):
        gram = batch @ batch.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        batch = torch.baddbmm(batch, polynomial, batch, beta=a)
    return [matrix.T if is_tall else matrix for matrix, is_tall in zip(batch, tall, strict=True)]


class MuonAndAdamW(Optimizer):
    """Two optimisers that step, and are saved, as one.

    A step of Muon is a matrix with singular values of about one, so a small, randomly initialised
    model learns what is rare in its gradients as fast as what is frequent: the demo's answers in
    colours appear after 100 steps, with AdamW not within 250.

    Args:
        muon: groups of matrices; its `lr` is in the units of the spectral norm, usually 0.02.
        adamw: groups of all other parameters.

    Raises:
        ValueError: a parameter is in both.
    """

    def __init__(self, muon: Muon, adamw: AdamW) -> None:
        self.parts: tuple[Optimizer, ...] = (adamw, muon)  # the first has the rate that is logged
        members = [id(weight) for group in self._groups() for weight in group["params"]]
        if len(set(members)) != len(members):
            raise ValueError("a parameter is trained by Muon and by AdamW; leave it to one of them")
        super().__init__(self._groups(), {})
        self._link()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def _link(self) -> None:
        """A schedule changes the groups of this optimiser: they are those of its parts."""
        self.param_groups = self._groups()

    @property
    def state(self) -> dict[Any, Any]:
        return {weight: state for part in self.parts for weight, state in part.state.items()}

    @state.setter
    def state(self, value: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Ignored: the parts have the state. torch's constructor sets an empty one."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._link()


def muon_and_adamw(
    matrices: Iterable[Tensor], muon_rate: float, groups: list[dict[str, Any]], **adamw: Any
) -> MuonAndAdamW:
    """Muon over `matrices` at `muon_rate`, AdamW over what remains of `groups`."""
    matrices = list(matrices)
    members = {id(matrix) for matrix in matrices}
    others = [
        {**group, "params": [weight for weight in group["params"] if id(weight) not in members]}
        for group in groups
    ]
    weight_decay = adamw.get("weight_decay", 0.0)
    return MuonAndAdamW(
        BatchedMuon(matrices, lr=muon_rate, weight_decay=weight_decay, momentum=0.95),
        AdamW([group for group in others if group["params"]], **adamw),
    )
