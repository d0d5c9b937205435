"""Plain files: a folder a run with `metrics.csv`, `hparams.yaml` and `summary.json`."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import cast

from lightning.pytorch.loggers import CSVLogger, Logger

from xmas.results.logger import RunLogger
from xmas.results.logger.entry import Entry


@dataclasses.dataclass(frozen=True)
class Csv(RunLogger):
    """Under `csv/<group>/<kind>-<key>/` of the folder."""

    def begin(self, kind: str, key: str) -> Logger:
        folder = Path(self.folder) / self.where / f"{kind}-{key}"
        shutil.rmtree(folder, ignore_errors=True)
        return CSVLogger(self.folder, name=self.where, version=folder.name)

    def end(self, logger: Logger, entry: Entry) -> None:
        logger.log_hyperparams(entry.config)
        logger.save()
        logger.finalize("success")
        content = {
            "name": entry.name,
            "summary": entry.summary,
            "missing": entry.missing,
            "files": [*map(str, entry.files)],
        }
        folder = Path(cast("CSVLogger", logger).log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
