"""Settings of answers that a server generates, from a target's exported folder."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xmas.evaluation.endpoint.client import Endpoint
from xmas.evaluation.endpoint.responses import EndpointError
from xmas.evaluation.generation.answer_file import note_generation
from xmas.evaluation.generation.settings import checked_precision, shuffled_order
from xmas.evaluation.protocol import Question
from xmas.store import Store, distributed, key, versions, volatile

if TYPE_CHECKING:
    import xmas.target.target

SERVED = "endpoint "  # with which the protocols of servers begin

_OURS = {"model", "messages", "max_tokens", "temperature", "seed", "stream", "n"}
_LOCAL = {  # settings of generation=local, and what there is in their place
    "batch": "the server batches by itself; generation.at_once is the number of requests in flight",
    "graphs": "how the server runs its model is its own setting",
    "workers": "images are read by the threads that send them, generation.at_once",
}


@dataclasses.dataclass(frozen=True)
class EndpointGeneration:
    """How an OpenAI-compatible server answers: vLLM, SGLang, lmms or another one.

    Greedy, with the benchmark's own prompts and number of tokens. Chat template and end of sequence
    are those of the exported folder. Which server it is, with its version, decides rounding, so its
    name is part of a score's identity; its address is not.

    Args:
        name: of the server, as in `vllm` or `vllm-0.11.0`: tables compare scores of one name only.
        precision: of the exported weights, `export.dtype`; only that export is taken for the
            target.
        control: `shuffled` shows every question the image of another one.
        seed: of the shuffling, and of every request.
        options: further fields of requests, such as `{"repetition_penalty": 1.0}`.
        endpoint: address, key and retries.
        model: what the server calls the target; None: the model whose name or folder has the key
            of the target's export.
        at_once: requests in flight.
        batch, graphs, workers: settings of local generation, refused here.
    """

    name: str = "vllm"
    precision: Any = "float16"  # a str: a short one is made long
    control: str = "none"
    seed: int = 0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    endpoint: Endpoint = volatile(default_factory=lambda: Endpoint("http://localhost:8000/v1"))
    model: str | None = volatile(None)
    at_once: int = volatile(32)
    batch: Any = volatile(None)
    graphs: Any = volatile(None)
    workers: Any = volatile(None)

    def __post_init__(self) -> None:
        for setting, reason in _LOCAL.items():
            if (value := getattr(self, setting)) is not None:
                raise ValueError(f"generation.{setting}={value} with an endpoint: {reason}")
        if not self.name or "," in self.name:
            raise ValueError(
                f"generation.name={self.name!r}: expected what serves, as in vllm or vllm-0.11.0, "
                "without a comma; it is part of every score's protocol"
            )
        if reserved := sorted(_OURS & set(self.options)):
            raise ValueError(
                f"generation.options: {', '.join(reserved)} cannot be set there; answers are "
                "greedy, and their number of tokens is the benchmark's"
            )
        object.__setattr__(self, "precision", checked_precision(self.precision))

    def protocol(self) -> str:
        """The name under which tables compare scores."""
        return f"{SERVED}{self.name}, {self.precision}, temperature 0"

    def check(self) -> None:
        """Raise EndpointError if no request can be sent; nothing is sent."""
        if self.at_once < 1:
            raise EndpointError(f"generation.at_once={self.at_once}: expected 1 or more")
        self.endpoint.check()

    def image_order(self, questions: Sequence[Question]) -> np.ndarray | None:
        """As `Generation.image_order`."""
        return shuffled_order(self.control, self.seed, questions)

    def answer(
        self,
        target: "xmas.target.target.Target",
        questions: Sequence[Question],
        *,
        store: Store,
        max_new_tokens: int,
        label: str,
        out: Path,
    ) -> None:
        """As `Generation.answer`.

        Raises EndpointError: another model is served, or the server does not reply.
        """
        from xmas.evaluation.generation.served_answers import ask_endpoint
        from xmas.evaluation.generation.served_model import served_model

        if distributed.rank_and_world()[0] > 0:  # one process asks
            return
        served = served_model(self, target, store)
        how = {
            "protocol": self.protocol(),
            **dataclasses.asdict(served),
            "seed": self.seed,
            "options": self.options,
            "max_new_tokens": max_new_tokens,
            "versions": versions(),
        }
        note_generation(out, how)
        replies = ask_endpoint(
            self,
            questions,
            model=served.name,
            max_new_tokens=max_new_tokens,
            out=out,
            model_id=f"{target.start.kind}-{key(target)}",
            label=label,
        )
        note_generation(out, how | replies)
