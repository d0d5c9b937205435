"""LLaVA's pretrained projector: `mm_projector.bin`, the file that its first stage writes."""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from xmas.store import write_atomically

NAMES = ("mm_projector.bin", "mm_projector.safetensors")  # in a folder
_KEY = re.compile(r"(?:.*\.)?mm_projector\.(.+)")
_PLACES = {"0": "linear_1", "2": "linear_2"}  # of LLaVA's `mlp2x_gelu`; 1 is the GELU


def projector_file(path: Path) -> Path:
    """The file itself, or the one in a folder. Raises FileNotFoundError: the folder has none."""
    if path.is_file():
        return path
    for name in NAMES:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"{path} has no {' or '.join(NAMES)}; give the file, or its folder")


def fill_projector(projector: nn.Module, file: Path) -> None:
    """Load a file into a `multi_modal_projector`; any prefix before `mm_projector.` is dropped.

    Raises ValueError: the file is no projector of two layers, or belongs to another language model
    or tower.
    """
    expected_shapes = {name: tuple(weight.shape) for name, weight in projector.named_parameters()}
    weights = _renamed(file)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    if shapes != expected_shapes:
        raise ValueError(
            f"{file}: its projector is {shapes}, this language model and tower need "
            f"{expected_shapes}; a projector fits only the models it was trained between"
        )
    projector.load_state_dict(weights)


def save_projector(projector: nn.Module, file: Path) -> None:
    """Write a `multi_modal_projector` under LLaVA's names, as safetensors."""
    from safetensors.torch import save_file

    numbers = {layer: number for number, layer in _PLACES.items()}
    weights = {}
    for name, weight in projector.named_parameters():
        layer, _, rest = name.partition(".")
        weights[f"model.mm_projector.{numbers[layer]}.{rest}"] = weight.detach().cpu().contiguous()
    write_atomically(file, lambda path: save_file(weights, path))


def _renamed(file: Path) -> dict[str, Tensor]:
    tensors = _read(file)
    weights = {}
    for name, tensor in tensors.items():
        if match := _KEY.fullmatch(name):
            number, dot, rest = match[1].partition(".")
            weights[_PLACES.get(number, number) + dot + rest] = tensor
    if not weights:
        raise ValueError(f"{file}: no name has `mm_projector.` in it, but {sorted(tensors)[:3]}")
    return weights


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)
