"""Statistics of attention spectra: quantiles, and the variance that text length explains."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from xmas.store.variance_explained import explained

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def statistics(
    values: Float[np.ndarray, "rows k"], lengths: Int[np.ndarray, " rows"]
) -> dict[str, Any]:
    """Statistics of one snapshot, of every singular value (`sigma1`, ...) and of their `sum`.

    Args:
        values: singular values; rows with NaN are left out.
        lengths: the number of tokens following the image.

    Returns:
        `rows`, their number; `quantiles` by name and `QUANTILES`; `r2_length`, the fraction of the
        variance that text length explains (see `explained`), None where it is undefined.
    """
    has_values = ~np.isnan(values).any(axis=1)
    wide, lengths = values[has_values].astype(np.float64), lengths[has_values]
    if not len(wide):
        return {"rows": 0}
    columns = {f"sigma{number + 1}": wide[:, number] for number in range(wide.shape[1])}
    columns["sum"] = wide.sum(axis=1)
    return {
        "rows": len(wide),
        "quantiles": {
            name: dict(
                zip(map(str, QUANTILES), np.quantile(sigma, QUANTILES).tolist(), strict=True)
            )
            for name, sigma in columns.items()
        },
        "r2_length": {name: explained(sigma, lengths) for name, sigma in columns.items()},
    }


def flat(nested: dict[str, Any]) -> dict[str, float]:
    """The result of `statistics` as one level of names for a logger: `sum/0.5`, `sum/r2_length`.

    None becomes NaN.
    """
    line = {"rows": float(nested["rows"])}
    for name, quantiles in nested.get("quantiles", {}).items():
        line |= {f"{name}/{quantile}": value for quantile, value in quantiles.items()}
        share = nested["r2_length"][name]
        line[f"{name}/r2_length"] = float("nan") if share is None else share
    return line
