"""The settings of GPT-2 and ALGPT2, and their parameter and FLOP counts. Imports neither TensorFlow nor Keras.

Shapes: V vocabulary, E embedding width, D width, T context.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REMAT_CHOICES = ("none", "attention", "full")
VOCABULARY_MULTIPLE = 128  # the lanes of a TPU register: a table of whole registers needs no masking in the matrix unit
MLP_FACTOR = 4


# Larger values fit no memory, so they are mistakes; arithmetic on them would take minutes to fail.
MAX_SIZES = {"layers": 10_000, "heads": 1 << 20, "width": 1 << 20, "context": 1 << 20, "embedding": 1 << 20}
MAX_VOCABULARY_SIZE = 1 << 30


def _require_count(name: str, value: object, maximum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r}: expected a whole number of at least 1")
    if value > maximum:
        raise ValueError(f"{name}={value}: expected at most {maximum:,}")


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """GPT-2 (Radford et al. 2019): pre-layer-norm transformer decoder, learned positions, tied output table.

    Args:
        layers: transformer blocks.
        heads: attention heads of a block; they divide ``width``.
        width: D, features of the residual stream.
        context: T, the longest sequence in tokens (rows of the position table).
        vocabulary_size: V, tokens that exist; ``None`` takes it from the data set's manifest.
        dropout: dropout probability at the embedding, the attention weights and both residual branches. The default, 0,
            is better for a corpus that is read about once.
        remat: what the backward pass recomputes instead of keeping: ``"none"``, ``"attention"`` (the attention half
            of each block) or ``"full"`` (whole blocks; only each block's input is kept).

    Raises:
        ValueError: a setting is out of range; the message names it, its value and what was expected.

    Example:
        >>> small = GPT2Config(vocabulary_size=50_257)
        >>> f"{small.parameters():,} parameters, {small.flops_per_token():.2e} FLOPs per token"
        '124,439,808 parameters, 8.54e+08 FLOPs per token'
    """

    layers: int = 12
    heads: int = 12
    width: int = 768
    context: int = 1024
    vocabulary_size: int | None = None
    dropout: float = 0.0
    remat: str = "none"

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "width", "context"):
            _require_count(name, getattr(self, name), MAX_SIZES[name])
        if self.vocabulary_size is not None:
            _require_count("vocabulary_size", self.vocabulary_size, MAX_VOCABULARY_SIZE)
        if self.width % self.heads:
            near = min((h for h in range(1, self.width + 1) if self.width % h == 0), key=lambda h: abs(h - self.heads))
            raise ValueError(
                f"heads={self.heads} do not divide width={self.width}; the nearest number of heads that does is {near}"
            )
        if not isinstance(self.dropout, (int, float)) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout!r}: expected a probability of at least 0 and below 1")
        if self.remat not in REMAT_CHOICES:
            close = difflib.get_close_matches(str(self.remat), REMAT_CHOICES, n=1, cutoff=0.0)
            raise ValueError(
                f"remat={self.remat!r}: expected one of {', '.join(REMAT_CHOICES)} (did you mean {close[0]!r}?)"
            )

    @property
    def head_width(self) -> int:
        """Features of one attention head."""
        return self.width // self.heads

    @property
    def table_width(self) -> int:
        """Columns of the token table: the width of the features that multiply it at the output."""
        return self.width

    @property
    def known_vocabulary(self) -> int:
        """The vocabulary size; ValueError if it has not been read from a manifest yet."""
        if self.vocabulary_size is None:
            raise ValueError("vocabulary_size=None: give the model its vocabulary size, or a manifest that states it")
        return self.vocabulary_size

    @property
    def padded_vocabulary(self) -> int:
        """Rows of the token table: ``vocabulary_size`` rounded up to a multiple of 128."""
        return -(-self.known_vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    @property
    def distinct_blocks(self) -> int:
        """Blocks with separate weights."""
        return self.layers

    def _block_kernels(self) -> int:
        return (4 + 2 * MLP_FACTOR) * self.width**2

    def _block_parameters(self) -> int:
        # Four biases (3D, D, 4D, D) and two layer norms (scale and bias each).
        return self._block_kernels() + (5 + MLP_FACTOR + 4) * self.width

    def _embedding_kernels(self) -> int:
        """Weights of the linear layers between the tables and the blocks."""
        return 0

    def _embedding_biases(self) -> int:
        return 0

    def parameters(self) -> int:
        """Trained values, without the rows that pad the vocabulary."""
        tables = (self.known_vocabulary + self.context) * self.table_width
        blocks = self.distinct_blocks * self._block_parameters()
        return tables + blocks + self._embedding_kernels() + self._embedding_biases() + 2 * self.width

    def flops_per_token(self, context: int | None = None) -> float:
        """Model FLOPs per token of one forward and backward pass.

        6 for every weight that a token is multiplied by (a shared block counts as often as it is applied; the token
        table once, as the output layer; padding rows not at all), plus 12·layers·D·T for attention. Attention counts
        the whole T×T square, including the masked half, as PaLM's appendix B does, so that MFU is comparable.

        Args:
            context: T, tokens of a sequence; ``None`` means the model's own context.
        """
        context = self.context if context is None else context
        table = self.known_vocabulary * self.table_width
        weights = self.layers * self._block_kernels() + self._embedding_kernels() + table
        return 6.0 * weights + 12.0 * self.layers * self.width * context


@dataclass(frozen=True, kw_only=True)
class ALGPT2Config(GPT2Config):
    """ALGPT2: GPT-2 with one block applied ``layers`` times and, as in ALBERT (Lan et al. 2020), narrow tables.

    Args:
        embedding: E, columns of the token and position tables; a linear layer at each end joins them to the blocks.
            ``None`` keeps the tables at full width, without linear layers.

    Example:
        >>> ALGPT2Config(embedding=128, vocabulary_size=50_257).parameters()
        13850880
    """

    embedding: int | None = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding is not None:
            _require_count("embedding", self.embedding, MAX_SIZES["embedding"])

    @property
    def table_width(self) -> int:
        """E, or D without factorization."""
        return self.width if self.embedding is None else self.embedding

    @property
    def distinct_blocks(self) -> int:
        """One, which all layers share."""
        return 1

    def _embedding_kernels(self) -> int:
        return 0 if self.embedding is None else 2 * self.embedding * self.width

    def _embedding_biases(self) -> int:
        return 0 if self.embedding is None else self.embedding + self.width


MODELS: dict[str, type[GPT2Config]] = {"gpt2": GPT2Config, "algpt2": ALGPT2Config}  # the kinds of models


def from_description(description: Mapping[str, Any]) -> GPT2Config:
    """Returns the settings that a run's ``run.json`` describes: their values, and their class as ``kind``.

    Raises:
        KeyError, TypeError, ValueError: it describes none.
    """
    values = dict(description)
    kinds = {kind.__name__: kind for kind in MODELS.values()}
    return kinds[values.pop("kind")](**values)
