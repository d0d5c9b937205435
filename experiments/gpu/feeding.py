"""Parts around the models: pictures into batches, and clusters by FAISS and on the card."""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from parts import Figures, Part, Setting, check, neighbours

from xmas.features.clustering.spherical import Assigner, spherical_kmeans
from xmas.models.chat.batches import Loader

neighbours("extraction", "training")

import engine  # noqa: E402
import throughput  # noqa: E402


def pictures(setting: Setting) -> Figures:
    """JPEG files of a photograph's size decoded, resized and batched: images a second by workers,
    and their values are those of one process.
    """
    size = engine.sizes("tiny" if setting.tiny else "small")
    count = 8 if setting.tiny else 512
    table = throughput.Drawn(count, 500, images=1.0)
    photos = engine.Photos(np.arange(count), size, np.random.default_rng(0))
    batches = [np.arange(start, min(start + 16, count)) for start in range(0, count, 16)]
    rows, sums = [], {}
    for workers in (0, 2) if setting.tiny else (0, 4, 8, 16):
        loader = Loader(table, batches, image_token=499, pad=0, pictures=photos, workers=workers)  # type: ignore[arg-type]
        start_time = time.perf_counter()
        total = 0.0
        for batch in loader:
            pixels = batch.to(setting.device).pictures["pixels"]
            total += float(pixels.double().sum()) if setting.tiny else 0.0
        rows.append({"workers": workers, "images/s": count / (time.perf_counter() - start_time)})
        sums[workers] = total
    check(len(set(sums.values())) == 1, f"pixels depend on the number of workers: {sums}")
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        start_time = time.perf_counter()
        list(threads.map(photos, [[row] for row in range(count)]))
        rate = count / (time.perf_counter() - start_time)
    return {"cores": os.cpu_count(), "images/s by threads": rate, "by processes": rows}


def faiss_clusters(setting: Setting) -> Figures:
    """k-means of trajectories at the size of LLaVA-665k, on a GPU if FAISS has one."""
    import faiss

    from xmas.features.clustering.kmeans import kmeans

    rows, k = (300, 5) if setting.tiny else (624_610, 1000)
    rng = np.random.default_rng(0)
    centres = rng.uniform(10, 150, (k, 7)).astype(np.float32)
    points = centres[rng.integers(0, k, rows)] + rng.normal(0, 1, (rows, 7)).astype(np.float32)
    start_time = time.perf_counter()
    labels = kmeans(points, k, seed=1234, iterations=20, per_centroid=None)
    seconds = time.perf_counter() - start_time
    inside = sum(float(points[labels == label].var(axis=0).sum()) for label in range(min(k, 50)))
    overall = float(points.var(axis=0).sum()) * min(k, 50)
    check(inside < 0.1 * overall, f"clusters explain {1 - inside / overall:.2f} of the variance")
    return {
        "FAISS": faiss.__version__, "GPUs that FAISS sees": faiss.get_num_gpus(),
        "seconds": seconds, "clusters": len(np.unique(labels)),
    }  # fmt: skip


def spherical_clusters(setting: Setting) -> Figures:
    """COINCIDE's k-means over 20,480 numbers a row; labels are the nearest by NumPy's products."""
    rows, width, k = (120, 16, 5) if setting.tiny else (40_000, 20_480, 1000)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((rows, width), dtype=np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "values.npy", values.astype(np.float16))
        mapped = np.load(Path(folder) / "values.npy", mmap_mode="r")
        assign = Assigner(mapped, 4096, setting.device)
        start_time = time.perf_counter()
        centroids = spherical_kmeans(assign, np.arange(rows), k, seed=0, iterations=3)
        seconds = time.perf_counter() - start_time
    lengths = np.linalg.norm(centroids, axis=1)
    check(bool(np.allclose(lengths, 1, atol=1e-3)), "centroids are not of length one")
    return {"rows an iteration and second": 3 * rows / seconds, "clusters": len(centroids)}


PARTS = [
    Part("pictures: from JPEG files to the card", pictures),
    Part("clusters: FAISS", faiss_clusters, needs=("faiss",)),
    Part("clusters: spherical k-means on the card", spherical_clusters),
]
