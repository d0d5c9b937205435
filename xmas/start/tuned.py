"""Whether a start point has been tuned on instructions already, so that no subset could matter.

`llava-hf/llava-1.5-7b-hf` and its like have seen all of LLaVA-665k: a fine-tune that begins there
measures nothing about a subset.
"""

import json
from pathlib import Path
from typing import Any

from xmas.start.assembled import Assembled
from xmas.start.point import StartPoint
from xmas.start.pretrained import Pretrained
from xmas.start.published import Published
from xmas.start.source import Source


def refuse_tuned(start: StartPoint) -> None:
    """Raises ValueError: `start` is instruction-tuned; says how that is known."""
    if said := tuned(start):
        raise ValueError(
            f"{said}: a target that starts there has seen the pool, and its subset tells nothing; "
            "take another start point, or set target.from_tuned=true"
        )


def tuned(start: object) -> str | None:
    """How one knows that a start point was tuned on instructions; None where nothing says so.

    Whole models on the hub are, unless they are put together here. Of LLaVA's own folders the
    configuration tells: with `tune_mm_mlp_adapter` only the projector was trained.
    """
    if isinstance(start, Published):
        return f"{start.source.name} is a whole vision-language model, tuned on instructions"
    if isinstance(start, Pretrained):
        return tuned(start.start)
    if not isinstance(start, Assembled) or start.drawn is not None:
        return None
    for source in (start.language, start.projector):
        if isinstance(source, Source) and _of_a_tuned_llava(_config(source.folder())):
            return f"{source.name} is a LLaVA that was tuned on instructions"
    return None


def _of_a_tuned_llava(config: dict[str, Any]) -> bool:
    kind = str(config.get("model_type", "")) + " ".join(config.get("architectures") or [])
    is_llava = "llava" in kind.lower() or "mm_projector_type" in config
    return is_llava and not config.get("tune_mm_mlp_adapter", False)


def _config(place: Path) -> dict[str, Any]:
    file = (place if place.is_dir() else place.parent) / "config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
