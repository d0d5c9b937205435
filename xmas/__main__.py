"""The command `xmas`: compose a configuration, build its goal, make it."""

import logging
import sys
from typing import Protocol, runtime_checkable

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from xmas import ranks
from xmas.config import ConfigError, build, check_choices, folder, goal_node, warn_of_demo_values
from xmas.store import Stage, Store

log = logging.getLogger("xmas")


@runtime_checkable
class Page(Protocol):
    """A goal with something to say: table, report, doctor, rescore."""

    def make(self, store: Store) -> str:
        """Write or find out, and say in text what came of it."""
        ...


def make(goal: object, store: Store) -> str:
    """What a goal gives: what it prints, or the folder of a stage.

    Raises ConfigError: `goal` is a part of others that has no result of its own.
    """
    if not isinstance(goal, Page):
        if not isinstance(goal, Stage):
            raise ConfigError(f"{type(goal).__name__} is a part of other goals and has no result")
        return str(store.get(goal))
    if ranks.launched() and isinstance(goal, Stage):
        store.get(goal)  # all make it together; rank 0 alone says what came of it
    if not ranks.leads():
        return ""
    with ranks.sharing(False):
        return goal.make(store)


@hydra.main(version_base="1.3", config_path=folder(), config_name="config")
def run(cfg: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    warn_of_demo_values(hydra_config.runtime.choices)
    if not ranks.leads():
        logging.getLogger("xmas").setLevel(logging.ERROR)  # what rank 0 says is enough
    try:
        made = make(build(goal_node(cfg)), build(cfg.store))
        if ranks.leads():
            print(made)
    except (ValueError, OSError, MemoryError) as error:
        if hydra_config.mode == RunMode.MULTIRUN:
            raise  # the other jobs go on, Hydra reports this one
        log.debug("", exc_info=True)
        sys.exit(f"xmas: {error}")


def main() -> None:
    try:
        check_choices(sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"xmas: {error}")
    run()


if __name__ == "__main__":
    main()
