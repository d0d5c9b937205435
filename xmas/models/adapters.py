"""LoRA in numbers: what its parameters, FLOPs and bytes follow from. No torch."""

import dataclasses
from collections.abc import Callable, Sequence

from xmas.models.shape import Decoder

LANGUAGES = ("model.language_model", "model.text_model")  # paths of language models in families
# Names of a block's linear layers, in the order of `Decoder.matrices`.
_QUERIES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
GATED = (*_QUERIES, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
PLAIN = (*_QUERIES, "self_attn.dense", "mlp.fc1", "mlp.fc2")  # Phi's


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Low-rank updates of linear layers, and what trains in full in addition to them.

    Args:
        matrices: (inputs, outputs) of every adapted layer of the language model.
        dora: magnitudes of the adapted weights train as well.
        dropout: whether inputs of updates have dropout: DoRA then multiplies with the weights
            twice, with dropout and without.
        also: numbers of modules that train in full, the connector aside.
        connector: whether it trains.
        quantised: the language model's linear layers are stored in 4 bits.
    """

    rank: int
    matrices: tuple[tuple[int, int], ...]
    dora: bool = False
    dropout: bool = True
    also: int = 0
    connector: bool = True
    quantised: bool = False

    @property
    def thin(self) -> int:
        """Numbers of the low-rank matrices."""
        return self.rank * sum(inputs + outputs for inputs, outputs in self.matrices)

    @property
    def parameters(self) -> int:
        """Numbers that train, the connector's aside."""
        magnitudes = sum(outputs for _, outputs in self.matrices) if self.dora else 0
        return self.thin + magnitudes + self.also

    def bytes_of_a_token(self, size: float) -> float:
        """Bytes that autograd keeps of a token, in all layers.

        A copy of a matrix's input after dropout with a mask of a byte, and `rank` numbers; DoRA
        keeps the outputs of weights and update, which magnitudes multiply.

        Args:
            size: bytes of a number.
        """
        numbers = sum((size + 1) * inputs + size * self.rank for inputs, _ in self.matrices)
        if self.dora:
            numbers += sum(2 * size * outputs for _, outputs in self.matrices)
        return numbers

    def flops(self, tokens: float, microbatches: float, *, again: float) -> float:
        """Of a training pass: the thin matrices are used three times.

        DoRA makes every update's matrix once in a forward pass, for the norms of
        weights; where inputs have dropout it multiplies them with the weights once more, and their
        gradients.

        Args:
            again: share of the blocks that are recomputed.
        """
        passes = (3 + again) * 2.0 * self.thin * tokens
        if not self.dora:
            return passes
        updates = sum(
            2.0 * inputs * self.rank * (inputs + outputs) for inputs, outputs in self.matrices
        )
        weights = sum(inputs * outputs for inputs, outputs in self.matrices) if self.dropout else 0
        return passes + (1 + again) * updates * microbatches + (2 + again) * 2.0 * weights * tokens


def adapters_of(decoder: Decoder, rank: "int | Adapters | None") -> Adapters | None:
    """LoRA of a rank on every linear layer; None: trained in full."""
    if rank is None or isinstance(rank, Adapters):
        return rank
    return Adapters(rank, tuple(decoder.matrices * decoder.layers) if rank else ())


def adapted_matrices(
    decoder: Decoder, adapts: Callable[[str, str], bool]
) -> tuple[tuple[int, int], ...]:
    """The matrices of the layers that LoRA adapts, known by their paths before a model is built.

    Layers are called as Llama's or Phi's are, language models as in `LANGUAGES`; where no layer of
    these names is adapted, all are taken to be.

    Args:
        adapts: whether a layer of a path is adapted, given the language model's path too.
    """
    names = GATED if decoder.gated else PLAIN
    matrices = [
        matrix
        for layer in range(decoder.layers)
        for name, matrix in zip(names, decoder.matrices, strict=True)
        if any(adapts(f"{path}.layers.{layer}.{name}", path) for path in LANGUAGES)
    ]
    return tuple(matrices or decoder.matrices * decoder.layers)


def numbers_of(decoder: Decoder, modules: Sequence[str]) -> int:
    """Numbers of modules by their last names, as far as these are a Llama's."""
    table, norms = decoder.vocabulary * decoder.width, decoder.layers * decoder.width
    known = {
        "lm_head": table,
        "embed_tokens": table,
        "norm": decoder.width,
        "input_layernorm": norms,
        "post_attention_layernorm": norms,
    }
    return sum(known.get(name, 0) for name in modules)
