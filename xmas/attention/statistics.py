"""What the spectra of a pool look like: their quantiles, and how much of them is text length."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from xmas.store.variance_explained import explained

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def statistics(
    values: Float[np.ndarray, "rows k"], lengths: Int[np.ndarray, " rows"]
) -> dict[str, Any]:
    """Of one snapshot: quantiles of every singular value and of their sum, and the share of the
    variance of each that text length explains (`explained`), null where that cannot be said.

    `lengths` are tokens behind the image. Rows without a value (NaN) are left out.
    """
    held = ~np.isnan(values).any(axis=1)
    wide, lengths = values[held].astype(np.float64), lengths[held]
    if not len(wide):
        return {"rows": 0}
    named = {f"sigma{number + 1}": wide[:, number] for number in range(wide.shape[1])}
    named["sum"] = wide.sum(axis=1)
    return {
        "rows": len(wide),
        "quantiles": {
            name: dict(zip(map(str, QUANTILES), np.quantile(one, QUANTILES).tolist(), strict=True))
            for name, one in named.items()
        },
        "r2_length": {name: explained(one, lengths) for name, one in named.items()},
    }


def flat(found: dict[str, Any]) -> dict[str, float]:
    """One line of numbers for a logger or a table: `sum/0.5`, `sum/r2_length`, …; NaN for null."""
    line = {"rows": float(found["rows"])}
    for name, quantiles in found.get("quantiles", {}).items():
        line |= {f"{name}/{quantile}": value for quantile, value in quantiles.items()}
        share = found["r2_length"][name]
        line[f"{name}/r2_length"] = float("nan") if share is None else share
    return line
