"""Attention computed explicitly: the columns of the image, normalised over all keys.

Where the sums over all keys are known, the keys of the image alone are multiplied. The logits take
most of the memory: heads x text x keys numbers a row. They are computed, normalised, reduced and
freed in blocks, so that about three blocks are in memory at a time, independent of the batch, next
to the mask, rows x text x keys, and the output, rows x text x image.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

BLOCK_BYTES = {"cpu": 2 << 20, "cuda": 64 << 20}  # the size of a CPU's cache; enough for a GPU
HALVES = (torch.float16, torch.bfloat16)
_Block = tuple[slice, slice, slice]  # of rows, groups of heads, text


def image_shares(
    query: Float[Tensor, "rows heads text width"],
    key: Float[Tensor, "rows groups keys width"],
    bias: Float[Tensor, "#rows #heads text keys"],
    image: Int[Tensor, "rows image"],
    *,
    scale: float,
    softcap: float | None = None,
    dtype: torch.dtype = torch.float32,
    block_bytes: int | None = None,
    image_slice: slice | None = None,
) -> Float[Tensor, "rows text image"]:
    """The columns `image` of the mean over heads of softmax(cap(scale * q k^T) + bias).

    Head h uses the keys of group h // (heads / groups), without a copy of them.

    Args:
        bias: added to the logits; a mask as `added` gives it.
        image: positions of the columns among the keys.
        softcap: c of cap(x) = c * tanh(x / c); None: cap(x) = x.
        dtype: of products, softmax and sums, also inside an autocast region.
        block_bytes: of the logits computed at a time; None: by device, see `BLOCK_BYTES`. The
            result does not depend on it.
        image_slice: `image` as `consecutive` gives it, which is faster.
    """
    heads, text = query.shape[1:3]
    image_columns = torch.zeros(len(query), text, image.shape[1], dtype=dtype, device=query.device)
    with torch.autocast(query.device.type, enabled=False):
        blocks = _softmax(
            query, key, bias, scale=scale, softcap=softcap, dtype=dtype, block_bytes=block_bytes
        )
        for (row, _, place), shares in blocks:
            if image_slice is not None and image_slice.stop <= key.shape[2]:
                image_columns[row, place] += shares[..., image_slice].sum(dim=(1, 2))
            else:
                columns = image[row, None].expand(-1, shares.shape[3], -1)
                image_columns[row, place] += shares.sum(dim=(1, 2)).gather(2, columns)
    return image_columns / heads


def normalised_shares(
    query: Float[Tensor, "rows heads text width"],
    key: Float[Tensor, "rows groups image width"],
    logsumexp: Float[Tensor, "rows heads text 1"],
    *,
    scale: float,
    dtype: torch.dtype = torch.float32,
    block_bytes: int | None = None,
) -> Float[Tensor, "rows text image"]:
    """The mean over heads of exp(scale * q k^T - logsumexp), by powers of 2.

    It is what `image_shares` gives for these keys, if `logsumexp` is that of a line's logits with
    all keys. A key that a mask hides has a value as well, which may be infinite. torch's `exp2` is
    four times as fast as `exp` on a CPU.

    See `image_shares` for the other arguments.
    """
    rows, heads, text, _ = query.shape
    groups, columns = key.shape[1:3]
    grouped = query.unflatten(1, (groups, heads // groups))
    exponents = logsumexp.to(dtype) * -math.log2(math.e) - math.log2(heads)
    exponents = exponents.unflatten(1, (groups, heads // groups))
    shares = torch.zeros(rows, text, columns, dtype=dtype, device=query.device)
    line_bytes = heads // groups * columns * dtype.itemsize
    with torch.autocast(query.device.type, enabled=False):
        for row, group, place in _blocks(
            rows, groups, text, _room(query, block_bytes) // line_bytes
        ):
            products = _products(grouped[row, group, :, place], key[row, group], dtype)
            shift = exponents[row, group, :, place]
            torch.add(shift, products, alpha=scale * math.log2(math.e), out=products)
            shares[row, place] += products.exp2_().sum(dim=(1, 2))
    return shares


def capped_attention(
    query: Float[Tensor, "rows heads length width"],
    key: Float[Tensor, "rows groups keys width"],
    value: Float[Tensor, "rows groups keys out"],
    bias: Float[Tensor, "#rows #heads length keys"],
    *,
    scale: float,
    softcap: float,
) -> Float[Tensor, "rows length heads out"]:
    """Attention with capped logits, which torch's fused attention does not support.

    See `image_shares` for the arguments.
    """
    outputs = torch.empty(*query.shape[:3], value.shape[3], dtype=value.dtype, device=value.device)
    by_group = outputs.unflatten(1, (key.shape[1], -1))
    with torch.autocast(query.device.type, enabled=False):
        blocks = _softmax(query, key, bias, scale=scale, softcap=softcap, dtype=torch.float32)
        for (row, group, place), shares in blocks:
            by_group[row, group, :, place] = shares.to(value.dtype) @ value[row, group, None]
    return outputs.transpose(1, 2)


def consecutive(
    positions: Int[Tensor, "rows n"], mask: Bool[Tensor, "rows n"] | None
) -> slice | None:
    """The positions as a slice, if all rows have the same ones in a row, padding aside.

    None on a GPU: the host would wait to know, and a copy of the positions is cheap there.
    """
    if positions.device.type != "cpu" or not positions.numel():
        return None
    start = int(positions[0, 0])
    alike = positions == torch.arange(start, start + positions.shape[1])
    alike = alike if mask is None else alike | ~mask
    return slice(start, start + positions.shape[1]) if alike.all() else None


def at_positions(
    tensor: Shaped[Tensor, "#rows heads length width"],
    positions: Int[Tensor, "rows n"],
    place: slice | None,
) -> Shaped[Tensor, "_ heads n width"]:
    """The tensor at each row's positions; at `place`, without a copy, where it is known.

    Args:
        place: as `consecutive` gives it; the values of padding are those of other positions.
    """
    if place is not None and place.stop <= tensor.shape[2]:
        return tensor[:, :, place]
    _, heads, _, width = tensor.shape
    tensor = tensor.expand(len(positions), -1, -1, -1)
    return tensor.gather(2, positions[:, None, :, None].expand(-1, heads, -1, width))


def without_repeats(mask: Tensor) -> Tensor:
    """A mask that is expanded over the rows, as that of one: torch would copy it for each."""
    return mask if mask.stride(0) else mask[:1]


def added(allowed: Bool[Tensor, "..."] | Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A mask as numbers to add to logits: 0 where attention is allowed, else the lowest float32.

    Not minus infinity: a pad that a sliding window allows no key would become NaN. A mask that is
    not boolean is returned as it is.
    """
    if allowed.dtype != torch.bool:
        return allowed
    zeros = torch.zeros(allowed.shape, dtype=torch.float32, device=allowed.device)
    return zeros.masked_fill_(~allowed, torch.finfo(torch.float32).min)


def _softmax(
    query: Tensor,
    key: Tensor,
    bias: Tensor,
    *,
    scale: float,
    softcap: float | None,
    dtype: torch.dtype,
    block_bytes: int | None = None,
) -> Iterator[tuple[_Block, Float[Tensor, "rows groups heads text keys"]]]:
    """The softmax over all keys, block by block; `heads` are those of a group."""
    rows, heads, text, _ = query.shape
    groups, keys = key.shape[1:3]
    grouped = query.unflatten(1, (groups, heads // groups))
    bias = bias.to(dtype).expand(rows, -1, -1, -1)
    # one mask for all heads, or one for each
    bias = bias[:, None] if bias.shape[1] == 1 else bias.unflatten(1, (groups, heads // groups))
    line_bytes = heads // groups * keys * dtype.itemsize
    for row, group, place in _blocks(rows, groups, text, _room(query, block_bytes) // line_bytes):
        logits = _products(grouped[row, group, :, place], key[row, group], dtype)
        lines = bias[row, slice(None) if bias.shape[1] == 1 else group, :, place]
        if softcap is None:
            torch.add(lines, logits, alpha=scale, out=logits)
        else:
            logits.mul_(scale / softcap).tanh_().mul_(softcap).add_(lines)
        yield (row, group, place), logits.softmax(dim=-1)


def _room(query: Tensor, block_bytes: int | None) -> int:
    return block_bytes or BLOCK_BYTES.get(query.device.type, BLOCK_BYTES["cuda"])


def _blocks(rows: int, groups: int, text: int, lines: int) -> Iterator[_Block]:
    """Blocks of at most `lines` lines of text of a group: of whole rows; of groups where a row has
    more; of lines where a group has more.
    """

    def spans(count: int, inner: int) -> list[slice]:
        size = max(lines // max(inner, 1), 1)
        return [slice(first, min(first + size, count)) for first in range(0, count, size)]

    return itertools.product(spans(rows, groups * text), spans(groups, text), spans(text, 1))


def _products(
    query: Float[Tensor, "rows groups heads text width"],
    key: Float[Tensor, "rows groups keys width"],
    dtype: torch.dtype,
) -> Float[Tensor, "rows groups heads text keys"]:
    """q k^T of every group, accumulated in `dtype`."""
    rows, groups, heads, text, _ = query.shape
    flat = query.flatten(2, 3).flatten(0, 1)
    keys = key.flatten(0, 1).contiguous().transpose(1, 2)  # oneDNN would copy a slice transposed
    if query.is_cuda and query.dtype in HALVES and dtype == torch.float32:
        # products of 16-bit numbers are exact in float32: tensor cores give the same result
        products = torch.bmm(flat, keys, out_dtype=torch.float32)
    else:
        products = flat.to(dtype) @ keys.to(dtype)
    return products.unflatten(0, (rows, groups)).unflatten(2, (heads, text))
