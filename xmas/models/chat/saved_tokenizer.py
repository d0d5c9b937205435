"""A saved tokenizer that reads texts as it did when it was saved."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OWN = ("backend", "is_local", "local_files_only")  # of transformers 5, unknown to 4


def pin(folder: Path) -> None:
    """Have `tokenizer.json` alone say how texts become tokens, for transformers 4 and 5.

    Under the class that a Llama's tokenizer was loaded with, transformers 5.23 makes it anew and
    forgets `legacy`: `USER` after `</s>` would then be other tokens than the model was made for.
    """
    if not (folder / "tokenizer.json").exists():
        return  # a class without that file; it is saved unchanged
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config = {name: value for name, value in config.items() if name not in OWN}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


def name_tokens(tokenizer: Any, names: Mapping[str, str]) -> None:
    """Give tokens the names by which transformers' processors ask a tokenizer for them; they are
    saved with it. Names that it has already stay.
    """
    missing = {name: token for name, token in names.items() if not hasattr(tokenizer, name)}
    if missing:
        tokenizer._set_model_specific_special_tokens(missing)
