"""A model's weights in canonical form: small facts at hand, blocks read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from operator import index

from tw_lens.canonical.block import Block
from tw_lens.canonical.embedding import Vocabulary
from tw_lens.canonical.states import States
from tw_lens.canonical.unembedding import Readout
from tw_lens.errors import Caveat
from tw_lens.tokens import TokenStrings


@dataclass(frozen=True, eq=False)
class Weights:
    """What `read_weights` gives: everything the geometry needs, folded, lazy per layer.

    Attributes:
        model_name: the name the model carries.
        architecture: the architecture's name.
        n_layers, n_heads, n_kv_heads, d_model, d_head, d_vocab: the sizes; heads are those of
            the first layer with attention (`block(layer).n_heads` where layers differ).
        attention_layers: the layers that attend (all of them but in hybrids).
        vocabulary: the word embeddings.
        readout: the final norm and unembedding.
        tokens: ids to printable strings and back.
        processed: what TransformerLens took out: "folded" (the norms' gains and biases), "centred"
            (means), "without value biases" (moved into b_O).
        caveats: what is true only under a condition.
    """

    model_name: str
    architecture: str
    n_layers: int
    attention_layers: tuple[int, ...]
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    vocabulary: Vocabulary
    readout: Readout
    tokens: TokenStrings
    processed: tuple[str, ...]
    caveats: tuple[Caveat, ...]
    read_block: Callable[[int], Block] = field(repr=False)
    read_fingerprint: Callable[[], str] = field(default=lambda: "", repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the model's parameters; empty for weights that no model was read into."""
        return self.read_fingerprint()

    @property
    def d_vocab(self) -> int:
        """Number of rows of the embedding."""
        return len(self.vocabulary)

    def block(self, layer: int) -> Block:
        """The attention of one layer, float32 on the CPU.

        Raises:
            IndexError: the layer does not exist.
            ValueError: the layer's weights hold NaN or infinity.
        """
        self.require_layer(layer)
        return self.read_block(layer)

    def require_layer(self, layer: int) -> None:
        """Refuse a layer that does not exist.

        Raises:
            IndexError: with the layers there are.
            TypeError: it is no number.
        """
        try:
            index(layer)
        except TypeError:
            raise TypeError(
                f"layer={layer!r} is no number: name one block, 0 to {self.n_layers - 1}."
            ) from None
        if not 0 <= layer < self.n_layers:
            raise IndexError(
                f"layer {layer} does not exist: {self.model_name} has layers 0 to "
                f"{self.n_layers - 1}."
            )

    def chosen_layers(self, layers: Iterable[int]) -> tuple[int, ...]:
        """The layers named by `layers=`, each once.

        Raises:
            IndexError: one of them does not exist.
            TypeError: a number, or something else that is no list of numbers.
            ValueError: none is named.
        """
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers={layers!r} is no list: give layers=[{layers!r}].")
        chosen = tuple(dict.fromkeys(layers))
        if not chosen:
            raise ValueError("layers is empty: name at least one block, or leave it out.")
        for layer in chosen:
            self.require_layer(layer)
        return chosen

    def require_states(self, states: States) -> None:
        """Refuse states that cannot come from the weights' model.

        Raises:
            ValueError: different numbers of layers or widths.
        """
        given = (states.n_layers, states.stream.shape[-1])
        if given != (self.n_layers, self.d_model):
            raise ValueError(
                f"the states ({given[0]} layers, width {given[1]}) are not of the weights' model "
                f"({self.n_layers} layers, width {self.d_model}): read both from one model."
            )

    def require_unprocessed(self, what: str) -> None:
        """Refuse `what` where folding has destroyed the norms' own gain and bias.

        Raises:
            ValueError: the weights are folded or centred.
        """
        if self.processed:
            raise ValueError(
                f"{what} needs the raw weights, and those of {self.model_name} are "
                f"{' and '.join(self.processed)}: numbers it was trained with are gone. Load the "
                "model without processing (fold_ln=False, no compatibility mode), or use "
                'convention="exact".'
            )

    def __repr__(self) -> str:
        state = " and ".join(self.processed) or "raw"
        lines = [
            f"Weights({self.model_name}, {self.architecture}, {state}: {self.n_layers} layers, "
            f"{self.n_heads} heads ({self.n_kv_heads} key/value), d_model {self.d_model}, d_head "
            f"{self.d_head}, {self.d_vocab} tokens, {self.readout.norm.kind})"
        ]
        return "\n  caveat, ".join(lines + [str(caveat) for caveat in self.caveats])
