"""Targets of the configuration with random weights, thin: what a fit writes can be written.

Every fit rehearses that before its first step. Images have the sizes of the published processors.
"""

import dataclasses
import json

import pytest
from tiny_families import GEMMA
from toy import Toy

from xmas.cli.config import build
from xmas.models.vlm import load
from xmas.target.hf_folder import describe

TEXT = {
    "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 3,
    "num_key_value_heads": 1, "vocab_size": 700, "layer_types": None,
}  # fmt: skip
VISION = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1}
TEMPLATES = {
    "internvl35_4b": "llava_onevision", "smolvlm2_2b": "smolvlm", "llava16_7b": "vicuna",
    "llava_onevision_7b": "llava_onevision", "gemma3_4b": "own",
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_fit_writes_at_its_end_can_be_written(toy: Toy, name, tmp_path, compose):
    target = build(compose(f"target={name}", f"template@target.template={TEMPLATES[name]}").target)
    thin = {"text_config": TEXT, "vision_config": VISION | {"num_attention_heads": 3}}
    start = dataclasses.replace(
        target.start, drawn=toy.tokenizer, config=thin, dtype="float32", seed=1
    )
    template = target.template
    if name == "gemma3_4b":  # a random model's tokenizer has no template, and another end mark
        (tmp_path / "gemma.jinja").write_text(GEMMA.replace("<end_of_turn>", "</s>"))
        template = dataclasses.replace(template, file=str(tmp_path / "gemma.jinja"))
    loaded = load(toy.store.get(start))
    describe(loaded, template, "float16", tmp_path)
    written = json.loads((tmp_path / "processor_config.json").read_text())
    assert written["processor_class"].endswith("Processor")
    assert len(loaded.layout.tokens((480, 640))) > 250
