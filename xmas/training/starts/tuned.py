"""Whether a start point has been tuned on instructions already, so that no subset could matter.

`llava-hf/llava-1.5-7b-hf` and its like have seen all of LLaVA-665k: a fine-tune that begins there
measures nothing about a subset.
"""

from xmas.models.assembled import Assembled
from xmas.models.published import Published
from xmas.store import Store
from xmas.training.starts.pretrained import Pretrained
from xmas.training.starts.start_point import StartPoint


def refuse_tuned(start: StartPoint, store: Store) -> None:
    """Raises ValueError: `start` is instruction-tuned; says how that is known."""
    if said := tuned(start, store):
        raise ValueError(
            f"{said}: a target that starts there has seen the pool, and its subset tells nothing; "
            "take another start point, or set target.from_tuned=true"
        )


def tuned(start: object, store: Store) -> str | None:
    """How one knows that a start point was tuned on instructions; None where nothing says so.

    Whole models on the hub are, unless they are put together here.
    """
    if isinstance(start, Published):
        return f"{start.source.name} is a whole vision-language model, tuned on instructions"
    if isinstance(start, Pretrained):
        return tuned(start.start, store)
    return start.tuned(store) if isinstance(start, Assembled) else None
