"""What is known of results that were made before `meta.json` recorded inputs.

Their inputs are taken from the stages nested in their configuration, and the seconds of attention
scans that a proxy's fit called, which were in the proxy's record, go to the trajectories. Results
made since say both themselves; nothing is ever added here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xmas.store.stage import digest

_NEVER_FITTED = {"Length": "proxy", "Subset": "counted", "Audit": "counted"}  # by type, a field


def nested_stages(config: Any) -> Iterator[dict[str, Any]]:
    """The nearest described stages in a value of a configuration: those that have a version."""
    if isinstance(config, dict):
        if "version" in config and "type" in config:
            yield config
        else:
            yield from stages_of_fields(config)
    elif isinstance(config, list):
        for element in config:
            yield from nested_stages(element)


def stages_of_fields(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nearest described stages in the fields of anything described, if they were computed.

    Of the fields `_NEVER_FITTED` only the tokens were read, and of a proxy at step 0 the start.
    """
    for name, value in config.items():
        if name == _NEVER_FITTED.get(str(config.get("type"))):
            continue
        start_alone = name == "proxy" and config.get("step") == 0
        yield from nested_stages(value["start"] if start_alone else value)


def move_scan_seconds(metas: dict[Path, dict[str, Any]]) -> None:
    """Move seconds of scans inside a fit from the proxy's record to the trajectories', in place.

    `scan_seconds.json` has them by step. Scans of saved steps are in the trajectories' own record
    already, which then has at least their sum: nothing is moved.

    Args:
        metas: the `meta.json` of every result, by its folder.
    """
    for folder, meta in metas.items():
        path = folder / "scan_seconds.json"
        if folder.parent.name != "trajectories" or "inputs" in meta or not path.exists():
            continue
        seconds = sum(json.loads(path.read_text()).values())
        if meta["seconds"] >= seconds:
            continue
        meta["seconds"] += seconds
        proxy = metas.get(folder.parent.with_name("proxy") / digest(meta["config"]["proxy"]))
        if proxy is not None and "inputs" not in proxy:
            proxy["seconds"] -= seconds
