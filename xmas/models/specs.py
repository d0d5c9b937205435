"""Configurations of published models, for their size and cost without their weights.

The numbers are in the files of `xmas.models.families`: those of each repository's `config.json`.
"""

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from xmas.models.families import FAMILIES, Configs
from xmas.models.shape import ShapelessError
from xmas.models.sources import Source

FULL_SIZE: Configs = {
    name: build for family in FAMILIES.values() for name, build in family.full_size.items()
}
HUB: Configs = {
    name: build for family in FAMILIES.values() for name, build in family.hub_configs.items()
}


def config_of(source: Source) -> Any:
    """The configuration of published weights without a download: local, cached, or known here.

    Raises ShapelessError: none of these.
    """
    from transformers import AutoConfig

    if source.name in HUB and not Path(source.name).expanduser().is_dir():
        return HUB[source.name]()
    try:
        return AutoConfig.from_pretrained(
            source.name, revision=source.revision, local_files_only=True
        )
    except OSError as error:
        raise ShapelessError(f"{source.name}: no configuration on this machine") from error


def unbuilt(config: PreTrainedConfig) -> Any:
    """The model of a configuration on the meta device: shapes and no numbers."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)
