"""One job of a multirun: its configuration, where its log is, what came of it."""

import contextlib
import dataclasses
import hashlib
import logging
import pickle
import re
import tempfile
import textwrap
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hydra import version
from hydra.core.utils import JobRuntime, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from xmas.cli.sweep.torchrun import run_on_all, wanted
from xmas.store import distributed
from xmas.store.printable import Formatter
from xmas.store.writable import is_writable

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Job:
    """A job of a sweep; it can be sent to another process or host."""

    number: int
    overrides: tuple[str, ...]  # of the command line, one value each
    config: bytes  # composed and pickled: a tenth of the memory of the object
    log: str

    def __str__(self) -> str:
        return f"#{self.number} {' '.join(self.overrides)}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a job ended; `error` is one line, the traceback is in the log."""

    job: Job
    seconds: float
    error: str | None = None


def compose(
    context: HydraContext, config: DictConfig, overrides: Sequence[str], *, number: int
) -> Job:
    """Compose the configuration of a job. Raises Hydra's errors where it cannot be."""
    job_config = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(job_config):
        job_config.hydra.job.id = f"{job_config.hydra.job.name}_{number}"
        job_config.hydra.job.num = number
    job_overrides = tuple(
        override for override in overrides if not override.lstrip("+~").startswith("hydra")
    )
    return Job(
        number,
        job_overrides,
        pickle.dumps(job_config),
        str(log_folder(job_config.store.root) / log_name(job_overrides)),
    )


def log_folder(root: str) -> Path:
    """`logs/` of the store, or a folder for temporary files where the store is read-only."""
    folder = Path(root) / "logs"
    return folder if is_writable(folder) else Path(tempfile.gettempdir()) / "xmas-logs"


def log_name(overrides: Sequence[str]) -> str:
    """The name of a log: the job's overrides and a hash of them, so a repetition has the same."""
    readable = re.sub(r"[^\w.=,-]+", "_", ",".join(overrides))[:120]
    return f"{readable}-{hashlib.sha256(' '.join(overrides).encode()).hexdigest()[:6]}.log"


def run(job: Job, context: HydraContext) -> Outcome:
    """Run the job. An error that it raises goes into its log and its outcome."""
    return _run(job, pickle.loads(job.config), context, _also_into(job.log))


def run_elsewhere(job: Job, context: HydraContext) -> Outcome:
    """Run the job in a process where Hydra is not initialised and all output goes to the log."""
    config: DictConfig = pickle.loads(job.config)
    version.setbase(config.hydra.runtime.version_base)
    JobRuntime.instance().set("name", "xmas")
    return _run(job, config, context, contextlib.nullcontext())


def _run(
    job: Job, config: DictConfig, context: HydraContext, logged: AbstractContextManager[None]
) -> Outcome:
    from xmas.cli.command import run as command

    setup_globals()
    configure_log(config.hydra.job_logging, config.hydra.verbose)
    start = time.monotonic()
    with logged:
        log.info("job %s", job)
        hardware = config.get("hardware")
        if not distributed.launched() and wanted(hardware):
            error = run_on_all(hardware, config, job.overrides, job.log)
        else:
            job_return = run_job(
                task_function=command.__wrapped__,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key=None,
                hydra_context=context,
                configure_logging=False,
            )
            error = (
                _raised(job_return._return_value) if job_return.status == JobStatus.FAILED else None
            )
    return Outcome(job, time.monotonic() - start, error)


def _raised(error: Any) -> str:
    """An error in one line, shortened if it is long; the traceback goes into the log."""
    _file.error("%s", "".join(traceback.format_exception(error)))
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …")


_file = logging.getLogger("xmas.cli.sweep.traceback")


@contextlib.contextmanager
def _also_into(path: str) -> Iterator[None]:
    """Log into a file as well; tracebacks go only there."""
    if not distributed.leads():
        yield
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(Formatter("%(asctime)s %(message)s"))
    root.addHandler(handler)
    _file.addHandler(handler)
    _file.propagate = False
    try:
        yield
    finally:
        root.removeHandler(handler)
        _file.removeHandler(handler)
        _file.propagate = True
        handler.close()
