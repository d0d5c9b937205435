"""The files that describe a subset: a table of the whole ranking, and a manifest of its origin."""

import hashlib
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from xmas.data.rows import Rows
from xmas.selection.arrow_arrays import of_flags, of_numbers, of_texts
from xmas.selection.protocol import Ranked
from xmas.selection.small_models import REMARK, small_models
from xmas.store import Stage, commit, describe, versions

log = logging.getLogger(__name__)


def write_ranking(
    examples: Rows, chosen: Int[np.ndarray, " chosen"], ranked: Ranked | None, path: Path
) -> None:
    """Write all rows of the pool as Parquet: row, source, has_image, chosen, rank, score, cluster.

    `rank` counts from 0, the best; a value that the method does not give is null. Without pyarrow
    nothing is written and the log says so: the same arrays are in the ranking's folder.

    Args:
        chosen: the rows of the subset.
        ranked: None for a selector that gives no ranking.
    """
    if importlib.util.find_spec("pyarrow") is None:
        log.info("pyarrow is not installed: no %s (pip install 'xmas[parquet]')", path.name)
        return
    import pyarrow  # pyright: ignore[reportMissingImports]  # an extra
    import pyarrow.parquet  # pyright: ignore[reportMissingImports]

    count = len(examples)
    is_chosen = np.zeros(count, dtype=bool)
    is_chosen[chosen] = True
    columns: dict[str, Any] = {
        "row": of_numbers(np.arange(count)),
        "source": pyarrow.DictionaryArray.from_arrays(
            of_numbers(examples.index.source.astype(np.int32)),
            of_texts(list(examples.index.source_names)),
        ),
        "has_image": of_flags(examples.has_image),
        "chosen": of_flags(is_chosen),
    }
    if ranked is None:
        columns["rank"] = pyarrow.nulls(count, pyarrow.int64())
        columns["score"] = pyarrow.nulls(count, pyarrow.float32())
        columns["cluster"] = pyarrow.nulls(count, pyarrow.int64())
    else:
        rank = np.empty(count, dtype=np.int64)
        rank[ranked.order] = np.arange(count)
        scores = ranked.scores.astype(np.float32)
        columns["rank"] = of_numbers(rank)
        columns["score"] = of_numbers(scores, ~np.isnan(scores))
        columns["cluster"] = of_numbers(ranked.clusters, ranked.clusters >= 0)
    table = pyarrow.Table.from_arrays([*columns.values()], names=[*columns])
    pyarrow.parquet.write_table(table, path)


def manifest(
    subset: Stage, examples: Rows, chosen: Int[np.ndarray, " chosen"], **facts: Any
) -> dict[str, Any]:
    """The manifest of a subset: counts by source, hashes of pool and rows, configuration, versions
    of the packages, commit, further `facts`, and which models are small ones.
    """
    config = describe(subset)
    if small := small_models(config):
        facts["small_models"] = dict.fromkeys(small, REMARK)
    counts = np.bincount(examples.index.source[chosen]).tolist()
    sources = {name: n for name, n in zip(examples.index.source_names, counts, strict=False) if n}
    rows_json = json.dumps(chosen.tolist())  # the content of rows.json
    return {
        "rows": len(chosen),
        "pool_rows": len(examples),
        "sha256_of_pool": examples.identity(),
        "sha256_of_rows": hashlib.sha256(rows_json.encode()).hexdigest(),
        "text_only": int((~examples.has_image[chosen]).sum()),
        "sources": dict(sorted(sources.items())),
        **facts,
        "versions": versions(),
        "commit": commit(),
        "config": config,
    }
