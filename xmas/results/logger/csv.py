"""Plain files: a folder a run with `metrics.csv`, `hparams.yaml` and `summary.json`."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import cast

from lightning.pytorch.loggers import CSVLogger, Logger

from xmas.results.logger import Journal
from xmas.results.logger.entry import Entry


@dataclasses.dataclass(frozen=True)
class Csv(Journal):
    """Under `csv/<group>/<kind>-<key>/` of the folder."""

    def begin(self, kind: str, key: str) -> Logger:
        place = Path(self.folder) / self.where / f"{kind}-{key}"
        shutil.rmtree(place, ignore_errors=True)
        return CSVLogger(self.folder, name=self.where, version=place.name)

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
        place = Path(cast("CSVLogger", logger).log_dir)
        place.mkdir(parents=True, exist_ok=True)
        (place / "summary.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
