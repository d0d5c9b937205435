"""Families of vision-language models; all that is known of a family is in one file here.

A file here defines `FAMILIES`, objects with the methods of `Family`; no list names them. `REFUSED`
of a file says why models of a type are none, though the generic path would run them. A package
outside this repository adds its own by an entry point of the group `xmas.families`, which names a
module with `FAMILIES`.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from types import ModuleType

from transformers import PreTrainedConfig

from xmas.models.families.protocol import Configs as Configs
from xmas.models.families.protocol import Exportable as Exportable
from xmas.models.families.protocol import Family as Family
from xmas.models.families.protocol import Features as Features
from xmas.models.families.protocol import HasDeepFeatures as HasDeepFeatures
from xmas.models.families.protocol import HasMarks as HasMarks
from xmas.models.families.protocol import HasPositions as HasPositions
from xmas.models.families.protocol import HasVideos as HasVideos
from xmas.models.families.protocol import OwnForward as OwnForward
from xmas.models.families.protocol import Parts as Parts
from xmas.models.families.protocol import WholeImages as WholeImages
from xmas.models.families.undescribed import parts_of

ENTRY_POINTS = "xmas.families"


def _modules() -> Iterator[ModuleType]:
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        yield importlib.import_module(module.name)
    for entry in entry_points(group=ENTRY_POINTS):
        yield entry.load()


def families() -> dict[str, Family]:
    """All families by `model_type`. Raises ValueError: two modules define the same one."""
    by_type: dict[str, Family] = {}
    sources: dict[str, str] = {}
    for module in _modules():
        for family in getattr(module, "FAMILIES", ()):
            kind = family.model_type
            if kind in by_type:
                raise ValueError(
                    f"{sources[kind]} and {module.__name__} both define the family {kind}; "
                    "remove one"
                )
            by_type[kind], sources[kind] = family, module.__name__
    return by_type


def refused() -> dict[str, str]:
    """Why models of some types are no family, by `model_type`."""
    reasons: dict[str, str] = {}
    for module in _modules():
        reasons |= getattr(module, "REFUSED", {})
    return reasons


FAMILIES: Mapping[str, Family] = families()
REFUSED: Mapping[str, str] = refused()


def family_of(config: PreTrainedConfig) -> Parts:
    """The family of a model, by its configuration: a described one, else its parts as found.

    Raises TypeError: nobody described it, and it does not work without; says why.
    """
    if config.model_type in FAMILIES:
        return FAMILIES[config.model_type]
    if config.model_type in REFUSED:
        raise TypeError(f"{REFUSED[config.model_type]}; take a model of {sorted(FAMILIES)}")
    try:
        return parts_of(config)
    except TypeError as error:
        raise TypeError(
            f"{error}; and models of type {config.model_type} are not among {sorted(FAMILIES)}, "
            f"which are described: a file in xmas/models/families, or an entry point of the group "
            f"{ENTRY_POINTS}, adds a family"
        ) from error


def exportable(config: PreTrainedConfig) -> Exportable:
    """The family of a model that is written for others.

    Raises ValueError: its family does not say how the hub names its weights.
    """
    family = FAMILIES.get(config.model_type)
    if not isinstance(family, Exportable):
        named = sorted(kind for kind, family in FAMILIES.items() if isinstance(family, Exportable))
        raise ValueError(f"a {config.model_type} is not exported; known are {named}")
    return family
