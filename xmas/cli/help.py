"""`xmas --help`: goals, groups and the configuration.

Hydra's own page copies all its sources for every group that it lists, which takes twice as long as
everything else.
"""

from collections.abc import Iterator
from pathlib import Path

import hydra
from omegaconf import OmegaConf

from xmas.cli.config import GOALS, folder

_FLAGS = ("--help", "-h")


def wanted(arguments: list[str]) -> bool:
    """Whether this page is asked for; with further flags, as --config-dir, it is Hydra's."""
    flags = {argument for argument in arguments if argument.startswith("-")}
    return bool(flags) and flags <= {*_FLAGS}


def page(arguments: list[str]) -> str:
    """The page; its configuration is what the other arguments compose.

    Raises ConfigCompositionException: they cannot be composed.
    """
    overrides = [argument for argument in arguments if argument not in _FLAGS]
    with hydra.initialize_config_dir(folder(), version_base="1.3"):
        cfg = hydra.compose("config", overrides)
    return "\n".join(
        [
            "usage: xmas [goal=GOAL] [GROUP=CHOICE ...] [KEY=VALUE ...]",
            "       xmas -m KEY=VALUE,VALUE,... ...    a job for every combination",
            "       xmas --hydra-help                  further flags",
            "",
            f"GOAL: {', '.join(GOALS)}, or any node with a _target_",
            "",
            "GROUP: CHOICE, ...",
            *_groups(Path(folder())),
            "",
            "KEY: VALUE, inner keys with dots: subset.fraction=0.1",
            "",
            OmegaConf.to_yaml(cfg),
        ]
    )


def _groups(conf: Path) -> Iterator[str]:
    """A line for every group: its name and choices."""
    choices: dict[str, list[str]] = {}
    for path in sorted(conf.glob("*/**/*.yaml")):
        choices.setdefault(path.parent.relative_to(conf).as_posix(), []).append(path.stem)
    for group, names in sorted(choices.items()):
        if not group.startswith("hydra/"):
            yield f"{group}: {', '.join(names)}"
