"""Sources of published weights: the hub, or a local folder."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from xmas.models import sentencepiece_bpe
from xmas.store import sha256_of

FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "*.bin"]
OTHER_FORMATS = ["*/*", "*.gguf", "training_args.bin"]


@dataclasses.dataclass(frozen=True)
class Source:
    """A repository of the hub at a revision, or a local folder or file.

    A folder's identity is the hash of its files, a repository's its name and revision. Without a
    revision it is the version that the hub has at the first download: give the commit where a
    result has to be reproduced.
    """

    name: str
    revision: str | None = None  # commit or tag on the hub

    def identity(self) -> dict[str, str | None]:
        path = Path(self.name).expanduser()
        if path.exists():
            return {"sha256": sha256_of(path)}
        return {"hub": self.name, "revision": self.revision}

    def folder(self) -> Path:
        """The local folder with the files, downloaded if need be; or the one file that it is."""
        from huggingface_hub import snapshot_download

        path = Path(self.name).expanduser()
        if path.exists():
            return path
        return Path(
            snapshot_download(
                self.name,
                revision=self.revision,
                allow_patterns=FILES,
                ignore_patterns=OTHER_FORMATS,
            )
        )

    def config(self) -> dict[str, Any]:
        """The `config.json` of the folder, or next to the file; {} without one."""
        path = self.folder()
        file = (path if path.is_dir() else path.parent) / "config.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def tokenizer_of(folder: Path, config: Any = None) -> Any:
    """A folder's tokenizer; without a pad token it pads with its end token.

    Pads are recognised by the rows' lengths, never by their id, so any token will do.

    Args:
        config: of the folder's model; None: it is loaded.
    """
    from transformers import AutoTokenizer

    if (folder / sentencepiece_bpe.FILE).exists() and not (folder / "tokenizer.json").exists():
        tokenizer = sentencepiece_bpe.sentencepiece_tokenizer(folder)
    else:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = _processors_template(folder) or tokenizer.chat_template
    return tokenizer


def _processors_template(folder: Path) -> str | None:
    """The chat template of a folder's processor where it is not the tokenizer's file as well.

    Folders of transformers 4 have it in files that a tokenizer alone does not read.
    """
    if (folder / "chat_template.jinja").exists():
        return None
    for name in ("chat_template.json", "processor_config.json"):
        file = folder / name
        fields = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if "chat_template" in fields:
            return fields["chat_template"]
    return None


def answer_greedily(model: Any, tokenizer: Any) -> None:
    """Replace sampling defaults by greedy ones: their values can make `save_pretrained` raise."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
