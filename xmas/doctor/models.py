"""Checks the published models that a start point is made of: files, and tokenizers that load."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xmas.doctor.finding import Finding
from xmas.models.hub import local_folder
from xmas.models.sources import Source, tokenizer_of

_TOKENIZER_FILES = "tokenizer.json", "tokenizer.model", "tokenizer_config.json"


def check_models(start: Any) -> Iterator[Finding]:
    """Find the files of every source of a start point; load its tokenizers, without its weights.

    A tokenizer of a `tokenizer.model` is compared with sentencepiece as it loads.
    """
    for place, source in _sources(start, "start"):
        folder = local_folder(source)
        if folder is None:
            yield Finding(
                "WARN", place, f"{source.name} is not on this machine; its first use downloads it"
            )
        elif any((folder / name).exists() for name in _TOKENIZER_FILES):
            yield _loaded(place, source, folder)
        else:
            yield Finding("OK", place, f"{source.name} is on this machine")


def _sources(value: Any, place: str) -> Iterator[tuple[str, Source]]:
    """All sources among the fields of a stage, at any depth, by the key that sets them."""
    if isinstance(value, Source):
        yield place, value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _sources(getattr(value, field.name), f"{place}.{field.name}")


def _loaded(place: str, source: Source, folder: Path) -> Finding:
    """Whether the tokenizer of a folder loads; transformers raises any exception of its parsers."""
    try:
        tokenizer = tokenizer_of(folder)
    except Exception as error:
        return Finding(
            "FAIL",
            f"{place}.name={source.name}",
            f"its tokenizer does not load: {type(error).__name__}: {error}",
            "complete the folder from the hub, or set this key to another one",
        )
    return Finding("OK", place, f"{source.name}, tokenizer of {len(tokenizer):,} tokens")
