"""The collectors of a unit: which positions of its passes are text, and which are images."""

import torch
from transformers import PreTrainedModel

from xmas.attention.capture import PrefixAttention
from xmas.attention.collector import Collector
from xmas.attention.feed import Loaded, Text
from xmas.attention.metric import Spectra


def between_images(spectra: Spectra, language: PreTrainedModel, loaded: Loaded) -> PrefixAttention:
    """Collects the attention of the text between the images of shared prefixes."""
    return PrefixAttention(
        text=loaded.text,
        text_mask=spectra.kept(loaded.text_mask, loaded.answers),
        image=loaded.image,
        image_mask=loaded.image_mask,
        **spectra.reading(language),
    )


def collector_of(
    spectra: Spectra,
    language: PreTrainedModel,
    text: Text,
    loaded: Loaded,
    between: PrefixAttention | None,
) -> Collector:
    """Collects the attention of a batch to all its images, positions from the row's start.

    Args:
        between: what `between_images` collected, where the prefixes are shared and have such text.
    """
    prefix = loaded.prefix_ids.shape[1]
    lines, lines_mask = text.text, spectra.kept(text.text_mask, text.answers)
    if not loaded.unit.shared:
        before_mask = spectra.kept(loaded.text_mask, loaded.answers)
        lines = torch.cat([loaded.text[text.which], prefix + lines], dim=1)
        lines_mask = torch.cat([before_mask[text.which], lines_mask], dim=1)
    return spectra.collector(
        language,
        text=lines,
        text_mask=lines_mask,
        image=torch.cat([loaded.image[text.which], prefix + text.image], dim=1),
        image_mask=torch.cat([loaded.image_mask[text.which], text.image_mask], dim=1),
        prefix=None if between is None else between.of(text.which),
    )
