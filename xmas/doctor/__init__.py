"""The doctor: finds what is wrong or missing before hours are spent.

Every check gives one line, OK, WARN or FAIL; a FAIL says what to do next. Nothing is generated or
downloaded: results of stages are checked only if they exist.
"""

import dataclasses
from typing import Any

from xmas.data.pool import Pool
from xmas.evaluation.protocol import Benchmark
from xmas.store import Stage, Store, versions

IMAGES = ("decode", "exists")


class DoctorError(ValueError):
    """A check failed; the message is the whole report."""


@dataclasses.dataclass(frozen=True)
class Doctor:
    """What `goal=doctor` makes: a report. Not a stage, since files may change between two runs.

    Args:
        pool: whose annotations and images are checked.
        suite: benchmarks by name, whose files are checked.
        start: the start point of proxy and target, whose published models are checked.
        hardware: whose devices and workers this host has to have.
        images: `decode` decodes every image of the pool; `exists` only checks that files exist.
        sha256: expected hashes of benchmark files, by name in the suite and field.
        known: faults of the pool's images that its owners or users know of, by source.
        write: a folder for a pool of the rows without a fault, and the list of the others; None:
            nothing is written.
    """

    pool: Pool
    suite: dict[str, Benchmark]
    start: Stage | None = None
    hardware: Any = None  # a Hardware
    images: str = "decode"
    sha256: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    known: dict[str, str] = dataclasses.field(default_factory=dict)
    write: str | None = None

    def make(self, store: Store) -> str:
        """The report. Raises DoctorError, which is the report, if a check failed."""
        from xmas.doctor.benchmarks import check_benchmark
        from xmas.doctor.files import check_pool
        from xmas.doctor.machine import (
            check_devices,
            check_disk,
            check_packages,
            check_shared_memory,
        )
        from xmas.doctor.models import check_models
        from xmas.training.fit.recipe import Hardware

        if self.images not in IMAGES:
            raise ValueError(f"doctor.images={self.images!r}: expected {' or '.join(IMAGES)}")
        decode = self.images == "decode"
        findings = [
            *check_pool(self.pool, store, decode=decode, known=self.known, write=self.write)
        ]
        if unknown := sorted(set(self.sha256) - set(self.suite)):
            raise ValueError(f"doctor.sha256.{unknown[0]}: the suite has no such benchmark")
        for name, benchmark in self.suite.items():
            findings += check_benchmark(name, benchmark, store, self.sha256.get(name, {}))
        findings += check_models(self.start)
        hardware = self.hardware or Hardware()
        findings += [*check_packages(versions()), *check_devices(hardware)]
        findings += [*check_shared_memory(hardware), *check_disk(store)]
        report = "\n".join(map(str, findings))
        failed = sum(finding.level == "FAIL" for finding in findings)
        if failed:
            raise DoctorError(f"{failed} of {len(findings)} checks failed\n\n{report}")
        return report
