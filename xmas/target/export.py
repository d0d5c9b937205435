"""Export of a target as a Hugging Face folder that plain transformers and vLLM load."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from xmas.models.vlm import LoadedModel, runs_whole
from xmas.store import Stage, Store
from xmas.target.hf_folder import describe, hub_name
from xmas.target.target import Target


@dataclasses.dataclass(frozen=True)
class Export(Stage):
    """The fine-tuned model in one piece, its adapter merged: `model*.safetensors`, `config.json`,
    tokenizer, image processor, chat template and greedy generation defaults.

    Names are those of llava-hf's folders, which every version of transformers and vLLM read; those
    of a model that nobody described are what transformers writes for it. The template is the fit's,
    unlike theirs: with a system prompt, answers end in `</s>`.
    """

    kind: ClassVar[str] = "export"
    version: ClassVar[int] = 2  # the template writes the start mark, which vLLM would leave out

    target: Target
    dtype: str = "float16"  # of the weights

    def inputs(self) -> list[Stage]:
        return [self.target, self.target.start]

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: models of this class, or with this tokenizer, are not exported."""
        loaded = self.target.load(store)
        describe(loaded, self.target.template, self.dtype, out)
        write_weights(loaded, self.dtype, out)


def write_weights(loaded: LoadedModel, dtype: str, out: Path) -> None:
    """Shards of five gigabytes under the hub's names, and their index."""
    import torch
    from huggingface_hub import save_torch_state_dict

    if runs_whole(loaded.model):
        loaded.model.to(getattr(torch, dtype)).save_pretrained(out)
        return
    config = loaded.model.config
    weights = {
        hub_name(name, config): weight.detach().to("cpu", getattr(torch, dtype))
        for name, weight in loaded.model.state_dict().items()
        if not (config.tie_word_embeddings and name == "lm_head.weight")
    }
    save_torch_state_dict(weights, out)
