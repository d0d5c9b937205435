"""Which of the models that an endpoint serves is the export of a target.

An endpoint says no more of a model than its name and, on vLLM and SGLang, the folder that it was
loaded from. A folder of the store has the key of its result, which names the weights.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

from xmas.evaluation.endpoint.responses import EndpointError
from xmas.evaluation.generation.endpoint_generation import EndpointGeneration
from xmas.store import Store, key
from xmas.target.export import Export
from xmas.target.target import Target

_KEY = re.compile(r"(?<![0-9a-f])[0-9a-f]{12}(?![0-9a-f])")
_SERVERS = ("vllm", "sglang")  # which say in `owned_by` what they are


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model of an endpoint: the name to ask for, and the export that it is."""

    name: str
    export: str  # key of the target's export
    found_by: str  # "key": its name or folder has the key; "name": the user's word


def served_model(generation: EndpointGeneration, target: Target, store: Store) -> ServedModel:
    """The model of the endpoint that is the target's export.

    Raises EndpointError: it is not served, or what is called so is another export or is served by
    another kind of server than `generation.name` says; the message says what to start.
    """
    export = Export(target, generation.precision)
    models = generation.endpoint.models(label=f"endpoint {generation.name}")
    if generation.model is not None:
        return _named(generation, generation.model, models, key(export), store)
    if models is None:
        raise EndpointError(
            f"{generation.endpoint.url}/models: there is no such list, so what is served is not "
            "known; set generation.model to the name under which the export is served"
        )
    for model in models:
        if key(export) in _keys(model):
            _check_server(generation, model)
            return ServedModel(model["id"], key(export), "key")
    others = "; ".join(map(_shown, models)) or "nothing"
    raise EndpointError(
        f"{generation.endpoint.url} serves {others}, not the export {key(export)} of target "
        f"{key(target)}: {_remedy(export, store)}, and run again. If it is that export under "
        "another name, set generation.model=NAME"
    )


def _named(
    generation: EndpointGeneration,
    name: str,
    models: list[dict[str, Any]] | None,
    export: str,
    store: Store,
) -> ServedModel:
    """The model that the user names, unless the endpoint says that it is another one."""
    if models is None:
        return ServedModel(name, export, "name")
    model = next((model for model in models if model["id"] == name), None)
    if model is None:
        others = ", ".join(str(model["id"]) for model in models) or "nothing"
        raise EndpointError(
            f"{generation.endpoint.url} serves {others}, not generation.model={name}; correct the "
            "name, or set it to null for the model that has the export's key"
        )
    keys = _keys(model)
    if export in keys:
        found_by = "key"
    elif others := [other for other in keys if (Path(store.root) / "export" / other).exists()]:
        raise EndpointError(
            f"{generation.endpoint.url}: {_shown(model)} is export {others[0]}, and this target's "
            f"is {export}: serve that one, or set generation.model=null to look for it"
        )
    else:
        found_by = "name"
    _check_server(generation, model)
    return ServedModel(name, export, found_by)


def _keys(model: dict[str, Any]) -> set[str]:
    """The keys in a model's name and folder, also where the folder is a link into the store."""
    places = [str(model[name]) for name in ("id", "root") if model.get(name)]
    places += [str(Path(place).resolve()) for place in places if Path(place).exists()]
    return {match for place in places for match in _KEY.findall(place)}


def _check_server(generation: EndpointGeneration, model: dict[str, Any]) -> None:
    """Raise EndpointError if the server says that it is of another kind than its name."""
    owner = str(model.get("owned_by")).lower()
    if owner in _SERVERS and owner not in generation.name.lower():
        raise EndpointError(
            f"{generation.endpoint.url} says that it is {owner}, and generation.name="
            f"{generation.name} is what scores are compared under; set generation.name={owner}"
        )


def _shown(model: dict[str, Any]) -> str:
    root = model.get("root")
    return str(model["id"]) + (f" (from {root})" if root and root != model["id"] else "")


def _remedy(export: Export, store: Store) -> str:
    folder = store.path(export)
    making = "" if folder.exists() else f"make it (goal=export export.dtype={export.dtype}), "
    return f"{making}serve it (vllm serve {folder})"
