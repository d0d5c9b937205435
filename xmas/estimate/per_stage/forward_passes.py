"""What passes over data without training cost: tower features, attention."""

import numpy as np

from xmas.estimate import flops, memory
from xmas.estimate.assumed import Census
from xmas.estimate.flops import Load
from xmas.estimate.per_stage.fits import bits, snapshots
from xmas.estimate.work import Context, Work, work
from xmas.features.trajectories import Trajectories
from xmas.models.shape import Shape, shape_of
from xmas.models.vision_cache import VisionFeatures

_DESCRIBED = 3000  # bytes of statistics of a snapshot, measured
_SHARED_FROM = 0.05  # of a scan's tokens; the engine shares prefixes where that saves as much


@work.register
def _(stage: VisionFeatures, context: Context) -> Work:
    census = context.census(stage.pool)
    shape = shape_of(stage.start)
    numbers = shape.tiles * shape.tower.patches * shape.tower.width
    precision = bits(stage.precision)
    features = precision / 8 * numbers * census.images
    return Work(
        f"tower features of {census.images:,} images of {census.name}",
        flops=flops.tower(shape.tower, census.images * shape.tiles),
        core_seconds=census.images * census.decode,
        bits=precision,
        readers=1 if stage.accelerator == "cpu" else stage.threads,
        disk=features,
        scratch=features,
        host=4.0 * shape.parameters,
        device=precision / 8 * (shape.parameters + stage.batch * 3 * numbers),
    )


@work.register
def _(stage: Trajectories, context: Context) -> Work:
    """One pass over all saved snapshots, or scans during the fit of a proxy yet to be fitted."""
    proxy, tokens = stage.proxy, stage.proxy.tokens()
    census, shape = context.census(tokens), shape_of(proxy.start)
    steps = snapshots(proxy, census.rows)
    load, text = scan_load(census, shape, proxy.max_length)
    per_image = census.pictured / max(1, census.images)
    shared = load.sharing(shape.image_tokens, max(1.0, per_image))
    images = census.images  # for which pixels are read, and the connector runs
    how = shape.path
    if shape.whole:
        images = census.pictured
    elif load.tokens - shared.tokens >= _SHARED_FROM * load.tokens:
        load, how = shared, f", prefixes shared by {per_image:.2f} rows an image"
    passes = 1 if context.made(proxy) else steps
    towers = 0 if proxy.cache_vision else (steps if shape.whole else passes) * images
    decoded = 0.0 if proxy.cache_vision else passes * images * census.decode
    metric = census.scale * flops.spectra(text, shape.image_tokens)
    longest = int(census.lengths(shape.image_tokens, proxy.max_length).max())
    on_cpu = proxy.hardware.accelerator == "cpu"
    batch = stage.spectra.tokens_of_batch("cpu" if on_cpu else "cuda")
    precision = bits(stage.weights)
    return Work(
        f"attention of {census.pictured:,.0f} rows at {steps} snapshots{how}",
        flops=flops.tower(shape.tower, towers * shape.tiles)
        + steps
        * (
            flops.scan(shape.decoder, load)
            + flops.projector(shape, min(images, load.images))
            + metric
        ),
        bits=precision,
        core_seconds=decoded,
        readers=max(1, proxy.hardware.workers),
        disk=(4.0 * steps * stage.spectra.k + 1) * census.rows + _DESCRIBED * steps,
        scratch=4.0 * census.rows * steps * stage.spectra.k,
        host=4.0 * shape.parameters,
        device=memory.of_scan(
            shape,
            tokens=max(batch, longest),
            text=max(1, batch // longest) * (longest - shape.image_tokens),
            bits=precision,
        ),
    )


def scan_load(census: Census, shape: Shape, longest: int) -> tuple[Load, np.ndarray]:
    """The input of one scan, and the text tokens of every sampled row.

    Rows are in order of length, so padding is small and left out; all text counts as following the
    image, which is slightly too much.
    """
    lengths = census.lengths(shape.image_tokens, longest)[census.has_image].astype(float)
    text = lengths - shape.image_tokens
    load = Load(
        rows=len(lengths),
        tokens=float(lengths.sum()),
        squares=float((lengths**2).sum()),
        images=len(lengths),
        cross=float((text * lengths).sum()),
    )
    return load.times(census.scale), text
