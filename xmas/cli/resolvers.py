"""Functions that the YAML files call: `${NAME:ARGUMENTS}`, resolved where a value is read."""

import importlib.util
import json
from typing import Any

from omegaconf import OmegaConf

DEMO_POOLS = ("demo", "demo_unseen")
PINNED_CLIPS = {  # the hub's commits; the weights of a name alone can change
    "openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "openai/clip-vit-large-patch14-336": "ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
}


def default_experiment(pool: str) -> str:
    """The experiment of a pool for which the command names none: the demo's, or `own_pool`."""
    return "demo" if pool in DEMO_POOLS else "own_pool"


def clip_of(clip: str, small: Any) -> Any:
    """The node of the CLIP that `clip=` names: `small`, a folder, or NAME@COMMIT of the hub.

    Args:
        small: the node of the small CLIP that the start point trains on the pool; null: none is.
    """
    if clip == "small":
        return small
    name, _, revision = clip.partition("@")
    return OmegaConf.create(
        {
            "_target_": "xmas.features.clip.clip_model.PretrainedClip",
            "name": name,
            "revision": revision or PINNED_CLIPS.get(name),
        }
    )


def cluster_count(most: int, rows_each: int | None) -> Any:
    """`most` clusters; or the node of the rule that lowers it for a pool of few rows."""
    if rows_each is None:
        return most
    target = "xmas.features.clustering.cluster_count.ClusterCount"
    return OmegaConf.create({"_target_": target, "most": most, "rows_each": rows_each})


def unless_null(value: Any, node: Any) -> Any:
    """The node, built and imported only where the value is set."""
    return None if value is None else node


def own_keys(encoded: str) -> dict[str, Any]:
    """A mapping from JSON in hexadecimal digits after an x, see `arguments.whole`."""
    return json.loads(bytes.fromhex(encoded[1:]))


def with_torch(node: Any) -> Any:
    """The node, or null where torch is not installed: then nothing can be built of it."""
    return None if importlib.util.find_spec("torch") is None else node


def register() -> None:
    """Make these functions known to OmegaConf by their names."""
    resolvers = default_experiment, clip_of, cluster_count, unless_null, own_keys, with_torch
    for resolver in resolvers:
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
