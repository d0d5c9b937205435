"""The command `xmas`: compose a configuration, build its goal, make it."""

import contextlib
import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig

from xmas.cli import garbage, threads, time_left
from xmas.cli import help as help_page
from xmas.cli.arguments import prepared
from xmas.cli.closing import sentence
from xmas.cli.config import (
    ConfigError,
    build,
    check_choices,
    check_kinds,
    folder,
    goal_node,
    warn_of_demo_values,
)
from xmas.cli.cpu_check import check_cpu
from xmas.cli.hydra_guard import guard
from xmas.cli.implied_choices import with_implied
from xmas.cli.memory_check import check_memory
from xmas.cli.targets import allowed_by_user
from xmas.cli.unknown_settings import check_added, composed_choices, explained
from xmas.cli.validation_audit import audit_what_saw_validation
from xmas.cli.weights_check import check_weights
from xmas.results.score_records import remember
from xmas.store import RunLogger, Stage, Store, distributed, key
from xmas.store.feasible import check_all
from xmas.store.force import kinds_of, start_command
from xmas.store.planned_stages import planned_stages
from xmas.store.printable import printable
from xmas.store.provenance import note_command

if TYPE_CHECKING:
    from xmas.evaluation.scores import Scores

log = logging.getLogger("xmas")

NOT_FOR_USERS = (  # warnings of libraries on which a user cannot act
    "`is_gradient_checkpointing` is deprecated",  # peft 0.21 asks transformers 5.23 for it
    "Palette images with Transparency",  # Pillow, of LLaVA's conversion to RGB; doctor says it
)


OF_EXTRAS = {  # packages of the extras cpu and gpu, which what runs no model does without
    *("torch", "transformers", "tokenizers", "sentencepiece", "peft", "accelerate"),
    *("safetensors", "lightning", "faiss"),
}


@runtime_checkable
class Page(Protocol):
    """A goal whose result is text: table, report, results, verify, clean, doctor, rescore."""

    def make(self, store: Store) -> str:
        """Do the work, and return the text that the command prints."""
        ...


@runtime_checkable
class Written(Page, Protocol):
    """A page that also writes files: table, report."""

    def files(self, store: Store) -> list[Path]:
        """The files that `make` writes."""
        ...


def make(goal: object, store: Store) -> str:
    """Make a goal; the text of a page, or the folder of a stage's result.

    Raises ConfigError: `goal` is neither, but a part of other goals.
    """
    if isinstance(goal, Page):
        if isinstance(goal, Stage):
            store.get(goal)  # where fits are shared by all ranks; rank 0 alone prints the text
        if not distributed.leads():
            return ""
        with distributed.sharing(False):
            return goal.make(store)
    if not isinstance(goal, Stage):
        raise ConfigError(f"{type(goal).__name__} is a part of other goals and has no result")
    return str(store.get(goal))


def renew(goal: object, store: Store) -> None:
    """Compute anew what `force=` names among the results that a goal needs, its own included.

    A result that is there asks for nothing it was made from, so this goes through all of them.
    Raises ConfigError: the goal needs no result of that kind.
    """
    kinds = kinds_of(store.force)
    if not kinds:
        return
    stages = planned_stages(goal) if isinstance(goal, Stage) else []
    check_kinds(kinds, {stage.kind for stage in stages}, store, of=type(goal).__name__.lower())
    renewed = [stage for stage in stages if stage.kind in kinds and store.path(stage).exists()]
    distributed.barrier()  # all ranks have the list before rank 0 replaces the first result
    for stage in renewed:
        store.get(stage)


def note(goal: object, store: Store, experiment: str | None) -> None:
    """Note which scores an experiment requests, for `goal=table table.experiment=NAME`."""
    if experiment and isinstance(goal, Stage) and goal.kind == "scores":
        remember(store, experiment, [key(part) for part in cast("Scores", goal).parts()])


def run_logger_of(
    cfg: DictConfig, experiment: str | None, allowed: frozenset[str]
) -> RunLogger | None:
    """The logger that `logger=` configures; its group is the experiment's name by default."""
    if cfg.logger is None or not distributed.leads():
        return None
    run_logger = build(cfg.logger, allowed)
    return dataclasses.replace(run_logger, group=run_logger.group or experiment)


@contextlib.contextmanager
def logged(goal: object, store: Store, run_logger: RunLogger | None) -> Iterator[Store]:
    """The store with a logger, which in the end has all results of the goal, failed or not."""
    if run_logger is None:
        yield store
        return
    try:
        yield dataclasses.replace(store, run_logger=run_logger)
        if isinstance(goal, Written):
            run_logger.enter_page(type(goal).__name__.lower(), goal.files(store))
    finally:
        run_logger.close()
        if isinstance(goal, Stage):
            run_logger.enter_all(goal, store)


@hydra.main(version_base="1.3", config_path=folder(), config_name="config")
def run(cfg: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    threads.log_once()
    warn_of_demo_values(hydra_config.runtime.choices)
    if not distributed.leads():
        logging.getLogger("xmas").setLevel(logging.ERROR)  # rank 0 logs for all
    try:
        allowed = allowed_by_user(cfg.allow, hydra_config.overrides.task)
        goal, store = build(goal_node(cfg), allowed), build(cfg.store, allowed)
        experiment = hydra_config.runtime.choices.get("experiment")
        if distributed.leads():
            note(goal, store, experiment)
        if isinstance(goal, Stage):
            check_all(goal, store)
            check_weights(goal, store, cfg, allowed)
            check_memory(goal, store, cfg, allowed)
            check_cpu(goal, store, cfg, allowed)
        time_left.follow(goal, store, cfg, allowed)
        garbage.resume()
        with logged(goal, store, run_logger_of(cfg, experiment, allowed)) as logged_store:
            renew(goal, logged_store)
            text = make(goal, logged_store)
        if isinstance(goal, Stage) and distributed.leads():
            from xmas.data.images.seen import warn_of_changes  # not for --help and tables

            warn_of_changes(goal, store)
            with distributed.sharing(False):
                audit_what_saw_validation(goal, store, cfg, allowed)
        if distributed.leads():
            if summary := sentence(goal, store):
                log.info("%s", summary)
            print(printable(text))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in OF_EXTRAS:
            raise
        sys.exit(
            f"xmas: this needs {error.name}, which is not installed: pip install 'xmas[cpu]', or "
            "'xmas[gpu]' on a host with NVIDIA GPUs"
        )
    except (ValueError, OSError, MemoryError) as error:
        if hydra_config.mode == RunMode.MULTIRUN:
            raise  # the other jobs continue; the summary of the sweep names this one
        log.debug("", exc_info=True)
        sys.exit(printable(f"xmas: {error}"))


def run_once(overrides: list[str]) -> None:
    """Run without Hydra's flags: `run` composes a second configuration only to know its mode."""
    with hydra.initialize_config_dir(folder(), job_name="xmas", version_base="1.3"):
        cast("Any", GlobalHydra.instance().hydra).run("config", run.__wrapped__, overrides)


def main() -> None:
    """The entry point; threads are set up before anything imports torch."""
    start_command()
    note_command(sys.argv[1:])
    threads.share_cores()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and the one line on stderr is ours
    guard()
    for message in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message)
    arguments = sys.argv[1:]
    try:
        if help_page.wanted(arguments):
            print(help_page.page(arguments))
            return
        arguments = sys.argv[1:] = with_implied(prepared(arguments))
        check_choices(arguments)
        check_added(arguments)
        if any(argument.startswith("-") or "hydra.mode" in argument for argument in arguments):
            run()
        else:
            run_once(arguments)
    except ConfigError as error:
        sys.exit(printable(f"xmas: {error}"))
    except ConfigCompositionException as error:
        sys.exit(f"xmas: {explained(str(error), arguments, composed_choices(arguments))}")
    except CompactHydraException as error:  # also the summary of a multirun
        sys.exit(printable(str(error)))
