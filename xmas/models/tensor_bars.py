"""Transformers' bars over the tensors of a model are noise between the bars of stages."""

from collections.abc import Callable
from typing import Any

from transformers.utils import logging

_NOISE = ("Loading weights", "Writing model shards")


def silence() -> None:
    """Switch these bars off in this process; those of downloads stay."""
    if hasattr(logging, "set_tqdm_hook"):  # not in all versions that GPU hosts may have
        logging.set_tqdm_hook(_without_noise)


def _without_noise(
    factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    if options.get("desc") in _NOISE:
        options = options | {"disable": True}
    return factory(*args, **options)
