"""A model's weights in canonical form; blocks are read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from operator import getitem
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.canonical.attention_heads import Block
from tw_lens.canonical.embedding import Vocabulary
from tw_lens.canonical.mlp import MLP
from tw_lens.canonical.states import States
from tw_lens.canonical.unembedding import Readout
from tw_lens.devices import CPU, moved
from tw_lens.errors import Caveat, UnsupportedModelError
from tw_lens.tokens import TokenStrings

# A long sum in a coarse format is off by a few of its steps.
ROUNDINGS = 8
# Outputs of fewer tokens than this share of the embedded ones are no tokens of the model.
LOWEST_SHARE_OF_OUTPUTS = 0.9


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a model as `read_weights` returns them: folded, lazy per layer.

    Attributes:
        model_name: the model's name.
        architecture: the architecture's name.
        n_layers, n_heads, n_kv_heads, d_model, d_head, d_vocab: the sizes; heads are those of
            the first layer with attention (`block(layer).n_heads` where layers differ).
        attention_layers: the layers with attention (all of them except in hybrids).
        layers_without_mlp: the layers that have no MLP (none except in hybrids).
        vocabulary: the token embeddings.
        readout: the final norm and unembedding.
        tokens: ids to printable strings and back.
        processed: TransformerLens' processing: "folded" (the norms' gains and biases are gone),
            "centred" (means are gone), "without value biases" (moved into b_O).
        caveats: the conditions under which readings of this model hold.
        rounding: the largest relative step of the model's number formats (2^-7 in bfloat16).
        device: where calls compute with these weights; results return to the CPU.
        stack: of an encoder-decoder: "encoder", "decoder" or "cross" (see `stack`); else empty.
        source_vocabulary: the encoder's embeddings, in weights of the decoder or of its
            cross-attention; None elsewhere.

    Blocks are read from the model on demand; after a change of the model its weights must be read
    again. A copy (`copy.deepcopy`, `pickle`, joblib) holds all of them, float32 on the CPU, and
    needs no model: 4 bytes for every weight of the attention. It holds no MLP.
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
    sampled_fingerprint: str = field(default="", repr=False)
    device: torch.device = CPU
    rounding: float = float(torch.finfo(torch.float32).eps)
    read_positions: Callable[[], Tensor | None] = field(default=lambda: None, repr=False)
    read_mlp: Callable[[int], MLP] | None = field(default=None, repr=False)
    stack: str = ""
    source_vocabulary: Vocabulary | None = None
    read_cross: Callable[[int], Block] | None = field(default=None, repr=False)
    layers_without_mlp: tuple[int, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the model's parameters; empty for weights that no model was read into."""
        return self.read_fingerprint()

    @cached_property
    def positions(self) -> Float[Tensor, "n_ctx d_model"] | None:
        """What the model adds to the stream for every learned position; None without any.

        Raises:
            UnsupportedModelError: the model adds positions from a table that is not found.
        """
        return self.read_positions()

    def __getstate__(self) -> dict[str, Any]:
        blocks = {layer: moved(self.read_block(layer), CPU) for layer in self.attention_layers}
        held = {entry.name: moved(getattr(self, entry.name), CPU) for entry in fields(self)}
        held["device"] = CPU
        held["read_block"] = partial(getitem, blocks)
        if self.read_cross is not None:
            cross = {layer: moved(self.cross_block(layer), CPU) for layer in self.attention_layers}
            held["read_cross"] = partial(getitem, cross)
        held["read_mlp"] = None
        held["read_fingerprint"] = partial(str, self.fingerprint)
        held["read_positions"] = partial(getitem, (moved(self.positions, CPU),), 0)
        return held

    @property
    def d_vocab(self) -> int:
        """Number of rows of the embedding."""
        return len(self.vocabulary)

    @property
    def token_readout(self) -> Readout:
        """The readout, for analyses that read its outputs as tokens.

        Up to a tenth of the tokens may have no output: special tokens that are never predicted
        (Llama 3.2 Vision). The weights carry a caveat then.

        Raises:
            UnsupportedModelError: the outputs are not the tokens that the model embeds.
        """
        n_outputs = self.readout.W_U.shape[1]
        if not LOWEST_SHARE_OF_OUTPUTS * self.d_vocab <= n_outputs <= self.d_vocab:
            raise UnsupportedModelError(
                self.architecture,
                f"it embeds {self.d_vocab} tokens and has {n_outputs} outputs, so that its outputs "
                "are not its tokens",
                "Analyses of QK and of attention do not need them.",
            )
        return self.readout

    @checked
    def block(self, layer: int) -> Block:
        """The attention of one layer, float32 on `device`.

        Raises:
            IndexError: the layer does not exist.
            UnsupportedModelError: the layer has no attention, or these are the weights of
                cross-attention, which reads two streams (see `attention_block`).
            ValueError: the layer's weights contain NaN or infinity.
        """
        if self.stack == "cross":
            raise UnsupportedModelError(
                self.architecture,
                "cross-attention reads two streams, and this call reads one",
                "head_spectrum, head_probe, head_atlas and attention_pattern read it, and "
                "check(model, source, target) certifies it; the decoder has every other call.",
            )
        return self.attention_block(layer)

    @checked
    def cross_block(self, layer: int) -> Block:
        """The cross-attention of one layer of a decoder, float32 on `device`.

        Raises:
            IndexError: the layer does not exist.
            UnsupportedModelError: the model has no cross-attention.
        """
        self.require_layer(layer)
        if self.stack == "cross":
            return self.read_block(layer)
        if self.read_cross is None:
            raise UnsupportedModelError(
                self.architecture,
                "it has no cross-attention" if not self.stack else "its encoder has none",
                'Read the decoder of an encoder-decoder: read_weights(stack(model, "decoder")).',
            )
        return self.read_cross(layer)

    @checked
    def attention_block(self, layer: int) -> Block:
        """The attention of one layer, cross-attention in weights of it (see `block`).

        Raises:
            IndexError: the layer does not exist.
            UnsupportedModelError: the layer has no attention.
        """
        self.require_layer(layer)
        if layer not in self.attention_layers:
            raise UnsupportedModelError(
                self.architecture,
                f"layer {layer} has no attention",
                f"The layers with attention are {', '.join(map(str, self.attention_layers))}.",
            )
        return self.read_block(layer)

    @checked
    def mlp(self, layer: int) -> MLP:
        """The MLP of one layer, float32 on `device`.

        Raises:
            IndexError: the layer does not exist.
            UnsupportedModelError: the layer has no MLP, or one of another form.
            ValueError: the layer's weights contain NaN or infinity, or the weights hold no MLP: a
                copy, or weights made by hand.
        """
        self.require_layer(layer)
        if layer in self.layers_without_mlp:
            others = [n for n in range(self.n_layers) if n not in self.layers_without_mlp]
            raise UnsupportedModelError(
                self.architecture,
                f"layer {layer} has no MLP",
                f"The layers with an MLP are {', '.join(map(str, others))}."
                if others
                else "No layer has one.",
            )
        if self.read_mlp is None:
            raise ValueError(
                f"these weights of {self.model_name} hold no MLP (a copy does not); read them from "
                "the model: read_weights(model)."
            )
        return self.read_mlp(layer)

    @checked
    def require_layer(self, layer: int) -> None:
        """Reject a layer that does not exist.

        Raises:
            IndexError: the layer does not exist.
            TypeError: the layer is not an int.
        """
        if not 0 <= layer < self.n_layers:
            raise IndexError(
                f"layer {layer} does not exist: {self.model_name} has layers 0 to "
                f"{self.n_layers - 1}."
            )

    @checked
    def require_layers(self, layers: Sequence[int]) -> tuple[int, ...]:
        """Return the layers, each once; reject what is no list of existing layers.

        Raises:
            IndexError: a layer does not exist.
            TypeError: layers is not a list of ints.
            ValueError: the list is empty.
        """
        unique = tuple(dict.fromkeys(layers))
        if not unique:
            raise ValueError("layers is empty; give at least one layer, or leave it out.")
        for layer in unique:
            self.require_layer(layer)
        return unique

    @checked
    def require_states(self, states: States) -> None:
        """Reject states that cannot come from the weights' model.

        Raises:
            ValueError: the numbers of layers, the widths or the models' parameters differ.
        """
        n_layers, d_model = states.n_layers, states.stream.shape[-1]
        if (n_layers, d_model) != (self.n_layers, self.d_model):
            raise ValueError(
                f"the states ({n_layers} layers, width {d_model}) are not of the weights' model "
                f"({self.n_layers} layers, width {self.d_model}); read both from one model."
            )
        known = self.sampled_fingerprint and states.sampled_fingerprint
        if known and self.sampled_fingerprint != states.sampled_fingerprint:
            raise ValueError(
                f"the states of {states.model_name} and the weights of {self.model_name} have the "
                "same sizes and are of different parameters (another model, another checkpoint, "
                "or processed after one was read); read both from one model."
            )

    @checked
    def require_unprocessed(self, what: str) -> None:
        """Reject an analysis or option where processing has destroyed what it needs.

        Args:
            what: the analysis or option, for the message.

        Raises:
            ValueError: the weights are processed.
        """
        if self.processed:
            raise ValueError(
                f"{what} needs the raw weights, and those of {self.model_name} are "
                f"{' and '.join(self.processed)}, which destroys trained parameters; load the "
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
