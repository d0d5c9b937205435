"""LLaVA's pretrained projector: `mm_projector.bin`, the file that its first stage leaves."""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from xmas.store import write_atomically

NAMES = ("mm_projector.bin", "mm_projector.safetensors")  # in a folder
_KEY = re.compile(r"(?:.*\.)?mm_projector\.(.+)")
_PLACES = {"0": "linear_1", "2": "linear_2"}  # of LLaVA's `mlp2x_gelu`; 1 is the GELU


def projector_file(place: Path) -> Path:
    """The file itself, or the one in a folder. Raises FileNotFoundError: the folder has none."""
    if place.is_file():
        return place
    for name in NAMES:
        if (place / name).is_file():
            return place / name
    raise FileNotFoundError(f"{place} has no {' or '.join(NAMES)}; give the file, or its folder")


def fill_projector(projector: nn.Module, file: Path) -> None:
    """Put a file's numbers into a `multi_modal_projector`, whatever prefix its names have.

    Raises ValueError: the file is no projector of two layers, or belongs to another language model
    or tower.
    """
    wanted = {name: tuple(one.shape) for name, one in projector.named_parameters()}
    found = _renamed(file)
    shapes = {name: tuple(one.shape) for name, one in found.items()}
    if shapes != wanted:
        raise ValueError(
            f"{file}: its projector is {shapes}, this language model and tower want {wanted}; "
            "a projector fits only the models it was trained between"
        )
    projector.load_state_dict(found)


def save_projector(projector: nn.Module, file: Path) -> None:
    """Write a `multi_modal_projector` under LLaVA's names, as safetensors."""
    from safetensors.torch import save_file

    back = {ours: number for number, ours in _PLACES.items()}
    held = {}
    for name, one in projector.named_parameters():
        layer, _, rest = name.partition(".")
        held[f"model.mm_projector.{back[layer]}.{rest}"] = one.detach().cpu().contiguous()
    write_atomically(file, lambda path: save_file(held, path))


def _renamed(file: Path) -> dict[str, Tensor]:
    held = _read(file)
    found = {}
    for name, tensor in held.items():
        if match := _KEY.fullmatch(name):
            number, dot, rest = match[1].partition(".")
            found[_PLACES.get(number, number) + dot + rest] = tensor
    if not found:
        raise ValueError(f"{file}: no name has `mm_projector.` in it, but {sorted(held)[:3]}")
    return found


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)
